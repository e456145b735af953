"""Encoders for inference alone, whose batch norm is part of their convolutions.

In evaluation mode batch norm is a scale and a shift per channel, and a convolution
before it can do both: kernel * scale, and a bias.
"""

import collections
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.models import fast_layers

# Not other subclasses of Keras's, whose kernels have other axes.
_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    fast_layers.Conv2D,
    fast_layers.Conv3D,
)


def fold(encoder: keras.Model) -> keras.Model:
    """A copy that computes what the encoder does in evaluation mode, in fewer layers.

    Every batch norm that alone reads a convolution's output goes into its kernel and
    bias; any other one, such as that after a sum, stays. Make the copy in the strategy
    scope of the encoder, from which it takes names and dtype policies too.

    Args:
      encoder: a functional model of one input and one output, channels last, in which
        each layer occurs once.

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
        copy = type(layer).from_config(config)
        if isinstance(layer, keras.layers.InputLayer):
            made[id(layer.output)] = copy.output
        else:
            made[id(layer.output)] = copy(inputs if len(inputs) > 1 else inputs[0])
    folded = keras.Model(
        made[id(encoder.input)], made[id(encoder.output)], name=encoder.name
    )
    folded.trainable = False
    copy_folded(encoder, folded)
    return folded


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
