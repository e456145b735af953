"""A film that tells its own time, and a reader of it.

160 x 120 at 25 frames per second: top left red, top right green, bottom left blue,
bottom right grey; the middle band holds the frame's number as 9 black or white blocks,
the most significant on the left. Sound: 1 kHz for 50 ms from each whole second on,
faint noise else.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, FPS = 160, 120, 25
TICK_SECS = 0.05
_TICK_PEAK = 0.5
COLOURS = {
    "top left": (200, 30, 30),
    "top right": (30, 180, 30),
    "bottom left": (30, 30, 200),
    "bottom right": (128, 128, 128),
}
_PLACES = {
    "top left": (0.2, 0.25),
    "top right": (0.2, 0.75),
    "bottom left": (0.8, 0.25),
    "bottom right": (0.8, 0.75),
}
_NUM_BITS = 9


def picture(number: int) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] uint8: frame number `number`."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for name, colour in COLOURS.items():
        rows = slice(0, 48) if name.startswith("top") else slice(72, HEIGHT)
        columns = slice(0, 80) if name.endswith("left") else slice(80, WIDTH)
        image[rows, columns] = colour
    image[48:72] = 16
    for bit in range(_NUM_BITS):
        if number >> (_NUM_BITS - 1 - bit) & 1:
            image[48:72, 8 + 16 * bit : 24 + 16 * bit] = 235
    return image


def sound(first_secs: float, secs: float, rate_hz: int) -> np.ndarray:
    """[samples] float32 from first_secs on."""
    times = np.arange(round(secs * rate_hz)) / rate_hz + first_secs
    waveform = 0.001 * np.random.default_rng(0).standard_normal(len(times))
    is_tick = times - np.floor(times + 1e-9) < TICK_SECS
    waveform += 0.5 * is_tick * np.sin(2 * np.pi * 1000 * times)
    return waveform.astype(np.float32)


def write(
    path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    secs: float = 4.0,
    first_secs: float = 0.0,
    gop: int = 25,
    num_b_frames: int = 0,
    pix_fmt: str = "yuv420p",
    rate_hz: int = 48000,
    video_options: dict[str, str] | None = None,
    file_format: str | None = None,
    options: dict[str, str] | None = None,
    times_secs: Sequence[float] | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> str:
    """Writes the film from first_secs on, with timestamps from 0 on.

    Args:
      path: where.
      video: codec; None for no picture.
      audio: codec; None for no sound.
      secs: length.
      first_secs: where in the film the file begins.
      gop: frames from one key frame to the next.
      num_b_frames: between two others.
      pix_fmt: of the frames.
      rate_hz: sample rate.
      video_options: of the codec.
      file_format: where the suffix does not tell it.
      options: of the container.
      times_secs: times of the frames that there are, where not all are.
      prepare: changes the video stream before anything is written.
    """
    with av.open(str(path), "w", format=file_format, options=options or {}) as file:
        pictures = sounds = None
        if video:
            pictures = file.add_stream(video, rate=FPS, options=video_options or {})
            pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, pix_fmt
            context = pictures.codec_context
            context.time_base, context.thread_count = Fraction(1, FPS), 1
            context.gop_size, context.max_b_frames = gop, num_b_frames
            if prepare:
                prepare(pictures)
        if audio:
            sounds = file.add_stream(audio, rate=rate_hz, layout="stereo")
            if audio in ("vorbis", "opus", "dca"):
                sounds.codec_context.options = {"strict": "experimental"}
        packets = []
        if pictures:
            for secs_in in times_secs or np.arange(round(secs * FPS)) / FPS:
                number = round((first_secs + secs_in) * FPS)
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = round(secs_in * FPS), Fraction(1, FPS)
                packets += pictures.encode(frame)
            packets += pictures.encode(None)
        if sounds:
            packets += _encode_sound(sounds, sound(first_secs, secs, rate_hz), rate_hz)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            file.mux(packet)
    return str(path)


def _encode_sound(stream, waveform, rate_hz):
    kinds = [kind.name for kind in stream.codec_context.codec.audio_formats]
    resampler = av.AudioResampler(
        "fltp" if "fltp" in kinds else kinds[0], "stereo", rate_hz
    )
    block = stream.codec_context.frame_size or 1024
    for first in range(0, len(waveform), block):
        samples = np.tile(waveform[first : first + block], (2, 1))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = first
        for converted in resampler.resample(frame):
            converted.pts = first
            yield from stream.encode(converted)
    yield from stream.encode(None)


class Encoded(NamedTuple):
    """A packet of a film; times in seconds."""

    kind: str
    data: bytes
    secs: float | None
    decoding_secs: float | None
    duration_secs: float
    is_key: bool


def remux(
    source: str,
    path,
    *,
    file_format: str | None = None,
    kinds: Sequence[str] = ("video", "audio"),
    edit: Callable[[list[Encoded]], Iterable[Encoded]] | None = None,
    options: dict[str, str] | None = None,
) -> str:
    """Writes a file's packets, as they are or edited, into another container."""
    with av.open(source) as file:
        streams = {
            kind: stream for kind in kinds for stream in getattr(file.streams, kind)[:1]
        }
        packets = [
            Encoded(
                packet.stream.type,
                bytes(packet),
                None if packet.pts is None else float(packet.pts * packet.time_base),
                None if packet.dts is None else float(packet.dts * packet.time_base),
                float((packet.duration or 0) * packet.time_base),
                packet.is_keyframe,
            )
            for packet in file.demux(list(streams.values()))
            if packet.size
        ]
        if edit:
            packets = list(edit(packets))
        with av.open(str(path), "w", format=file_format, options=options or {}) as out:
            copies = {
                kind: out.add_stream_from_template(stream)
                for kind, stream in streams.items()
            }
            for encoded in packets:
                out.mux(_packet(encoded, copies[encoded.kind]))
    return str(path)


def _packet(encoded: Encoded, stream) -> av.Packet:
    packet = av.Packet(encoded.data)
    packet.stream, packet.time_base = stream, Fraction(1, 90000)
    if encoded.secs is not None:
        packet.pts = round(encoded.secs * 90000)
    if encoded.decoding_secs is not None:
        packet.dts = round(encoded.decoding_secs * 90000)
    packet.duration = round(encoded.duration_secs * 90000)
    packet.is_keyframe = encoded.is_key
    return packet


class Seen(NamedTuple):
    """What a stored stretch shows.

    Attributes:
      numbers: of its frames.
      errors_secs: for each frame, its time in the film less that in the stretch.
      colour_error: the largest, of 255, of the corners of the first and last frame.
      ticks_secs: where the sound's ticks begin, from the stretch's start on.
    """

    numbers: np.ndarray
    errors_secs: np.ndarray
    colour_error: float
    ticks_secs: np.ndarray


def see(
    video_items: Sequence[bytes],
    waveform: np.ndarray | None,
    *,
    start_secs: float,
    fps: float = FPS,
    rate_hz: int = 16000,
) -> Seen:
    """Reads a stretch that begins at start_secs of the film."""
    images = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in video_items]
    numbers = np.array([_number(image) for image in images])
    times_secs = start_secs + np.arange(len(images)) / fps
    colour_error = max(map(_colour_error, images), default=0.0)
    ticks_secs = np.zeros(0)
    if waveform is not None:
        ticks_secs = _ticks(np.abs(waveform), rate_hz) / rate_hz
    return Seen(numbers, numbers / FPS - times_secs, colour_error, ticks_secs)


def _number(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    row, number = height // 2, 0
    for bit in range(_NUM_BITS):
        column = round((16 + 16 * bit) / WIDTH * width)
        block = image[row - 1 : row + 2, column - 1 : column + 2]
        number = 2 * number + (block.mean() > 120)
    return number


def _colour_error(image: np.ndarray) -> float:
    height, width = image.shape[:2]
    return max(
        float(np.abs(image[int(y * height), int(x * width)] - np.float64(colour)).max())
        for (y, x), colour in zip(_PLACES.values(), COLOURS.values(), strict=True)
    )


def _ticks(loudness: np.ndarray, rate_hz: int) -> np.ndarray:
    if not len(loudness):
        return np.zeros(0)
    # Where sound was cut, decoders may be louder for a moment.
    is_loud = loudness > 0.25 * min(loudness.max(), _TICK_PEAK)
    # Quiet for 30 ms before.
    num_before = round(0.03 * rate_hz)
    counts = np.concatenate([np.zeros(num_before), np.cumsum(is_loud)])
    before = counts[: len(loudness)]
    up_to = np.concatenate([[0], np.cumsum(is_loud)[:-1]])
    return np.flatnonzero(is_loud & (up_to == before))
