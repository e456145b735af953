"""The tables of a directory of records, read with suspicion, and whether they agree.

dataset_info.json, examples.csv and quarantine.csv may have been edited, cut off or
mixed up with those of another conversion.
"""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from data_prep.conversion import QUARANTINE_FILE, TRUNCATED_FILE
from data_prep.shards import RefusedRow, TruncatedRow
from xdc_tf.data import dataset_info
from xdc_tf.data.dataset_info import INFO_FILE, DatasetInfo
from xdc_tf.data.example_tables import EXAMPLES_FILE, ExampleRow
from xdc_tf.runtime import compat, escaping, files

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
    text = files.read_text(os.path.join(records_dir, file))
    reader = csv.DictReader(io.StringIO(text, newline=""))
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
