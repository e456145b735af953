"""Statistics of clips: of known stripes and tones, and against another library."""

import numpy as np
import pytest
import scipy.fft
import tensorflow as tf

from xdc_tf.models import clip_statistics

RNG = np.random.default_rng(0)
WAVE = np.sin(np.arange(48) / 2)


def _gradients(frames):
    found = clip_statistics.oriented_gradients(tf.constant(frames, tf.float32))
    return found.numpy().reshape(-1, 4, 4, 8)


def _clip(image):
    """[1, 2, H, W, 3] of an image."""
    return np.broadcast_to(image[None, None, :, :, None], (1, 2, *image.shape, 3))


@pytest.mark.parametrize(
    "image, orientation",
    [
        (np.broadcast_to(WAVE, (48, 48)), 0),  # changes along x
        (np.broadcast_to(WAVE[:, None], (48, 48)), 4),
    ],
)
def test_stripes_have_the_orientation_in_which_they_change(image, orientation):
    (cells,) = _gradients(_clip(image))
    others = np.delete(cells, orientation, axis=-1)
    assert (cells[..., orientation] > 0.1).all() and np.all(others == 0)


def test_gradients_are_of_their_cell_and_the_same_in_reversed_contrast():
    image = np.zeros((40, 40))
    image[2:8, 32:38] = RNG.normal(size=(6, 6))
    (cells,), (reverse,) = _gradients(_clip(image)), _gradients(_clip(-image))
    filled = cells.sum(axis=-1) > 0
    assert filled[0, 3] and filled.sum() == 1
    np.testing.assert_allclose(cells, reverse, atol=1e-6)


def test_large_frames_are_averaged_down():
    small = RNG.normal(size=(2, 3, 40, 50, 3))
    large = small.repeat(5, axis=2).repeat(5, axis=3)
    np.testing.assert_allclose(_gradients(small), _gradients(large), atol=1e-5)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_frames_of_few_pixels_have_gradients(side):
    frames = RNG.normal(size=(2, 3, side, side, 3))
    assert np.isfinite(_gradients(frames)).all()
    assert (_gradients(frames).sum() > 0) == (side > 1)


@pytest.mark.parametrize("num_bands", [40, 6])
def test_cepstra_are_scipys(num_bands):
    log_mel = RNG.normal(size=(2, 30, num_bands))
    found = clip_statistics.cepstra(tf.constant(log_mel[..., None], tf.float32))
    rows = scipy.fft.dct(log_mel, axis=-1, norm="ortho")[..., :13]
    parts = [rows.mean(axis=1), rows.std(axis=1)]
    for _ in range(2):
        padded = np.pad(rows, ((0, 0), (1, 1), (0, 0)), mode="edge")
        rows = padded[:, 2:] - padded[:, :-2]
        parts.append(rows.std(axis=1))
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), atol=1e-5)


def test_a_clip_of_a_single_row_has_cepstra():
    found = clip_statistics.cepstra(tf.ones([1, 1, 20, 1])).numpy()
    assert np.isfinite(found).all() and np.all(found[:, 13:] == 0)
