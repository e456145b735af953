"""The files of a clip: H.264 and AAC in mp4, a JPEG poster, a PNG spectrogram.

They are made in worker processes, which import no TensorFlow, and their answer is
checked where it is read.
"""

import io
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from data_prep import answers
from data_prep.answers import Form, Packed, Value
from data_prep.reasons import DECODE_ERROR, MediaError
from xdc_tf.data import log_mel
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime import pictures

SHORT_SIDE = 320
# Of a sound that people hear, whatever the records keep of it.
SAMPLE_RATE_HZ = 48000
SOUND = LogMelSettings(
    sample_rate_hz=SAMPLE_RATE_HZ,
    hop_ms=25.0,
    fft_size=2048,
    num_filters=64,
    max_hz=16000.0,
)
_POSTER_QUALITY = 80
_QUIETEST_DB = 200.0
_FINGERPRINT_SIDE = 8
# The same bytes on all processors.
_X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "26",
    "x264-params": "cpu-independent=1",
}
_AAC_OPTIONS = {"aac_coder": "fast"}  # a third of the time of the default
_MAGIC = {
    "clip": (4, b"ftyp"),
    "poster": (0, b"\xff\xd8\xff"),
    "spectrogram": (0, b"\x89PNG\r\n\x1a\n"),
}


class Clip(NamedTuple):
    """What was made of an example.

    Attributes:
      clip: an mp4 file of H.264 and AAC, either of them or both; b"" without any.
      poster: a JPEG image of the middle; b"" without frames.
      spectrogram: a PNG image, time from left to right; b"" without sound.
      secs: length of the clip.
      has_sound: whether the clip has a sound track.
      brightness: mean luma of its brightest frame in [0, 1]; 1 without frames.
      quiet_db: how far its sound is below full scale; 0 without a waveform.
      fingerprint: of the middle frame, hexadecimal; "" without frames.
      note: what a viewer should know.
    """

    clip: bytes
    poster: bytes
    spectrogram: bytes
    secs: float
    has_sound: bool
    brightness: float = 1.0
    quiet_db: float = 0.0
    fingerprint: str = ""
    note: str = ""


class Content(NamedTuple):
    """Frames [T, H, W, 3] uint8 and a waveform at SAMPLE_RATE_HZ, either or both."""

    frames: np.ndarray | None
    fps: float
    waveform: np.ndarray | None
    note: str = ""


def resample(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """A waveform [samples] at SAMPLE_RATE_HZ."""
    import av

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE_HZ)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(waveform[None], np.float32), "fltp", "mono"
    )
    frame.sample_rate = sample_rate_hz
    blocks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def make_clip(content: Content, rows: np.ndarray | None) -> Clip:
    """The files of an example's content.

    Args:
      content: of the example.
      rows: [L, D] float32, drawn as the spectrogram where there is no waveform.

    Raises:
      MediaError: it has samples that are not finite.
    """
    frames, waveform = content.frames, content.waveform
    if waveform is not None and not len(waveform):
        waveform = None
    if waveform is not None:
        if not np.isfinite(waveform).all():
            raise MediaError(DECODE_ERROR, "samples that are not finite numbers")
        waveform = np.clip(waveform, -1.0, 1.0).astype(np.float32)
        rows = log_mel.log_mel(waveform, SOUND)
    poster, fingerprint, brightness, secs = b"", "", 1.0, 0.0
    if frames is not None and len(frames):
        frames = _fitted(frames)
        poster = _jpeg(frames[len(frames) // 2])
        lumas = frames.mean(axis=(1, 2, 3))
        brightness = float(lumas.max()) / 255
        fingerprint = _fingerprint(frames[len(frames) // 2])
        secs = len(frames) / content.fps
    quiet_db = 0.0
    if waveform is not None:
        power = float(np.mean(np.square(waveform, dtype=np.float64)))
        quiet_db = min(_QUIETEST_DB, max(0.0, -10 * np.log10(max(power, 1e-30))))
        secs = max(secs, len(waveform) / SAMPLE_RATE_HZ)
    return Clip(
        clip=_mp4(frames, content.fps, waveform),
        poster=poster,
        spectrogram=b"" if rows is None or not rows.size else _png(rows),
        secs=secs,
        has_sound=waveform is not None,
        brightness=brightness,
        quiet_db=quiet_db,
        fingerprint=fingerprint,
        note=content.note,
    )


def _fitted(frames: np.ndarray) -> np.ndarray:
    """Frames of even sides and a short side of SHORT_SIDE at most."""
    import av
    from av.video.reformatter import VideoReformatter

    height, width = frames.shape[1:3]
    scale = min(1.0, SHORT_SIDE / min(height, width))
    size = [max(2, round(side * scale) // 2 * 2) for side in (height, width)]
    if [height, width] == size:
        return frames
    reformatter = VideoReformatter()
    fitted = []
    for image in frames:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        small = reformatter.reformat(
            frame, size[1], size[0], "rgb24", interpolation="AREA", threads=1
        )
        fitted.append(small.to_ndarray())
    return np.stack(fitted)


def _mp4(frames: np.ndarray | None, fps: float, waveform: np.ndarray | None) -> bytes:
    """The bytes of an mp4 file; b"" without frames and sound."""
    if frames is None and waveform is None:
        return b""
    import av

    path = os.path.join(tempfile.gettempdir(), f"clip-{os.getpid()}.mp4")
    options = {"movflags": "+faststart"}  # so that it plays while it is loaded
    try:
        with av.open(path, "w", format="mp4", options=options) as container:
            video = audio = None
            if frames is not None:
                rate = Fraction(fps).limit_denominator(1001)
                video = container.add_stream(
                    "libx264", rate=rate, options=_X264_OPTIONS
                )
                video.height, video.width = frames.shape[1:3]
                video.pix_fmt = "yuv420p"
                video.codec_context.thread_count = 1
            if waveform is not None:
                audio = container.add_stream(
                    "aac", rate=SAMPLE_RATE_HZ, layout="mono", options=_AAC_OPTIONS
                )
                audio.codec_context.bit_rate = 64_000
            if video is not None and frames is not None:
                for image in frames:
                    frame = av.VideoFrame.from_ndarray(
                        np.ascontiguousarray(image), "rgb24"
                    )
                    container.mux(video.encode(frame))
                container.mux(video.encode(None))
            if audio is not None and waveform is not None:
                sound = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
                sound.sample_rate = SAMPLE_RATE_HZ
                container.mux(audio.encode(sound))
                container.mux(audio.encode(None))
        with open(path, "rb") as file:
            return file.read()
    finally:
        if os.path.exists(path):
            os.remove(path)


def _jpeg(frame: np.ndarray) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(frame), quality=_POSTER_QUALITY, colorspace="RGB"
    )


def _png(rows: np.ndarray) -> bytes:
    """A picture of a log-mel [L, D], low frequencies at the bottom."""
    from PIL import Image

    image = Image.fromarray(pictures.spectrogram_levels(rows), "L").convert("P")
    image.putpalette(pictures.PALETTE.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _fingerprint(frame: np.ndarray) -> str:
    """Means of luma in 8 x 8 fields of a frame, hexadecimal."""
    luma = frame.mean(axis=2)
    side = _FINGERPRINT_SIDE
    rows = np.array_split(luma, side, axis=0)
    fields = [
        field.mean() if field.size else 0.0
        for row in rows
        for field in np.array_split(row, side, axis=1)
    ]
    return bytes(round(value) for value in fields).hex()


def _pack(clip: Clip) -> Packed:
    files = {name: getattr(clip, name) for name in _MAGIC}
    values: dict[str, Value] = {name: len(data) for name, data in files.items()}
    values |= {
        "secs": clip.secs,
        "has_sound": int(clip.has_sound),
        "brightness": clip.brightness,
        "quiet_db": clip.quiet_db,
        "fingerprint": clip.fingerprint,
        "note": clip.note,
    }
    return Packed(values, [data for data in files.values() if data])


def _unpack(values: Mapping[str, Value], data: memoryview) -> Clip:
    numbers = ("secs", "brightness", "quiet_db")
    answers.check_keys(values, *_MAGIC, *numbers, "has_sound", "fingerprint", "note")
    parts, first = {}, 0
    for name, (place, magic) in _MAGIC.items():
        size = answers.whole_number(values, name)
        part = bytes(data[first : first + size])
        if len(part) != size or (size and part[place:][: len(magic)] != magic):
            raise ValueError(f"no {name}")
        parts[name], first = part, first + size
    if first != len(data):
        raise ValueError("more bytes than those of a clip")
    fingerprint = answers.text(values, "fingerprint")
    bytes.fromhex(fingerprint)
    secs, brightness, quiet_db = (
        answers.finite_number(values, name) for name in numbers
    )
    return Clip(
        **parts,
        secs=secs,
        has_sound=bool(answers.whole_number(values, "has_sound")),
        brightness=brightness,
        quiet_db=quiet_db,
        fingerprint=fingerprint,
        note=answers.text(values, "note"),
    )


CLIP_FORM = Form(_pack, _unpack)
