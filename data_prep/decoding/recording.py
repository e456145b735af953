"""Segments of an open recording, and whether each can be used.

Time 0 is where the file's presentation begins; frames and audio are placed by their
timestamps, so files with variable frame rate, late streams or gaps stay synchronous.
"""

import math
from typing import NamedTuple

import numpy as np

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import containers, packets
from data_prep.decoding.audio_reader import AudioReader
from data_prep.decoding.containers import MISSING_END_SECS, TIMESTAMP_SLACK_SECS
from data_prep.decoding.frame_reader import FrameReader, too_long
from data_prep.decoding.packets import FileEnd
from data_prep.reasons import (
    DECODE_ERROR,
    LENGTH_MISMATCH,
    SILENT_AUDIO,
    TOO_LARGE,
    TOO_SHORT,
    MediaError,
)
from xdc_tf.data import payloads
from xdc_tf.data.payloads import AUDIO, VIDEO

# Audio may end this much before the frames (codecs end on whole blocks); past it, the
# segment is cut where the audio ends.
_MISSING_AUDIO_SECS = 0.1
# Lengths that differ by less are never of a wrong pair.
_LENGTH_SLACK_SECS = 1.0
# What a segment past the end of the file is refused for at first.
_PAST_END_REASONS = frozenset({DECODE_ERROR, TOO_SHORT, TOO_LARGE})
# Peak-to-peak amplitude of three steps of 16-bit audio: dither, not a recording.
_SILENCE_PEAK_TO_PEAK = 1e-4


class Segment(NamedTuple):
    """A stretch of a file, in seconds; to its end if end_secs is None."""

    start_secs: float = 0.0
    end_secs: float | None = None


class Media(NamedTuple):
    """A decoded segment.

    Attributes:
      video_items: of the payload, that hold duration_secs * fps frames; none without
        video.
      height: pixels; 0 without video.
      width: pixels; 0 without video.
      waveform: [samples] float32 mono, nominally in [-1, 1]; None without audio.
      duration_secs: length of the segment that is there.
      truncated: what ended it before its time, where that is accepted; or "".
    """

    video_items: list[bytes]
    height: int
    width: int
    waveform: np.ndarray | None
    duration_secs: float
    truncated: str = ""


class PastEndError(MediaError):
    """A segment that begins past the end of its file.

    Attributes:
      end: of the file, by which other segments past it are refused.
    """

    def __init__(self, reason: str, detail: str, end: FileEnd):
        super().__init__(reason, detail)
        self.end = end


def check_not_past_end(
    segment: Segment, end: FileEnd, settings: ConversionSettings
) -> None:
    """Refuses a segment past the end of a file without a look at the file.

    Raises:
      PastEndError: with the reason and detail that decoding would give.
      MediaError: too_long.
    """
    # What has no duration may show a little longer.
    if segment.start_secs < end.secs + MISSING_END_SECS:
        return
    _check_asked(segment, end.declared_secs, settings)
    is_truncated = end.secs < containers.due_secs(end.declared_secs)
    if is_truncated and not settings.keep_truncated:
        refusal = _truncation(end.secs, end.declared_secs, 0)
    else:
        what = "picture" if VIDEO in settings.modalities else "sound"
        refusal = _shortness(0.0, what, settings)
    raise PastEndError(refusal.reason, refusal.detail, end)


class Recording(NamedTuple):
    """An open file and its readers; None for what is not to be stored."""

    path: str
    settings: ConversionSettings
    origin_secs: float
    declared_secs: float
    frame_reader: FrameReader | None
    audio_reader: AudioReader | None

    def read(self, segment: Segment) -> Media:
        """One segment.

        Raises:
          MediaError: it cannot be used.
        """
        _check_asked(segment, self.declared_secs, self.settings)
        try:
            return self._read(segment)
        except MediaError as refusal:
            if refusal.reason in _PAST_END_REASONS:
                before_secs = segment.start_secs - MISSING_END_SECS
                end_secs = packets.end_before(self.path, before_secs)
                if end_secs is not None:
                    end = packets.file_end(self.path, end_secs, self.declared_secs)
                    check_not_past_end(segment, end, self.settings)
            raise

    def _read(self, segment: Segment) -> Media:
        start_secs, end_secs = segment
        if self.frame_reader is None:
            return self._read_audio(segment)
        video_items, num_frames, frames_end_secs, damage = self.frame_reader.read(
            start_secs, end_secs
        )
        self._judge(damage)
        if num_frames < 2 and frames_end_secs < self._due_secs(end_secs):
            # Truncated, where even the audio is not longer, and not just short.
            self._truncated(frames_end_secs, end_secs, damage, num_frames)
        self._check_length(num_frames / self.settings.fps, "picture")
        waveform, audio_end_secs = None, math.inf
        video_end_secs = start_secs + num_frames / self.settings.fps
        if self.audio_reader is not None:
            waveform, audio_end_secs, audio_damage = self.audio_reader.read(
                start_secs, video_end_secs
            )
            self._judge(audio_damage)
            damage = damage or audio_damage
        last_secs = frames_end_secs
        if self.audio_reader is not None:
            last_secs = max(last_secs, audio_end_secs)
        truncated = self._truncated(last_secs, end_secs, damage, num_frames)
        if waveform is not None and not truncated:
            self._check_lengths(segment, frames_end_secs, audio_end_secs)
        if waveform is not None:
            if audio_end_secs + _MISSING_AUDIO_SECS < video_end_secs:
                audio_secs = audio_end_secs - start_secs + TIMESTAMP_SLACK_SECS
                heard = max(0, math.floor(audio_secs * self.settings.fps))
                num_frames = min(num_frames, heard)
                del video_items[payloads.num_items(self.settings, num_frames) :]
                self._check_length(num_frames / self.settings.fps, "sound")
            rate_hz = self.settings.log_mel.sample_rate_hz
            waveform = waveform[: round(num_frames / self.settings.fps * rate_hz)]
            _check_audio(waveform, self.audio_reader.widest)
        return Media(
            video_items,
            *self.frame_reader.image_shape,
            waveform,
            duration_secs=num_frames / self.settings.fps,
            truncated=truncated,
        )

    def _read_audio(self, segment: Segment) -> Media:
        start_secs, end_secs = segment
        rate_hz = self.settings.log_mel.sample_rate_hz
        limit_secs = end_secs
        if end_secs is None:
            # A little more than is allowed, so that what is longer shows.
            limit_secs = start_secs + self.settings.max_secs + 1
        waveform, audio_end_secs, damage = self.audio_reader.read(
            start_secs, limit_secs, pad=False
        )
        self._judge(damage)
        if audio_end_secs < limit_secs:
            audio_secs = max(0.0, audio_end_secs - start_secs)
            waveform = waveform[: round(audio_secs * rate_hz)]
        duration_secs = len(waveform) / rate_hz
        if end_secs is None and duration_secs > self.settings.max_secs:
            raise too_long(duration_secs, self.settings.max_secs)
        truncated = self._truncated(audio_end_secs, end_secs, damage, 0)
        self._check_length(duration_secs, "sound")
        _check_audio(waveform, self.audio_reader.widest)
        return Media([], 0, 0, waveform, duration_secs, truncated)

    def _judge(self, damage: MediaError | None) -> None:
        """Raises what cannot be lived with."""
        if damage is None:
            return
        if not self.settings.keep_truncated or damage.reason != DECODE_ERROR:
            raise damage

    def _due_secs(self, end_secs: float | None) -> float:
        """Before this time in the file, nothing of the segment may end."""
        due_secs = containers.due_secs(self.declared_secs)
        slack_secs = self.declared_secs - due_secs
        return min(self.declared_secs, end_secs or math.inf) - slack_secs

    def _truncated(
        self,
        last_secs: float,
        end_secs: float | None,
        damage: MediaError | None,
        num_frames: int,
    ) -> str:
        """What ended a segment before its time, or "".

        Raises:
          MediaError: if that is not accepted.
        """
        due_secs = self._due_secs(end_secs)
        if damage is None and last_secs < due_secs:
            # The declared end may be that of another stream, of subtitles even.
            last_secs = max(last_secs, packets.survey(self.path).last_secs)
        if damage is None and last_secs < due_secs:
            damage = _truncation(last_secs, self.declared_secs, num_frames)
            self._judge(damage)
        return damage.detail if damage else ""

    def _check_length(self, secs: float, what: str) -> None:
        if secs < _least_secs(self.settings) - 1e-6 or secs == 0:
            raise _shortness(secs, what, self.settings)

    def _check_lengths(
        self, segment: Segment, frames_end_secs: float, audio_end_secs: float
    ) -> None:
        """Refuses frames and audio that cannot be of one recording."""
        start_secs, end_secs = segment
        end_secs = math.inf if end_secs is None else end_secs
        ratio = self.settings.max_length_ratio
        frames_secs = min(frames_end_secs, end_secs) - start_secs
        if audio_end_secs == math.inf:
            # It goes on after the frames: how far is rarely worth a look.
            audio_end_secs = frames_end_secs
            if self.declared_secs - start_secs > frames_secs * ratio:
                audio_end_secs = packets.survey(self.path).end_secs((AUDIO,))
        audio_secs = max(0.0, min(audio_end_secs, end_secs) - start_secs)
        shorter, longer = sorted((frames_secs, audio_secs))
        if shorter * ratio < longer and longer - shorter > _LENGTH_SLACK_SECS:
            raise MediaError(
                LENGTH_MISMATCH,
                f"{frames_secs:.1f} s of picture and {audio_secs:.1f} s of sound, the "
                f"limit is {ratio:g} times",
            )


def _check_asked(
    segment: Segment, declared_secs: float, settings: ConversionSettings
) -> None:
    start_secs, end_secs = segment
    asked_secs = (declared_secs if end_secs is None else end_secs) - start_secs
    if asked_secs > settings.max_secs:
        raise too_long(asked_secs, settings.max_secs)


def _truncation(secs: float, declared_secs: float, num_frames: int) -> MediaError:
    return MediaError(
        DECODE_ERROR,
        f"truncated: ends at {secs:.1f} s of {declared_secs:.1f} s declared, after "
        f"{num_frames} frames",
    )


def _least_secs(settings: ConversionSettings) -> float:
    if VIDEO in settings.modalities:
        return max(settings.min_secs, 1 / settings.fps)
    return settings.min_secs


def _shortness(secs: float, what: str, settings: ConversionSettings) -> MediaError:
    return MediaError(
        TOO_SHORT,
        f"{secs:.3f} s of {what} from the segment's start, need "
        f"{_least_secs(settings):.3f} s",
    )


def _check_audio(waveform: np.ndarray, widest_channel: float) -> None:
    if not np.isfinite(waveform).all():
        raise MediaError(DECODE_ERROR, "sound: samples that are not finite numbers")
    width = np.ptp(waveform)
    if width >= _SILENCE_PEAK_TO_PEAK:
        return
    detail = f"peak-to-peak amplitude {width:.1e} of at most 2"
    if widest_channel >= _SILENCE_PEAK_TO_PEAK:
        detail = (
            f"channels cancel: peak-to-peak amplitude {widest_channel:.1e} in one, "
            f"{width:.1e} in their mean"
        )
    raise MediaError(SILENT_AUDIO, detail)
