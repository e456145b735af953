"""Layers of transformers for training, as fast as this machine has them.

They compute what Keras's layers do, with the same weights, by cheaper operations; and
draw in training from seeds that a run which was killed draws again.
"""

import contextlib
import contextvars
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from xdc_tf.models.fast_layers import shape_of

# [2] int64 tensor of the step that is traced; see random_seed.
_RANDOM_SEED: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar(
    "random_seed", default=None
)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """x P(X <= x) of a standard normal X.

    By the operations, and in the order, that TensorFlow's grappler knows after a matrix
    product: on a CPU all of it is computed at once in bfloat16.
    """
    half, one, root = (tf.constant(value, x.dtype) for value in (0.5, 1.0, 2**-0.5))
    return (tf.math.erf(x * root) + one) * half * x


def convertible_gelu(x: tf.Tensor) -> tf.Tensor:
    """The same in the order that TensorFlow Lite's converter knows."""
    half, root = (tf.constant(value, x.dtype) for value in (0.5, 2**-0.5))
    return half * x * (1 + tf.math.erf(root * x))


class Dense(keras.layers.Dense):
    """Product with a kernel along the last axis, a bias and an activation, of rows.

    Keras's puts the product's rows into their places before it adds the bias, and so
    keeps TensorFlow from computing both, and a GELU, at once on a CPU.
    """

    def call(self, inputs, training=None):
        """[..., D] to [..., units]."""
        del training
        shape = shape_of(inputs)
        kernel, bias = (
            tf.convert_to_tensor(weight, self.compute_dtype)
            for weight in (self.kernel, self.bias)
        )
        rows = tf.reshape(inputs, [-1, shape[-1]])
        rows = self.activation(tf.nn.bias_add(tf.matmul(rows, kernel), bias))
        return tf.reshape(rows, [*shape[:-1], self.units])


class ScaleAndShift(keras.layers.EinsumDense):
    """Product with a kernel along the last axis and sum with a bias, elementwise.

    Made as keras.layers.EinsumDense("b...d,d->b...d", bias_axes="...d", ...), which
    computes the same by a matrix product for each element: slower, and what TensorFlow
    Lite's converter makes of it does not compute.
    """

    def call(self, inputs):
        """See the class."""
        kernel, bias = (
            tf.convert_to_tensor(weight, self.compute_dtype)
            for weight in (self.kernel, self.bias)
        )
        return inputs * kernel + bias


class SelfAttention(keras.layers.MultiHeadAttention):
    """Attention of tokens to each other along one axis, by plain matrix products.

    Made with one of attention_axes, biases and no dropout, and called with its input
    twice. Keras's einsums take longer on a CPU (docs/training_speed.md).
    """

    def call(self, query, value, key=None, training=None):
        """[B, n, D] or [B, T, n, D] to the same; `query` alone is read."""
        del key, training
        if not self.weights:
            super().call(query, value)  # Keras 2 makes them where it computes
        settings = self.get_config()
        (axis,) = settings["attention_axes"]
        # The attended axis before the features.
        order = list(range(len(query.shape)))
        order[axis], order[-2] = order[-2], order[axis]
        tokens = query if axis == order[axis] else tf.transpose(query, order)
        shape, heads = shape_of(tokens), settings["num_heads"]
        weights = [
            tf.convert_to_tensor(weight, self.compute_dtype) for weight in self.weights
        ]
        rows = tf.reshape(tokens, [-1, shape[-1]])

        def project(kernel, bias):
            flat = tf.matmul(rows, tf.reshape(kernel, [shape[-1], -1]))
            flat = tf.nn.bias_add(flat, tf.reshape(bias, [-1]))
            apart = tf.reshape(flat, [-1, shape[-2], heads, kernel.shape[-1]])
            return tf.transpose(apart, [0, 2, 1, 3])

        queries, keys, values = (
            project(weights[2 * part], weights[2 * part + 1]) for part in range(3)
        )
        scale = tf.constant(settings["key_dim"] ** -0.5, queries.dtype)
        scores = tf.matmul(queries * scale, keys, transpose_b=True)
        sums = tf.matmul(tf.nn.softmax(scores), values)
        together = tf.reshape(
            tf.transpose(sums, [0, 2, 1, 3]), [-1, heads * settings["key_dim"]]
        )
        kernel = tf.reshape(weights[6], [heads * settings["key_dim"], -1])
        output = tf.nn.bias_add(tf.matmul(together, kernel), weights[7])
        output = tf.reshape(output, shape)
        return output if tokens is query else tf.transpose(output, order)


@contextlib.contextmanager
def random_seed(seed: tf.Tensor) -> Iterator[None]:
    """Within it layers that draw random numbers in training draw them from a seed.

    Args:
      seed: [2] int64, another one for each step and replica.
    """
    token = _RANDOM_SEED.set(seed)
    try:
        yield
    finally:
        _RANDOM_SEED.reset(token)


def current_seed() -> tf.Tensor | None:
    """That of the random_seed around the caller; None without one."""
    return _RANDOM_SEED.get()


class DropPath(keras.layers.Layer):
    """Stochastic depth, as keras.layers.Dropout computes it, from a given seed.

    Keras's draws cannot be repeated by a run that was killed. Training mode works
    within `random_seed` only.
    """

    def __init__(self, rate: float, noise_shape: tuple, **arguments):
        super().__init__(**arguments)
        self.rate = rate
        self.noise_shape = tuple(noise_shape)

    def get_config(self) -> dict[str, Any]:
        """What makes the layer again."""
        settings = {"rate": self.rate, "noise_shape": self.noise_shape}
        return super().get_config() | settings

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """That of the input; Keras 3 asks for it."""
        return input_shape

    def call(self, inputs, training=None):
        """Sets some examples to zero in training and scales up the others."""
        if not training:
            return inputs
        seed = _RANDOM_SEED.get()
        if seed is None:
            raise RuntimeError(f"{self.name} draws in training; give a random_seed.")
        shape = [
            tf.shape(inputs)[axis] if size is None else size
            for axis, size in enumerate(self.noise_shape)
        ]
        # Another draw for each layer, the same in every run.
        number = tf.constant([0, zlib.crc32(self.name.encode())], seed.dtype)
        draws = tf.random.stateless_uniform(shape, seed + number)
        kept = tf.cast(draws >= self.rate, inputs.dtype)
        return inputs * kept / tf.cast(1 - self.rate, inputs.dtype)
