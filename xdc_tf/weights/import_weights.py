"""A released weight file -> a work directory with its encoder in it."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.payloads import VIDEO
from xdc_tf.models import encoder_files, encoder_table, transformer, video_resnet
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import files, outputs, workdir
from xdc_tf.training import configuration, supervision
from xdc_tf.weights import (
    layouts,
    published_clips,
    transformer_layouts,
    weight_files,
)
from xdc_tf.weights.layouts import Network
from xdc_tf.weights.transformer_layouts import TransformerNetwork

AUTO = "auto"


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
      network: the network in the file.
      account: where each of the file's tensors went.
      num_classes: of the classifier in the file; None if there is none.
    """

    network: Network | TransformerNetwork
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
      path: PyTorch state dict (either format, bare or inside a checkpoint), Caffe2
        blobs, or safetensors.
      out_dir: made here, whole or not at all.
      architecture: key of video_resnet.ARCHITECTURES, or AUTO to recognise it by the
        names and shapes of the tensors.
      prefix: what comes before the video encoder's names; None to find it.
      partial: load what fits and leave the rest as initialised.
      with_torch: read with PyTorch's own loader, restricted to weights.
      clip: num_frames, fps, crop_size or audio_secs where they are to differ from those
        that the published weights of the architecture were trained with.

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
    network: Network | TransformerNetwork | None
    network = transformer_layouts.find(tensors, path, prefix=prefix)
    if network is not None:
        if architecture != AUTO:
            raise ValueError(
                f"--arch={architecture}: {path} holds a transformer, {network.title}; "
                f"use --arch={AUTO}."
            )
        config = published_clips.of_transformer(network, clip or {})
        parsed = configuration.of_encoders(config)
        encoder, account, head = load_transformer(
            tensors, network, configuration.clip(parsed, None), path
        )
        stream, description = network.modality, network.settings._asdict()
    else:
        network = layouts.find_network(tensors, path, prefix=prefix)
        if architecture != AUTO:
            network = network._replace(architecture=architecture)
        config = published_clips.of_residual(network, clip or {})
        configuration.of_encoders(config)
        encoder = video_resnet.build(
            network.architecture, depth=network.depth, width=network.width
        )
        account, head = load(encoder, tensors, network, path)
        stream, description = VIDEO, network._asdict()
    if not partial:
        _check_fit(account, network, path)
    report = {
        "file": os.path.basename(path),
        "sha256": files.sha256(path),
        "layout": network.layout,
        "prefix": network.prefix,
        **description,
        **account._asdict(),
    }
    texts = {workdir.CONFIG_FILE: config, workdir.IMPORT_FILE: report}
    _write(out_dir, stream, encoder, head, texts)
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


def _check_fit(
    account: Account, network: Network | TransformerNetwork, path: str
) -> None:
    """Raises ValueError unless every tensor of the network went into the encoder."""
    if account.missing or account.mismatched or account.unused:
        remedy = "--partial loads what fits."
        if isinstance(network, Network):
            remedy = f"--arch chooses another architecture, {remedy}"
        raise ValueError(
            f"{path} does not fit {network.title}: {_describe_misfits(account)} "
            f"{remedy}"
        )


def _write(
    out_dir: str,
    stream: str,
    encoder: keras.Model,
    head: Head | None,
    texts: Mapping[str, Any],
) -> None:
    """Writes the work directory; `texts` are written as JSON."""
    with files.new_directory(out_dir) as made:
        encoder_files.save_encoder(encoder, workdir.encoder_file(made, stream))
        if head is not None:
            heads = {supervision.TRUE_LABELS: head}
            encoder_files.save_heads(heads, workdir.heads_file(made, stream))
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
        head = _head(names, tensors, account, path)
    _account_for_others(tensors, prefix, account)
    return account, head


def load_transformer(
    tensors: Mapping[str, np.ndarray],
    network: TransformerNetwork,
    clip: ClipSettings,
    path: str,
) -> tuple[keras.Model, Account, Head | None]:
    """An encoder for such clips, with the tensors of a transformer; see `load`.

    Args:
      tensors: of the whole file, by name.
      network: what `transformer_layouts.find` found among them.
      clip: that the encoder will see; positions are resized to its patches.
      path: of the file, for errors.

    Raises:
      ValueError: if a tensor holds other things than finite floating-point numbers, or
        the clip has no whole number of patches.
    """
    shared = LayerSettings()
    name = f"{network.modality}_encoder"
    encoder = transformer.build(network.settings, shared, name, network.clip_shape)
    account = Account({}, {}, {}, {}, {}, {})
    for shapes, assign in transformer_layouts.entries(encoder, network, tensors):
        for name, shape in shapes.items():
            if name not in tensors:
                account.missing[name] = shape
            elif tensors[name].shape != shape:
                account.mismatched[name] = (tensors[name].shape, shape)
            else:
                account.loaded[name] = shape
        if all(name in account.loaded for name in shapes):
            assign(*(_checked(tensors[name], name, path) for name in shapes))
    head = None
    if names := transformer_layouts.classifier(tensors, network):
        head = _head(names, tensors, account, path)
    _account_for_others(tensors, network.prefix, account)
    for name in transformer_layouts.unneeded(network) & account.unused.keys():
        account.beside[name] = account.unused.pop(name)
    fitted = encoder_table.build(network.settings, shared, encoder.name, clip)
    transformer.copy_weights(encoder, fitted)
    return fitted, account, head


def _head(names, tensors: Mapping[str, np.ndarray], account: Account, path) -> Head:
    """The classifier of those names, accounted for."""
    kernel, bias = (_checked(tensors[name], name, path) for name in names)
    account.loaded.update({name: tensors[name].shape for name in names})
    return Head(np.ascontiguousarray(kernel.T), bias)


def _account_for_others(
    tensors: Mapping[str, np.ndarray], prefix: str, account: Account
) -> None:
    """Puts the tensors that were not looked at where they belong."""
    for name, tensor in tensors.items():
        if name in account.loaded or name in account.mismatched:
            continue
        if not name.startswith(prefix):
            account.beside[name] = tensor.shape
        elif name.endswith(layouts.COUNTER):
            account.counters[name] = tensor.shape
        else:
            account.unused[name] = tensor.shape


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
