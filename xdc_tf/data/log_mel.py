"""Waveform -> log-mel: the one definition, for NumPy arrays and TensorFlow tensors.

Conversion computes it in worker processes that never import TensorFlow (which would
cost each of them some 400 MB); an exported audio model computes it inside its serving
signature. Both run the same lines below on the same constants.

Definition: the signal is zero-padded by (window - hop) / 2 on both ends and cut into
num_samples // hop frames, so that frame i is centred on [i * hop, (i + 1) * hop). Each
is weighted by a periodic Hann window and zero-padded to the FFT size; its power
spectrum passes through triangular filters of peak 1, evenly spaced on the HTK mel
scale (mel = 2595 log10(1 + hz / 700)); the result is the natural log of (x + offset).
"""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from xdc_tf.runtime.typed_settings import Number, Whole

# Frames per block in NumPy: 20 MB of float64 at the default settings.
_BLOCK_FRAMES = 2048
_MAX_SAMPLE_RATE_HZ = 1_000_000
_MAX_FFT_SIZE = 1 << 16
# Of the filters' matrix, which is in memory: 128 MiB of float64.
_MAX_WEIGHTS = 1 << 24
# Decoders overshoot full scale, 1; what is far beyond it is no audio.
MAX_AMPLITUDE = 16.0


class LogMelSettings(NamedTuple):
    """Parameters of the log-mel, by name and unit."""

    sample_rate_hz: Annotated[int, Whole(1, 10**6)] = 16000
    window_ms: Annotated[float, Number(0, 1e4, above=True)] = 25.0
    hop_ms: Annotated[float, Number(0, 1e4, above=True)] = 20.0
    fft_size: Annotated[int, Whole(2, 2**16)] = 512
    num_filters: Annotated[int, Whole(1, 4096)] = 40
    min_hz: Annotated[float, Number(0, 1e6)] = 0.0
    max_hz: Annotated[float, Number(0, 1e6, above=True)] = 8000.0
    log_offset: Annotated[float, Number(0, 1e3, above=True)] = 1e-6

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate_hz * self.hop_ms / 1000)

    @property
    def window_samples(self) -> int:
        """Samples under the window."""
        return round(self.sample_rate_hz * self.window_ms / 1000)


class _Constants(NamedTuple):
    """Matrices in float64; the window is folded into the two Fourier bases."""

    cosines: np.ndarray  # [window, bins]
    sines: np.ndarray  # [window, bins]
    filters: np.ndarray  # [bins, filters]


class _Ops(NamedTuple):
    """The few operations whose names differ between NumPy and TensorFlow."""

    take: Callable[[Any, Any], Any]  # (x [..., n], indices [...]) -> gathered
    to_float64: Callable[[Any], Any]
    to_float32: Callable[[Any], Any]
    log: Callable[[Any], Any]


def validate(settings: LogMelSettings) -> None:
    """Checks that the settings define a log-mel.

    Raises:
        ValueError: naming the setting, its value and the remedy.
    """
    s = settings
    for name in ("sample_rate_hz", "window_ms", "hop_ms", "fft_size", "num_filters"):
        if not getattr(s, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(s, name)}.")
    limits = {
        "sample_rate_hz": (s.sample_rate_hz, _MAX_SAMPLE_RATE_HZ),
        "fft_size": (s.fft_size, _MAX_FFT_SIZE),
        "num_filters": (s.num_filters, _MAX_WEIGHTS // (s.fft_size // 2 + 1)),
        "window_ms": (s.window_ms, 1e6),
        "hop_ms": (s.hop_ms, 1e6),
        "log_offset": (s.log_offset, 1e6),
    }
    for name, (value, most) in limits.items():
        if value > most:
            raise ValueError(f"{name}={value} must be at most {most:g}.")
    if not s.log_offset > 0:
        raise ValueError(
            f"log_offset must be positive, got {s.log_offset}: "
            "digital silence would have no logarithm."
        )
    hop = s.sample_rate_hz * s.hop_ms / 1000
    if s.hop_samples < 1 or abs(hop - s.hop_samples) > 1e-6:
        raise ValueError(
            f"hop_ms={s.hop_ms} at sample_rate_hz={s.sample_rate_hz} is {hop} samples, "
            "and frames would drift against the video; choose a whole number of "
            "samples."
        )
    if not s.hop_samples <= s.window_samples <= s.fft_size:
        raise ValueError(
            f"need hop <= window <= fft_size, got {s.hop_samples}, {s.window_samples} "
            f"and {s.fft_size} samples; change hop_ms, window_ms or fft_size."
        )
    if not 0 <= s.min_hz < s.max_hz <= s.sample_rate_hz / 2:
        raise ValueError(
            f"need 0 <= min_hz < max_hz <= sample_rate_hz / 2, got min_hz={s.min_hz}, "
            f"max_hz={s.max_hz}, sample_rate_hz={s.sample_rate_hz}."
        )
    empty = np.flatnonzero(mel_filters(s).max(axis=0) == 0)
    if empty.size:
        raise ValueError(
            f"mel filters {empty.tolist()} of num_filters={s.num_filters} fall between "
            f"the bins of fft_size={s.fft_size}; use fewer filters or a larger FFT."
        )


def log_mel(waveform: Any, settings: LogMelSettings) -> Any:
    """Log-mel of a waveform.

    Args:
        waveform: [..., samples] floating, in [-1, 1]; a NumPy array, or a TensorFlow
            tensor whose number of samples may be unknown while tracing.
        settings: what to compute.

    Returns:
        [..., samples // hop, num_filters] float32 of the waveform's own kind.

    Raises:
        ValueError: the settings define no log-mel.
        TypeError: the waveform is not of floating type.
    """
    constants = _constants(settings)
    # A tensor can exist only where TensorFlow was imported already.
    tf = sys.modules.get("tensorflow")
    if tf is not None and tf.is_tensor(waveform):
        if not waveform.dtype.is_floating:
            raise TypeError(_dtype_message(waveform.dtype.name))
        return _log_mel_tensor(tf, waveform, settings, constants)
    waveform = np.asarray(waveform)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(_dtype_message(waveform.dtype.name))
    return _log_mel_array(waveform, settings, constants)


def mel_filters(settings: LogMelSettings) -> np.ndarray:
    """[fft_size // 2 + 1, num_filters] float64 triangles of peak 1, HTK-mel-spaced."""
    hz_range = np.array([settings.min_hz, settings.max_hz])
    lowest_mel, highest_mel = 2595 * np.log10(1 + hz_range / 700)
    corner_mels = np.linspace(lowest_mel, highest_mel, settings.num_filters + 2)
    corners_hz = 700 * (10 ** (corner_mels / 2595) - 1)
    lower, centre, upper = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    num_bins = settings.fft_size // 2 + 1
    bin_width_hz = settings.sample_rate_hz / settings.fft_size
    bins_hz = (np.arange(num_bins) * bin_width_hz)[:, None]
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _log_mel_tensor(tf, waveform, settings: LogMelSettings, constants: _Constants):
    ops = _Ops(
        take=lambda x, indices: tf.gather(x, indices, axis=-1),
        to_float64=lambda x: tf.cast(x, tf.float64),
        to_float32=lambda x: tf.cast(x, tf.float32),
        log=tf.math.log,
    )
    no_padding = tf.zeros([tf.rank(waveform) - 1, 2], tf.int32)
    padding = tf.concat([no_padding, [_padding(settings)]], axis=0)
    padded = tf.pad(waveform, padding)
    frames = tf.range(tf.shape(waveform)[-1] // settings.hop_samples)
    result = _log_mel_of_frames(padded, frames, settings, constants, ops)
    result.set_shape(waveform.shape[:-1] + [result.shape[-2], settings.num_filters])
    return result


def _log_mel_array(waveform, settings: LogMelSettings, constants: _Constants):
    ops = _Ops(
        take=lambda x, indices: np.take(x, indices, axis=-1),
        to_float64=lambda x: x.astype(np.float64),
        to_float32=lambda x: x.astype(np.float32),
        log=np.log,
    )
    padded = np.pad(
        waveform, [(0, 0)] * (waveform.ndim - 1) + [tuple(_padding(settings))]
    )
    num_frames = waveform.shape[-1] // settings.hop_samples
    result = np.empty(
        (*waveform.shape[:-1], num_frames, settings.num_filters), np.float32
    )
    for first in range(0, num_frames, _BLOCK_FRAMES):
        frames = np.arange(first, min(first + _BLOCK_FRAMES, num_frames))
        result[..., frames, :] = _log_mel_of_frames(
            padded, frames, settings, constants, ops
        )
    return result


def _log_mel_of_frames(
    padded, frames, settings: LogMelSettings, constants: _Constants, ops: _Ops
):
    """Log-mel of the frames with the given numbers, of the padded waveform."""
    samples = np.arange(settings.window_samples, dtype=np.int32)
    indices = frames[:, None] * settings.hop_samples + samples  # [frames, window]
    windows = ops.to_float64(ops.take(padded, indices))  # [..., frames, window]
    real, imaginary = windows @ constants.cosines, windows @ constants.sines
    power = real * real + imaginary * imaginary  # [..., frames, bins]
    return ops.to_float32(ops.log(power @ constants.filters + settings.log_offset))


def _padding(settings: LogMelSettings) -> list[int]:
    """Zeros before and after the waveform."""
    total = settings.window_samples - settings.hop_samples
    return [total // 2, total - total // 2]


@functools.lru_cache(maxsize=8)
def _constants(settings: LogMelSettings) -> _Constants:
    validate(settings)
    sample = np.arange(settings.window_samples)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / settings.window_samples)
    bins = np.arange(settings.fft_size // 2 + 1)
    angles = 2 * np.pi * np.outer(sample, bins) / settings.fft_size
    return _Constants(
        cosines=window[:, None] * np.cos(angles),
        sines=window[:, None] * np.sin(angles),
        filters=mel_filters(settings),
    )


def value_range(settings: LogMelSettings) -> tuple[float, float]:
    """Of digital silence, and of any waveform of MAX_AMPLITUDE."""
    # A Hann window's sum is half its length; no filter passes a bin on by more than 1.
    largest_power = (MAX_AMPLITUDE * settings.window_samples / 2) ** 2
    num_bins = settings.fft_size // 2 + 1
    return (
        math.log(settings.log_offset),
        math.log(largest_power * num_bins + settings.log_offset),
    )


def augment(rows: Any, seeds: Sequence[Any], augmentation: Any, clip: Any) -> Any:
    """See augment.change_log_mel and payloads.AudioPayload."""
    from xdc_tf.data import augment as changes

    return changes.change_log_mel(rows, seeds, augmentation, clip)


def _dtype_message(dtype_name: str) -> str:
    return (
        f"waveform is {dtype_name}, expected floating values in [-1, 1]; "
        "divide 16-bit samples by 32768."
    )
