"""Decoded frames of one stream of a file, with their times.

Time 0 is where the file's presentation begins; frames have their times by their
timestamps, never by counting. Where decoding begins in the middle of a stream, nothing
counts before the first true key frame or whole block of audio.
"""

import math
from collections.abc import Iterator, Sequence

import av
from av.filter import Graph

from data_prep.decoding import h264, mpeg2
from data_prep.decoding.containers import is_bare, is_unframed
from data_prep.decoding.packets import BACKWARD_SECS, Clock, ClockError, Joint
from data_prep.reasons import DECODE_ERROR, MediaError

# Frames up to a segment this much later are decoded: a jump would land before it.
SKIP_SECS = 5.0

# Decoding begins this much before the segment, so that decoders have settled; more, if
# there is no key frame between.
_SEEK_MARGINS_SECS = (1.0, 6.0, 30.0)
# Errors of audio up to this much before the segment are not heard in it.
_SETTLING_SECS = 0.25
# Less is not taken for frames that were passed over.
_LATE_SECS = 0.05
# Codecs whose decoders distinguish true key frames from what a container calls so.
_KEYED_CODECS = frozenset(
    "h264 hevc vvc mpeg1video mpeg2video mpeg4 h261 h263 h263p h263i flv1 flv "
    "msmpeg4v1 msmpeg4v2 msmpeg4v3 msmpeg4 wmv1 wmv2 wmv3 vc1 theora vp3 vp8 vp9 av1 "
    "rv10 rv20 rv30 rv40 ffv1".split()
)


class RewindError(Exception):
    """A file can be read from its beginning only if it is opened anew."""


def _loss_detector(codec) -> h264.LossDetector | mpeg2.LossDetector | None:
    """What notices lost pictures of a codec whose decoder does not; None of others."""
    if codec.name == "h264":
        return h264.LossDetector(codec.extradata)
    if codec.name in ("mpeg1video", "mpeg2video"):
        return mpeg2.LossDetector()
    return None


class TimedStream:
    """A stream of an open file, on the file's time axis.

    Attributes:
      container: the open file.
      stream: of it, of containers.read_alone.
      origin_secs: time stamp of time 0.
      joints: where its clock begins anew.
      is_video: whether it is of frames, and not of audio.
      is_keyed: whether its decoder marks true key frames.
      is_late: whether frames before the first key frame were passed over at the
        file's beginning, as of a recording that begins between two.
    """

    def __init__(
        self,
        stream,
        origin_secs: float,
        clock: Clock,
        joints: Sequence[Joint] = (),
    ):
        self.container = stream.container
        self.stream = stream
        self.origin_secs = origin_secs
        self.is_late = False
        self._was_read = False
        self.joints = joints
        codec = stream.codec_context.codec
        self.is_video = stream.type == "video"
        self.is_keyed = self.is_video and (
            stream.codec_context.name in _KEYED_CODECS
            or codec.canonical_name in _KEYED_CODECS
        )
        is_any_key = not self.is_video or codec.intra_only
        self._clock = clock
        # Without a container, time is counted from where reading begins.
        is_counted = self.is_video and is_bare(self.container)
        is_entered = self.is_keyed or is_any_key
        self._may_jump = is_entered and not joints and not is_counted

    def begin_at(self, secs: float) -> None:
        """Makes a time of the stream its time 0."""
        self.origin_secs += secs
        self.joints = [
            joint._replace(start_secs=joint.start_secs - secs) for joint in self.joints
        ]

    def frames(
        self, start_secs: float
    ) -> Iterator[tuple[float, float, av.frame.Frame]]:
        """Yields (secs, duration_secs, frame) as presented, from before start_secs on.

        Args:
          start_secs: time in the file.

        Raises:
          ClockError: time stamps went back.
          RewindError: the file must be opened anew.
        """
        if self._may_jump and start_secs > _SEEK_MARGINS_SECS[0]:
            self._clock.check()
            for margin_secs in _SEEK_MARGINS_SECS:
                if start_secs <= margin_secs:
                    break
                self._was_read = True
                secs = self.origin_secs + start_secs - margin_secs
                try:
                    self.container.seek(
                        int(secs / self.stream.time_base), stream=self.stream
                    )
                except av.FFmpegError:
                    break  # no index
                frames = self._timed(start_secs)
                first = next(frames, None)
                if first is not None and first[0] <= start_secs:
                    yield first
                    yield from frames
                    return
        if self._was_read:
            try:
                self.container.seek(min(0, self.container.start_time or 0))
            except av.FFmpegError as error:
                raise RewindError("the file cannot be read from its beginning") from (
                    error
                )
        self._was_read = True
        yield from self._timed(None)

    def _timed(self, start_secs: float | None):
        """Frames with their times, from where the container is.

        That is after a jump to before start_secs, or the file's beginning if it is
        None.
        """
        # After a jump, a frame without a time stamp could be of any time.
        expected_secs = self.origin_secs if start_secs is None else None
        last_secs = -math.inf
        frames = _Decoding(self, start_secs).frames()
        for frame in _make_whole(frames) if self.is_video else frames:
            timestamp = frame.dts if frame.pts is None else frame.pts  # AVI: dts only
            secs = expected_secs
            if timestamp is not None:
                secs = float(timestamp * frame.time_base)
            if secs is None:
                continue
            duration_secs = self._duration_secs(frame)
            expected_secs = secs + duration_secs
            secs -= self.origin_secs
            if secs < last_secs - BACKWARD_SECS:
                raise ClockError(self.stream.type, last_secs, secs)
            last_secs = secs
            yield secs, duration_secs, frame

    def _duration_secs(self, frame) -> float:
        if isinstance(frame, av.AudioFrame):
            return frame.samples / frame.sample_rate
        if frame.duration:
            return float(frame.duration * frame.time_base)
        rate = self.stream.average_rate
        return float(1 / rate) if rate else 0.0


class _Decoding:
    """One pass over a stream's packets, from where its container is.

    Args:
      stream: whose packets they are; its is_late becomes true if frames are left out.
      start_secs: of the segment after a jump to before it; None from the file's
        beginning.
    """

    def __init__(self, stream: TimedStream, start_secs: float | None):
        self._stream = stream
        self._start_secs = start_secs
        self._is_jump = start_secs is not None
        # Whether frames count: after the first true key frame or whole block of audio.
        self._is_in = stream.is_video and not stream.is_keyed
        self._was_fed = False
        self._joints = list(stream.joints)
        self._joint: Joint | None = None  # the last one that was passed
        self._is_key_due = False  # the first frame after it must be a key frame
        self._offset = self._number = 0
        self._first_secs: float | None = None  # when the first packet is to be shown
        self._last_secs = self._last_fed_secs = -math.inf
        self._losses = _loss_detector(stream.stream.codec_context)
        self._damage: MediaError | None = None

    def frames(self) -> Iterator[av.frame.Frame]:
        """Yields the frames that count.

        Raises:
          ClockError: time stamps went back.
          MediaError: damage that reaches into the segment.
        """
        is_video, start_secs = self._stream.is_video, self._start_secs
        for packet in self._stream.container.demux(self._stream.stream):
            secs = self._place(packet)
            if is_video and self._is_jump and not self._is_in and not self._was_fed:
                if secs is not None and secs > start_secs:
                    return
                # Flags may be missing where there is a key frame, and so the stretch
                # before is tried, but most are right.
                if not packet.is_keyframe:
                    continue
            self._was_fed = True
            self._detect_losses(packet)
            for frame in self._decode(packet, secs):
                if not self._is_in and self._stream.is_keyed and not frame.key_frame:
                    self._stream.is_late |= not self._is_jump
                    if self._is_jump and self._shown_secs(frame) > start_secs:
                        return
                    continue
                self._enter(frame)
                if self._is_damaged_before(frame):
                    continue
                self._check_joint(frame)
                yield frame
        if self._damage is not None:
            raise self._damage

    def _place(self, packet) -> float | None:
        """Moves a packet in time; when it is to be decoded, if known."""
        if not packet.size:
            return None
        if self._joints and self._number == self._joints[0].first_packet:
            self._joint = self._joints.pop(0)
            self._offset = round(self._joint.offset_secs / packet.time_base)
            self._is_key_due = self._stream.is_keyed
        self._number += 1
        if self._stream.is_video and self._stream.container.format.name == "avi":
            # AVI has times of decoding alone; what FFmpeg adds to them is uneven.
            packet.pts = None
        if self._offset:
            if packet.pts is not None:
                packet.pts += self._offset
            if packet.dts is not None:
                packet.dts += self._offset
        if packet.dts is None:  # frames come in another order than they are shown in
            return None
        secs = float(packet.dts * packet.time_base) - self._stream.origin_secs
        if secs < self._last_secs - BACKWARD_SECS:
            raise ClockError(self._stream.stream.type, self._last_secs, secs)
        self._last_secs = secs
        return secs

    def _detect_losses(self, packet) -> None:
        """Notes down that frames are missing before a packet, or raises it."""
        if self._losses is not None and self._losses.misses_reference(bytes(packet)):
            if self._is_in or self._losses.saw_key:
                self._damage = MediaError(
                    DECODE_ERROR,
                    f"frames are missing after {max(0.0, self._last_fed_secs):.2f} s",
                )
                if not self._is_jump:
                    raise self._damage
        self._last_fed_secs = self._last_secs
        if self._first_secs is None and packet.pts is not None:
            secs = float(packet.pts * packet.time_base)
            self._first_secs = secs - self._stream.origin_secs

    def _decode(self, packet, secs: float | None) -> list[av.frame.Frame]:
        """A packet's frames; none if its error comes of entering the stream."""
        try:
            return packet.decode()
        except av.FFmpegError:
            if not self._is_entry(packet, secs):
                raise
        self._stream.is_late |= self._stream.is_video and not self._is_jump
        return []

    def _is_entry(self, packet, secs: float | None) -> bool:
        """Whether a decoder's error comes of entering the stream, and is no damage."""
        if not self._stream.is_video and self._is_jump and secs is not None:
            if secs < self._start_secs - _SETTLING_SECS:
                return True
        if self._is_in:
            return False
        if self._is_jump or is_unframed(self._stream.container):
            return True
        return self._stream.is_video and not packet.is_keyframe

    def _enter(self, frame) -> None:
        """From this frame on, frames count."""
        if not self._is_in and not self._is_jump and self._first_secs is not None:
            # Decoders may pass over frames without a word.
            is_late = self._shown_secs(frame) > self._first_secs + _LATE_SECS
            self._stream.is_late |= self._stream.is_video and is_late
        self._is_in = True

    def _is_damaged_before(self, frame) -> bool:
        """Whether a frame before the segment is damaged; raises damage inside it.

        What is damaged before the segment counts up to a key frame.
        """
        if not (self._is_jump and self._stream.is_keyed):
            return False
        shown_secs = self._shown_secs(frame)
        if frame.is_corrupt and shown_secs < self._start_secs:
            self._damage = MediaError(DECODE_ERROR, "damaged frame")
        elif frame.key_frame and shown_secs < self._start_secs + _LATE_SECS:
            self._damage = None
        if self._damage is None:
            return False
        if shown_secs < self._start_secs:
            return True
        raise self._damage

    def _check_joint(self, frame) -> None:
        """The first frame with a clock that began anew must be a key frame."""
        if not self._is_key_due or self._shown_secs(frame) < self._joint.start_secs:
            return
        if not frame.key_frame:
            raise MediaError(
                DECODE_ERROR,
                f"the picture's clock begins anew at {self._joint.start_secs:.2f} s, "
                "without a key frame",
            )
        self._is_key_due = False

    def _shown_secs(self, frame) -> float:
        timestamp = frame.dts if frame.pts is None else frame.pts
        if timestamp is None:
            return -math.inf
        return float(timestamp * frame.time_base) - self._stream.origin_secs


def _make_whole(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames as they are; from the first interlaced one on, those become whole ones."""
    graph, kind = None, None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if kind != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _pull(graph, last=True)
            kind = frame.width, frame.height, frame.format.name
            graph = _deinterlacer(frame)
        if frame.pts is None:
            frame.pts = frame.dts
        graph.push(frame)
        yield from _pull(graph)
    if graph is not None:
        yield from _pull(graph, last=True)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    # One frame for each frame; those that are whole pass.
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Graph, *, last: bool = False) -> Iterator[av.VideoFrame]:
    if last:
        graph.push(None)
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
