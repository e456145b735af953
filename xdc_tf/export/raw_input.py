"""From raw frames and waveforms to what the encoders take, as TensorFlow graphs."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.data import clips, log_mel
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import VIDEO
from xdc_tf.data.log_mel import LogMelSettings


class RawInput(NamedTuple):
    """What a modality's recordings look like, and how they become an encoder's input.

    Attributes:
      spec: frames [B, T, H, W, 3] uint8 of any size, or waveform [B, samples] float32
        in [-1, 1], mono.
      prepare: raw input -> normalised float32 input of the encoder.
    """

    spec: tf.TensorSpec
    prepare: Callable[[tf.Tensor], tf.Tensor]


def raw_input(
    modality: str, clip: ClipSettings, log_mel_settings: LogMelSettings
) -> RawInput:
    """The raw input of a modality, prepared as in evaluation.

    Frames are taken as they come, at clip.fps per second; the centre is cut and scaled.
    Waveforms are at log_mel_settings.sample_rate_hz. Preparing an empty batch, clips
    without a frame, waveforms shorter than a row of log-mel or samples that are not
    finite is an InvalidArgumentError that says so, also in a SavedModel.
    """
    if modality == VIDEO:
        spec = tf.TensorSpec([None] * 4 + [3], tf.uint8, name="frames")

        def prepare_clips(frames):
            smallest = tf.reduce_min(tf.shape(frames))
            check = tf.debugging.assert_positive(
                smallest, f"{spec.name} [B, T, H, W, 3] must have no dimension of 0."
            )
            with tf.control_dependencies([check] if check is not None else []):
                return prepare_frames(tf.identity(frames), clip)

        return RawInput(spec, prepare_clips)

    def prepare_waveform(waveform):
        hop = log_mel_settings.hop_samples
        checks = [
            tf.debugging.assert_positive(
                tf.shape(waveform)[0], f"{spec.name} [B, samples] must not be empty."
            ),
            tf.debugging.assert_greater_equal(
                tf.shape(waveform)[1],
                hop,
                f"{spec.name} [B, samples] must have at least {hop} samples.",
            ),
            tf.debugging.Assert(
                tf.reduce_all(tf.math.is_finite(waveform)),
                [f"{spec.name} holds NaN or infinity; look for what made it."],
            ),
        ]
        with tf.control_dependencies([c for c in checks if c is not None]):
            waveform = tf.identity(waveform)
        mel = log_mel.log_mel(waveform, log_mel_settings)
        return ((mel - clip.log_mel_mean) / clip.log_mel_std)[..., None]

    spec = tf.TensorSpec([None, None], tf.float32, name="waveform")
    return RawInput(spec, prepare_waveform)


def prepare_frames(frames: tf.Tensor, clip: ClipSettings) -> tf.Tensor:
    """[B, T, H, W, 3] uint8 -> [B, T, crop_size, crop_size, 3] normalised float32."""
    shape, size = tf.shape(frames), clip.crop_size
    half = tf.constant(0.5)
    images = clips.crop_pixels(
        tf.reshape(frames, tf.concat([[-1], shape[2:]], axis=0)),
        top=half,
        left=half,
        fraction=tf.constant(clip.crop_share),
        crop_size=size,
    )
    cropped = tf.reshape(images, [shape[0], shape[1], size, size, 3])
    return clips.normalize_video(cropped, clips.video_normalization(clip))
