"""Operations and bytes of an encoder for one clip, counted from its layers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from xdc_tf.models import token_layers, transformer


class LayerCost(NamedTuple):
    """What one layer computes and moves for one clip.

    A backward pass takes twice the operations of the forward one: gradients of the
    layer's input and of its kernel.

    Attributes:
      name: of the layer.
      flops: of the forward pass, two per multiplication and addition; those of
        convolutions and matrix products, which are all that count.
      inference_bytes: activations read and written in evaluation mode.
      forward_bytes: the same in training mode.
      backward_bytes: activations and their gradients read and written.
      kernel_bytes: of the kernel, read once per batch and pass.
      num_forward: forward passes of a training step; 2 with gradient checkpointing.
    """

    name: str
    flops: int
    inference_bytes: int
    forward_bytes: int
    backward_bytes: int
    kernel_bytes: int
    num_forward: int = 1


class EncoderCost(NamedTuple):
    """What an encoder computes, moves and keeps for one clip.

    Attributes:
      layers: in the order in which they compute, without the input.
      num_parameters: all variables' numbers.
      num_trainable: of those that training updates.
      width: features per clip.
      input_bytes: of a clip in a batch, where frames are bytes.
      kept_bytes: activations that a training step keeps for its backward pass.
      peak_bytes: the most that are held at any moment of the backward pass, kept
        activations and gradients of activations.
      inference_peak_bytes: the most activations that are held in evaluation mode.
    """

    layers: tuple[LayerCost, ...]
    num_parameters: int
    num_trainable: int
    width: int
    input_bytes: int
    kept_bytes: int
    peak_bytes: int
    inference_peak_bytes: int

    @property
    def flops(self) -> int:
        """Of a forward pass over one clip."""
        return sum(layer.flops for layer in self.layers)


class _Node(NamedTuple):
    """A layer in the graph of tensors, each with its size for one clip."""

    inputs: dict[int, int]  # by the id of a tensor, its bytes
    output: int  # id
    output_bytes: int
    kept: dict[int, int]  # what the gradient needs, as `inputs`
    inside_bytes: int  # kept of what the layer computes on its way


class _Inside(NamedTuple):
    """What a layer computes on its way, beside a product with one kernel."""

    flops: int = 0
    num_bytes: int = 0
    kernel_size: int = 0


def count(
    encoder: keras.Model, clip_shape: Sequence[int], *, recomputes: bool = False
) -> EncoderCost:
    """Counts what an encoder computes, moves and keeps for a clip of that shape.

    Nothing is computed: shapes go through the layers. Convolutions and dense layers
    are recognised by their kernels; a layer of a kind unknown here counts as one that
    reads its inputs and writes its output.

    Args:
      encoder: a functional model of one input and one output, channels last, in which
        each layer occurs once, such as encoder_table.build makes and layers.fold
        copies.
      clip_shape: without the batch: [T, H, W, 3] or [frames, mels, 1].
      recomputes: whether training computes the encoder's blocks, if it has any, again
        for their gradients, see models.recomputation.

    Raises:
      ValueError: on a clip of another rank than the encoder's input, or too small for
        its layers.
    """
    if len(clip_shape) != len(encoder.input_shape) - 1:
        raise ValueError(
            f"a clip of shape {tuple(clip_shape)} does not fit the encoder's input "
            f"{encoder.input_shape}; leave out the batch and nothing else."
        )
    shapes: dict[int, tuple[int, ...]] = {}
    sizes: dict[int, int] = {}
    costs, nodes = [], []
    for layer in encoder.layers:
        output = id(layer.output)
        if isinstance(layer, keras.layers.InputLayer):
            shapes[output], sizes[output] = (1, *clip_shape), 4 * math.prod(clip_shape)
            continue
        inputs = [id(tensor) for tensor in tf.nest.flatten(layer.input)]
        shapes[output] = _output_shape(layer, [shapes[key] for key in inputs])
        item_bytes = tf.as_dtype(layer.compute_dtype).size
        sizes[output] = item_bytes * math.prod(shapes[output])
        read = {key: sizes[key] for key in inputs}
        inside = _inside(layer, shapes[output], item_bytes)
        kept = _kept(layer, read, output, sizes)
        nodes.append(_Node(read, output, sizes[output], kept, inside.num_bytes))
        costs.append(
            _layer_cost(
                layer,
                shapes[output],
                sum(read.values()),
                sizes[output],
                item_bytes,
                inside,
            )
        )
    (clip,) = (id(tensor) for tensor in tf.nest.flatten(encoder.input))
    names = transformer.block_ends(encoder) if recomputes else []
    segments = _segments(nodes, [id(encoder.get_layer(n).output) for n in names])
    kept_bytes, peak_bytes = _bytes_of_segments(segments, clip)
    again = {node.output for segment in segments[1:-1] for node in segment}
    costs = [
        cost._replace(num_forward=2 if node.output in again else 1)
        for cost, node in zip(costs, nodes, strict=True)
    ]
    return EncoderCost(
        layers=tuple(costs),
        num_parameters=encoder.count_params(),
        num_trainable=sum(math.prod(v.shape) for v in encoder.trainable_variables),
        width=shapes[id(encoder.output)][-1],
        input_bytes=sizes[clip] // 4 if len(clip_shape) == 4 else sizes[clip],
        kept_bytes=kept_bytes,
        peak_bytes=peak_bytes,
        inference_peak_bytes=max(
            sum(node.inputs.values()) + node.output_bytes + node.inside_bytes
            for node in nodes
        ),
    )


def _output_shape(layer, input_shapes) -> tuple[int, ...]:
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return input_shapes[0]
    shape = layer.compute_output_shape(
        input_shapes if len(input_shapes) > 1 else input_shapes[0]
    )
    shape = (1, *tf.TensorShape(shape).as_list()[1:])
    if min(shape) < 1:
        raise ValueError(
            f"layer {layer.name} would give shape {shape}; raise the clip's size."
        )
    return shape


def _kept(layer, read, output, sizes) -> dict[int, int]:
    """The tensors that the gradient of a layer needs."""
    norms = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
    if _has_kernel(layer) or isinstance(layer, norms):
        return read
    if isinstance(layer, keras.layers.ReLU):
        return {output: sizes[output]}
    if "Max" in type(layer).__name__:
        return read | {output: sizes[output]}
    return {}


def _has_kernel(layer) -> bool:
    return getattr(layer, "kernel", None) is not None


def _inside(layer, output_shape, item_bytes) -> _Inside:
    """Of attention: queries, keys, values, weights, their sums; of GELU its input."""
    num_numbers = math.prod(output_shape)
    gelus = (keras.activations.gelu, token_layers.gelu)
    if getattr(layer, "activation", None) in gelus:
        return _Inside(num_bytes=item_bytes * num_numbers)
    if not isinstance(layer, keras.layers.MultiHeadAttention):
        return _Inside()
    settings = layer.get_config()
    num_others = math.prod(output_shape[axis] for axis in settings["attention_axes"])
    num_tokens = math.prod(output_shape[:-1])
    num_weights = settings["num_heads"] * num_tokens * num_others
    kernel_size = sum(
        math.prod(weight.shape) for weight in layer.weights if len(weight.shape) == 3
    )
    return _Inside(
        2 * kernel_size * num_tokens
        + 4 * num_weights * settings["key_dim"],  # weights, and sums by them
        item_bytes * (4 * num_numbers + num_weights),
        kernel_size,
    )


def _layer_cost(layer, output_shape, read, written, item_bytes, inside) -> LayerCost:
    kernel_size = math.prod(layer.kernel.shape) if _has_kernel(layer) else 0
    # Each of them is written and read.
    read, written = read + inside.num_bytes, written + inside.num_bytes
    forward, backward = read + written, read + 2 * written
    if kernel_size:
        # Two matrix products read the output's gradient.
        backward = 2 * read + 2 * written
    elif isinstance(
        layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization
    ):
        forward = 2 * read + written  # once for the statistics
        backward = 5 * read  # the same for their gradients; input and gradient each
    return LayerCost(
        name=layer.name,
        # Every place of the output takes one multiplication per weight.
        flops=2 * kernel_size * math.prod(output_shape[1:-1]) + inside.flops,
        inference_bytes=read + written,
        forward_bytes=forward,
        backward_bytes=backward,
        kernel_bytes=item_bytes * (kernel_size + inside.kernel_size),
    )


def _segments(nodes: Sequence[_Node], ends: Sequence[int]) -> list[list[_Node]]:
    """The nodes, cut behind those whose outputs are `ends`."""
    segments: list[list[_Node]] = [[]]
    for node in nodes:
        segments[-1].append(node)
        if node.output in ends:
            segments.append([])
    return segments


def _bytes_of_segments(
    segments: Sequence[Sequence[_Node]], clip: int
) -> tuple[int, int]:
    """Kept for the backward pass, and the most in it.

    What the segments between the first and the last compute is not kept, but for what
    goes from one to the next.
    """
    first, *blocks = segments
    if not blocks:
        return _kept_bytes(first), _peak_of_backward_pass(first, clip)
    *blocks, last = blocks
    between = sum(segment[-1].output_bytes for segment in (first, *blocks))
    base = _kept_bytes(first) + between
    # In their backward passes, one at a time, all keep what they compute.
    peaks = [_peak_of_backward_pass(segment, clip) for segment in (*blocks, last)]
    return base + _kept_bytes(last), base + max(peaks)


def _kept_bytes(nodes: Sequence[_Node]) -> int:
    kept = {key: size for node in nodes for key, size in node.kept.items()}
    return sum(kept.values()) + sum(node.inside_bytes for node in nodes)


def _peak_of_backward_pass(nodes: Sequence[_Node], clip: int) -> int:
    """Bytes at its worst moment: what earlier layers keep, and gradients underway."""
    kept_so_far: list[int] = []
    kept: dict[int, int] = {}
    inside = 0
    for node in nodes:
        kept |= node.kept
        inside += node.inside_bytes
        kept_so_far.append(sum(kept.values()) + inside)
    gradients = {nodes[-1].output: nodes[-1].output_bytes}
    peak = 0
    for node, kept_bytes in zip(reversed(nodes), reversed(kept_so_far), strict=True):
        gradients |= {key: size for key, size in node.inputs.items() if key != clip}
        peak = max(peak, kept_bytes + sum(gradients.values()))
        gradients.pop(node.output, None)
    return peak
