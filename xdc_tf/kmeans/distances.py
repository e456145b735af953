"""How rows are compared with centroids: preprocessed, then by squared distances.

These come from inner products, which may be of half the width, or from differences.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Squared distances below this fraction of the variance are rounding in float32.
RELATIVE_RESOLUTION = 1e-6
# Squared lengths between these lose nothing to overflow or underflow in float32.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 1e-24, 1e30


class Preparation(NamedTuple):
    """What rows go through before they are compared with centroids.

    Attributes:
      normalize: scale to length one.
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.
      origin: [d] float32, subtracted last.
    """

    normalize: bool
    pca_mean: tf.Tensor | None
    pca_projection: tf.Tensor | None
    origin: tf.Tensor


class MatmulFormat(NamedTuple):
    """How rows and centroids enter matrix products.

    Attributes:
      dtype: float32, bfloat16 or float16.
      scale: [] float32, what both are multiplied with so that float16 can hold their
        inner products; not used with other types.
    """

    dtype: tf.DType
    scale: tf.Tensor


EXACT = MatmulFormat(tf.float32, 1.0)


def preprocess(
    features: tf.Tensor,
    *,
    normalize: bool,
    pca_mean: np.ndarray | tf.Tensor | None,
    pca_projection: np.ndarray | tf.Tensor | None,
) -> tf.Tensor:
    """Projects and scales rows; eagerly or inside a `tf.function`.

    Args:
      features: [N, D] float32.
      normalize: scale rows to length one, after the projection; all-zero rows stay.
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.

    Returns:
      [N, d] float32.
    """
    rows = features
    if pca_projection is not None:
        rows = tf.matmul(rows - pca_mean, pca_projection)
    return normalize_rows(rows) if normalize else rows


def normalize_rows(rows: tf.Tensor) -> tf.Tensor:
    """Scales [N, d] float32 rows to length one; all-zero rows stay."""
    squares = tf.reduce_sum(tf.square(rows), axis=1, keepdims=True)
    safe = tf.reduce_all((squares > _SMALLEST_SQUARE) & (squares < _LARGEST_SQUARE))

    def scaled_by_the_largest_entry_first():
        largest = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True)
        moderate = tf.math.divide_no_nan(rows, largest)
        return tf.math.divide_no_nan(moderate, tf.norm(moderate, axis=1, keepdims=True))

    return tf.cond(
        safe, lambda: rows / tf.sqrt(squares), scaled_by_the_largest_entry_first
    )


def prepare(features: tf.Tensor, preparation: Preparation) -> tf.Tensor:
    """[n, D] float32 features -> [n, d] prepared rows."""
    rows = preprocess(
        features,
        normalize=preparation.normalize,
        pca_mean=preparation.pca_mean,
        pca_projection=preparation.pca_projection,
    )
    return rows - preparation.origin


def as_factors(values: tf.Tensor, matmul_format: MatmulFormat) -> tf.Tensor:
    """Float32 rows or centroids -> factors of a matrix product."""
    if matmul_format.dtype == tf.float16:
        values *= matmul_format.scale
    return tf.cast(values, matmul_format.dtype)


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
    rows: tf.Tensor, labels: tf.Tensor, centroids: tf.Tensor
) -> tf.Tensor:
    """Squared distances [b, R] to the labels' centroids, by differences: exact."""
    distances = [
        tf.reduce_sum((rows - tf.gather(centroids[fit], labels[:, fit])) ** 2, 1)
        for fit in range(centroids.shape[0])
    ]
    return tf.stack(distances, axis=1)
