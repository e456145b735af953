"""Sums of rows by cluster, over all rows or only over those that changed theirs.

Empty clusters are reassigned in the sums: to the rows farthest from their centroids.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans.distances import RELATIVE_RESOLUTION, squared_distances
from xdc_tf.kmeans.fit_settings import FitContext
from xdc_tf.kmeans.rows import Rows, on_replicas, over_blocks

# Empty clusters filled in one iteration, which bounds the memory for candidates.
_MOST_FILLED = 1024


class Sums(NamedTuple):
    """Totals of one pass for R fits."""

    rows: tf.Tensor  # [R, k, d] float64: the order of blocks does not show
    counts: tf.Tensor  # [R, k] float64
    masses: tf.Tensor  # [R, k] float64, soft sizes; zero if not balanced
    changed: tf.Tensor  # [R] int64, rows with another label than before
    squares: tf.Tensor  # [] float64, sum of all squared lengths, by the first pass


def no_sums(centroids: tf.Tensor) -> Sums:
    return Sums(
        rows=tf.zeros(centroids.shape, tf.float64),
        counts=tf.zeros(centroids.shape[:2], tf.float64),
        masses=tf.zeros(centroids.shape[:2], tf.float64),
        changed=tf.zeros(centroids.shape[:1], tf.int64),
        squares=tf.zeros([], tf.float64),
    )


def block_sums(
    rows: tf.Tensor,
    labels: tf.Tensor,
    before: tf.Tensor,
    fitted: tf.Tensor,
    few_changed: tf.Tensor | None,
    num_clusters: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What a block adds to the sums and counts of R fits, and its changed labels.

    Args:
      rows: [b, d] float32.
      labels: [b, R], now.
      before: [b, R], in the iteration before.
      fitted: [b] bool.
      few_changed: [] bool, whether to give the difference to the sums by the labels
        before, instead of sums anew; None: never.
      num_clusters: k.

    Returns:
      Sums [R, k, d] float32, counts [R, k] float64 and numbers of rows with another
      label than before [R] int64.
    """
    parts = [
        _block_sums_of_fit(
            rows, labels[:, fit], before[:, fit], fitted, few_changed, num_clusters
        )
        for fit in range(labels.shape[1])
    ]
    sums, counts, changed = (tf.stack(part) for part in zip(*parts, strict=True))
    return sums, counts, changed


def _block_sums_of_fit(rows, labels, before, fitted, few_changed, num_clusters):
    changed = fitted & tf.not_equal(labels, before)

    def moves():
        moved = tf.where(changed)[:, 0]
        moved_rows = tf.gather(rows, moved)
        gains = segment_sums(moved_rows, tf.gather(labels, moved), num_clusters)
        losses = segment_sums(moved_rows, tf.gather(before, moved), num_clusters)
        return gains[0] - losses[0], gains[1] - losses[1]

    def everything():
        return segment_sums(rows, tf.where(fitted, labels, -1), num_clusters)

    if few_changed is None:
        sums, counts = everything()
    else:
        sums, counts = tf.cond(few_changed, moves, everything)
    return sums, counts, tf.reduce_sum(tf.cast(changed, tf.int64))


def segment_sums(
    rows: tf.Tensor, labels: tf.Tensor, num_clusters: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums [k, d] and float64 counts [k] by label; a negative one is left out."""
    sums = tf.math.unsorted_segment_sum(rows, labels, num_clusters)
    return sums, count_labels(labels, num_clusters)


def count_labels(labels: tf.Tensor, num_labels: int) -> tf.Tensor:
    # Float32 counts a block's rows exactly, and there is a GPU kernel for it.
    ones = tf.ones_like(labels, tf.float32)
    counts = tf.math.unsorted_segment_sum(ones, labels, num_labels)
    return tf.cast(counts, tf.float64)


def square_sum(rows: tf.Tensor, fitted: tf.Tensor) -> tf.Tensor:
    """Sum of the fitted rows' squared lengths, [] float64."""
    lengths = tf.reduce_sum(tf.square(rows), axis=1)
    return tf.reduce_sum(tf.cast(tf.where(fitted, lengths, 0.0), tf.float64))


def objectives_of(centroids: tf.Tensor, sums: Sums) -> tf.Tensor:
    """[R] sums of |x - c|^2 from the sums alone: no row is read a second time."""
    wide = tf.cast(centroids, tf.float64)
    inner = tf.reduce_sum(wide * sums.rows, axis=[1, 2])  # sums of x . c
    norms = tf.reduce_sum(wide**2, axis=2) * sums.counts
    objectives = sums.squares - 2.0 * inner + tf.reduce_sum(norms, axis=1)
    return tf.maximum(objectives, 0.0)


class Far(NamedTuple):
    """Rows far from their centroids, for R fits."""

    distances: tf.Tensor  # [R, m] float32, zero where there is none
    rows: tf.Tensor  # [R, m, d] float32
    labels: tf.Tensor  # [R, m], of the type of the labels


def reassign(
    rows: Rows, labels: tf.Tensor, centroids: tf.Tensor, sums: Sums, context: FitContext
) -> tuple[Sums, tf.Tensor]:
    """Moves one of the farthest rows into each empty cluster.

    The objective falls by it: the new cluster fits its row, and the old one is fitted
    to those that stay. This takes a further pass over the rows, as empty clusters are
    rare.

    Args:
      rows: prepared, on the replicas.
      labels: [n, R] per replica.
      centroids: [R, k, d] float32, by which the labels were found.
      sums: by these labels.
      context: of the fits.

    Returns:
      Sums after the moves, and how many clusters were filled [R] int32.
    """

    def farthest(shard, labels):
        return _farthest(shard, labels, centroids, context.settings.block_rows)

    strategy = context.strategy
    far = on_replicas(strategy, farthest, rows, labels)
    if strategy is not None:
        far = tf.nest.map_structure(lambda part: strategy.gather(part, axis=1), far)
    resolution = RELATIVE_RESOLUTION * tf.cast(context.variance, tf.float32)
    parts = [
        _fill_empty(
            sums.rows[fit],
            sums.counts[fit],
            Far(*(part[fit] for part in far)),
            resolution,
        )
        for fit in range(centroids.shape[0])
    ]
    new_rows, counts, moved = (tf.stack(part) for part in zip(*parts, strict=True))
    return sums._replace(rows=new_rows, counts=counts), moved


def _farthest(
    shard: Rows, labels: tf.Tensor, centroids: tf.Tensor, block_rows: int
) -> Far:
    num_fits, num_clusters, width = centroids.shape
    most = min(num_clusters, shard.fitted.shape[0], _MOST_FILLED)

    def keep(block, far):
        block_labels = labels[block.start : block.stop]
        fitted = shard.fitted[block.start : block.stop, tf.newaxis]
        distances = squared_distances(block.rows, block_labels, centroids)
        distances = tf.where(fitted, distances, 0.0)
        parts = []
        for fit in range(num_fits):
            kept, numbers = tf.math.top_k(
                tf.concat([far.distances[fit], distances[:, fit]], 0), most
            )
            kept_rows = tf.gather(tf.concat([far.rows[fit], block.rows], 0), numbers)
            kept_labels = tf.gather(
                tf.concat([far.labels[fit], block_labels[:, fit]], 0), numbers
            )
            parts.append((kept, kept_rows, kept_labels))
        return (), Far(*(tf.stack(part) for part in zip(*parts, strict=True)))

    nothing = Far(
        tf.zeros([num_fits, most], tf.float32),
        tf.zeros([num_fits, most, width], tf.float32),
        tf.zeros([num_fits, most], labels.dtype),
    )
    return over_blocks(shard, keep, nothing, block_rows=block_rows)[1]


def _fill_empty(
    sums: tf.Tensor, counts: tf.Tensor, far: Far, resolution: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One fit's sums [k, d], counts [k] and number of rows moved.

    A row alone in its cluster stays: the coming update puts the centroid on it anyway.
    """
    num_clusters, dtype = counts.shape[0], far.labels.dtype
    usable = (far.distances > resolution) & (tf.gather(counts, far.labels) > 1)
    is_empty = tf.equal(counts, 0)
    # Sorted, so that the first rows go to the first clusters, without a shape that
    # depends on how many there are.
    num_places = tf.minimum(tf.size(usable), num_clusters)
    order = tf.math.top_k(tf.where(usable, far.distances, -1.0), num_places).indices
    places = tf.math.top_k(tf.cast(is_empty, tf.float32), num_places).indices
    taken = tf.gather(usable, order) & tf.gather(is_empty, places)
    rows, labels = tf.gather(far.rows, order), tf.gather(far.labels, order)
    lost, left = segment_sums(rows, tf.where(taken, labels, -1), num_clusters)
    places = tf.where(taken, tf.cast(places, dtype), -1)
    moved_rows, moved = segment_sums(rows, places, num_clusters)
    filled = moved > 0
    sums = tf.where(
        filled[:, tf.newaxis],
        tf.cast(moved_rows, tf.float64),
        sums - tf.cast(lost, tf.float64),
    )
    counts = tf.where(filled, tf.ones_like(counts), counts - left)
    return sums, counts, tf.cast(tf.reduce_sum(moved), tf.int32)
