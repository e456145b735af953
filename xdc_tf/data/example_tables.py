"""The tables of a directory of records: examples.csv and quarantine.csv.

examples.csv has a row for each example, quarantine.csv one for each row of the manifest
that was refused. Both may be a stranger's and are checked where they are read.
"""

import array
import csv
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data import dataset_info, payloads, text_columns
from xdc_tf.data.dataset_info import INFO_FILE, NO_LABEL, DatasetInfo
from xdc_tf.data.info_checks import shown
from xdc_tf.data.label_texts import LabelNumbers
from xdc_tf.data.payloads import Stored
from xdc_tf.data.text_columns import TextColumn
from xdc_tf.runtime import files

EXAMPLES_FILE = "examples.csv"
QUARANTINE_FILE = "quarantine.csv"
_MAX_SECS = 1e9
# Of a file's name, or an address: all have the longest one's place in memory.
_MAX_ID_CHARS = 8192


class ExampleRow(NamedTuple):
    """One line of examples.csv; field names are its columns."""

    example_index: int
    video_id: str
    label: str  # text, empty when there is none; see label_texts
    shard: str
    start_secs: float
    end_secs: float


class RefusedRow(NamedTuple):
    """A line of quarantine.csv; field names are its columns."""

    path: str
    start_secs: float
    reason: str
    detail: str


class Examples(NamedTuple):
    """The columns of examples.csv, one entry per converted example, in file order."""

    example_indices: np.ndarray  # [N] int64
    video_ids: TextColumn  # [N]
    # [N, L] int64 into label_names: the labels of each, and NO_LABEL behind them. L is
    # the most that an example has, and at least 1.
    label_sets: np.ndarray
    shard_numbers: np.ndarray  # [N] int32 into the shards of dataset_info.json
    start_secs: np.ndarray  # [N] float64
    end_secs: np.ndarray  # [N] float64

    @property
    def labels(self) -> np.ndarray:
        """[N] int64 into label_names; NO_LABEL for none, and for several."""
        is_single = np.sum(self.label_sets != NO_LABEL, axis=1) == 1
        return np.where(is_single, self.label_sets[:, 0], NO_LABEL)

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.example_indices)

    def part(self, chosen: np.ndarray) -> "Examples":
        """Those of a mask [N] bool, or of numbers."""
        columns: Any = [column[chosen] for column in self]
        return Examples(*columns)


class ShardRows(NamedTuple):
    """What examples.csv says of a shard: [N] each, by ascending example_index."""

    example_indices: np.ndarray
    start_secs: np.ndarray
    end_secs: np.ndarray


class Promised(NamedTuple):
    """What a directory says of its shards; they are checked against it when read.

    Attributes:
        fps: frames per second.
        short_side: pixels of every frame's shorter side.
        sample_rate_hz: of the audio that the rows are of.
        payloads: what holds each modality.
        rows: by the shard's path.
    """

    fps: float
    short_side: int
    sample_rate_hz: int
    payloads: Mapping[str, Stored]
    rows: Mapping[str, ShardRows]


def read_examples(records_dir: str, info: DatasetInfo | None = None) -> Examples:
    """Reads examples.csv of a complete directory of records.

    Args:
        records_dir: local or remote.
        info: its read_dataset_info, if that is known already.

    Raises:
        FileNotFoundError: the directory holds no finished conversion.
        ValueError: dataset_info.json or examples.csv cannot be read, or they do not
            agree.
    """
    info = info or dataset_info.read_dataset_info(records_dir)
    path = os.path.join(records_dir, EXAMPLES_FILE)
    number_of = {name: label for label, name in enumerate(info.label_names)}
    label_numbers = LabelNumbers(number_of, info.several_labels)
    number_of_shard = {shard.file: k for k, shard in enumerate(info.shards)}
    # Numbers in arrays: as objects they take ten times as much.
    indices, shards = array.array("q"), array.array("i")
    start_secs, end_secs = array.array("d"), array.array("d")
    labels, nums_labels = array.array("q"), array.array("i")

    def take_rows() -> Iterator[str]:
        last_index = -1
        for line, values in read_csv(path, ExampleRow._fields):
            try:
                row = _example_row(values)
                of_row = label_numbers.numbers(row.label)
                _check_row(row, info, last_index, number_of_shard)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {line}: {error}; convert again."
                ) from error
            last_index = row.example_index
            indices.append(last_index)
            shards.append(number_of_shard[row.shard])
            start_secs.append(row.start_secs)
            end_secs.append(row.end_secs)
            labels.extend(of_row)
            nums_labels.append(len(of_row))
            yield row.video_id

    video_ids = TextColumn.of(take_rows())
    # Segments of rows that overlap may have one name.
    place = None if info.segment_secs is not None else text_columns.repeated(video_ids)
    if place is not None:
        rows = read_csv(path, ExampleRow._fields)
        line, _ = next(itertools.islice(rows, place, None))
        raise ValueError(
            f"{path}, line {line}: video_id {shown(video_ids[place])} is there twice; "
            "convert again."
        )
    shard_numbers = np.array(shards, np.int32)
    counts = np.bincount(shard_numbers, minlength=len(info.shards))
    for shard, count in zip(info.shards, counts.tolist(), strict=True):
        if count != shard.num_examples:
            raise ValueError(
                f"{path} has {count} rows of {shard.file}, and {INFO_FILE} says "
                f"{shard.num_examples}; convert again."
            )
    return Examples(
        example_indices=np.array(indices, np.int64),
        video_ids=video_ids,
        label_sets=pad_labels(labels, nums_labels),
        shard_numbers=shard_numbers,
        start_secs=np.array(start_secs, np.float64),
        end_secs=np.array(end_secs, np.float64),
    )


def pad_labels(labels: Sequence[int], nums_labels: Sequence[int]) -> np.ndarray:
    """[N, L] int64 as Examples.label_sets has them.

    Args:
      labels: of all examples, one after the other.
      nums_labels: [N], how many each has.
    """
    counts = np.array(nums_labels, np.int64)
    padded = np.full([len(counts), max(1, counts.max(initial=0))], NO_LABEL, np.int64)
    # Row by row, as the labels are.
    padded[np.arange(padded.shape[1]) < counts[:, None]] = np.array(labels, np.int64)
    return padded


def concatenate(tables: Sequence[Examples]) -> Examples:
    """The examples of several tables of one directory, one after the other."""
    columns: Any = [
        text_columns.concatenate(parts)
        if isinstance(parts[0], TextColumn)
        else np.concatenate(parts)
        for parts in zip(*tables, strict=True)
    ]
    return Examples(*columns)


def _example_row(values: list[str]) -> ExampleRow:
    """Raises ValueError on a text that is no number."""
    index, video_id, label, shard, start_secs, end_secs = values
    return ExampleRow(
        example_index=_whole_number("example_index", index),
        video_id=video_id,
        label=label,
        shard=shard,
        start_secs=_secs("start_secs", start_secs),
        end_secs=_secs("end_secs", end_secs),
    )


def _check_row(
    row: ExampleRow,
    info: DatasetInfo,
    last_index: int,
    shards: Mapping[str, int],
) -> None:
    """Raises ValueError if a row is none of the directory, or out of its place."""
    index = row.example_index
    if index >= info.num_rows:
        raise ValueError(
            f"example_index {index} is none of the {info.num_rows} rows of {INFO_FILE}"
        )
    if index <= last_index:
        raise ValueError(f"example_index {index} comes after {last_index}")
    if not 0 < len(row.video_id) <= _MAX_ID_CHARS:
        raise ValueError(
            f"a video_id of {len(row.video_id)} characters, which must be 1 to "
            f"{_MAX_ID_CHARS}"
        )
    if row.shard not in shards:
        raise ValueError(f"shard {shown(row.shard)} is none of {INFO_FILE}")
    if index // info.rows_per_shard != shards[row.shard]:
        expected = info.shards[index // info.rows_per_shard].file
        raise ValueError(
            f"example_index {index} is in shard {row.shard}, and should be in "
            f"{expected}"
        )
    if not row.start_secs < row.end_secs:
        raise ValueError(
            f"example_index {index} is from {row.start_secs} to {row.end_secs} s"
        )


def _whole_number(name: str, text: str) -> int:
    # int() would take "1_0", " 1" and digits of all scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"{name} {text[:40]!r} is no row's number")
    return int(text)


def _secs(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _MAX_SECS:
        raise ValueError(f"{name} {text[:40]!r} is no time in seconds")
    return value


def write_examples(records_dir: str, rows: Iterable[ExampleRow]) -> None:
    """Writes examples.csv, whole or not at all."""
    write_csv(os.path.join(records_dir, EXAMPLES_FILE), ExampleRow._fields, rows)


def read_refused(records_dir: str) -> list[RefusedRow]:
    """Reads quarantine.csv of a directory of records.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    path = os.path.join(records_dir, QUARANTINE_FILE)
    rows = []
    for line, (name, start_secs, reason, detail) in read_csv(path, RefusedRow._fields):
        try:
            start = _secs("start_secs", start_secs)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; convert again.") from error
        rows.append(RefusedRow(name, start, reason, detail))
    return rows


def promised(records_dir: str, info: DatasetInfo, examples: Examples) -> Promised:
    """What the shards of a directory must hold.

    Args:
        records_dir: local or remote.
        info: its read_dataset_info.
        examples: its read_examples, all of them.
    """
    ends = np.cumsum([shard.num_examples for shard in info.shards])
    columns = examples.example_indices, examples.start_secs, examples.end_secs
    # The rows of examples.csv are in the shards' order.
    paths = dataset_info.shard_paths(records_dir, info)
    parts = zip(*(np.split(column, ends[:-1]) for column in columns), strict=True)
    return Promised(
        fps=info.fps,
        short_side=info.short_side,
        sample_rate_hz=info.log_mel.sample_rate_hz,
        payloads={name: payloads.stored(info, name) for name in payloads.MODALITIES},
        rows={path: ShardRows(*part) for path, part in zip(paths, parts, strict=True)},
    )


def read_csv(path: str, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The number of the line and the texts of each row of a table with a header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other columns, or a row more or fewer values than these.
    """
    reader = csv.reader(lines(path), strict=True)
    try:
        header = tuple(next(reader, ()))
        if header != columns:
            raise ValueError(
                f"{path} has columns {','.join(header)[:200]!r}, expected "
                f"{','.join(columns)!r}; convert again."
            )
        for values in reader:
            if not values:  # an empty line
                continue
            if len(values) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(values)} values, expected "
                    f"{len(columns)}; convert again."
                )
            yield reader.line_num, values
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; convert again."
        ) from error


def lines(path: str) -> Iterator[str]:
    """The lines of a file with their ends, by any of the three that there are."""
    for lines in files.read_lines(path):
        yield from io.StringIO(lines, newline="")


def write_csv(path: str, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes a CSV file with a header, whole or not at all, row by row."""
    # Python quotes a carriage return if lines end with one, which it takes for a line.
    writer = csv.writer(line := _Line(), lineterminator="\r\n")

    def written() -> Iterator[str]:
        for row in itertools.chain([columns], rows):
            writer.writerow(row)
            yield line.text

    files.write_text(path, written())


class _Line:
    """The line that a csv.writer has written last, ended by a line feed alone."""

    def write(self, line: str) -> None:
        self.text = line.removesuffix("\r\n") + "\n"
