"""Opening a directory of records: what it promises is checked before anything runs."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import dataset_info, example_tables, record_framing, record_index
from xdc_tf.data.dataset_info import INFO_FILE, DatasetInfo, ShardInfo
from xdc_tf.data.example_tables import (
    EXAMPLES_FILE,
    QUARANTINE_FILE,
    Examples,
    Promised,
    RefusedRow,
)
from xdc_tf.runtime import compat

# Looking at a remote file takes tens of milliseconds.
_FILES_AT_A_TIME = 16


class OpenRecords(NamedTuple):
    """A directory of records that was checked.

    Attributes:
      directory: local or remote.
      info: what dataset_info.json says.
      examples: of examples.csv.
      refused: of quarantine.csv.
      promised: what its shards must hold, for data.pipeline.
    """

    directory: str
    info: DatasetInfo
    examples: Examples
    refused: Sequence[RefusedRow]
    promised: Promised


def open_directory(directory: str) -> OpenRecords:
    """Reads the tables of a directory of records, and checks that its files are there.

    Shards and indices must have the sizes that dataset_info.json says. Where it is of
    an earlier program, which does not say them, the indices are read instead.

    Args:
      directory: local or remote (s3://...).

    Raises:
      FileNotFoundError: there is no finished conversion, or a table is missing.
      ValueError: a file is missing, damaged or of another size, or the tables do not
        agree; names the file.
    """
    compat.enable_remote_paths(directory)
    info = dataset_info.read_dataset_info(directory)
    refused = _read_refused(directory, info)
    examples = example_tables.read_examples(directory, info)
    promised = example_tables.promised(directory, info, examples)
    check_files(directory, info, promised)
    return OpenRecords(directory, info, examples, refused, promised)


def _read_refused(directory: str, info: DatasetInfo) -> list[RefusedRow]:
    # Nothing of the size of num_rows is made before as many rows were seen.
    if not info.num_quarantined:
        return []
    refused = example_tables.read_refused(directory)
    if len(refused) != info.num_quarantined:
        raise ValueError(
            f"{directory} has {info.num_examples + len(refused)} rows by "
            f"{EXAMPLES_FILE} and {QUARANTINE_FILE}, but by {INFO_FILE} "
            f"{info.num_rows}; convert again."
        )
    return refused


def record_place(directory: str, info: DatasetInfo, position: int) -> tuple[str, int]:
    """Path of the shard that holds an example, and the number of its record there.

    Args:
      directory: local or remote.
      info: its read_dataset_info.
      position: of the example in its read_examples.
    """
    # A shard's records are in the order of its lines in examples.csv.
    ends = np.cumsum([shard.num_examples for shard in info.shards])
    number = int(np.searchsorted(ends, position, side="right"))
    first = int(ends[number - 1]) if number else 0
    return os.path.join(directory, info.shards[number].file), position - first


def check_files(directory: str, info: DatasetInfo, promised: Promised) -> None:
    """Checks that every shard and index is there, and whole.

    Args:
      directory: local or remote.
      info: its read_dataset_info.
      promised: what its shards must hold.

    Raises:
      ValueError: names the first file that is missing or not as promised.
    """

    def check(path: str, shard: ShardInfo) -> None:
        for name, num_bytes in (
            (path, shard.num_bytes),
            (path + record_index.SUFFIX, shard.index_bytes),
        ):
            if num_bytes is not None:
                _check_size(name, num_bytes)
        if shard.index_bytes is None or shard.num_bytes is None:
            record_index.read_index(path, modalities=info.modalities, promised=promised)

    paths = dataset_info.shard_paths(directory, info)
    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        for _ in pool.map(check, paths, info.shards):
            pass


def _check_size(path: str, num_bytes: int) -> None:
    try:
        actual_bytes = record_framing.size(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise ValueError(
            f"{path} cannot be read: {reason}; bring it back, or convert again."
        ) from error
    if actual_bytes != num_bytes:
        raise ValueError(
            f"{path} has {actual_bytes} bytes, and {INFO_FILE} beside it says "
            f"{num_bytes}; bring back the file that belongs to it, or convert again."
        )
