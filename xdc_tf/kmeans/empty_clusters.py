"""Empty-cluster reassignment: to the rows farthest from their centroids."""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans.cluster_sums import Sums, segment_sums
from xdc_tf.kmeans.distances import RELATIVE_RESOLUTION, squared_distances
from xdc_tf.kmeans.fit_settings import FitContext
from xdc_tf.kmeans.replicas import on_replicas
from xdc_tf.kmeans.rows import Rows, over_blocks

# Empty clusters filled in one iteration, which bounds the memory for candidates.
_MOST_FILLED = 1024


class Far(NamedTuple):
    """Rows far from their centroids, for R fits."""

    distances: tf.Tensor  # [R, m] float32, zero where there is none
    rows: tf.Tensor  # [R, m, d] float32
    labels: tf.Tensor  # [R, m], of the type of the labels


def reassign(
    rows: Rows,
    labels: tf.Tensor,
    centroids: tf.Tensor,
    sums: Sums,
    context: FitContext,
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
        distances = squared_distances(block, block_labels, centroids)
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
