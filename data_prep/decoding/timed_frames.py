"""Media files opened with care, and their decoded frames with times.

Time 0 is where the file's presentation begins; frames have their times by their
timestamps, never by counting.
"""

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import av

from data_prep.decoding.deinterlacing import progressive
from data_prep.reasons import (
    CANNOT_OPEN,
    DECODE_ERROR,
    IO_ERROR,
    OUT_OF_MEMORY,
    TOO_LARGE,
    MediaError,
    is_transient,
)
from xdc_tf import files

# Containers round timestamps, Matroska to whole milliseconds.
TIMESTAMP_SLACK_SECS = 1e-3
# Frames up to a segment this much later are decoded: a jump would land before it.
SKIP_SECS = 5.0
# A file that ends so much before the time it declares was truncated: in seconds, and as
# a fraction for short ones.
MISSING_END_SECS = 1.0
_MISSING_END_FRACTION = 0.2

# Decoding begins this much before the segment, so that decoders have settled.
_SEEK_MARGIN_SECS = 1.0
_READ_BYTES = 1 << 18
# A playlist, or a film with parts elsewhere, opens no other file and no address.
_CONTAINER_OPTIONS = {"protocol_whitelist": "none"}
# Checksums, where a format has them, are looked at.
_CHECK_SUMS = {"err_detect": "crccheck+explode"}

# Streams without a container, whose length FFmpeg guesses by their bit rate.
_BARE_FORMATS = frozenset(
    "aac ac3 amr dts eac3 h264 hevc loas m4v mjpeg mp3 mpegvideo obu".split()
)


class _File:
    """A file for FFmpeg, which never sees its name: names are not options or URLs.

    It goes by the content, but for formats that only a suffix tells.
    """

    def __init__(self, path: str):
        self._file = files.open_regular(path).detach()  # FFmpeg has its own buffer
        suffix = os.path.splitext(path)[1]
        self.name = "media" + (suffix if suffix.isascii() else "")
        self.read, self.seek = self._file.read, self._file.seek
        self.tell, self.close = self._file.tell, self._file.close


def check_file(path: str, *, limit_bytes: int) -> None:
    """Looks whether a local path is a file worth opening.

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


def video_stream(container) -> av.VideoStream | None:
    """The first one with a decoder that is no cover picture of a music file."""
    for stream in _decodable(container.streams.video):
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return _alone(stream)
    return None


def audio_stream(container) -> av.AudioStream | None:
    """The audio stream that players choose: the first default one, or the first."""
    streams = _decodable(container.streams.audio)
    default = av.stream.Disposition.default
    marked = [stream for stream in streams if stream.disposition & default]
    return next((_alone(stream) for stream in (*marked, *streams)), None)


def _decodable(streams) -> list:
    return [stream for stream in streams if stream.codec_context is not None]


def _alone(stream):
    stream.codec_context.thread_count = 1  # processes are the parallelism
    if stream.type == "audio":
        stream.codec_context.options = _CHECK_SUMS
    for other in stream.container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    return stream


def declared_secs(container) -> float:
    """Length by the file's own word; 0 if it says nothing."""
    if container.format.name in _BARE_FORMATS:
        return 0.0
    return max(0.0, (container.duration or 0) / av.time_base)


def due_secs(declared_secs: float) -> float:
    """A file that ends before this was truncated."""
    slack_secs = min(MISSING_END_SECS, _MISSING_END_FRACTION * declared_secs)
    return declared_secs - slack_secs


class _LastPacket(NamedTuple):
    """Where the packets that can be read end, and what ended them if not the file."""

    end_secs: float
    error: MediaError | None


def last_packet_secs(path: str) -> float:
    """Time where a file's last packet ends, whatever stream it belongs to.

    Raises:
      MediaError: cannot_open, io_error or decode_error.
    """
    last = _last_packet(path)
    if last.error:
        raise MediaError(last.error.reason, last.error.detail)
    return last.end_secs


def end_before(path: str, secs: float) -> float | None:
    """Time where a file's last packet ends, if that is before a time.

    Reads near that time, and the whole file only if there is nothing.

    Args:
      path: a local file.
      secs: time in the file.

    Returns:
      The end; None if there is a packet that ends later.

    Raises:
      MediaError: cannot_open or io_error.
    """
    if _has_packet_after(path, secs):
        return None
    end_secs = _last_packet(path).end_secs
    return end_secs if end_secs < secs else None


def _has_packet_after(path: str, secs: float) -> bool:
    with open_media(path) as container:
        try:
            # Backwards to a key frame.
            container.seek((container.start_time or 0) + int(secs * av.time_base))
            return any(end_secs > secs for end_secs in _packet_ends(container))
        except (av.FFmpegError, OSError):
            return False  # no index, or damage: the whole file says


def _last_packet(path: str) -> _LastPacket:
    status = os.stat(path)
    return _read_last_packet(
        path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    )


@functools.lru_cache(maxsize=4)
def _read_last_packet(path: str, version: tuple[int, ...]) -> _LastPacket:
    del version  # of the file: an error of the system is not kept
    last_secs = 0.0
    with open_media(path) as container:
        try:
            for end_secs in _packet_ends(container):
                last_secs = max(last_secs, end_secs)
        except (av.FFmpegError, OSError) as error:
            refusal = media_error(error, "packets")
            if refusal.reason == IO_ERROR:
                raise refusal from error
            return _LastPacket(last_secs, refusal)
    return _LastPacket(last_secs, None)


def _packet_ends(container) -> Iterator[float]:
    origin_secs = (container.start_time or 0) / av.time_base
    for packet in container.demux():
        timestamp = packet.pts if packet.pts is not None else packet.dts
        if timestamp is not None:
            end = (timestamp + (packet.duration or 0)) * packet.time_base
            yield float(end) - origin_secs


def timed_frames(
    container, stream, start_secs: float, *, rewind: bool
) -> Iterator[tuple[float, float, av.frame.Frame]]:
    """Yields (secs, duration_secs, frame) as presented, from before start_secs on.

    Args:
      container: of open_media.
      stream: of the container.
      start_secs: time in the file.
      rewind: whether the container may have been read from.
    """
    origin_secs = (container.start_time or 0) / av.time_base
    beginning = min(0, container.start_time or 0)
    if start_secs > _SEEK_MARGIN_SECS:
        secs = origin_secs + start_secs - _SEEK_MARGIN_SECS
        target = int(secs / stream.time_base)
        container.seek(target, stream=stream)
        first = next(container.decode(stream), None)
        if first is None or _frame_secs(first, 0.0) - origin_secs > start_secs:
            # No key frame between there and the segment (formats without an index,
            # such as MPEG-TS): read from the beginning.
            container.seek(beginning)
        else:
            container.seek(target, stream=stream)
    elif rewind:
        container.seek(beginning)
    expected_secs = origin_secs
    frames = container.decode(stream)
    for frame in progressive(frames) if stream.type == "video" else frames:
        secs = _frame_secs(frame, expected_secs)
        duration_secs = _duration_secs(frame, stream)
        expected_secs = secs + duration_secs
        yield secs - origin_secs, duration_secs, frame


def _frame_secs(frame, expected_secs: float) -> float:
    # AVI has decoding times only.
    timestamp = frame.pts if frame.pts is not None else frame.dts
    return expected_secs if timestamp is None else float(timestamp * frame.time_base)


def _duration_secs(frame, stream) -> float:
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate
    if frame.duration:
        return float(frame.duration * frame.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def media_error(
    error: Exception, what: str = "", *, reason: str = DECODE_ERROR
) -> MediaError:
    """An error of FFmpeg, or of the system while a file is read.

    Args:
      error: what was raised.
      what: where it happened, for the detail.
      reason: if it is the file's own fault.
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
