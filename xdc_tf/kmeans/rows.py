"""Rows on the replicas of a distribution strategy, in memory or in files, by blocks.

Without a strategy (None) everything runs on the one device that holds the rows. Every
process has its rows, which are spread over its replicas. What replicas and processes
do together is here too: they run a function, add up, and find their places.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans.distances import MatmulFormat, Preparation, as_factors, prepare
from xdc_tf.runtime.tuning import without_autotuning

# Blocks that are read ahead of the one that is being assigned.
_READ_AHEAD = 2
# The inner products of a block run while the labels of another are found; more blocks
# take more memory.
_BLOCKS_IN_FLIGHT = 4


class Extent(NamedTuple):
    """Rows that follow each other in a file.

    Attributes:
      path: of the file.
      offset: bytes before the first row.
      num_rows: how many rows.
      width: D, numbers per row.
      dtype: float32 or float16, little-endian.
    """

    path: str
    offset: int
    num_rows: int
    width: int
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Length of a row."""
        return self.width * self.dtype.itemsize


class InMemory(NamedTuple):
    """One replica's rows on its device.

    Attributes:
      rows: [n, D] float32.
      factors: [n, D] what `as_factors` makes of them.
      fitted: [n] bool, whether a row counts for the centroids; False for padding.
      present: [n] bool, whether there is an example in the row; False for padding.
    """

    rows: tf.Tensor
    factors: tf.Tensor
    fitted: tf.Tensor
    present: tf.Tensor


class InFiles(NamedTuple):
    """One replica's rows in files, which are read anew in every pass.

    Attributes:
      paths: [blocks] string.
      offsets: [blocks] int64, bytes before the block.
      counts: [blocks] int64, numbers in the block.
      like: [0, D] in the type that the files hold.
      preparation: done to each block after it was read; None for nothing.
      fitted: [n] bool, as in InMemory.
      present: [n] bool, as in InMemory.
    """

    paths: tf.Tensor
    offsets: tf.Tensor
    counts: tf.Tensor
    like: tf.Tensor
    preparation: Preparation | None
    fitted: tf.Tensor
    present: tf.Tensor


Rows = InMemory | InFiles
_Shard = TypeVar("_Shard", InMemory, InFiles)


class Block(NamedTuple):
    """Rows that are worked on at once.

    Attributes:
      rows: [b, D] float32, prepared.
      factors: [b, D] what `as_factors` makes of them.
      start: [] int32, number of the first row on this replica.
      stop: [] int32, behind the last.
    """

    rows: tf.Tensor
    factors: tf.Tensor
    start: tf.Tensor
    stop: tf.Tensor


def shard_tensor(
    features: tf.Tensor,
    *,
    block_rows: int,
    fitted: np.ndarray,
    present: np.ndarray,
    strategy: tf.distribute.Strategy | None,
) -> InMemory:
    """Gives each of this process's replicas a run of its rows, padded to one length.

    Args:
      features: [N, D] float32.
      block_rows: replicas get whole blocks of so many rows.
      fitted: [N] bool, which rows count for the centroids.
      present: [N] bool, which rows hold an example.
      strategy: of the replicas.
    """

    def part(start: int, stop: int, padding: int) -> InMemory:
        rows = tf.pad(features[start:stop], [[0, padding], [0, 0]])
        return InMemory(
            rows, rows, **_masks(fitted, present, slice(start, stop), padding)
        )

    return _distribute(part, len(fitted), block_rows, strategy)


def shard_files(
    extents: Sequence[Extent],
    *,
    block_rows: int,
    fitted: np.ndarray,
    present: np.ndarray,
    strategy: tf.distribute.Strategy | None,
) -> InFiles:
    """shard_tensor for rows in files, one after the other."""
    like = tf.zeros([0, extents[0].width], extents[0].dtype)

    def part(start: int, stop: int, padding: int) -> InFiles:
        blocks = list(_blocks_between(extents, start, stop, block_rows))
        paths = [block[0] for block in blocks]
        places = np.array([block[1:] for block in blocks], np.int64).reshape(-1, 2)
        return InFiles(
            paths=tf.constant(paths, tf.string, [len(blocks)]),
            offsets=tf.constant(places[:, 0]),
            counts=tf.constant(places[:, 1]),
            like=like,
            preparation=None,
            **_masks(fitted, present, slice(start, stop), padding),
        )

    return _distribute(part, len(fitted), block_rows, strategy)


def _masks(
    fitted: np.ndarray, present: np.ndarray, chosen: slice, padding: int
) -> dict[str, tf.Tensor]:
    masks = {"fitted": fitted, "present": present}
    return {
        name: tf.constant(np.pad(mask[chosen], [0, padding]))
        for name, mask in masks.items()
    }


def _blocks_between(
    extents: Sequence[Extent], start: int, stop: int, block_rows: int
) -> Iterator[tuple[str, int, int]]:
    """Path, offset in bytes and count of numbers of each block of rows."""
    first = 0
    for extent in extents:
        begin, end = max(start - first, 0), min(stop - first, extent.num_rows)
        for number in range(begin, end, block_rows):
            rows = min(block_rows, end - number)
            offset = extent.offset + number * extent.row_bytes
            yield extent.path, offset, rows * extent.width
        first += extent.num_rows


def _distribute(
    part: Callable[[int, int, int], _Shard],
    num_rows: int,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> _Shard:
    if strategy is None:
        return part(0, num_rows, 0)
    # The strategy's devices in this process, over which its rows are spread.
    devices = strategy.extended.worker_devices
    # Whole blocks, the same as on one device: their sums are then equal to the bit.
    num_blocks = -(-num_rows // block_rows)
    rows_per_device = min(-(-num_blocks // len(devices)) * block_rows, num_rows)

    def value(context: tf.distribute.experimental.ValueContext) -> _Shard:
        number = context.replica_id_in_sync_group % len(devices)
        start = min(number * rows_per_device, num_rows)
        stop = min(start + rows_per_device, num_rows)
        # Placed here, once, or every step would copy the rows to the replica anew.
        with tf.device(devices[number]):
            return part(start, stop, rows_per_device - (stop - start))

    return strategy.experimental_distribute_values_from_function(value)


def over_blocks(
    shard: Rows,
    function: Callable[[Block, Any], tuple[tuple[tf.Tensor, ...], Any]],
    carry: Any,
    *,
    block_rows: int,
    matmul_format: MatmulFormat | None = None,
    values: Sequence[tf.TensorSpec] = (),
) -> tuple[tuple[tf.Tensor, ...], Any]:
    """Runs a function over all of a replica's rows, in order, inside a `tf.function`.

    Args:
      shard: the replica's rows.
      function: (block, carry) -> values of the block's rows, and the carry for the
        next block.
      carry: what the first block gets.
      block_rows: rows per block.
      matmul_format: of the blocks' factors; None if these are not used.
      values: specs of the values, of shapes [None, ...].

    Returns:
      The values, each [n, ...] and zero for padding, and the last carry.
    """
    num_rows = shard.fitted.shape[0]
    if isinstance(shard, InFiles):
        num_blocks, read_block = tf.size(shard.offsets), _file_reader(shard)
    else:
        num_blocks, read_block = -(-num_rows // block_rows), _slicer(shard, block_rows)

    def step(number, start, arrays, carry):
        rows, factors = read_block(start)
        if matmul_format is not None and factors is None:
            factors = as_factors(rows, matmul_format)
        block = Block(rows, factors, start, start + tf.shape(rows)[0])
        parts, carry = function(block, carry)
        arrays = tuple(
            array.write(number, part) for array, part in zip(arrays, parts, strict=True)
        )
        return number + 1, block.stop, arrays, carry

    arrays = tuple(
        tf.TensorArray(
            spec.dtype, size=num_blocks, element_shape=spec.shape, infer_shape=False
        )
        for spec in values
    )
    _, stop, arrays, carry = tf.while_loop(
        lambda number, *_: number < num_blocks,
        step,
        (0, 0, arrays, carry),
        parallel_iterations=_BLOCKS_IN_FLIGHT,
    )
    return tuple(_filled_up(array.concat(), stop, num_rows) for array in arrays), carry


def _slicer(shard: InMemory, block_rows: int) -> Callable:
    def read_block(start):
        chosen = slice(start, start + block_rows)
        return shard.rows[chosen], shard.factors[chosen]

    return read_block


def _file_reader(shard: InFiles) -> Callable:
    width, dtype = shard.like.shape[1], shard.like.dtype

    def read(path, offset, count):
        # NumPy reads several times faster than tf.data's readers of binary records,
        # and without the interpreter's lock.
        content = tf.numpy_function(
            lambda *place: read_numbers(*place, dtype.as_numpy_dtype),
            [path, offset, count],
            dtype,
        )
        return tf.reshape(content, [-1, width])

    with tf.device("/device:CPU:0"):
        places = tf.data.Dataset.from_tensor_slices(
            (shard.paths, shard.offsets, shard.counts)
        )
        iterator = iter(without_autotuning(places.map(read).prefetch(_READ_AHEAD)))

    def read_block(_):
        with tf.device("/device:CPU:0"):
            content = next(iterator)
        rows = tf.cast(content, tf.float32)
        if shard.preparation is not None:
            rows = prepare(rows, shard.preparation)
        return rows, None

    return read_block


def read_numbers(
    path: str | bytes, offset: int, count: int, dtype: np.dtype
) -> np.ndarray:
    """Reads [count] numbers from a file.

    Raises:
      ValueError: a file that has become shorter.
    """
    numbers = np.fromfile(os.fsdecode(path), dtype, int(count), offset=int(offset))
    if len(numbers) != count:
        raise ValueError(
            f"{os.fsdecode(path)}: has no {count} numbers behind byte {offset} any "
            "more; it was cut short. Write it again."
        )
    return numbers


def _filled_up(value: tf.Tensor, stop: tf.Tensor, num_rows: int) -> tf.Tensor:
    # No tf.pad: it has no kernel for integers on GPUs.
    missing = tf.zeros([num_rows - stop, *value.shape[1:]], value.dtype)
    filled = tf.concat([value, missing], axis=0)
    return tf.ensure_shape(filled, [num_rows, *value.shape[1:]])


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
