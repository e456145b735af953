"""What a clip is made of, decoded in a worker process: an original, or records.

Strangers' files are decoded by data_prep.decoding, which refuses what is hostile; what
gets past it costs one clip, see data_prep.worker_processes. Nothing here imports
TensorFlow, and frames of records come decoded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.answers import Outcome
from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import containers
from data_prep.decoding.media import read_segments
from data_prep.decoding.recording import Media, Segment
from data_prep.reasons import LENGTH_MISMATCH, SILENT_AUDIO, MediaError
from data_prep.remote_files import local_copy
from xdc_tf.browse import clip_files
from xdc_tf.browse.clip_files import SAMPLE_RATE_HZ, SHORT_SIDE, SOUND, Content
from xdc_tf.data import h264_frames
from xdc_tf.data.payloads import AUDIO, VIDEO, Stored, VideoPayload

MOST_SECS = 4.0
_MOST_FPS = 25.0
_MOST_FILE_MIB = 16384.0


class ClipRequest(NamedTuple):
    """An example, and what its clip is to be made of.

    Attributes:
      file: the original, or "" for what the records hold, which is in the fields below.
      start_secs: where the example begins in the file.
      end_secs: where it ends.
      is_whole: whether it is the whole file.
      slack_secs: lengths that differ by so much are the same.
      modalities: that the records hold, whose streams have the example's length.
      frames: [T, H, W, 3] uint8; None without frames.
      fps: frames per second.
      waveform: [samples] float32; None without.
      sample_rate_hz: of the waveform.
      log_mel: [L, D] float32, drawn where there is no waveform; None without.
    """

    file: str = ""
    start_secs: float = 0.0
    end_secs: float = 0.0
    is_whole: bool = True
    slack_secs: float = 0.5
    modalities: tuple[str, ...] = ()
    frames: np.ndarray | None = None
    fps: float = 0.0
    waveform: np.ndarray | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ
    log_mel: np.ndarray | None = None


def make_clips(requests: Sequence[ClipRequest]) -> Iterator[Outcome]:
    """Makes the clips of some examples, each a Clip or why there is none."""
    for request in requests:
        try:
            content = _read_file(request) if request.file else _of_records(request)
            yield Outcome(clip_files.make_clip(content, request.log_mel))
        except MediaError as refusal:
            yield Outcome(reason=refusal.reason, detail=refusal.detail)


def middle(secs: float) -> tuple[float, float]:
    """Begin and end of the middle of so many seconds, of MOST_SECS at most."""
    begin = max(0.0, secs - MOST_SECS) / 2
    return begin, begin + min(MOST_SECS, secs)


def _read_file(request: ClipRequest) -> Content:
    """Decodes the middle of an example's original.

    Raises:
      MediaError: it cannot be used; LENGTH_MISMATCH if it has another length than when
        it was converted.
    """
    limit_bytes = int(_MOST_FILE_MIB * 2**20)
    with local_copy(request.file, limit_bytes=limit_bytes) as path:
        containers.check_file(path, limit_bytes=limit_bytes)
        settings = _settings_of(path, request)
        places = middle(request.end_secs - request.start_secs)
        segment = Segment(*(request.start_secs + secs for secs in places))
        media = next(read_segments(path, [segment], settings))
        note = ""
        is_silent = isinstance(media, MediaError) and media.reason == SILENT_AUDIO
        if is_silent and VIDEO in settings.modalities:
            settings = settings._replace(modalities=(VIDEO,))
            media = next(read_segments(path, [segment], settings))
            note = "the sound is silent"
    if isinstance(media, MediaError):
        raise media
    return Content(_frames_of(media), settings.fps, media.waveform, note)


def _settings_of(path: str, request: ClipRequest) -> ConversionSettings:
    """What to decode of a file: the streams that it has, not larger than they are."""
    with containers.open_media(path) as container:
        streams = containers.choose_streams(container, path)
        _check_length(container, streams, request)
        fps, short_side = _MOST_FPS, SHORT_SIDE
        if streams.video is not None:
            codec = streams.video.codec_context
            fps = min(_MOST_FPS, float(streams.video.average_rate or _MOST_FPS))
            short_side = max(2, min(SHORT_SIDE, codec.width, codec.height) // 2 * 2)
        modalities = [
            name
            for name, stream in ((VIDEO, streams.video), (AUDIO, streams.audio))
            if stream is not None
        ]
    return ConversionSettings(
        fps=fps,
        short_side=short_side,
        min_secs=0.0,
        log_mel=SOUND,
        modalities=tuple(modalities),
        keep_truncated=True,
        max_length_ratio=1e9,
        max_file_mib=_MOST_FILE_MIB,
        payloads=(Stored("planes", _PLANES, None),) if VIDEO in modalities else (),
    )


def _check_length(container: Any, streams: Any, request: ClipRequest) -> None:
    """Refuses a file that has not the length that it was converted with."""
    if containers.is_bare(container):
        return  # FFmpeg guesses the length of these by their bit rate
    origin_secs = containers.origin_secs(container, streams)
    ends = [
        float((stream.start_time or 0) + stream.duration) * float(stream.time_base)
        - origin_secs
        for modality, stream in ((VIDEO, streams.video), (AUDIO, streams.audio))
        if modality in request.modalities and stream is not None and stream.duration
    ]
    secs = min(ends, default=containers.declared_secs(container, origin_secs))
    late = secs - request.end_secs
    if late < -request.slack_secs or (request.is_whole and late > request.slack_secs):
        raise MediaError(
            LENGTH_MISMATCH,
            f"the original has {secs:.2f} s now, and {request.end_secs:.2f} s were "
            "converted",
        )


def _encode_planes(frames: Sequence[Sequence[np.ndarray]], settings: None) -> bytes:
    (planes,) = frames
    height, width = planes[0].shape
    size = np.array([height, width], "<i4").tobytes()
    return size + b"".join(plane.tobytes() for plane in planes)


def _decode_planes(item: bytes, reformatter: Any) -> np.ndarray:
    """[H, W, 3] uint8 of even height and width."""
    import av

    height, width = np.frombuffer(item[:8], "<i4").tolist()
    half = -(-height // 2), -(-width // 2)
    luma = np.frombuffer(item, np.uint8, height * width, 8).reshape(height, width)
    chroma = np.frombuffer(item, np.uint8, offset=8 + height * width)
    u, v = chroma.reshape(2, *half)
    height, width = height // 2 * 2, width // 2 * 2
    planes = [luma[:height, :width], *(c[: height // 2, : width // 2] for c in (u, v))]
    packed = np.concatenate([plane.reshape(-1) for plane in planes])
    frame = av.VideoFrame.from_ndarray(packed.reshape(-1, width), "yuvj420p")
    return h264_frames.to_rgb(frame, reformatter).to_ndarray()


# Frames as they are: they leave this process only in a clip.
_PLANES = VideoPayload(
    settings=type(None),
    key="",
    frames_per_item=lambda settings: 1,
    encode=_encode_planes,
    check=lambda items, short_side: None,
    faults=lambda items, height, width, number: iter(()),
    decode_item=lambda item: np.zeros((1, 0, 0, 3), np.uint8),
    frame_shape=lambda item: None,
    bytes_per_pixel=lambda settings: 1.5,
    decode_clip=lambda items, places, window, clip, origin: None,
)


def _frames_of(media: Media) -> np.ndarray | None:
    if not media.video_items:
        return None
    from av.video.reformatter import VideoReformatter

    # One for all frames: setting it up takes longer than a small frame.
    reformatter = VideoReformatter()
    return np.stack([_decode_planes(item, reformatter) for item in media.video_items])


def _of_records(request: ClipRequest) -> Content:
    """What the records hold, at the rate of the clip."""
    waveform, notes = request.waveform, []
    if waveform is not None and request.sample_rate_hz != SAMPLE_RATE_HZ:
        waveform = clip_files.resample(waveform, request.sample_rate_hz)
    if waveform is None:
        notes.append("no sound stored")
    return Content(request.frames, request.fps, waveform, "; ".join(notes))
