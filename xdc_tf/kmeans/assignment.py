"""Labels of blocks of rows: in an iteration, with what they add to sums, and finally.

An iteration's matrix products may be of half the width; the final labels, their inertia
and the labels of further rows are in float32, whatever the precision of the fit.
Sinkhorn offsets of the squared distances make clusters of nearly equal size.
"""

import tensorflow as tf

from xdc_tf.kmeans import cluster_sums
from xdc_tf.kmeans.cluster_sums import Sums
from xdc_tf.kmeans.distances import (
    EXACT,
    columns_of,
    nearest_scores,
    scores_of,
    squared_distances,
)
from xdc_tf.kmeans.fit_settings import FitContext, TraceSettings
from xdc_tf.kmeans.rows import Rows, on_replicas, over_blocks, total

# Softness of balanced assignments, as a fraction of the variance. Less makes rounded
# sizes more even and takes more passes.
_TEMPERATURE = 0.02
_FINAL_PASSES = 20


def no_labels(shard: Rows, settings: TraceSettings) -> tf.Tensor:
    """[n, R] of -1, the labels before the first iteration."""
    return tf.fill(
        [shard.fitted.shape[0], settings.num_fits],
        tf.constant(-1, settings.label_dtype),
    )


def assign_in_iteration(
    shard: Rows,
    labels_before: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    few_changed: tf.Tensor | None,
    iteration: tf.Tensor,
    context: FitContext,
) -> tuple[tf.Tensor, Sums]:
    """Labels [n, R] of a replica's rows, and what its fitted rows add to the sums.

    Args:
      shard: the replica's rows.
      labels_before: [n, R], of the iteration before; -1 in the first.
      centroids: [R, k, d] float32.
      offsets: [R, k] float32.
      few_changed: [] bool, whether sums are relative to the labels before. None: they
        never are, and no shape depends on values.
      iteration: [] int32, from 0.
      context: of the fits.
    """
    settings, matmul_format = context.settings, context.matmul_format
    columns = columns_of(centroids, matmul_format)
    temperature = temperature_of(context.variance)

    @settings.fused
    def assign_rows(rows, factors, before, fitted, columns, offsets):
        scores = scores_of(factors, columns, offsets, matmul_format)
        labels = _largest(scores, before, few_changed)  # [b, R]
        added = cluster_sums.block_sums(
            rows, labels, before, fitted, few_changed, settings.num_clusters
        )
        masses = ()
        if settings.balanced:
            masses = (soft_sizes(scores, fitted, temperature),)
        return labels, added, masses

    def assign_block(block, sums):
        before = labels_before[block.start : block.stop]
        fitted = shard.fitted[block.start : block.stop]
        labels, (rows, counts, changed), masses = assign_rows(
            block.rows, block.factors, before, fitted, columns, offsets
        )
        squares = tf.cond(
            tf.equal(iteration, 0),
            lambda: cluster_sums.square_sum(block.rows, fitted),
            lambda: tf.zeros([], tf.float64),
        )
        return (labels,), Sums(
            sums.rows + tf.cast(rows, tf.float64),
            sums.counts + counts,
            sum(masses, sums.masses),
            sums.changed + changed,
            sums.squares + squares,
        )

    (labels,), sums = over_blocks(
        shard,
        assign_block,
        cluster_sums.no_sums(centroids),
        block_rows=settings.block_rows,
        matmul_format=matmul_format,
        values=[tf.TensorSpec([None, settings.num_fits], settings.label_dtype)],
    )
    return labels, sums


def _largest(
    scores: tf.Tensor, before: tf.Tensor, few_changed: tf.Tensor | None
) -> tf.Tensor:
    """Labels [b, R] of the largest of scores [b, R, k], given those before."""

    def largest():
        return tf.argmax(scores, axis=2, output_type=before.dtype)

    if few_changed is None:
        return largest()
    return tf.cond(few_changed, lambda: _corrected(scores, before), largest)


def _corrected(scores: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
    """Labels [b, R] of the largest of scores [b, R, k], fast where few have changed.

    A label stays where no score is larger than the label's: the largest score is found
    several times faster than its place.
    """
    score_before = tf.gather(scores, before, axis=2, batch_dims=2)
    places = tf.where(tf.reduce_max(scores, axis=2) > score_before)  # [m, 2]
    labels = tf.argmax(tf.gather_nd(scores, places), axis=1, output_type=before.dtype)
    return tf.tensor_scatter_nd_update(before, places, labels)


def assign_finally(
    shard: Rows,
    labels_before: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    settings: TraceSettings,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Labels of a replica's rows, by float32 scores whatever the fit's precision.

    Args:
      shard: the replica's rows.
      labels_before: [n, R], of the last iteration.
      centroids: [R, k, d] float32.
      offsets: [R, k] float32.
      settings: of the fits.

    Returns:
      Labels [n, R], sizes [R, k] int64 and inertia [R] float64 of the fitted rows.
    """
    columns = columns_of(centroids, EXACT)
    num_fits, num_clusters = settings.num_fits, settings.num_clusters

    @settings.fused
    def assign_rows(rows, before, fitted, columns, offsets, centroids):
        scores = scores_of(rows, columns, offsets, EXACT)
        if settings.on_gpu:
            labels = _largest(scores, before, None)
        else:
            labels = _corrected(scores, before)
        first_labels = num_clusters * tf.range(num_fits, dtype=labels.dtype)
        counted = tf.where(fitted, labels + first_labels, -1)
        counts = tf.cast(
            cluster_sums.count_labels(counted, num_fits * num_clusters), tf.int64
        )
        distances = tf.where(fitted, squared_distances(rows, labels, centroids), 0.0)
        inertia = tf.reduce_sum(tf.cast(distances, tf.float64), axis=0)
        return labels, tf.reshape(counts, [num_fits, num_clusters]), inertia

    def assign_block(block, carry):
        before = labels_before[block.start : block.stop]
        fitted = shard.fitted[block.start : block.stop, tf.newaxis]
        labels, sizes, inertia = assign_rows(
            block.rows, before, fitted, columns, offsets, centroids
        )
        return (labels,), (carry[0] + sizes, carry[1] + inertia)

    (labels,), (sizes, inertia) = over_blocks(
        shard,
        assign_block,
        (
            tf.zeros([num_fits, num_clusters], tf.int64),
            tf.zeros([num_fits], tf.float64),
        ),
        block_rows=settings.block_rows,
        values=[tf.TensorSpec([None, num_fits], settings.label_dtype)],
    )
    return labels, sizes, inertia


@tf.function(autograph=False, reduce_retracing=True)
def assign_prepared(
    rows: tf.Tensor, centroids: tf.Tensor, offsets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels [b] int32 and squared distances [b] float32 of prepared rows [b, d].

    Args:
      rows: [b, d] float32.
      centroids: [k, d] float32.
      offsets: [k] float32, subtracted before the nearest is chosen, not afterwards.
    """
    columns = tf.transpose(centroids)
    scores = nearest_scores(rows, columns, offsets, EXACT)
    labels = tf.argmax(scores, axis=1, output_type=tf.int32)
    differences = rows - tf.gather(centroids, labels)
    return labels, tf.reduce_sum(differences**2, axis=1)


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
