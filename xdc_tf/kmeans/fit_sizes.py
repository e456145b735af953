"""What a fit takes by itself from the machine and from its size.

Rows per block, rows of the sample that k-means++ sees, the type of the products.
"""

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans.rows import Products

# More clusters get smaller blocks, so that a block's scores stay within 32 MB.
MOST_BLOCK_ROWS, _FEWEST_BLOCK_ROWS = 8192, 512
_BLOCK_SCORES = 1 << 23
# On a GPU blocks are large, so that starting its kernels does not take longer than they
# do: scores within 256 MB.
_MOST_BLOCK_ROWS_ON_GPU, _BLOCK_SCORES_ON_GPU = 1 << 18, 1 << 26
# k-means++ chooses from a sample of the rows. Twice as many cost twice the time, for
# 0.2% less inertia in the end (docs/clustering.md, 400,000 rows).
_MIN_SAMPLE_ROWS = 4096
_SAMPLE_ROWS_PER_CLUSTER = 8


def product_dtype(precision: str) -> tf.DType:
    """Type of the matrix products of a precision on this machine."""
    if precision == "float32":
        return tf.float32
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    # Before Ampere, NVIDIA's tensor cores have float16 only.
    if any(one.get("compute_capability", (8, 0)) < (8, 0) for one in details):
        return tf.float16
    return tf.bfloat16


def products_of(precision: str, sample: tf.Tensor) -> Products:
    """Products for prepared rows like those of the sample [s, d] float32."""
    squares = tf.reduce_mean(tf.reduce_sum(tf.square(sample), axis=1))
    return Products(product_dtype(precision), tf.math.rsqrt(tf.maximum(squares, 1e-30)))


def works_on_gpu(device: str | None, strategy: tf.distribute.Strategy | None) -> bool:
    """Whether a fit's work is done by GPUs.

    Args:
      device: that holds the rows; None for the default one.
      strategy: whose replicas share the rows, wherever they were before.
    """
    if strategy is not None:
        device = strategy.extended.worker_devices[0]
    if device is None:
        return bool(tf.config.list_logical_devices("GPU"))
    return tf.DeviceSpec.from_string(device).device_type == "GPU"


def block_rows(num_columns: int, *, on_gpu: bool = False) -> int:
    """Rows that are compared at once with so many centroids of all fits."""
    most, scores = MOST_BLOCK_ROWS, _BLOCK_SCORES
    if on_gpu:
        most, scores = _MOST_BLOCK_ROWS_ON_GPU, _BLOCK_SCORES_ON_GPU
    return int(np.clip(scores // num_columns, _FEWEST_BLOCK_ROWS, most))


def sample_rows(num_fitted: int, num_clusters: int) -> int:
    """Rows of the sample that k-means++ chooses from."""
    wanted = min(_SAMPLE_ROWS_PER_CLUSTER * num_clusters, num_fitted // 8)
    return min(num_fitted, max(_MIN_SAMPLE_ROWS, 2 * num_clusters, wanted))
