"""The preparation of rows: PCA-whitening, and an origin near their mean."""

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import survey
from xdc_tf.kmeans.distances import RELATIVE_RESOLUTION
from xdc_tf.kmeans.fit_settings import ArgumentError
from xdc_tf.kmeans.preprocessing import preprocess
from xdc_tf.kmeans.rows import Preparation, Rows


def fit_preparation(
    shards: Rows,
    sample: tf.Tensor,
    *,
    normalize: bool,
    pca_components: int | None,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> tuple[Preparation, tf.Tensor]:
    """The preparation of the rows, and the sample [s, d] after it.

    Args:
      shards: the rows on their replicas, not prepared.
      sample: [s, D] float32 of these rows.
      normalize: scale rows to length one.
      pca_components: whiten to so many first, or None.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.

    Raises:
      ArgumentError: on more components than the rows vary along.
    """
    mean = projection = None
    if pca_components is not None:
        shift = tf.reduce_mean(sample, axis=0)
        mean, projection = _whitening(
            survey.moments(shards, shift, block_rows, strategy),
            shift.numpy(),
            pca_components,
        )
    sample = preprocess(
        sample, normalize=normalize, pca_mean=mean, pca_projection=projection
    )
    origin = tf.reduce_mean(sample, axis=0)
    return Preparation(normalize, mean, projection, origin), sample - origin


def _whitening(
    moments: survey.Moments, shift: np.ndarray, num_components: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean [D] and the projection [D, components] to unit covariance."""
    num_rows, width = int(moments.count), len(shift)
    limit = min(width, num_rows - 1)
    if not 1 <= num_components <= limit:
        raise ArgumentError(
            "pca_components",
            f"pca_components={num_components} must lie between 1 and {limit} for "
            f"{num_rows} rows of {width} dimensions.",
        )
    mean = moments.sums.numpy() / num_rows
    covariance = moments.scatter.numpy() - num_rows * np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance / (num_rows - 1))
    variances, directions = variances[::-1], directions[:, ::-1]  # largest first
    rank = int(np.sum(variances > max(variances[0], 0.0) * RELATIVE_RESOLUTION))
    if rank < num_components:
        raise ArgumentError(
            "pca_components",
            f"pca_components={num_components} but the features vary along {rank} "
            "directions only; lower pca_components.",
        )
    scales = np.sqrt(variances[:num_components])
    projection = directions[:, :num_components] / scales
    return tf.constant(shift + mean, tf.float32), tf.constant(projection, tf.float32)
