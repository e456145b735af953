"""The directory that a conversion writes: whether it is empty, begun or complete.

PROGRESS_DIR in it says what an interrupted conversion has finished, and of what the
directory will be. It stays while rows are refused for what may have been the machine's
fault (TRANSIENT_REASONS).
"""

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from data_prep import shards as shard_files
from data_prep.reasons import TRANSIENT_REASONS
from data_prep.shards import PLAN_FILE, PROGRESS_DIR, RefusedRow
from xdc_tf.data import (
    dataset_info,
    example_tables,
    payloads,
    record_directory,
    record_index,
    shard_writing,
)
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.runtime import files, locks

_LOCK_FILE = ".lock"
_WAY_OUT = (
    f"bring back the file that belongs to it, or remove {dataset_info.INFO_FILE} and "
    "call the same command again, which makes all shards anew"
)
# Looking at a remote file takes tens of milliseconds.
_FILES_AT_A_TIME = 16


def read_complete(out_dir: str, promised: DatasetInfo) -> DatasetInfo | None:
    """What a complete directory says, if it is the one asked for; else None.

    Raises:
      ValueError: it is of another manifest or other settings.
    """
    if not tf.io.gfile.exists(os.path.join(out_dir, dataset_info.INFO_FILE)):
        return None
    info = dataset_info.read_dataset_info(out_dir)
    results = {"num_rows", "num_examples", "num_quarantined", "shards"}
    results |= {"log_mel_mean", "log_mel_std"}
    if not info.limits:  # of an earlier program, which did not write them
        results.add("limits")
    differing = [
        f"{key}: {was} there, {asked} asked for"
        for key, was, asked in zip(info._fields, info, promised, strict=True)
        if key not in results and was != asked
    ]
    if differing:
        raise ValueError(
            f"{out_dir} is a complete conversion of another manifest or with other "
            f"settings ({'; '.join(differing)}); choose another --out or delete it."
        )
    return info


def is_to_be_changed(out_dir: str, info: DatasetInfo) -> bool:
    """Whether indices of a complete directory are lost, or remains are there.

    Raises:
      ValueError: a shard is lost or of another size.
    """
    return bool(
        _wrong_indices(out_dir, info)
        or _remains(out_dir)
        or tf.io.gfile.exists(os.path.join(out_dir, PROGRESS_DIR))
        or tf.io.gfile.exists(os.path.join(out_dir, _LOCK_FILE))
    )


def report_complete(out_dir: str, info: DatasetInfo) -> DatasetInfo:
    """Checks also the tables of a complete directory, and says that it is one."""
    record_directory.open_directory(out_dir)
    print(f"{out_dir} is complete: {info.num_examples} examples. Nothing to do.")
    return info


def _wrong_indices(out_dir: str, info: DatasetInfo) -> list[str]:
    """Shards whose index is lost or not as promised.

    Raises:
      ValueError: a shard itself is lost or of another size.
    """
    promised = None
    if any(shard.index_bytes is None for shard in info.shards):
        examples = example_tables.read_examples(out_dir)
        promised = example_tables.promised(out_dir, info, examples)
    paths = dataset_info.shard_paths(out_dir, info)
    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        sizes = list(pool.map(shard_files.sizes, paths))
    wrong = []
    for path, shard, (num_bytes, index_bytes) in zip(
        paths, info.shards, sizes, strict=True
    ):
        if num_bytes < 0 or shard.num_bytes not in (None, num_bytes):
            state = "is missing" if num_bytes < 0 else f"has {num_bytes} bytes"
            said = "" if shard.num_bytes is None else f" of {shard.num_bytes} bytes"
            raise ValueError(
                f"{path} {state}, and {dataset_info.INFO_FILE} beside it promises a "
                f"file{said}; {_WAY_OUT}."
            )
        if shard.index_bytes is not None:
            is_right = index_bytes == shard.index_bytes
        else:
            is_right = _is_index_of(path, promised)
        if not is_right:
            wrong.append(path)
    return wrong


def _is_index_of(path: str, promised: example_tables.Promised | None) -> bool:
    """Whether a shard of an earlier version has its index."""
    try:
        record_index.read_index(path, promised=promised)
    except ValueError:
        return False
    return True


def remake_indices(out_dir: str, info: DatasetInfo) -> None:
    """Makes lost indices anew.

    Raises:
      ValueError: a shard is lost or damaged, or not the one that was made.
    """
    for path in _wrong_indices(out_dir, info):
        try:
            shard_writing.index_shard(path, payloads.keys(info))
        except ValueError as error:
            raise ValueError(f"{error} Or {_WAY_OUT}.") from error
    wrong = _wrong_indices(out_dir, info)
    if wrong:
        raise ValueError(
            f"{wrong[0]} does not hold the records that {dataset_info.INFO_FILE} and "
            f"{example_tables.EXAMPLES_FILE} promise; {_WAY_OUT}."
        )


def is_to_be_tried_again(out_dir: str, promised: DatasetInfo) -> bool:
    """Whether a complete directory has rows for another try, and knows of the rest."""
    if _differences_from_plan(out_dir, promised) != []:
        return False
    refused = example_tables.read_refused(out_dir)
    return any(row.reason in TRANSIENT_REASONS for row in refused)


def transient_rows(refused: Sequence[RefusedRow]) -> list[RefusedRow]:
    """Rows that may be usable another time."""
    return [row for row in refused if row.reason in TRANSIENT_REASONS]


def make(out_dir: str) -> None:
    """Makes the directory, local or remote; a local one is on disk on return."""
    if "://" in out_dir:
        tf.io.gfile.makedirs(out_dir)
        return
    os.makedirs(out_dir, exist_ok=True)
    files.sync(os.path.dirname(os.path.abspath(out_dir)))


def lock(out_dir: str) -> contextlib.AbstractContextManager:
    """Keeps other processes from writing to a local directory."""
    if "://" in out_dir:
        return contextlib.nullcontext()  # object stores have no locks
    path = os.path.join(out_dir, _LOCK_FILE)
    return locks.Lock(path, held=out_dir, remove=True)


def remove(path: str) -> None:
    """Removes a file; a local one is gone for good on return."""
    tf.io.gfile.remove(path)
    if "://" not in path:
        files.sync(os.path.dirname(path))


def write_plan(out_dir: str, promised: DatasetInfo) -> None:
    """Notes down what the directory will be of, or checks that it is of the same.

    Raises:
      ValueError: it is the beginning of another conversion.
    """
    differing = _differences_from_plan(out_dir, promised)
    if differing:
        raise ValueError(
            f"{out_dir} is the beginning of a conversion of another manifest or "
            f"with other settings ({'; '.join(differing)}); choose another --out "
            "or delete it."
        )
    if differing is None:
        progress = os.path.join(out_dir, PROGRESS_DIR)
        tf.io.gfile.makedirs(progress)
        if "://" not in out_dir:
            files.sync(out_dir)
        text = json.dumps(dataset_info.to_json(promised), indent=2) + "\n"
        files.write_text(os.path.join(progress, PLAN_FILE), text)


def _differences_from_plan(out_dir: str, promised: DatasetInfo) -> list[str] | None:
    """How an unfinished conversion differs from the one asked for; None without one."""
    path = os.path.join(out_dir, PROGRESS_DIR, PLAN_FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        planned = json.loads(files.read_text(path))
    except ValueError:
        planned = None
    if not isinstance(planned, dict):
        return [f"{path} is no JSON object"]
    # As JSON has it: lists for tuples.
    asked_for = json.loads(json.dumps(dataset_info.to_json(promised)))
    return [
        f"{key}: {planned.get(key)} there, {value} asked for"
        for key, value in asked_for.items()
        if planned.get(key) != value
    ]


def remove_progress(out_dir: str) -> None:
    """Removes what only an unfinished conversion needs."""
    for name in _remains(out_dir):
        tf.io.gfile.remove(os.path.join(out_dir, name))
    progress = os.path.join(out_dir, PROGRESS_DIR)
    if tf.io.gfile.exists(progress):
        tf.io.gfile.rmtree(progress)


def _remains(out_dir: str) -> list[str]:
    """Names of shards that were never complete."""
    return [
        name
        for name in tf.io.gfile.listdir(out_dir)
        if name.startswith("records-") and name.endswith(".tmp")
    ]
