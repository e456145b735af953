"""Labels of blocks of rows: in an iteration, with what they add to sums, and finally.

An iteration's products may be of half the width; the final labels, their inertia and
the labels of further rows are in float32, whatever the products of the fit.
"""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans import cluster_sums, sinkhorn
from xdc_tf.kmeans.cluster_sums import Sums
from xdc_tf.kmeans.distances import (
    EXACT,
    columns_of,
    nearest_scores,
    scores_of,
    squared_distances,
)
from xdc_tf.kmeans.rows import Products, Rows, over_blocks


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
      on_gpu: in the form for GPUs: no shape depends on values, for which the host would
        have to wait, and labels are int64, since TensorFlow has int32 tensors of loops
        and of most operations on the host.
    """

    num_fits: int
    num_clusters: int
    tolerance: float
    spherical: bool
    balanced: bool
    block_rows: int
    on_gpu: bool = False

    @property
    def label_dtype(self) -> tf.DType:
        return tf.int64 if self.on_gpu else tf.int32


def no_labels(own: Rows, settings: Settings) -> tf.Tensor:
    """[n, R] of -1, the labels before the first iteration."""
    return tf.fill(
        [own.fitted.shape[0], settings.num_fits],
        tf.constant(-1, settings.label_dtype),
    )


def in_iteration(
    own: Rows,
    labels: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    few_changed: tf.Tensor | None,
    step: tf.Tensor,
    variance: tf.Tensor,
    products: Products,
    settings: Settings,
) -> tuple[tf.Tensor, Sums]:
    """Labels [n, R] of a replica's rows, and what its fitted rows add to the sums.

    In iteration `step`, from 0. Without `few_changed`, sums are not relative to the
    labels before and no shape depends on values.
    """
    columns = columns_of(centroids, products)
    temperature = sinkhorn.temperature_of(variance)

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
            tf.equal(step, 0),
            lambda: cluster_sums.square_sum(block.rows, fitted),
            lambda: tf.zeros([], tf.float64),
        )
        masses = sums.masses
        if settings.balanced:
            masses += sinkhorn.soft_sizes(scores, fitted, temperature)
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
        values=[tf.TensorSpec([None, settings.num_fits], settings.label_dtype)],
    )
    return found, sums


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

    A label stays where no score is larger than its own: the largest score is found
    several times faster than its place.
    """
    own = tf.gather(scores, before, axis=2, batch_dims=2)
    places = tf.where(tf.reduce_max(scores, axis=2) > own)  # [m, 2]
    found = tf.argmax(tf.gather_nd(scores, places), axis=1, output_type=before.dtype)
    return tf.tensor_scatter_nd_update(before, places, found)


def final(
    own: Rows,
    before: tf.Tensor,
    centroids: tf.Tensor,
    offsets: tf.Tensor,
    settings: Settings,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Labels [n, R], sizes [R, k] and inertia [R] in float32, whatever the products.

    Of a replica's rows, whose labels [n, R] `before` are those of the last iteration.
    """
    columns = columns_of(centroids, EXACT)
    num_fits, num_clusters = settings.num_fits, settings.num_clusters

    def assign(block, carry):
        sizes, inertia = carry
        scores = scores_of(block.rows, columns, offsets, EXACT)
        labels = before[block.start : block.stop]
        if settings.on_gpu:
            labels = _largest(scores, labels, None)
        else:
            labels = _corrected(scores, labels)
        fitted = own.fitted[block.start : block.stop, tf.newaxis]
        first_labels = num_clusters * tf.range(num_fits, dtype=labels.dtype)
        counted = tf.where(fitted, labels + first_labels, -1)
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
        values=[tf.TensorSpec([None, num_fits], settings.label_dtype)],
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
