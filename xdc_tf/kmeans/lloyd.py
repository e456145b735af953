"""The compiled core of k-means: one or several fits in one loop over blocks of rows.

Everything here expects rows with an origin near their mean and validated settings; the
public functions are in `kmeans`. Rows pass in blocks, so that no [rows, clusters]
matrix of the whole data exists, and all fits see a block while it is at hand.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans import assignment, cluster_sums, reseeding, seeding, sinkhorn
from xdc_tf.kmeans.assignment import Settings
from xdc_tf.kmeans.cluster_sums import Sums
from xdc_tf.kmeans.replicas import on_replicas, total
from xdc_tf.kmeans.rows import Products, Rows

# Up to this share of rows that changed their cluster, moving their part of the sums is
# faster than adding up all rows anew.
_FEW_CHANGED = 0.3


class Outcome(NamedTuple):
    """Tensors of R fits.

    Attributes:
      centroids: [R, k, d] float32.
      offsets: [R, k] float32, subtracted from squared distances; zero if not balanced.
      labels: [n, R] per replica, of all rows and with the padding; int64 on GPUs, or
        int32.
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

    def assign(own, labels, centroids, offsets, few_changed, step):
        return assignment.in_iteration(
            own,
            labels,
            centroids,
            offsets,
            few_changed,
            step,
            variance,
            products,
            settings,
        )

    def iterate(step, centroids, offsets, labels, sums, history, num_reseeded, _):
        few_changed, kept_of_sums = None, 0.0
        if not settings.on_gpu:
            few_changed = tf.cast(sums.changed, tf.float64) < _FEW_CHANGED * num_fitted
            few_changed = tf.reduce_all(few_changed) & (step > 0)
            kept_of_sums = tf.cast(few_changed, tf.float64)
        labels, moved = on_replicas(
            strategy,
            assign,
            rows,
            labels,
            centroids,
            offsets,
            few_changed,
            step,
        )
        moved = total(strategy, moved)
        sums = Sums(
            kept_of_sums * sums.rows + moved.rows,
            kept_of_sums * sums.counts + moved.counts,
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
            offsets = sinkhorn.balance(offsets, sums.masses, variance, num_fitted)
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
    iterations, centroids, offsets, last, _, history, num_reseeded, _ = tf.while_loop(
        lambda step, *state: (step < num_iterations) & state[-1],
        iterate,
        (
            0,
            initial,
            no_offsets,
            on_replicas(
                strategy, lambda own: assignment.no_labels(own, settings), rows
            ),
            cluster_sums.no_sums(initial),
            tf.zeros([num_iterations, num_fits], tf.float64),
            tf.zeros([num_fits], tf.int32),
            True,
        ),
    )
    if settings.balanced:
        offsets = sinkhorn.balance_finally(
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
        strategy,
        lambda own, before: assignment.final(own, before, centroids, offsets, settings),
        rows,
        last,
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


def _on_the_sphere(
    means: tf.Tensor, otherwise: tf.Tensor, origin: tf.Tensor
) -> tf.Tensor:
    """Means scaled to length one about zero, where rows have it; or the other."""
    absolute = means + origin
    length = tf.norm(absolute, axis=-1, keepdims=True)
    return tf.where(length > 0, absolute / length - origin, otherwise)
