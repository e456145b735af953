"""Layers that both encoders are built from: convolution, batch norm, activation.

Stock Keras layers, so that a saved `.keras` encoder opens without this project; or, for
training, those of `fast_layers`, which have the same names and weights. For inference
alone batch norm is folded into the convolutions: in evaluation mode it is a scale and a
shift per channel, and a convolution before it can do both: kernel * scale, and a bias.
"""

import collections
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.models import fast_layers, token_layers

# Depth 4 has one stage; it is for trying things out, and no published network has it.
BLOCKS_PER_STAGE = {4: (1,), 10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# What stands for a layer in a folded copy.
_FOLDED: dict[type, Any] = {
    keras.layers.EinsumDense: token_layers.ScaleAndShift,
    keras.layers.Dense: token_layers.Dense,
    keras.layers.MultiHeadAttention: token_layers.SelfAttention,
}
# Not other subclasses of Keras's, whose kernels have other axes.
_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    fast_layers.Conv2D,
    fast_layers.Conv3D,
)


class LayerSettings(NamedTuple):
    """What every layer of an encoder shares.

    Attributes:
      batch_norm_momentum: fraction of the moving statistics kept at an update.
      synchronized_batch_norm: statistics over all replicas instead of each alone.
      weight_decay: coefficient of an L2 penalty on kernels, w/2 * ||kernel||^2, whose
        gradient is w * kernel as in SGD with weight decay.
      dtype: Keras dtype policy, "float32", "mixed_bfloat16" or "mixed_float16".
      seed: initial weights follow from it.
      fast: the layers of `fast_layers` instead of Keras's own.
    """

    batch_norm_momentum: float = 0.9
    synchronized_batch_norm: bool = False
    weight_decay: float = 0.0
    dtype: str = "float32"
    seed: int = 0
    fast: bool = False


def check_resnet(
    modality: str,
    architecture: str,
    depth: int,
    width: float,
    *,
    among: Collection[str],
    least_planes: int,
) -> int:
    """The channels of a residual network's first stage; see the encoders' `build`.

    Raises:
      ValueError: on an architecture that is not among those, another depth, or a width
        that leaves fewer channels.
    """
    if architecture not in among:
        raise ValueError(
            f"{modality}_encoder.architecture={architecture!r} is not one of "
            f"{', '.join(among)}."
        )
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(
            f"{modality}_encoder.depth={depth} is not one of "
            f"{sorted(BLOCKS_PER_STAGE)}."
        )
    planes = int(64 * width)
    if planes < least_planes:
        raise ValueError(
            f"{modality}_encoder.width={width} leaves fewer than {least_planes} "
            "channels."
        )
    return planes


class LayerMaker:
    """Makes an encoder's layers; counts them, so that each has a seed of its own."""

    def __init__(self, settings: LayerSettings, *, batch_norm_epsilon: float):
        self._settings = settings
        self._batch_norm_epsilon = batch_norm_epsilon
        self._num_made = 0

    def conv(
        self,
        x,
        filters: int,
        *,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        name: str,
        use_bias: bool = False,
    ):
        """2-d or 3-d convolution, padded by kernel // 2 on each side.

        The padding is symmetric also where the stride is above one, as in PyTorch
        (Keras's "same" then pads the far side only), so that weights carry over.
        """
        rank = len(kernel_size)
        layers = fast_layers if self._settings.fast else keras.layers
        layer = {2: layers.Conv2D, 3: layers.Conv3D}[rank]
        padding = "same"
        if max(strides) > 1 and not self._settings.fast:
            padding = "valid"
            pads = tuple(size // 2 for size in kernel_size)
            if max(pads):
                pad = {2: keras.layers.ZeroPadding2D, 3: keras.layers.ZeroPadding3D}
                x = pad[rank](pads, dtype=self._settings.dtype, name=f"{name}_pad")(x)
        self._num_made += 1
        seed = (self._settings.seed * 1009 + self._num_made) % 2**31
        decay = self._settings.weight_decay
        return layer(
            filters,
            tuple(kernel_size),
            tuple(strides),
            padding=padding,
            use_bias=use_bias,
            # He initialisation over the inputs, for layers that a ReLU follows.
            kernel_initializer=keras.initializers.HeNormal(seed=seed),
            kernel_regularizer=keras.regularizers.L2(decay / 2) if decay else None,
            dtype=self._settings.dtype,
            name=name,
        )(x)

    def norm(self, x, *, name: str):
        """Batch normalisation over all but the channels."""
        layers = fast_layers if self._settings.fast else keras.layers
        return layers.BatchNormalization(
            epsilon=self._batch_norm_epsilon,
            momentum=self._settings.batch_norm_momentum,
            synchronized=self._settings.synchronized_batch_norm,
            dtype=self._settings.dtype,
            name=name,
        )(x)

    def relu(self, x, *, name: str):
        """Rectified linear unit."""
        return keras.layers.ReLU(dtype=self._settings.dtype, name=name)(x)

    def max_pool(self, x, *, name: str):
        """3 x 3 max-pooling of space with stride 2, padded by 1, after a ReLU."""
        dtype, pad_name = self._settings.dtype, f"{name}_pad"
        if len(x.shape) == 4:
            x = keras.layers.ZeroPadding2D(1, dtype=dtype, name=pad_name)(x)
            return keras.layers.MaxPooling2D(3, 2, dtype=dtype, name=name)(x)
        x = keras.layers.ZeroPadding3D((0, 1, 1), dtype=dtype, name=pad_name)(x)
        return keras.layers.MaxPooling3D((1, 3, 3), (1, 2, 2), dtype=dtype, name=name)(
            x
        )

    def add(self, x, y, *, name: str):
        """Sum of a block's two branches."""
        return keras.layers.Add(dtype=self._settings.dtype, name=name)([x, y])

    def features(self, x, *, pool: str):
        """Mean or max over time and space, in float32 whatever the compute type."""
        layer = {
            ("mean", 4): keras.layers.GlobalAveragePooling2D,
            ("mean", 5): keras.layers.GlobalAveragePooling3D,
            ("max", 4): keras.layers.GlobalMaxPooling2D,
            ("max", 5): keras.layers.GlobalMaxPooling3D,
        }[pool, len(x.shape)]
        return layer(dtype="float32", name="features")(x)


def fold(encoder: keras.Model, *, convertible: bool = False) -> keras.Model:
    """A copy that computes what the encoder does in evaluation mode, in fewer layers.

    Every batch norm that alone reads a convolution's output goes into its kernel and
    bias; any other one, such as that after a sum, stays. Make the copy in the strategy
    scope of the encoder, from which it takes names and dtype policies too.

    Args:
      encoder: a functional model of one input and one output, channels last, in which
        each layer occurs once, EinsumDense and MultiHeadAttention only as those of
        fast_layers that stand for them are.
      convertible: by operations that converters to other runtimes know, if slower.

    Returns:
      A model of its own variables, none of them trainable, filled by copy_folded.
    """
    norms = _norms_of_convolutions(encoder)
    gone = {norm.name for norm in norms.values()}
    made: dict[int, Any] = {}  # by the id of the encoder's tensor, that of the copy
    for layer in encoder.layers:  # in the order in which they compute
        inputs = [made.get(id(tensor)) for tensor in tf.nest.flatten(layer.input)]
        if layer.name in gone:
            made[id(layer.output)] = inputs[0]
            continue
        config = layer.get_config()
        if layer.name in norms:
            # Without random numbers that copy_folded would overwrite.
            config |= {"use_bias": True, "kernel_initializer": "zeros"}
        if config.get("activation") in ("gelu", token_layers.gelu):
            config["activation"] = (
                token_layers.convertible_gelu if convertible else token_layers.gelu
            )
        copy = _FOLDED.get(type(layer), type(layer)).from_config(config)
        if isinstance(layer, keras.layers.InputLayer):
            made[id(layer.output)] = copy.output
        else:
            made[id(layer.output)] = _call(copy, inputs)
    folded = keras.Model(
        made[id(encoder.input)], made[id(encoder.output)], name=encoder.name
    )
    folded.trainable = False
    copy_folded(encoder, folded)
    return folded


def _call(layer: keras.layers.Layer, inputs: list):
    if isinstance(layer, keras.layers.MultiHeadAttention):
        # The generations differ in how often they list what it reads twice.
        return layer(inputs[0], inputs[0])
    return layer(inputs if len(inputs) > 1 else inputs[0])


def copy_folded(encoder: keras.Model, folded: keras.Model) -> None:
    """Gives a folded copy the encoder's present weights, in place.

    Variables are assigned to, so functions that were traced with the copy go on working
    and compute with the new weights. Products are made in float64 on the host.

    Args:
      encoder: what `folded` was made of, or one of the same form.
      folded: a model by `fold`.
    """
    norms = _norms_of_convolutions(encoder)
    gone = {norm.name for norm in norms.values()}
    for layer in encoder.layers:
        if layer.name in gone:
            continue
        weights = layer.get_weights()
        if layer.name in norms:
            weights = _folded_weights(weights, norms[layer.name])
        folded.get_layer(layer.name).set_weights(weights)


def _norms_of_convolutions(
    encoder: keras.Model,
) -> dict[str, keras.layers.BatchNormalization]:
    """By a convolution's name, the batch norm that can become part of it."""
    convolutions = {
        id(layer.output): layer
        for layer in encoder.layers
        if type(layer) in _CONVOLUTIONS and layer.activation is keras.activations.linear
    }
    read = [
        tensor for layer in encoder.layers for tensor in tf.nest.flatten(layer.input)
    ]
    num_readers = collections.Counter(map(id, [*read, encoder.output]))
    return {
        convolutions[id(layer.input)].name: layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and id(layer.input) in convolutions
        and num_readers[id(layer.input)] == 1
    }


def _folded_weights(
    weights: list[np.ndarray], norm: keras.layers.BatchNormalization
) -> list[np.ndarray]:
    """A convolution's [kernel] or [kernel, bias] and its norm -> [kernel, bias]."""
    kernel, *bias = (array.astype(np.float64) for array in weights)
    mean, variance = (
        statistic.numpy().astype(np.float64)
        for statistic in (norm.moving_mean, norm.moving_variance)
    )
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= norm.gamma.numpy()
    shift = (sum(bias) - mean) * scale
    if norm.center:
        shift += norm.beta.numpy()
    return [array.astype(np.float32) for array in (kernel * scale, shift)]
