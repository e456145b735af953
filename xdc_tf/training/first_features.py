"""What a first clustering takes in place of its own encoders' features.

Statistics of the clips (models.clip_statistics), or features of a trained teacher. They
are files beside the run's features while they are clustered, since they may be more
than the memory: k-means takes up to config.kmeans.memory_gib of them into it.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from xdc_tf.data.clips import ClipSettings
from xdc_tf.distribution import workers
from xdc_tf.features import extraction
from xdc_tf.features.extraction import Features
from xdc_tf.features.row_arrays import RowFile, make_zeros
from xdc_tf.models import layers
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import arrays
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import exported_run, teacher, trained_run
from xdc_tf.training.batches import evaluation_batches
from xdc_tf.training.run import Run
from xdc_tf.training.run_features import check_complete

_DTYPE = np.dtype(np.float32)


@contextlib.contextmanager
def of_statistics(run: Run) -> Iterator[Features]:
    """Statistics of the clips of this process's examples, by stream.

    Those of each stream have mean 0 and variance 1 over the examples that are trained
    on, of all processes.

    Yields:
      Features by row of the run's share, as of `run_features.to_cluster`: maps of files
      that are removed in the end.

    Raises:
      ValueError: if the records did not give all of their examples.
      OSError: if the disk fails.
    """
    encoders = {
        stream: _in_any_mode(MODALITIES[modality].first_features)
        for stream, modality in run.method.streams.items()
    }
    with _directory(run) as directory:
        files, present = _extracted(run, encoders, directory)
        fitted = present & run.records.trained[run.records.local.rows]
        for file in files.values():
            _standardize(run, file, fitted=fitted, present=present)
        yield Features({name: file.open() for name, file in files.items()}, present)


@contextlib.contextmanager
def of_teacher(run: Run) -> Iterator[dict[str, np.ndarray]]:
    """The features of config.labels.features_from, by stream.

    Yields:
      For each of teacher.streams [n, D] float32, by row of the run's share: maps of
      files that are removed in the end.

    Raises:
      ValueError: if the records did not give all of their examples, or an array holds
        numbers that are not finite for one of them.
      OSError: if the disk fails.
    """
    directory = run.config.labels.features_from
    taught = sorted(teacher.streams(run.config, run.method))
    with _directory(run) as own_directory:
        if teacher.has_arrays(directory):
            yield {
                stream: _given(run, directory, stream, own_directory)
                for stream in taught
            }
            return
        trained = exported_run.open_directory(directory)
        with run.strategy.scope():
            encoders = {
                stream: layers.fold(
                    trained_run.load_encoder(
                        trained, teacher.stream_of(trained, run.method.streams[stream])
                    )
                )
                for stream in taught
            }
        found, _ = _extracted(run, encoders, own_directory, clip=trained.clip)
        yield {stream: file.open() for stream, file in found.items()}


@contextlib.contextmanager
def _directory(run: Run) -> Iterator[str]:
    """A new directory beside this process's features."""
    local = run.records.local
    features = run_directory.features_dir(
        run.workdir, worker=local.number, num_workers=local.num_processes
    )
    directory = f"{features}.first"
    shutil.rmtree(directory, ignore_errors=True)  # of a process that was killed
    os.makedirs(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _given(run: Run, directory: str, stream: str, own_directory: str) -> np.ndarray:
    """The rows of a teacher's array that are this process's, 0 where none is used."""
    array = teacher.open_array(directory, stream, run.records.info)
    rows = run.records.local.rows
    used = (run.records.trained | run.records.held_out)[rows]

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), arrays.BLOCK_ROWS):
            block = slice(start, start + arrays.BLOCK_ROWS)
            values = np.where(used[block, np.newaxis], array[rows[block]], 0)
            values = values.astype(_DTYPE)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{teacher.array_path(directory, stream)} holds numbers that are "
                    "not finite for examples of the records; write it again."
                )
            yield values
            arrays.give_back(array)

    path = os.path.join(own_directory, f"{stream}.npy")
    shape = (len(rows), array.shape[1])
    arrays.write_npy(path, blocks(), shape=shape, dtype=_DTYPE)
    return arrays.open_npy(path)


def _extracted(
    run: Run,
    encoders: Mapping[str, Callable],
    directory: str,
    *,
    clip: ClipSettings | None = None,
) -> tuple[dict[str, RowFile], np.ndarray]:
    """What other encoders than the run's give for the examples of this process.

    Returns:
      By stream a file of [n, D] float32, and [n] bool, which rows are filled; the
      others are 0.
    """
    rows, trained = run.records.local.rows, run.records.trained
    wanted = np.zeros_like(trained)
    wanted[rows] = (trained | run.records.held_out)[rows]
    modalities = {stream: run.method.streams[stream] for stream in encoders}
    extract_clips = extraction.make_extract_clips(
        encoders, modalities, strategy=run.strategy
    )
    batches = evaluation_batches(
        run,
        num_clips=run.config.features.clips_per_video,
        keep=wanted,
        clip=clip,
    )
    present = np.zeros(len(rows), bool)
    found: dict[str, RowFile] = {}
    for examples in extraction.average_clips(extract_clips(batches)):
        places = np.searchsorted(rows, examples.example_index)
        present[places] = True
        for stream, values in examples.streams.items():
            if stream not in found:
                path = os.path.join(directory, f"{stream}.npy")
                shape = (len(rows), values.shape[1])
                make_zeros(path, shape, _DTYPE)
                found[stream] = RowFile(path, shape, _DTYPE)
            found[stream].write(places, values.astype(_DTYPE))
    check_complete(run, wanted[rows] & ~present)
    return found, present


def _in_any_mode(function: Callable) -> Callable:
    """As encoders are called."""
    return lambda clips, training: function(clips)


def _standardize(
    run: Run, file: RowFile, *, fitted: np.ndarray, present: np.ndarray
) -> None:
    """To mean 0 and variance 1, in place; a column that does not vary becomes 0."""
    matrix = file.open()
    count = workers.gathered(run.strategy, int(fitted.sum())).sum()
    starts = range(0, len(matrix), arrays.BLOCK_ROWS)

    def mean(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        total = np.zeros(matrix.shape[1])
        for start in starts:
            block = slice(start, start + arrays.BLOCK_ROWS)
            values = function(matrix[block][fitted[block]])
            total += values.sum(axis=0, dtype=np.float64)
            arrays.give_back(matrix)
        return workers.gathered(run.strategy, total).sum(axis=0) / count

    center = mean(lambda values: values)
    deviation = np.sqrt(mean(lambda values: np.square(values - center)))
    scale = np.where(deviation > 1e-6, deviation, np.inf)
    for start in starts:
        block = slice(start, start + arrays.BLOCK_ROWS)
        values = (matrix[block] - center) / scale
        values[~present[block]] = 0
        file.write_run(start, values.astype(_DTYPE))
        arrays.give_back(matrix)
