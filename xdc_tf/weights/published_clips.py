"""The clips that published weights were trained on, as a configuration states them."""

from collections.abc import Mapping
from typing import Any

from xdc_tf.data import clips
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import AUDIO
from xdc_tf.training import configuration, supervision
from xdc_tf.weights import transformer_layouts
from xdc_tf.weights.layouts import Network
from xdc_tf.weights.transformer_layouts import TransformerNetwork

# By architecture: frames, frames per second, pixels (recipes of XDC, torchvision and
# AVID-CMA).
_CLIPS = {
    "r2plus1d": (32, 30.0, 224),
    "r2plus1d_torchvision": (16, 15.0, 112),
    "r3d": (16, 15.0, 112),
    "mc3": (16, 15.0, 112),
    "r2plus1d_avid": (8, 16.0, 224),
}
# Colours' means and deviations in the published code of AVID-CMA, DINOv2 and VideoMAE,
# and of SeLaVi and GDT; all others have XDC's.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
# The nearest to what AST was trained on, which other filters made (Kaldi's); of it
# the mean, and twice the deviation, on AudioSet.
_AST_LOG_MEL = LogMelSettings(
    hop_ms=10.0, fft_size=1024, num_filters=transformer_layouts.AST_FILTERS, min_hz=20.0
)
_AST_NORMALIZATION = -4.2677393, 2 * 4.5689974


def of_residual(network: Network, clip: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that users of a residual network read.

    Args:
      network: found in a file.
      clip: keys of config.clip that are to differ from the usual ones.
    """
    num_frames, fps, crop_size = _CLIPS[network.architecture]
    mean, std = clips.VIDEO_MEAN, clips.VIDEO_STD
    if network.layout == "avid":
        mean, std = _IMAGENET
    elif "video_network.base." in network.prefix:  # SeLaVi, GDT
        mean, std = _GREY
    usual = {
        "num_frames": num_frames,
        "fps": fps,
        "crop_size": crop_size,
        "crop_share": 0.875,
        "audio_secs": 2.0,
        "video_mean": mean,
        "video_std": std,
    }
    return {
        "method": supervision.IMPORTED,
        "seed": 0,
        "clip": {**usual, **clip},
        "log_mel": LogMelSettings()._asdict(),
        "video_encoder": {
            "architecture": network.architecture,
            "depth": network.depth,
            "width": network.width,
        },
    }


def of_transformer(
    network: TransformerNetwork, clip: Mapping[str, Any]
) -> dict[str, Any]:
    """See of_residual."""
    values = configuration.to_mapping(configuration.Config())
    is_audio = network.modality == AUDIO
    usual: dict[str, Any]
    if is_audio:
        mean, std = _AST_NORMALIZATION
        usual = {"audio_secs": network.clip_shape[0] * _AST_LOG_MEL.hop_ms / 1000}
        usual |= {"log_mel_mean": mean, "log_mel_std": std}
    else:
        colours, deviations = _IMAGENET
        usual = {"video_mean": colours, "video_std": deviations}
        if network.layout == transformer_layouts.VIDEOMAE:
            usual |= {"num_frames": 16, "fps": 7.5, "crop_size": 224}
        else:  # frames as images of 16 x 16 patches
            side = 16 * network.settings.patch
            usual |= {"num_frames": 8, "fps": 8.0, "crop_size": side}
    return {
        "method": supervision.IMPORTED_AUDIO if is_audio else supervision.IMPORTED,
        "seed": 0,
        "clip": {**values["clip"], **usual, **clip},
        "log_mel": (_AST_LOG_MEL if is_audio else LogMelSettings())._asdict(),
        f"{network.modality}_encoder": network.settings._asdict(),
    }
