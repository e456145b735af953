"""Examples of a directory of records as files to look at and to listen to."""

import math
import os
from collections.abc import Sequence

import numpy as np
from scipy import signal
from scipy.io import wavfile

from data_prep.inspection.record_figures import save_figure
from data_prep.inspection.record_tables import check_index, read_example
from xdc_tf.data import log_mel as log_mel_definition
from xdc_tf.data import payloads
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime import files

_NUM_ITERATIONS = 32
# Fast Griffin-Lim: how far a step goes on in the direction of the last one.
_MOMENTUM = 0.99
_NUM_INVERSION_STEPS = 100
# Windows overlap by 3/4, so that the phases of neighbours constrain each other. The
# log-mel's own hop is nearly a window long.
_HOPS_PER_WINDOW = 4
# Longer ones are made in parts, which bounds the memory at some 150 MB; their joints
# may click.
_SECS_AT_ONCE = 30.0
_SEED = 0
# Natural logarithms: some 80 dB above a full-scale sine.
_MAX_LOG_MEL = 30.0


def save_examples(
    records_dir: str,
    info: DatasetInfo,
    examples: Examples,
    *,
    indices: Sequence[int],
    out_dir: str,
) -> None:
    """Writes example_N.png, and example_N.wav if there is audio; prints their names.

    Without a stored waveform the audio is made from the log-mel, is named
    example_N.from_log_mel.wav, and the line says that it is an approximation.

    Args:
        records_dir: local or remote (s3://...).
        info: its record_tables.read_info.
        examples: its example_tables.read_examples.
        indices: example_index of each, checked before anything is written.
        out_dir: a local directory, made if there is none.

    Raises:
        ValueError: there is no such example, or its record cannot be read.
        OSError: a file cannot be written.
    """
    for index in indices:
        check_index(records_dir, info, examples, index)
    os.makedirs(out_dir, exist_ok=True)
    sample_rate_hz = info.log_mel.sample_rate_hz
    has_log_mel = payloads.stored(info, payloads.AUDIO).name == "log_mel"
    for index in indices:
        example = read_example(records_dir, info, examples, index)
        stem = os.path.join(out_dir, f"example_{index}")
        save_figure(f"{stem}.png", example, info)
        print(f"{stem}.png", flush=True)
        if example.waveform is not None:
            write_wav(f"{stem}.wav", example.waveform, sample_rate_hz)
            print(f"{stem}.wav", flush=True)
        elif example.audio_rows is not None and has_log_mel:
            waveform = approximate_waveform(example.audio_rows, info.log_mel)
            write_wav(f"{stem}.from_log_mel.wav", waveform, sample_rate_hz)
            print(
                f"{stem}.from_log_mel.wav (an approximation from the log-mel; records "
                "made with --store_waveform have the sound itself)",
                flush=True,
            )


def write_wav(path: str, waveform: np.ndarray, sample_rate_hz: int) -> None:
    """Writes a waveform [samples], clipped to [-1, 1], as 16-bit samples.

    The file is written whole or not at all.

    Raises:
        ValueError: it has samples that are not finite.
    """
    if not np.isfinite(waveform).all():
        raise ValueError(f"{path}: the waveform has samples that are not finite.")
    samples = np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)
    with files.placing(path) as temporary:
        wavfile.write(temporary, sample_rate_hz, samples)


def approximate_waveform(log_mel: np.ndarray, settings: LogMelSettings) -> np.ndarray:
    """A waveform with about this log-mel: what filters and logarithm lost is guessed.

    Power spectra that the mel filters would bring to these values, between whose times
    is interpolated, and phases by fast Griffin-Lim (Perraudin et al. 2013).

    Args:
        log_mel: [L, M] float32, as data.log_mel defines it.
        settings: what it was made with.

    Returns:
        [L * hop] float32, always the same for the same log-mel.

    Raises:
        ValueError: the log-mel has values that no audio has.
    """
    if not np.all(np.abs(log_mel) < _MAX_LOG_MEL):
        raise ValueError(
            "the log-mel has values that no sound has; --verify tells which record's."
        )
    rows_at_once = math.ceil(
        _SECS_AT_ONCE * settings.sample_rate_hz / settings.hop_samples
    )
    parts = [np.zeros(0, np.float32)]
    for first in range(0, len(log_mel), rows_at_once):
        part = log_mel[first : first + rows_at_once].astype(np.float64)
        parts.append(_griffin_lim(part, settings).astype(np.float32))
    return np.concatenate(parts)


def _griffin_lim(log_mel: np.ndarray, settings: LogMelSettings) -> np.ndarray:
    """[L * hop] float64 from a log-mel [L, M] float64 with at least one row."""
    window = settings.window_samples
    log_mel_samples = len(log_mel) * settings.hop_samples
    num_samples = max(log_mel_samples, window)
    hop = max(1, window // _HOPS_PER_WINDOW)
    layout = {
        "window": "hann",
        "nperseg": window,
        "noverlap": window - hop,
        "nfft": settings.fft_size,
    }

    def to_spectrum(waveform: np.ndarray) -> np.ndarray:
        return signal.stft(waveform, **layout)[2].T  # [frames, bins] complex

    def to_waveform(spectrum: np.ndarray) -> np.ndarray:
        waveform = signal.istft(spectrum.T, **layout)[1][:num_samples]
        return np.pad(waveform, (0, num_samples - len(waveform)))

    num_frames = len(to_spectrum(np.zeros(num_samples)))
    centres = np.arange(num_frames) * hop / settings.hop_samples - 0.5
    log_mel_centres = np.arange(len(log_mel))
    finer = np.stack(
        [np.interp(centres, log_mel_centres, column) for column in log_mel.T], axis=1
    )
    # SciPy divides by the window's sum, which is half its length.
    magnitudes = np.sqrt(_invert_filters(finer, settings)) / (window / 2)
    angles = np.random.default_rng(_SEED).uniform(-np.pi, np.pi, magnitudes.shape)
    spectrum = magnitudes * np.exp(1j * angles)
    previous = np.zeros_like(spectrum)
    for _ in range(_NUM_ITERATIONS):
        consistent = to_spectrum(to_waveform(spectrum))
        ahead = consistent + _MOMENTUM * (consistent - previous)
        spectrum = magnitudes * np.exp(1j * np.angle(ahead))
        previous = consistent
    return to_waveform(spectrum)[:log_mel_samples]


def _invert_filters(log_mel: np.ndarray, settings: LogMelSettings) -> np.ndarray:
    """[N, bins] power, at least 0, that the filters bring close to a log-mel [N, M].

    Multiplicative updates of non-negative least squares (Lee and Seung 2001).
    """
    filters = log_mel_definition.mel_filters(settings)  # [bins, M]
    mel_power = np.maximum(np.exp(log_mel) - settings.log_offset, 0)
    target = mel_power @ filters.T
    power = target.copy()
    for _ in range(_NUM_INVERSION_STEPS):
        power *= target / np.maximum(power @ filters @ filters.T, np.finfo(float).tiny)
    return power
