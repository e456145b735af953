"""Small media files of every kind, with a flash and a click at the same moments."""

from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

SECS = 1.6
# Two in the usual length, one near the end of a longer one.
FLASHES_SECS = (0.4, 1.2, 7.6)
FLASH_SECS = 0.12
FPS = 25


def picture(secs: float, size: tuple[int, int], *, blue: bool = False) -> np.ndarray:
    """[height, width, 3] uint8: left third red, dark; bright while there is a flash."""
    image = np.full((size[1], size[0], 3), 30, np.uint8)
    image[:, : size[0] // 3] = (120, 0, 0)
    if blue:
        image[: size[1] // 3] = (0, 0, 160)
    if any(at - 1e-6 <= secs < at + FLASH_SECS - 1e-6 for at in FLASHES_SECS):
        image[:, size[0] // 3 :] = 235
    return image


def moving_bar(number: int, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] uint8: a white bar that has moved on in every other row."""
    image = np.full((size[1], size[0], 3), 30, np.uint8)
    for field in range(2):
        left = (8 * (2 * number + field)) % size[0]
        image[field::2, left : left + 16] = 235
    return image


def clicks(
    secs: float,
    rate_hz: int,
    *,
    num_channels: int = 1,
    hz: float = 1000.0,
    clock: float = 1.0,
) -> np.ndarray:
    """[channels, samples] float32: a tone while there is a flash, faint noise else."""
    time = np.arange(round(secs * rate_hz / clock)) / rate_hz * clock
    sound = 0.002 * np.random.default_rng(0).standard_normal(len(time))
    for at in FLASHES_SECS:
        on = (time >= at) & (time < at + FLASH_SECS)
        sound += 0.5 * on * np.sin(2 * np.pi * hz * (time - at))
    return np.tile(sound.astype(np.float32), (num_channels, 1))


def write(
    path,
    *,
    secs: float = SECS,
    fps: int = FPS,
    size: tuple[int, int] = (96, 64),
    video: str | None = "libx264",
    pix_fmt: str = "yuv420p",
    video_options: dict[str, str] | None = None,
    audio: str | None = "aac",
    rate_hz: int = 48000,
    layout: str = "stereo",
    waveform: np.ndarray | None = None,
    more_audio: Sequence[np.ndarray] = (),
    default_audio: int | None = None,
    audio_late_secs: float = 0.0,
    audio_clock: float = 1.0,
    frame_times_secs: Sequence[float] | None = None,
    pixel_aspect: Fraction | None = None,
    turned: int = 0,
    interlaced: bool = False,
    blue: bool = False,
    options: dict[str, str] | None = None,
    file_format: str | None = None,
) -> str:
    """Writes a file.

    Args:
      path: where.
      secs: length of picture and sound.
      fps: frames per second, and the picture's time base.
      size: width and height.
      video: codec, None for no picture.
      pix_fmt: of the frames.
      video_options: of the codec.
      audio: codec, None for no sound.
      rate_hz: sample rate.
      layout: of the channels.
      waveform: [channels, samples] in place of the clicks.
      more_audio: waveforms of further streams.
      default_audio: number of the stream marked as default, the others unmarked.
      audio_late_secs: the sound's timestamps begin so much later, with its clicks
        still at FLASHES_SECS on the common time axis.
      audio_clock: seconds of timestamps for a second of samples.
      frame_times_secs: times of the frames, where they are not regular.
      pixel_aspect: width of a pixel by its height.
      turned: degrees that the file asks to turn the picture, counterclockwise.
      interlaced: frames are of two fields, in which a white bar moves.
      blue: picture with a blue stripe on top.
      options: of the container.
      file_format: where the suffix does not tell it.
    """
    with av.open(str(path), "w", format=file_format, options=options or {}) as file:
        pictures = _add_video(file, video, fps, size, pix_fmt, video_options)
        if pictures and pixel_aspect:
            pictures.sample_aspect_ratio = pixel_aspect
        if pictures and turned:
            pictures.set_display_rotation(turned)
        sounds = []
        if audio:
            if waveform is None:
                channels = av.AudioLayout(layout).nb_channels
                waveform = clicks(
                    secs, rate_hz, num_channels=channels, clock=audio_clock
                )
                skipped = round(audio_late_secs * rate_hz)
                waveform = waveform[:, skipped:]
            for number, sound in enumerate((waveform, *more_audio)):
                stream = file.add_stream(audio, rate=rate_hz, layout=layout)
                if audio in ("vorbis", "opus"):
                    stream.codec_context.options = {"strict": "experimental"}
                if default_audio is not None:
                    marked = av.stream.Disposition.default
                    plain = av.stream.Disposition(0)
                    stream.disposition = marked if number == default_audio else plain
                sounds.append((stream, sound))
        packets = []
        if pictures:
            times = frame_times_secs
            if times is None:
                times = np.arange(round(secs * fps)) / fps
            packets += _encode_pictures(
                pictures, times, fps, size, pix_fmt, interlaced, blue
            )
        for stream, sound in sounds:
            packets += _encode_sound(
                stream, sound, rate_hz, layout, audio_late_secs, audio_clock
            )
        packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in packets:
            file.mux(packet)
    return str(path)


def _add_video(file, codec, fps, size, pix_fmt, options):
    if codec is None:
        return None
    stream = file.add_stream(codec, rate=fps, options=options or {})
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = Fraction(1, fps)
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = 12
    return stream


def _encode_pictures(stream, times, fps, size, pix_fmt, interlaced, blue):
    # Fine enough for times that are not regular.
    for secs in times:
        image = picture(secs, size, blue=blue)
        if interlaced:
            image = moving_bar(round(secs * fps), size)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format=pix_fmt)
        frame.pts, frame.time_base = round(secs * fps), Fraction(1, fps)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _encode_sound(stream, waveform, rate_hz, layout, late_secs, clock):
    formats = [form.name for form in stream.codec_context.codec.audio_formats]
    sample_format = "fltp" if "fltp" in formats else formats[0]
    resampler = av.AudioResampler(sample_format, layout, rate_hz)
    block = stream.codec_context.frame_size or 1024
    for first in range(0, waveform.shape[1], block):
        samples = np.ascontiguousarray(waveform[:, first : first + block])
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        frame.time_base = Fraction(1, rate_hz)
        frame.pts = round((first * clock) + late_secs * rate_hz)
        for converted in resampler.resample(frame):
            converted.pts = frame.pts
            yield from stream.encode(converted)
    yield from stream.encode(None)
