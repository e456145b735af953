"""Reads all of a directory of records and names whatever is wrong with it."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_prep.conversion import QUARANTINE_FILE, TRUNCATED_FILE
from data_prep.inspection import record_tables
from data_prep.inspection.shard_checks import Fault, shard_faults
from xdc_tf.data import dataset_info, info_checks
from xdc_tf.data.dataset_info import INFO_FILE, DatasetInfo
from xdc_tf.data.example_tables import EXAMPLES_FILE

# Sums of millions of values, in another order than the conversion's.
_MOMENTS_TOLERANCE = 1e-5


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
