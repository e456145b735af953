"""One segment of a video file -> JPEG frames and mono waveform on one time axis.

Time 0 is where the file's presentation begins; frames and sound are placed by their
timestamps, never by counting, so files with variable frame rate, late streams or gaps
stay synchronous.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np

from data_prep.jpeg_encoder import JpegEncoder
from xdc_tf.data.dataset_info import AUDIO, MODALITIES

# Reasons for refusal.
CANNOT_OPEN = "cannot_open"
NO_VIDEO = "no_video"
NO_AUDIO = "no_audio"
SILENT_AUDIO = "silent_audio"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
DECODE_ERROR = "decode_error"

# Containers round timestamps, Matroska to whole milliseconds.
_TIMESTAMP_SLACK_SECS = 1e-3
# Decoding begins this much before the segment, so that decoders have settled.
_SEEK_MARGIN_SECS = 1.0
# Sound that jumps by more than this is placed anew; less is timestamp jitter.
_AUDIO_GAP_SECS = 0.05
# Sound may end this much before the picture (codecs end on whole blocks); past it, the
# segment is cut where the sound ends.
_MISSING_SOUND_SECS = 0.1
# A file that ends this much before the time it declares was truncated.
_MISSING_END_SECS = 1.0
# Peak-to-peak amplitude of three steps of 16-bit sound: dither, not a recording.
_SILENCE_PEAK_TO_PEAK = 1e-4


class MediaError(Exception):
    """A file that cannot be used: one of the reasons above, and the detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Media(NamedTuple):
    """A decoded segment, `len(frames_jpeg) / fps` seconds long."""

    frames_jpeg: list[bytes]
    height: int
    width: int
    # [samples] float32 mono, nominally in [-1, 1]; None if no sound was asked for
    waveform: np.ndarray | None


def read_media(
    path: str,
    *,
    start_secs: float,
    end_secs: float | None,
    fps: float,
    short_side: int,
    jpeg_quality: int,
    sample_rate_hz: int,
    min_secs: float,
    max_secs: float,
    modalities: Sequence[str] = MODALITIES,
) -> Media:
    """Decodes a segment; output frame i is the one on show at start_secs + i / fps.

    The segment ends at end_secs, or where the file's picture, or its sound if that is
    wanted, ends. Frames are turned upright, brought to square pixels, and resized so
    that their shorter side is short_side. Channels of sound are averaged.

    Args:
        path: a local file in any format FFmpeg reads.
        start_secs: where the segment begins.
        end_secs: where it ends, None for the end of the file.
        fps: frames per second to produce.
        short_side: pixels of the shorter side.
        jpeg_quality: 1 to 95.
        sample_rate_hz: of the waveform.
        min_secs: shorter segments are refused.
        max_secs: longer ones are refused; bounds the memory.
        modalities: video, or video and audio; without audio, no sound is decoded and
            a file needs to have none.

    Raises:
        MediaError: the file or the segment cannot be used.
    """
    if end_secs is not None and end_secs - start_secs > max_secs:
        raise _too_long(end_secs - start_secs, max_secs)
    with _open(path) as container:
        stream = _video_stream(container)
        if AUDIO in modalities:
            _audio_stream(container)  # refuse before decoding what cannot be used
        declared_secs = (container.duration or 0) / av.time_base
        if end_secs is None and declared_secs - start_secs > max_secs:
            raise _too_long(declared_secs - start_secs, max_secs)
        encoder = JpegEncoder(short_side, jpeg_quality, stream)
        try:
            frames_jpeg, picture_end_secs = _read_frames(
                container, stream, encoder, start_secs, end_secs, fps, max_secs
            )
        except (av.FFmpegError, OSError) as error:
            raise MediaError(DECODE_ERROR, f"picture: {_message(error)}") from error
    _check_length(len(frames_jpeg), fps, min_secs, "picture")

    # A second pass over the file: packets of the other stream need no keeping.
    waveform, sound_end_secs = None, math.inf
    video_end_secs = start_secs + len(frames_jpeg) / fps
    due_secs = min(declared_secs, end_secs or math.inf) - _MISSING_END_SECS
    try:
        if AUDIO in modalities:
            with _open(path) as container:
                stream = _audio_stream(container)
                waveform, sound_end_secs = _read_waveform(
                    container, stream, start_secs, video_end_secs, sample_rate_hz
                )
        elif picture_end_secs < due_secs:
            # The declared end may be that of a longer sound.
            sound_end_secs = _last_packet_secs(path)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(DECODE_ERROR, f"sound: {_message(error)}") from error
    last_secs = max(picture_end_secs, sound_end_secs)
    if last_secs < due_secs:
        raise MediaError(
            DECODE_ERROR,
            f"truncated: ends at {last_secs:.1f} s of {declared_secs:.1f} s declared",
        )
    height, width = encoder.image_shape
    if waveform is None:
        return Media(frames_jpeg, height, width, None)
    if sound_end_secs + _MISSING_SOUND_SECS < video_end_secs:
        sound_secs = sound_end_secs - start_secs + _TIMESTAMP_SLACK_SECS
        del frames_jpeg[max(0, math.floor(sound_secs * fps)) :]
        _check_length(len(frames_jpeg), fps, min_secs, "sound")
        waveform = waveform[: round(len(frames_jpeg) / fps * sample_rate_hz)]
    if not np.isfinite(waveform).all():
        raise MediaError(DECODE_ERROR, "sound: samples that are not finite numbers")
    if np.ptp(waveform) < _SILENCE_PEAK_TO_PEAK:
        raise MediaError(
            SILENT_AUDIO, f"peak-to-peak amplitude {np.ptp(waveform):.1e} of at most 2"
        )
    return Media(frames_jpeg, height, width, waveform)


def _open(path: str) -> av.container.InputContainer:
    try:
        # Tags in odd encodings are no reason to refuse a file.
        return av.open(path, metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(CANNOT_OPEN, _message(error)) from error


def _message(error: OSError | av.FFmpegError) -> str:
    """The error in words, without its number and the path that is known anyway."""
    return error.strerror or str(error)


def _video_stream(container) -> av.VideoStream:
    for stream in container.streams.video:
        # The cover picture of a music file is a video stream to FFmpeg.
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.codec_context.thread_count = 1  # processes are the parallelism
            return stream
    raise MediaError(NO_VIDEO, "the file has no video stream")


def _audio_stream(container) -> av.AudioStream:
    if not container.streams.audio:
        raise MediaError(NO_AUDIO, "the file has no audio stream")
    return container.streams.audio[0]


def _check_length(num_frames: int, fps: float, min_secs: float, what: str) -> None:
    if num_frames < max(1, min_secs * fps - 1e-6):
        raise MediaError(
            TOO_SHORT,
            f"{num_frames / fps:.3f} s of {what} from the segment's start, need "
            f"{max(min_secs, 1 / fps):.3f} s",
        )


def _too_long(secs: float, max_secs: float) -> MediaError:
    return MediaError(
        TOO_LONG,
        f"{secs:.1f} s, the limit is {max_secs:.1f} s; cut it into segments with "
        "start_secs and end_secs, or raise the limit",
    )


def _timed_frames(
    container, stream, start_secs: float
) -> Iterator[tuple[float, av.frame.Frame]]:
    """Yields (secs, frame) in order of presentation, from before start_secs on."""
    origin_secs = (container.start_time or 0) / av.time_base
    if start_secs > _SEEK_MARGIN_SECS:
        secs = origin_secs + start_secs - _SEEK_MARGIN_SECS
        target = int(secs / stream.time_base)
        container.seek(target, stream=stream)
        first = next(container.decode(stream), None)
        if first is None or _frame_secs(first, 0.0) - origin_secs > start_secs:
            # No key frame between there and the segment (formats without an index,
            # such as MPEG-TS): read from the beginning.
            container.seek(min(0, container.start_time or 0))
        else:
            container.seek(target, stream=stream)
    expected_secs = origin_secs
    for frame in container.decode(stream):
        secs = _frame_secs(frame, expected_secs)
        expected_secs = secs + _duration_secs(frame, stream)
        yield secs - origin_secs, frame


def _last_packet_secs(path: str) -> float:
    """Time in the file where its last packet ends, whatever stream it belongs to."""
    last_secs = 0.0
    with _open(path) as container:
        origin_secs = (container.start_time or 0) / av.time_base
        for packet in container.demux():
            timestamp = packet.pts if packet.pts is not None else packet.dts
            if timestamp is not None:
                end = (timestamp + (packet.duration or 0)) * packet.time_base
                last_secs = max(last_secs, float(end) - origin_secs)
    return last_secs


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


def _read_frames(
    container,
    stream,
    encoder: JpegEncoder,
    start_secs: float,
    end_secs: float | None,
    fps: float,
    max_secs: float,
) -> tuple[list[bytes], float]:
    """The segment's frames as JPEG; none when it begins past the video's end.

    Returns:
        The frames, and the time in the file where the picture ended; infinite if the
        segment was over before.
    """
    frames_jpeg: list[bytes] = []
    limit = math.inf
    if end_secs is not None:
        limit = math.floor((end_secs - start_secs + _TIMESTAMP_SLACK_SECS) * fps)

    def show(frame, until_secs: float) -> None:
        """Appends the frame for each output instant before until_secs."""
        shown_secs = until_secs - start_secs - _TIMESTAMP_SLACK_SECS
        jpeg = None
        while len(frames_jpeg) < limit and len(frames_jpeg) / fps < shown_secs:
            if len(frames_jpeg) >= max_secs * fps + 1:
                raise _too_long(until_secs - start_secs, max_secs)
            # A frame on show at several instants is compressed once.
            jpeg = jpeg or encoder.encode(frame)
            frames_jpeg.append(jpeg)

    shown, until_secs = None, 0.0
    for secs, frame in _timed_frames(container, stream, start_secs):
        # The first frame also stands for the instants before it.
        if shown is not None:
            show(shown, secs)
        if len(frames_jpeg) >= limit:
            return frames_jpeg, math.inf
        shown, until_secs = frame, secs + _duration_secs(frame, stream)
    if shown is None:
        raise MediaError(DECODE_ERROR, "picture: no frame could be decoded")
    show(shown, until_secs)
    # The last instant may have less than a whole 1 / fps of video behind it.
    shown_secs = until_secs - start_secs + _TIMESTAMP_SLACK_SECS
    del frames_jpeg[max(0, math.floor(shown_secs * fps)) :]
    return frames_jpeg, until_secs


def _read_waveform(
    container, stream, start_secs: float, end_secs: float, sample_rate_hz: int
) -> tuple[np.ndarray, float]:
    """The waveform of [start_secs, end_secs), zero where the file has no sound.

    Returns:
        [samples] float32, and the time in the file where the sound ended; infinite if
        it went on past end_secs.
    """
    waveform = np.zeros(round((end_secs - start_secs) * sample_rate_hz), np.float32)
    resampler = None
    expected_secs, kind, position = -math.inf, None, 0
    sound_end_secs = 0.0

    def place(frames) -> None:
        """Writes resampled frames at `position` and moves it on."""
        nonlocal position
        for frame in frames:
            samples = frame.to_ndarray().mean(axis=0, dtype=np.float32)
            skipped = max(0, -position)
            kept = samples[skipped : max(0, len(waveform) - position)]
            waveform[position + skipped : position + skipped + len(kept)] = kept
            position += len(samples)

    for secs, frame in _timed_frames(container, stream, start_secs):
        # Some more than asked for, since the resampler holds back its last samples.
        if secs > end_secs + _AUDIO_GAP_SECS:
            sound_end_secs = math.inf
            break
        jumped = abs(secs - expected_secs) > _AUDIO_GAP_SECS
        frame_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if jumped or frame_kind != kind:
            if resampler is not None:
                place(resampler.resample(None))
            # Channels stay: FFmpeg's mix to mono would exceed full scale.
            resampler = av.AudioResampler(format="fltp", rate=sample_rate_hz)
            kind = frame_kind
            position = round((secs - start_secs) * sample_rate_hz)
        expected_secs = sound_end_secs = secs + _duration_secs(frame, stream)
        frame.pts = None
        place(resampler.resample(frame))
    if resampler is not None:
        place(resampler.resample(None))
    return waveform, sound_end_secs
