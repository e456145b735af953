"""Where a clip lies in a shard, and reading it, inside tf.data."""

from collections.abc import Sequence

import tensorflow as tf

from xdc_tf.data import clips, record_index
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO, VIDEO
from xdc_tf.data.record_index import Entry


def entries(path: tf.Tensor, kept: tf.Tensor | None) -> tf.data.Dataset:
    """The kept examples of a shard: its path and what its index says of them."""
    found = tf.data.TFRecordDataset(path + record_index.SUFFIX).map(
        lambda serialized: (path, record_index.parse_entry(serialized))
    )
    if kept is None:
        return found
    return found.filter(lambda _, entry: tf.gather(kept, entry.example_index))


def recording_secs(entry: Entry) -> tf.Tensor:
    """Float64 length by the times, which every record has, whatever its modalities."""
    return tf.cast(entry.end_us - entry.start_us, tf.float64) / 1e6


def find_clip(
    path: tf.Tensor,
    entry: Entry,
    start_secs: tf.Tensor,
    clip: ClipSettings,
    modalities: Sequence[str],
) -> dict[str, tf.Tensor]:
    """Where a clip's frames and log-mel rows are: little, for it waits in a shuffle."""
    part = {
        "example_index": entry.example_index,
        "path": path,
        "shard_bytes": entry.shard_bytes,
    }
    if VIDEO in modalities:
        num_available = tf.size(entry.frame_positions)
        # A record's frame_rate is float32: at 29.97, an hour in, off by 1/400 frame.
        frame_rate = tf.cast(num_available, tf.float64) / recording_secs(entry)
        numbers = clips.frame_indices(
            start_secs,
            num_available=num_available,
            frame_rate=frame_rate,
            settings=clip,
        )
        part["frame_positions"] = tf.gather(entry.frame_positions, numbers)
        part["frame_bytes"] = tf.gather(entry.frame_bytes, numbers)
    if AUDIO in modalities:
        part["log_mel_rows"] = clips.log_mel_rows(
            start_secs,
            num_available=tf.cast(entry.num_log_mel_rows, tf.int32),
            settings=clip,
        )
        part["log_mel_position"] = entry.log_mel_position
        part["log_mel_row_bytes"] = entry.log_mel_row_bytes
    return part


def read_clip(
    part: dict[str, tf.Tensor], clip: ClipSettings
) -> tuple[list[tf.Tensor], tf.Tensor | None]:
    """T JPEG images and [num_mel_frames, num_mels] float32, as far as asked for."""
    positions, sizes = [], []
    if "frame_positions" in part:
        positions.append(part["frame_positions"])
        sizes.append(part["frame_bytes"])
    if "log_mel_rows" in part:
        rows, row_bytes = part["log_mel_rows"], part["log_mel_row_bytes"]
        first = tf.reduce_min(rows)
        num_rows = tf.cast(tf.reduce_max(rows) - first + 1, tf.int64)
        begin = part["log_mel_position"] + tf.cast(first, tf.int64) * row_bytes
        positions.append(begin[None])
        sizes.append((num_rows * row_bytes)[None])
    pieces = record_index.read_pieces(
        part["path"], tf.concat(positions, 0), tf.concat(sizes, 0), part["shard_bytes"]
    )
    if "log_mel_rows" not in part:
        return tf.unstack(pieces), None
    *jpegs, log_mel = tf.unstack(pieces)
    as_bytes = tf.reshape(tf.io.decode_raw(log_mel, tf.uint8), [num_rows, row_bytes])
    values = tf.reshape(as_bytes[:, -4 * clip.num_mels :], [-1, clip.num_mels, 4])
    log_mel = tf.gather(tf.bitcast(values, tf.float32), rows - first)
    return jpegs, tf.ensure_shape(log_mel, [clip.num_mel_frames, clip.num_mels])
