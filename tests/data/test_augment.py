import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import augment
from xdc_tf.data.augmentation_settings import Augmentation

# Colours far enough from 0 and 1 that the changes below do not clip them.
FRAMES = np.random.default_rng(0).uniform(0.3, 0.6, (3, 4, 5, 3)).astype(np.float32)
LOG_MEL = np.random.default_rng(1).uniform(1.0, 2.0, (30, 8)).astype(np.float32)
GREY = np.array([0.299, 0.587, 0.114])
SEEDS = [[7, number] for number in range(100)]


def jitter(seed, **strengths):
    augmentation = Augmentation(**strengths)
    return augment.jitter_color(tf.constant(FRAMES), tf.constant(seed), augmentation)


def mask(seed, *, axis, max_width):
    return augment.mask_band(
        tf.constant(LOG_MEL), tf.constant(seed), axis=axis, max_width=max_width
    ).numpy()


CHANGES = {
    "mirrored": augment.is_mirrored,
    "brightness": lambda seed: jitter(seed, brightness=0.3),
    "contrast": lambda seed: jitter(seed, contrast=0.3),
    "saturation": lambda seed: jitter(seed, saturation=0.3),
    "gain": lambda seed: augment.change_gain(tf.constant(LOG_MEL), seed, 6.0),
    "rows": lambda seed: mask(seed, axis=0, max_width=9),
    "filters": lambda seed: mask(seed, axis=1, max_width=3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_a_function_of_its_seed(change):
    np.testing.assert_array_equal(change([1, 2]), change([1, 2]))
    different = {np.asarray(change(seed)).tobytes() for seed in SEEDS[:20]}
    assert len(different) > 1


def test_half_of_the_clips_are_mirrored():
    assert 30 < sum(bool(augment.is_mirrored(seed)) for seed in SEEDS) < 70


def test_colours_stay_at_strength_zero():
    np.testing.assert_allclose(jitter([1, 2]), FRAMES, atol=1e-6)


def test_brightness_multiplies_the_clip_by_one_factor():
    factors = []
    for seed in SEEDS:
        ratios = jitter(seed, brightness=0.4).numpy() / FRAMES
        np.testing.assert_allclose(ratios, ratios[0, 0, 0, 0], rtol=1e-5)
        factors.append(ratios[0, 0, 0, 0])
    assert 0.6 <= min(factors) < 0.7 and 1.3 < max(factors) <= 1.4


def test_contrast_scales_the_distance_to_the_mean_grey():
    mean = (FRAMES @ GREY).mean()
    factors = []
    for seed in SEEDS:
        ratios = (jitter(seed, contrast=0.4).numpy() - mean) / (FRAMES - mean)
        factors.append(np.median(ratios))
        np.testing.assert_allclose(
            jitter(seed, contrast=0.4), mean + factors[-1] * (FRAMES - mean), atol=1e-5
        )
    assert 0.6 <= min(factors) < 0.7 and 1.3 < max(factors) <= 1.4


def test_saturation_scales_the_distance_to_each_pixels_grey():
    grey = (FRAMES @ GREY)[..., None]
    factors = []
    for seed in SEEDS:
        changed = jitter(seed, saturation=0.4).numpy()
        np.testing.assert_allclose((changed @ GREY)[..., None], grey, atol=1e-5)
        factors.append(np.median((changed - grey) / (FRAMES - grey)))
        np.testing.assert_allclose(
            changed, grey + factors[-1] * (FRAMES - grey), atol=1e-5
        )
    assert 0.6 <= min(factors) < 0.7 and 1.3 < max(factors) <= 1.4


def test_changed_colours_stay_between_zero_and_one():
    frames = tf.constant([0.0, 1.0] * 12, shape=[1, 2, 4, 3])
    strongest = Augmentation(brightness=1.0, contrast=1.0, saturation=1.0)
    for seed in SEEDS[:20]:
        changed = augment.jitter_color(frames, seed, strongest).numpy()
        assert changed.min() >= 0.0 and changed.max() <= 1.0


def test_a_gain_adds_its_decibels_to_the_natural_log_of_power():
    # 20 dB are a factor of 100 in power.
    gains = []
    for seed in SEEDS:
        added = augment.change_gain(tf.constant(LOG_MEL), seed, 20.0).numpy() - LOG_MEL
        np.testing.assert_allclose(added, added[0, 0], atol=1e-5)
        gains.append(added[0, 0])
    assert -np.log(100) <= min(gains) < -4 and 4 < max(gains) <= np.log(100)


def test_a_gain_of_zero_changes_nothing():
    changed = augment.change_gain(tf.constant(LOG_MEL), [1, 2], 0.0)
    np.testing.assert_array_equal(changed, LOG_MEL)


@pytest.mark.parametrize(("axis", "size"), [(0, 30), (1, 8)])
def test_a_mask_blanks_one_band_and_nothing_else(axis, size):
    widths, places = set(), set()
    for seed in SEEDS:
        masked = mask(seed, axis=axis, max_width=3)
        blank = (masked == 0).all(axis=1 - axis)
        np.testing.assert_array_equal(
            np.compress(~blank, masked, axis), np.compress(~blank, LOG_MEL, axis)
        )
        (band,) = np.nonzero(blank)
        assert (np.diff(band) == 1).all()
        widths.add(len(band))
        places.update(band.tolist())
    assert widths == {0, 1, 2, 3}
    assert places == set(range(size))


def test_a_mask_of_width_zero_changes_nothing():
    for seed in SEEDS[:10]:
        np.testing.assert_array_equal(mask(seed, axis=0, max_width=0), LOG_MEL)


def test_a_mask_may_be_wider_than_the_picture():
    widths = set()
    for seed in SEEDS[:20]:
        blank = (mask(seed, axis=1, max_width=100) == 0).all(axis=0)
        widths.add(int(blank.sum()))
    assert max(widths) == 8
