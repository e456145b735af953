"""Where a clip lies in a shard, and reading it, inside tf.data.

All that is read is checked: it may be a stranger's, and TensorFlow's own operations end
the process on some of what files can say.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import augment, clips, crops, payloads, record_index, record_layout
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.crops import Window
from xdc_tf.data.example_tables import Promised
from xdc_tf.data.payloads import AUDIO, MODALITIES, PAYLOADS, VIDEO, Stored
from xdc_tf.data.record_layout import Entry


class ClipSource(NamedTuple):
    """What clips are read from, and what they are.

    Attributes:
      shards: TFRecord files, local or remote.
      clip: the clip's shape.
      modalities: which keys the batches hold beside example_index; the records must
        hold them (dataset_info.check_modalities).
      promised: what the directory says of these shards; None checks of them only what
        each says of itself, and takes JPEG images and log-mel for what they hold.
    """

    shards: Sequence[str]
    clip: ClipSettings
    modalities: Sequence[str] = MODALITIES
    promised: Promised | None = None

    def payload(self, modality: str) -> Stored:
        """What holds a modality."""
        if self.promised is None:
            return _DEFAULT_PAYLOADS[modality]
        return self.promised.payloads[modality]

    def frames_per_item(self) -> int:
        """Of video."""
        payload = self.payload(VIDEO)
        return payload.row.frames_per_item(payload.settings)


# Their settings do not matter to who reads them.
_DEFAULT_PAYLOADS = {
    PAYLOADS[name].modality: Stored(name, PAYLOADS[name], None)
    for name in payloads.FIRST
}


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
        name = path.decode()
        if keep is not None and source.promised is not None:
            if not keep[source.promised.rows[name].example_indices].any():
                return np.array([], object)  # read for nothing, it would be
        entries = record_index.read_index(
            name,
            modalities=source.modalities,
            row_length=source.clip.num_mels,
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
    """Where a clip's items and rows are: little, for it waits in a shuffle.

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
        part |= _find_items(entry, start_secs, source)
    if AUDIO in source.modalities:
        part["rows"] = clips.log_mel_rows(
            start_secs,
            num_available=tf.cast(entry.num_rows, tf.int32),
            settings=clip,
        )
        part["rows_position"] = entry.rows_position
        part["row_bytes"] = entry.row_bytes
    return part


def _find_items(
    entry: Entry, start_secs: tf.Tensor, source: ClipSource
) -> dict[str, tf.Tensor]:
    """Where a clip's items are, and which of their frames are its own."""
    frames_per_item = source.frames_per_item()
    secs = recording_secs(entry)
    num_available = tf.size(entry.item_positions)
    if frames_per_item > 1 and source.promised is not None:
        # The last item may have fewer frames, and more than the recording.
        num_available = tf.cast(tf.round(secs * source.promised.fps), tf.int32)
    # A record's frame_rate is float32: at 29.97, an hour in, off by 1/400 frame.
    numbers = clips.frame_indices(
        start_secs,
        num_available=num_available,
        frame_rate=tf.cast(num_available, tf.float64) / secs,
        settings=source.clip,
    )
    part, items = {}, numbers
    if frames_per_item > 1:
        items, item_of_frame = tf.unique(numbers // frames_per_item)
        part["places"] = tf.stack([item_of_frame, numbers % frames_per_item], axis=1)
    part["item_positions"] = tf.gather(entry.item_positions, items)
    part["item_bytes"] = tf.gather(entry.item_bytes, items)
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
    place_seed, flip_seed, color_seed, *audio_seeds = tf.unstack(
        tf.random.experimental.stateless_split(part["seed"], 6)
    )
    items, rows = _read_clip(part, source)
    decoded = {"example_index": part["example_index"]}
    if items is not None:
        draws = tf.random.stateless_uniform([3], place_seed)
        smallest = augmentation.min_crop_share or clip.crop_share
        window = Window(
            top=draws[0],
            left=draws[1],
            fraction=smallest + draws[2] * (clip.crop_share - smallest),
            mirrored=augment.is_mirrored(flip_seed) if augmentation.flip else None,
        )
        frames = _decode_clip(part, items, window, source)
        if augmentation.brightness or augmentation.contrast or augmentation.saturation:
            colors = tf.cast(frames, tf.float32) / 255.0
            colors = augment.jitter_color(colors, color_seed, augmentation)
            frames = crops.to_bytes(255.0 * colors)
        decoded[VIDEO] = frames
        decoded[clips.VIDEO_NORMALIZATION] = clips.video_normalization(clip)
    if rows is not None:
        change = source.payload(AUDIO).row.augment
        decoded[AUDIO] = change(rows, audio_seeds, augmentation, clip)[..., None]
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
    items, rows = _read_clip(part, source)
    decoded = {name: part[name] for name in ("example_index", "start_secs")}
    if items is not None:
        payload = source.payload(VIDEO).row
        top, left = tf.constant(0.5), tf.constant(0.5)
        if "crop_place" in part:
            shape = payload.frame_shape(items[0])
            top, left = crops.place_along(shape, part["crop_place"])
        window = Window(top, left, tf.constant(clip.crop_share))
        decoded[VIDEO] = _decode_clip(part, items, window, source)
        decoded[clips.VIDEO_NORMALIZATION] = clips.video_normalization(clip)
    if rows is not None:
        normalized = (rows - clip.log_mel_mean) / clip.log_mel_std
        decoded[AUDIO] = normalized[..., None]
    return decoded


def _decode_clip(
    part: dict[str, tf.Tensor],
    items: list[tf.Tensor] | tf.Tensor,
    window: Window,
    source: ClipSource,
) -> tf.Tensor:
    """[T, crop_size, crop_size, 3] uint8, by the payload; items: of _read_clip."""
    return source.payload(VIDEO).row.decode_clip(
        items,
        part.get("places"),
        window,
        source.clip,
        (part["path"], part["example_index"]),
    )


def _read_clip(
    part: dict[str, tf.Tensor], source: ClipSource
) -> tuple[list[tf.Tensor] | tf.Tensor | None, tf.Tensor | None]:
    """Reads what find_clip has found.

    Args:
      part: of find_clip.
      source: what the clip is read from.

    Returns:
      The items that hold the frames, as payloads.VideoPayload.decode_clip takes them,
      None without video; and rows of audio [num_mel_frames, num_mels] float32, None
      without audio.

    Raises:
      ValueError: see read_random_clip.
    """
    positions, sizes = [], []
    if "item_positions" in part:
        positions.append(part["item_positions"])
        sizes.append(part["item_bytes"])
    if "rows" in part:
        numbers, row_bytes = part["rows"], part["row_bytes"]
        first = tf.reduce_min(numbers)
        num_rows = tf.cast(tf.reduce_max(numbers) - first + 1, tf.int64)
        begin = part["rows_position"] + tf.cast(first, tf.int64) * row_bytes
        positions.append(begin[None])
        sizes.append((num_rows * row_bytes)[None])
    pieces = _read_pieces(part, tf.concat(positions, 0), tf.concat(sizes, 0), source)
    items = rows = None
    if "rows" in part:
        clip = source.clip
        # [rows, bytes]; the last ones of a row are its values
        as_bytes = tf.reshape(
            tf.io.decode_raw(pieces[-1], tf.uint8), [num_rows, row_bytes]
        )
        values = tf.reshape(as_bytes[:, -4 * clip.num_mels :], [-1, clip.num_mels, 4])
        rows = tf.gather(tf.bitcast(values, tf.float32), numbers - first)
        rows = tf.ensure_shape(rows, [clip.num_mel_frames, clip.num_mels])
        pieces = pieces[:-1]
    if "item_positions" in part:
        items = pieces if "places" in part else tf.unstack(pieces)
    return items, rows


def _read_pieces(
    part: dict[str, tf.Tensor],
    positions: tf.Tensor,
    sizes: tf.Tensor,
    source: ClipSource,
) -> tf.Tensor:
    """[K] strings: a clip's items of video, then its rows of audio, checked."""
    has_rows = "rows" in part
    short_side = None if source.promised is None else source.promised.short_side
    check_items = source.payload(VIDEO).row.check

    def read(path, positions, sizes, file_bytes, example_index, row_bytes):
        pieces = record_index.read_file(path.decode(), positions, sizes, file_bytes)
        num_items = len(pieces) - has_rows
        try:
            check_items(pieces[:num_items], short_side)
            for rows in pieces[num_items:]:
                audio_values(rows, int(row_bytes), source.clip.num_mels)
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
            part.get("row_bytes", tf.constant(0, tf.int64)),
        ],
        tf.string,
        stateful=False,
    )
    return tf.ensure_shape(pieces, positions.shape)


def audio_values(rows: bytes, row_bytes: int, row_length: int) -> np.ndarray:
    """The values [N, row_length] float32 of rows of audio as they lie in a record.

    Args:
      rows: N of them, each with its tags and lengths before it.
      row_bytes: from one row to the next.
      row_length: values of a row.

    Raises:
      ValueError: if there are other bytes than rows, or values that are not finite.
    """
    as_bytes = np.frombuffer(rows, np.uint8).reshape(-1, row_bytes)
    first_value = row_bytes - 4 * row_length
    if first_value:  # a single row has none
        expected = np.frombuffer(record_layout.before_audio_row(row_length), np.uint8)
        if not (as_bytes[:, :first_value] == expected).all():
            raise ValueError("no rows of audio are where they should be")
    values = as_bytes[:, first_value:].view("<f4")
    if not np.isfinite(values).all():
        raise ValueError("values of audio are not finite")
    return values
