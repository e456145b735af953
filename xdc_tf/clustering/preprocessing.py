"""What is done to features before they are compared with centroids."""

import numpy as np
import tensorflow as tf


def preprocess(
    features: tf.Tensor,
    *,
    normalize: bool,
    pca_mean: np.ndarray | None,
    pca_projection: np.ndarray | None,
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
    if normalize:
        # Scaled by the largest entry first: squares of tiny or huge ones do not fit.
        largest = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True)
        rows = tf.math.divide_no_nan(rows, largest)
        rows = tf.math.divide_no_nan(rows, tf.norm(rows, axis=1, keepdims=True))
    return rows
