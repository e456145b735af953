"""An encoder as a PyTorch state dict, so that results can be shared."""

import json
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from xdc_tf.data.payloads import VIDEO
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.models.modalities import MODALITIES, Modality
from xdc_tf.models.transformer import SpectrogramSettings
from xdc_tf.runtime import files
from xdc_tf.training import trained_run
from xdc_tf.weights import ast_state_dict, layouts, torch_files

_SUFFIX = ".pth"
# What builds the network in PyTorch as it is; docs/pytorch.md has the others.
_TORCHVISION = {
    ResNetSettings(architecture, 18, 1.0): f"torchvision.models.video.{function}"
    for architecture, function in (
        ("r2plus1d_torchvision", "r2plus1d_18"),
        ("r3d", "r3d_18"),
        ("mc3", "mc3_18"),
    )
}


def export(workdir: str, path: str, *, stream: str = VIDEO) -> dict[str, Any]:
    """Writes an encoder's weights as `path`, and beside it a JSON file about them.

    The classifier of a residual network becomes fc.weight and fc.bias if it has exactly
    one.

    Args:
      workdir: of a run that finished a round or more, or of imported weights.
      path: NAME.pth, made here together with NAME.json, whole or not at all.
      stream: name of the encoder.

    Returns:
      What the JSON file holds.

    Raises:
      FileNotFoundError: without a run or its encoder.
      FileExistsError: if there is one of the files.
      ValueError: on a path that is not local or does not end in .pth, an unknown
        stream, or a transformer of a form that no class in PyTorch has.
    """
    if "://" in path or not path.endswith(_SUFFIX):
        raise ValueError(f"--out={path} must be a local file that ends in {_SUFFIX}.")
    description_path = path.removesuffix(_SUFFIX) + ".json"
    files.check_free(path)
    if not _is_remainder(description_path):
        files.check_free(description_path)
    run = trained_run.open_run(workdir)
    if stream not in run.streams:
        raise ValueError(
            f"--stream={stream} is not an encoder of {workdir}; choose one of "
            f"{', '.join(run.streams)}."
        )
    modality = MODALITIES[run.streams[stream]]
    architecture = run.architectures[run.streams[stream]]
    if not isinstance(architecture, ResNetSettings):
        try:
            architecture = ast_state_dict.check(architecture)
        except ValueError as error:
            raise ValueError(f"--stream={stream}: {error}") from None
    encoder = trained_run.load_encoder(run, stream)
    heads = trained_run.load_heads(run, stream)
    description = {
        "stream": stream,
        "method": run.config.method,
        **architecture._asdict(),
        "num_features": encoder.output_shape[-1],
        "input": modality.describe(run.clip, run.audio),
    }
    if isinstance(architecture, ResNetSettings):
        tensors, more = _residual(architecture, encoder, heads, modality)
    else:
        tensors, more = _transformer(architecture, encoder, modality)
    description |= more | {"input": more["input"] | description["input"]}
    _write(path, description_path, tensors, description)
    return description


def _residual(
    architecture: ResNetSettings,
    encoder: keras.Model,
    heads: Mapping[str, Head],
    modality: Modality,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of a residual network, and what is said of them."""
    tensors = layouts.state_dict(encoder)
    labels = None
    if len(heads) == 1:
        ((labels, head),) = heads.items()
        tensors |= {"fc.weight": head.kernel.T, "fc.bias": head.bias}
    return tensors, {
        "batch_norm_epsilon": encoder.get_layer("stage1_block1_norm1").epsilon,
        "torchvision": _TORCHVISION.get(architecture),
        "num_classes": len(tensors["fc.bias"]) if labels else None,
        "classes": labels,
        "input": {"call": modality.channels_first},
    }


def _transformer(
    architecture: SpectrogramSettings, encoder: keras.Model, modality: Modality
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of an audio transformer; ASTModel has no classifier of its features."""
    return ast_state_dict.state_dict(architecture, encoder), {
        "batch_norm_epsilon": None,
        "transformers": {
            "class": "ASTModel",
            "config": ast_state_dict.config(architecture, encoder),
        },
        "num_classes": None,
        "classes": None,
        "input": {"call": modality.channels_first.replace("[B, 1, ", "[B, ")},
    }


def _write(
    path: str,
    description_path: str,
    tensors: Mapping[str, np.ndarray],
    description: dict[str, Any],
) -> None:
    """Writes both files; the description gets the SHA-256 of the weights."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with files.scratch_directory(path) as temporary:
        weights, text = (os.path.join(temporary, name) for name in ("tensors", "text"))
        torch_files.write(weights, tensors)
        description["sha256"] = files.sha256(weights)
        files.write_text(text, json.dumps(description, indent=2) + "\n")
        # The weights last: where they are, the description is.
        os.replace(text, description_path)
        os.replace(weights, path)
        files.sync(folder)


def _is_remainder(description_path: str) -> bool:
    """Whether a description without weights is what a killed export has left."""
    try:
        description = json.loads(files.read_text(description_path))
        return {"stream", "batch_norm_epsilon", "sha256"} <= description.keys()
    except (OSError, ValueError, AttributeError):
        return False
