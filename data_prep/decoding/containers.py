"""Media files opened with care: their streams, where they begin, what they declare."""

import contextlib
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av

from data_prep.reasons import (
    CANNOT_OPEN,
    DECODE_ERROR,
    IO_ERROR,
    OUT_OF_MEMORY,
    TOO_LARGE,
    MediaError,
    is_transient,
)
from xdc_tf.runtime import files

# Containers round timestamps, Matroska to whole milliseconds.
TIMESTAMP_SLACK_SECS = 1e-3
# A file that ends so much before the time it declares was truncated: in seconds, and as
# a fraction for short ones.
MISSING_END_SECS = 1.0
_MISSING_END_FRACTION = 0.2

_READ_BYTES = 1 << 18
# A playlist, or a film with parts elsewhere, opens no other file and no address.
_CONTAINER_OPTIONS = {"protocol_whitelist": "none"}
# Checksums, where a format has them, are looked at.
_CHECK_SUMS = {"err_detect": "crccheck+explode"}
# FFmpeg would leave out frames whose references are missing; so they come as damaged.
_WITH_DAMAGED_FRAMES = {"flags": "+output_corrupt"}

# Streams without a container, whose length FFmpeg guesses by their bit rate.
_BARE_FORMATS = frozenset(
    "aac ac3 amr dts eac3 h264 hevc loas m4v mjpeg mp3 mpegvideo obu".split()
)
# Their packets have no borders of their own: recordings may begin inside one.
_UNFRAMED_FORMATS = _BARE_FORMATS | {"mpeg", "mpegts"}
# They declare when their last packet ends, not how long they are.
_FORMATS_DECLARING_THE_END = frozenset({"matroska", "mov"})
# A table or a count of samples says when each packet comes: clocks cannot go back.
_TABLE_FORMATS = frozenset({"mov", "avi"})
_COUNTING_FORMATS = frozenset({"flac", "wav", "aiff"})
_FLV_HEADER = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0")
_MATROSKA_HEAD_BYTES = 4096
# Of a file with several video streams, as many packets distinguish films from covers.
_MOST_PEEKED_PACKETS = 400
# Tables come several times a second.
_TABLE_BYTES = 1 << 21
_SYNC = 0x47
# As stored; with a time before each packet, as cameras write; with a checksum after.
_PACKET_SIZES = (188, 192, 204)
_NUM_SYNCS = 5
_PROGRAMS_TABLE, _STREAMS_TABLE = 0, 2


class _File:
    """A file for FFmpeg, which never sees its name: names are not options or URLs.

    It goes by the content, but for formats that only a suffix identifies.
    """

    def __init__(self, path: str):
        self._file = files.open_regular(path).detach()  # FFmpeg has its own buffer
        suffix = os.path.splitext(path)[1]
        self.name = "media" + (suffix if suffix.isascii() else "")
        self.read, self.seek = self._file.read, self._file.seek
        self.tell, self.close = self._file.tell, self._file.close


def check_file(path: str, *, limit_bytes: int) -> None:
    """Checks that a local path is a file worth opening.

    Raises:
      MediaError: cannot_open, io_error or too_large.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise media_error(error, reason=CANNOT_OPEN) from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(CANNOT_OPEN, "not a file but a directory or device")
    if status.st_size > limit_bytes:
        raise MediaError(
            TOO_LARGE,
            f"{status.st_size / 2**20:.0f} MiB, the limit is {limit_bytes / 2**20:g}",
        )


@contextlib.contextmanager
def open_media(path: str) -> Iterator[av.container.InputContainer]:
    """Opens a local file; nothing else is opened, whatever it says.

    Raises:
      MediaError: cannot_open or io_error.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(contextlib.closing(_File(path)))
            container = av.open(
                file,
                # Tags in odd encodings are no reason to refuse a file.
                metadata_errors="ignore",
                container_options=_CONTAINER_OPTIONS,
                buffer_size=_READ_BYTES,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise media_error(error, reason=CANNOT_OPEN) from error
        stack.enter_context(contextlib.closing(container))
        if not container.streams:
            raise MediaError(CANNOT_OPEN, "the file has no stream that can be read")
        yield container


def check_single(container, path: str) -> None:
    """Refuses a file with another one behind it that FFmpeg would not read.

    Args:
      container: of open_media.
      path: of the same file.

    Raises:
      MediaError: decode_error.
    """
    if container.format.name != "flv":
        return
    with files.open_regular(path) as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            second = _FLV_HEADER.search(content, 1)
    if second is not None:
        raise MediaError(
            DECODE_ERROR,
            f"another FLV file begins at byte {second.start()}, and what is behind it "
            "cannot be read; join the files anew",
        )


class Streams(NamedTuple):
    """The streams of a file that belong together; None where there is none."""

    video: av.VideoStream | None
    audio: av.AudioStream | None

    @property
    def chosen(self) -> list:
        """Those that there are."""
        return [stream for stream in self if stream is not None]


def choose_streams(container, path: str) -> Streams:
    """The streams that players choose.

    Video: the first default stream, or else the first, that is a film and no cover.
    Audio: the same, of the streams of the video's program.

    Args:
      container: of open_media, which is not read from.
      path: of the same file.
    """
    cover = av.stream.Disposition.attached_pic
    videos = [
        stream
        for stream in _decodable(container.streams.video)
        if not stream.disposition & cover
    ]
    if len(videos) > 1:
        films = _films(path)
        videos = [stream for stream in videos if stream.index in films] or videos
    video = _first_default(videos)
    audios = _decodable(container.streams.audio)
    if video is not None and audios and container.format.name == "mpegts":
        for program in read_programs(path):
            if video.id in program:
                audios = [stream for stream in audios if stream.id in program]
                break
    return Streams(video, _first_default(audios))


def _films(path: str) -> set[int]:
    """Indices of the video streams that have more than one picture."""
    numbers: dict[int, int] = {}
    with open_media(path) as container:
        try:
            for number, packet in enumerate(
                container.demux(video=list(range(len(container.streams.video))))
            ):
                index = packet.stream_index
                numbers[index] = numbers.get(index, 0) + bool(packet.size)
                if number > _MOST_PEEKED_PACKETS:
                    break
        except (av.FFmpegError, OSError):
            pass  # what can be read has to do
    return {index for index, number in numbers.items() if number > 1}


def _first_default(streams: Sequence):
    default = av.stream.Disposition.default
    marked = [stream for stream in streams if stream.disposition & default]
    return next(iter((*marked, *streams)), None)


def _decodable(streams) -> list:
    return [stream for stream in streams if stream.codec_context is not None]


def read_alone(stream) -> None:
    """Prepares a stream for decoding, without the others of its container."""
    codec = stream.codec_context
    codec.thread_count = 1  # processes are the parallelism
    if stream.type == "audio":
        codec.options = _CHECK_SUMS
    elif codec.name == "hevc":
        codec.options = {**codec.options, **_WITH_DAMAGED_FRAMES}
    for other in stream.container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all


def origin_secs(container, streams: Streams) -> float:
    """Time stamp where the presentation of streams begins, in seconds."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in streams.chosen
        if stream.start_time is not None
    ]
    return min(starts, default=(container.start_time or 0) / av.time_base)


def declared_secs(container, origin_secs: float) -> float:
    """Length as the file declares it; 0 if it says nothing."""
    kinds = set(container.format.name.split(","))
    if is_bare(container):
        return 0.0
    secs = max(0.0, (container.duration or 0) / av.time_base)
    if kinds & _FORMATS_DECLARING_THE_END and 0 < origin_secs < secs:
        secs -= origin_secs
    return secs


def due_secs(declared_secs: float) -> float:
    """A file that ends before this was truncated."""
    slack_secs = min(MISSING_END_SECS, _MISSING_END_FRACTION * declared_secs)
    return declared_secs - slack_secs


def frames_end_secs(stream: av.VideoStream, path: str, origin_secs: float) -> float:
    """When the last frame goes, as the file declares it; 0 if that is not to be known.

    What ends before may have been truncated, unless the file is whole. MP4 says it with
    the last packet.
    """
    kinds = set(stream.container.format.name.split(","))
    if "matroska" not in kinds or not _is_whole_matroska(path):
        return 0.0
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        secs = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (KeyError, ValueError):
        others = [other for other in stream.container.streams if other is not stream]
        secs = 0.0 if others else (stream.container.duration or 0) / av.time_base
    return secs - max(0.0, origin_secs)


def _is_whole_matroska(path: str) -> bool:
    """Whether a file is as long as its outermost element says."""
    with files.open_regular(path) as file:
        head = file.read(_MATROSKA_HEAD_BYTES)
        num_bytes = file.seek(0, os.SEEK_END)
    at = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML, Segment
        if head[at : at + 4] != name or len(head) < at + 12:
            return False
        at += 4
        width = 9 - head[at].bit_length()  # leading zeros give the number of bytes
        if width > 8:
            return False
        size = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
        is_known = size != (1 << 7 * width) - 1
        at += width
        end = at + size
        if name == b"\x1a\x45\xdf\xa3":
            at = end
    return is_known and end <= num_bytes


def is_bare(container) -> bool:
    """Whether the file is a stream without a container."""
    return bool(set(container.format.name.split(",")) & _BARE_FORMATS)


def is_unframed(container) -> bool:
    """Whether a recording of this format may begin inside a packet."""
    return bool(set(container.format.name.split(",")) & _UNFRAMED_FORMATS)


def has_steady_clock(container, streams: Streams) -> bool:
    """Whether the format itself sees to it that no clock goes back."""
    kinds = set(container.format.name.split(","))
    if kinds & _COUNTING_FORMATS:
        return True
    # Fragments have no table, and each has a clock of its own.
    has_tables = all(stream.frames for stream in streams.chosen)
    return bool(kinds & _TABLE_FORMATS) and has_tables


def media_error(
    error: Exception, what: str = "", *, reason: str = DECODE_ERROR
) -> MediaError:
    """An error of FFmpeg, or of the system while a file is read.

    Args:
      error: what was raised.
      what: where it happened, for the detail.
      reason: if the file is at fault.
    """
    if isinstance(error, MemoryError):
        reason = OUT_OF_MEMORY
    # FFmpeg has numbers of the system's errors for damaged files too.
    elif is_transient(error) and not isinstance(error, av.FFmpegError):
        reason = IO_ERROR
    return MediaError(reason, f"{what}: {message(error)}" if what else message(error))


def message(error: Exception) -> str:
    """An error in words, without its number and the path that is known anyway."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_programs(path: str) -> list[frozenset[int]]:
    """The stream numbers (PIDs) of each program; empty if there are no tables."""
    with files.open_regular(path) as file:
        content = file.read(_TABLE_BYTES)
    pending: dict[int, bytes] = {}
    table_pids = {0}
    streams: dict[int, set[int]] = {}
    for packet in _packets(content):
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid not in table_pids:
            continue
        payload = packet[4:]
        if packet[3] & 0x20:  # padding or clocks first
            payload = payload[1 + payload[0] :]
        if packet[1] & 0x40 and payload:  # a table begins
            pending[pid] = payload[1 + payload[0] :]
        elif pid in pending:
            pending[pid] += payload
        table = pending.get(pid, b"")
        size = 3 + ((table[1] & 0x0F) << 8 | table[2]) if len(table) > 2 else 0
        if not 12 <= size <= len(table):
            continue
        if table[0] == _PROGRAMS_TABLE and pid == 0:
            for at in range(8, size - 7, 4):
                if table[at : at + 2] != b"\0\0":
                    table_pids.add(_pid(table, at + 2))
        elif table[0] == _STREAMS_TABLE:
            number = table[3] << 8 | table[4]
            at = 12 + ((table[10] & 0x0F) << 8 | table[11])
            while at + 5 <= size - 4:
                streams.setdefault(number, set()).add(_pid(table, at + 1))
                at += 5 + ((table[at + 3] & 0x0F) << 8 | table[at + 4])
    return [frozenset(pids) for pids in streams.values()]


def _pid(table: bytes, at: int) -> int:
    return (table[at] & 0x1F) << 8 | table[at + 1]


def _packets(content: bytes) -> Iterator[bytes]:
    """Packets of 188 bytes each, from the first place on where several follow."""
    for size in _PACKET_SIZES:
        for first in range(min(size, len(content))):
            syncs = content[first : first + _NUM_SYNCS * size : size]
            if len(syncs) and set(syncs) == {_SYNC}:
                for at in range(first, len(content) - 187, size):
                    if content[at] == _SYNC:
                        yield content[at : at + 188]
                return
