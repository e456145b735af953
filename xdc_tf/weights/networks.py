"""Finds the video network among a weight file's tensors, by their names and shapes."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xdc_tf.models.layers import BLOCKS_PER_STAGE

# Key of layouts.LAYOUTS -> kernel of the stem, by which a network is found, and kernel
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


def find(
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
