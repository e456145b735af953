"""One pass over the rows before a fit: what is wrong with them, and their moments."""

from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans.replicas import on_replicas, total
from xdc_tf.kmeans.rows import (
    InFiles,
    MatmulFormat,
    Preparation,
    Rows,
    as_factors,
    as_tensor,
    empty_rows,
    over_blocks,
    prepare,
)

NOT_FINITE, ALL_ZERO, TOO_LARGE = 1, 2, 3
# Squared lengths of rows that are not scaled: below the one, sums of a million squared
# distances stay in float32's range, above the other squared distances between rows.
MAX_SQUARE, MIN_SQUARE = 1e30, 1e-30


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
            shard,
            look,
            tf.zeros([2], tf.int64),
            block_rows=block_rows,
            values=values,
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
        finite,
        tf.where(zero, ALL_ZERO, tf.where(large, TOO_LARGE, 0)),
        NOT_FINITE,
    )


@tf.function(autograph=False)
def moments(
    rows: Rows,
    origin: tf.Tensor,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> Moments:
    """The moments of all replicas' fitted rows about an origin near their mean."""
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
