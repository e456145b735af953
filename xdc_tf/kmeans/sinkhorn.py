"""Clusters of nearly equal size: offsets of distances, by Sinkhorn's iteration."""

import tensorflow as tf

from xdc_tf.kmeans.distances import columns_of, scores_of
from xdc_tf.kmeans.replicas import on_replicas, total
from xdc_tf.kmeans.rows import Products, Rows, over_blocks

# Softness of the assignment, as a part of the variance. Less makes rounded sizes more
# even and takes more passes.
_TEMPERATURE = 0.02
_FINAL_PASSES = 20


def temperature_of(variance: tf.Tensor) -> tf.Tensor:
    return _TEMPERATURE * tf.maximum(tf.cast(variance, tf.float32), 1e-30)


def soft_sizes(
    scores: tf.Tensor, fitted: tf.Tensor, temperature: tf.Tensor
) -> tf.Tensor:
    """[R, k] float64 sums of the fitted rows' soft assignments."""
    shares = tf.nn.softmax(scores * (2.0 / temperature))
    shares = tf.where(fitted[:, tf.newaxis, tf.newaxis], shares, 0.0)
    return tf.cast(tf.reduce_sum(shares, axis=0), tf.float64)


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


def balance_finally(
    rows: Rows,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    variance: tf.Tensor,
    num_fitted: tf.Tensor,
    products: Products,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> tf.Tensor:
    """Offsets [R, k] for centroids that stay as they are."""
    columns = columns_of(centroids, products)

    def masses(own, offsets):
        def add(block, masses):
            scores = scores_of(block.factors, columns, offsets, products)
            fitted = own.fitted[block.start : block.stop]
            return (), masses + soft_sizes(scores, fitted, temperature_of(variance))

        nothing = tf.zeros(offsets.shape, tf.float64)
        return over_blocks(
            own,
            add,
            nothing,
            block_rows=block_rows,
            products=products,
        )[1]

    def step(number, offsets):
        found = total(
            strategy,
            on_replicas(strategy, lambda own: masses(own, offsets), rows),
        )
        return number + 1, balance(offsets, found, variance, num_fitted)

    return tf.while_loop(lambda number, _: number < _FINAL_PASSES, step, (0, offsets))[
        1
    ]
