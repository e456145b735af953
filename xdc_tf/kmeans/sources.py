"""What a caller gives as features: a matrix in memory, or memory-mapped files."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import fit_sizes, host_memory, replicas, row_files, rows
from xdc_tf.kmeans.row_files import Extent
from xdc_tf.kmeans.rows import Rows

Features = np.ndarray | tf.Tensor | Sequence[np.memmap]


class Source(NamedTuple):
    """Features of this process; one of the first two is None.

    Attributes:
      tensor: [N, D] float32.
      extents: rows in files, one after the other.
      num_rows: N.
      width: D.
      device: where they lie, or where rows from files are worked on.
    """

    tensor: tf.Tensor | None
    extents: list[Extent] | None
    num_rows: int
    width: int
    device: str | None


def open_source(features: Features) -> Source:
    """Features as they are given, with their shape checked but not their values.

    Raises:
      ValueError: not a filled matrix, or files that differ in type or width or are cut
        short.
    """
    several = isinstance(features, (list, tuple)) and any(
        isinstance(part, np.memmap) for part in features
    )
    if several or isinstance(features, np.memmap):
        extents = [
            row_files.extent(part) for part in (features if several else [features])
        ]
        kinds = {(one.width, one.dtype.name) for one in extents}
        if len(kinds) > 1:
            raise ValueError(
                "files of features differ in width and type, "
                f"{', '.join(f'{width} x {name}' for width, name in sorted(kinds))}; "
                "pass files of one encoder."
            )
        num_rows = sum(one.num_rows for one in extents)
        return Source(None, extents, num_rows, extents[0].width, None)
    tensor = _as_tensor(features)
    if tensor.shape.rank != 2 or 0 in tensor.shape:
        raise ValueError(
            f"features must be a filled [examples, dimensions] matrix, received shape "
            f"{tuple(tensor.shape)}."
        )
    return Source(tensor, None, *tensor.shape, tensor.device)


def _as_tensor(features: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Float32, on the device where it is, or the default one."""
    if not isinstance(features, np.ndarray) or tf.config.list_logical_devices("GPU"):
        return tf.cast(tf.convert_to_tensor(features), tf.float32)
    array = host_memory.empty(features.shape)
    array[...] = features
    return host_memory.as_tensor(array)


def shard(
    source: Source,
    *,
    block_rows: int,
    fitted: np.ndarray,
    present: np.ndarray,
    strategy: tf.distribute.Strategy | None,
) -> Rows:
    """Gives every replica of this process its part of the rows."""
    options = {
        "block_rows": block_rows,
        "fitted": fitted,
        "present": present,
        "strategy": strategy,
    }
    if source.tensor is not None:
        return rows.shard_tensor(source.tensor, **options)
    return rows.shard_files(source.extents, **options)


def blocks(source: Source, block_rows: int) -> Iterator[np.ndarray]:
    """The rows in order, [b, D] float32 at a time."""
    if source.tensor is not None:
        for start in range(0, source.num_rows, block_rows):
            yield source.tensor[start : start + block_rows].numpy()
        return
    for extent in source.extents:
        for start in range(0, extent.num_rows, block_rows):
            count = min(block_rows, extent.num_rows - start)
            yield row_files.read_rows(extent, start, count)


def count_distinct(
    source: Source, fitted: np.ndarray, *, at_most: int, block_rows: int
) -> int:
    """Distinct fitted rows, counted until there are `at_most`."""
    seen = set()
    if not at_most:
        return 0
    # On a GPU blocks are large, and they have to travel.
    block_rows = min(block_rows, fit_sizes.MOST_BLOCK_ROWS)
    start = 0
    for block in blocks(source, block_rows):
        # Adding zero makes -0.0 and 0.0 the same bytes.
        for row in block[fitted[start : start + len(block)]] + np.float32(0):
            seen.add(row.tobytes())
            if len(seen) >= at_most:
                return at_most
        start += len(block)
    return len(seen)


def sample(
    source: Source,
    fitted: np.ndarray,
    *,
    size: int,
    seed: int,
    strategy: tf.distribute.Strategy | None,
) -> tf.Tensor:
    """Draws fitted rows of all processes, without repetition.

    Returns:
      [size, D] float32, the same in every process.
    """
    process, num_processes = replicas.place_among_processes(strategy)
    counts = np.zeros(num_processes, np.int64)
    counts[process] = fitted.sum()
    counts = replicas.sum_over_processes(strategy, counts)
    before = counts[:process].sum()
    ranks = np.arange(size)
    if size < counts.sum():
        generator = np.random.default_rng([seed, 0])
        ranks = np.sort(generator.choice(counts.sum(), size, replace=False))
    own = (ranks >= before) & (ranks < before + counts[process])
    numbers = _numbers_of_ranks(fitted, ranks[own] - before)
    drawn = np.zeros([size, source.width], np.float32)
    drawn[own] = _rows_at(source, numbers)
    return tf.constant(replicas.sum_over_processes(strategy, drawn))


def _numbers_of_ranks(mask: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Positions of the True entries of these sorted ranks, by blocks to save memory."""
    found, before, step = [], 0, 1 << 20
    for start in range(0, len(mask), step):
        true = np.flatnonzero(mask[start : start + step])
        wanted = ranks[(ranks >= before) & (ranks < before + len(true))] - before
        found.append(start + true[wanted])
        before += len(true)
    return np.concatenate(found)


def _rows_at(source: Source, numbers: np.ndarray) -> np.ndarray:
    if source.tensor is not None:
        return tf.gather(source.tensor, numbers).numpy()
    parts, first = [], 0
    for extent in source.extents:
        own = numbers[(numbers >= first) & (numbers < first + extent.num_rows)] - first
        parts += [row_files.read_rows(extent, number, 1) for number in own]
        first += extent.num_rows
    return np.concatenate(parts) if parts else np.zeros([0, source.width], np.float32)
