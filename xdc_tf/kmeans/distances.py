"""Squared distances between rows and centroids, by products or by differences."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from xdc_tf.kmeans.rows import Block, Products, as_factors

EXACT = Products(tf.float32, 1.0)
# Squared distances below this part of the variance are rounding in float32.
RELATIVE_RESOLUTION = 1e-6


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products with all their digits, on GPUs that TensorFlow uses TF32 on.

    Of TF32's 11 bits, a row's distances to two centroids that are nearly as far differ
    in the last ones. What is meant to be fast has "mixed" precision, at half the width.
    The setting is the process's: products of other threads have it meanwhile.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def nearest_scores(
    factors: tf.Tensor, columns: tf.Tensor, offsets: tf.Tensor, products: Products
) -> tf.Tensor:
    """Half of what is left of squared distances: the largest is the nearest centroid.

    Args:
      factors: [b, d] rows.
      columns: [d, m] centroids.
      offsets: [m] float32.
      products: how factors and columns were made.

    Returns:
      [b, m] float32, x.c - |c|^2 / 2 + offset / 2.
    """
    # Norms of the centroids as the products see them, so that rounding them moves a
    # centroid a little but favours none.
    half_norms = 0.5 * tf.reduce_sum(tf.cast(columns, tf.float32) ** 2, axis=0)
    scores = tf.matmul(factors, columns)
    if scores.dtype == tf.float32:
        return tf.nn.bias_add(scores, 0.5 * offsets - half_norms)  # one kernel
    scores = tf.cast(scores, tf.float32)
    if products.dtype == tf.float16:
        unscale = 1.0 / products.scale**2
        return (scores - half_norms) * unscale + 0.5 * offsets
    return scores + (0.5 * offsets - half_norms)


def scores_of(
    factors: tf.Tensor, columns: tf.Tensor, offsets: tf.Tensor, products: Products
) -> tf.Tensor:
    """nearest_scores [b, R, k] for offsets [R, k]."""
    scores = nearest_scores(factors, columns, tf.reshape(offsets, [-1]), products)
    return tf.reshape(scores, [-1, *offsets.shape])


def columns_of(centroids: tf.Tensor, products: Products) -> tf.Tensor:
    """[R, k, d] centroids -> [d, R k] columns."""
    flat = tf.reshape(centroids, [-1, centroids.shape[-1]])
    return as_factors(tf.transpose(flat), products)


def squared_distances(
    block: Block, labels: tf.Tensor, centroids: tf.Tensor
) -> tf.Tensor:
    """Squared distances [b, R] to the labels' centroids, by differences: exact."""
    distances = [
        tf.reduce_sum((block.rows - tf.gather(centroids[fit], labels[:, fit])) ** 2, 1)
        for fit in range(centroids.shape[0])
    ]
    return tf.stack(distances, axis=1)
