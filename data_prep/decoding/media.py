"""Segments of one media file -> JPEG frames and mono waveforms on one time axis.

Time 0 is where the file's presentation begins; frames and audio are placed by their
timestamps, so files with variable frame rate, late streams or gaps stay synchronous.
"""

import contextlib
from collections.abc import Iterator, Sequence

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import containers, packets
from data_prep.decoding.audio_reader import AudioReader
from data_prep.decoding.frame_reader import FrameReader
from data_prep.decoding.packets import ClockError, Survey
from data_prep.decoding.recording import (
    Media,
    PastEndError,
    Recording,
    Segment,
    check_not_past_end,
)
from data_prep.decoding.timed_frames import RewindError, TimedStream
from data_prep.reasons import (
    CANNOT_OPEN,
    DECODE_ERROR,
    IO_ERROR,
    NO_AUDIO,
    NO_VIDEO,
    TOO_LARGE,
    MediaError,
)
from xdc_tf.data.payloads import AUDIO, VIDEO

# After these, a decoder's state is anyone's guess.
_REOPENED_AFTER = frozenset({DECODE_ERROR, CANNOT_OPEN, IO_ERROR})


def read_segments(
    path: str, segments: Sequence[Segment], settings: ConversionSettings
) -> Iterator[Media | MediaError]:
    """Decodes segments of a local file, reading it once if they are in order.

    Output frame i is the one on show at start_secs + i / fps, to within half a frame
    (FrameReader.read). A segment ends at its end_secs, or where the file's frames,
    or its audio if that is to be stored, end. Frames are turned upright, made whole if
    they are interlaced, brought to square pixels and resized. Channels of audio are
    averaged. With audio alone the video stream is not read, and the other way.

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


def _read_again(recording: Recording, segment: Segment) -> Media:
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
) -> Iterator[Recording]:
    """A recording whose file is worth decoding.

    Args:
      path: of a local file.
      settings: what is to be stored of it.
      survey: of its packets, if its clocks go back.

    Raises:
      MediaError: cannot_open, too_large, no_video or no_audio.
    """
    containers.check_file(path, limit_bytes=int(settings.max_file_mib * 2**20))
    frame_reader = audio_reader = None
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
            end_secs = containers.frames_end_secs(streams.video, path, origin_secs)
            stream = TimedStream(streams.video, origin_secs, clock, joints_of)
            frame_reader = FrameReader(stream, settings, end_secs)
            late_secs = frame_reader.late_secs()
            if late_secs:
                origin_secs += late_secs
                declared_secs = max(0.0, declared_secs - late_secs)
                stream.begin_at(late_secs)
                frame_reader = FrameReader(stream, settings, end_secs - late_secs)
        if AUDIO in settings.modalities:
            audio = streams.audio
            if frame_reader is not None:
                # A container for each stream: packets of the other need no keeping.
                container = stack.enter_context(containers.open_media(path))
                audio = container.streams[streams.audio.index]
            containers.read_alone(audio)
            stream = TimedStream(audio, origin_secs, clock, joints.get(AUDIO, ()))
            audio_reader = AudioReader(stream, settings.log_mel.sample_rate_hz)
        yield Recording(
            path, settings, origin_secs, declared_secs, frame_reader, audio_reader
        )


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
