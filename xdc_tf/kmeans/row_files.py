"""Matrices of features in .npy files: checked when opened, and where their rows lie."""

import os
from typing import NamedTuple

import numpy as np

from xdc_tf.runtime import arrays

_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))


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
    _check(rows, path, width)
    return rows


def extent(rows: np.memmap) -> Extent:
    """Where the rows of a memory-mapped [N, D] array lie in its file.

    Raises:
      ValueError: rows that do not follow each other in the file, as after a selection
        of columns, another dtype, or a file that has become shorter.
    """
    path = os.fspath(rows.filename or "")
    _check(rows, path, None)
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


def _check(rows: np.ndarray, path: str, width: int | None) -> None:
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
