"""What an encoder's weights are called, and how they are laid out, in other projects.

A layout names the place of every Keras variable in a weight file. Facts from the
projects' published code; docs/weights.md lists what they were checked on.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np


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
