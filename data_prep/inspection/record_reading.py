"""One example of a directory of records, by its example_index, without reading more."""

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.conversion import QUARANTINE_FILE
from data_prep.inspection import record_tables
from xdc_tf.data import payloads, records
from xdc_tf.data.dataset_info import VIDEO, DatasetInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.data.record_framing import read_record
from xdc_tf.runtime import escaping


class Example(NamedTuple):
    """What a record holds.

    Attributes:
        example_index: row number in the manifest.
        video_id: the segment's name.
        label: in words, "" for none.
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
    reasons = record_tables.read_quarantine_reasons(records_dir)
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
    shard = str(examples.shards[row])
    if shard not in {known.file for known in info.shards}:
        raise ValueError(
            f"{records_dir}: examples.csv has example_index {example_index} in "
            f"{shard!r}, which is no file of dataset_info.json."
        )
    # A shard's records are in the order of its lines in examples.csv.
    number = int(np.sum(examples.shards[:row] == shard))
    path = os.path.join(records_dir, shard)
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
    label = int(examples.labels[row])
    return Example(
        example_index=example_index,
        video_id=values["video_id"].decode(errors="replace"),
        label=info.label_names[label] if label >= 0 else "",
        start_secs=int(values["start_us"]) / 1e6,
        end_secs=int(values["end_us"]) / 1e6,
        frame_rate=info.fps if VIDEO in info.modalities else 0.0,
        video_items=video_items,
        audio_rows=values.get("audio_rows"),
        waveform=values.get("waveform"),
    )
