"""Media files opened with care, and their decoded frames with times.

Time 0 is where the file's presentation begins; frames have their times by their
timestamps, never by counting.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

import av

from data_prep.decoding.deinterlacing import progressive
from data_prep.reasons import (
    CANNOT_OPEN,
    DECODE_ERROR,
    OUT_OF_MEMORY,
    TOO_LARGE,
    MediaError,
)

# Containers round timestamps, Matroska to whole milliseconds.
TIMESTAMP_SLACK_SECS = 1e-3
# Frames up to a segment this much later are decoded: a jump would land before it.
SKIP_SECS = 5.0

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
        self._file = open(path, "rb", buffering=0)
        suffix = os.path.splitext(path)[1]
        self.name = "media" + (suffix if suffix.isascii() else "")
        self.read, self.seek = self._file.read, self._file.seek
        self.tell, self.close = self._file.tell, self._file.close


def check_file(path: str, *, limit_bytes: int) -> None:
    """Looks whether a local path is a file worth opening.

    Raises:
      MediaError: cannot_open or too_large.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise MediaError(CANNOT_OPEN, message(error)) from error
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
      MediaError: cannot_open.
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
            raise MediaError(CANNOT_OPEN, message(error)) from error
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


def last_packet_secs(path: str) -> float:
    """Time where a file's last packet ends, whatever stream it belongs to.

    Raises:
      MediaError: cannot_open or decode_error.
    """
    last_secs = 0.0
    with open_media(path) as container:
        origin_secs = (container.start_time or 0) / av.time_base
        try:
            for packet in container.demux():
                timestamp = packet.pts if packet.pts is not None else packet.dts
                if timestamp is not None:
                    end = (timestamp + (packet.duration or 0)) * packet.time_base
                    last_secs = max(last_secs, float(end) - origin_secs)
        except (av.FFmpegError, OSError) as error:
            raise media_error(error, "packets") from error
    return last_secs


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


def media_error(error: Exception, what: str) -> MediaError:
    """FFmpeg's error as a reason and a detail."""
    reason = OUT_OF_MEMORY if isinstance(error, MemoryError) else DECODE_ERROR
    return MediaError(reason, f"{what}: {message(error)}")


def message(error: Exception) -> str:
    """An error in words, without its number and the path that is known anyway."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
