"""Where a clip lies in a shard, and reading it, inside tf.data.

All that is read is checked: it may be a stranger's, and TensorFlow's own operations end
the process on some of what files can say.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import augment, clips, jpeg_sizes, record_index, record_layout
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO, MODALITIES, VIDEO
from xdc_tf.data.example_tables import Promised
from xdc_tf.data.record_layout import Entry


class ClipSource(NamedTuple):
    """What clips are read from, and what they are.

    Attributes:
      shards: TFRecord files, local or remote.
      clip: the clip's shape.
      modalities: which keys the batches hold beside example_index; the records must
        hold them (dataset_info.check_modalities).
      promised: what the directory says of these shards; None checks of them only what
        each says of itself.
    """

    shards: Sequence[str]
    clip: ClipSettings
    modalities: Sequence[str] = MODALITIES
    promised: Promised | None = None


def read_entries(
    path: tf.Tensor, source: ClipSource, keep: np.ndarray | None
) -> tf.data.Dataset:
    """The kept examples of a shard: its path and what its index says of them.

    Args:
      path: scalar string, one of the source's shards.
      source: what the clips will be read from.
      keep: [num_rows] bool by example_index, or None for all.
    """

    def read(path: bytes) -> np.ndarray:
        entries = record_index.read_index(
            path.decode(),
            modalities=source.modalities,
            num_mels=source.clip.num_mels,
            promised=source.promised,
        )
        kept = [
            serialized
            for serialized, entry in entries
            if keep is None or keep[entry.example_index]
        ]
        return np.array(kept, object)

    kept = tf.numpy_function(read, [path], tf.string, stateful=False)
    return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(kept, [None])).map(
        lambda serialized: (path, record_layout.parse_entry(serialized))
    )


def recording_secs(entry: Entry) -> tf.Tensor:
    """Float64 length by the times, which every record has, whatever its modalities."""
    return tf.cast(entry.end_us - entry.start_us, tf.float64) / 1e6


def find_clip(
    path: tf.Tensor,
    entry: Entry,
    start_secs: tf.Tensor,
    source: ClipSource,
) -> dict[str, tf.Tensor]:
    """Where a clip's frames and log-mel rows are: little, for it waits in a shuffle.

    Args:
      path: scalar string, the shard.
      entry: of the example, tensors.
      start_secs: float64 scalar, where the clip starts.
      source: what the clip is read from.

    Returns:
      What read_random_clip and read_plain_clip take.
    """
    clip = source.clip
    part = {
        "example_index": entry.example_index,
        "path": path,
        "shard_bytes": entry.shard_bytes,
    }
    if VIDEO in source.modalities:
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
    if AUDIO in source.modalities:
        part["log_mel_rows"] = clips.log_mel_rows(
            start_secs,
            num_available=tf.cast(entry.num_log_mel_rows, tf.int32),
            settings=clip,
        )
        part["log_mel_position"] = entry.log_mel_position
        part["log_mel_row_bytes"] = entry.log_mel_row_bytes
    return part


def read_random_clip(
    part: dict[str, tf.Tensor], source: ClipSource, augmentation: Augmentation
) -> dict[str, tf.Tensor]:
    """A clip of a training batch: cropped and changed at random.

    Args:
      part: of find_clip, and "seed": [2] int64.
      source: what the clip is read from.
      augmentation: the random changes.

    Returns:
      example_index and the source's modalities, as in a batch of data.pipeline.

    Raises:
      ValueError: if the file is another one, a frame has another size than all others
        of the records, or log-mel values are not finite; within tf.data an OpError
        that says so.
    """
    clip = source.clip
    place_seed, flip_seed, color_seed, gain_seed, frequency_seed, time_seed = (
        tf.unstack(tf.random.experimental.stateless_split(part["seed"], 6))
    )
    jpegs, log_mel = _read_clip(part, source)
    decoded = {"example_index": part["example_index"]}
    if jpegs:
        draws = tf.random.stateless_uniform([3], place_seed)
        smallest = augmentation.min_crop_share or clip.crop_share
        frames = clips.decode_crop(
            jpegs,
            top=draws[0],
            left=draws[1],
            fraction=smallest + draws[2] * (clip.crop_share - smallest),
            settings=clip,
            mirrored=augment.is_mirrored(flip_seed) if augmentation.flip else None,
        )
        if augmentation.brightness or augmentation.contrast or augmentation.saturation:
            colors = tf.cast(frames, tf.float32) / 255.0
            colors = augment.jitter_color(colors, color_seed, augmentation)
            frames = clips.to_bytes(255.0 * colors)
        decoded[VIDEO] = frames
        decoded[clips.VIDEO_NORMALIZATION] = clips.video_normalization(clip)
    if log_mel is not None:
        if augmentation.gain_db:
            log_mel = augment.change_gain(log_mel, gain_seed, augmentation.gain_db)
        log_mel = _normalize_log_mel(log_mel, clip)
        if augmentation.frequency_mask:
            log_mel = augment.mask_band(
                log_mel, frequency_seed, axis=1, max_width=augmentation.frequency_mask
            )
        if augmentation.time_mask:
            log_mel = augment.mask_band(
                log_mel, time_seed, axis=0, max_width=augmentation.time_mask
            )
        decoded[AUDIO] = log_mel[..., None]
    return decoded


def read_plain_clip(
    part: dict[str, tf.Tensor], source: ClipSource
) -> dict[str, tf.Tensor]:
    """A clip of an evaluation batch.

    Args:
      part: of find_clip, "start_secs", and "crop_place" if another crop than the
        central one is meant: float32 from 0 to 1 along the frame's longer side.
      source: what the clip is read from.

    Returns:
      example_index, start_secs and the source's modalities, as in a batch of
      data.pipeline.

    Raises:
      ValueError: see read_random_clip.
    """
    clip = source.clip
    jpegs, log_mel = _read_clip(part, source)
    decoded = {name: part[name] for name in ("example_index", "start_secs")}
    if jpegs:
        top, left = tf.constant(0.5), tf.constant(0.5)
        if "crop_place" in part:
            shape = tf.io.extract_jpeg_shape(jpegs[0])[:2]
            top, left = clips.place_along(shape, part["crop_place"])
        decoded[VIDEO] = clips.decode_crop(
            jpegs,
            top=top,
            left=left,
            fraction=tf.constant(clip.crop_share),
            settings=clip,
        )
        decoded[clips.VIDEO_NORMALIZATION] = clips.video_normalization(clip)
    if log_mel is not None:
        decoded[AUDIO] = _normalize_log_mel(log_mel, clip)[..., None]
    return decoded


def _normalize_log_mel(log_mel: tf.Tensor, clip: ClipSettings) -> tf.Tensor:
    return (log_mel - clip.log_mel_mean) / clip.log_mel_std


def _read_clip(
    part: dict[str, tf.Tensor], source: ClipSource
) -> tuple[list[tf.Tensor], tf.Tensor | None]:
    """Reads what find_clip has found.

    Args:
      part: of find_clip.
      source: what the clip is read from.

    Returns:
      T JPEG images, scalar strings, none without video; and log-mel [num_mel_frames,
      num_mels] float32, None without audio.

    Raises:
      ValueError: see read_random_clip.
    """
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
    pieces = _read_pieces(part, tf.concat(positions, 0), tf.concat(sizes, 0), source)
    if "log_mel_rows" not in part:
        return tf.unstack(pieces), None
    *jpegs, log_mel = tf.unstack(pieces)
    clip = source.clip
    as_bytes = tf.reshape(tf.io.decode_raw(log_mel, tf.uint8), [num_rows, row_bytes])
    values = tf.reshape(as_bytes[:, -4 * clip.num_mels :], [-1, clip.num_mels, 4])
    log_mel = tf.gather(tf.bitcast(values, tf.float32), rows - first)
    return jpegs, tf.ensure_shape(log_mel, [clip.num_mel_frames, clip.num_mels])


def _read_pieces(
    part: dict[str, tf.Tensor],
    positions: tf.Tensor,
    sizes: tf.Tensor,
    source: ClipSource,
) -> tf.Tensor:
    """[K] strings: a clip's frames, then its log-mel rows, checked."""
    num_jpegs = source.clip.num_frames if "frame_positions" in part else 0
    short_side = None if source.promised is None else source.promised.short_side

    def read(path, positions, sizes, file_bytes, example_index, row_bytes):
        pieces = record_index.read_file(path.decode(), positions, sizes, file_bytes)
        try:
            jpeg_sizes.check_sizes(pieces[:num_jpegs], short_side)
            for log_mel in pieces[num_jpegs:]:
                _check_log_mel(log_mel, int(row_bytes), source.clip.num_mels)
        except ValueError as error:
            raise ValueError(
                f"{path.decode()}, example_index {example_index}: {error}; it is "
                "damaged, bring back the whole file or convert again."
            ) from error
        return np.array(pieces, object)

    pieces = tf.numpy_function(
        read,
        [
            part["path"],
            positions,
            sizes,
            part["shard_bytes"],
            part["example_index"],
            part.get("log_mel_row_bytes", tf.constant(0, tf.int64)),
        ],
        tf.string,
        stateful=False,
    )
    return tf.ensure_shape(pieces, positions.shape)


def _check_log_mel(log_mel: bytes, row_bytes: int, num_mels: int) -> None:
    """Checks rows as they lie in a record, each with its tags and lengths before it."""
    rows = np.frombuffer(log_mel, np.uint8).reshape(-1, row_bytes)
    first_value = row_bytes - 4 * num_mels
    if first_value:  # a single row has none
        expected = np.frombuffer(record_layout.before_log_mel_row(num_mels), np.uint8)
        if not (rows[:, :first_value] == expected).all():
            raise ValueError("no log-mel rows are where they should be")
    if not np.isfinite(rows[:, first_value:].view("<f4")).all():
        raise ValueError("log-mel values are not finite")
