"""A run's features on disk: a row per example and stream, and which rows are filled.

A store is a directory:

    STREAM.npy          [num_rows, D] float32 or float16, by example_index
    STREAM.crc32.npy    [num_rows] uint32, the CRC-32 of each row's bytes
    rows.npy            [num_rows] uint8, a RowState each
    store.json          what the rows belong to; written last

A row is marked as filled after its features and their CRC-32 are on disk, so that a
process killed at any moment loses what it wrote since the last commit and nothing else.
A row that has changed since it was written is emptied before rows are used.
"""

import enum
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.features.extraction import ExampleFeatures, Features
from xdc_tf.features.row_arrays import (
    CheckedMatrix,
    RowFile,
    damaged_error,
    damaged_rows,
    make_matrix,
    make_zeros,
)
from xdc_tf.runtime import arrays, files, json_files, signals

DTYPES = ("float32", "float16")
COMMIT_SECS = 10.0  # what a killed pass may lose; a commit waits for the disk
ROWS_FILE = "rows.npy"
_RECORD_FILE = "store.json"


class RowState(enum.IntEnum):
    """Where a row's features come from."""

    EMPTY = 0
    HARVESTED = 1  # from training steps
    EXTRACTED = 2  # by a pass in evaluation mode


class StoredFeatures(NamedTuple):
    """What a store holds, to be read.

    Attributes:
      features: all rows, as read-only memory maps, and which of them are filled.
      harvested_in: the round whose training steps gave the harvested rows, or None.
      extracted_by: SHA-256 by stream of the encoders that gave the others, or None.
      worker: number of the process whose examples these are, and how many processes
        there were; None of a single one.
    """

    features: Features
    harvested_in: int | None
    extracted_by: dict[str, str] | None
    worker: tuple[int, int] | None


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
            stream: CheckedMatrix(
                _path(directory, stream), (num_rows, width), np.dtype(dtype)
            )
            for stream, width in widths.items()
        }
        self._rows = RowFile(
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
        provenance = {
            "harvested_in": harvested_in,
            "extracted_by": None if extracted_by is None else dict(extracted_by),
        }
        self.commit()
        for key, state in (
            ("harvested_in", RowState.HARVESTED),
            ("extracted_by", RowState.EXTRACTED),
        ):
            if provenance[key] is None or provenance[key] != self._record[key]:
                self._states[self._states == state] = RowState.EMPTY
        # Killed after this, the store has fewer rows of what it had before.
        self._rows.write_run(0, self._states)
        self._rows.sync()
        if self._record != self._record | provenance:
            self._record |= provenance
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
        for stream, matrix in self._streams.items():
            features = examples.streams[stream]
            with np.errstate(over="ignore"):
                rows = features.astype(matrix.dtype)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                first = int(np.argmin(finite))
                remedy = (
                    "set config.features.dtype=float32"
                    if np.isfinite(features[first]).all()
                    else "lower config.optimizer.learning_rate"
                )
                raise FloatingPointError(
                    f"The {stream} encoder gives features that {matrix.dtype} cannot "
                    f"hold for {np.sum(~finite)} of {len(finite)} examples, first for "
                    f"example_index {examples.example_index[first]}, up to "
                    f"{np.abs(features[first]).max()}; {remedy}."
                )
            matrix.write(index, rows)
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
            changed = damaged_rows(path, self._states != RowState.EMPTY)
            if changed.any():
                print(
                    f"warning: {path}: {changed.sum()} rows have changed on disk "
                    f"since they were written, first row {np.argmax(changed)}; they "
                    "are computed again.",
                    file=sys.stderr,
                    flush=True,
                )
            damaged |= changed
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
            for matrix in self._streams.values():
                matrix.sync()
            self._rows.write_run(first, states)
            self._rows.sync()

        return commit

    def features(self) -> Features:
        """All rows, as read-only memory maps, and which of them are filled."""
        return Features(
            streams={name: matrix.open() for name, matrix in self._streams.items()},
            present=self._states != RowState.EMPTY,
        )


def read_features(directory: str) -> StoredFeatures | None:
    """Opens the store in a directory to read it; None if there is none.

    Rows that have changed since they were written count as empty.

    Raises:
      ValueError: if a file of the store is damaged.
    """
    record = _read_record(directory)
    if not record:
        return None
    path = os.path.join(directory, _RECORD_FILE)
    try:
        form = json_files.check(
            record["form"],
            {
                "num_rows": json_files.is_count,
                "widths": json_files.mapping_of(json_files.is_count),
                "made_with": json_files.is_object,
            },
            _RECORD_FILE,
        )
        worker = form["made_with"].get("worker")
        if worker is not None:
            json_files.check({"worker": worker}, {"worker": _is_worker}, _RECORD_FILE)
    except ValueError as error:
        raise damaged_error(path, error) from error
    rows_path = os.path.join(directory, ROWS_FILE)
    states = arrays.open_npy(rows_path)
    streams: dict[str, np.ndarray] = {}
    if states.shape != (form["num_rows"],):
        raise damaged_error(rows_path, f"{states.shape} states")
    present = np.isin(states, (RowState.HARVESTED, RowState.EXTRACTED))
    for stream, width in form["widths"].items():
        stream_path = _path(directory, files.member_path("", stream))
        streams[stream] = arrays.open_npy(stream_path)
        if streams[stream].shape != (form["num_rows"], width):
            raise damaged_error(stream_path, f"{streams[stream].shape} features")
        present &= ~damaged_rows(stream_path, present)
    return StoredFeatures(
        Features(streams, present),
        record["harvested_in"],
        record["extracted_by"],
        None if worker is None else (worker[0], worker[1]),
    )


def _is_worker(value: Any) -> bool:
    is_list = json_files.list_of(json_files.is_count)
    return is_list(value) and len(value) == 2 and value[0] < value[1]


def _path(directory: str, stream: str) -> str:
    return os.path.join(directory, f"{stream}.npy")


def _read_record(directory: str) -> dict[str, Any]:
    """The contents of store.json; empty if there is none."""
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
        raise damaged_error(path, error) from error


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
            make_matrix(path, shape, np.dtype(dtype))
        make_zeros(os.path.join(directory, ROWS_FILE), (num_rows,), np.dtype(np.uint8))
    except OSError as error:
        shutil.rmtree(directory)
        size = sum(widths.values()) * num_rows * np.dtype(dtype).itemsize
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(directory))).free
        raise OSError(
            f"{directory} takes {size / 1e9:.2f} GB for {dtype} features, and "
            f"{free / 1e9:.2f} GB are free ({error}); free some, use another --workdir"
            + (", or set config.features.dtype=float16." if dtype == "float32" else ".")
        ) from error
