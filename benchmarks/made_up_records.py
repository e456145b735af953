"""Records that say any number of examples: shards are one file under many names."""

import os

import numpy as np
import tensorflow as tf

from xdc_tf.data import (
    dataset_info,
    example_tables,
    jpeg_frames,
    record_framing,
    record_index,
    record_layout,
    records,
    shard_writing,
)
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.jpeg_frames import JpegSettings
from xdc_tf.data.log_mel import LogMelSettings

ROWS_PER_SHARD = 1000
FPS, SECS = 4.0, 0.5
_NUM_CLASSES = 400
_SIDE = 16


def _record(example_index: int) -> bytes:
    """A record of two frames and half a second of sound."""
    rng = np.random.default_rng(example_index)
    settings = LogMelSettings()
    num_rows = round(SECS * settings.sample_rate_hz) // settings.hop_samples
    frames = [
        [
            rng.integers(0, levels, (side, side), np.uint8)
            for side in (_SIDE, _SIDE // 2, _SIDE // 2)
        ]
        for levels in (256, 16)
    ]
    return records.encode_example(
        records.Example(
            example_index=example_index,
            data_path="a.mp4",
            video_id="a.mp4",
            start_us=0,
            end_us=round(1e6 * SECS),
            video_items=[jpeg_frames.encode([f], JpegSettings(50)) for f in frames],
            frame_rate=FPS,
            height=_SIDE,
            width=_SIDE,
            audio_rows=rng.normal(size=(num_rows, settings.num_filters)),
        )
    )


def make_records(directory: str, num_examples: int, name: str) -> None:
    """A directory of records, unless it is there; all shards are links to the first."""
    if os.path.exists(os.path.join(directory, dataset_info.INFO_FILE)):
        return
    os.makedirs(directory)
    num_shards = num_examples // ROWS_PER_SHARD
    files = [f"records-{k:06d}-of-{num_shards:06d}.tfrecord" for k in range(num_shards)]
    first = os.path.join(directory, files[0])
    with shard_writing.ShardWriter(first) as writer:
        for number in range(ROWS_PER_SHARD):
            writer.write(_record(number))
    entries = [
        record_layout.entry_of(framed.data)
        for framed in record_framing.read_records(first + record_index.SUFFIX)
    ]
    for number, file in enumerate(files[1:], start=1):
        path = os.path.join(directory, file)
        os.link(first, path)
        with tf.io.TFRecordWriter(path + record_index.SUFFIX) as writer:
            for entry in entries:
                index = number * ROWS_PER_SHARD + entry.example_index
                entry = entry._replace(example_index=index)
                writer.write(record_layout.serialize_entry(entry))
    sizes = record_framing.size(first), record_framing.size(first + record_index.SUFFIX)
    example_tables.write_examples(
        directory,
        (
            ExampleRow(
                example_index=number,
                video_id=f"{name}/{number % 997:03d}/video_{number:09d}.mp4",
                label=f"class {number % _NUM_CLASSES:03d}",
                shard=files[number // ROWS_PER_SHARD],
                start_secs=0.0,
                end_secs=SECS,
            )
            for number in range(num_examples)
        ),
    )
    example_tables.write_csv(
        os.path.join(directory, example_tables.QUARANTINE_FILE),
        example_tables.RefusedRow._fields,
        [],
    )
    info = DatasetInfo(
        manifest_sha256="0" * 64,
        num_rows=num_examples,
        num_examples=num_examples,
        num_quarantined=0,
        fps=FPS,
        short_side=_SIDE,
        jpeg_quality=50,
        min_secs=0.1,
        max_secs=300.0,
        has_waveform=False,
        rows_per_shard=ROWS_PER_SHARD,
        log_mel=LogMelSettings(),
        log_mel_mean=0.0,
        log_mel_std=1.0,
        label_names=tuple(f"class {number:03d}" for number in range(_NUM_CLASSES)),
        shards=tuple(ShardInfo(file, ROWS_PER_SHARD, *sizes) for file in files),
    )
    dataset_info.write_dataset_info(directory, info)
