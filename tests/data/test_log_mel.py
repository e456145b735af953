import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from xdc_tf.data.log_mel import LogMelSettings, log_mel

SMALL_HOP = LogMelSettings(
    sample_rate_hz=24000,
    window_ms=16.0,
    hop_ms=10.0,
    fft_size=512,
    num_filters=30,
    min_hz=60.0,
    max_hz=11000.0,
    log_offset=1e-3,
)


def noise(num_samples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.8, 0.8, num_samples).astype(np.float32)


def scipy_log_mel(waveform, settings):
    """From scipy's STFT, and triangles drawn one by one with numpy.interp."""
    window = round(settings.sample_rate_hz * settings.window_ms / 1000)
    hop = round(settings.sample_rate_hz * settings.hop_ms / 1000)
    num_frames = len(waveform) // hop
    before = (window - hop) // 2
    padded = np.concatenate([np.zeros(before), waveform, np.zeros(window)])
    hann = scipy.signal.get_window("hann", window)
    bins_hz, _, spectra = scipy.signal.stft(
        padded,
        fs=settings.sample_rate_hz,
        window=hann,
        nperseg=window,
        noverlap=window - hop,
        nfft=settings.fft_size,
        boundary=None,
        padded=False,
        detrend=False,
    )
    # scipy divides spectra by the sum of the window.
    power = np.abs(spectra[:, :num_frames] * hann.sum()) ** 2

    def mel_of_hz(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    grid_hz = np.linspace(settings.min_hz, settings.max_hz, 400_001)
    corners = np.interp(
        np.linspace(
            mel_of_hz(settings.min_hz),
            mel_of_hz(settings.max_hz),
            settings.num_filters + 2,
        ),
        mel_of_hz(grid_hz),
        grid_hz,
    )
    triangles = [
        np.interp(bins_hz, corners[i : i + 3], [0, 1, 0], left=0, right=0)
        for i in range(settings.num_filters)
    ]
    return np.log(power.T @ np.stack(triangles, axis=1) + settings.log_offset)


@pytest.mark.parametrize("settings", [LogMelSettings(), SMALL_HOP])
def test_it_agrees_with_scipy(settings):
    waveform = noise(settings.sample_rate_hz)
    expected = scipy_log_mel(waveform, settings)
    np.testing.assert_allclose(log_mel(waveform, settings), expected, atol=1e-4)


def test_one_second_at_a_hop_of_20_ms_gives_50_frames_of_40_filters():
    result = log_mel(noise(16000), LogMelSettings())
    assert (result.shape, result.dtype) == ((50, 40), np.float32)


def test_silence_gives_the_log_of_the_offset():
    result = log_mel(np.zeros(640, np.float32), LogMelSettings())
    np.testing.assert_allclose(result, np.log(1e-6), rtol=1e-6)


def test_a_click_is_seen_by_the_frame_of_its_time_only():
    waveform = np.zeros(3200, np.float32)
    waveform[5 * 320 + 160] = 1.0  # the middle of frame 5; windows reach 40 beyond
    loud = log_mel(waveform, LogMelSettings()).max(axis=1) > np.log(2e-6)
    assert np.flatnonzero(loud).tolist() == [5]


def test_tensors_give_what_arrays_give():
    waveform = noise(5000)
    result = log_mel(tf.constant(waveform), LogMelSettings())
    np.testing.assert_allclose(
        result, log_mel(waveform, LogMelSettings()), rtol=0, atol=1e-6
    )


def test_tensors_of_unknown_length_and_a_batch_can_be_traced():
    signature = tf.TensorSpec([None, None], tf.float32)
    traced = tf.function(
        lambda x: log_mel(x, LogMelSettings()), input_signature=[signature]
    )
    batch = noise(2 * 3200).reshape(2, 3200)
    assert traced.get_concrete_function().output_shapes.as_list() == [None, None, 40]
    np.testing.assert_allclose(
        traced(batch), log_mel(batch, LogMelSettings()), rtol=0, atol=1e-6
    )


def test_a_recording_longer_than_one_block_equals_its_parts():
    settings = LogMelSettings()
    waveform = noise(2100 * 320)
    tail = log_mel(waveform[2000 * 320 :], settings)
    np.testing.assert_allclose(
        log_mel(waveform, settings)[2001:], tail[1:], rtol=0, atol=1e-5
    )


def test_integers_are_refused():
    with pytest.raises(TypeError, match="int16.*divide"):
        log_mel(np.zeros(640, np.int16), LogMelSettings())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hop_ms": 20.01}, "hop_ms=20.01"),
        ({"window_ms": 40.0}, "fft_size"),
        ({"window_ms": 10.0}, "window_ms"),
        ({"max_hz": 9000.0}, "max_hz=9000"),
        ({"num_filters": 200}, "num_filters=200"),
        ({"log_offset": 0.0}, "log_offset"),
        ({"fft_size": 0}, "fft_size"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        log_mel(noise(640), LogMelSettings()._replace(**changed))


def test_the_modules_of_worker_processes_do_not_import_tensorflow():
    program = (
        "import sys, data_prep.worker_processes, data_prep.convert\n"
        "import xdc_tf.data.dataset_info\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
