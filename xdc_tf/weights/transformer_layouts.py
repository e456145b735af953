"""Transformers in files that the library transformers writes, and where they go.

DINOv2 (Oquab et al. 2023), with and without registers; VideoMAE (Tong et al. 2022);
AST (Gong et al. 2021). Names as of transformers' classes; docs/weights.md says what
they were checked on.

DINOv2 is a model of images. It becomes one of video with divided attention: frames by
themselves are what it knows, and attention over time adds nothing until it is trained.
So its features are the mean of those of the frames.
"""

import functools
import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np

from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.models import transformer
from xdc_tf.models.transformer import SpectrogramSettings, TubeletSettings

DINOV2, VIDEOMAE, AST = "dinov2", "videomae", "ast"

_MARK = "embeddings.patch_embeddings.projection.weight"
_BLOCK = re.compile(r"(encoder\.layer|layers)\.(\d+)\..+")
_MAX_DEPTH = 64
# Filters of AST's spectrograms.
AST_FILTERS = 128
# VideoMAE's positions are those of 16 frames of 224 pixels.
_VIDEOMAE_GRID = (8, 14, 14)
_SIZE_OF_WIDTH = {size.width: name for name, size in transformer.SIZES.items()}
# What the classes and releases of transformers call the parts of a block.
_PARTS = {
    "query": ("attention.attention.query", "attention.q_proj"),
    "key": ("attention.attention.key", "attention.k_proj"),
    "value": ("attention.attention.value", "attention.v_proj"),
    "output": ("attention.output.dense", "attention.o_proj"),
    "norm": ("norm1", "layernorm_before"),
    "mlp_norm": ("norm2", "layernorm_after"),
    "mlp_hidden": ("mlp.fc1", "intermediate.dense"),
    "mlp_output": ("mlp.fc2", "output.dense"),
}


class TransformerNetwork(NamedTuple):
    """A transformer found in a weight file.

    Attributes:
      layout: DINOV2, VIDEOMAE or AST.
      prefix: what comes before its tensors' names.
      blocks: what follows the prefix in the names of blocks, before their number.
      settings: of the encoder.
      grid: of the positions in the file: [T, H, W] or [frames, filters] in patches.
    """

    layout: str
    prefix: str
    blocks: str
    settings: transformer.Settings
    grid: tuple[int, ...]

    @property
    def title(self) -> str:
        """What the network is, in words."""
        size, depth, patch = (
            getattr(self.settings, key) for key in ("size", "depth", "patch")
        )
        return f"{self.layout}: size {size}, depth {depth}, patches of {patch}"

    @property
    def modality(self) -> str:
        """What the encoder sees."""
        return AUDIO if self.layout == AST else VIDEO

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of clips whose patches are those of the grid."""
        settings = self.settings
        if isinstance(settings, SpectrogramSettings):
            frames, filters = (
                (size - 1) * settings.stride + settings.patch for size in self.grid
            )
            return frames, filters, 1
        times, rows, columns = self.grid
        side = settings.patch
        return times * settings.tubelet, rows * side, columns * side, 3


class Entry(NamedTuple):
    """What some tensors of a file give an encoder.

    Attributes:
      shapes: shape by name, prefix and all.
      assign: takes their arrays in that order.
    """

    shapes: dict[str, tuple[int, ...]]
    assign: Callable[..., None]


def find(
    tensors: Mapping[str, np.ndarray], path: str, *, prefix: str | None = None
) -> TransformerNetwork | None:
    """Finds the transformer in a file's tensors; None if there is none.

    Args:
      tensors: by name.
      path: of the file, for errors.
      prefix: what comes before the network's names; None for the only one.

    Raises:
      ValueError: on a transformer of a form that is not known, or several without a
        prefix.
    """
    places = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    places = [place for place in places if prefix is None or place == prefix]
    if not places:
        return None
    if len(places) > 1:
        raise ValueError(
            f"{path} holds transformers under {ascii(places[:4])}; choose one by "
            "--prefix."
        )
    (prefix,) = places
    kernel = tensors[prefix + _MARK]
    layout = {(5, 3): VIDEOMAE, (4, 3): DINOV2, (4, 1): AST}.get(
        (kernel.ndim, kernel.shape[1] if kernel.ndim > 1 else 0)
    )
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    matches = [match for name in names if (match := _BLOCK.fullmatch(name))]
    numbers = {int(match[2]) for match in matches}
    depth, size = len(numbers), _SIZE_OF_WIDTH.get(len(kernel))
    if (
        layout is None
        or size is None
        or not 1 <= depth <= _MAX_DEPTH
        or numbers != set(range(depth))
        or len({match[1] for match in matches}) > 1
        or kernel.shape[-1] != kernel.shape[-2]
    ):
        raise ValueError(
            f"{path} holds a transformer of {depth} blocks whose patches are "
            f"{kernel.shape}; known are DINOv2, VideoMAE and AST of "
            f"{', '.join(map(str, _SIZE_OF_WIDTH))} features."
        )
    settings, grid = _form(tensors, path, layout, prefix, size, depth, kernel.shape)
    return TransformerNetwork(layout, prefix, f"{matches[0][1]}.", settings, grid)


def _form(
    tensors, path, layout, prefix, size, depth, patches
) -> tuple[transformer.Settings, tuple[int, ...]]:
    """Settings and grid; `patches` is the shape of their kernel."""
    patch = patches[-1]
    if layout == VIDEOMAE:
        has_last_norm = f"{prefix}layernorm.weight" in tensors
        pool = transformer.MEAN if has_last_norm else transformer.MEAN_THEN_NORM
        settings: transformer.Settings = TubeletSettings(
            "vit", size, depth, patches[2], patch, transformer.JOINT, pool, 0, 0, 0.0
        )
        return settings, _VIDEOMAE_GRID
    positions = tensors.get(f"{prefix}embeddings.position_embeddings")
    num_class = 2 if layout == AST else 1
    num = positions.shape[1] - num_class if _is_table(positions) else 0
    if layout == AST:
        filters = (AST_FILTERS - patch) // 10 + 1
        grid: tuple[int, ...] = (num // filters, filters)
        settings = SpectrogramSettings(
            "ast", size, depth, patch, 10, transformer.CLASS, 2, 0, 0.0
        )
    else:
        side = int(max(0, num) ** 0.5)
        grid = (1, side, side)
        registers = tensors.get(f"{prefix}embeddings.register_tokens")
        num_registers = registers.shape[1] if _is_table(registers) else 0
        settings = TubeletSettings(
            *("vit", size, depth, 1, patch, transformer.DIVIDED),
            *(transformer.CLASS, 1, num_registers, 0.0),
        )
    if num < 1 or np.prod(grid) != num or grid[-1] * patch > 4096 or grid[-2] > 4096:
        raise ValueError(
            f"{path} has no positions that are known: {prefix}embeddings."
            f"position_embeddings is {None if positions is None else positions.shape}."
        )
    return settings, grid


def _is_table(tensor: np.ndarray | None) -> bool:
    return tensor is not None and tensor.ndim == 3 and len(tensor) == 1


def entries(
    encoder: keras.Model, network: TransformerNetwork, names: Container[str]
) -> Iterator[Entry]:
    """What gives every weight of an encoder, by the names of the network's file.

    Args:
      encoder: of network.settings, for clips of network.clip_shape.
      network: what `find` found.
      names: of the file's tensors.
    """
    prefix = network.prefix
    width = transformer.SIZES[network.settings.size].width
    yield _patches(encoder, network)
    yield _positions(encoder, network)
    for index in range(network.settings.depth):
        yield from _block(
            encoder, f"block{index + 1}_", f"{prefix}{network.blocks}{index}.", names
        )
    last = f"{prefix}layernorm"
    if network.settings.pool == transformer.MEAN_THEN_NORM:
        # Of the classifier, beside the network.
        last = f"{prefix.removesuffix('videomae.')}fc_norm"
    yield _norm(encoder, f"block{network.settings.depth}_final_norm", last, width)


def _norm(encoder, ours: str, theirs: str, width: int) -> Entry:
    layer = encoder.get_layer(ours)
    shapes: dict[str, tuple[int, ...]]
    shapes = {f"{theirs}.weight": (width,), f"{theirs}.bias": (width,)}
    return Entry(shapes, lambda gamma, beta: layer.set_weights([gamma, beta]))


def _block(
    encoder: keras.Model, ours: str, theirs: str, names: Container[str]
) -> Iterator[Entry]:
    """Of one block; what its layers' and its tensors' names begin with is given."""

    def place(part: str) -> str:
        first, *others = (theirs + module for module in _PARTS[part])
        return next((name for name in others if f"{name}.weight" in names), first)

    def scale(number: int) -> dict[str, tuple[int, ...]]:
        """Factors of a branch, which go into the kernel and bias before them."""
        name = f"{theirs}layer_scale{number}.lambda1"
        return {name: (width,)} if name in names else {}

    inner = ours
    if any(layer.name == f"{ours}time_attention" for layer in encoder.layers):
        inner = f"{ours}space_"
        over_time = encoder.get_layer(f"{ours}time_attention")
        yield Entry({}, functools.partial(_assign_zeros, over_time.weights[6:]))
    attention = encoder.get_layer(f"{inner}attention")
    heads = attention.weights[1].shape  # [heads, features of each]
    width = heads[0] * heads[1]
    for number, part in enumerate(("query", "key", "value")):
        module = place(part)
        shapes: dict[str, tuple[int, ...]] = {f"{module}.weight": (width, width)}
        # VideoMAE has no bias of keys, and its files have other names for the others.
        biases = f"{module}.bias", f"{theirs}attention.attention.{part[0]}_bias"
        named = [name for name in biases if name in names]
        if named or part != "key":
            shapes[(named or biases)[0]] = (width,)
        pair = attention.weights[2 * number : 2 * number + 2]
        yield Entry(shapes, functools.partial(_assign_to_heads, *pair))
    module = place("output")
    yield Entry(
        {f"{module}.weight": (width, width), f"{module}.bias": (width,)} | scale(1),
        functools.partial(_assign_scaled, *attention.weights[6:]),
    )
    for part, start in (("norm", inner), ("mlp_norm", ours)):
        yield _norm(encoder, f"{start}{part}", place(part), width)
    for part, outputs, inputs, factors in (
        ("mlp_hidden", 4 * width, width, {}),
        ("mlp_output", width, 4 * width, scale(2)),
    ):
        module = place(part)
        yield Entry(
            {f"{module}.weight": (outputs, inputs), f"{module}.bias": (outputs,)}
            | factors,
            functools.partial(
                _assign_scaled, *encoder.get_layer(f"{ours}{part}").weights
            ),
        )


def _assign_zeros(variables) -> None:
    for variable in variables:
        variable.assign(np.zeros(variable.shape, np.float32))


def _assign_to_heads(kernel, bias, values, offsets=0.0) -> None:
    kernel.assign(values.T.reshape(kernel.shape))
    bias.assign(np.broadcast_to(offsets, values.shape[:1]).reshape(bias.shape))


def _assign_scaled(kernel, bias, values, offsets, scale=1.0) -> None:
    kernel.assign((values.T * scale).reshape(kernel.shape))
    bias.assign(offsets * scale)


def _patches(encoder, network) -> Entry:
    layer = encoder.get_layer("patches")
    settings, width = network.settings, transformer.SIZES[network.settings.size].width
    side = (settings.patch,) * 2
    shape: tuple[int, ...] = {
        VIDEOMAE: (width, 3, getattr(settings, "tubelet", 1), *side),
        DINOV2: (width, 3, *side),
        AST: (width, 1, *side),
    }[network.layout]

    def assign(kernel, bias):
        if network.layout == DINOV2:
            kernel = kernel[:, :, np.newaxis]
        if network.layout == AST:
            kernel = np.moveaxis(kernel, (3, 2, 1, 0), (0, 1, 2, 3))  # time first
        else:
            kernel = np.moveaxis(kernel, (2, 3, 4, 1, 0), range(5))
        layer.set_weights([kernel, bias])

    place = f"{network.prefix}embeddings.patch_embeddings.projection"
    return Entry({f"{place}.weight": shape, f"{place}.bias": (width,)}, assign)


def _positions(encoder, network) -> Entry:
    layer = encoder.get_layer("positions")
    settings, width = network.settings, transformer.SIZES[network.settings.size].width
    num = int(np.prod(network.grid))

    def set_rows(rows):
        ones = np.ones(width, np.float32)
        layer.set_weights([ones, rows.astype(np.float32).reshape(layer.bias.shape)])

    if network.layout == VIDEOMAE:
        return Entry({}, lambda: set_rows(sinusoids(num, width)))
    inner = f"{network.prefix}embeddings."
    shapes: dict[str, tuple[int, ...]] = {f"{inner}cls_token": (1, 1, width)}
    if network.layout == AST:
        shapes[f"{inner}distillation_token"] = (1, 1, width)
    elif settings.register_tokens:
        shapes[f"{inner}register_tokens"] = (1, settings.register_tokens, width)
    shapes[f"{inner}position_embeddings"] = (1, settings.class_tokens + num, width)

    def assign(*arrays):
        *tokens, (positions,) = arrays
        extra = np.concatenate([token[0] for token in tokens])
        extra[: settings.class_tokens] += positions[: settings.class_tokens]
        patches = positions[settings.class_tokens :]
        if network.layout == AST:  # there the filters come first
            times, filters = network.grid
            patches = patches.reshape(filters, times, width).swapaxes(0, 1)
        set_rows(np.concatenate([extra, patches.reshape(-1, width)]))

    return Entry(shapes, assign)


def sinusoids(num_positions: int, width: int) -> np.ndarray:
    """[num_positions, width] float64: VideoMAE's fixed positions (Vaswani et al. 2017).

    Sines at even and cosines at odd features j, of position / 10000^(2 (j // 2) / D).
    """
    feature = np.arange(width)
    angles = np.arange(num_positions)[:, np.newaxis] / 10000 ** (
        2 * (feature // 2) / width
    )
    return np.where(feature % 2, np.cos(angles), np.sin(angles))


def classifier(
    tensors: Mapping[str, np.ndarray], network: TransformerNetwork
) -> tuple[str, str] | None:
    """Names of kernel and bias of a linear classifier on the features, if any.

    VideoMAE's alone: DINOv2's and AST's are not of the features.
    """
    names = ("classifier.weight", "classifier.bias")
    kernel, bias = (tensors.get(name) for name in names)
    width = transformer.SIZES[network.settings.size].width
    if (
        network.layout != VIDEOMAE
        or kernel is None
        or bias is None
        or bias.ndim != 1
        or kernel.shape != (len(bias), width)
    ):
        return None
    return names


def unneeded(network: TransformerNetwork) -> frozenset[str]:
    """Names of tensors of the network that features do not depend on."""
    return frozenset({f"{network.prefix}embeddings.mask_token"})
