"""Preprocessing of features before they are compared with centroids."""

import numpy as np
import tensorflow as tf

# Squared lengths between these lose nothing to overflow or underflow in float32.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 1e-24, 1e30


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
