"""Squared distances between rows and centroids, by inner products or by differences."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from xdc_tf.kmeans.rows import Block, MatmulFormat, as_factors

EXACT = MatmulFormat(tf.float32, 1.0)
# Squared distances below this fraction of the variance are rounding in float32.
RELATIVE_RESOLUTION = 1e-6


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Float32 matrix products with all digits, on GPUs that TensorFlow uses TF32 on.

    Of TF32's 11 bits, a row's distances to two centroids that are nearly as far differ
    in the last ones. What is meant to be fast has "mixed" precision, at half the width.
    The setting is the process's: other threads' matrix products have it meanwhile.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def nearest_scores(
    factors: tf.Tensor,
    columns: tf.Tensor,
    offsets: tf.Tensor,
    matmul_format: MatmulFormat,
) -> tf.Tensor:
    """x . c - |c|^2 / 2 + offset / 2; its argmax is the nearest centroid.

    Args:
      factors: [b, d] rows.
      columns: [d, m] centroids.
      offsets: [m] float32.
      matmul_format: that factors and columns are in.

    Returns:
      [b, m] float32.
    """
    # Norms of the centroids as the inner products see them, so that rounding them moves
    # a centroid a little but favours none.
    half_norms = 0.5 * tf.reduce_sum(tf.cast(columns, tf.float32) ** 2, axis=0)
    scores = tf.matmul(factors, columns)
    if scores.dtype == tf.float32:
        return tf.nn.bias_add(scores, 0.5 * offsets - half_norms)  # one kernel
    scores = tf.cast(scores, tf.float32)
    if matmul_format.dtype == tf.float16:
        unscale = 1.0 / matmul_format.scale**2
        return (scores - half_norms) * unscale + 0.5 * offsets
    return scores + (0.5 * offsets - half_norms)


def scores_of(
    factors: tf.Tensor,
    columns: tf.Tensor,
    offsets: tf.Tensor,
    matmul_format: MatmulFormat,
) -> tf.Tensor:
    """nearest_scores [b, R, k] for offsets [R, k]."""
    scores = nearest_scores(factors, columns, tf.reshape(offsets, [-1]), matmul_format)
    return tf.reshape(scores, [-1, *offsets.shape])


def columns_of(centroids: tf.Tensor, matmul_format: MatmulFormat) -> tf.Tensor:
    """[R, k, d] centroids -> [d, R k] columns."""
    flat = tf.reshape(centroids, [-1, centroids.shape[-1]])
    return as_factors(tf.transpose(flat), matmul_format)


def squared_distances(
    block: Block, labels: tf.Tensor, centroids: tf.Tensor
) -> tf.Tensor:
    """Squared distances [b, R] to the labels' centroids, by differences: exact."""
    distances = [
        tf.reduce_sum((block.rows - tf.gather(centroids[fit], labels[:, fit])) ** 2, 1)
        for fit in range(centroids.shape[0])
    ]
    return tf.stack(distances, axis=1)
