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
    Waveforms are at log_mel_settings.sample_rate_hz.
    """
    if modality == VIDEO:
        spec = tf.TensorSpec([None] * 4 + [3], tf.uint8, name="frames")
        return RawInput(spec, lambda frames: prepare_frames(frames, clip))

    def prepare_waveform(waveform):
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
        share=tf.constant(clip.crop_share),
        crop_size=size,
    )
    cropped = tf.reshape(images, [shape[0], shape[1], size, size, 3])
    return clips.normalize_video(cropped, clips.video_normalization(clip))
