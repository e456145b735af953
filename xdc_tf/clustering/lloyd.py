"""The compiled core of k-means: one or several fits in one loop over blocks of rows.

Everything here expects rows with an origin near their mean and validated settings; the
public functions are in `kmeans`. Rows pass in blocks, so that no [rows, clusters]
matrix of the whole data exists, and all fits see a block while it is at hand.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.clustering import balancing, cluster_sums, reseeding, seeding
from xdc_tf.clustering.cluster_sums import Sums
from xdc_tf.clustering.distances import (
    EXACT,
    columns_of,
    nearest_scores,
    scores_of,
    squared_distances,
)
from xdc_tf.clustering.replicas import on_replicas, total
from xdc_tf.clustering.rows import Products, Rows, over_blocks

# Up to this share of rows that changed their cluster, moving their part of the sums is
# faster than adding up all rows anew.
_FEW_CHANGED = 0.3


class Settings(NamedTuple):
    """What a fit is traced for.

    Attributes:
      num_fits: R, clusterings in one loop.
      num_clusters: k.
      tolerance: relative decrease of the objective at which a fit is done; 0 for a
        fixed point.
      spherical: centroids of length one about `origin`.
      balanced: assign by prices that even out the sizes.
      block_rows: rows per block.
    """

    num_fits: int
    num_clusters: int
    tolerance: float
    spherical: bool
    balanced: bool
    block_rows: int


class Outcome(NamedTuple):
    """Tensors of R fits.

    Attributes:
      centroids: [R, k, d] float32.
      offsets: [R, k] float32, subtracted from squared distances; zero if not balanced.
      labels: [n, R] int32 per replica, of all rows and with the padding.
      inertia: [R] float64, of the fitted rows.
      sizes: [R, k] int64, of the fitted rows.
      history: [num_iterations, R] float64, filled up to `iterations`.
      iterations: [] int32.
      num_reseeded: [R] int32.
    """

    centroids: tf.Tensor
    offsets: tf.Tensor
    labels: tf.Tensor
    inertia: tf.Tensor
    sizes: tf.Tensor
    history: tf.Tensor
    iterations: tf.Tensor
    num_reseeded: tf.Tensor


@tf.function(autograph=False)
def fit_rows(
    rows: Rows,
    seeds: tf.Tensor,
    sample: tf.Tensor,
    initial: tf.Tensor | None,
    origin: tf.Tensor,
    num_fitted: tf.Tensor,
    products: Products,
    num_iterations: tf.Tensor,
    *,
    settings: Settings,
    strategy: tf.distribute.Strategy | None,
) -> Outcome:
    """R fits, traced once per shape and settings.

    Args:
      rows: prepared, on the replicas.
      seeds: [R, 2] int64.
      sample: [s, d] float32 prepared rows for k-means++.
      initial: [R, k, d] centroids, or None for k-means++.
      origin: [d] float32, what the preparation has subtracted.
      num_fitted: [] float64, fitted rows of all replicas.
      products: of the iterations.
      num_iterations: [] int32, most iterations.
      settings: of the fits.
      strategy: the one that the rows were sharded for.

    Returns:
      An Outcome; labels, sizes and inertia belong to the centroids returned.
    """
    num_fits, num_clusters = settings.num_fits, settings.num_clusters
    if initial is None:
        initial = tf.map_fn(
            lambda seed: seeding.plus_plus(sample, seed, num_clusters),
            seeds,
            fn_output_signature=tf.float32,
        )
    if settings.spherical:
        initial = _on_the_sphere(initial, initial, origin)
    initial = tf.ensure_shape(initial, [num_fits, num_clusters, sample.shape[1]])
    # Of a sample: it serves as a scale only.
    variance = tf.reduce_mean(tf.reduce_sum(tf.cast(sample, tf.float64) ** 2, axis=1))

    def assign(own, labels, centroids, offsets, few_changed, first):
        return _assign_replica(
            own,
            labels,
            centroids,
            offsets,
            few_changed,
            first,
            variance,
            products,
            settings,
        )

    def iterate(step, centroids, offsets, labels, sums, history, num_reseeded, _):
        few_changed = tf.cast(sums.changed, tf.float64) < _FEW_CHANGED * num_fitted
        few_changed = tf.reduce_all(few_changed) & (step > 0)
        labels, moved = on_replicas(
            strategy,
            assign,
            rows,
            labels,
            centroids,
            offsets,
            few_changed,
            tf.equal(step, 0),
        )
        moved = total(strategy, moved)
        sums = Sums(
            tf.where(few_changed, sums.rows, 0.0) + moved.rows,
            tf.where(few_changed, sums.counts, 0.0) + moved.counts,
            moved.masses,
            moved.changed,
            sums.squares + moved.squares,
        )
        objectives = cluster_sums.objectives_of(centroids, sums)
        history = tf.tensor_scatter_nd_update(history, [[step]], [objectives])
        kept, reseeded = sums, tf.zeros([num_fits], tf.int32)
        if not settings.balanced:
            kept, reseeded = tf.cond(
                tf.reduce_any(tf.equal(sums.counts, 0)),
                lambda: reseeding.reseed(
                    rows,
                    labels,
                    centroids,
                    sums,
                    variance,
                    settings.block_rows,
                    strategy,
                ),
                lambda: (sums, tf.zeros([num_fits], tf.int32)),
            )
        size = kept.counts[..., tf.newaxis]
        means = tf.cast(kept.rows / tf.maximum(size, 1.0), tf.float32)
        means = tf.where(size > 0, means, centroids)
        if settings.spherical:
            means = _on_the_sphere(means, centroids, origin)
        means = tf.ensure_shape(means, centroids.shape)
        if settings.balanced:
            offsets = balancing.balance(offsets, sums.masses, variance, num_fitted)
        settled = tf.equal(sums.changed, 0) & tf.equal(reseeded, 0)
        if settings.tolerance:
            before = history[tf.maximum(step - 1, 0)]
            settled |= (step > 0) & (before - objectives <= settings.tolerance * before)
        go_on = ~tf.reduce_all(settled)
        return (
            step + 1,
            means,
            offsets,
            labels,
            sums,
            history,
            num_reseeded + reseeded,
            go_on,
        )

    no_offsets = tf.zeros([num_fits, num_clusters], tf.float32)
    iterations, centroids, offsets, _, _, history, num_reseeded, _ = tf.while_loop(
        lambda step, *state: (step < num_iterations) & state[-1],
        iterate,
        (
            0,
            initial,
            no_offsets,
            on_replicas(strategy, lambda own: _no_labels(own, num_fits), rows),
            cluster_sums.no_sums(initial),
            tf.zeros([num_iterations, num_fits], tf.float64),
            tf.zeros([num_fits], tf.int32),
            True,
        ),
    )
    if settings.balanced:
        offsets = balancing.balance_finally(
            rows,
            centroids,
            offsets,
            variance,
            num_fitted,
            products,
            settings.block_rows,
            strategy,
        )
    labels, sizes, inertia = on_replicas(
        strategy, lambda own: _assign_finally(own, centroids, offsets, settings), rows
    )
    return Outcome(
        centroids=centroids,
        offsets=offsets,
        labels=labels,
        inertia=total(strategy, inertia),
        sizes=total(strategy, sizes),
        history=history,
        iterations=iterations,
        num_reseeded=num_reseeded,
    )


def _no_labels(own: Rows, num_fits: int) -> tf.Tensor:
    return tf.fill([own.fitted.shape[0], num_fits], -1)


def _assign_replica(
    own: Rows,
    labels: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    few_changed: tf.Tensor,
    first: tf.Tensor,
    variance: tf.Tensor,
    products: Products,
    settings: Settings,
) -> tuple[tf.Tensor, Sums]:
    """Labels [n, R] of a replica's rows, and what its fitted rows add to the sums."""
    columns = columns_of(centroids, products)
    temperature = balancing.temperature_of(variance)

    def assign(block, sums):
        scores = scores_of(block.factors, columns, offsets, products)
        before = labels[block.start : block.stop]
        found = _largest(scores, before, few_changed)  # [b, R]
        fitted = own.fitted[block.start : block.stop]
        parts = [
            cluster_sums.block_sums(
                block.rows, found[:, fit], before[:, fit], fitted, few_changed, k
            )
            for fit in range(settings.num_fits)
        ]
        rows, counts, changed = (tf.stack(part) for part in zip(*parts, strict=True))
        squares = tf.cond(
            first,
            lambda: cluster_sums.square_sum(block.rows, fitted),
            lambda: tf.zeros([], tf.float64),
        )
        masses = sums.masses
        if settings.balanced:
            masses += balancing.soft_sizes(scores, fitted, temperature)
        return (found,), Sums(
            sums.rows + tf.cast(rows, tf.float64),
            sums.counts + counts,
            masses,
            sums.changed + changed,
            sums.squares + squares,
        )

    k = settings.num_clusters
    (found,), sums = over_blocks(
        own,
        assign,
        cluster_sums.no_sums(centroids),
        block_rows=settings.block_rows,
        products=products,
        values=[tf.TensorSpec([None, settings.num_fits], tf.int32)],
    )
    return found, sums


def _largest(scores: tf.Tensor, before: tf.Tensor, few_changed: tf.Tensor) -> tf.Tensor:
    """Labels [b, R] of the largest of scores [b, R, k].

    With few_changed the label before stays where no score is larger than its own: the
    largest score is found several times faster than its place.
    """

    def where_larger():
        own = tf.gather(scores, before, axis=2, batch_dims=2)
        places = tf.where(tf.reduce_max(scores, axis=2) > own)  # [m, 2]
        found = tf.argmax(tf.gather_nd(scores, places), axis=1, output_type=tf.int32)
        return tf.tensor_scatter_nd_update(before, places, found)

    def everywhere():
        return tf.argmax(scores, axis=2, output_type=tf.int32)

    return tf.cond(few_changed, where_larger, everywhere)


def _on_the_sphere(
    means: tf.Tensor, otherwise: tf.Tensor, origin: tf.Tensor
) -> tf.Tensor:
    """Means scaled to length one about zero, where rows have it; or the other."""
    absolute = means + origin
    length = tf.norm(absolute, axis=-1, keepdims=True)
    return tf.where(length > 0, absolute / length - origin, otherwise)


def _assign_finally(
    own: Rows, centroids: tf.Tensor, offsets: tf.Tensor, settings: Settings
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Labels [n, R], sizes [R, k] and inertia [R] in float32, whatever the products."""
    columns = columns_of(centroids, EXACT)
    num_fits, num_clusters = settings.num_fits, settings.num_clusters

    def assign(block, carry):
        sizes, inertia = carry
        scores = scores_of(block.rows, columns, offsets, EXACT)
        labels = tf.argmax(scores, axis=2, output_type=tf.int32)
        fitted = own.fitted[block.start : block.stop, tf.newaxis]
        counted = tf.where(fitted, labels + num_clusters * tf.range(num_fits), -1)
        counts = tf.cast(
            cluster_sums.count_labels(counted, num_fits * num_clusters), tf.int64
        )
        distances = tf.where(fitted, squared_distances(block, labels, centroids), 0.0)
        distances = tf.cast(distances, tf.float64)
        sizes += tf.reshape(counts, [num_fits, num_clusters])
        return (labels,), (sizes, inertia + tf.reduce_sum(distances, axis=0))

    (labels,), (sizes, inertia) = over_blocks(
        own,
        assign,
        (
            tf.zeros([num_fits, num_clusters], tf.int64),
            tf.zeros([num_fits], tf.float64),
        ),
        block_rows=settings.block_rows,
        values=[tf.TensorSpec([None, num_fits], tf.int32)],
    )
    return labels, sizes, inertia


@tf.function(autograph=False, reduce_retracing=True)
def nearest(
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
