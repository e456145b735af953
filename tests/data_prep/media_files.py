"""Small real media files for tests, written with PyAV."""

import struct
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from xdc_tf.runtime import files

SAMPLE_RATE_HZ = 16000


def digests(folder) -> dict[str, str]:
    """SHA-256 of each file of a folder."""
    return {path.name: files.sha256(path) for path in folder.iterdir()}


def tone(secs: float, *, hz: float = 1000.0, start_secs: float = 0.0) -> np.ndarray:
    """[samples] float32: silence, from start_secs on a sine of amplitude 0.5."""
    time = np.arange(round(secs * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    sine = 0.5 * np.sin(2 * np.pi * hz * time)
    return np.where(time >= start_secs, sine, 0.0).astype(np.float32)


def grey_of_time(secs: float) -> int:
    """Grey level that tells the tenth of a second, over 2.3 seconds."""
    return 20 + 10 * (int(secs * 10 + 1e-6) % 23)


def write_media(
    path,
    *,
    secs: float = 1.0,
    fps: int = 30,
    size: tuple[int, int] = (64, 48),
    grey: Callable[[float], int] | None = grey_of_time,
    waveform: np.ndarray | None = None,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    options: dict[str, str] | None = None,
) -> str:
    """Writes frames of one grey each (none if grey is None), and sound if given.

    waveform is [samples] or [2, samples] float32 at SAMPLE_RATE_HZ.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        if grey is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = Fraction(1, fps)
        if waveform is not None:
            channels = np.atleast_2d(waveform)
            layout = "mono" if len(channels) == 1 else "stereo"
            audio = container.add_stream(
                audio_codec, rate=SAMPLE_RATE_HZ, layout=layout
            )
        if grey is not None:
            for index in range(round(secs * fps)):
                image = np.full((size[1], size[0], 3), grey(index / fps), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if waveform is not None:
            for first in range(0, channels.shape[1], 1024):
                block = np.ascontiguousarray(channels[:, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate = SAMPLE_RATE_HZ
                frame.pts, frame.time_base = first, Fraction(1, SAMPLE_RATE_HZ)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return str(path)


def write_lying(path, *, secs: float, declared_secs: float) -> str:
    """Writes a Matroska file that declares another length than it has."""
    write_media(path, secs=secs, waveform=tone(secs), audio_codec="pcm_s16le")
    content = path.read_bytes()
    # The element Duration: a float64 of milliseconds.
    at = content.index(b"\x44\x89\x88") + 3
    declared = struct.pack(">d", declared_secs * 1000)
    path.write_bytes(content[:at] + declared + content[at + 8 :])
    return str(path)


def write_manifest(folder) -> str:
    """Writes a manifest of four rows, the second one broken, and what it names."""
    write_media(folder / "a.mp4", waveform=tone(1.0, hz=400))
    (folder / "broken.mp4").write_text("not a video")
    write_media(folder / "c.mp4", waveform=tone(1.0, hz=800))
    write_media(folder / "d.mp4", secs=1.5, waveform=tone(1.5, hz=1600))
    path = folder / "manifest.csv"
    path.write_text(
        "path,start_secs,end_secs,label\n"
        "a.mp4,,,dog\nbroken.mp4,,,cat\nc.mp4,,,bell\nd.mp4,0.5,1.5,\n"
    )
    return str(path)
