"""Matrices on disk whose rows are overwritten in place, with a checksum for each row.

    NAME.npy          [num_rows, D] of any dtype
    NAME.crc32.npy    [num_rows] uint32, the CRC-32 of each row's bytes

Rows are written by ordinary writes and read through memory maps: neither takes memory
that grows with their number, and a full disk is an error instead of a signal.
"""

import os
import zlib
from collections.abc import Sequence

import numpy as np

from xdc_tf.kmeans import matrices
from xdc_tf.runtime import arrays, files

_CHECKED_BYTES = 1 << 24


class RowFile:
    """A .npy file whose rows are overwritten in place."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype):
        self.dtype = dtype
        self._path = path
        try:
            array = arrays.open_npy(path)
        except (OSError, ValueError) as error:
            raise damaged_error(path, error) from error
        if (array.shape, array.dtype) != (shape, dtype):
            raise damaged_error(
                path, f"{array.dtype} {array.shape} instead of {dtype} {shape}"
            )
        self._offset = array.offset
        self._row_bytes = array.strides[0]
        self._file = open(path, "r+b", opener=_open_here)

    def open(self) -> np.memmap:
        """All rows, read-only, as they are and will be."""
        return arrays.open_npy(self._path)

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Overwrites rows, in order; neighbours in one go."""
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        for numbers, run in zip(
            np.split(index, breaks), np.split(rows, breaks), strict=True
        ):
            if len(numbers):
                self.write_run(int(numbers[0]), run)

    def write_run(self, first: int, rows: np.ndarray) -> None:
        """Overwrites the rows from `first` on."""
        try:
            self._file.seek(self._offset + first * self._row_bytes)
            self._file.write(rows.tobytes())
            self._file.flush()
        except OSError as error:
            raise OSError(f"{self._path} cannot be written: {error}.") from error

    def sync(self) -> None:
        """Returns when all that was written is on disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(f"{self._path} cannot be written: {error}.") from error


class CheckedMatrix:
    """A matrix in NAME.npy, with its rows' checksums in NAME.crc32.npy."""

    def __init__(self, path: str, shape: tuple[int, int], dtype: np.dtype):
        """Opens a matrix; makes its checksums if an earlier version left none.

        Raises:
          ValueError: if a file is damaged, or of another shape or dtype.
        """
        self.dtype = dtype
        self._rows = RowFile(path, shape, dtype)
        self._checksums = _open_checksums(path, shape[0])

    def open(self) -> np.memmap:
        """[num_rows, D], read-only, as the rows are and will be."""
        return self._rows.open()

    def write(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Overwrites rows and their checksums, in order.

        Args:
          index: [n] numbers of rows.
          rows: [n, D] of the matrix's dtype.

        Raises:
          OSError: if the disk fails.
        """
        self._rows.write(index, rows)
        self._checksums.write(index, row_checksums(rows))

    def sync(self) -> None:
        """Returns when all that was written is on disk.

        Raises:
          OSError: if the disk fails.
        """
        self._rows.sync()
        self._checksums.sync()


def make_matrix(path: str, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Makes a checked matrix of zeros, which takes its whole place on disk at once.

    Its checksums are zeros too, so that every row counts as damaged until written.

    Raises:
      OSError: if the disk has not enough room.
    """
    make_zeros(path, shape, dtype)
    make_zeros(_checksums_path(path), shape[:1], np.dtype(np.uint32))


def row_checksums(rows: np.ndarray) -> np.ndarray:
    """[num_rows] uint32, the CRC-32 of the bytes of each row of a matrix."""
    contiguous = np.ascontiguousarray(rows)
    return np.fromiter(map(zlib.crc32, contiguous), np.uint32, len(contiguous))


def damaged_rows(path: str, present: np.ndarray) -> np.ndarray:
    """Finds the rows of a matrix that have changed since they were written.

    Args:
      path: NAME.npy; without checksums beside it, as in stores of earlier versions,
        nothing is known to have changed.
      present: [num_rows] bool, the rows that are filled; others are not checked.

    Returns:
      [num_rows] bool.

    Raises:
      ValueError: if a file is damaged beyond its rows.
    """
    damaged = np.zeros(len(present), bool)
    checksums_path = _checksums_path(path)
    if not os.path.exists(checksums_path):
        return damaged
    extent = matrices.extent(matrices.open_rows(path))
    expected = arrays.open_npy(checksums_path)
    if (expected.shape, expected.dtype) != (present.shape, np.uint32):
        raise damaged_error(checksums_path, f"{expected.dtype} {expected.shape}")
    block_rows = max(1, _CHECKED_BYTES // extent.row_bytes)
    for start in range(0, len(present), block_rows):
        rows = slice(start, min(start + block_rows, len(present)))
        if present[rows].any():
            numbers = matrices.read_numbers(
                path,
                extent.offset + start * extent.row_bytes,
                (rows.stop - start) * extent.width,
                extent.dtype,
            )
            actual = row_checksums(numbers.reshape(-1, extent.width))
            damaged[rows] = present[rows] & (actual != expected[rows])
    return damaged


def _open_checksums(path: str, num_rows: int) -> RowFile:
    """The checksums of a matrix's rows; made of the rows where there are none."""
    checksums_path = _checksums_path(path)
    shape, dtype = (num_rows,), np.dtype(np.uint32)
    if not os.path.exists(checksums_path):
        rows = arrays.open_npy(path)
        with files.placing(checksums_path) as partial:
            make_zeros(partial, shape, dtype)
            checksums = RowFile(partial, shape, dtype)
            block_rows = max(1, _CHECKED_BYTES // rows.strides[0])
            for start in range(0, num_rows, block_rows):
                block = rows[start : start + block_rows]
                checksums.write_run(start, row_checksums(block))
    return RowFile(checksums_path, shape, dtype)


def _checksums_path(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.crc32.npy"


def _open_here(path: str, flags: int) -> int:
    """Opens a file, but not where a link leads."""
    return os.open(path, flags | os.O_NOFOLLOW)


def damaged_error(path: str, problem: object) -> ValueError:
    """The error about a damaged file of a directory that can be computed again."""
    return ValueError(
        f"{path} is damaged ({problem}); remove {os.path.dirname(path)}, and the "
        "features are computed again."
    )


def make_zeros(path: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Makes a .npy file of zeros, which takes its whole place on disk at once.

    Raises:
      OSError: if the disk has not enough room.
    """
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(shape),
            },
        )
        file.flush()
        size = file.tell() + int(np.prod(shape)) * dtype.itemsize
        if hasattr(os, "posix_fallocate"):
            # Its blocks too, so that a full disk is reported at once.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            os.ftruncate(file.fileno(), size)
