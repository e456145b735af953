"""Reads all of a directory of records and names whatever is wrong with it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_prep.conversion import QUARANTINE_FILE, TRUNCATED_FILE
from data_prep.inspection import record_tables
from data_prep.inspection.record_checks import CheckedRecord, check_record
from xdc_tf.data import (
    dataset_info,
    info_checks,
    payloads,
    record_framing,
    record_index,
    record_layout,
)
from xdc_tf.data.dataset_info import INFO_FILE, DatasetInfo, ShardInfo
from xdc_tf.data.example_tables import EXAMPLES_FILE, ExampleRow
from xdc_tf.data.record_framing import FramedRecord, read_records
from xdc_tf.data.record_layout import Entry
from xdc_tf.runtime import escaping

# Sums of millions of values, in another order than the conversion's.
_MOMENTS_TOLERANCE = 1e-5


class Fault(NamedTuple):
    """Something wrong: where and what.

    Attributes:
        file: name inside the directory.
        what: in words.
        record: number within the file, from 0; None if it is of the whole file.
        example_index: of that record, None if it cannot be read.
    """

    file: str
    what: str
    record: int | None = None
    example_index: int | None = None

    def __str__(self) -> str:
        where = self.file
        if self.record is not None:
            where += f", record {self.record}"
        if self.example_index is not None:
            where += f" (example_index {self.example_index})"
        return escaping.terminal(f"{where}: {self.what}")


def verify(records_dir: str, *, max_printed: int = 100) -> int:
    """Prints the faults of a directory, one per line, beside a progress bar.

    Args:
        records_dir: local or remote (s3://...).
        max_printed: faults beyond so many are only counted.

    Returns:
        The number of faults.

    Raises:
        FileNotFoundError: there is no dataset_info.json.
        ValueError: it cannot be read.
    """
    info = record_tables.read_info(records_dir)
    paths = dataset_info.shard_paths(records_dir, info)
    num_bytes = sum(tf.io.gfile.stat(p).length for p in paths if tf.io.gfile.exists(p))
    num_faults = 0
    with tqdm(total=num_bytes, unit="B", unit_scale=True, disable=None) as progress:
        for fault in find_faults(records_dir, info, progress.update):
            num_faults += 1
            if num_faults <= max_printed:
                tqdm.write(str(fault))
    if num_faults > max_printed:
        print(f"... and {num_faults - max_printed} more")
    print(
        f"{num_faults or 'no'} fault{'s' * (num_faults != 1)} in {records_dir}: "
        f"{info.num_examples} examples in {len(paths)} shards, {num_bytes / 1e6:.1f} MB"
    )
    return num_faults


def find_faults(
    records_dir: str,
    info: DatasetInfo,
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> Iterator[Fault]:
    """Yields the faults; examples.csv and one record at a time are in memory.

    Args:
        records_dir: local or remote (s3://...).
        info: its record_tables.read_info.
        advance: called with the number of bytes read of shards, record by record.
    """
    for what in info_checks.contradictions(info):
        yield Fault(INFO_FILE, what)
    rows, whats = record_tables.read_example_rows(records_dir, info)
    for what in whats:
        yield Fault(EXAMPLES_FILE, what)
    for what in record_tables.quarantine_faults(records_dir, info):
        yield Fault(QUARANTINE_FILE, what)
    for what in record_tables.truncated_faults(records_dir, info, rows):
        yield Fault(TRUNCATED_FILE, what)
    moments = _Moments()
    for number, path in enumerate(dataset_info.shard_paths(records_dir, info)):
        yield from shard_faults(
            path,
            info=info,
            shard_number=number,
            rows=rows[info.shards[number].file],
            add_audio=moments.add,
            advance=advance,
        )
    yield from moments.faults(info)


class _Moments:
    """Mean and deviation of all log-mel values, record by record."""

    def __init__(self):
        self._num_records = self._count = 0
        self._total = self._total_squares = 0.0

    def add(self, log_mel: np.ndarray) -> None:
        """Takes one record's, float32."""
        self._num_records += 1
        self._count += log_mel.size
        self._total += float(log_mel.sum(dtype=np.float64))
        self._total_squares += float(np.square(log_mel, dtype=np.float64).sum())

    def faults(self, info: DatasetInfo) -> Iterator[Fault]:
        """Compares with dataset_info.json, unless some records could not be used."""
        mean, std = 0.0, 1.0
        if self._count:
            mean = self._total / self._count
            std = math.sqrt(max(self._total_squares / self._count - mean * mean, 0.0))
            if self._num_records != info.num_examples:
                return
        for name, computed in (("log_mel_mean", mean), ("log_mel_std", std)):
            written = getattr(info, name)
            if not math.isclose(
                written,
                computed,
                rel_tol=_MOMENTS_TOLERANCE,
                abs_tol=_MOMENTS_TOLERANCE,
            ):
                yield Fault(
                    INFO_FILE, f"{name} is {written}, the records' is {computed}"
                )


def shard_faults(
    path: str,
    *,
    info: DatasetInfo,
    shard_number: int,
    rows: Sequence[ExampleRow],
    add_audio: Callable[[np.ndarray], object],
    advance: Callable[[int], object],
) -> Iterator[Fault]:
    """Yields the faults of a shard and of its index, reading each once.

    Args:
        path: the shard's, local or remote.
        info: what dataset_info.json says.
        shard_number: which of its shards this is.
        rows: the lines of examples.csv for it, in order.
        add_audio: called with the rows [L, D] of each audio that is as it should be.
        advance: called with the number of bytes read, record by record.
    """
    is_faulty = False
    for fault in _content_faults(
        path,
        info=info,
        shard_number=shard_number,
        rows=rows,
        add_audio=add_audio,
        advance=advance,
    ):
        is_faulty = True
        yield fault
    if not is_faulty:  # or else their size is no wonder
        yield from _size_faults(path, info.shards[shard_number])


def _size_faults(path: str, shard: ShardInfo) -> Iterator[Fault]:
    """Of files that hold what they should."""
    for name, stated in (
        (path, shard.num_bytes),
        (path + record_index.SUFFIX, shard.index_bytes),
    ):
        num_bytes = record_framing.size(name)
        if stated is not None and num_bytes != stated:
            what = f"{num_bytes} bytes, {INFO_FILE} says {stated}"
            yield Fault(os.path.basename(name), what)


def _content_faults(
    path: str,
    *,
    info: DatasetInfo,
    shard_number: int,
    rows: Sequence[ExampleRow],
    add_audio: Callable[[np.ndarray], object],
    advance: Callable[[int], object],
) -> Iterator[Fault]:
    shard = info.shards[shard_number]
    file, num_expected = shard.file, shard.num_examples
    if not tf.io.gfile.exists(path):
        yield Fault(file, "does not exist")
        return
    by_index = {row.example_index: row for row in rows}
    first_row = shard_number * info.rows_per_shard
    entries: list[Entry | None] = []
    seen: set[int | None] = set()
    last_index, is_whole = -1, True
    for number, framed in enumerate(read_records(path)):
        advance(framed.num_bytes)
        # What cannot be read is taken for what examples.csv says should be there.
        by_order = rows[number].example_index if number < len(rows) else None
        if framed.is_end:
            is_whole = False
            if number < num_expected:
                what = f"{framed.fault}; nothing from there on can be read"
                yield Fault(file, what, number, by_order)
            else:
                what = f"{framed.num_bytes} bytes after its last record"
                yield Fault(file, f"{what} are no record: {framed.fault}")
            break
        checked, entry = _check(framed, info, by_index)
        entries.append(entry)
        index = checked.example_index
        for what in checked.faults:
            yield Fault(file, what, number, by_order if index is None else index)
        if index is None:
            seen.add(by_order)
            continue
        seen.add(index)
        for what in _place_faults(index, first_row, info.rows_per_shard, last_index):
            yield Fault(file, what, number, index)
        last_index = index
        if checked.audio_rows is not None:
            add_audio(checked.audio_rows)
    if is_whole and len(entries) != num_expected:
        yield Fault(file, f"{len(entries)} records, {INFO_FILE} says {num_expected}")
    if is_whole:
        for row in rows:
            if row.example_index not in seen:
                what = f"lacks example_index {row.example_index} of {EXAMPLES_FILE}"
                yield Fault(file, what)
    shard_bytes = tf.io.gfile.stat(path).length if is_whole else None
    yield from _index_faults(path + record_index.SUFFIX, entries, shard_bytes)


def _place_faults(
    index: int, first_row: int, num_rows: int, last_index: int
) -> Iterator[str]:
    """Whether a record is of its shard's rows, and comes after the one before it."""
    if not first_row <= index < first_row + num_rows:
        last_row = first_row + num_rows - 1
        yield f"example_index is not of the shard's rows, {first_row} to {last_row}"
    if index <= last_index:
        yield f"comes after example_index {last_index}"


def _check(
    framed: FramedRecord, info: DatasetInfo, rows: dict[int, ExampleRow]
) -> tuple[CheckedRecord, Entry | None]:
    """A record's checks, and where its parts lie, None if that cannot be read."""
    if framed.data is None:
        return CheckedRecord([framed.fault]), None
    checked = check_record(framed.data, info, rows)
    try:
        keys = payloads.keys(info)
        return checked, record_layout.locate(framed.data, framed.position, keys)
    except ValueError as error:
        return checked._replace(faults=[*checked.faults, str(error)]), None


def _index_faults(
    path: str, entries: Sequence[Entry | None], shard_bytes: int | None
) -> Iterator[Fault]:
    """Compares an index with the records of its shard.

    Args:
        path: the index's.
        entries: of the shard's records; None for those that cannot be read.
        shard_bytes: size of the shard; None if it could not be read to its end.
    """
    file = os.path.basename(path)
    if not tf.io.gfile.exists(path):
        yield Fault(file, "does not exist; python -m data_prep.convert makes it anew")
        return
    num_read = 0
    for number, framed in enumerate(read_records(path)):
        expected = entries[number] if number < len(entries) else None
        index = None if expected is None else int(expected.example_index)
        if framed.data is None:
            yield Fault(file, framed.fault, number, index)
        elif expected is not None:
            expected = expected._replace(shard_bytes=shard_bytes)
            what = _difference(framed.data, expected)
            if what:
                yield Fault(file, what, number, index)
        if framed.is_end:
            return
        num_read += 1
    if shard_bytes is not None and num_read != len(entries):
        yield Fault(file, f"{num_read} entries for {len(entries)} records")


def _difference(serialized: bytes, expected: Entry) -> str:
    """How an index's record differs from an entry; "" if it does not."""
    try:
        entry = record_layout.entry_of(serialized)
    except ValueError as error:
        return str(error)
    for name, written, true in zip(Entry._fields, entry, expected, strict=True):
        if true is not None and not np.array_equal(written, true):
            if np.ndim(true) == 0:
                return f"{name} is {written}, which should be {true}"
            return f"{name} are not those of the record"
    return ""
