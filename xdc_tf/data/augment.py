"""Random changes of a training clip, each a function of its seed.

A seed is a [2] int32 or int64 tensor, as tf.random.stateless_* takes it.
"""

from collections.abc import Sequence

import tensorflow as tf

from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clips import ClipSettings

_GREY = (0.299, 0.587, 0.114)


def is_mirrored(seed: tf.Tensor) -> tf.Tensor:
    """Bool scalar, in half of the cases."""
    return tf.random.stateless_uniform([], seed) < 0.5


def jitter_color(
    frames: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Changes brightness, contrast and saturation of [T, H, W, 3] in [0, 1]."""
    strengths = tf.stack(
        [augmentation.brightness, augmentation.contrast, augmentation.saturation]
    )
    factors = 1.0 + strengths * tf.random.stateless_uniform([3], seed, -1.0, 1.0)
    frames = frames * factors[0]
    grey = tf.reduce_sum(frames * _GREY, axis=-1, keepdims=True)
    mean = tf.reduce_mean(grey)
    frames = mean + factors[1] * (frames - mean)
    grey = mean + factors[1] * (grey - mean)
    return tf.clip_by_value(grey + factors[2] * (frames - grey), 0.0, 1.0)


def change_log_mel(
    log_mel: tf.Tensor,
    seeds: Sequence[tf.Tensor],
    augmentation: Augmentation,
    clip: ClipSettings,
) -> tf.Tensor:
    """Normalises log-mel [L, M] and changes its gain, a band of filters and of rows."""
    gain_seed, frequency_seed, time_seed = seeds
    if augmentation.gain_db:
        log_mel = change_gain(log_mel, gain_seed, augmentation.gain_db)
    log_mel = (log_mel - clip.log_mel_mean) / clip.log_mel_std
    if augmentation.frequency_mask:
        log_mel = mask_band(
            log_mel, frequency_seed, axis=1, max_width=augmentation.frequency_mask
        )
    if augmentation.time_mask:
        log_mel = mask_band(
            log_mel, time_seed, axis=0, max_width=augmentation.time_mask
        )
    return log_mel


def change_gain(log_mel: tf.Tensor, seed: tf.Tensor, gain_db: float) -> tf.Tensor:
    """Adds what a gain of up to +-gain_db does to the natural log of a power."""
    gain = tf.random.stateless_uniform([], seed, -gain_db, gain_db)
    return log_mel + gain * (tf.math.log(10.0) / 10.0)


def mask_band(
    log_mel: tf.Tensor, seed: tf.Tensor, *, axis: int, max_width: int
) -> tf.Tensor:
    """Sets a random band of normalised log-mel [L, M] to zero, the data set's mean.

    The width is uniform in 0..max_width, the place uniform where it fits
    (SpecAugment, Park et al. 2019, section 2).
    """
    draws = tf.random.stateless_uniform([2], seed)
    size = tf.cast(tf.shape(log_mel)[axis], tf.float32)
    width = tf.minimum(tf.floor(draws[0] * (max_width + 1)), size)
    first = tf.floor(draws[1] * (size - width + 1))
    place = tf.range(size)
    keep = tf.cast((place < first) | (place >= first + width), log_mel.dtype)
    return log_mel * (keep[:, None] if axis == 0 else keep[None, :])
