"""Segments of one media file -> JPEG frames and mono waveforms on one time axis.

Time 0 is where the file's presentation begins; frames and sound are placed by their
timestamps, so files with variable frame rate, late streams or gaps stay synchronous.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import containers, packets
from data_prep.decoding.containers import MISSING_END_SECS, TIMESTAMP_SLACK_SECS
from data_prep.decoding.packets import ClockError, FileEnd, Survey
from data_prep.decoding.pictures import PictureReader, too_long
from data_prep.decoding.sounds import SoundReader
from data_prep.decoding.timed_frames import RewindError, TimedStream
from data_prep.reasons import (
    CANNOT_OPEN,
    DECODE_ERROR,
    IO_ERROR,
    LENGTH_MISMATCH,
    NO_AUDIO,
    NO_VIDEO,
    SILENT_AUDIO,
    TOO_LARGE,
    TOO_SHORT,
    MediaError,
)
from xdc_tf.data.dataset_info import AUDIO, VIDEO

# Sound may end this much before the picture (codecs end on whole blocks); past it, the
# segment is cut where the sound ends.
_MISSING_SOUND_SECS = 0.1
# Lengths that differ by less are never of a wrong pair.
_LENGTH_SLACK_SECS = 1.0
# What a segment past the end of the file is refused for at first.
_PAST_END_REASONS = frozenset({DECODE_ERROR, TOO_SHORT, TOO_LARGE})
# After these, a decoder's state is anyone's guess.
_REOPENED_AFTER = frozenset({DECODE_ERROR, CANNOT_OPEN, IO_ERROR})
# Peak-to-peak amplitude of three steps of 16-bit sound: dither, not a recording.
_SILENCE_PEAK_TO_PEAK = 1e-4


class Segment(NamedTuple):
    """A stretch of a file, in seconds; to its end if end_secs is None."""

    start_secs: float = 0.0
    end_secs: float | None = None


class Media(NamedTuple):
    """A decoded segment.

    Attributes:
      frames_jpeg: T JPEG images, duration_secs * fps of them; none without video.
      height: pixels; 0 without video.
      width: pixels; 0 without video.
      waveform: [samples] float32 mono, nominally in [-1, 1]; None without audio.
      duration_secs: length of the segment that is there.
      truncated: what ended it before its time, where that is accepted; or "".
    """

    frames_jpeg: list[bytes]
    height: int
    width: int
    waveform: np.ndarray | None
    duration_secs: float
    truncated: str = ""


class PastEndError(MediaError):
    """A segment that begins past the end of its file.

    Attributes:
      end: of the file, which tells what becomes of other segments.
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


def read_segments(
    path: str, segments: Sequence[Segment], settings: ConversionSettings
) -> Iterator[Media | MediaError]:
    """Decodes segments of a local file, reading it once if they are in order.

    Output frame i is the one on show at start_secs + i / fps, to within half a frame
    (PictureReader.read). A segment ends at its end_secs, or where the file's picture,
    or its sound if that is wanted, ends. Frames are turned upright, made whole if they
    are interlaced, brought to square pixels and resized. Channels of sound are
    averaged. With audio alone the picture is not looked at, and the other way.

    Args:
      path: a file in any format that FFmpeg reads.
      segments: what to decode; memory is that of one of them.
      settings: what to make of it, and the limits.

    Yields:
      For each segment what it holds, or why it cannot be used.
    """
    recording = end = survey = None
    with contextlib.ExitStack() as stack:
        for segment in segments:
            try:
                if end is not None:
                    check_not_past_end(segment, end, settings)
                try:
                    recording = recording or stack.enter_context(
                        _open(path, settings, survey)
                    )
                    media = recording.read(segment)
                except (ClockError, RewindError) as error:
                    stack.close()
                    recording = None
                    if isinstance(error, ClockError):
                        survey = _survey_clocks(path, error, survey)
                    recording = stack.enter_context(_open(path, settings, survey))
                    media = _read_again(recording, segment)
            except MediaError as refusal:
                is_past_end = isinstance(refusal, PastEndError)
                if is_past_end:
                    end = refusal.end
                yield refusal
                if is_past_end or refusal.reason in _REOPENED_AFTER:
                    stack.close()
                    recording = None
                continue
            yield media
            if media.truncated:
                stack.close()
                recording = None


def _read_again(recording: "_Recording", segment: Segment) -> Media:
    try:
        return recording.read(segment)
    except (ClockError, RewindError) as error:
        raise MediaError(DECODE_ERROR, str(error)) from error


def _survey_clocks(path: str, error: ClockError, survey: Survey | None) -> Survey:
    """What explains time stamps that went back.

    Raises:
      MediaError: nothing does.
    """
    explained = packets.survey(path)
    explained.check_clocks()
    if survey is not None or not explained.joints:
        raise MediaError(DECODE_ERROR, str(error)) from error
    return explained


@contextlib.contextmanager
def _open(
    path: str, settings: ConversionSettings, survey: Survey | None
) -> Iterator["_Recording"]:
    """A recording whose file is worth decoding.

    Args:
      path: of a local file.
      settings: what is wanted of it.
      survey: of its packets, if its clocks go back.

    Raises:
      MediaError: cannot_open, too_large, no_video or no_audio.
    """
    containers.check_file(path, limit_bytes=int(settings.max_file_mib * 2**20))
    pictures = sounds = None
    joints = survey.joints if survey else {}
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(containers.open_media(path))
        containers.check_single(container, path)
        streams = containers.choose_streams(container, path)
        if VIDEO in settings.modalities and streams.video is None:
            raise MediaError(NO_VIDEO, "the file has no video stream")
        if AUDIO in settings.modalities and streams.audio is None:
            raise MediaError(NO_AUDIO, "the file has no audio stream")
        origin_secs = containers.origin_secs(container, streams)
        declared_secs = containers.declared_secs(container, origin_secs)
        if survey:
            declared_secs = survey.end_secs()
        clock = packets.Clock(path, containers.has_steady_clock(container, streams))
        if VIDEO in settings.modalities:
            _check_size(streams.video, settings)
            containers.read_alone(streams.video)
            joints_of = joints.get(VIDEO, ())
            end_secs = containers.picture_end_secs(streams.video, path, origin_secs)
            stream = TimedStream(streams.video, origin_secs, clock, joints_of)
            pictures = PictureReader(stream, settings, end_secs)
            late_secs = pictures.late_secs()
            if late_secs:
                origin_secs += late_secs
                declared_secs = max(0.0, declared_secs - late_secs)
                stream.begin_at(late_secs)
                pictures = PictureReader(stream, settings, end_secs - late_secs)
        if AUDIO in settings.modalities:
            audio = streams.audio
            if pictures is not None:
                # A container for each stream: packets of the other need no keeping.
                container = stack.enter_context(containers.open_media(path))
                audio = container.streams[streams.audio.index]
            containers.read_alone(audio)
            stream = TimedStream(audio, origin_secs, clock, joints.get(AUDIO, ()))
            sounds = SoundReader(stream, settings.log_mel.sample_rate_hz)
        yield _Recording(path, settings, origin_secs, declared_secs, pictures, sounds)


def _check_size(stream, settings: ConversionSettings) -> None:
    most = round(settings.max_megapixels * 1e6)
    codec = stream.codec_context
    if codec.width * codec.height > most:
        raise MediaError(
            TOO_LARGE,
            f"pictures of {codec.width}x{codec.height} pixels, the limit is "
            f"{settings.max_megapixels:g} million",
        )
    # Also of frames that turn out larger than the file says.
    codec.options = {"max_pixels": str(most)}


class _Recording(NamedTuple):
    """An open file and its readers; None for what is not wanted."""

    path: str
    settings: ConversionSettings
    origin_secs: float
    declared_secs: float
    pictures: PictureReader | None
    sounds: SoundReader | None

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
        if self.pictures is None:
            return self._read_sound(segment)
        frames_jpeg, picture_end_secs, damage = self.pictures.read(start_secs, end_secs)
        self._judge(damage)
        if len(frames_jpeg) < 2 and picture_end_secs < self._due_secs(end_secs):
            # Truncated, where even the sound is not longer, and not just short.
            self._truncated(picture_end_secs, end_secs, damage, len(frames_jpeg))
        self._check_length(len(frames_jpeg) / self.settings.fps, "picture")
        waveform, sound_end_secs = None, math.inf
        video_end_secs = start_secs + len(frames_jpeg) / self.settings.fps
        if self.sounds is not None:
            waveform, sound_end_secs, sound_damage = self.sounds.read(
                start_secs, video_end_secs
            )
            self._judge(sound_damage)
            damage = damage or sound_damage
        last_secs = picture_end_secs
        if self.sounds is not None:
            last_secs = max(last_secs, sound_end_secs)
        truncated = self._truncated(last_secs, end_secs, damage, len(frames_jpeg))
        if waveform is not None and not truncated:
            self._check_lengths(segment, picture_end_secs, sound_end_secs)
        if waveform is not None:
            if sound_end_secs + _MISSING_SOUND_SECS < video_end_secs:
                sound_secs = sound_end_secs - start_secs + TIMESTAMP_SLACK_SECS
                del frames_jpeg[max(0, math.floor(sound_secs * self.settings.fps)) :]
                self._check_length(len(frames_jpeg) / self.settings.fps, "sound")
            rate_hz = self.settings.log_mel.sample_rate_hz
            waveform = waveform[: round(len(frames_jpeg) / self.settings.fps * rate_hz)]
            _check_sound(waveform, self.sounds.widest)
        return Media(
            frames_jpeg,
            *self.pictures.image_shape,
            waveform,
            duration_secs=len(frames_jpeg) / self.settings.fps,
            truncated=truncated,
        )

    def _read_sound(self, segment: Segment) -> Media:
        start_secs, end_secs = segment
        rate_hz = self.settings.log_mel.sample_rate_hz
        limit_secs = end_secs
        if end_secs is None:
            # A little more than is allowed, so that what is longer shows.
            limit_secs = start_secs + self.settings.max_secs + 1
        waveform, sound_end_secs, damage = self.sounds.read(
            start_secs, limit_secs, pad=False
        )
        self._judge(damage)
        if sound_end_secs < limit_secs:
            sound_secs = max(0.0, sound_end_secs - start_secs)
            waveform = waveform[: round(sound_secs * rate_hz)]
        duration_secs = len(waveform) / rate_hz
        if end_secs is None and duration_secs > self.settings.max_secs:
            raise too_long(duration_secs, self.settings.max_secs)
        truncated = self._truncated(sound_end_secs, end_secs, damage, 0)
        self._check_length(duration_secs, "sound")
        _check_sound(waveform, self.sounds.widest)
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
        self, segment: Segment, picture_end_secs: float, sound_end_secs: float
    ) -> None:
        """Refuses picture and sound that cannot be of one recording."""
        start_secs, end_secs = segment
        end_secs = math.inf if end_secs is None else end_secs
        ratio = self.settings.max_length_ratio
        picture_secs = min(picture_end_secs, end_secs) - start_secs
        if sound_end_secs == math.inf:
            # It goes on after the picture: how far is rarely worth a look.
            sound_end_secs = picture_end_secs
            if self.declared_secs - start_secs > picture_secs * ratio:
                sound_end_secs = packets.survey(self.path).end_secs((AUDIO,))
        sound_secs = max(0.0, min(sound_end_secs, end_secs) - start_secs)
        shorter, longer = sorted((picture_secs, sound_secs))
        if shorter * ratio < longer and longer - shorter > _LENGTH_SLACK_SECS:
            raise MediaError(
                LENGTH_MISMATCH,
                f"{picture_secs:.1f} s of picture and {sound_secs:.1f} s of sound, the "
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


def _check_sound(waveform: np.ndarray, widest_channel: float) -> None:
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
