"""Lloyd's algorithm, compiled: one or several fits in one loop over blocks of rows.

Everything here expects rows with an origin near their mean and validated settings; the
public functions are in `kmeans`. Rows pass in blocks, so that no [rows, clusters]
matrix of the whole data exists, and all fits see a block while it is at hand.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans import assignment, cluster_sums
from xdc_tf.kmeans.cluster_sums import Sums
from xdc_tf.kmeans.fit_settings import FitContext
from xdc_tf.kmeans.rows import Rows, on_replicas, total

# Up to this fraction of rows that changed their cluster, moving their part of the sums
# is faster than adding up all rows anew.
_FEW_CHANGED = 0.3
# Steps of k-means++ whose candidates are drawn together, as a fraction of all: one in
# so many. Their distances come from a single matmul; candidates of later steps come
# from slightly older distances.
_STEPS_AT_ONCE = 32
_MOST_STEPS_AT_ONCE = 16


class Fits(NamedTuple):
    """Tensors of R finished fits.

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


class _State(NamedTuple):
    """Where R fits stand between two iterations.

    Attributes:
      iteration: [] int32, iterations done.
      centroids: [R, k, d] float32, for the next assignment.
      offsets: [R, k] float32, for the next assignment.
      labels: [n, R] per replica, of the last assignment; -1 before the first.
      sums: over the fitted rows by these labels.
      history: [num_iterations, R] float64, objectives so far.
      num_reseeded: [R] int32, so far.
      converged: [] bool, whether no fit would change any more.
    """

    iteration: tf.Tensor
    centroids: tf.Tensor
    offsets: tf.Tensor
    labels: tf.Tensor
    sums: Sums
    history: tf.Tensor
    num_reseeded: tf.Tensor
    converged: tf.Tensor


@tf.function(autograph=False)
def fit_rows(
    rows: Rows,
    seeds: tf.Tensor,
    sample: tf.Tensor,
    initial_centroids: tf.Tensor | None,
    num_iterations: tf.Tensor,
    context: FitContext,
) -> Fits:
    """R fits, traced once per shape and settings.

    Args:
      rows: prepared, on the replicas.
      seeds: [R, 2] int64.
      sample: [s, d] float32 prepared rows for k-means++.
      initial_centroids: [R, k, d] float32, or None for k-means++.
      num_iterations: [] int32, most iterations.
      context: of the fits.

    Returns:
      Fits; labels, sizes and inertia belong to the centroids returned.
    """
    centroids = _initialise(seeds, sample, initial_centroids, context)

    def iterate(state: _State) -> tuple[_State]:
        labels, sums = _assign(rows, state, context)
        objectives = cluster_sums.objectives_of(state.centroids, sums)
        history = tf.tensor_scatter_nd_update(
            state.history, [[state.iteration]], [objectives]
        )
        filled, num_reseeded = _reassign_empty_clusters(
            rows, labels, state.centroids, sums, context
        )
        new_state = _State(
            iteration=state.iteration + 1,
            centroids=_update_centroids(filled, state.centroids, context),
            offsets=_update_offsets(state.offsets, sums, context),
            labels=labels,
            sums=sums,
            history=history,
            num_reseeded=state.num_reseeded + num_reseeded,
            converged=_have_converged(
                state, sums, num_reseeded, history, objectives, context
            ),
        )
        return (new_state,)

    (state,) = tf.while_loop(
        lambda state: (state.iteration < num_iterations) & ~state.converged,
        iterate,
        (_initial_state(rows, centroids, num_iterations, context),),
    )
    return _finish(rows, state, context)


def _finish(rows: Rows, state: _State, context: FitContext) -> Fits:
    """The final assignment, so that labels match the centroids returned."""
    strategy, offsets = context.strategy, state.offsets
    if context.settings.balanced:
        offsets = assignment.final_offsets(rows, state.centroids, offsets, context)
    labels, sizes, inertia = on_replicas(
        strategy,
        lambda shard, before: assignment.assign_finally(
            shard, before, state.centroids, offsets, context.settings
        ),
        rows,
        state.labels,
    )
    return Fits(
        centroids=state.centroids,
        offsets=offsets,
        labels=labels,
        inertia=total(strategy, inertia),
        sizes=total(strategy, sizes),
        history=state.history,
        iterations=state.iteration,
        num_reseeded=state.num_reseeded,
    )


def _initialise(
    seeds: tf.Tensor,
    sample: tf.Tensor,
    initial_centroids: tf.Tensor | None,
    context: FitContext,
) -> tf.Tensor:
    """Centroids [R, k, d] to start from: the given ones, or those of k-means++."""
    settings = context.settings
    centroids = initial_centroids
    if centroids is None:
        centroids = tf.map_fn(
            lambda seed: plus_plus(sample, seed, settings.num_clusters),
            seeds,
            fn_output_signature=tf.float32,
        )
    if settings.spherical:
        centroids = _on_the_sphere(centroids, centroids, context.origin)
    shape = [settings.num_fits, settings.num_clusters, sample.shape[1]]
    return tf.ensure_shape(centroids, shape)


def _initial_state(
    rows: Rows, centroids: tf.Tensor, num_iterations: tf.Tensor, context: FitContext
) -> _State:
    settings = context.settings
    return _State(
        iteration=tf.constant(0),
        centroids=centroids,
        offsets=tf.zeros(centroids.shape[:2], tf.float32),
        labels=on_replicas(
            context.strategy, lambda shard: assignment.no_labels(shard, settings), rows
        ),
        sums=cluster_sums.no_sums(centroids),
        history=tf.zeros([num_iterations, settings.num_fits], tf.float64),
        num_reseeded=tf.zeros([settings.num_fits], tf.int32),
        converged=tf.constant(False),
    )


def _assign(rows: Rows, state: _State, context: FitContext) -> tuple[tf.Tensor, Sums]:
    """The assignment step: labels [n, R] per replica, and the sums by them."""
    few_changed, kept = None, 0.0
    if not context.settings.on_gpu:
        limit = _FEW_CHANGED * context.num_fitted
        few_changed = tf.cast(state.sums.changed, tf.float64) < limit
        few_changed = tf.reduce_all(few_changed) & (state.iteration > 0)
        kept = tf.cast(few_changed, tf.float64)

    def assign(shard, labels, centroids, offsets, few_changed, iteration):
        return assignment.assign_in_iteration(
            shard, labels, centroids, offsets, few_changed, iteration, context
        )

    labels, added = on_replicas(
        context.strategy,
        assign,
        rows,
        state.labels,
        state.centroids,
        state.offsets,
        few_changed,
        state.iteration,
    )
    added = total(context.strategy, added)
    sums = Sums(
        kept * state.sums.rows + added.rows,
        kept * state.sums.counts + added.counts,
        added.masses,
        added.changed,
        state.sums.squares + added.squares,
    )
    return labels, sums


def _reassign_empty_clusters(
    rows: Rows, labels: tf.Tensor, centroids: tf.Tensor, sums: Sums, context: FitContext
) -> tuple[Sums, tf.Tensor]:
    """Sums without empty clusters, as far as rows are to be had, and how many [R]."""
    none_reseeded = tf.zeros([context.settings.num_fits], tf.int32)
    if context.settings.balanced:
        return sums, none_reseeded
    return tf.cond(
        tf.reduce_any(tf.equal(sums.counts, 0)),
        lambda: cluster_sums.reassign(rows, labels, centroids, sums, context),
        lambda: (sums, none_reseeded),
    )


def _update_centroids(
    sums: Sums, centroids: tf.Tensor, context: FitContext
) -> tf.Tensor:
    """The update step: means [R, k, d]; the centroid stays where a cluster is empty."""
    sizes = sums.counts[..., tf.newaxis]
    means = tf.cast(sums.rows / tf.maximum(sizes, 1.0), tf.float32)
    means = tf.where(sizes > 0, means, centroids)
    if context.settings.spherical:
        means = _on_the_sphere(means, centroids, context.origin)
    return tf.ensure_shape(means, centroids.shape)


def _update_offsets(offsets: tf.Tensor, sums: Sums, context: FitContext) -> tf.Tensor:
    if not context.settings.balanced:
        return offsets
    return assignment.balance(
        offsets, sums.masses, context.variance, context.num_fitted
    )


def _have_converged(
    state: _State,
    sums: Sums,
    num_reseeded: tf.Tensor,
    history: tf.Tensor,
    objectives: tf.Tensor,
    context: FitContext,
) -> tf.Tensor:
    """Whether every fit is at a fixed point, or improves by less than the tolerance."""
    settled = tf.equal(sums.changed, 0) & tf.equal(num_reseeded, 0)
    tolerance = context.settings.tolerance
    if tolerance:
        before = history[tf.maximum(state.iteration - 1, 0)]
        small = before - objectives <= tolerance * before
        settled |= (state.iteration > 0) & small
    return tf.reduce_all(settled)


def _on_the_sphere(
    means: tf.Tensor, otherwise: tf.Tensor, origin: tf.Tensor
) -> tf.Tensor:
    """Means scaled to length one about zero, where rows have it; or the other."""
    absolute = means + origin
    length = tf.norm(absolute, axis=-1, keepdims=True)
    return tf.where(length > 0, absolute / length - origin, otherwise)


def plus_plus(rows: tf.Tensor, seed: tf.Tensor, num_clusters: int) -> tf.Tensor:
    """Chooses rows to start from by greedy k-means++, inside a `tf.function`.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    Greedy: of several rows drawn by squared distance, the one that lowers the objective
    most is taken.

    Args:
      rows: [s, d] float32, at least num_clusters.
      seed: [2] int64.
      num_clusters: k.

    Returns:
      [k, d] centroids.
    """
    num_rows = rows.shape[0]
    num_candidates = 2 + (num_clusters.bit_length() * 7) // 10  # ln 2 is about 0.7
    steps = min(_MOST_STEPS_AT_ONCE, max(1, num_clusters // _STEPS_AT_ONCE))
    num_rounds = -(-(num_clusters - 1) // steps)
    norms = tf.reduce_sum(rows**2, axis=1)
    uniform = tf.random.stateless_uniform(
        [1 + num_rounds, steps * num_candidates], seed, dtype=tf.float64, alg="philox"
    )

    def draw_together(number, chosen, closest):
        cumulative = tf.cumsum(tf.cast(closest, tf.float64))
        # int64: a GPU would have TensorFlow go back and forth to the host for int32.
        drawn = tf.searchsorted(
            cumulative,
            uniform[number + 1] * cumulative[-1],
            side="right",
            out_type=tf.int64,
        )
        drawn = tf.minimum(drawn, num_rows - 1)
        distances = _distances_to(drawn, rows, norms)
        picked = []
        for step in range(steps):
            candidates = slice(step * num_candidates, (step + 1) * num_candidates)
            reduced = tf.minimum(distances[candidates], closest)
            best = tf.argmin(tf.reduce_sum(reduced, axis=1))
            picked.append(tf.gather(drawn[candidates], best))
            closest = tf.gather(reduced, best)
        return number + 1, chosen.write(number, tf.stack(picked)), closest

    first = tf.cast(uniform[0, :1] * num_rows, tf.int64)
    _, chosen, _ = tf.while_loop(
        lambda number, *_: number < num_rounds,
        draw_together,
        (
            0,
            tf.TensorArray(tf.int64, size=num_rounds, element_shape=[steps]),
            _distances_to(first, rows, norms)[0],
        ),
    )
    chosen = tf.concat([first, chosen.concat()], axis=0)[:num_clusters]
    return tf.gather(rows, chosen)


def _distances_to(indices: tf.Tensor, rows: tf.Tensor, norms: tf.Tensor) -> tf.Tensor:
    """Squared distances [candidates, s] of all rows to those of the indices."""
    inner = tf.matmul(tf.gather(rows, indices), rows, transpose_b=True)
    squared = norms - 2.0 * inner + tf.gather(norms, indices)[:, tf.newaxis]
    return tf.maximum(squared, 0.0)
