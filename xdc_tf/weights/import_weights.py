"""A released weight file -> a work directory with the video encoder in it."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from xdc_tf import files
from xdc_tf import workdir as work
from xdc_tf.data.dataset_info import VIDEO
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.models import encoder_files, video_resnet
from xdc_tf.models.encoder_files import Head
from xdc_tf.training import supervision
from xdc_tf.weights import layouts, weight_files

AUTO = "auto"
REPORT_FILE = "import.json"

# The clips that the published weights of an architecture were trained on: frames,
# frames per second, pixels (PAPER: Inputs; torchvision's and AVID-CMA's recipes).
_CLIPS = {
    "r2plus1d": (32, 30.0, 224),
    "r2plus1d_torchvision": (16, 15.0, 112),
    "r3d": (16, 15.0, 112),
    "mc3": (16, 15.0, 112),
    "r2plus1d_avid": (8, 16.0, 224),
}
# Kernel of the stem, by which a network is found, and its blocks' first convolutions.
_MARKS = {
    "torchvision_split": ("stem.3.weight", r"layer(\d)\.(\d+)\.conv1\.0\.0\.weight"),
    "torchvision_whole": ("stem.0.weight", r"layer(\d)\.(\d+)\.conv1\.0\.weight"),
    "avid": ("conv1.0.weight", r"conv(\d)x\.(\d+)\.spt_conv1\.weight"),
    "caffe2": ("conv1_middle_w", r"(comp)_(\d+)_conv_1_middle_w"),
}
_BOTTLENECK = re.compile(r"layer1\.0\.conv3\.|comp_0_conv_3_")


class Network(NamedTuple):
    """A network found in a weight file.

    Attributes:
      layout: key of layouts.LAYOUTS.
      prefix: what comes before its tensors' names.
      architecture: key of video_resnet.ARCHITECTURES.
      depth: see video_resnet.build.
      width: see video_resnet.build.
    """

    layout: str
    prefix: str
    architecture: str
    depth: int
    width: float


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
    counters: int


class Imported(NamedTuple):
    """What import_weights found and did."""

    network: Network
    account: Account
    num_classes: int | None  # of the classifier in the file


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
      architecture: key of video_resnet.ARCHITECTURES, or AUTO to tell by the names and
        shapes of the tensors.
      prefix: what comes before the video encoder's names; None to find it.
      partial: load what fits and leave the rest as initialised.
      with_torch: read with PyTorch's own loader, restricted to weights.
      clip: num_frames, fps or crop_size where they are to differ from those that the
        published weights of the architecture were trained with.

    Raises:
      FileNotFoundError: without the file.
      FileExistsError: if out_dir exists.
      ValueError: on a file that cannot be read, is refused, holds no known network, or
        whose tensors do not all fit.
    """
    if os.path.exists(out_dir):
        raise FileExistsError(f"{out_dir} exists; remove it or choose another --out.")
    content = weight_files.read(path, with_torch=with_torch)
    tensors = weight_files.flatten_tensors(content)
    del content
    network = recognise(tensors, path, architecture=architecture, prefix=prefix)
    encoder = video_resnet.build(
        network.architecture, depth=network.depth, width=network.width
    )
    account, head = load(encoder, tensors, network, path)
    lacking = {**account.missing, **account.mismatched, **account.unused}
    if lacking and not partial:
        raise ValueError(
            f"{path} does not fit {network.architecture} of depth {network.depth}: "
            f"{_told(account)} --arch chooses another architecture, --partial loads "
            "what fits."
        )
    temporary = out_dir.rstrip("/") + ".tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    stream = VIDEO
    encoder_files.save_encoder(encoder, work.encoder_file(temporary, stream))
    if head is not None:
        encoder_files.save_heads(
            {supervision.TRUE_LABELS: head}, work.heads_file(temporary, stream)
        )
    config = _config(network, clip or {})
    report = {
        "file": os.path.basename(path),
        "sha256": encoder_files.sha256(path),
        **network._asdict(),
        **account._asdict(),
    }
    for name, value in ((work.CONFIG_FILE, config), (REPORT_FILE, report)):
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        files.write_text(os.path.join(temporary, name), text)
    os.replace(temporary, out_dir)
    return Imported(network, account, None if head is None else len(head.bias))


def recognise(
    tensors: Mapping[str, np.ndarray],
    path: str,
    *,
    architecture: str = AUTO,
    prefix: str | None = None,
) -> Network:
    """Finds the video network in a file's tensors.

    Raises:
      ValueError: if there is none, more than one, or none of a known form.
    """
    places = _places(tensors)
    if prefix is not None:
        places = [place for place in places if place[1] == prefix]
    if len(places) != 1:
        what = "no video encoder that is known"
        if places:
            what = f"video encoders under {[place[1] for place in places]}; choose one "
            what += "by --prefix"
        names = list(tensors)
        raise ValueError(
            f"{path} holds {what}; its {len(names)} tensors are named {names[:3]} ..."
        )
    layout, prefix = places[0]
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    blocks: dict[str, int] = {}
    for name in names:
        if match := re.fullmatch(_MARKS[layout][1], name):
            blocks[match[1]] = blocks.get(match[1], 0) + 1
    per_stage = tuple(blocks[stage] for stage in sorted(blocks))
    known = {
        (sum(stages),) if layout == "caffe2" else stages: depth
        for depth, stages in video_resnet.BLOCKS_PER_STAGE.items()
    }
    if per_stage not in known or any(_BOTTLENECK.match(name) for name in names):
        raise ValueError(
            f"{path} has a network of {per_stage} blocks per stage"
            f"{', with bottlenecks' if per_stage in known else ''}; known are the "
            f"depths {sorted(known.values())} with blocks of two convolutions."
        )
    stem = tensors[prefix + _MARKS[layout][0]]
    if layout == "caffe2":
        stem = tensors.get(f"{prefix}conv1_w", stem)
    if architecture == AUTO:
        architecture = _architecture(tensors, layout, prefix)
    elif architecture not in video_resnet.ARCHITECTURES:
        raise ValueError(
            f"--arch={architecture} is not one of {AUTO}, "
            f"{', '.join(video_resnet.ARCHITECTURES)}."
        )
    return Network(layout, prefix, architecture, known[per_stage], len(stem) / 64)


def _places(tensors: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """(layout, prefix) of every video network in the file."""
    found = []
    for layout, (mark, first_conv) in _MARKS.items():
        for name, tensor in tensors.items():
            prefix = name.removesuffix(mark)
            if tensor.ndim == 5 and name.endswith(mark):
                rest = (key[len(prefix) :] for key in tensors if key.startswith(prefix))
                if any(re.fullmatch(first_conv, key) for key in rest):
                    found.append((layout, prefix))
    return found


def _architecture(tensors, layout: str, prefix: str) -> str:
    """The architecture of known layout whose shapes the tensors have."""
    if layout == "avid":
        return "r2plus1d_avid"
    if layout == "caffe2":
        return "r2plus1d"
    if layout == "torchvision_split":
        # The two forms differ in the second convolution of a block that widens.
        first = tensors.get(f"{prefix}layer2.0.conv1.0.0.weight")
        second = tensors.get(f"{prefix}layer2.0.conv2.0.0.weight")
        shared = first is not None and second is not None and len(first) == len(second)
        return "r2plus1d_torchvision" if shared else "r2plus1d"
    conv = tensors.get(f"{prefix}layer2.0.conv1.0.weight")
    return "mc3" if conv is not None and conv.shape[2:3] == (1,) else "r3d"


def load(
    encoder: keras.Model,
    tensors: Mapping[str, np.ndarray],
    network: Network,
    path: str,
) -> tuple[Account, Head | None]:
    """Gives an encoder the tensors of a network; returns the classifier too, if any.

    Raises:
      ValueError: if the architecture cannot have the layout's names, or a tensor holds
        numbers that are not finite.
    """
    layout = layouts.LAYOUTS[network.layout]
    own_layout = layouts.torch_layout(encoder)
    if layout.stem.keys() != own_layout.stem.keys() or not (
        own_layout is layout or network.layout == "caffe2"
    ):
        raise ValueError(
            f"--arch={network.architecture} has other layers than the network in "
            f"{path}, whose names are those of {network.layout}; use --arch={AUTO}."
        )
    prefix = network.prefix
    account = Account({}, {}, {}, {}, {}, 0)
    for name, weight in layouts.weights(encoder, layout).items():
        tensor = tensors.get(prefix + name)
        if tensor is None:
            account.missing[prefix + name] = weight.shape
        elif tensor.shape != weight.shape:
            account.mismatched[prefix + name] = (tensor.shape, weight.shape)
        else:
            weight.assign(_checked(tensor, prefix + name, path))
            account.loaded[prefix + name] = weight.shape
    head = None
    features = encoder.output_shape[-1]
    for kernel_name, bias_name in _classifiers(tensors, prefix):
        kernel, bias = tensors[kernel_name], tensors[bias_name]
        if head is None and kernel.shape == (len(bias), features):
            head = Head(
                np.ascontiguousarray(_checked(kernel, kernel_name, path).T),
                _checked(bias, bias_name, path),
            )
            account.loaded[kernel_name] = kernel.shape
            account.loaded[bias_name] = bias.shape
    counters = 0
    for name, tensor in tensors.items():
        if name in account.loaded or name in account.mismatched:
            continue
        if not name.startswith(prefix):
            account.beside[name] = tensor.shape
        elif name.endswith(layouts.COUNTER):
            counters += 1
        else:
            account.unused[name] = tensor.shape
    return account._replace(counters=counters), head


def _classifiers(tensors, prefix: str) -> list[tuple[str, str]]:
    """Names of the kernels and biases of linear classifiers on the features."""
    pattern = re.compile(re.escape(prefix) + r"(fc\.weight|last_out_L\d+_w)")
    kernels = [name for name in tensors if pattern.fullmatch(name)]
    pairs = [
        (
            name,
            name.removesuffix("weight") + "bias" if "fc." in name else name[:-1] + "b",
        )
        for name in kernels
    ]
    return [
        (kernel, bias)
        for kernel, bias in pairs
        if bias in tensors and tensors[bias].ndim == 1 and tensors[kernel].ndim == 2
    ]


def _checked(tensor: np.ndarray, name: str, path: str) -> np.ndarray:
    tensor = np.asarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise ValueError(f"{path}: {name} holds numbers that are not finite.")
    return tensor


def _told(account: Account) -> str:
    """What does not fit, in words."""
    parts = []
    for kind in ("missing", "mismatched", "unused"):
        if entries := getattr(account, kind):
            first = [f"{name} {shape}" for name, shape in list(entries.items())[:3]]
            more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
            parts.append(f"{len(entries)} {kind} ({', '.join(first)}{more}).")
    return " ".join(parts)


def _config(network: Network, clip: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that users of a trained encoder read."""
    num_frames, fps, crop_size = _CLIPS[network.architecture]
    usual = {
        "num_frames": num_frames,
        "fps": fps,
        "crop_size": crop_size,
        "crop_share": 0.875,
        "audio_secs": 2.0,
    }
    return {
        "method": supervision.IMPORTED,
        "seed": 0,
        "clip": usual | clip,
        "log_mel": LogMelSettings()._asdict(),
        "video_encoder": {
            "architecture": network.architecture,
            "depth": network.depth,
            "width": network.width,
        },
    }
