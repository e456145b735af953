"""The compiled core of k-means: one or several fits in one loop over blocks of rows.

Everything here expects rows with an origin near their mean and validated settings; the
public functions are in `kmeans`. Rows pass in blocks, so that no [rows, clusters]
matrix of the whole data exists, and all fits see a block while it is at hand.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.clustering import seeding, survey
from xdc_tf.clustering.rows import (
    Block,
    Products,
    Rows,
    as_factors,
    on_replicas,
    over_blocks,
    total,
)

# Squared distances below this part of the variance are rounding in float32.
RELATIVE_RESOLUTION = 1e-6
# Up to this share of rows that changed their cluster, moving their part of the sums is
# faster than adding up all rows anew.
_FEW_CHANGED = 0.3
# Softness of the balanced assignment, as a part of the variance. Less makes rounded
# sizes more even and takes more passes.
_TEMPERATURE = 0.02
_BALANCING_PASSES = 20
# Empty clusters filled in one iteration, which bounds the memory for candidates.
_MOST_RESEEDED = 1024
EXACT = Products(tf.float32, 1.0)


class Settings(NamedTuple):
    """What a fit is traced for.

    Attributes:
      num_fits: R, clusterings in one loop.
      num_clusters: k.
      num_iterations: most iterations.
      tolerance: relative decrease of the objective at which a fit is done; 0 for a
        fixed point.
      spherical: centroids of length one about `origin`.
      balanced: assign by prices that even out the sizes.
      block_rows: rows per block.
    """

    num_fits: int
    num_clusters: int
    num_iterations: int
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


class _Sums(NamedTuple):
    """Totals of one pass for R fits."""

    rows: tf.Tensor  # [R, k, d] float32
    counts: tf.Tensor  # [R, k] float32, exact below 2^24 a block
    masses: tf.Tensor  # [R, k] float64, soft sizes; zero if not balanced
    changed: tf.Tensor  # [R] int64, rows with another label than before


@tf.function(autograph=False)
def fit_rows(
    rows: Rows,
    seeds: tf.Tensor,
    sample: tf.Tensor,
    initial: tf.Tensor | None,
    origin: tf.Tensor,
    num_fitted: tf.Tensor,
    products: Products,
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
    square_sum = total(
        strategy,
        on_replicas(
            strategy,
            lambda own: survey.square_sum(own, block_rows=settings.block_rows),
            rows,
        ),
    )
    variance = square_sum / num_fitted

    def assign(own, labels, centroids, offsets, few_changed):
        return _assign_replica(
            own, labels, centroids, offsets, few_changed, variance, products, settings
        )

    def iterate(step, centroids, offsets, labels, sums, history, num_reseeded, _):
        few_changed = tf.cast(sums.changed, tf.float64) < _FEW_CHANGED * num_fitted
        few_changed = tf.reduce_all(few_changed) & (step > 0)
        labels, moved = on_replicas(
            strategy, assign, rows, labels, centroids, offsets, few_changed
        )
        moved = total(strategy, moved)
        sums = _Sums(
            tf.where(few_changed, sums.rows, 0.0) + moved.rows,
            tf.where(few_changed, sums.counts, 0.0) + moved.counts,
            moved.masses,
            moved.changed,
        )
        objectives = _objectives(square_sum, centroids, sums)
        history = tf.tensor_scatter_nd_update(history, [[step]], [objectives])
        kept, reseeded = sums, tf.zeros([num_fits], tf.int32)
        if not settings.balanced:
            kept, reseeded = tf.cond(
                tf.reduce_any(tf.equal(sums.counts, 0)),
                lambda: _reseed(
                    rows, labels, centroids, sums, variance, settings, strategy
                ),
                lambda: (sums, tf.zeros([num_fits], tf.int32)),
            )
        size = kept.counts[..., tf.newaxis]
        means = tf.where(size > 0, kept.rows / tf.maximum(size, 1.0), centroids)
        if settings.spherical:
            means = _on_the_sphere(means, centroids, origin)
        means = tf.ensure_shape(means, centroids.shape)
        if settings.balanced:
            offsets = _balance(offsets, sums.masses, variance, num_fitted)
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
        lambda step, *state: (step < settings.num_iterations) & state[-1],
        iterate,
        (
            0,
            initial,
            no_offsets,
            on_replicas(strategy, lambda own: _no_labels(own, num_fits), rows),
            _no_sums(initial),
            tf.zeros([settings.num_iterations, num_fits], tf.float64),
            tf.zeros([num_fits], tf.int32),
            True,
        ),
    )
    if settings.balanced:
        offsets = _balance_finally(
            rows, centroids, offsets, variance, num_fitted, products, settings, strategy
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


def nearest_scores(
    factors: tf.Tensor, columns: tf.Tensor, offsets: tf.Tensor, products: Products
) -> tf.Tensor:
    """Half of what is left of squared distances: the largest is the nearest centroid.

    Args:
      factors: [b, d] rows.
      columns: [d, m] centroids.
      offsets: [m] float32.
      products: how factors and columns were made.

    Returns:
      [b, m] float32, x.c - |c|^2 / 2 + offset / 2.
    """
    # Norms of the centroids as the products see them, so that rounding them moves a
    # centroid a little but favours none.
    half_norms = 0.5 * tf.reduce_sum(tf.cast(columns, tf.float32) ** 2, axis=0)
    scores = tf.matmul(factors, columns)
    if scores.dtype == tf.float32:
        return tf.nn.bias_add(scores, 0.5 * offsets - half_norms)  # one kernel
    scores = tf.cast(scores, tf.float32)
    if products.dtype == tf.float16:
        unscale = 1.0 / products.scale**2
        return (scores - half_norms) * unscale + 0.5 * offsets
    return scores + (0.5 * offsets - half_norms)


def _scores(
    factors: tf.Tensor, columns: tf.Tensor, offsets: tf.Tensor, products: Products
) -> tf.Tensor:
    """nearest_scores [b, R, k] for offsets [R, k]."""
    scores = nearest_scores(factors, columns, tf.reshape(offsets, [-1]), products)
    return tf.reshape(scores, [-1, *offsets.shape])


def _columns(centroids: tf.Tensor, products: Products) -> tf.Tensor:
    """[R, k, d] centroids -> [d, R k] columns."""
    flat = tf.reshape(centroids, [-1, centroids.shape[-1]])
    return as_factors(tf.transpose(flat), products)


def _no_labels(own: Rows, num_fits: int) -> tf.Tensor:
    return tf.fill([own.fitted.shape[0], num_fits], -1)


def _no_sums(centroids: tf.Tensor) -> _Sums:
    return _Sums(
        rows=tf.zeros_like(centroids),
        counts=tf.zeros(centroids.shape[:2], tf.float32),
        masses=tf.zeros(centroids.shape[:2], tf.float64),
        changed=tf.zeros(centroids.shape[:1], tf.int64),
    )


def _assign_replica(
    own: Rows,
    labels: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    few_changed: tf.Tensor,
    variance: tf.Tensor,
    products: Products,
    settings: Settings,
) -> tuple[tf.Tensor, _Sums]:
    """Labels [n, R] of a replica's rows, and what its fitted rows add to the sums."""
    columns = _columns(centroids, products)
    temperature = _temperature(variance)

    def assign(block, sums):
        scores = _scores(block.factors, columns, offsets, products)
        found = tf.argmax(scores, axis=2, output_type=tf.int32)  # [b, R]
        before = labels[block.start : block.stop]
        fitted = own.fitted[block.start : block.stop]
        parts = [
            _added(block.rows, found[:, fit], before[:, fit], fitted, few_changed, k)
            for fit in range(settings.num_fits)
        ]
        rows, counts, changed = (tf.stack(part) for part in zip(*parts, strict=True))
        masses = sums.masses
        if settings.balanced:
            masses += _soft_sizes(scores, fitted, temperature)
        return (found,), _Sums(
            sums.rows + rows, sums.counts + counts, masses, sums.changed + changed
        )

    k = settings.num_clusters
    (found,), sums = over_blocks(
        own,
        assign,
        _no_sums(centroids),
        block_rows=settings.block_rows,
        products=products,
        values=[tf.TensorSpec([None, settings.num_fits], tf.int32)],
    )
    return found, sums


def _added(
    rows: tf.Tensor,
    found: tf.Tensor,
    before: tf.Tensor,
    fitted: tf.Tensor,
    few_changed: tf.Tensor,
    num_clusters: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What a block adds to the sums and counts of one fit, and its changed labels.

    With few_changed that is relative to the labels before; otherwise to nothing.
    """
    changed = fitted & tf.not_equal(found, before)

    def moves():
        moved = tf.where(changed)[:, 0]
        moved_rows = tf.gather(rows, moved)
        gains = _segment_sums(moved_rows, tf.gather(found, moved), num_clusters)
        losses = _segment_sums(moved_rows, tf.gather(before, moved), num_clusters)
        return gains[0] - losses[0], gains[1] - losses[1]

    sums, counts = tf.cond(
        few_changed,
        moves,
        lambda: _segment_sums(rows, tf.where(fitted, found, -1), num_clusters),
    )
    return sums, counts, tf.reduce_sum(tf.cast(changed, tf.int64))


def _segment_sums(
    rows: tf.Tensor, labels: tf.Tensor, num_clusters: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums [k, d] and counts [k] by label; a negative one is left out."""
    ones = tf.ones_like(labels, tf.float32)
    return (
        tf.math.unsorted_segment_sum(rows, labels, num_clusters),
        tf.math.unsorted_segment_sum(ones, labels, num_clusters),
    )


def _objectives(square_sum: tf.Tensor, centroids: tf.Tensor, sums: _Sums) -> tf.Tensor:
    """[R] sums of |x - c|^2 from the sums alone: no row is read a second time."""
    wide = tf.cast(centroids, tf.float64)
    products = tf.reduce_sum(wide * tf.cast(sums.rows, tf.float64), axis=[1, 2])
    norms = tf.reduce_sum(wide**2, axis=2) * tf.cast(sums.counts, tf.float64)
    objectives = square_sum - 2.0 * products + tf.reduce_sum(norms, axis=1)
    return tf.maximum(objectives, 0.0)


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
    columns = _columns(centroids, EXACT)
    num_fits, num_clusters = settings.num_fits, settings.num_clusters

    def assign(block, carry):
        sizes, inertia = carry
        scores = _scores(block.rows, columns, offsets, EXACT)
        labels = tf.argmax(scores, axis=2, output_type=tf.int32)
        fitted = own.fitted[block.start : block.stop, tf.newaxis]
        counted = tf.where(fitted, labels + num_clusters * tf.range(num_fits), -1)
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(counted, tf.int64), counted, num_fits * num_clusters
        )
        distances = tf.where(fitted, _squared_distances(block, labels, centroids), 0.0)
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


def _squared_distances(
    block: Block, labels: tf.Tensor, centroids: tf.Tensor
) -> tf.Tensor:
    """Squared distances [b, R] to the labels' centroids, by differences: exact."""
    distances = [
        tf.reduce_sum((block.rows - tf.gather(centroids[fit], labels[:, fit])) ** 2, 1)
        for fit in range(centroids.shape[0])
    ]
    return tf.stack(distances, axis=1)


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


class _Far(NamedTuple):
    """Rows far from their centroids, for R fits."""

    distances: tf.Tensor  # [R, m] float32, zero where there is none
    rows: tf.Tensor  # [R, m, d] float32
    labels: tf.Tensor  # [R, m] int32


def _reseed(
    rows: Rows,
    labels: tf.Tensor,
    centroids: tf.Tensor,
    sums: _Sums,
    variance: tf.Tensor,
    settings: Settings,
    strategy: tf.distribute.Strategy | None,
) -> tuple[_Sums, tf.Tensor]:
    """Moves one of the farthest rows into each empty cluster: sums, and how many [R].

    The objective falls by it: the new cluster fits its row, and the old one is fitted
    to those that stay. A pass over the rows of its own, as empty clusters are rare.
    """

    def farthest(own, labels):
        return _farthest(own, labels, centroids, settings)

    far = on_replicas(strategy, farthest, rows, labels)
    if strategy is not None:
        far = tf.nest.map_structure(lambda part: strategy.gather(part, axis=1), far)
    resolution = RELATIVE_RESOLUTION * tf.cast(variance, tf.float32)
    parts = [
        _reseed_empty(
            sums.rows[fit],
            sums.counts[fit],
            _Far(*(part[fit] for part in far)),
            resolution,
        )
        for fit in range(settings.num_fits)
    ]
    new_rows, counts, moved = (tf.stack(part) for part in zip(*parts, strict=True))
    return sums._replace(rows=new_rows, counts=counts), moved


def _farthest(
    own: Rows, labels: tf.Tensor, centroids: tf.Tensor, settings: Settings
) -> _Far:
    most = min(settings.num_clusters, own.fitted.shape[0], _MOST_RESEEDED)
    num_fits, _, width = centroids.shape

    def keep(block, far):
        own_labels = labels[block.start : block.stop]
        fitted = own.fitted[block.start : block.stop, tf.newaxis]
        distances = _squared_distances(block, own_labels, centroids)
        distances = tf.where(fitted, distances, 0.0)
        parts = []
        for fit in range(num_fits):
            kept, numbers = tf.math.top_k(
                tf.concat([far.distances[fit], distances[:, fit]], 0), most
            )
            kept_rows = tf.gather(tf.concat([far.rows[fit], block.rows], 0), numbers)
            kept_labels = tf.gather(
                tf.concat([far.labels[fit], own_labels[:, fit]], 0), numbers
            )
            parts.append((kept, kept_rows, kept_labels))
        return (), _Far(*(tf.stack(part) for part in zip(*parts, strict=True)))

    nothing = _Far(
        tf.zeros([num_fits, most], tf.float32),
        tf.zeros([num_fits, most, width], tf.float32),
        tf.zeros([num_fits, most], tf.int32),
    )
    return over_blocks(own, keep, nothing, block_rows=settings.block_rows)[1]


def _reseed_empty(
    sums: tf.Tensor, counts: tf.Tensor, far: _Far, resolution: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One fit's sums [k, d], counts [k] and number of rows moved.

    A row alone in its cluster stays: the coming update puts the centroid on it anyway.
    """
    num_clusters = counts.shape[0]
    usable = (far.distances > resolution) & (tf.gather(counts, far.labels) > 1)
    order = tf.argsort(
        tf.boolean_mask(far.distances, usable), direction="DESCENDING", stable=True
    )
    empty = tf.where(tf.equal(counts, 0))  # [number empty, 1]
    moved = tf.minimum(tf.shape(order)[0], tf.shape(empty)[0])
    chosen = tf.gather(tf.where(usable)[:, 0], order[:moved])
    rows, labels = tf.gather(far.rows, chosen), tf.gather(far.labels, chosen)
    lost, left = _segment_sums(rows, labels, num_clusters)
    sums = tf.tensor_scatter_nd_update(sums - lost, empty[:moved], rows)
    counts = tf.tensor_scatter_nd_update(counts - left, empty[:moved], tf.ones([moved]))
    return sums, counts, moved


def _temperature(variance: tf.Tensor) -> tf.Tensor:
    return _TEMPERATURE * tf.maximum(tf.cast(variance, tf.float32), 1e-30)


def _soft_sizes(
    scores: tf.Tensor, fitted: tf.Tensor, temperature: tf.Tensor
) -> tf.Tensor:
    """[R, k] float64 sums of the fitted rows' soft assignments."""
    shares = tf.nn.softmax(scores * (2.0 / temperature))
    shares = tf.where(fitted[:, tf.newaxis, tf.newaxis], shares, 0.0)
    return tf.cast(tf.reduce_sum(shares, axis=0), tf.float64)


def _balance(
    offsets: tf.Tensor, masses: tf.Tensor, variance: tf.Tensor, num_fitted: tf.Tensor
) -> tf.Tensor:
    """One Sinkhorn step: offsets [R, k] that bring soft sizes towards N / k.

    Rows are normalised by the softmax, columns here, both in the logarithm (Asano et
    al., "Labelling unlabelled videos from scratch", NeurIPS 2020, section 3.1, with
    squared distances in place of the classifier's log-probabilities).
    """
    target = num_fitted / tf.cast(tf.shape(masses)[1], tf.float64)
    ratio = target / tf.maximum(masses, 1e-9 * target)
    offsets += _temperature(variance) * tf.cast(tf.math.log(ratio), tf.float32)
    return offsets - tf.reduce_mean(offsets, axis=1, keepdims=True)


def _balance_finally(
    rows: Rows,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    variance: tf.Tensor,
    num_fitted: tf.Tensor,
    products: Products,
    settings: Settings,
    strategy: tf.distribute.Strategy | None,
) -> tf.Tensor:
    """Offsets [R, k] for centroids that stay as they are."""
    columns = _columns(centroids, products)

    def masses(own, offsets):
        def add(block, masses):
            scores = _scores(block.factors, columns, offsets, products)
            fitted = own.fitted[block.start : block.stop]
            return (), masses + _soft_sizes(scores, fitted, _temperature(variance))

        nothing = tf.zeros(offsets.shape, tf.float64)
        return over_blocks(
            own,
            add,
            nothing,
            block_rows=settings.block_rows,
            products=products,
        )[1]

    def step(number, offsets):
        found = total(
            strategy,
            on_replicas(strategy, lambda own: masses(own, offsets), rows),
        )
        return number + 1, _balance(offsets, found, variance, num_fitted)

    return tf.while_loop(
        lambda number, _: number < _BALANCING_PASSES, step, (0, offsets)
    )[1]
