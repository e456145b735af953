"""What a caller gives as features: a matrix in memory, or memory-mapped .npy files.

Files are checked when they are opened, and for where their rows lie.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import fit_settings, rows
from xdc_tf.kmeans.rows import Extent, Rows, read_numbers
from xdc_tf.runtime import arrays

_ALIGNMENT = 64  # bytes, of tensors
_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))  # of files
MatrixLike: TypeAlias = np.ndarray | tf.Tensor | Sequence[np.memmap]


class FeatureMatrix(NamedTuple):
    """Features of this process, in memory or in files.

    Attributes:
      tensor: [N, D] float32; None if they are in files.
      extents: rows in files, one after the other; empty if they are in memory.
      num_rows: N.
      width: D.
      device: where they lie, or where rows from files are assigned.
      present: [N] bool, which rows hold an example.
      fitted: [N] bool, which of the present rows centroids are fitted to.
    """

    tensor: tf.Tensor | None
    extents: list[Extent]
    num_rows: int
    width: int
    device: str | None
    present: np.ndarray
    fitted: np.ndarray


def open_matrix(
    features: MatrixLike,
    *,
    fitted_rows: np.ndarray | None = None,
    present_rows: np.ndarray | None = None,
) -> FeatureMatrix:
    """Features as they are given, with their shape checked but not their values.

    Args:
      features: [N, D] numbers in memory, or memory-mapped arrays one after the other.
      fitted_rows: [N] bool; None for all.
      present_rows: [N] bool; None for all.

    Raises:
      ValueError: not a filled matrix, files that differ in type or width or are cut
        short, or masks of another shape or type.
    """
    several = isinstance(features, (list, tuple)) and any(
        isinstance(part, np.memmap) for part in features
    )
    tensor = device = None
    extents: list[Extent] = []
    if several or isinstance(features, np.memmap):
        parts: Any = features if several else [features]
        extents = [extent(part) for part in parts]
        num_rows, width = _shape_of_files(extents)
    else:
        tensor = _as_tensor(features)
        if tensor.shape.rank != 2 or 0 in tensor.shape:
            raise ValueError(
                f"features must be a filled [examples, dimensions] matrix, received "
                f"shape {tuple(tensor.shape)}."
            )
        num_rows, width = tensor.shape
        device = tensor.device
    present = _checked_mask("present_rows", present_rows, num_rows)
    fitted = _checked_mask("fitted_rows", fitted_rows, num_rows) & present
    return FeatureMatrix(tensor, extents, num_rows, width, device, present, fitted)


def _shape_of_files(extents: Sequence[Extent]) -> tuple[int, int]:
    kinds = {(extent.width, extent.dtype.name) for extent in extents}
    if len(kinds) > 1:
        raise ValueError(
            "files of features differ in width and type, "
            f"{', '.join(f'{width} x {name}' for width, name in sorted(kinds))}; "
            "pass files of a single encoder."
        )
    return sum(extent.num_rows for extent in extents), extents[0].width


def _checked_mask(name: str, mask: np.ndarray | None, num_rows: int) -> np.ndarray:
    """[num_rows] bool; all True for None."""
    if mask is None:
        return np.ones(num_rows, bool)
    mask = np.asarray(mask)
    if mask.shape != (num_rows,) or mask.dtype != bool:
        raise ValueError(
            f"{name} has shape {mask.shape} and type {mask.dtype} for {num_rows} rows "
            "of features; give one truth value per row."
        )
    return mask


def _as_tensor(features: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Float32, on the device where it is, or the default one."""
    if not isinstance(features, np.ndarray) or tf.config.list_logical_devices("GPU"):
        return tf.cast(tf.convert_to_tensor(features), tf.float32)
    array = empty_rows(features.shape)
    array[...] = features
    return as_tensor(array)


def empty_rows(shape: Sequence[int]) -> np.ndarray:
    """An array of float32 that `as_tensor` takes as it is.

    NumPy allocates large arrays in large pages, TensorFlow in small ones; to touch the
    small ones for the first time can take longer than what is then done with them.
    """
    num_bytes = 4 * int(np.prod(shape))
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(np.float32).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """The same memory as a tensor on the CPU; the array must not change any more."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def shard(
    matrix: FeatureMatrix, *, block_rows: int, strategy: tf.distribute.Strategy | None
) -> Rows:
    """Gives every replica of this process its part of the rows."""
    options: dict[str, Any] = {
        "block_rows": block_rows,
        "fitted": matrix.fitted,
        "present": matrix.present,
        "strategy": strategy,
    }
    if matrix.tensor is not None:
        return rows.shard_tensor(matrix.tensor, **options)
    return rows.shard_files(matrix.extents, **options)


def blocks(matrix: FeatureMatrix, block_rows: int) -> Iterator[np.ndarray]:
    """The rows in order, [b, D] float32 at a time."""
    if matrix.tensor is not None:
        for start in range(0, matrix.num_rows, block_rows):
            yield matrix.tensor[start : start + block_rows].numpy()
        return
    for extent in matrix.extents:
        for start in range(0, extent.num_rows, block_rows):
            count = min(block_rows, extent.num_rows - start)
            yield read_rows(extent, start, count)


def count_distinct(matrix: FeatureMatrix, *, at_most: int, block_rows: int) -> int:
    """Distinct fitted rows, counted until there are `at_most`."""
    seen = set()
    if not at_most:
        return 0
    # On a GPU blocks are large, and they have to travel.
    block_rows = min(block_rows, fit_settings.MOST_BLOCK_ROWS)
    start = 0
    for block in blocks(matrix, block_rows):
        # Adding zero makes -0.0 and 0.0 the same bytes.
        for row in block[matrix.fitted[start : start + len(block)]] + np.float32(0):
            seen.add(row.tobytes())
            if len(seen) >= at_most:
                return at_most
        start += len(block)
    return len(seen)


def sample(
    matrix: FeatureMatrix,
    *,
    size: int,
    seed: int,
    strategy: tf.distribute.Strategy | None,
) -> tf.Tensor:
    """Draws fitted rows of all processes, without repetition.

    Args:
      matrix: rows of this process.
      size: rows to draw, at most the fitted ones of all processes.
      seed: of the draw, the same in every process.
      strategy: of the processes.

    Returns:
      [size, D] float32, the same in every process.
    """
    process, num_processes = rows.place_among_processes(strategy)
    counts = np.zeros(num_processes, np.int64)
    counts[process] = matrix.fitted.sum()
    counts = rows.sum_over_processes(strategy, counts)
    before = counts[:process].sum()
    ranks = np.arange(size)
    if size < counts.sum():
        generator = np.random.default_rng([seed, 0])
        ranks = np.sort(generator.choice(counts.sum(), size, replace=False))
    local = (ranks >= before) & (ranks < before + counts[process])
    numbers = _numbers_of_ranks(matrix.fitted, ranks[local] - before)
    drawn = np.zeros([size, matrix.width], np.float32)
    drawn[local] = _rows_at(matrix, numbers)
    return tf.constant(rows.sum_over_processes(strategy, drawn))


def _numbers_of_ranks(mask: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Positions of the True entries of these sorted ranks, by blocks to save memory."""
    parts, before, step = [], 0, 1 << 20
    for start in range(0, len(mask), step):
        numbers = start + np.flatnonzero(mask[start : start + step])
        in_block = (ranks >= before) & (ranks < before + len(numbers))
        parts.append(numbers[ranks[in_block] - before])
        before += len(numbers)
    return np.concatenate(parts)


def _rows_at(matrix: FeatureMatrix, numbers: np.ndarray) -> np.ndarray:
    if matrix.tensor is not None:
        return tf.gather(matrix.tensor, numbers).numpy()
    parts, first = [], 0
    for extent in matrix.extents:
        in_extent = (numbers >= first) & (numbers < first + extent.num_rows)
        parts += [read_rows(extent, number, 1) for number in numbers[in_extent] - first]
        first += extent.num_rows
    return np.concatenate(parts) if parts else np.zeros([0, matrix.width], np.float32)


def open_rows(path: str | os.PathLike, *, width: int | None = None) -> np.memmap:
    """Opens a .npy file of features as a read-only memory-mapped [N, D] array.

    Args:
      path: a local file, as numpy.save writes it.
      width: D that it must have, or None for any.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a regular .npy file, cut short, or not a filled matrix of float32
        or float16 of that width.
    """
    path = os.fspath(path)
    try:
        rows = arrays.open_npy(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file of features.") from None
    _check_file(rows, path, width)
    return rows


def extent(rows: np.memmap) -> Extent:
    """Where the rows of a memory-mapped [N, D] array lie in its file.

    Raises:
      ValueError: rows that do not follow each other in the file, as after a selection
        of columns, another dtype, or a file that has become shorter.
    """
    path = os.fspath(rows.filename or "")
    _check_file(rows, path, None)
    if not rows.flags.c_contiguous:
        raise ValueError(
            f"{path}: the selected rows do not follow each other in the file; pass a "
            "run of whole rows, or a copy in memory."
        )
    whole = rows
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    # A selection keeps the offset of the whole, so it is found by the addresses.
    offset = whole.offset + rows.ctypes.data - whole.ctypes.data
    num_rows, width = rows.shape
    row_extent = Extent(path, offset, num_rows, width, rows.dtype)
    needed = offset + num_rows * row_extent.row_bytes
    if os.path.getsize(path) < needed:
        raise ValueError(
            f"{path}: has {os.path.getsize(path)} bytes where its rows end at {needed};"
            " it was cut short after it was opened. Write it again."
        )
    return row_extent


def read_rows(where: Extent, start: int, count: int) -> np.ndarray:
    """Reads [count, D] rows as float32 without mapping the file.

    Raises:
      ValueError: a file that has become shorter.
    """
    offset = where.offset + int(start) * where.row_bytes
    numbers = read_numbers(where.path, offset, count * where.width, where.dtype)
    return numbers.reshape(count, where.width).astype(np.float32, copy=False)


def _check_file(rows: np.ndarray, path: str, width: int | None) -> None:
    if rows.dtype not in _DTYPES:
        raise ValueError(
            f"{path}: holds {rows.dtype}, and features are float32 or float16, "
            "little-endian; convert it with numpy's astype."
        )
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"{path}: has shape {rows.shape}; features are a filled "
            "[examples, dimensions] matrix."
        )
    if width is not None and rows.shape[1] != width:
        raise ValueError(
            f"{path}: has {rows.shape[1]} columns where {width} are expected; extract "
            "the features with the same encoder."
        )
