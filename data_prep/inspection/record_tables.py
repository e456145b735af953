"""The tables of a directory of records, read with suspicion, and whether they agree.

dataset_info.json, examples.csv and quarantine.csv may have been edited, cut off or
mixed up with those of another conversion.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.conversion import QUARANTINE_FILE, TRUNCATED_FILE
from data_prep.shards import RefusedRow, TruncatedRow
from xdc_tf.data import dataset_info, example_tables, payloads, records
from xdc_tf.data.dataset_info import INFO_FILE, DatasetInfo
from xdc_tf.data.example_tables import EXAMPLES_FILE, ExampleRow, Examples
from xdc_tf.data.payloads import VIDEO
from xdc_tf.data.record_framing import read_record
from xdc_tf.runtime import compat, escaping

_PLAIN_KINDS = {int, float, str, bool, type(None)}
# What reading a CSV file of a stranger's making raises.
_CSV_ERRORS = (OSError, ValueError, KeyError, TypeError, csv.Error, tf.errors.OpError)


def read_info(records_dir: str) -> DatasetInfo:
    """Reads dataset_info.json and checks each value alone; verification tells the rest.

    Args:
        records_dir: local or remote (s3://...).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, or a value cannot be.
    """
    compat.enable_remote_paths(records_dir)
    return dataset_info.parse_dataset_info(records_dir)


def read_example_rows(
    records_dir: str, info: DatasetInfo
) -> tuple[dict[str, list[ExampleRow]], list[str]]:
    """Reads examples.csv as far as it can be read.

    Returns:
        The rows of each shard, by its name, in the file's order; and what is wrong.
    """
    rows: dict[str, list[ExampleRow]] = {shard.file: [] for shard in info.shards}
    faults = []
    last_index, num_rows = -1, 0
    try:
        for values in _read_csv(records_dir, EXAMPLES_FILE, ExampleRow._fields):
            num_rows += 1
            row = ExampleRow(
                example_index=int(values["example_index"]),
                video_id=values["video_id"],
                label=values["label"],
                shard=values["shard"],
                start_secs=float(values["start_secs"]),
                end_secs=float(values["end_secs"]),
            )
            if row.example_index <= last_index:
                faults.append(
                    f"example_index {row.example_index} comes after {last_index}"
                )
            last_index = row.example_index
            if not 0 <= row.start_secs < row.end_secs < math.inf:
                faults.append(
                    f"example_index {row.example_index} is from {row.start_secs} to "
                    f"{row.end_secs} s"
                )
            if row.shard not in rows:
                faults.append(
                    f"example_index {row.example_index} is in shard {row.shard!r}, "
                    f"which {INFO_FILE} does not list"
                )
            rows.setdefault(row.shard, []).append(row)
    except _CSV_ERRORS as error:
        faults.append(
            f"cannot be read beyond its row {num_rows}: {escaping.error_text(error)}"
        )
    if num_rows != info.num_examples:
        faults.append(f"{num_rows} rows, {INFO_FILE} says {info.num_examples} examples")
    return rows, faults


def quarantine_faults(records_dir: str, info: DatasetInfo) -> Iterator[str]:
    """What is wrong with quarantine.csv."""
    num_rows = 0
    try:
        for _ in _read_csv(records_dir, QUARANTINE_FILE, RefusedRow._fields):
            num_rows += 1
    except _CSV_ERRORS as error:
        yield f"cannot be read beyond its row {num_rows}: {escaping.error_text(error)}"
        return
    if num_rows != info.num_quarantined:
        yield f"{num_rows} rows, {INFO_FILE} says {info.num_quarantined} quarantined"


def truncated_faults(
    records_dir: str, info: DatasetInfo, rows: Mapping[str, Sequence[ExampleRow]]
) -> Iterator[str]:
    """What is wrong with truncated.csv, which only some conversions write.

    Args:
        records_dir: local or remote (s3://...).
        info: its read_info.
        rows: the rows of each shard by read_example_rows.
    """
    if not info.limits.get("keep_truncated"):
        return
    known = {row.example_index for of_shard in rows.values() for row in of_shard}
    try:
        for values in _read_csv(records_dir, TRUNCATED_FILE, TruncatedRow._fields):
            if int(values["example_index"]) not in known:
                yield f"{EXAMPLES_FILE} has no example_index {values['example_index']}"
    except _CSV_ERRORS as error:
        yield f"cannot be read: {escaping.error_text(error)}"


def read_quarantine_reasons(records_dir: str) -> list[str]:
    """The reason of each quarantined row, in the order of the rows.

    Raises:
        FileNotFoundError: there is no quarantine.csv.
        ValueError: it cannot be read.
    """
    rows = _read_whole_csv(records_dir, QUARANTINE_FILE, RefusedRow._fields)
    return [row["reason"] for row in rows]


def count_truncated(records_dir: str) -> int:
    """The number of rows that were kept in part.

    Raises:
        FileNotFoundError: there is no truncated.csv.
        ValueError: it cannot be read.
    """
    return len(_read_whole_csv(records_dir, TRUNCATED_FILE, TruncatedRow._fields))


def _read_csv(
    records_dir: str, file: str, columns: tuple[str, ...]
) -> Iterator[dict[str, str]]:
    """Yields the rows of a table, each with a text for every column."""
    reader = csv.DictReader(example_tables.lines(os.path.join(records_dir, file)))
    if tuple(reader.fieldnames or ()) != columns:
        raise ValueError(f"{file} has columns {reader.fieldnames}, not {columns}")
    for values in reader:
        if None in values or None in values.values():
            raise ValueError(f"not {len(columns)} values on line {reader.line_num}")
        yield values


def _read_whole_csv(
    records_dir: str, file: str, columns: tuple[str, ...]
) -> list[dict[str, str]]:
    """The rows of a table, with one kind of error for all that is wrong with it."""
    try:
        return list(_read_csv(records_dir, file, columns))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{os.path.join(records_dir, file)} cannot be read: {error}."
        ) from error


class Example(NamedTuple):
    """What a record holds.

    Attributes:
        example_index: row number in the manifest.
        video_id: the segment's name.
        label: in words, "" for none, several with commas.
        start_secs: where the segment begins in its file.
        end_secs: where it ends.
        frame_rate: frames per second; 0 without frames.
        video_items: that hold the frames, see data.payloads; none in records of audio
            alone.
        audio_rows: [L, D] float32, see data.payloads; None in records of video alone.
        waveform: [samples] float32; None unless it is stored.
    """

    example_index: int
    video_id: str
    label: str
    start_secs: float
    end_secs: float
    frame_rate: float
    video_items: list[bytes]
    audio_rows: np.ndarray | None
    waveform: np.ndarray | None


def spread_indices(examples: Examples, num_examples: int) -> list[int]:
    """At most so many example indices, evenly spread from the first to the last."""
    num_available = len(examples.example_indices)
    places = np.linspace(0, num_available - 1, min(num_examples, num_available))
    return examples.example_indices[np.round(places).astype(int)].tolist()


def check_index(
    records_dir: str, info: DatasetInfo, examples: Examples, example_index: int
) -> None:
    """Checks that there is such an example.

    Raises:
        ValueError: there is none; says whether its row is quarantined, and why.
    """
    indices = examples.example_indices
    if example_index in indices:
        return
    if not 0 <= example_index < info.num_rows:
        raise ValueError(
            f"there is no example_index {example_index}: {records_dir} is of "
            f"{info.num_rows} rows, 0 to {info.num_rows - 1}."
        )
    # The report is in the manifest's order, without its row numbers.
    place = example_index - int(np.sum(indices < example_index))
    reasons = read_quarantine_reasons(records_dir)
    reason = reasons[place] if place < len(reasons) else "unknown reason"
    raise ValueError(
        f"example_index {example_index} is quarantined ({reason}), see row {place + 1} "
        f"of {os.path.join(records_dir, QUARANTINE_FILE)}; choose one of examples.csv."
    )


def read_example(
    records_dir: str, info: DatasetInfo, examples: Examples, example_index: int
) -> Example:
    """Reads one record; of its shard, only the headers of those before it.

    Args:
        records_dir: local or remote (s3://...).
        info: its record_tables.read_info.
        examples: its example_tables.read_examples.
        example_index: see check_index.

    Raises:
        ValueError: there is no such example, or its record cannot be read.
    """
    check_index(records_dir, info, examples, example_index)
    (row,) = np.flatnonzero(examples.example_indices == example_index)[:1]
    shard = examples.shard_numbers[row]
    # A shard's records are in the order of its lines in examples.csv.
    number = int(np.sum(examples.shard_numbers[:row] == shard))
    path = os.path.join(records_dir, info.shards[shard].file)
    where = f"{path}, record {number} (example_index {example_index})"
    try:
        serialized = read_record(path, number)
        parsed = records.parse_record(tf.constant(serialized), info)
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"{where}: {escaping.error_text(error)}") from error
    values = {name: tensor.numpy() for name, tensor in parsed.items()}
    if values["example_index"] != example_index:
        raise ValueError(
            f"{where} is example_index {values['example_index']}; --verify tells what "
            "else is wrong."
        )
    video_items = list(values.get("video_items", ()))
    try:
        payloads.stored(info, VIDEO).row.check(video_items, info.short_side)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    names = [info.label_names[k] for k in examples.label_sets[row] if k >= 0]
    return Example(
        example_index=example_index,
        video_id=values["video_id"].decode(errors="replace"),
        label=", ".join(names),
        start_secs=int(values["start_us"]) / 1e6,
        end_secs=int(values["end_us"]) / 1e6,
        frame_rate=info.fps if VIDEO in info.modalities else 0.0,
        video_items=video_items,
        audio_rows=values.get("audio_rows"),
        waveform=values.get("waveform"),
    )
