"""Sums of rows by cluster, over all rows or only over those that changed theirs."""

from typing import NamedTuple

import tensorflow as tf


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
