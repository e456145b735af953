"""TFRecords -> batches of clips, with tf.data.

A batch is {"video": [B, T, H, W, 3] uint8, "video_normalization": [B, 2, 3] float32,
"audio": [B, frames, mels, 1] float32, "example_index": [B] int64}, or has one of the
two modalities alone; what is not asked for is neither parsed nor decoded. Frames stay
bytes until they are on the device, where clips.encoder_input makes an encoder's input
of them. Evaluation adds "start_secs": [B] float64. Labels are not in a batch: the
training step looks them up by example_index. Whatever is random follows from (seed,
epoch, example_index) alone, neither from the order in which examples arrive nor from
the modalities asked for.
"""

import math
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import clip_reading, clips
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.dataset_info import order_modalities
from xdc_tf.data.payloads import VIDEO
from xdc_tf.runtime.tuning import without_autotuning

PADDING_INDEX = -1
# Where crops lie along a frame's longer side, by their number.
_CROP_PLACES = {1: (0.5,), 3: (0.0, 0.5, 1.0)}
_MAX_OPEN_SHARDS = 16
# Clips that are read and decoded at a time: enough that no core waits for storage.
_CLIPS_AT_A_TIME = 4 * (os.cpu_count() or 1)


class EpochPosition(NamedTuple):
    """Where training goes on.

    Attributes:
      epoch: the first one to give batches of.
      num_batches: batches of this epoch to pass over, without decoding them.
    """

    epoch: int = 0
    num_batches: int = 0


BEGINNING = EpochPosition()


@tf.autograph.experimental.do_not_convert
def training_batches(
    source: ClipSource,
    *,
    augmentation: Augmentation,
    batch_size: int,
    keep: np.ndarray,
    draws: np.ndarray | None = None,
    seed: int,
    shuffle_buffer: int,
    start: EpochPosition = BEGINNING,
) -> tf.data.Dataset:
    """Endless batches of random clips, every kept example once per epoch or by draws.

    Args:
      source: what clips are read from, and what they are.
      augmentation: random changes.
      batch_size: examples per batch over all devices; the incomplete last batch of
        an epoch is left out (other examples in every epoch).
      keep: [num_rows] bool by example_index: which examples take part.
      draws: None, or [num_rows] float64 by example_index: how often to draw each kept
        example per epoch, on average over epochs. Their sum is a whole number, and
        every epoch has exactly so many draws: by systematic sampling, each example's
        differ from the average by less than one. Draws of one example in an epoch are
        different clips, not far from each other: shuffle_buffer should exceed them.
      seed: the run's seed.
      shuffle_buffer: how many clips, their frames still JPEG, the shuffle holds.
      start: where to start, to resume.

    Returns:
      Batches in an order that differs by epoch and is the same for the same arguments.
      Iterating over them raises an OpError with one clear line where a shard or its
      index is damaged or not as promised.

    Raises:
      ValueError: on an unknown modality, or none, or draws that do not fit.
    """
    source = source._replace(modalities=order_modalities(source.modalities))
    ends = None if draws is None else tf.constant(_ends_of_draws(draws, keep))
    drawn = _Draws(keep, ends)

    def batches_of_epoch(epoch):
        epoch_seed = tf.random.experimental.stateless_fold_in(
            tf.constant([seed, 0], tf.int64), epoch
        )
        parts = _parts_of_epoch(source, drawn, epoch_seed, shuffle_buffer)
        already_seen = tf.where(epoch == start.epoch, start.num_batches * batch_size, 0)
        return (
            parts.skip(tf.cast(already_seen, tf.int64))
            .map(
                lambda part: clip_reading.read_random_clip(part, source, augmentation),
                num_parallel_calls=_CLIPS_AT_A_TIME,
                deterministic=True,
            )
            .batch(batch_size, drop_remainder=True)
        )

    epochs = tf.data.Dataset.range(start.epoch, tf.int64.max)
    return without_autotuning(epochs.flat_map(batches_of_epoch).prefetch(4))


class _Draws(NamedTuple):
    """Which examples an epoch draws, and how often.

    Attributes:
      keep: [num_rows] bool by example_index.
      ends: of _ends_of_draws; None draws every kept example once.
    """

    keep: np.ndarray
    ends: tf.Tensor | None


def _parts_of_epoch(
    source: ClipSource, draws: _Draws, epoch_seed: tf.Tensor, shuffle_buffer: int
) -> tf.data.Dataset:
    """Where an epoch's random clips lie, in random order."""
    file_seed, order_seed = tf.unstack(
        tf.random.stateless_uniform([2], epoch_seed, 0, tf.int64.max, tf.int64)
    )
    num_open = min(len(source.shards), _MAX_OPEN_SHARDS)
    # An interleaved shard at a time, so that many draws of an example alternate with
    # other shards'.
    return (
        tf.data.Dataset.from_tensor_slices(list(source.shards))
        .shuffle(len(source.shards), seed=file_seed)
        .interleave(
            lambda path: _parts_of_shard(path, source, draws, epoch_seed),
            cycle_length=num_open,
            num_parallel_calls=num_open,
            deterministic=True,
        )
        .shuffle(shuffle_buffer, seed=order_seed)
    )


def _parts_of_shard(
    path: tf.Tensor, source: ClipSource, draws: _Draws, epoch_seed: tf.Tensor
) -> tf.data.Dataset:
    """Where random clips of a shard's examples lie, and the seeds of their changes."""

    def cut(path, entry, nth_draw):
        example_seed = tf.random.experimental.stateless_fold_in(
            epoch_seed, entry.example_index
        )
        example_seed = tf.where(
            nth_draw == 0,
            example_seed,
            tf.random.experimental.stateless_fold_in(example_seed, nth_draw),
        )
        start_seed, change_seed = tf.unstack(
            tf.random.experimental.stateless_split(example_seed, 2)
        )
        start_secs = clips.random_start(
            start_seed, clip_reading.recording_secs(entry), source.clip
        )
        part = clip_reading.find_clip(path, entry, start_secs, source)
        return {**part, "seed": change_seed}

    def cut_draws(path, entry):
        # No example has the index -1.
        offset_seed = tf.random.experimental.stateless_fold_in(epoch_seed, -1)
        offset = tf.random.stateless_uniform([], offset_seed, dtype=tf.float64)
        count = _num_draws(draws.ends, entry.example_index, offset)
        return tf.data.Dataset.range(count).map(lambda nth: cut(path, entry, nth))

    entries = clip_reading.read_entries(path, source, draws.keep)
    if draws.ends is None:
        first = tf.constant(0, tf.int64)
        return entries.map(lambda path, entry: cut(path, entry, first))
    return entries.flat_map(cut_draws)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(
    source: ClipSource,
    *,
    batch_size: int,
    num_clips: int = 1,
    num_crops: int = 1,
    stride_secs: float | None = None,
    keep: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Every kept example once, in order, as crops of one or several clips.

    Args:
      source: what clips are read from, and what they are. Batches have start_secs
        beside the modalities and example_index.
      batch_size: clips per batch; the last batch is filled up with zeros under
        example_index PADDING_INDEX, so that all batches have one static shape.
      num_clips: clips per example, evenly spread and following each other; 1 is the
        centre clip.
      num_crops: 1 for the centre of each clip, or 3 of video alone: at both ends of
        the frame's longer side and in its middle, one after the other.
      stride_secs: if given, an example's clips start at 0, stride_secs,
        2 * stride_secs, ... as long as they lie within the recording, at least one;
        num_clips is not used then.
      keep: [num_rows] bool by example_index, or None for all.

    Returns:
      Batches; start_secs is when a clip starts, in seconds from the start of its
      segment (0 for padding).

    Raises:
      ValueError: on an unknown modality, or none, a stride that is not positive, or
        crops of another number or of audio.
    """
    source = source._replace(modalities=order_modalities(source.modalities))
    _check_evaluation(source, num_crops, stride_secs)
    parts = _evaluated_parts(source, keep, num_clips, num_crops, stride_secs)
    return without_autotuning(
        parts.map(
            lambda part: clip_reading.read_plain_clip(part, source),
            num_parallel_calls=_CLIPS_AT_A_TIME,
        )
        .batch(batch_size)
        .map(lambda batch: _fill_up(batch, batch_size))
        .prefetch(4)
    )


def _evaluated_parts(
    source: ClipSource,
    keep: np.ndarray | None,
    num_clips: int,
    num_crops: int,
    stride_secs: float | None,
) -> tf.data.Dataset:
    """Where the clips of an evaluation lie, their start_secs and crop_place."""

    def find_starts(entry):
        recording_secs = clip_reading.recording_secs(entry)
        if stride_secs is None:
            return clips.uniform_starts(recording_secs, num_clips, source.clip)
        return clips.dense_starts(recording_secs, stride_secs, source.clip)

    def cut(path, entry, start_secs):
        part = clip_reading.find_clip(path, entry, start_secs, source)
        return {**part, "start_secs": start_secs}

    def cut_all(path, entry):
        starts = find_starts(entry)
        if num_crops > 1:
            places = tf.tile(_CROP_PLACES[num_crops], [tf.size(starts)])
            crops = (tf.repeat(starts, num_crops), places)
            return tf.data.Dataset.from_tensor_slices(crops).map(
                lambda start, place: {**cut(path, entry, start), "crop_place": place}
            )
        return tf.data.Dataset.from_tensor_slices(starts).map(
            lambda start: cut(path, entry, start)
        )

    def cut_center(path, entry):
        # As cut_all, which makes a data set of each example; that takes its time.
        (start_secs,) = tf.unstack(find_starts(entry))
        return cut(path, entry, start_secs)

    entries = tf.data.Dataset.from_tensor_slices(list(source.shards)).flat_map(
        lambda path: clip_reading.read_entries(path, source, keep)
    )
    only_center = stride_secs is None and num_clips == num_crops == 1
    return entries.map(cut_center) if only_center else entries.flat_map(cut_all)


def _check_evaluation(
    source: ClipSource, num_crops: int, stride_secs: float | None
) -> None:
    """See evaluation_batches."""
    if num_crops not in _CROP_PLACES:
        raise ValueError(
            f"num_crops={num_crops} must be one of {', '.join(map(str, _CROP_PLACES))}."
        )
    if num_crops > 1 and source.modalities != (VIDEO,):
        raise ValueError(
            f"num_crops={num_crops} is for modalities=('video',), got "
            f"{source.modalities}; sound has no crops."
        )
    if stride_secs is not None and not 0 < stride_secs < math.inf:
        raise ValueError(
            f"stride_secs={stride_secs} must be positive: the seconds from one clip's "
            "start to the next's."
        )


def _ends_of_draws(draws: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """[num_rows + 1] float64: the draws' running sum from 0 to exactly their number."""
    ends = np.concatenate([[0.0], np.cumsum(draws, dtype=np.float64)])
    number = round(ends[-1]) if np.isfinite(ends[-1]) else 0
    if (
        draws.shape != keep.shape
        or np.any(draws < 0)
        or np.any(draws[~keep])
        or not 0 < number
        or abs(ends[-1] - number) > 1e-6 * number
    ):
        raise ValueError(
            f"draws of shape {draws.shape} with minimum {draws.min()} and sum "
            f"{ends[-1]} do not fit keep of shape {keep.shape}; they must be 0 or "
            "above, 0 where nothing is kept, and sum to a whole number above 0."
        )
    # Equal neighbours stay equal, also those at the end.
    return ends / ends[-1] * number


def _num_draws(ends: tf.Tensor, index: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Int64 scalar: how often systematic sampling draws an example."""
    before, after = tf.unstack(tf.gather(ends, [index, index + 1]) + offset)
    # An offset next to 1 must not be rounded to a draw past the last.
    after = tf.minimum(tf.floor(after), ends[-1])
    return tf.cast(after - tf.minimum(tf.floor(before), ends[-1]), tf.int64)


def _fill_up(batch, batch_size: int):
    """The batch with padding up to batch_size, of static shape."""
    missing = batch_size - tf.shape(batch["example_index"])[0]

    def pad(name, tensor):
        widths = [[0, missing]] + [[0, 0]] * (len(tensor.shape) - 1)
        value = PADDING_INDEX if name == "example_index" else 0
        return tf.pad(tensor, widths, constant_values=tf.cast(value, tensor.dtype))

    full = tf.cond(
        missing > 0,
        lambda: {name: pad(name, tensor) for name, tensor in batch.items()},
        lambda: dict(batch),  # not a copy of its tensors
    )
    return {
        name: tf.ensure_shape(tensor, [batch_size, *tensor.shape[1:]])
        for name, tensor in full.items()
    }
