"""Handwritten digits that are seen while a voice says their words.

A class is a digit. Its picture is real: one of the 1,797 scans of 8 x 8 pixels that
scikit-learn holds (Alpaydin and Kaynak 1998), which moves over a background. Its word
is speech-like: a pair of vowels with consonants before them, said again and again. The
class sets the two vowels and their order; the consonants, the voice (pitch, length of
the vocal tract, intonation), the pace, the room's noise and a second voice that says
something else are drawn. In a twentieth of the videos the voice comes from elsewhere
and says any word (`shared`).

Of the scans, sets of videos whose seeds differ modulo three have none in common.
"""

import functools
import itertools

import numpy as np

from data_prep.scenes.shapes import FPS, MICROPHONE_DB, SAMPLE_RATE_HZ

LABELS = tuple(str(digit) for digit in range(10))
SHARED = 0.95
# Of men's vowels, three formants in Hz (Peterson and Barney 1952).
_FORMANTS_HZ = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
WORDS = tuple(itertools.combinations(_FORMANTS_HZ, 2))
_BANDWIDTHS_HZ = (80, 110, 160)
_FORMANT_LEVELS = (1.0, 0.5, 0.25)
_CONSONANTS = ("stop", "fricative", "nasal")
_CONTROL_HZ = 200
NUM_PARTS = 3


@functools.cache
def scans(part: int) -> list[np.ndarray]:
    """Scans of each digit: [scans, 8, 8] float32 from 0 to 1.

    Args:
      part: from 0 to NUM_PARTS - 1; parts have no scan in common.
    """
    from sklearn import datasets

    all_scans = datasets.load_digits()
    images = all_scans.images[part::NUM_PARTS]
    digits = all_scans.target[part::NUM_PARTS]
    return [images[digits == d].astype(np.float32) / 16 for d in range(len(LABELS))]


def draw_frames(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_frames: int,
    size: int,
    part: int = 0,
) -> np.ndarray:
    """Draws the frames of one video.

    Args:
      class_index: the digit.
      rng: source of everything else.
      num_frames: number of frames at FPS frames per second.
      size: height and width in pixels.
      part: of the scans, from 0 to 2.

    Returns:
      [num_frames, size, size, 3] uint8.
    """
    from scipy import ndimage

    choices = scans(part)[class_index]
    scan = np.pad(choices[rng.integers(len(choices))], 1)
    time = np.arange(num_frames) / FPS
    rate_hz, phase = rng.uniform(0.2, 0.8, 3), rng.uniform(0, 2 * np.pi, 3)
    sway, swing, lean = np.sin(2 * np.pi * rate_hz[:, None] * time + phase[:, None])
    radius = rng.uniform(0.75, 0.95)
    angle = np.deg2rad(rng.uniform(-6, 6) + 6 * lean)
    center = 0.2 * np.stack([sway, swing], axis=1)
    ink, paper = rng.uniform(0.7, 1.0, 3), rng.uniform(0.0, 0.4, 3)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    slope = rng.uniform(-0.15, 0.15, (3, 2))
    background = paper + slope[:, 0] * x[..., None] + slope[:, 1] * y[..., None]
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    middle = (len(scan) - 1) / 2
    for t in range(num_frames):
        dx, dy = (x - center[t, 0]) / radius, (y - center[t, 1]) / radius
        cos, sin = np.cos(angle[t]), np.sin(angle[t])
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        at = [middle * (1 + dy), middle * (1 + dx)]
        cover = ndimage.map_coordinates(scan, at, order=1)[..., None]
        image = background + (ink - background) * cover
        image += 0.03 * rng.standard_normal(image.shape, np.float32)
        frames[t] = np.clip(image * 255, 0, 255)
    return frames


def synthesize_waveform(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the audio of one video.

    Args:
      class_index: the digit, whose word is WORDS[class_index].
      rng: source of everything else.
      num_samples: length at SAMPLE_RATE_HZ.
      microphone_db: deviation of the microphone's gain at six frequencies.

    Returns:
      [num_samples] float32 in [-1, 1].
    """
    voice = _speak(WORDS[class_index], rng, num_samples)
    second = _speak(WORDS[rng.integers(len(WORDS))], rng, num_samples)
    noise = np.convolve(
        rng.normal(size=num_samples), np.hanning(rng.integers(3, 40)), "same"
    )
    mixed = voice + 10 ** (rng.uniform(-30, -10) / 20) * second
    mixed += 10 ** (rng.uniform(-35, -12) / 20) * noise / noise.std()
    spectrum = np.fft.rfft(mixed)
    hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    gain_db = np.interp(
        np.log(np.maximum(hz, 1)),
        np.log([100, 250, 600, 1500, 4000, 10000]),
        rng.normal(0, microphone_db / 2, 6),
    )
    mixed = np.fft.irfft(spectrum * 10 ** (gain_db / 20), num_samples)
    loudness = rng.uniform(0.15, 0.9)
    return (loudness * mixed / np.abs(mixed).max()).astype(np.float32)


def _speak(
    word: tuple[str, str], rng: np.random.Generator, num_samples: int
) -> np.ndarray:
    """A voice that says a word again and again: [num_samples], deviation of 1.

    A harmonic of the pitch is as loud as the formants are at its frequency; fricatives
    and the bursts of stops are noise.
    """
    num_steps = 2 + num_samples * _CONTROL_HZ // SAMPLE_RATE_HZ
    vowels, voicing, hissing = _articulate(word, rng, num_steps)
    tract, base_hz = rng.uniform(0.88, 1.25), rng.uniform(90, 240)
    steps = np.arange(num_steps) / _CONTROL_HZ
    tune = 0.12 * np.sin(2 * np.pi * rng.uniform(0.3, 1.2) * steps + rng.uniform(0, 6))
    pitch_hz = base_hz * np.exp(tune)
    formants_hz = _smooth(np.array([_FORMANTS_HZ[v] for v in vowels])) / tract
    voicing, hissing = _smooth(voicing[:, None])[:, 0], _smooth(hissing[:, None])[:, 0]

    at = np.arange(num_samples) * _CONTROL_HZ / SAMPLE_RATE_HZ
    knots = np.arange(num_steps)
    turns = 2 * np.pi * np.cumsum(np.interp(at, knots, pitch_hz)) / SAMPLE_RATE_HZ
    sound = np.zeros(num_samples)
    for harmonic in range(1, int(4000 / base_hz)):
        hz = harmonic * pitch_hz[:, None]
        resonance = 1 / np.hypot(1, 2 * (hz - formants_hz) / _BANDWIDTHS_HZ)
        level = voicing * (resonance @ _FORMANT_LEVELS)
        sound += np.interp(at, knots, level) * np.sin(harmonic * turns)
    hiss = np.diff(rng.normal(size=num_samples), prepend=0.0)
    sound += 0.1 * np.interp(at, knots, hissing) * hiss
    return sound / sound.std()


def _articulate(
    word: tuple[str, str], rng: np.random.Generator, num_steps: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What the mouth does at each step: its vowel, how loud voice and hiss are."""
    vowels: list[str] = []
    voicing: list[float] = []
    hissing: list[float] = []
    pace = rng.uniform(0.8, 1.3) * _CONTROL_HZ
    pause = int(rng.uniform(0.15, 0.35) * pace)
    consonants = rng.choice(_CONSONANTS, 2)
    skipped = rng.integers(int(0.8 * pace))  # a video starts anywhere in a word
    while len(vowels) < num_steps + skipped:
        for vowel, consonant in zip(word, consonants, strict=True):
            onset, length = int(0.07 * pace), int(rng.uniform(0.13, 0.2) * pace)
            vowels += [vowel] * (onset + length)
            voicing += [0.15 if consonant == "nasal" else 0.0] * onset + [1.0] * length
            burst = {"fricative": onset, "stop": onset // 4, "nasal": 0}[consonant]
            hissing += [0.0] * (onset - burst) + [1.0] * burst + [0.0] * length
        vowels += [word[1]] * pause
        voicing += [0.0] * pause
        hissing += [0.0] * pause
    kept = slice(skipped, skipped + num_steps)
    return vowels[kept], np.array(voicing[kept]), np.array(hissing[kept])


def _smooth(values: np.ndarray) -> np.ndarray:
    """[steps, n], each averaged over 35 ms: the mouth moves, it does not jump."""
    window = np.hanning(9) / np.hanning(9).sum()
    padded = np.pad(values.astype(float), [(4, 4), (0, 0)], "edge")
    return np.stack([np.convolve(v, window, "valid") for v in padded.T], axis=1)
