"""Rows spread over the replicas of a distribution strategy.

Without a strategy (None) everything runs on the one device that holds the rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Shard(NamedTuple):
    """Rows of one replica; what lies past `count` is padding and never read."""

    rows: tf.Tensor  # [n, d] float32
    first: tf.Tensor  # [] int32, index of the first row among all rows
    count: tf.Tensor  # [] int32


def shard(rows: tf.Tensor, strategy: tf.distribute.Strategy | None) -> Shard:
    """Gives every replica a run of the rows, the last ones padded to equal length."""
    num_rows = int(rows.shape[0])
    if strategy is None:
        return Shard(rows, tf.constant(0), tf.constant(num_rows))
    shard_rows = -(-num_rows // strategy.num_replicas_in_sync)
    devices = strategy.extended.worker_devices

    def part(context: tf.distribute.experimental.ValueContext) -> Shard:
        replica = context.replica_id_in_sync_group
        first = min(replica * shard_rows, num_rows)
        own = rows[first : first + shard_rows]
        count = int(own.shape[0])
        # Placed here, once, or every step would copy the rows to the replica anew.
        with tf.device(devices[replica]):
            padded = tf.pad(own, [[0, shard_rows - count], [0, 0]])
            return Shard(padded, tf.constant(first), tf.constant(count))

    return strategy.experimental_distribute_values_from_function(part)


def on_replicas(
    strategy: tf.distribute.Strategy | None, function: Callable[..., Any], *args: Any
) -> Any:
    """Calls `function` on every replica's part of the arguments.

    Meant for the body of a loop that runs outside the replicas: replicas cannot meet
    to reduce from inside a `tf.while_loop` of their own.
    """
    return function(*args) if strategy is None else strategy.run(function, args)


def total(strategy: tf.distribute.Strategy | None, value: Any) -> tf.Tensor:
    """The sum over the replicas of what `on_replicas` returned."""
    if strategy is None:
        return value
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
