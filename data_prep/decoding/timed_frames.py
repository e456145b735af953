"""Decoded frames of one stream of a file, with their times.

Time 0 is where the file's presentation begins; frames have their times by their
timestamps, never by counting. Where decoding begins in the middle of a stream, nothing
counts before the first true key frame or whole block of sound.
"""

import math
from collections.abc import Iterator, Sequence

import av

from data_prep.decoding import h264, mpeg2
from data_prep.decoding.containers import is_bare, is_unframed
from data_prep.decoding.deinterlacing import progressive
from data_prep.decoding.packets import BACKWARD_SECS, Clock, ClockError, Joint
from data_prep.reasons import DECODE_ERROR, MediaError

# Frames up to a segment this much later are decoded: a jump would land before it.
SKIP_SECS = 5.0

# Decoding begins this much before the segment, so that decoders have settled; more, if
# there is no key frame between.
_SEEK_MARGINS_SECS = (1.0, 6.0, 30.0)
# Errors of sound up to this much before the segment are not heard in it.
_SETTLING_SECS = 0.25
# Less is not taken for frames that were passed over.
_LATE_SECS = 0.05
# Codecs whose decoders tell true key frames from those that a container calls so.
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
        self._joints = joints
        codec = stream.codec_context.codec
        self._is_video = stream.type == "video"
        self._is_keyed = self._is_video and (
            stream.codec_context.name in _KEYED_CODECS
            or codec.canonical_name in _KEYED_CODECS
        )
        is_any_key = not self._is_video or codec.intra_only
        self._clock = clock
        # Without a container, time is counted from where reading begins.
        is_counted = self._is_video and is_bare(self.container)
        is_entered = self._is_keyed or is_any_key
        self._may_jump = is_entered and not joints and not is_counted

    def begin_at(self, secs: float) -> None:
        """Makes a time of the stream its time 0."""
        self.origin_secs += secs
        self._joints = [
            joint._replace(start_secs=joint.start_secs - secs) for joint in self._joints
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
        """Frames from where the container is: a jump to before start_secs, or the
        file's beginning if that is None."""
        # After a jump, a frame without a time stamp could be of any time.
        expected_secs = self.origin_secs if start_secs is None else None
        last_secs = -math.inf
        frames = self._decoded(start_secs)
        for frame in progressive(frames) if self._is_video else frames:
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

    def _decoded(self, start_secs: float | None) -> Iterator[av.frame.Frame]:
        is_in = self._is_video and not self._is_keyed
        is_jump = start_secs is not None
        was_fed = False
        joints = list(self._joints)
        joint, is_key_due = None, False
        first_secs = None  # when the first packet is to be shown
        offset = number = 0
        last_secs = -math.inf
        last_fed_secs, damage = -math.inf, None
        losses = _loss_detector(self.stream.codec_context)
        for packet in self.container.demux(self.stream):
            secs = None
            if packet.size:
                if joints and number == joints[0].first_packet:
                    joint = joints.pop(0)
                    offset = round(joint.offset_secs / packet.time_base)
                    is_key_due = self._is_keyed
                number += 1
                secs = self._place(packet, offset)
            if secs is not None:
                if secs < last_secs - BACKWARD_SECS:
                    raise ClockError(self.stream.type, last_secs, secs)
                last_secs = secs
            if self._is_video and is_jump and not is_in and not was_fed:
                if secs is not None and secs > start_secs:
                    return
                # Flags may be missing where there is a key frame, and so the stretch
                # before is tried, but most are right.
                if not packet.is_keyframe:
                    continue
            was_fed = True
            if losses is not None and losses.misses_reference(bytes(packet)):
                if is_in or losses.saw_key:
                    damage = MediaError(
                        DECODE_ERROR,
                        f"frames are missing after {max(0.0, last_fed_secs):.2f} s",
                    )
                    if not is_jump:
                        raise damage
            last_fed_secs = last_secs
            if first_secs is None and packet.pts is not None:
                first_secs = float(packet.pts * packet.time_base) - self.origin_secs
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if self._is_entry(packet, secs, start_secs, is_in):
                    self.is_late |= self._is_video and not is_jump
                    continue
                raise
            for frame in frames:
                if not is_in and self._is_keyed and not frame.key_frame:
                    self.is_late |= not is_jump
                    if is_jump and self._shown_secs(frame) > start_secs:
                        return
                    continue
                if not is_in and not is_jump and first_secs is not None:
                    # Decoders may pass over frames without a word.
                    is_late = self._shown_secs(frame) > first_secs + _LATE_SECS
                    self.is_late |= self._is_video and is_late
                is_in = True
                if is_jump and self._is_keyed:
                    # What is damaged before the segment counts up to a key frame.
                    shown_secs = self._shown_secs(frame)
                    if frame.is_corrupt and shown_secs < start_secs:
                        damage = MediaError(DECODE_ERROR, "damaged frame")
                    elif frame.key_frame and shown_secs < start_secs + _LATE_SECS:
                        damage = None
                    if damage is not None:
                        if shown_secs < start_secs:
                            continue
                        raise damage
                if is_key_due and self._shown_secs(frame) >= joint.start_secs:
                    if not frame.key_frame:
                        raise MediaError(
                            DECODE_ERROR,
                            "the picture's clock begins anew at "
                            f"{joint.start_secs:.2f} s, without a key frame",
                        )
                    is_key_due = False
                yield frame
        if damage is not None:
            raise damage

    def _shown_secs(self, frame) -> float:
        timestamp = frame.dts if frame.pts is None else frame.pts
        if timestamp is None:
            return -math.inf
        return float(timestamp * frame.time_base) - self.origin_secs

    def _place(self, packet, offset: int) -> float | None:
        """Moves a packet in time; when it is to be decoded, if known."""
        if self._is_video and self.container.format.name == "avi":
            # AVI has times of decoding alone; what FFmpeg adds to them is uneven.
            packet.pts = None
        if offset:
            if packet.pts is not None:
                packet.pts += offset
            if packet.dts is not None:
                packet.dts += offset
        if packet.dts is None:  # frames come in another order than they are shown in
            return None
        return float(packet.dts * packet.time_base) - self.origin_secs

    def _is_entry(
        self, packet, secs: float | None, start_secs: float | None, is_in: bool
    ) -> bool:
        """Whether a decoder's error comes of entering the stream, and is no damage."""
        if not self._is_video and start_secs is not None and secs is not None:
            if secs < start_secs - _SETTLING_SECS:
                return True
        if is_in:
            return False
        if start_secs is not None or is_unframed(self.container):
            return True
        return self._is_video and not packet.is_keyframe

    def _duration_secs(self, frame) -> float:
        if isinstance(frame, av.AudioFrame):
            return frame.samples / frame.sample_rate
        if frame.duration:
            return float(frame.duration * frame.time_base)
        rate = self.stream.average_rate
        return float(1 / rate) if rate else 0.0
