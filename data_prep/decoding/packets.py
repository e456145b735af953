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
# Video and audio of one part of a file begin and end this near to each other.
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
        """Checks, before a jump by its clock, that the clock always rises.

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


class _ClockFollower:
    """Sorts packets, in the order of a file, by the parts that have one clock each.

    Attributes:
      parts: at least one.
      kinds: of the chosen streams, "video" and "audio".
      others_end_secs: end of the last packet of any other stream.
      first_error: where a clock goes back at first, or None.
    """

    def __init__(self, kind_of_stream: Mapping[int, str], origin_secs: float):
        self.parts = [_Part()]
        self.kinds = list(kind_of_stream.values())
        self.others_end_secs = -math.inf
        self.first_error: ClockError | None = None
        self._kind_of_stream = kind_of_stream
        self._origin_secs = origin_secs
        self._part_of: dict[str, int] = {}
        self._last_secs: dict[str, float] = {}
        self._num_packets: dict[str | None, int] = {}

    def add(self, packet: av.Packet) -> None:
        """Takes the next packet of the file."""
        kind = self._kind_of_stream.get(packet.stream_index)
        number = self._num_packets.get(kind, 0)
        self._num_packets[kind] = number + 1
        timestamp = packet.dts if packet.pts is None else packet.pts
        if timestamp is None:
            return
        base = packet.time_base
        end = float((timestamp + (packet.duration or 0)) * base) - self._origin_secs
        if kind is None:
            self.others_end_secs = max(self.others_end_secs, end)
            return
        start = float(timestamp * base) - self._origin_secs
        last = self._last_secs.get(kind, -math.inf)
        # Frames come in another order than they are shown in.
        secs = last
        if packet.dts is not None:
            secs = float(packet.dts * base) - self._origin_secs
        if secs < last - BACKWARD_SECS:
            self.first_error = self.first_error or ClockError(kind, last, secs)
            self._part_of[kind] += 1
            if self._part_of[kind] == len(self.parts):
                self.parts.append(_Part())
        self._last_secs[kind] = secs
        part = self.parts[self._part_of.setdefault(kind, 0)]
        part.first_packets.setdefault(kind, number)
        part.starts[kind] = min(start, part.starts.get(kind, start))
        part.ends[kind] = max(end, part.ends.get(kind, end))

    def error_text(self) -> str:
        """Why clocks that went back cannot be joined; or ""."""
        if self.first_error is None or all(
            _belong_together(part, self.kinds) for part in self.parts
        ):
            return ""
        return f"{self.first_error}, and picture and sound do not begin anew together"


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
    with open_media(path) as container:
        streams = choose_streams(container, path)
        clocks = _ClockFollower(
            {stream.index: stream.type for stream in streams.chosen},
            origin_secs(container, streams),
        )
        try:
            for packet in container.demux():
                if packet.size:
                    clocks.add(packet)
        except (av.FFmpegError, OSError) as error:
            refusal = media_error(error, "packets")
            if refusal.reason == IO_ERROR:
                raise refusal from error
    offsets = list(_offsets(clocks.parts))
    ends_secs: dict[str, float] = {}
    for part, offset in zip(clocks.parts, offsets, strict=True):
        for kind, end in part.ends.items():
            ends_secs[kind] = max(ends_secs.get(kind, 0.0), end + offset)
    return Survey(
        ends_secs=ends_secs,
        last_secs=max([clocks.others_end_secs, 0.0, *ends_secs.values()]),
        joints=_joints(clocks, offsets),
        error=refusal,
        first_clock_error=clocks.first_error,
        clock_error=clocks.error_text(),
    )


def _joints(
    clocks: _ClockFollower, offsets: Sequence[float]
) -> dict[str, tuple[Joint, ...]]:
    """Where the streams of each kind go on with another clock; empty for one clock."""
    if len(clocks.parts) == 1:
        return {}
    return {
        kind: tuple(
            Joint(
                part.first_packets[kind],
                offset,
                min(part.starts.values()) + offset - TIMESTAMP_SLACK_SECS,
            )
            for part, offset in zip(clocks.parts[1:], offsets[1:], strict=True)
            if kind in part.first_packets
        )
        for kind in clocks.kinds
    }


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
