"""Fine shapes and textures before a cluttered background that moves.

A class is a pair (texture, contour). *Texture* fills the object and goes with the
timbre of the sound, *contour* is the number of the object's lobes and goes with the
rhythm. Texture and contour are a few pixels fine. Behind the object a background of
noise and gratings moves on its own path, and before it pass distractors, plain objects
of the shapes of `shapes`. The sounds are those of `shapes` among hums and chirps.
"""

import numpy as np

from data_prep.scenes import shapes
from data_prep.scenes.shapes import FPS, SAMPLE_RATE_HZ

TEXTURES = ("stripes", "checks", "dots", "rings", "rays")
CONTOURS = ("trefoil", "star")
LABELS = tuple(f"{texture}_{contour}" for texture in TEXTURES for contour in CONTOURS)
_NUM_LOBES = {"trefoil": 3, "star": 6}
_NUM_DISTRACTORS = (1, 4)  # at least, and fewer than


def _textured(texture: str, x: np.ndarray, y: np.ndarray, phase: float) -> np.ndarray:
    """Brightness from 0 to 1 at points of the object, whose radius is 1."""
    frequency = 3 * np.pi  # three cycles from the centre to the edge, or half of them
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    wave = {
        "stripes": lambda: np.sin(frequency * x + phase),
        "checks": lambda: 2 * np.sin(frequency * x + phase) * np.sin(frequency * y),
        "dots": lambda: (
            3 * np.maximum(np.sin(frequency * x + phase), 0) * np.sin(frequency * y)
            - 0.8
        ),
        "rings": lambda: np.sin(1.2 * frequency * radius + phase),
        "rays": lambda: np.sin(10 * angle + phase),
    }[texture]()
    return np.clip(0.5 + wave, 0.0, 1.0)


def _background(rng: np.random.Generator, *, num_frames: int, size: int) -> np.ndarray:
    """[num_frames, size, size, 3]: a window that wanders over noise and gratings."""
    margin = size // 2
    side = size + 2 * margin
    frequencies = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(side)]))
    falloff = 1 / np.maximum(frequencies, 1 / side) ** rng.uniform(0.8, 1.4)
    noise = rng.standard_normal((3, side, side))
    scene = np.fft.ifft2(np.fft.fft2(noise) * falloff).real
    scene /= scene.std(axis=(1, 2), keepdims=True)
    at = np.arange(side)
    for _ in range(rng.integers(1, 4)):
        heading, cycles = rng.uniform(0, np.pi), rng.uniform(0.04, 0.15)
        along = np.cos(heading) * at[:, None] + np.sin(heading) * at
        wave = np.sin(2 * np.pi * cycles * along + rng.uniform(0, 2 * np.pi))
        scene += rng.uniform(-0.6, 0.6, (3, 1, 1)) * wave
    scene = rng.uniform(0.25, 0.6, (3, 1, 1)) + 0.12 * scene
    time = np.arange(num_frames) / FPS
    rate_hz, phase = rng.uniform(0.1, 0.4, 2), rng.uniform(0, 2 * np.pi, 2)
    path = np.sin(2 * np.pi * rate_hz * time[:, None] + phase)
    corners = np.round(margin * (1 + 0.9 * path)).astype(int)
    windows = [scene[:, y : y + size, x : x + size] for y, x in corners]
    return np.moveaxis(np.stack(windows), 1, -1).astype(np.float32)


def _move(rng: np.random.Generator, time: np.ndarray, reach: float) -> np.ndarray:
    """[num_frames, 2]: a place that wanders, not further than reach from the middle."""
    rate_hz, phase = rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * np.pi, 2)
    return reach * np.sin(2 * np.pi * rate_hz * time[:, None] + phase)


def draw_frames(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_frames: int,
    size: int,
) -> np.ndarray:
    """Draws the frames of one video.

    Args:
      class_index: index into LABELS; sets the object's texture and its contour.
      rng: source of everything else.
      num_frames: number of frames at FPS frames per second.
      size: height and width in pixels.

    Returns:
      [num_frames, size, size, 3] uint8.
    """
    texture, contour = TEXTURES[class_index // 2], CONTOURS[class_index % 2]
    time = np.arange(num_frames) / FPS
    frames = _background(rng, num_frames=num_frames, size=size)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for _ in range(rng.integers(*_NUM_DISTRACTORS)):
        distance = shapes.SIGNED_DISTANCE[rng.choice(shapes.SHAPES)]
        radius, color = rng.uniform(0.12, 0.25), rng.uniform(0, 1, 3)
        path = _move(rng, time, 0.9)
        for t in range(num_frames):
            at = distance((x - path[t, 0]) / radius, (y - path[t, 1]) / radius)
            _paint(frames[t], color, at * radius)
    path, radius = _move(rng, time, 0.3), rng.uniform(0.55, 0.75)
    turn = rng.uniform(0, 2 * np.pi) + rng.uniform(-1, 1) * time
    phase = rng.uniform(0, 2 * np.pi)
    dark, bright = rng.uniform(0.0, 0.3, 3), rng.uniform(0.7, 1.0, 3)
    for t in range(num_frames):
        dx, dy = (x - path[t, 0]) / radius, (y - path[t, 1]) / radius
        cos, sin = np.cos(turn[t]), np.sin(turn[t])
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        lobes = np.cos(_NUM_LOBES[contour] * np.arctan2(dy, dx))
        light = _textured(texture, dx, dy, phase)[..., None]
        edge = (np.hypot(dx, dy) - 0.8 - 0.2 * lobes) * radius
        _paint(frames[t], dark + (bright - dark) * light, edge)
    frames += 0.03 * rng.standard_normal(frames.shape, np.float32)
    return np.clip(frames * 255, 0, 255).astype(np.uint8)


def _paint(image: np.ndarray, color: np.ndarray, distance: np.ndarray) -> None:
    """Covers what lies within an object; distance is signed, as pixels' places are."""
    cover = np.clip(0.5 - distance * len(image) / 2, 0.0, 1.0)[..., None]
    image += (color - image) * cover


def synthesize_waveform(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = shapes.MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the audio of one video.

    Args:
      class_index: index into LABELS; sets the tone's timbre and its rhythm.
      rng: source of everything else.
      num_samples: length at SAMPLE_RATE_HZ.
      microphone_db: deviation of the microphone's gain at six frequencies.

    Returns:
      [num_samples] float32 in [-1, 1].
    """
    tone = shapes.synthesize_waveform(
        class_index, rng, num_samples=num_samples, microphone_db=microphone_db
    )
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    others, hum_hz = np.zeros(num_samples), rng.uniform(49, 61)
    for harmonic, level in enumerate(rng.uniform(0, 0.5, 3), start=1):
        others += level * np.sin(2 * np.pi * harmonic * hum_hz * time)
    for _ in range(rng.poisson(2.0 * time[-1])):
        start, secs = rng.uniform(0, time[-1]), rng.uniform(0.03, 0.15)
        within = np.maximum(1 - np.abs(time - start) / secs, 0)
        low, high = rng.uniform(800, 5000, 2)
        others += within * np.sin(2 * np.pi * (low + (high - low) * time) * time)
    mixed = tone / np.abs(tone).max() + rng.uniform(0.05, 0.3) * others
    loudness = rng.uniform(0.15, 0.9)
    return (loudness * mixed / np.abs(mixed).max()).astype(np.float32)
