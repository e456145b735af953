"""The compiled core of k-means: k-means++ and Lloyd's iterations over sharded rows.

Everything here expects rows centred about their mean and validated settings; the public
functions are in `kmeans`. Rows pass through in chunks, so that no [rows, clusters]
matrix of the whole data exists.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.clustering.sharding import Shard, on_replicas, total

CHUNK_ROWS = 8192  # 2,048 is a tenth slower on a CPU, 16,384 no faster
# k-means++ reads its sample once per cluster. Twice the rows cost twice the time for
# hardly less inertia.
MIN_SAMPLE_ROWS = 8192
SAMPLE_ROWS_PER_CLUSTER = 32
PRODUCT_DTYPES = {"float32": tf.float32, "mixed": tf.bfloat16}
# Squared distances below this part of the variance are rounding in float32.
RELATIVE_RESOLUTION = 1e-6


class Outcome(NamedTuple):
    """Tensors of one fit."""

    centroids: tf.Tensor  # [k, d] float32
    labels: tf.Tensor  # [n] int32 per replica, with the padding
    inertia: tf.Tensor  # [] float64
    sizes: tf.Tensor  # [k] int64
    history: tf.Tensor  # [num_iterations] float64, filled up to `iterations`
    iterations: tf.Tensor  # [] int32
    num_reseeded: tf.Tensor  # [] int32


@tf.function(autograph=False)
def fit_rows(
    shards: Shard,
    seed: tf.Tensor,
    initial: tf.Tensor | None,
    *,
    num_rows: int,
    num_clusters: int,
    num_iterations: int,
    precision: str,
    strategy: tf.distribute.Strategy | None,
) -> Outcome:
    """One fit, traced once per shape and settings.

    Args:
      shards: from `shard`.
      seed: [2] int64, the seed of the run and the number of the restart.
      initial: [k, d] centroids, or None for k-means++.
      num_rows: rows of all replicas, without padding.
      num_clusters: k.
      num_iterations: most iterations; the loop ends at a fixed point.
      precision: key of PRODUCT_DTYPES.
      strategy: the one the shards were made for.

    Returns:
      An Outcome; labels, sizes and inertia belong to the centroids returned.
    """
    if initial is None:
        sample = _sample(strategy, shards, seed * [1, 2], num_rows, num_clusters)
        initial = _plus_plus(sample, seed * [1, 2] + [0, 1], num_clusters)
    dtype = PRODUCT_DTYPES[precision]
    factors = on_replicas(strategy, lambda own: tf.cast(own.rows, dtype), shards)
    square_sum = total(strategy, on_replicas(strategy, _square_sum, shards))
    resolution = RELATIVE_RESOLUTION * tf.cast(square_sum / num_rows, tf.float32)

    def iterate(step, centroids, _, history, num_reseeded):
        labels, sums, counts = on_replicas(
            strategy, _assign_shard, shards, factors, centroids
        )
        sums, counts = total(strategy, sums), total(strategy, counts)
        objective = _objective(square_sum, centroids, sums, counts)
        history = tf.tensor_scatter_nd_update(history, [[step]], [objective])

        def reseed():
            far = on_replicas(strategy, _farthest_rows, shards, labels, centroids)
            if strategy is not None:
                far = [strategy.gather(part, axis=0) for part in far]
            return _reseed_empty(sums, counts, *far, resolution)

        sums, counts, moved = tf.cond(
            tf.reduce_any(tf.equal(counts, 0)), reseed, lambda: (sums, counts, 0)
        )
        size = tf.cast(counts, tf.float32)[:, tf.newaxis]
        means = tf.where(size > 0, sums / tf.maximum(size, 1.0), centroids)
        means = tf.ensure_shape(means, centroids.shape)
        changed = tf.reduce_any(tf.not_equal(means, centroids))
        return step + 1, means, changed, history, num_reseeded + moved

    iterations, centroids, _, history, num_reseeded = tf.while_loop(
        lambda step, _, changed, *__: (step < num_iterations) & changed,
        iterate,
        (0, initial, True, tf.zeros([num_iterations], tf.float64), 0),
    )
    labels, sizes, inertia = on_replicas(strategy, _assign_finally, shards, centroids)
    return Outcome(
        centroids=centroids,
        labels=labels,
        inertia=total(strategy, inertia),
        sizes=total(strategy, sizes),
        history=history,
        iterations=iterations,
        num_reseeded=num_reseeded,
    )


@tf.function(autograph=False, reduce_retracing=True)
def nearest(rows: tf.Tensor, centroids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels [n] int32 and squared distances [n] float32 of rows [n, d]."""
    own = Shard(rows, tf.constant(0), tf.shape(rows)[0])
    labels, _, _ = _assign_shard(own, rows, centroids)
    return labels, _squared_distances(own, labels, centroids)


def _over_chunks(
    own: Shard, function: Callable[[slice], tuple], dtype: tf.DType, totals: tuple
) -> tuple:
    """Runs `function` over slices of the shard's valid rows.

    Args:
      own: the shard.
      function: a slice of rows -> (one value per row, increments of the totals).
      dtype: of the values.
      totals: where the sums start.

    Returns:
      The values [n], zero for the padding, followed by the totals.
    """

    def step(start, parts, totals):
        stop = tf.minimum(start + CHUNK_ROWS, own.count)
        values, increments = function(slice(start, stop))
        parts = parts.write(start // CHUNK_ROWS, values)
        sums = tuple(a + b for a, b in zip(totals, increments, strict=True))
        return stop, parts, sums

    parts = tf.TensorArray(
        dtype,
        size=(own.count + CHUNK_ROWS - 1) // CHUNK_ROWS,
        element_shape=[None],
        infer_shape=False,
    )
    _, parts, totals = tf.while_loop(
        lambda start, *_: start < own.count,
        step,
        (0, parts, totals),
        parallel_iterations=1,  # one chunk's scores in memory at a time
    )
    num_rows = tf.shape(own.rows)[0]
    values = tf.pad(parts.concat(), [[0, num_rows - own.count]])
    return tf.ensure_shape(values, own.rows.shape[:1]), *totals


def _assign_shard(
    own: Shard, factors: tf.Tensor, centroids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Labels [n] int32, sums [k, d] float32 and counts [k] int64 of nearest centroids.

    `factors` are the shard's rows in the type of the products.
    """
    num_clusters = centroids.shape[0] or tf.shape(centroids)[0]
    columns = tf.cast(tf.transpose(centroids), factors.dtype)  # [d, k]
    # Norms of the centroids as the products see them, so that rounding them moves a
    # centroid a little but favours none.
    half_norms = 0.5 * tf.reduce_sum(tf.cast(columns, tf.float32) ** 2, axis=0)

    def assign(chunk):
        products = tf.matmul(factors[chunk], columns)  # [chunk, k]
        scores = tf.cast(products, tf.float32) - half_norms
        labels = tf.argmax(scores, axis=1, output_type=tf.int32)
        ones = tf.ones_like(labels, tf.float32)  # exact: a chunk is small
        sums = tf.math.unsorted_segment_sum(own.rows[chunk], labels, num_clusters)
        counts = tf.math.unsorted_segment_sum(ones, labels, num_clusters)
        return labels, (sums, tf.cast(counts, tf.int64))

    nothing = (tf.zeros_like(centroids), tf.zeros([num_clusters], tf.int64))
    return _over_chunks(own, assign, tf.int32, nothing)


def _squared_distances(
    own: Shard, labels: tf.Tensor, centroids: tf.Tensor
) -> tf.Tensor:
    """Squared distances [n] to the centroids of `labels`, by differences: exact."""

    def measure(chunk):
        differences = own.rows[chunk] - tf.gather(centroids, labels[chunk])
        return tf.reduce_sum(differences**2, axis=1), ()

    return _over_chunks(own, measure, tf.float32, ())[0]


def _square_sum(own: Shard) -> tf.Tensor:
    origin = tf.zeros_like(own.rows[:1])
    labels = tf.zeros_like(own.rows[:, 0], tf.int32)
    norms = _squared_distances(own, labels, origin)
    return tf.reduce_sum(tf.cast(norms, tf.float64))


def _assign_finally(
    own: Shard, centroids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    labels, _, counts = _assign_shard(own, own.rows, centroids)
    distances = _squared_distances(own, labels, centroids)
    return labels, counts, tf.reduce_sum(tf.cast(distances, tf.float64))


def _objective(
    square_sum: tf.Tensor, centroids: tf.Tensor, sums: tf.Tensor, counts: tf.Tensor
) -> tf.Tensor:
    """Sum of |x - c|^2 from the sums alone, so that no row is read a second time."""
    wide = tf.cast(centroids, tf.float64)
    products = tf.reduce_sum(wide * tf.cast(sums, tf.float64))
    norms = tf.reduce_sum(tf.cast(counts, tf.float64) * tf.reduce_sum(wide**2, axis=1))
    return tf.maximum(square_sum - 2.0 * products + norms, 0.0)


def _farthest_rows(
    own: Shard, labels: tf.Tensor, centroids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The shard's k rows farthest from their centroids: distances, rows, labels."""
    distances = _squared_distances(own, labels, centroids)
    most = min(centroids.shape[0], own.rows.shape[0])
    distances, indices = tf.math.top_k(distances, most)  # padding is at distance zero
    return distances, tf.gather(own.rows, indices), tf.gather(labels, indices)


def _reseed_empty(
    sums: tf.Tensor,
    counts: tf.Tensor,
    distances: tf.Tensor,
    rows: tf.Tensor,
    labels: tf.Tensor,
    resolution: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Moves one of the farthest rows into each empty cluster.

    A row alone in its cluster stays: the coming update puts the centroid on it anyway.

    Returns:
      Sums [k, d], counts [k] and the number of rows moved.
    """
    num_clusters = counts.shape[0]
    usable = (distances > resolution) & (tf.gather(counts, labels) > 1)
    order = tf.argsort(
        tf.boolean_mask(distances, usable), direction="DESCENDING", stable=True
    )
    empty = tf.where(tf.equal(counts, 0))  # [number empty, 1]
    moved = tf.minimum(tf.shape(order)[0], tf.shape(empty)[0])
    chosen = tf.gather(tf.where(usable)[:, 0], order[:moved])
    rows, labels = tf.gather(rows, chosen), tf.gather(labels, chosen)
    ones = tf.ones([moved], tf.float32)
    sums -= tf.math.unsorted_segment_sum(rows, labels, num_clusters)
    left = tf.math.unsorted_segment_sum(ones, labels, num_clusters)
    counts -= tf.cast(left, tf.int64)
    sums = tf.tensor_scatter_nd_update(sums, empty[:moved], rows)
    counts = tf.tensor_scatter_nd_update(
        counts, empty[:moved], tf.ones([moved], tf.int64)
    )
    return sums, counts, moved


def _sample(
    strategy: tf.distribute.Strategy | None,
    shards: Shard,
    seed: tf.Tensor,
    num_rows: int,
    num_clusters: int,
) -> tf.Tensor:
    """Rows [s, d] for the initialisation: all, or as many as suffice to start from."""
    size = min(num_rows, max(MIN_SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * num_clusters))
    indices = tf.range(num_rows)
    if size < num_rows:
        keys = tf.random.stateless_uniform([num_rows], seed, alg="philox")
        indices = tf.math.top_k(keys, size).indices

    def own_rows(own):
        local = indices - own.first
        mine = (local >= 0) & (local < own.count)
        rows = tf.gather(own.rows, tf.where(mine, local, 0))
        return tf.where(mine[:, tf.newaxis], rows, 0.0)

    return total(strategy, on_replicas(strategy, own_rows, shards))


def _plus_plus(rows: tf.Tensor, seed: tf.Tensor, num_clusters: int) -> tf.Tensor:
    """Greedy k-means++: of a few rows drawn by squared distance, the best is taken.

    The rows are read once a step however many candidates there are, so that 2 + ln k of
    them cost little more than one.
    """
    num_rows = rows.shape[0]
    num_candidates = 2 + (num_clusters.bit_length() * 7) // 10  # ln 2 is about 0.7
    norms = tf.reduce_sum(rows**2, axis=1)
    uniform = tf.random.stateless_uniform(
        [num_clusters, num_candidates], seed, dtype=tf.float64, alg="philox"
    )

    def distances_to(indices):
        products = tf.matmul(rows, tf.gather(rows, indices), transpose_b=True)
        squared = norms[:, tf.newaxis] - 2.0 * products + tf.gather(norms, indices)
        return tf.maximum(squared, 0.0)  # [s, candidates]

    def choose(step, chosen, closest):
        cumulative = tf.cumsum(tf.cast(closest, tf.float64))
        drawn = tf.searchsorted(
            cumulative, uniform[step] * cumulative[-1], side="right"
        )
        drawn = tf.minimum(drawn, num_rows - 1)
        reduced = tf.minimum(closest[:, tf.newaxis], distances_to(drawn))
        best = tf.argmin(tf.reduce_sum(reduced, axis=0), output_type=tf.int32)
        chosen = tf.tensor_scatter_nd_update(chosen, [[step]], [drawn[best]])
        return step + 1, chosen, reduced[:, best]

    first = tf.cast(uniform[0, 0] * num_rows, tf.int32)
    _, chosen, _ = tf.while_loop(
        lambda step, *_: step < num_clusters,
        choose,
        (1, tf.fill([num_clusters], first), distances_to(first[tf.newaxis])[:, 0]),
    )
    return tf.gather(rows, chosen)
