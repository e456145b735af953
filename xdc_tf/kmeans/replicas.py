"""What the replicas of a distribution strategy, and its processes, do together.

Without a strategy (None) there is one of each.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def on_replicas(
    strategy: tf.distribute.Strategy | None, function: Callable[..., Any], *args: Any
) -> Any:
    """Calls `function` on every replica's part of the arguments.

    Meant for the body of a loop that runs outside the replicas: replicas cannot meet
    to reduce from inside a `tf.while_loop`.
    """
    return function(*args) if strategy is None else strategy.run(function, args)


def total(strategy: tf.distribute.Strategy | None, value: Any) -> Any:
    """The sum over the replicas of what `on_replicas` returned; any structure."""
    if strategy is None:
        return value
    return tf.nest.map_structure(
        lambda part: strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None), value
    )


def place_among_processes(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if strategy is None:
        return 0, 1
    num_local = len(strategy.extended.worker_devices)
    numbers = []

    def note(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        numbers.append(context.replica_id_in_sync_group // num_local)
        return tf.zeros([])

    strategy.experimental_distribute_values_from_function(note)
    return numbers[0], strategy.num_replicas_in_sync // num_local


def sum_over_processes(
    strategy: tf.distribute.Strategy | None, value: np.ndarray
) -> np.ndarray:
    """The sum of an array that every process has one of; all processes call this."""
    if strategy is None or place_among_processes(strategy)[1] == 1:
        return value
    num_local = len(strategy.extended.worker_devices)

    def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        first = context.replica_id_in_sync_group % num_local == 0
        return tf.constant(value if first else np.zeros_like(value))

    parts = strategy.experimental_distribute_values_from_function(part)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy()


def local_rows(
    strategy: tf.distribute.Strategy | None, value: tf.Tensor, num_rows: int
) -> np.ndarray:
    """The values of this process's rows, without padding, in order."""
    parts = [value]
    if strategy is not None:
        parts = strategy.experimental_local_results(value)
    return np.concatenate([part.numpy() for part in parts])[:num_rows]
