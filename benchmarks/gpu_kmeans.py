"""The parts of an iteration of k-means, each in several ways; run by benchmarks.gpu.

Every way gives the same labels of a block of rows, or the same sums by label; one that
fails says why in the place of its milliseconds.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import gpu_records, gpu_training
from benchmarks.gpu_training import DEVICE


def labels_by_argmax(factors, columns, bias):
    """As nearest_scores and `tf.argmax` find them."""
    scores = tf.cast(tf.matmul(factors, columns), tf.float32) + bias
    return tf.argmax(scores, axis=1)


def labels_by_maximum(factors, columns, bias):
    """The first place of the largest score."""
    scores = tf.cast(tf.matmul(factors, columns), tf.float32) + bias
    largest = tf.reduce_max(scores, axis=1, keepdims=True)
    places = tf.range(scores.shape[1])
    far = tf.constant(scores.shape[1], tf.int32)
    places = tf.where(tf.equal(scores, largest), places, far)
    return tf.cast(tf.reduce_min(tf.cast(places, tf.float32), axis=1), tf.int64)


def labels_by_top_k(factors, columns, bias):
    """The place of the only one of the top scores."""
    scores = tf.cast(tf.matmul(factors, columns), tf.float32) + bias
    return tf.cast(tf.math.top_k(scores, 1, sorted=False).indices[:, 0], tf.int64)


def sums_by_segment(rows, labels, num_clusters):
    """As cluster_sums adds them up."""
    return tf.math.unsorted_segment_sum(rows, labels, num_clusters)


def sums_by_sorting(rows, labels, num_clusters):
    """Rows gathered in the order of their labels."""
    order = tf.argsort(tf.cast(labels, tf.int32))
    sums = tf.math.segment_sum(tf.gather(rows, order), tf.gather(labels, order))
    missing = tf.zeros([num_clusters - tf.shape(sums)[0], rows.shape[1]])
    return tf.concat([sums, missing], axis=0)


def sums_by_product(rows, labels, num_clusters):
    """Products with the labels as ones, of rows in two parts that TF32 can hold."""
    high = tf.cast(tf.cast(rows, tf.bfloat16), tf.float32)
    ones = tf.one_hot(labels, num_clusters)
    product = tf.matmul(ones, high, transpose_a=True)
    return product + tf.matmul(ones, rows - high, transpose_a=True)


_LABELS = (labels_by_argmax, labels_by_maximum, labels_by_top_k)
_SUMS = (sums_by_segment, sums_by_sorting, sums_by_product)
# Of shapes or operations that XLA does not have on GPUs.
_NOT_COMPILED = (labels_by_top_k.__name__, sums_by_sorting.__name__)


def kmeans_parts(
    num_rows: int, width: int, num_clusters: int, steps: int
) -> dict[str, Any]:
    """Milliseconds that a block's matrix product, labels and sums take, way by way.

    Args:
      num_rows: of the block.
      width: of a row.
      num_clusters: k.
      steps: of a timed run.
    """
    rng = np.random.default_rng(0)
    with tf.device(DEVICE):
        rows = tf.math.l2_normalize(tf.random.normal([num_rows, width], seed=0), 1)
        columns = tf.transpose(rows[:num_clusters])
        bias = tf.random.normal([num_clusters], stddev=0.01, seed=1)
        labels = tf.constant(rng.integers(0, num_clusters, num_rows))
        factors, columns = (tf.cast(x, tf.bfloat16) for x in (rows, columns))
        small = tf.cast(labels, tf.int32)
    tasks = [("product", lambda a, b, _: tf.matmul(a, b), (factors, columns, bias))]
    for function in _LABELS:
        tasks.append((function.__name__, function, (factors, columns, bias)))
    for function in _SUMS:

        def summed(rows, labels, function=function):
            return function(rows, labels, num_clusters)

        tasks.append((function.__name__, summed, (rows, labels)))
        if function is sums_by_segment:
            tasks.append((f"{function.__name__}, int32", summed, (rows, small)))

    def block(factors, columns, bias, rows):
        found = labels_by_argmax(factors, columns, bias)
        return tf.concat(
            [
                tf.reshape(sums_by_segment(rows, found, num_clusters), [-1]),
                tf.cast(found, tf.float32),
            ],
            axis=0,
        )

    tasks.append(("labels and sums", block, (factors, columns, bias, rows)))
    figures: dict[str, Any] = {}
    expected: dict[str, np.ndarray] = {}
    for name, function, arguments in tasks:
        for compiled in (False, True):
            if compiled and name in _NOT_COMPILED:
                continue
            key = name + (", XLA" if compiled else "")
            try:
                figures[key], found = _measure(function, arguments, compiled, steps)
            except Exception as error:
                figures[key] = f"{type(error).__name__}: {error}"[:200]
                continue
            first = expected.setdefault(name.split("_by_")[0], found)
            if "_by_" in name and not _agree(found, first):
                figures[key] = "differs"
    return figures


def _measure(function, arguments, compiled: bool, steps: int):
    """Milliseconds of a call, and what it returns."""
    with gpu_training.tf32(True):
        run = tf.function(function, autograph=False, jit_compile=compiled or None)
        for _ in range(2):
            _wait(run(*arguments))
        secs = gpu_records.median_secs(lambda: run(*arguments), _wait, steps=steps)
        return 1e3 * secs, run(*arguments).numpy()


def _agree(found: np.ndarray, first: np.ndarray) -> bool:
    if first.dtype == np.int64:
        return bool(np.mean(found == first) > 0.99)
    return bool(np.allclose(found, first, atol=1e-3 * np.abs(first).max()))


def _wait(value: tf.Tensor) -> None:
    tf.reshape(value, [-1])[0].numpy()
