"""What the packets of a file show: where streams end, and where clocks begin anew.

What a container declares is a hint; this is read from the packets, without decoding.
"""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import av

from data_prep.decoding.containers import (
    TIMESTAMP_SLACK_SECS,
    choose_streams,
    due_secs,
    media_error,
    open_media,
    origin_secs,
)
from data_prep.reasons import DECODE_ERROR, IO_ERROR, MediaError

# Time stamps that go back by more are of another clock. Less is a container's rounding,
# and no reason to lose a file.
BACKWARD_SECS = 0.1
# Picture and sound of one part of a file begin and end this near to each other.
_APART_SECS = 3.0


class ClockError(Exception):
    """Time stamps went back, which only all of the file's packets explain."""

    def __init__(self, kind: str, from_secs: float, to_secs: float):
        what = "picture" if kind == "video" else "sound"
        super().__init__(
            f"clock of the {what} goes back from {from_secs:.2f} to {to_secs:.2f} s"
        )


class Joint(NamedTuple):
    """Where a stream goes on with a clock that began anew.

    Attributes:
      first_packet: the first one with that clock, by its number in the stream.
      offset_secs: to add to its time stamps from there on.
      start_secs: where that clock begins, once it is added.
    """

    first_packet: int
    offset_secs: float
    start_secs: float


class Survey(NamedTuple):
    """A file's packets, in seconds from where the presentation begins.

    Attributes:
      ends_secs: end of the chosen stream of each kind, "video" and "audio".
      last_secs: end of the last packet of any stream, subtitles among them.
      joints: of each kind; empty for a clock that always rises.
      error: what ended the packets, if not the file's end.
      first_clock_error: where a clock goes back at first, or None.
      clock_error: why clocks that went back cannot be joined; or "".
    """

    ends_secs: Mapping[str, float]
    last_secs: float
    joints: Mapping[str, tuple[Joint, ...]]
    error: MediaError | None
    first_clock_error: ClockError | None
    clock_error: str

    def end_secs(self, kinds: Sequence[str] = ("video", "audio")) -> float:
        """Where the streams of these kinds end; 0 if there are none."""
        return max((self.ends_secs.get(kind, 0.0) for kind in kinds), default=0.0)

    def check_clocks(self) -> None:
        """Refuses a file whose clocks go back in a way that cannot be followed.

        Raises:
          MediaError: decode_error.
        """
        if self.clock_error:
            raise MediaError(DECODE_ERROR, self.clock_error)


class FileEnd(NamedTuple):
    """Where a file's packets end, and where they were to end, in seconds."""

    secs: float
    declared_secs: float


class Clock(NamedTuple):
    """What is known of a file's clock before it is read.

    Attributes:
      path: of the file.
      is_steady: whether its format does not let it go back.
    """

    path: str
    is_steady: bool

    def check(self) -> None:
        """Looks, before a jump by its clock, whether the clock always rises.

        Raises:
          ClockError: it does not.
        """
        if not self.is_steady:
            error = survey(self.path).first_clock_error
            if error is not None:
                raise error


class _Part:
    """Packets of all streams up to where their clocks begin anew."""

    def __init__(self) -> None:
        self.first_packets: dict[str, int] = {}
        self.starts: dict[str, float] = {}
        self.ends: dict[str, float] = {}


def survey(path: str) -> Survey:
    """Reads the packets of a local file, unless that was done just before.

    Raises:
      MediaError: cannot_open or io_error.
    """
    status = os.stat(path)
    return _survey(
        path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    )


@functools.lru_cache(maxsize=4)
def _survey(path: str, version: tuple[int, ...]) -> Survey:
    del version  # of the file: an error of the system is not kept
    refusal = None
    parts = [_Part()]
    part_of: dict[str, int] = {}
    last_of: dict[str, float] = {}
    number_of: dict[str | None, int] = {}
    others_end = -math.inf
    first_clock_error = None
    with open_media(path) as container:
        streams = choose_streams(container, path)
        origin = origin_secs(container, streams)
        kind_of = {stream.index: stream.type for stream in streams.chosen}
        try:
            for packet in container.demux():
                if not packet.size:
                    continue
                kind = kind_of.get(packet.stream_index)
                number = number_of.get(kind, 0)
                number_of[kind] = number + 1
                start = packet.dts if packet.pts is None else packet.pts
                if start is None:
                    continue
                base = packet.time_base
                end = float((start + (packet.duration or 0)) * base) - origin
                if kind is None:
                    others_end = max(others_end, end)
                    continue
                start = float(start * base) - origin
                last = last_of.get(kind, -math.inf)
                # Frames come in another order than they are shown in.
                secs = last if packet.dts is None else float(packet.dts * base) - origin
                if secs < last - BACKWARD_SECS:
                    first_clock_error = first_clock_error or ClockError(
                        kind, last, secs
                    )
                    part_of[kind] += 1
                    if part_of[kind] == len(parts):
                        parts.append(_Part())
                last_of[kind] = secs
                part = parts[part_of.setdefault(kind, 0)]
                part.first_packets.setdefault(kind, number)
                part.starts[kind] = min(start, part.starts.get(kind, start))
                part.ends[kind] = max(end, part.ends.get(kind, end))
        except (av.FFmpegError, OSError) as error:
            refusal = media_error(error, "packets")
            if refusal.reason == IO_ERROR:
                raise refusal from error
    offsets = list(_offsets(parts))
    clock_error = ""
    if first_clock_error is not None and not all(
        _belong_together(part, kind_of.values()) for part in parts
    ):
        clock_error = (
            f"{first_clock_error}, and picture and sound do not begin anew together"
        )
    ends: dict[str, float] = {}
    for part, offset in zip(parts, offsets, strict=True):
        for kind, end in part.ends.items():
            ends[kind] = max(ends.get(kind, 0.0), end + offset)
    joints = {
        kind: tuple(
            Joint(
                part.first_packets[kind],
                offset,
                min(part.starts.values()) + offset - TIMESTAMP_SLACK_SECS,
            )
            for part, offset in zip(parts[1:], offsets[1:], strict=True)
            if kind in part.first_packets
        )
        for kind in kind_of.values()
    }
    if len(parts) == 1:
        joints = {}
    last = max([others_end, 0.0, *ends.values()])
    return Survey(ends, last, joints, refusal, first_clock_error, clock_error)


def _offsets(parts: Sequence[_Part]) -> Iterator[float]:
    """What to add to the times of each part, so that it begins where others ended."""
    offset = 0.0
    end = -math.inf
    for number, part in enumerate(parts):
        if number:
            offset = end - min(part.starts.values())
        yield offset
        end = max(end, max(part.ends.values(), default=0.0) + offset)


def _belong_together(part: _Part, kinds) -> bool:
    """Whether a part has all streams, with one clock."""
    return (
        set(part.starts) == set(kinds)
        and max(part.starts.values()) - min(part.starts.values()) < _APART_SECS
        and max(part.ends.values()) - min(part.ends.values()) < _APART_SECS
    )


def file_end(path: str, end_secs: float, declared_secs: float) -> FileEnd:
    """An end, with the declared one only if packets are missing up to there.

    Subtitles may outlast a film.
    """
    if survey(path).last_secs >= due_secs(declared_secs):
        declared_secs = min(declared_secs, end_secs)
    return FileEnd(end_secs, declared_secs)


def end_before(
    path: str, secs: float, kinds: Sequence[str] = ("video", "audio")
) -> float | None:
    """Time where the last packet of streams ends, if that is before a time.

    Reads near that time, and the whole file only if there is nothing.

    Args:
      path: a local file.
      secs: time in the file.
      kinds: of the streams.

    Returns:
      The end; None if there is a packet that ends later.

    Raises:
      MediaError: cannot_open or io_error.
    """
    if _has_packet_after(path, secs, kinds):
        return None
    end_secs = survey(path).end_secs(kinds)
    return end_secs if end_secs < secs else None


def _has_packet_after(path: str, secs: float, kinds: Sequence[str]) -> bool:
    with open_media(path) as container:
        streams = choose_streams(container, path)
        origin = origin_secs(container, streams)
        indices = {stream.index for stream in streams.chosen if stream.type in kinds}
        try:
            # Backwards to a key frame.
            container.seek(int((origin + secs) * av.time_base))
            for packet in container.demux():
                timestamp = packet.dts if packet.pts is None else packet.pts
                if packet.stream_index in indices and timestamp is not None:
                    end = (timestamp + (packet.duration or 0)) * packet.time_base
                    if float(end) - origin > secs:
                        return True
        except (av.FFmpegError, OSError):
            pass  # no index, or damage: the whole file says
    return False
