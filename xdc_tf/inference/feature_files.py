"""Features on disk, appended to: npy with a CSV, parquet, or TFRecords.

A writer is a context manager that gives a function append(rows). Files are valid when
it is left without an error.
"""

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import records
from xdc_tf.runtime import files, json_files

CARD_FILE = "features.json"
CLIPS_FILE = "clips.csv"
PARQUET_FILE = "features.parquet"
CLIP_COLUMNS = ("path", "video_id", "start_secs", "end_secs")
# A row group of 512 floats per row then has 8 MB, and a file of TFRecords 130 MB.
_ROWS_PER_GROUP = 1 << 12
_ROWS_PER_SHARD = 1 << 16


class FeatureRows(NamedTuple):
    """Some rows of features and what they are of: a clip, or the mean of several.

    Attributes:
      paths: [n] of the files.
      video_ids: [n].
      start_secs: [n] where the clip starts in its file.
      end_secs: [n] where it ends.
      streams: by stream [n, D] float32.
    """

    paths: list[str]
    video_ids: list[str]
    start_secs: list[float]
    end_secs: list[float]
    streams: dict[str, np.ndarray]


Append = Callable[[FeatureRows], None]


def writer(
    format_name: str, directory: str, widths: Mapping[str, int]
) -> contextlib.AbstractContextManager[Append]:
    """The writer of a format.

    Args:
      format_name: npy (STREAM.npy and clips.csv), parquet or tfrecord.
      directory: where the files are put; exists.
      widths: D of each stream.

    Raises:
      ValueError: on an unknown format, or one whose package is missing.
    """
    if format_name not in _WRITERS:
        raise ValueError(
            f"format={format_name!r} is unknown; choose {', '.join(_WRITERS)}."
        )
    return _WRITERS[format_name](directory, widths)


def checksums(directory: str) -> dict[str, str]:
    """SHA-256 of all files below a directory of features, by path in it, for its card.

    The card itself is left out.
    """
    paths = sorted(path for path in Path(directory).rglob("*") if path.is_file())
    names = {path: path.relative_to(directory).as_posix() for path in paths}
    return {
        name: files.sha256(path) for path, name in names.items() if name != CARD_FILE
    }


def check_intact(path: str) -> None:
    """Checks a file of features against the card beside it.

    Without a card, or one of an earlier version, there is nothing to check it against.

    Raises:
      ValueError: if it has changed since it was written, or the card is damaged.
    """
    directory, name = os.path.split(path)
    card = os.path.join(directory, CARD_FILE)
    if not os.path.exists(card):
        return
    values = {"sha256": {}} | json_files.read_object(card)
    json_files.check(
        values, {"sha256": json_files.mapping_of(json_files.is_text)}, card
    )
    expected = values["sha256"].get(name)
    actual = files.sha256(path)
    if expected not in (None, actual):
        raise ValueError(
            f"{path}: damaged, SHA-256 is {actual} but {card} says {expected}; extract "
            "the features again."
        )


@contextlib.contextmanager
def write_arrays(
    directory: str, widths: Mapping[str, int]
) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
    """Writes STREAM.npy, [rows, D] float32, by a function append(rows by stream).

    Args:
      directory: where the files are put; exists.
      widths: D of each stream.
    """
    num_rows = 0
    with contextlib.ExitStack() as stack:
        arrays = {
            stream: stack.enter_context(
                open(os.path.join(directory, f"{stream}.npy"), "wb")
            )
            for stream in widths
        }

        def write_header(stream: str) -> None:
            # NumPy leaves room for the number of rows, so that it can be renewed.
            np.lib.format.write_array_header_1_0(
                arrays[stream],
                {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (num_rows, widths[stream]),
                },
            )

        def append(streams: Mapping[str, np.ndarray]) -> None:
            nonlocal num_rows
            for stream, array in arrays.items():
                array.write(np.ascontiguousarray(streams[stream], "<f4").data)
            num_rows += len(streams[stream])

        for stream in widths:
            write_header(stream)
        yield append
        for stream, array in arrays.items():
            array.seek(0)
            write_header(stream)


@contextlib.contextmanager
def _write_npy(directory: str, widths: Mapping[str, int]) -> Iterator[Append]:
    num_rows = 0
    path = os.path.join(directory, CLIPS_FILE)
    with (
        write_arrays(directory, widths) as append_arrays,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["row", *CLIP_COLUMNS])

        def append(rows: FeatureRows) -> None:
            nonlocal num_rows
            append_arrays(rows.streams)
            numbers = range(num_rows, num_rows + len(rows.paths))
            table.writerows(zip(numbers, *rows[: len(CLIP_COLUMNS)], strict=True))
            num_rows += len(rows.paths)

        yield append


@contextlib.contextmanager
def _write_parquet(directory: str, widths: Mapping[str, int]) -> Iterator[Append]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"format=parquet needs the package pyarrow ({error}): pip install pyarrow"
        ) from error
    types = (pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.float64())
    schema = pyarrow.schema(
        [
            *zip(CLIP_COLUMNS, types, strict=True),
            *(
                (stream, pyarrow.list_(pyarrow.float32(), width))
                for stream, width in widths.items()
            ),
        ]
    )
    waiting: list[Any] = []

    def as_batch(rows: FeatureRows):
        columns = [
            pyarrow.array(values, kind)
            for values, kind in zip(rows[: len(types)], types, strict=True)
        ]
        for stream, width in widths.items():
            values = np.ascontiguousarray(rows.streams[stream], np.float32).ravel()
            column = pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(values), width
            )
            columns.append(column)
        return pyarrow.RecordBatch.from_arrays(columns, schema=schema)

    with parquet.ParquetWriter(os.path.join(directory, PARQUET_FILE), schema) as file:

        def flush() -> None:
            file.write_table(pyarrow.Table.from_batches(waiting, schema))
            waiting.clear()

        def append(rows: FeatureRows) -> None:
            waiting.append(as_batch(rows))
            if sum(batch.num_rows for batch in waiting) >= _ROWS_PER_GROUP:
                flush()

        yield append
        if waiting:
            flush()


@contextlib.contextmanager
def _write_tfrecord(directory: str, widths: Mapping[str, int]) -> Iterator[Append]:
    """Each row is a tf.train.Example, with the names of xdc_tf.data.records."""
    del widths  # a list of floats has its length
    num_rows = 0
    paths: list[str] = []
    with contextlib.ExitStack() as open_shard:
        shard: Any = None

        def append(rows: FeatureRows) -> None:
            nonlocal num_rows, shard
            for number in range(len(rows.paths)):
                if num_rows % _ROWS_PER_SHARD == 0:
                    open_shard.close()
                    paths.append(os.path.join(directory, f"features-{len(paths):05d}"))
                    shard = open_shard.enter_context(tf.io.TFRecordWriter(paths[-1]))
                shard.write(_example(rows, number))
                num_rows += 1

        yield append
    for path in paths:
        os.rename(path, f"{path}-of-{len(paths):05d}.tfrecord")


def _example(rows: FeatureRows, number: int) -> bytes:
    def of_text(text: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

    def of_time(secs: float) -> tf.train.Feature:
        microseconds = [round(secs * 1e6)]
        return tf.train.Feature(int64_list=tf.train.Int64List(value=microseconds))

    features = {
        records.DATA_PATH: of_text(rows.paths[number]),
        records.MEDIA_ID: of_text(rows.video_ids[number]),
        records.START_TIMESTAMP: of_time(rows.start_secs[number]),
        records.END_TIMESTAMP: of_time(rows.end_secs[number]),
    }
    for stream, values in rows.streams.items():
        floats = tf.train.FloatList(value=values[number].tolist())
        features[f"{stream}/feature/floats"] = tf.train.Feature(float_list=floats)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Maps serialize in hash order by default.
    return example.SerializeToString(deterministic=True)


_WRITERS = {"npy": _write_npy, "parquet": _write_parquet, "tfrecord": _write_tfrecord}
