"""Large shapes that move, and tones: what is seen and heard in a video of a class.

A class is a pair (what, how): *what* picks the object's shape and the tone's timbre,
*how* picks the object's motion and the tone's rhythm. All else is drawn.
"""

from collections.abc import Callable, Sequence

import numpy as np

SHAPES = ("disc", "square", "triangle", "cross", "ring")
MOTIONS = ("sway", "pulse")
TIMBRES = ("sine", "saw", "hollow", "bell", "hiss")
RHYTHMS = ("held", "staccato")
# Class c is shape and timbre c // 2 with motion and rhythm c % 2.
LABELS = tuple(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)
# Deviation of the microphone's gain at six frequencies, so that a spectrum's shape is
# the timbre's only in part.
MICROPHONE_DB = 6.0
FPS = 12
SAMPLE_RATE_HZ = 32000


def _disc(x, y):
    return np.hypot(x, y) - 0.9


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x, y):
    return np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - 0.5


def _cross(x, y):
    wide = np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.3)
    tall = np.maximum(np.abs(x) - 0.3, np.abs(y) - 1.0)
    return np.minimum(wide, tall)


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.75) - 0.22


SIGNED_DISTANCE: dict[str, Callable] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}


def draw_frames(
    class_index: int | None,
    rng: np.random.Generator,
    *,
    num_frames: int,
    size: int,
) -> np.ndarray:
    """Draws the moving scene of one video.

    Args:
      class_index: index into LABELS; sets the object's shape and its motion. None for
        a background without an object.
      rng: source of everything else.
      num_frames: number of frames at FPS frames per second.
      size: height and width in pixels.

    Returns:
      [num_frames, size, size, 3] uint8.
    """
    shape, motion = _pair(class_index, SHAPES, MOTIONS)
    time = np.arange(num_frames) / FPS
    rate_hz, phase = rng.uniform(0.8, 1.4), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * rate_hz * time + phase)
    radius = rng.uniform(0.45, 0.65) * np.ones(num_frames)
    center = rng.uniform(-0.2, 0.2, 2) * np.ones((num_frames, 2))
    heading = rng.uniform(0, 2 * np.pi)
    if motion == "sway":
        center = center + 0.4 * wave[:, None] * [np.cos(heading), np.sin(heading)]
    else:
        radius = radius * 1.5**wave
    angle = rng.uniform(0, 2 * np.pi)

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside, outside = rng.uniform(0.6, 1.0, 3), rng.uniform(0.0, 0.4, 3)
    slope = rng.uniform(-0.12, 0.12, (3, 2))
    background = outside + slope[:, 0] * x[..., None] + slope[:, 1] * y[..., None]

    background = background.astype(np.float32)
    inside = inside.astype(np.float32)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    cos, sin = np.cos(angle), np.sin(angle)
    for t in range(num_frames):
        dx, dy = (x - center[t, 0]) / radius[t], (y - center[t, 1]) / radius[t]
        image = background
        if shape is not None:
            distance = SIGNED_DISTANCE[shape](cos * dx + sin * dy, cos * dy - sin * dx)
            # The edge is as wide as one pixel, so that slow motion stays smooth.
            edge = distance * radius[t] * size / 2
            cover = np.clip(0.5 - edge, 0.0, 1.0)[..., None]
            image = background + (inside - background) * cover
        image = image + 0.02 * rng.standard_normal(image.shape, np.float32)
        frames[t] = np.clip(image * 255, 0, 255)
    return frames


def _pair(
    class_index: int | None, what: Sequence[str], how: Sequence[str]
) -> tuple[str | None, str]:
    if class_index is None:
        return None, how[0]
    return what[class_index // 2], how[class_index % 2]


def _tone(
    timbre: str | None, pitch_hz: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """One sustained tone; pitch_hz is [samples], in Hz over time."""
    turns = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    silence = np.zeros_like(turns)
    if timbre is None:
        return silence
    if timbre == "sine":
        return np.sin(turns)
    if timbre == "saw":
        return sum((np.sin(n * turns) / n for n in range(1, 13)), silence)
    if timbre == "hollow":
        return sum((np.sin(n * turns) / n**0.5 for n in range(1, 14, 4)), silence)
    if timbre == "bell":
        return sum((np.sin(n * turns) for n in (1.0, 2.76, 5.4, 8.93)), silence) / 2
    # A band of noise that follows the pitch: noise carried up by the tone.
    smooth = np.convolve(rng.normal(size=len(turns)), np.hanning(48), "same")
    return smooth * np.sin(3 * turns) / smooth.std()


def synthesize_waveform(
    class_index: int | None,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the audio of one video.

    Args:
      class_index: index into LABELS; sets the tone's timbre and its rhythm. None for
        the room's noise alone.
      rng: source of everything else.
      num_samples: length at SAMPLE_RATE_HZ.
      microphone_db: deviation of the microphone's gain at six frequencies.

    Returns:
      [num_samples] float32 in [-1, 1].
    """
    timbre, rhythm = _pair(class_index, TIMBRES, RHYTHMS)
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    vibrato = 1 + rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(3, 6) * time)
    tone = _tone(timbre, rng.uniform(200, 500) * vibrato, rng)
    rate_hz, phase = rng.uniform(2.5, 5.0), rng.uniform(0, 1)
    cycle = (rate_hz * time + phase) % 1.0
    envelope = {
        "held": 0.8 + 0.2 * np.cos(2 * np.pi * cycle),
        "staccato": np.exp(-6 * cycle) * np.minimum(cycle / 0.02, 1),
    }[rhythm]
    dry = tone / _peak(tone) * envelope

    decay_secs = rng.uniform(0.02, 0.12)
    echo_time = np.arange(int(0.3 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    echo = rng.normal(size=len(echo_time)) * np.exp(-echo_time / decay_secs)
    echo *= rng.uniform(0.05, 0.4) / np.linalg.norm(echo)
    echo[0] += 1.0  # what arrives without an echo
    length = num_samples + len(echo)
    spectrum = np.fft.rfft(dry, length) * np.fft.rfft(echo, length)
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    gain_db = np.interp(
        np.log(np.maximum(hz, 1)),
        np.log([100, 250, 600, 1500, 4000, 10000]),
        rng.normal(0, microphone_db, 6),
    )
    waveform = np.fft.irfft(spectrum * 10 ** (gain_db / 20), length)[:num_samples]
    noise = np.convolve(
        rng.normal(size=num_samples), np.hanning(rng.integers(3, 40)), "same"
    )
    noise_level = rng.uniform(0.003, 0.05)
    waveform = waveform / _peak(waveform) + noise_level * noise / noise.std()
    loudness = rng.uniform(0.15, 0.9)
    return (loudness * waveform / _peak(waveform)).astype(np.float32)


def _peak(waveform: np.ndarray) -> float:
    return np.abs(waveform).max() or 1.0
