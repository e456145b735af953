"""A run's features as they lie on disk, to be read: of one process, or of several.

Each of several worker processes keeps the rows of its own examples, in a store of its
own. Here they are read as if they were one, without copying them.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.distribution import workers
from xdc_tf.features import feature_store
from xdc_tf.features.feature_store import StoredFeatures
from xdc_tf.runtime import arrays
from xdc_tf.runtime import workdir as run_directory


class SplitMatrix:
    """A matrix whose rows lie in several; a slice or indices of it are an array.

    Attributes:
      shape: (num_rows, D).
      parts: the matrices.
    """

    def __init__(self, num_rows: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]):
        """Joins matrices.

        Args:
          num_rows: of the whole.
          parts: of each [n] the numbers of its rows in the whole, and [n, D] these.
        """
        self.parts = [matrix for _, matrix in parts]
        self.shape = (num_rows, self.parts[0].shape[1])
        self._part = np.full(num_rows, -1, np.int32)
        self._place = np.zeros(num_rows, np.int64)
        for number, (rows, _) in enumerate(parts):
            self._part[rows] = number
            self._place[rows] = np.arange(len(rows))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """[n, D] of some rows; zero for those that are in no part."""
        part, place = self._part[rows], self._place[rows]
        result = np.zeros((len(part), self.shape[1]), self.parts[0].dtype)
        for number, matrix in enumerate(self.parts):
            of_part = part == number
            result[of_part] = matrix[place[of_part]]
        return result


Matrix = np.ndarray | SplitMatrix


class RunFeatures(NamedTuple):
    """What a run has kept of the features that it clustered last.

    Attributes:
      streams: of each stream [num_rows, D] by example_index.
      present: [num_rows] bool, which rows are filled.
      harvested_in: see feature_store.StoredFeatures.
      extracted_by: the same.
    """

    streams: dict[str, Matrix]
    present: np.ndarray
    harvested_in: int | None
    extracted_by: dict[str, str] | None


def give_back(matrix: Matrix) -> None:
    """Gives back the pages of read-only maps that were touched; see arrays.blocks."""
    for part in matrix.parts if isinstance(matrix, SplitMatrix) else [matrix]:
        arrays.give_back(part)


def read(workdir: str, info: DatasetInfo, examples: Examples) -> RunFeatures | None:
    """Opens the features of a run; None where it has none.

    None, too, where the stores of several workers are not all there, or not of the
    same encoders: a worker was lost while they were written.

    Args:
      workdir: of the run.
      info: of the records that it was trained on.
      examples: the same.

    Raises:
      ValueError: a file of a store is damaged.
    """
    whole, first_part = (_directory(workdir, 0, count) for count in (1, 2))
    # A run may go on with more processes, or with fewer.
    if _last_written(whole) < _last_written(first_part):
        return _read_parts(workdir, info, examples)
    stored = feature_store.read_features(whole)
    if stored is None:
        return None
    return RunFeatures(
        dict(stored.features.streams),
        stored.features.present,
        stored.harvested_in,
        stored.extracted_by,
    )


def _last_written(directory: str) -> float:
    path = os.path.join(directory, feature_store.ROWS_FILE)
    return os.path.getmtime(path) if os.path.exists(path) else 0.0


def _read_parts(
    workdir: str, info: DatasetInfo, examples: Examples
) -> RunFeatures | None:
    first = feature_store.read_features(_directory(workdir, 0, 2))
    if first is None or first.worker is None or first.worker[1] > len(info.shards):
        return None
    count = first.worker[1]
    stores = []
    for number in range(count):
        store = feature_store.read_features(_directory(workdir, number, count))
        if store is None or store.worker != (number, count):
            return None
        stores.append(store)
    return _join(stores, info, examples)


def _join(
    stores: Sequence[StoredFeatures], info: DatasetInfo, examples: Examples
) -> RunFeatures | None:
    first = stores[0]
    rows = [
        workers.local_rows(info, examples, number=number, num_processes=len(stores))[1]
        for number in range(len(stores))
    ]
    for store, of_store in zip(stores, rows, strict=True):
        if (
            len(store.features.present) != len(of_store)
            or store.harvested_in != first.harvested_in
            or store.extracted_by != first.extracted_by
            or _widths(store) != _widths(first)
        ):
            return None
    present = np.zeros(info.num_rows, bool)
    for store, of_store in zip(stores, rows, strict=True):
        present[of_store] = store.features.present
    streams: dict[str, Matrix] = {
        stream: SplitMatrix(
            info.num_rows,
            [
                (of_store, store.features.streams[stream])
                for store, of_store in zip(stores, rows, strict=True)
            ],
        )
        for stream in first.features.streams
    }
    return RunFeatures(streams, present, first.harvested_in, first.extracted_by)


def _widths(store: StoredFeatures) -> dict[str, tuple[int, np.dtype]]:
    return {
        stream: (matrix.shape[1], matrix.dtype)
        for stream, matrix in store.features.streams.items()
    }


def _directory(workdir: str, worker: int, num_workers: int) -> str:
    return run_directory.features_dir(workdir, worker=worker, num_workers=num_workers)
