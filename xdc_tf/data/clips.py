"""One clip of a recording: which frames, which stretch of audio; as an encoder's input.

Frames and audio of a clip are cut around one common time, so they always belong
together. Pure functions on tensors. Times are float64: an hour into a
recording, float32 would be off by up to a hundredth of a frame.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Channel statistics of Kinetics that the released encoders expect, for [0, 1] RGB.
VIDEO_MEAN = (0.43216, 0.394666, 0.37645)
VIDEO_STD = (0.22803, 0.22145, 0.216989)

# Keeps 0.1 s * 30 fps on frame 3 in spite of rounding.
_FRAME_SLACK = 1e-3

# Key of a batch: what makes uint8 frames an encoder's input.
VIDEO_NORMALIZATION = "video_normalization"


class ClipSettings(NamedTuple):
    """The shape of a clip.

    Attributes:
      num_frames: frames per clip, T.
      fps: frames per second within the clip.
      crop_size: height and width of the crop in pixels, after scaling.
      crop_share: side of the square crop as a fraction of the frame's short side; 0.875
        is the usual 224 of 256, or 112 of 128.
      audio_secs: length of the audio, centred on the frames.
      mel_hop_secs: time between two rows of the log-mel spectrogram.
      num_mels: filters per row.
      log_mel_mean: subtracted from the log-mel values.
      log_mel_std: what they are then divided by.
      video_mean: subtracted from red, green and blue in [0, 1].
      video_std: what they are then divided by.
    """

    num_frames: int
    fps: float
    crop_size: int
    crop_share: float
    audio_secs: float
    mel_hop_secs: float
    num_mels: int
    log_mel_mean: float
    log_mel_std: float
    video_mean: Sequence[float] = VIDEO_MEAN
    video_std: Sequence[float] = VIDEO_STD

    @property
    def num_mel_frames(self) -> int:
        """Rows of log-mel per clip."""
        return round(self.audio_secs / self.mel_hop_secs)

    @property
    def duration_secs(self) -> float:
        """Time that the frames span."""
        return self.num_frames / self.fps


def random_start(
    seed: tf.Tensor, recording_secs: tf.Tensor, settings: ClipSettings
) -> tf.Tensor:
    """Float64 start time, uniform over all places where the clip fits."""
    draw = tf.cast(tf.random.stateless_uniform([], seed), tf.float64)
    return draw * _latest_start(recording_secs, settings)


def uniform_starts(
    recording_secs: tf.Tensor, num_clips: int, settings: ClipSettings
) -> tf.Tensor:
    """[num_clips] float64 start times from first to last; a single one is central."""
    latest = _latest_start(recording_secs, settings)
    if num_clips == 1:
        return latest[None] / 2
    return tf.linspace(tf.constant(0.0, tf.float64), 1.0, num_clips) * latest


def dense_starts(
    recording_secs: tf.Tensor, stride_secs: float, settings: ClipSettings
) -> tf.Tensor:
    """Start times 0, stride_secs, 2 * stride_secs, ... of all clips that fit.

    Args:
      recording_secs: float64 scalar.
      stride_secs: time from one clip's start to the next's, positive.
      settings: the clip's shape.

    Returns:
      [N] float64, N at least 1: a recording shorter than the clip has one, at 0.
    """
    latest = _latest_start(recording_secs, settings) + _FRAME_SLACK / settings.fps
    last = tf.floor(latest / stride_secs)
    return tf.range(last + 1, dtype=tf.float64) * stride_secs


def _latest_start(recording_secs: tf.Tensor, settings: ClipSettings) -> tf.Tensor:
    """Where the last clip that fits starts; 0 in a recording shorter than a clip."""
    return tf.maximum(recording_secs - settings.duration_secs, 0.0)


def frame_indices(
    start_secs: tf.Tensor,
    *,
    num_available: tf.Tensor,
    frame_rate: tf.Tensor,
    settings: ClipSettings,
) -> tf.Tensor:
    """Numbers of the clip's frames in a recording.

    Args:
      start_secs: float64 scalar, where the clip starts.
      num_available: int32 scalar, frames in the recording.
      frame_rate: float64 scalar, frames per second in the recording.
      settings: the clip's shape.

    Returns:
      [num_frames] int32. A recording shorter than the clip repeats from its start.
    """
    steps = tf.range(settings.num_frames, dtype=tf.float64) / settings.fps
    numbers = tf.floor((start_secs + steps) * frame_rate + _FRAME_SLACK)
    return tf.math.floormod(tf.cast(numbers, tf.int32), num_available)


def log_mel_rows(
    start_secs: tf.Tensor, *, num_available: tf.Tensor, settings: ClipSettings
) -> tf.Tensor:
    """Numbers of the log-mel rows that belong to the clip that starts at start_secs.

    Args:
      start_secs: float64 scalar, where the clip's frames start.
      num_available: int32 scalar, rows in the recording.
      settings: the clip's shape.

    Returns:
      [num_mel_frames] int32, centred on the frames and shifted inwards at the edges of
      the recording; a recording shorter than this repeats from its start.
    """
    center_secs = start_secs + settings.duration_secs / 2
    first = tf.round((center_secs - settings.audio_secs / 2) / settings.mel_hop_secs)
    latest = tf.maximum(num_available - settings.num_mel_frames, 0)
    first = tf.clip_by_value(tf.cast(first, tf.int32), 0, latest)
    return tf.math.floormod(first + tf.range(settings.num_mel_frames), num_available)


def video_normalization(settings: ClipSettings) -> tf.Tensor:
    """[2, 3] float32: what a channel's levels are multiplied by, and what is added."""
    mean, std = np.array(settings.video_mean), np.array(settings.video_std)
    return tf.constant(np.stack([1 / (255 * std), -mean / std]), tf.float32)


def normalize_video(frames: tf.Tensor, normalization: tf.Tensor) -> tf.Tensor:
    """[..., 3] levels of 0 to 255 to float32, by [2, 3] of video_normalization."""
    return tf.cast(frames, tf.float32) * normalization[0] + normalization[1]


def encoder_input(batch: Mapping[str, tf.Tensor], modality: str) -> tf.Tensor:
    """A modality of a batch of data.pipeline, float32 as its encoder takes it.

    Run on the device: frames travel there as bytes.
    """
    values = batch[modality]
    if values.dtype != tf.uint8:
        return values
    # The same for all clips; each has it so that a batch can be split.
    return normalize_video(values, batch[VIDEO_NORMALIZATION][0])
