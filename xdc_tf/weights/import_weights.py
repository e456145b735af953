"""A released weight file -> a work directory with the video encoder in it."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from xdc_tf.data import clips
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import VIDEO
from xdc_tf.models import encoder_files, video_resnet
from xdc_tf.models.encoder_files import Head
from xdc_tf.runtime import files, outputs, workdir
from xdc_tf.training import configuration, supervision
from xdc_tf.weights import layouts, weight_files
from xdc_tf.weights.layouts import Network

AUTO = "auto"

# The clips that the published weights of an architecture were trained on: frames,
# frames per second, pixels (recipes of XDC, torchvision and AVID-CMA).
_CLIPS = {
    "r2plus1d": (32, 30.0, 224),
    "r2plus1d_torchvision": (16, 15.0, 112),
    "r3d": (16, 15.0, 112),
    "mc3": (16, 15.0, 112),
    "r2plus1d_avid": (8, 16.0, 224),
}
# Colours' means and deviations in the published code of AVID-CMA and of SeLaVi, GDT;
# all others have XDC's.
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


class Account(NamedTuple):
    """Where every tensor went, by name; shapes as the file has them.

    Attributes:
      loaded: into the encoder or its head.
      missing: of the encoder, and not in the file.
      mismatched: of another shape in the file than in the encoder, both shapes.
      unused: part of the network, without counterpart here.
      beside: other tensors of the file, such as optimizers' or other networks'.
      counters: numbers of batches, which nothing needs.
    """

    loaded: dict[str, tuple[int, ...]]
    missing: dict[str, tuple[int, ...]]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: dict[str, tuple[int, ...]]
    beside: dict[str, tuple[int, ...]]
    counters: dict[str, tuple[int, ...]]


class Imported(NamedTuple):
    """What import_weights has read and written.

    Attributes:
      network: the video network in the file.
      account: where each of the file's tensors went.
      num_classes: of the classifier in the file; None if there is none.
    """

    network: Network
    account: Account
    num_classes: int | None


def import_weights(
    path: str,
    out_dir: str,
    *,
    architecture: str = AUTO,
    prefix: str | None = None,
    partial: bool = False,
    with_torch: bool = False,
    clip: Mapping[str, Any] | None = None,
) -> Imported:
    """Makes a work directory of a weight file.

    Args:
      path: PyTorch state dict (either format, bare or inside a checkpoint) or Caffe2
        blobs.
      out_dir: made here, whole or not at all.
      architecture: key of video_resnet.ARCHITECTURES, or AUTO to recognise it by the
        names and shapes of the tensors.
      prefix: what comes before the video encoder's names; None to find it.
      partial: load what fits and leave the rest as initialised.
      with_torch: read with PyTorch's own loader, restricted to weights.
      clip: num_frames, fps or crop_size where they are to differ from those that the
        published weights of the architecture were trained with.

    Raises:
      FileNotFoundError: without the file.
      FileExistsError: if out_dir exists.
      ImportError: with `with_torch`, if PyTorch is needed and not installed.
      ValueError: on a file that cannot be read, is refused, holds no known network, or
        whose tensors do not all fit.
    """
    _check_arguments(out_dir, architecture)
    content = weight_files.read(path, with_torch=with_torch)
    tensors = weight_files.flatten_tensors(content)
    network = layouts.find_network(tensors, path, prefix=prefix)
    if architecture != AUTO:
        network = network._replace(architecture=architecture)
    config = _config(network, clip or {})
    configuration.of_encoders(config)
    encoder = video_resnet.build(
        network.architecture, depth=network.depth, width=network.width
    )
    account, head = load(encoder, tensors, network, path)
    if not partial:
        _check_fit(account, network, path)
    report = {
        "file": os.path.basename(path),
        "sha256": files.sha256(path),
        **network._asdict(),
        **account._asdict(),
    }
    texts = {workdir.CONFIG_FILE: config, workdir.IMPORT_FILE: report}
    _write(out_dir, encoder, head, texts)
    return Imported(network, account, None if head is None else len(head.bias))


def _check_arguments(out_dir: str, architecture: str) -> None:
    """See import_weights."""
    if "://" in out_dir:
        raise ValueError(f"--out={out_dir} must be a local directory; copy it then.")
    files.check_free(out_dir)
    outputs.try_file(out_dir)
    if architecture not in (AUTO, *video_resnet.ARCHITECTURES):
        raise ValueError(
            f"--arch={architecture} is not one of {AUTO}, "
            f"{', '.join(video_resnet.ARCHITECTURES)}."
        )


def _check_fit(account: Account, network: Network, path: str) -> None:
    """Raises ValueError unless every tensor of the network went into the encoder."""
    if account.missing or account.mismatched or account.unused:
        raise ValueError(
            f"{path} does not fit {network.architecture} of depth {network.depth}: "
            f"{_describe_misfits(account)} --arch chooses another architecture, "
            "--partial loads what fits."
        )


def _write(
    out_dir: str, encoder: keras.Model, head: Head | None, texts: Mapping[str, Any]
) -> None:
    """Writes the work directory; `texts` are written as JSON."""
    with files.new_directory(out_dir) as made:
        encoder_files.save_encoder(encoder, workdir.encoder_file(made, VIDEO))
        if head is not None:
            heads = {supervision.TRUE_LABELS: head}
            encoder_files.save_heads(heads, workdir.heads_file(made, VIDEO))
        for name, value in texts.items():
            text = json.dumps(value, indent=2, sort_keys=True) + "\n"
            files.write_text(os.path.join(made, name), text)


def load(
    encoder: keras.Model, tensors: Mapping[str, np.ndarray], network: Network, path: str
) -> tuple[Account, Head | None]:
    """Gives an encoder the tensors of a network; returns the classifier too, if any.

    Args:
      encoder: of the network's architecture, depth and width.
      tensors: of the whole file, by name.
      network: what `layouts.find_network` found among them.
      path: of the file, for errors.

    Raises:
      ValueError: if the architecture cannot have the layout's names, or a tensor holds
        other things than finite floating-point numbers.
    """
    # Caffe2 has the layers of torchvision's split form under other names.
    needed = "torchvision_split" if network.layout == "caffe2" else network.layout
    if layouts.torch_layout(encoder) is not layouts.LAYOUTS[needed]:
        raise ValueError(
            f"--arch={network.architecture} has other layers than the network in "
            f"{path}, whose names are those of {network.layout}; use --arch={AUTO}."
        )
    prefix = network.prefix
    account = Account({}, {}, {}, {}, {}, {})
    layout = layouts.LAYOUTS[network.layout]
    for name, weight in layouts.weights(encoder, layout).items():
        name = prefix + name
        tensor = tensors.get(name)
        if tensor is None:
            account.missing[name] = weight.shape
        elif tensor.shape != weight.shape:
            account.mismatched[name] = (tensor.shape, weight.shape)
        else:
            weight.assign(_checked(tensor, name, path))
            account.loaded[name] = weight.shape
    head = None
    if names := _classifier(tensors, prefix, encoder.output_shape[-1]):
        kernel, bias = (_checked(tensors[name], name, path) for name in names)
        head = Head(np.ascontiguousarray(kernel.T), bias)
        account.loaded.update({name: tensors[name].shape for name in names})
    for name, tensor in tensors.items():
        if name in account.loaded or name in account.mismatched:
            continue
        if not name.startswith(prefix):
            account.beside[name] = tensor.shape
        elif name.endswith(layouts.COUNTER):
            account.counters[name] = tensor.shape
        else:
            account.unused[name] = tensor.shape
    return account, head


def _classifier(
    tensors: Mapping[str, np.ndarray], prefix: str, num_features: int
) -> tuple[str, str] | None:
    """Names of kernel and bias of the linear classifier on the features, if any."""
    suffixes = {"fc.weight": "fc.bias"}
    # VMZ's Caffe2 networks name theirs after the number of classes.
    for name in tensors:
        if re.fullmatch(re.escape(prefix) + r"last_out_L\d+_w", name):
            suffixes[name.removeprefix(prefix)] = name.removeprefix(prefix)[:-1] + "b"
    for kernel_suffix, bias_suffix in suffixes.items():
        names = prefix + kernel_suffix, prefix + bias_suffix
        kernel, bias = (tensors.get(name) for name in names)
        if kernel is None or bias is None or bias.ndim != 1:
            continue
        if kernel.shape == (len(bias), num_features):
            return names
    return None


def _checked(tensor: np.ndarray, name: str, path: str) -> np.ndarray:
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"{path}: {name!a} is of dtype {tensor.dtype}, and weights are floating-"
            "point numbers; save the network's state_dict() before it is quantised."
        )
    with np.errstate(over="ignore"):
        tensor = tensor.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise ValueError(
            f"{path}: {name!a} holds numbers that are not finite in float32; fetch the "
            "file again, or take an earlier checkpoint."
        )
    return tensor


def _describe_misfits(account: Account) -> str:
    """What does not fit, in words; names are a stranger's, and so escaped."""
    misfits = {
        "missing from the file": [f"{n!a} {s}" for n, s in account.missing.items()],
        "of another shape": [
            f"{name!a} {shape} for {expected}"
            for name, (shape, expected) in account.mismatched.items()
        ],
        "without a place": [f"{n!a} {s}" for n, s in account.unused.items()],
    }
    parts = []
    for kind, entries in misfits.items():
        if entries:
            more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
            parts.append(f"{len(entries)} {kind} ({', '.join(entries[:3])}{more})")
    return ", ".join(parts) + "."


def _config(network: Network, clip: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that users of a trained encoder read."""
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
