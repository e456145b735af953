"""Encoders as SavedModels that finetune and serve without this project."""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xdc_tf import compat, files, workdir
from xdc_tf.data import clips, dataset_info, log_mel
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.models.encoder_files import load_encoder
from xdc_tf.training import settings, supervision

CARD_FILE = "export.json"
# Reloaded features may differ by the order of sums only.
_TOLERANCE = 1e-4


def export(run_dir: str, out_dir: str) -> list[str]:
    """Exports every encoder of a run.

    Args:
      run_dir: work directory of a run that finished a round or more.
      out_dir: made here; holds STREAM_encoder/ (SavedModel), STREAM_encoder.keras, and
        export.json, which states what goes in and comes out.

    Returns:
      Paths of the SavedModels.

    Raises:
      FileNotFoundError: without a run or its encoders.
      FileExistsError: if out_dir exists.
      RuntimeError: if a SavedModel read back gives other features.
    """
    if "://" in out_dir:
        raise ValueError(f"--out={out_dir} must be a local directory; copy it then.")
    if os.path.exists(out_dir):
        raise FileExistsError(f"{out_dir} exists; remove it or choose another --out.")
    config = workdir.read_config(run_dir)
    info = dataset_info.read_dataset_info(os.path.join(run_dir, workdir.RECORDS_DIR))
    clip = settings.clip(config, info)
    temporary = out_dir.rstrip("/") + ".tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    streams = supervision.method(config["method"]).streams
    cards = {}
    for stream, modality in streams.items():
        path = workdir.encoder_file(run_dir, stream)
        encoder = load_encoder(path)
        name = f"{stream}_encoder"
        save_reusable(
            encoder,
            os.path.join(temporary, name),
            serving=serving_function(encoder, modality, clip, info.log_mel),
        )
        shutil.copyfile(path, os.path.join(temporary, f"{name}.keras"))
        cards[name] = _card(encoder, modality, clip, info.log_mel)
    card = {"config": config, "encoders": cards, "versions": compat.versions()}
    files.write_text(
        os.path.join(temporary, CARD_FILE), json.dumps(card, indent=2) + "\n"
    )
    os.replace(temporary, out_dir)
    return [os.path.join(out_dir, f"{stream}_encoder") for stream in streams]


def save_reusable(encoder: keras.Model, path: str, *, serving) -> None:
    """Writes a SavedModel with TensorFlow's reusable interface, and reads it back.

    The object has `__call__(inputs, training=False)`, `variables`,
    `trainable_variables` and `regularization_losses` (functions without arguments), so
    that tensorflow_hub.KerasLayer(path, trainable=True) finetunes it; in training mode
    it updates its batch-norm statistics.

    Args:
      encoder: model of one float32 input.
      path: directory to write.
      serving: the serving_default signature.

    Raises:
      RuntimeError: if the features that come back differ.
    """
    spec = tf.TensorSpec(encoder.inputs[0].shape, tf.float32, name="inputs")

    @tf.function
    def call(inputs, training=False):
        return encoder(inputs, training=training)

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    exported = tf.train.Checkpoint()
    exported.__call__ = call
    exported.variables = compat.tf_variables(encoder.variables)
    exported.trainable_variables = compat.tf_variables(encoder.trainable_variables)
    exported.regularization_losses = [
        tf.function(_penalty(layer), input_signature=[])
        for layer in encoder.layers
        if getattr(layer, "kernel_regularizer", None) is not None
    ]
    tf.saved_model.save(exported, path, signatures={"serving_default": serving})

    shape = [2 if size is None else size for size in spec.shape]
    shape[1:-1] = [max(size, 16) for size in shape[1:-1]]
    sample = tf.random.stateless_normal(shape, seed=[0, 0])
    expected, found = call(sample), tf.saved_model.load(path)(sample)
    difference = float(tf.reduce_max(tf.abs(found - expected)))
    if not difference <= _TOLERANCE * max(1.0, float(tf.reduce_max(tf.abs(expected)))):
        raise RuntimeError(
            f"{path} gives features that differ by {difference:.3g} from the encoder's."
        )


def _penalty(layer):
    return lambda: layer.kernel_regularizer(tf.convert_to_tensor(layer.kernel))


def serving_function(
    encoder: keras.Model,
    modality: str,
    clip: ClipSettings,
    log_mel_settings: LogMelSettings,
):
    """The signature from raw input to features.

    Video: {"frames": [B, T, H, W, 3] uint8, any size} at clip.fps frames per second;
    the centre is cut and scaled as in evaluation. Audio: {"waveform": [B, samples]
    float32 in [-1, 1]} mono at log_mel_settings.sample_rate_hz. Both give
    {"features": [B, D] float32}.
    """
    if modality == "video":

        @tf.function(
            input_signature=[tf.TensorSpec([None] * 4 + [3], tf.uint8, name="frames")]
        )
        def from_frames(frames):
            return {"features": encoder(prepare_frames(frames, clip), training=False)}

        return from_frames

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")]
    )
    def from_waveform(waveform):
        mel = log_mel.log_mel(waveform, log_mel_settings)
        mel = (mel - clip.log_mel_mean) / clip.log_mel_std
        return {"features": encoder(mel[..., None], training=False)}

    return from_waveform


def prepare_frames(frames: tf.Tensor, clip: ClipSettings) -> tf.Tensor:
    """[B, T, H, W, 3] uint8 -> [B, T, crop_size, crop_size, 3] normalised float32."""
    shape = tf.shape(frames)
    half = tf.constant(0.5)
    y, x, height, width = tf.unstack(
        clips.crop_window(
            shape[2:4], top=half, left=half, share=tf.constant(clip.crop_share)
        )
    )
    window = frames[:, :, y : y + height, x : x + width]
    images = tf.reshape(window, [-1, height, width, 3])
    size = clip.crop_size
    scaled = tf.reshape(clips.scale(images, size), [shape[0], shape[1], size, size, 3])
    return clips.normalize_video(scaled)


def _card(
    encoder: keras.Model,
    modality: str,
    clip: ClipSettings,
    log_mel_settings: LogMelSettings,
) -> dict[str, Any]:
    """What goes in and what comes out of one encoder."""
    contract: Mapping[str, Any] = {
        "video": {
            "call": "[B, T, H, W, 3] float32, RGB in [0, 1] minus mean, by std",
            "serving_default": "frames [B, T, H, W, 3] uint8 RGB, any size",
            "mean": clips.VIDEO_MEAN,
            "std": clips.VIDEO_STD,
            "frames_per_clip": clip.num_frames,
            "frames_per_sec": clip.fps,
            "crop_size": clip.crop_size,
            "crop_share_of_short_side": clip.crop_share,
        },
        "audio": {
            "call": "[B, rows, filters, 1] float32, log-mel minus mean, by std",
            "serving_default": "waveform [B, samples] float32 in [-1, 1], mono",
            "mean": clip.log_mel_mean,
            "std": clip.log_mel_std,
            "window_secs": clip.audio_secs,
            "log_mel": log_mel_settings._asdict(),
        },
    }[modality]
    return {
        "modality": modality,
        "input": contract,
        "features": int(np.prod(encoder.output_shape[1:])),
    }
