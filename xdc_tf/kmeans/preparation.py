"""What happens to rows before a fit: their check, PCA-whitening, and the preparation.

Every step is a pass over the rows, by blocks.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import matrices
from xdc_tf.kmeans.distances import (
    RELATIVE_RESOLUTION,
    MatmulFormat,
    Preparation,
    as_factors,
    prepare,
    preprocess,
)
from xdc_tf.kmeans.fit_settings import ArgumentError
from xdc_tf.kmeans.matrices import FeatureMatrix, as_tensor, empty_rows
from xdc_tf.kmeans.rows import (
    InFiles,
    Rows,
    local_rows,
    on_replicas,
    over_blocks,
    sum_over_processes,
    total,
)

NOT_FINITE, ALL_ZERO, TOO_LARGE = 1, 2, 3
# Squared lengths of rows that are not scaled: below the one, sums of a million squared
# distances stay in float32's range, above the other squared distances between rows.
MAX_SQUARE, MIN_SQUARE = 1e30, 1e-30
_PROBLEMS = {
    NOT_FINITE: (
        "rows with NaN or infinity in float32, {}; look for a diverged encoder or "
        "unfilled rows."
    ),
    ALL_ZERO: (
        "all-zero rows, {}, which cannot be scaled to length one; look for unfilled "
        "rows or dead units, or set normalize=False."
    ),
    TOO_LARGE: (
        f"rows longer than {MAX_SQUARE**0.5:g}, {{}}, whose squares float32 "
        "cannot add up; scale the features down."
    ),
}


class Moments(NamedTuple):
    """Sums over the fitted rows of one replica, about some origin.

    Attributes:
      count: [] float64.
      sums: [D] float64.
      scatter: [D, D] float64, sums of x x^T.
    """

    count: tf.Tensor
    sums: tf.Tensor
    scatter: tf.Tensor


@tf.function(autograph=False)
def find_faults(
    rows: Rows,
    normalize: bool,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What is wrong with each row.

    Args:
      rows: as they were given, not prepared.
      normalize: whether rows are scaled to length one as they are: an all-zero row is
        wrong then, and one too large otherwise.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.

    Returns:
      For each replica [n] int8: 0, NOT_FINITE, ALL_ZERO or TOO_LARGE. Over all
      replicas, how many are not 0, and how many rows' squares are not below MIN_SQUARE.
    """

    def faults_of_replica(shard):
        def look(block, counts):
            squares = tf.reduce_sum(tf.square(block.rows), axis=1)
            extreme = tf.equal(squares, 0.0) | (squares > MAX_SQUARE)
            suspicious = ~tf.math.is_finite(squares) | extreme
            faults = tf.cond(
                tf.reduce_any(suspicious),
                lambda: _faults_of_block(block.rows, normalize),
                lambda: tf.zeros_like(squares, tf.int32),
            )
            present = shard.present[block.start : block.stop]
            faults = tf.where(present, faults, 0)
            large_enough = present & (squares >= MIN_SQUARE)
            counts += tf.stack(
                [tf.math.count_nonzero(faults), tf.math.count_nonzero(large_enough)]
            )
            return (tf.cast(faults, tf.int8),), counts

        values = [tf.TensorSpec([None], tf.int8)]
        (faults,), counts = over_blocks(
            shard, look, tf.zeros([2], tf.int64), block_rows=block_rows, values=values
        )
        return faults, counts

    faults, counts = on_replicas(strategy, faults_of_replica, rows)
    num_faults, num_large_enough = tf.unstack(total(strategy, counts))
    return faults, num_faults, num_large_enough


def _faults_of_block(rows: tf.Tensor, normalize: bool) -> tf.Tensor:
    """[b] int32 faults of rows [b, D], one of which has a suspicious square."""
    finite = tf.reduce_all(tf.math.is_finite(rows), axis=1)
    zero = tf.reduce_all(tf.equal(rows, 0.0), axis=1) & normalize
    large = tf.reduce_sum(tf.square(rows), axis=1) > MAX_SQUARE
    large &= not normalize
    return tf.where(
        finite, tf.where(zero, ALL_ZERO, tf.where(large, TOO_LARGE, 0)), NOT_FINITE
    )


def check_rows(
    shards: Rows,
    matrix: FeatureMatrix,
    *,
    num_clusters: int,
    normalize: bool,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> None:
    """Checks the values of all rows.

    Args:
      shards: the rows on their replicas, not prepared.
      matrix: the same rows.
      num_clusters: distinct fitted rows that there must be.
      normalize: whether all-zero rows are wrong.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.

    Raises:
      ArgumentError: on fewer distinct rows than clusters, or all-zero rows.
      ValueError: on other rows that cannot be clustered; names some.
    """
    faults, num_faults, num_large_enough = find_faults(
        shards, normalize, block_rows, strategy
    )
    if int(num_faults):
        local_faults = local_rows(strategy, faults, matrix.num_rows)
        raise _error_of_faults(local_faults, int(num_faults))
    if num_clusters and not normalize and not int(num_large_enough):
        raise ValueError(
            f"all {matrix.num_rows} rows of the features are shorter than "
            f"{MIN_SQUARE**0.5:g}, so that float32 cannot hold their squares; "
            "scale the features up."
        )
    distinct = matrices.count_distinct(
        matrix, at_most=num_clusters, block_rows=block_rows
    )
    distinct = int(sum_over_processes(strategy, np.asarray(distinct)))
    if distinct < num_clusters:
        raise ArgumentError(
            "num_clusters",
            f"num_clusters={num_clusters} exceeds the {distinct} distinct rows of the "
            "features; lower num_clusters, or look for an encoder that gives many "
            "examples the same features.",
        )


def _error_of_faults(faults: np.ndarray, num_faults: int) -> ValueError:
    """The error that names rows of this process, or of others if these are in order.

    Args:
      faults: [N] int8, of the rows of this process.
      num_faults: of all processes.
    """
    for fault, problem in _PROBLEMS.items():
        numbers = np.flatnonzero(faults == fault)
        if numbers.size:
            first_rows = "the first are " + ", ".join(str(row) for row in numbers[:5])
            message = f"features have {numbers.size} " + problem.format(first_rows)
            if fault == ALL_ZERO:
                return ArgumentError("normalize", message)
            return ValueError(message)
    return ValueError(
        f"features of other processes have {num_faults} rows that cannot be "
        "clustered; their messages name them."
    )


@tf.function(autograph=False)
def moments(
    rows: Rows,
    origin: tf.Tensor,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> Moments:
    """The moments of all replicas' fitted rows about an origin [D] near their mean."""
    width = origin.shape[0]
    nothing = Moments(
        tf.zeros([], tf.float64),
        tf.zeros([width], tf.float64),
        tf.zeros([width, width], tf.float64),
    )

    def of_replica(shard):
        def add(block, sums):
            fitted = shard.fitted[block.start : block.stop]
            centred = tf.where(fitted[:, tf.newaxis], block.rows - origin, 0.0)
            scatter = tf.matmul(centred, centred, transpose_a=True)
            return (), Moments(
                sums.count + tf.reduce_sum(tf.cast(fitted, tf.float64)),
                sums.sums + tf.cast(tf.reduce_sum(centred, axis=0), tf.float64),
                sums.scatter + tf.cast(scatter, tf.float64),
            )

        return over_blocks(shard, add, nothing, block_rows=block_rows)[1]

    return total(strategy, on_replicas(strategy, of_replica, rows))


def prepare_rows(
    rows: Rows,
    preparation: Preparation,
    matmul_format: MatmulFormat,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> Rows:
    """Rows after their preparation; those in files get it whenever they are read."""
    if isinstance(rows, InFiles):
        return rows._replace(preparation=preparation)
    if strategy is None and not tf.config.list_logical_devices("GPU"):
        prepared = _prepare_on_host(rows.rows, preparation, block_rows)
        return rows._replace(rows=prepared, factors=as_factors(prepared, matmul_format))
    return _prepare_in_memory(rows, preparation, matmul_format, block_rows, strategy)


def _prepare_on_host(
    features: tf.Tensor, preparation: Preparation, block_rows: int
) -> tf.Tensor:
    array = empty_rows([len(features), preparation.origin.shape[0]])
    for start in range(0, len(features), block_rows):
        chosen = slice(start, start + block_rows)
        array[chosen] = _prepare_block(features[chosen], preparation).numpy()
    return as_tensor(array)


_prepare_block = tf.function(prepare, autograph=False, reduce_retracing=True)


@tf.function(autograph=False)
def _prepare_in_memory(rows, preparation, matmul_format, block_rows, strategy):
    width = preparation.origin.shape[0]

    def convert(block, carry):
        return (prepare(block.rows, preparation),), carry

    def of_replica(shard):
        values = [tf.TensorSpec([None, width], tf.float32)]
        (prepared,), _ = over_blocks(
            shard, convert, (), block_rows=block_rows, values=values
        )
        return shard._replace(
            rows=prepared, factors=as_factors(prepared, matmul_format)
        )

    return on_replicas(strategy, of_replica, rows)


def fit_preparation(
    shards: Rows,
    sample: tf.Tensor,
    *,
    normalize: bool,
    pca_components: int | None,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> tuple[Preparation, tf.Tensor]:
    """The preparation of the rows, and the sample [s, d] after it.

    Args:
      shards: the rows on their replicas, not prepared.
      sample: [s, D] float32 of these rows.
      normalize: scale rows to length one.
      pca_components: whiten to so many first, or None.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.

    Raises:
      ArgumentError: on more components than the rows vary along.
    """
    mean = projection = None
    if pca_components is not None:
        shift = tf.reduce_mean(sample, axis=0)
        mean, projection = _whitening(
            moments(shards, shift, block_rows, strategy), shift.numpy(), pca_components
        )
    sample = preprocess(
        sample, normalize=normalize, pca_mean=mean, pca_projection=projection
    )
    origin = tf.reduce_mean(sample, axis=0)
    return Preparation(normalize, mean, projection, origin), sample - origin


def _whitening(
    moments: Moments, shift: np.ndarray, num_components: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean [D] and the projection [D, components] to unit covariance."""
    num_rows, width = int(moments.count), len(shift)
    limit = min(width, num_rows - 1)
    if not 1 <= num_components <= limit:
        raise ArgumentError(
            "pca_components",
            f"pca_components={num_components} must lie between 1 and {limit} for "
            f"{num_rows} rows of {width} dimensions.",
        )
    mean = moments.sums.numpy() / num_rows
    covariance = moments.scatter.numpy() - num_rows * np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance / (num_rows - 1))
    variances, directions = variances[::-1], directions[:, ::-1]  # largest first
    rank = int(np.sum(variances > max(variances[0], 0.0) * RELATIVE_RESOLUTION))
    if rank < num_components:
        raise ArgumentError(
            "pca_components",
            f"pca_components={num_components} but the features vary along {rank} "
            "directions only; lower pca_components.",
        )
    scales = np.sqrt(variances[:num_components])
    projection = directions[:, :num_components] / scales
    return tf.constant(shift + mean, tf.float32), tf.constant(projection, tf.float32)
