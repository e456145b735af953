"""What an encoder's weights are called, and how they are laid out, in other projects.

A layout names the place of every Keras variable in a weight file, and its marks tell
which network a file holds. Facts from the projects' published code; docs/weights.md
lists what they were checked on.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from xdc_tf.models.layers import BLOCKS_PER_STAGE


class Layout(NamedTuple):
    """The names in one kind of weight file.

    Attributes:
      stem: layer of the stem -> module.
      block: layer of a block -> module, to be formatted with `stage` (from 1; 0 for
        blocks of the stem), `after` (stage + 1), `index` (of the block in its stage,
        from 0) and `count` (of the block in all stages, from 0).
      variables: variable of a layer -> what follows the module's name.
    """

    stem: Mapping[str, str]
    block: Mapping[str, str]
    variables: Mapping[str, str]


def _for_both(parts: Mapping[str, str]) -> dict[str, str]:
    """The entries for a block's two convolutions, from entries with a # for 1 and 2."""
    return {
        ours.replace("#", n): theirs.replace("#", n)
        for n in "12"
        for ours, theirs in parts.items()
    }


_TORCH = {
    "kernel": ".weight",
    "bias": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
    "moving_mean": ".running_mean",
    "moving_variance": ".running_var",
}
_TORCH_SHORTCUT = {
    "shortcut": "layer{stage}.{index}.downsample.0",
    "shortcut_norm": "layer{stage}.{index}.downsample.1",
}
_TORCHVISION_BLOCK = {
    **_for_both(
        {
            "conv#_spatial": "layer{stage}.{index}.conv#.0.0",
            "conv#_mid_norm": "layer{stage}.{index}.conv#.0.1",
            "conv#_temporal": "layer{stage}.{index}.conv#.0.3",
            "conv#": "layer{stage}.{index}.conv#.0",
            "norm#": "layer{stage}.{index}.conv#.1",
        }
    ),
    **_TORCH_SHORTCUT,
}

LAYOUTS = {
    # torchvision.models.video's R(2+1)D, and all that follow its names: XDC, VMZ's and
    # IG-65M's PyTorch files, and inside of SeLaVi's and GDT's.
    "torchvision_split": Layout(
        {
            "stem_spatial": "stem.0",
            "stem_mid_norm": "stem.1",
            "stem_temporal": "stem.3",
            "stem_norm": "stem.4",
        },
        _TORCHVISION_BLOCK,
        _TORCH,
    ),
    # torchvision.models.video's R3D and MC3.
    "torchvision_whole": Layout(
        {"stem": "stem.0", "stem_norm": "stem.1"}, _TORCHVISION_BLOCK, _TORCH
    ),
    "avid": Layout(
        {"stem": "conv1.0", "stem_norm": "conv1.1"},
        {
            **_for_both(
                {
                    "conv#_spatial": "conv{after}x.{index}.spt_conv#",
                    "conv#_mid_norm": "conv{after}x.{index}.spt_bn#",
                    "conv#_temporal": "conv{after}x.{index}.tmp_conv#",
                }
            ),
            "norm1": "conv{after}x.{index}.tmp_bn1",
            "norm2": "conv{after}x.{index}.out_bn",
            "shortcut": "conv{after}x.{index}.res_conv",
        },
        _TORCH,
    ),
    # VMZ's Caffe2 blobs. Their `riv` is a variance in spite of its name.
    "caffe2": Layout(
        {
            "stem_spatial": "conv1_middle",
            "stem_mid_norm": "conv1_middle_spatbn_relu",
            "stem_temporal": "conv1",
            "stem_norm": "conv1_spatbn_relu",
        },
        {
            **_for_both(
                {
                    "conv#_spatial": "comp_{count}_conv_#_middle",
                    "conv#_mid_norm": "comp_{count}_spatbn_#_middle",
                    "conv#_temporal": "comp_{count}_conv_#",
                    "norm#": "comp_{count}_spatbn_#",
                }
            ),
            "shortcut": "shortcut_projection_{count}",
            "shortcut_norm": "shortcut_projection_{count}_spatbn",
        },
        {
            "kernel": "_w",
            "gamma": "_s",
            "beta": "_b",
            "moving_mean": "_rm",
            "moving_variance": "_riv",
        },
    ),
    # torchvision.models.resnet with one input channel. VMZ's audio network has its
    # names, with the blocks of its stem in layer0.
    "torchvision_audio": Layout(
        {"stem_conv": "conv1", "stem_norm": "bn1"},
        {
            **_for_both(
                {
                    "conv#": "layer{stage}.{index}.conv#",
                    "norm#": "layer{stage}.{index}.bn#",
                }
            ),
            **_TORCH_SHORTCUT,
        },
        _TORCH,
    ),
}

# Beside running statistics PyTorch keeps the number of batches they were made of.
COUNTER = ".num_batches_tracked"


class Weight(NamedTuple):
    """A Keras variable, and its axes in the order of PyTorch and Caffe2."""

    variable: Any  # Keras 2 has TensorFlow's variables, Keras 3 its own
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in a weight file."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    def value(self) -> np.ndarray:
        """float32 array as a weight file holds it."""
        value = np.transpose(np.asarray(self.variable), self.axes)
        return np.ascontiguousarray(value, np.float32)

    def assign(self, value: np.ndarray) -> None:
        """Takes an array as a weight file holds it."""
        self.variable.assign(np.transpose(value, np.argsort(self.axes)))


def torch_layout(encoder: keras.Model) -> Layout:
    """The layout of an encoder's PyTorch counterpart."""
    names = {layer.name for layer in encoder.layers}
    if len(encoder.inputs[0].shape) == 4:
        return LAYOUTS["torchvision_audio"]
    if "stem_spatial" in names:
        return LAYOUTS["torchvision_split"]
    return LAYOUTS["avid" if "stem_pool" in names else "torchvision_whole"]


def weights(encoder: keras.Model, layout: Layout) -> dict[str, Weight]:
    """Every variable of an encoder, under its name in the layout.

    Args:
      encoder: as video_resnet.build or audio_resnet.build makes it.
      layout: one that has its layers.
    """
    count = -1
    named = {}
    for layer in encoder.layers:
        if not layer.variables:
            continue
        if match := re.fullmatch(r"(?:stage(\d)|stem)_block(\d+)_(.+)", layer.name):
            stage, index, part = int(match[1] or 0), int(match[2]) - 1, match[3]
            count += part in ("conv1", "conv1_spatial")
            module = layout.block[part].format(
                stage=stage, after=stage + 1, index=index, count=count
            )
        else:
            module = layout.stem[layer.name]
        for name, suffix in layout.variables.items():
            variable = getattr(layer, name, None)
            if variable is not None:
                # [T, H, W, inputs, outputs] -> [outputs, inputs, T, H, W].
                rank = len(variable.shape)
                axes = (rank - 1, rank - 2, *range(rank - 2)) if rank > 1 else (0,)
                named[module + suffix] = Weight(variable, axes)
    return named


def state_dict(encoder: keras.Model) -> dict[str, np.ndarray]:
    """An encoder's weights as its PyTorch counterpart names and shapes them.

    float32; the counters of batches, int64 scalars, are zero.
    """
    tensors = {}
    for name, weight in weights(encoder, torch_layout(encoder)).items():
        tensors[name] = weight.value()
        if name.endswith(".running_var"):
            counter = name.removesuffix(".running_var") + COUNTER
            tensors[counter] = np.zeros([], np.int64)
    return tensors


# Key of LAYOUTS -> kernel of the stem, by which a network is found, and kernel
# of a convolution that every block has; what blocks are counted by is in brackets.
_MARKS = {
    "torchvision_split": ("stem.3.weight", r"layer(\d)\.\d+\.conv1\.0\.0\.weight"),
    "torchvision_whole": ("stem.0.weight", r"layer(\d)\.\d+\.conv1\.0\.weight"),
    "avid": ("conv1.0.weight", r"conv(\d)x\.\d+\.spt_conv1\.weight"),
    "caffe2": ("conv1_w", r"(comp)_\d+_conv_2_middle_w"),
}
_BOTTLENECK = re.compile(r"layer1\.0\.conv3\.|comp_0_conv_3_")
# Four times the published networks' width. Without a bound, the stem of a hostile file
# could ask for a network larger than any memory.
_MAX_STEM_PLANES = 256


class Network(NamedTuple):
    """A network found in a weight file.

    Attributes:
      layout: key of LAYOUTS.
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

    @property
    def title(self) -> str:
        """What the network is, in words."""
        return f"{self.architecture} of depth {self.depth} and width {self.width:g}"


def find_network(
    tensors: Mapping[str, np.ndarray], path: str, *, prefix: str | None = None
) -> Network:
    """Finds the video network in a file's tensors.

    Args:
      tensors: by name.
      path: of the file, for errors.
      prefix: what comes before the network's names; None if there is one network.

    Raises:
      ValueError: if there is none, more than one, or none of a known form.
    """
    layout, prefix = _place(tensors, path, prefix)
    stem, in_block = _MARKS[layout]
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    matches = [re.fullmatch(in_block, name) for name in names]
    blocks = Counter(match[1] for match in matches if match)
    per_stage = tuple(blocks[stage] for stage in sorted(blocks))
    known = {
        # Caffe2's names do not distinguish the stages.
        (sum(stages),) if layout == "caffe2" else stages: depth
        for depth, stages in BLOCKS_PER_STAGE.items()
    }
    bottleneck = any(_BOTTLENECK.match(name) for name in names)
    if bottleneck or per_stage not in known:
        raise ValueError(
            f"{path} has a network of {per_stage} blocks per stage"
            f"{' with bottlenecks' if bottleneck else ''}; known are the depths "
            f"{sorted(known.values())}, with two convolutions per block."
        )
    planes = len(tensors[prefix + stem])
    if not 2 <= planes <= _MAX_STEM_PLANES:
        raise ValueError(
            f"{path}: {prefix + stem!a} gives {planes} channels; known are networks of "
            f"2 to {_MAX_STEM_PLANES}, and the published ones have 64."
        )
    architecture = _architecture(tensors, layout, prefix)
    return Network(layout, prefix, architecture, known[per_stage], planes / 64)


def _place(
    tensors: Mapping[str, np.ndarray], path: str, prefix: str | None
) -> tuple[str, str]:
    """Layout and prefix of the one network in the file, or of that under `prefix`."""
    places = []
    for layout, (stem, in_block) in _MARKS.items():
        matches = [re.fullmatch(f"(.*?){in_block}", name) for name in tensors]
        with_blocks = {match[1] for match in matches if match}
        places += [
            (layout, before)
            for name, tensor in tensors.items()
            if name.endswith(stem)
            and tensor.ndim == 5
            and (before := name.removesuffix(stem)) in with_blocks
        ]
    if not places:
        raise ValueError(
            f"{path} holds no video encoder under names that are known; its "
            f"{len(tensors)} tensors are {_some(tensors)}. Tensors inside of lists are "
            "not looked at; save the network's state_dict() alone."
        )
    prefixes = [before for _, before in places]
    if prefix is None and len(places) > 1:
        raise ValueError(
            f"{path} holds video encoders under {_some(prefixes)}; choose one by "
            "--prefix."
        )
    if prefix is not None and prefix not in prefixes:
        raise ValueError(
            f"{path} holds no video encoder under --prefix={prefix}, but under "
            f"{_some(prefixes)}."
        )
    return places[prefixes.index(prefix) if prefix is not None else 0]


def _some(names) -> str:
    """The first few names, quoted."""
    shown = ", ".join(ascii(name)[:80] for name in list(names)[:4])
    return f"{shown}, ..." if len(names) > 4 else shown or "none"


def _architecture(tensors: Mapping[str, np.ndarray], layout: str, prefix: str) -> str:
    """The architecture of a layout whose shapes the tensors have."""
    if layout == "avid":
        return "r2plus1d_avid"
    if layout == "caffe2":
        return "r2plus1d"
    if layout == "torchvision_split":
        # The two forms differ in the second convolution of a block that widens.
        first = tensors.get(f"{prefix}layer2.0.conv1.0.0.weight")
        second = tensors.get(f"{prefix}layer2.0.conv2.0.0.weight")
        shared = (
            first is not None
            and second is not None
            and first.shape[:1] == second.shape[:1]
        )
        return "r2plus1d_torchvision" if shared else "r2plus1d"
    kernel = tensors.get(f"{prefix}layer2.0.conv1.0.weight")
    return "mc3" if kernel is not None and kernel.shape[2:3] == (1,) else "r3d"
