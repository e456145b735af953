"""The modalities, as one table: what a clip of each is, raw and as encoders take it.

An encoder of a modality that is here has a row in encoder_table alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from xdc_tf.data import clips, crops
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.payloads import AUDIO, VIDEO, Stored
from xdc_tf.models import clip_statistics
from xdc_tf.runtime.typed_settings import Number


class RawInput(NamedTuple):
    """What a modality's recordings look like, and how they become an encoder's input.

    Attributes:
      spec: frames [B, T, H, W, 3] uint8 of any size, or waveform [B, samples] float32
        in [-1, 1], mono.
      prepare: raw input -> normalised float32 input of the encoder.
    """

    spec: tf.TensorSpec
    prepare: Callable[[tf.Tensor], tf.Tensor]


class Modality(NamedTuple):
    """A row of MODALITIES.

    Attributes:
      has_crops: whether a clip has several crops, along the frame's longer side.
      clip_shape: clip_shape(clip) -> the encoder's input, without the batch.
      clip_secs: clip_secs(clip) -> how long a recording must be, not to be repeated
        within a clip.
      statistics: what records alone tell of the input: by its name in the card of an
        export the field of ClipSettings and its range.
      first_features: first_features(clips) -> [B, D] float32, of the encoder's input:
        what the first clusters can be made of; see config.labels.first_features.
      call: the encoder's input, in words, for cards.
      channels_first: the same for PyTorch.
      serving: the raw input, in words.
      describe: describe(clip, audio) -> what a card says of the clips.
      describe_serving: describe_serving(clip) -> what preparing raw input adds to that.
      raw_input: raw_input(clip, audio, any_length) -> the raw input, prepared as in
        evaluation: of any length, or of that of the clip.
        Preparing an empty batch, clips without a frame, waveforms shorter than a row or
        samples that are not finite is an InvalidArgumentError that says so,
        also in a SavedModel.
    """

    has_crops: bool
    clip_shape: Callable[[ClipSettings], tuple[int, ...]]
    clip_secs: Callable[[ClipSettings], float]
    statistics: Mapping[str, tuple[str, Number]]
    first_features: Callable[[tf.Tensor], tf.Tensor]
    call: str
    channels_first: str
    serving: str
    describe: Callable[[ClipSettings, Stored], dict[str, Any]]
    describe_serving: Callable[[ClipSettings], dict[str, Any]]
    raw_input: Callable[[ClipSettings, Stored, bool], RawInput]


def _raw_frames(clip: ClipSettings, audio: Stored, any_length: bool) -> RawInput:
    """Frames as they come, at clip.fps per second; the centre is cut and scaled."""
    del audio
    num_frames = None if any_length else clip.num_frames
    spec = tf.TensorSpec([None, num_frames, None, None, 3], tf.uint8, name="frames")

    def prepare(frames):
        smallest = tf.reduce_min(tf.shape(frames))
        check = tf.debugging.assert_positive(
            smallest, f"{spec.name} [B, T, H, W, 3] must have no dimension of 0."
        )
        with tf.control_dependencies([check] if check is not None else []):
            return prepare_frames(tf.identity(frames), clip)

    return RawInput(spec, prepare)


def prepare_frames(frames: tf.Tensor, clip: ClipSettings) -> tf.Tensor:
    """[B, T, H, W, 3] uint8 -> [B, T, crop_size, crop_size, 3] normalised float32."""
    shape, size = tf.shape(frames), clip.crop_size
    half = tf.constant(0.5)
    images = crops.crop_pixels(
        tf.reshape(frames, tf.concat([[-1], shape[2:]], axis=0)),
        top=half,
        left=half,
        fraction=tf.constant(clip.crop_share),
        crop_size=size,
    )
    cropped = tf.reshape(images, [shape[0], shape[1], size, size, 3])
    return clips.normalize_video(cropped, clips.video_normalization(clip))


def _describe_frames(clip: ClipSettings, audio: Stored) -> dict[str, Any]:
    del audio
    return {
        "mean": list(clip.video_mean),
        "std": list(clip.video_std),
        "frames_per_clip": clip.num_frames,
        "frames_per_sec": clip.fps,
        "crop_size": clip.crop_size,
    }


def _raw_waveform(clip: ClipSettings, audio: Stored, any_length: bool) -> RawInput:
    """Waveforms at the sample rate of the records."""
    hop = audio.row.hop_samples(audio.settings)
    num_samples = None if any_length else clip.num_mel_frames * hop
    spec = tf.TensorSpec([None, num_samples], tf.float32, name="waveform")

    def prepare(waveform):
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
        rows = audio.row.encode(waveform, audio.settings)
        return ((rows - clip.log_mel_mean) / clip.log_mel_std)[..., None]

    return RawInput(spec, prepare)


def _describe_audio(clip: ClipSettings, audio: Stored) -> dict[str, Any]:
    return {
        "mean": clip.log_mel_mean,
        "std": clip.log_mel_std,
        "window_secs": clip.audio_secs,
        **audio.describe(),
    }


# By the names of payloads.MODALITIES.
MODALITIES = {
    VIDEO: Modality(
        has_crops=True,
        clip_shape=lambda clip: (clip.num_frames, clip.crop_size, clip.crop_size, 3),
        clip_secs=lambda clip: clip.duration_secs,
        statistics={},
        first_features=clip_statistics.oriented_gradients,
        call="[B, T, H, W, 3] float32, RGB in [0, 1] minus mean, by std",
        channels_first="[B, 3, T, H, W] float32, RGB in [0, 1] minus mean, by std",
        serving="frames [B, T, H, W, 3] uint8 RGB, any size",
        describe=_describe_frames,
        describe_serving=lambda clip: {"crop_share_of_short_side": clip.crop_share},
        raw_input=_raw_frames,
    ),
    AUDIO: Modality(
        has_crops=False,
        clip_shape=lambda clip: (clip.num_mel_frames, clip.num_mels, 1),
        clip_secs=lambda clip: clip.audio_secs,
        statistics={
            "mean": ("log_mel_mean", Number(-1e6, 1e6)),
            "std": ("log_mel_std", Number(1e-6, 1e6)),
        },
        first_features=clip_statistics.cepstra,
        call="[B, rows, filters, 1] float32, log-mel minus mean, by std",
        channels_first="[B, 1, rows, filters] float32, log-mel minus mean, by std",
        serving="waveform [B, samples] float32 in [-1, 1], mono",
        describe=_describe_audio,
        describe_serving=lambda clip: {},
        raw_input=_raw_waveform,
    ),
}
