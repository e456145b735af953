"""A frame and a stretch of audio of some examples, found by the index of their shards.

For pictures of a few examples: of each, a frame and some rows are read, and no more.
Records may be remote, so several shards are read at a time.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import clip_reading, record_directory, record_index, records
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.data.record_directory import OpenRecords
from xdc_tf.data.record_framing import read_record
from xdc_tf.data.record_layout import Entry
from xdc_tf.runtime import escaping

MOST_SECS = 4.0  # of the audio, from the middle
_SHARDS_AT_A_TIME = 8


class Preview(NamedTuple):
    """What stands for an example.

    Attributes:
      frame: [H, W, 3] uint8, that in the middle; None without video.
      audio_rows: [L, D] float32 of MOST_SECS around the middle; None without audio.
    """

    frame: np.ndarray | None
    audio_rows: np.ndarray | None


def read_previews(
    source: OpenRecords, example_indices: Sequence[int]
) -> tuple[dict[int, Preview], list[str]]:
    """Reads the previews of some examples.

    Args:
      source: the records.
      example_indices: of examples that it has.

    Returns:
      By example_index those that can be read, and for each file or example that cannot
      what is wrong with it.
    """
    shards: dict[str, set[int]] = {}
    for index in set(example_indices):
        number = source.examples.shard_numbers[_place(source, index)]
        path = os.path.join(source.directory, source.info.shards[number].file)
        shards.setdefault(path, set()).add(index)

    def read(path: str) -> tuple[dict[int, Preview], list[str]]:
        return _read_shard(source, path, shards[path])

    previews: dict[int, Preview] = {}
    faults: list[str] = []
    with ThreadPoolExecutor(_SHARDS_AT_A_TIME) as pool:
        for of_shard, faults_of_shard in pool.map(read, sorted(shards)):
            previews |= of_shard
            faults += faults_of_shard
    return previews, faults


def _read_shard(
    source: OpenRecords, path: str, indices: set[int]
) -> tuple[dict[int, Preview], list[str]]:
    previews, faults = {}, []
    try:
        entries = record_index.read_index(
            path,
            modalities=source.info.modalities,
            row_length=_row_length(source),
            promised=source.promised,
        )
    except (OSError, ValueError, tf.errors.OpError) as error:
        return {}, [escaping.error_text(error)]
    for _, entry in entries:
        if entry.example_index in indices:
            try:
                previews[entry.example_index] = _read_preview(source, path, entry)
            except (OSError, ValueError, tf.errors.OpError) as error:
                text = escaping.error_text(error)
                faults.append(f"{path}, example_index {entry.example_index}: {text}")
    return previews, faults


def _place(source: OpenRecords, example_index: int) -> int:
    """The line of examples.csv, whose indices ascend, that is of an example."""
    return int(np.searchsorted(source.examples.example_indices, example_index))


def _row_length(source: OpenRecords) -> int:
    audio = source.promised.payloads[AUDIO]
    return audio.row.row_length(audio.settings)


def _read_preview(source: OpenRecords, path: str, entry: Entry) -> Preview:
    """Reads an example's frame and rows.

    Raises:
      OSError, ValueError, tf.errors.OpError: they cannot be read, or are damaged.
    """
    info = source.info
    positions, sizes = [], []
    frame = rows = None
    frame_number = max(0, round((entry.end_us - entry.start_us) / 2e6 * info.fps) - 1)
    video = source.promised.payloads[VIDEO].row
    per_item = video.frames_per_item(source.promised.payloads[VIDEO].settings)
    if VIDEO in info.modalities:
        item = min(frame_number // per_item, len(entry.item_bytes) - 1)
        positions.append(int(entry.item_positions[item]))
        sizes.append(int(entry.item_bytes[item]))
    if AUDIO in info.modalities:
        audio = source.promised.payloads[AUDIO]
        rate = info.log_mel.sample_rate_hz / audio.row.hop_samples(audio.settings)
        number = min(int(entry.num_rows), max(1, round(MOST_SECS * rate)))
        first = (int(entry.num_rows) - number) // 2
        positions.append(int(entry.rows_position + first * entry.row_bytes))
        sizes.append(int(number * entry.row_bytes))
    pieces = record_index.read_file(
        path, np.array(positions), np.array(sizes), int(entry.shard_bytes)
    )
    if VIDEO in info.modalities:
        video.check(pieces[:1], info.short_side)
        frames = video.decode_item(pieces[0])
        frame = frames[min(frame_number % per_item, len(frames) - 1)]
    if AUDIO in info.modalities:
        rows = clip_reading.audio_values(
            pieces[-1], int(entry.row_bytes), _row_length(source)
        )
    return Preview(frame, rows)


def read_waveform(source: OpenRecords, example_index: int) -> np.ndarray:
    """[samples] float32, MOST_SECS of an example's stored waveform, from the middle.

    Args:
      source: records that have waveforms.
      example_index: of an example that it has.

    Raises:
      OSError, ValueError, tf.errors.OpError: it cannot be read, or is damaged.
    """
    path, number = record_directory.record_place(
        source.directory, source.info, _place(source, example_index)
    )
    parsed = records.parse_record(tf.constant(read_record(path, number)), source.info)
    samples = parsed["waveform"].numpy()
    if int(parsed["example_index"]) != example_index or not np.isfinite(samples).all():
        raise ValueError(
            f"{path}, record {number} is not example_index {example_index}, or is "
            "damaged; convert again."
        )
    most = round(MOST_SECS * source.info.log_mel.sample_rate_hz)
    first = max(0, len(samples) - most) // 2
    return samples[first : first + most].copy()
