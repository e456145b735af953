"""Clusters of nearly equal size: Sinkhorn offsets of squared distances."""

import tensorflow as tf

from xdc_tf.kmeans.distances import columns_of, scores_of
from xdc_tf.kmeans.fit_settings import FitContext
from xdc_tf.kmeans.replicas import on_replicas, total
from xdc_tf.kmeans.rows import Rows, over_blocks

# Softness of the assignment, as a fraction of the variance. Less makes rounded sizes
# more even and takes more passes.
_TEMPERATURE = 0.02
_FINAL_PASSES = 20


def temperature_of(variance: tf.Tensor) -> tf.Tensor:
    return _TEMPERATURE * tf.maximum(tf.cast(variance, tf.float32), 1e-30)


def soft_sizes(
    scores: tf.Tensor, fitted: tf.Tensor, temperature: tf.Tensor
) -> tf.Tensor:
    """[R, k] float64 sums of the fitted rows' soft assignments."""
    probabilities = tf.nn.softmax(scores * (2.0 / temperature))
    probabilities = tf.where(fitted[:, tf.newaxis, tf.newaxis], probabilities, 0.0)
    return tf.cast(tf.reduce_sum(probabilities, axis=0), tf.float64)


def balance(
    offsets: tf.Tensor, masses: tf.Tensor, variance: tf.Tensor, num_fitted: tf.Tensor
) -> tf.Tensor:
    """One Sinkhorn step: offsets [R, k] that bring soft sizes towards N / k.

    Rows are normalised by the softmax, columns here, both in the logarithm (Asano et
    al., "Labelling unlabelled videos from scratch", NeurIPS 2020, section 3.1, with
    squared distances in place of the classifier's log-probabilities).
    """
    target = num_fitted / tf.cast(tf.shape(masses)[1], tf.float64)
    ratio = target / tf.maximum(masses, 1e-9 * target)
    offsets += temperature_of(variance) * tf.cast(tf.math.log(ratio), tf.float32)
    return offsets - tf.reduce_mean(offsets, axis=1, keepdims=True)


def final_offsets(
    rows: Rows, centroids: tf.Tensor, offsets: tf.Tensor, context: FitContext
) -> tf.Tensor:
    """Offsets [R, k] for centroids that stay as they are.

    Args:
      rows: prepared, on the replicas.
      centroids: [R, k, d] float32.
      offsets: [R, k] float32, to start from.
      context: of the fits.
    """
    matmul_format, temperature = context.matmul_format, temperature_of(context.variance)
    columns = columns_of(centroids, matmul_format)

    def soft_sizes_of_replica(shard, offsets):
        def add_block(block, masses):
            scores = scores_of(block.factors, columns, offsets, matmul_format)
            fitted = shard.fitted[block.start : block.stop]
            return (), masses + soft_sizes(scores, fitted, temperature)

        _, masses = over_blocks(
            shard,
            add_block,
            tf.zeros(offsets.shape, tf.float64),
            block_rows=context.settings.block_rows,
            matmul_format=matmul_format,
        )
        return masses

    def step(number, offsets):
        masses = on_replicas(
            context.strategy, lambda shard: soft_sizes_of_replica(shard, offsets), rows
        )
        masses = total(context.strategy, masses)
        offsets = balance(offsets, masses, context.variance, context.num_fitted)
        return number + 1, offsets

    _, offsets = tf.while_loop(
        lambda number, _: number < _FINAL_PASSES, step, (0, offsets)
    )
    return offsets
