"""A run's features on disk: a row per example and stream, and which rows are filled.

A store is a directory:

    STREAM.npy          [num_rows, D] float32 or float16, by example_index
    STREAM.crc32.npy    [num_rows] uint32, the CRC-32 of each row's bytes
    rows.npy            [num_rows] uint8, a RowState each
    store.json          what the rows belong to; written last

Rows are written by ordinary writes and read through memory maps: neither takes memory
that grows with their number, and a full disk is an error instead of a signal. A row is
marked as filled after its features and their CRC-32 are on disk, so that a process
killed at any moment loses what it wrote since the last commit and nothing else. A row
that has changed since it was written is emptied before rows are used.
"""

import enum
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xdc_tf.features.extraction import ExampleFeatures, Features
from xdc_tf.kmeans import row_files
from xdc_tf.runtime import arrays, files, json_files, signals

DTYPES = ("float32", "float16")
COMMIT_SECS = 10.0  # what a killed pass may lose; a commit waits for the disk
ROWS_FILE = "rows.npy"
_RECORD_FILE = "store.json"
_CHECKED_BYTES = 1 << 24


class RowState(enum.IntEnum):
    """Where a row's features come from."""

    EMPTY = 0
    HARVESTED = 1  # from training steps
    EXTRACTED = 2  # by a pass in evaluation mode


class FeatureStore:
    """Features of a data set in a directory, filled in any order and over any time.

    One process writes a store at a time.
    """

    def __init__(
        self,
        directory: str,
        *,
        num_rows: int,
        widths: Mapping[str, int],
        dtype: str,
        made_with: Mapping[str, Any],
        example_indices: np.ndarray | None = None,
    ):
        """Opens the store in a directory, or makes one there with all rows empty.

        A store of another form is replaced. A new one takes its whole place on disk at
        once.

        Args:
          directory: of the store alone.
          num_rows: rows of each stream; at least 1.
          widths: features per row, by stream.
          dtype: one of DTYPES.
          made_with: settings that all rows depend on, JSON values.
          example_indices: [num_rows] int64, ascending: the example of each row, which
            must follow from made_with; None if row i is of example i.

        Raises:
          ValueError: if a file of the store is damaged.
          OSError: if the disk has not enough room.
        """
        self._directory = directory
        # Through JSON, so that tuples compare equal to the lists that they are read as.
        form = json.loads(
            json.dumps(
                {
                    "num_rows": num_rows,
                    "widths": dict(widths),
                    "dtype": dtype,
                    "made_with": dict(made_with),
                }
            )
        )
        self._example_indices = example_indices
        self._record = _read_record(directory)
        if self._record.get("form") != form:
            _make_files(directory, num_rows=num_rows, widths=widths, dtype=dtype)
            self._record = {"form": form, "harvested_in": None, "extracted_by": None}
            _write_record(directory, self._record)
        self._streams = {
            stream: _Rows(_path(directory, stream), (num_rows, width), np.dtype(dtype))
            for stream, width in widths.items()
        }
        self._checksums = {
            stream: _open_checksums(directory, stream, num_rows) for stream in widths
        }
        self._rows = _Rows(
            os.path.join(directory, ROWS_FILE), (num_rows,), np.dtype(np.uint8)
        )
        self._states = np.array(self._rows.open())
        self._states[self._states > max(RowState)] = RowState.EMPTY  # damaged
        self._uncommitted: list[tuple[int, int]] = []  # first and last row

    @property
    def states(self) -> np.ndarray:
        """[num_rows] uint8, a RowState each; a copy."""
        return self._states.copy()

    def keep_only(
        self, *, harvested_in: int | None, extracted_by: Mapping[str, str] | None
    ) -> None:
        """Empties the rows that are of something else; rows written later are of this.

        Args:
          harvested_in: the round whose training steps gave the HARVESTED rows.
          extracted_by: SHA-256 by stream of the encoders that gave the EXTRACTED rows.
        """
        wanted = {
            "harvested_in": harvested_in,
            "extracted_by": None if extracted_by is None else dict(extracted_by),
        }
        self.commit()
        for key, state in (
            ("harvested_in", RowState.HARVESTED),
            ("extracted_by", RowState.EXTRACTED),
        ):
            if wanted[key] is None or wanted[key] != self._record[key]:
                self._states[self._states == state] = RowState.EMPTY
        # Killed after this, the store has fewer rows of what it had before.
        self._rows.write_run(0, self._states)
        self._rows.sync()
        if self._record != self._record | wanted:
            self._record |= wanted
            _write_record(self._directory, self._record)

    def write(self, examples: ExampleFeatures, state: RowState) -> None:
        """Fills the rows of some examples, whatever was there; the last of equals wins.

        Raises:
          FloatingPointError: on features that are not finite, or not in the dtype.
          OSError: if the disk fails.
        """
        index = examples.example_index
        if self._example_indices is not None:
            index = np.searchsorted(self._example_indices, index)
        for stream, file in self._streams.items():
            features = examples.streams[stream]
            with np.errstate(over="ignore"):
                rows = features.astype(file.dtype)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                first = int(np.argmin(finite))
                remedy = (
                    "set config.features.dtype=float32"
                    if np.isfinite(features[first]).all()
                    else "lower config.optimizer.learning_rate"
                )
                raise FloatingPointError(
                    f"The {stream} encoder gives features that {file.dtype} cannot "
                    f"hold for {np.sum(~finite)} of {len(finite)} examples, first for "
                    f"example_index {examples.example_index[first]}, up to "
                    f"{np.abs(features[first]).max()}; {remedy}."
                )
            file.write(index, rows)
            self._checksums[stream].write(index, row_checksums(rows))
        if len(index):
            self._states[index] = state
            self._uncommitted.append((int(index.min()), int(index.max())))

    def drop_damaged(self) -> int:
        """Empties the rows whose bytes are not those that were written, with a warning.

        Reads all files once. Call it after a commit.

        Returns:
          How many rows it has emptied.

        Raises:
          OSError: if the disk fails.
        """
        damaged = np.zeros(len(self._states), bool)
        for stream in self._streams:
            path = _path(self._directory, stream)
            of_stream = damaged_rows(path, self._states != RowState.EMPTY)
            if of_stream.any():
                print(
                    f"warning: {path}: {of_stream.sum()} rows have changed on disk "
                    f"since they were written, first row {np.argmax(of_stream)}; they "
                    "are computed again.",
                    file=sys.stderr,
                    flush=True,
                )
            damaged |= of_stream
        if damaged.any():
            self._states[damaged] = RowState.EMPTY
            self._rows.write_run(0, self._states)
            self._rows.sync()
        return int(damaged.sum())

    def fill(self, groups: Iterable[ExampleFeatures]) -> None:
        """Writes extracted examples as they come, with a commit every COMMIT_SECS.

        Args:
          groups: as of features.average_clips. A process that is killed and goes on
            with the rows that are still empty then sees the same batches.

        Raises:
          FloatingPointError, OSError: see write.
        """
        committed = time.monotonic()
        try:
            for examples in groups:
                self.write(examples, RowState.EXTRACTED)
                if time.monotonic() - committed >= COMMIT_SECS:
                    self.commit()
                    committed = time.monotonic()
        except signals.Stopped:
            self.commit()
            raise
        self.commit()

    def commit(self) -> None:
        """Returns when all rows written so far are on disk and marked as filled.

        Raises:
          OSError: if the disk fails.
        """
        self.prepare_commit()()

    def prepare_commit(self) -> Callable[[], None]:
        """The part of a commit that waits for the disk, for another thread to call.

        It may run while further rows are written, but not beside another commit. It
        raises OSError if the disk fails.
        """
        if not self._uncommitted:
            return lambda: None
        firsts, lasts = zip(*self._uncommitted, strict=True)
        first, states = min(firsts), self._states[min(firsts) : max(lasts) + 1].copy()
        self._uncommitted.clear()

        def commit() -> None:
            for file in (*self._streams.values(), *self._checksums.values()):
                file.sync()
            self._rows.write_run(first, states)
            self._rows.sync()

        return commit

    def features(self) -> Features:
        """All rows, as read-only memory maps, and which of them are filled."""
        return Features(
            streams={stream: file.open() for stream, file in self._streams.items()},
            present=self._states != RowState.EMPTY,
        )


class _Rows:
    """A .npy file whose rows are overwritten in place."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype):
        self.dtype = dtype
        self._path = path
        try:
            array = arrays.open_npy(path)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        if (array.shape, array.dtype) != (shape, dtype):
            raise _damaged(
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


def row_checksums(rows: np.ndarray) -> np.ndarray:
    """[num_rows] uint32, the CRC-32 of the bytes of each row of a matrix."""
    contiguous = np.ascontiguousarray(rows)
    return np.fromiter(map(zlib.crc32, contiguous), np.uint32, len(contiguous))


def damaged_rows(path: str, present: np.ndarray) -> np.ndarray:
    """Finds the rows of a store's file that have changed since they were written.

    Args:
      path: STREAM.npy; without checksums beside it, as in stores of earlier versions,
        nothing is known to have changed.
      present: [num_rows] bool, the rows that are filled; others are not looked at.

    Returns:
      [num_rows] bool.

    Raises:
      ValueError: if a file is damaged beyond its rows.
    """
    damaged = np.zeros(len(present), bool)
    checksums_path = _checksums_path(path)
    if not os.path.exists(checksums_path):
        return damaged
    extent = row_files.extent(row_files.open_rows(path))
    expected = arrays.open_npy(checksums_path)
    if (expected.shape, expected.dtype) != (present.shape, np.uint32):
        raise _damaged(checksums_path, f"{expected.dtype} {expected.shape}")
    block_rows = max(1, _CHECKED_BYTES // extent.row_bytes)
    for start in range(0, len(present), block_rows):
        rows = slice(start, min(start + block_rows, len(present)))
        if present[rows].any():
            numbers = row_files.read_numbers(
                path,
                extent.offset + start * extent.row_bytes,
                (rows.stop - start) * extent.width,
                extent.dtype,
            )
            actual = row_checksums(numbers.reshape(-1, extent.width))
            damaged[rows] = present[rows] & (actual != expected[rows])
    return damaged


def _open_checksums(directory: str, stream: str, num_rows: int) -> _Rows:
    """The checksums of a stream's rows; made of the rows where a store has none."""
    path = _path(directory, stream)
    checksums_path = _checksums_path(path)
    if not os.path.exists(checksums_path):
        rows = arrays.open_npy(path)
        with files.placing(checksums_path) as partial:
            _make_zeros(partial, (num_rows,), np.dtype(np.uint32))
            checksums = _Rows(partial, (num_rows,), np.dtype(np.uint32))
            block_rows = max(1, _CHECKED_BYTES // rows.strides[0])
            for start in range(0, num_rows, block_rows):
                block = rows[start : start + block_rows]
                checksums.write_run(start, row_checksums(block))
    return _Rows(checksums_path, (num_rows,), np.dtype(np.uint32))


def _path(directory: str, stream: str) -> str:
    return os.path.join(directory, f"{stream}.npy")


def _checksums_path(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.crc32.npy"


def _open_here(path: str, flags: int) -> int:
    """Opens a file, but not where a link leads."""
    return os.open(path, flags | os.O_NOFOLLOW)


def _damaged(path: str, what: object) -> ValueError:
    return ValueError(
        f"{path} is damaged ({what}); remove {os.path.dirname(path)}, and the features "
        "are computed again."
    )


def _read_record(directory: str) -> dict[str, Any]:
    """What store.json says; empty if there is none."""
    path = os.path.join(directory, _RECORD_FILE)
    if not os.path.exists(path):
        return {}
    checks = {
        "form": json_files.is_object,
        "harvested_in": json_files.optional(json_files.is_count),
        "extracted_by": json_files.optional(json_files.mapping_of(json_files.is_text)),
    }
    try:
        return json_files.check(json_files.read_object(path), checks, _RECORD_FILE)
    except ValueError as error:
        raise _damaged(path, error) from error


def _write_record(directory: str, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2) + "\n"
    files.write_text(os.path.join(directory, _RECORD_FILE), text)


def _make_files(
    directory: str, *, num_rows: int, widths: Mapping[str, int], dtype: str
) -> None:
    """Makes the store's arrays, all zero, in place of whatever is in the directory."""
    record = os.path.join(directory, _RECORD_FILE)
    if os.path.exists(record):
        os.remove(record)  # first: a directory without it is no store
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    shapes = {_path(directory, stream): (num_rows, n) for stream, n in widths.items()}
    try:
        for path, shape in shapes.items():
            _make_zeros(path, shape, np.dtype(dtype))
            _make_zeros(_checksums_path(path), (num_rows,), np.dtype(np.uint32))
        _make_zeros(os.path.join(directory, ROWS_FILE), (num_rows,), np.dtype(np.uint8))
    except OSError as error:
        shutil.rmtree(directory)
        size = sum(widths.values()) * num_rows * np.dtype(dtype).itemsize
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(directory))).free
        raise OSError(
            f"{directory} takes {size / 1e9:.2f} GB for {dtype} features, and "
            f"{free / 1e9:.2f} GB are free ({error}); free some, use another --workdir"
            + (", or set config.features.dtype=float16." if dtype == "float32" else ".")
        ) from error


def _make_zeros(path: str, shape: Sequence[int], dtype: np.dtype) -> None:
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
            # Its blocks too, so that a full disk is found before any work is done.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            os.ftruncate(file.fileno(), size)
