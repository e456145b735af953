"""Convolution and batch norm as fast as this machine has them, for training.

They compute what Keras's layers of the same names do, with the same weights, but choose
the operations. On a CPU a factorised 3-d convolution can be computed as a 3-d one or,
on a view of its tensors, as a 2-d one, and which of them is faster differs between the
output and the two gradients, and by type: in bfloat16 the gradients of TensorFlow's 2-d
convolution are about twenty times slower (`python -m benchmarks.convolutions`). On GPUs
the operations are Keras's.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

PLANAR, SPATIAL = "2d", "3d"


class Forms(NamedTuple):
    """How a convolution is computed, PLANAR or SPATIAL.

    Attributes:
      output: in the forward pass.
      input_gradient: in the backward pass, to the layer before.
      kernel_gradient: in the backward pass, for the update.
    """

    output: str
    input_gradient: str
    kernel_gradient: str


# On CPUs, by compute type; other types and devices take SPATIAL for 3-d kernels and
# PLANAR for 2-d ones throughout, as Keras does.
FORMS = {
    "float32": Forms(PLANAR, SPATIAL, PLANAR),
    "bfloat16": Forms(SPATIAL, SPATIAL, SPATIAL),
}


def convolve(
    clips: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int, int], forms: Forms
) -> tf.Tensor:
    """3-d convolution with kernel // 2 zeros on each side.

    Args:
      clips: [B, T, H, W, C].
      kernel: [t, h, w, C, D], odd sizes; t or h and w are 1 for a PLANAR form.
      strides: in time, height and width.
      forms: how to compute it.

    Returns:
      [B, ceil(T / strides[0]), ceil(H / strides[1]), ceil(W / strides[2]), D].
    """
    if len(set(forms)) == 1:
        return _CONVOLVE[forms.output](clips, kernel, strides)

    @tf.custom_gradient
    def differentiable(clips, kernel):
        def gradients(upstream):
            found = []
            for form, source in (
                (forms.input_gradient, clips),
                (forms.kernel_gradient, kernel),
            ):
                with tf.GradientTape() as tape:
                    tape.watch(source)
                    # Nothing needs this output: a graph computes the gradient alone.
                    output = _CONVOLVE[form](clips, kernel, strides)
                found.append(tape.gradient(output, source, upstream))
            return found

        return _CONVOLVE[forms.output](clips, kernel, strides), gradients

    return differentiable(clips, kernel)


def _convolve_spatial(clips, kernel, strides):
    if max(strides) == 1:
        return tf.nn.conv3d(clips, kernel, [1, 1, 1, 1, 1], "SAME")
    # "SAME" would pad the far side alone where the stride leaves a remainder.
    pads = [[size // 2, size // 2] for size in kernel.shape[:3]]
    if any(map(any, pads)):
        clips = tf.pad(clips, [[0, 0], *pads, [0, 0]])
    return tf.nn.conv3d(clips, kernel, [1, *strides, 1], "VALID")


def _convolve_planar(clips, kernel, strides):
    time, height, width = kernel.shape[:3]
    pads = [[size // 2, size // 2] for size in kernel.shape[:3]]
    if time == 1:
        clips = clips[:, :: strides[0]]
        batch, frames, rows, columns, channels = _shape(clips)
        images = tf.reshape(clips, [batch * frames, rows, columns, channels])
        output = tf.nn.conv2d(
            images, kernel[0], strides[1:], [[0, 0], pads[1], pads[2], [0, 0]]
        )
        return tf.reshape(output, [batch, frames, *_shape(output)[1:]])
    if (height, width) != (1, 1):
        raise ValueError(
            f"A kernel of {time} x {height} x {width} has no 2-d form; use '3d'."
        )
    clips = clips[:, :, :: strides[1], :: strides[2]]
    batch, frames, rows, columns, channels = _shape(clips)
    images = tf.reshape(clips, [batch, frames, rows * columns, channels])
    output = tf.nn.conv2d(
        images, kernel[:, 0], [strides[0], 1], [[0, 0], pads[0], [0, 0], [0, 0]]
    )
    frames = _shape(output)[1]
    return tf.reshape(output, [batch, frames, rows, columns, kernel.shape[-1]])


_CONVOLVE = {SPATIAL: _convolve_spatial, PLANAR: _convolve_planar}


def _shape(tensor: tf.Tensor) -> list:
    """Sizes, as numbers where they are known."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]


def _forms(layer: keras.layers.Layer, kernel_size: tuple[int, ...]) -> Forms:
    if len(kernel_size) == 3 and kernel_size[0] > 1 and max(kernel_size[1:]) > 1:
        return Forms(SPATIAL, SPATIAL, SPATIAL)
    stock = PLANAR if len(kernel_size) == 2 else SPATIAL
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    fast = None if on_gpu else FORMS.get(layer.compute_dtype)
    return fast or Forms(stock, stock, stock)


class Conv3D(keras.layers.Conv3D):
    """Convolution of [B, T, H, W, C], padded by kernel // 2 whatever the stride.

    Make it with padding="same", whose output has the same size.
    """

    def call(self, inputs):
        """See convolve."""
        kernel = tf.convert_to_tensor(self.kernel, self.compute_dtype)
        forms = _forms(self, self.kernel_size)
        output = convolve(inputs, kernel, self.strides, forms)
        if self.use_bias:
            bias = tf.convert_to_tensor(self.bias, self.compute_dtype)
            output = tf.nn.bias_add(output, bias)
        return output


class Conv2D(keras.layers.Conv2D):
    """Convolution of [B, H, W, C], padded by kernel // 2 whatever the stride.

    Make it with padding="same", whose output has the same size.
    """

    def call(self, inputs):
        """See convolve."""
        kernel = tf.convert_to_tensor(self.kernel, self.compute_dtype)
        forms = _forms(self, self.kernel_size)
        output = convolve(
            inputs[:, tf.newaxis], kernel[tf.newaxis], (1, *self.strides), forms
        )[:, 0]
        if self.use_bias:
            bias = tf.convert_to_tensor(self.bias, self.compute_dtype)
            output = tf.nn.bias_add(output, bias)
        return output


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over all but the channels, in one fused operation.

    The moving variance takes the unbiased variance of a batch, as PyTorch's does and
    Keras's for images; statistics over all replicas and float64 are left to Keras.
    """

    def call(self, inputs, training=None, **arguments):
        """Normalises by the batch in training, by the moving statistics otherwise."""
        if self.synchronized or self.compute_dtype == "float64":
            return super().call(inputs, training=training, **arguments)
        shape = _shape(inputs)
        images = inputs
        if len(shape) == 5:
            images = tf.reshape(inputs, [shape[0], shape[1] * shape[2], *shape[3:]])
        by_batch = bool(training) and self.trainable
        mean, variance = (
            tf.convert_to_tensor(statistic, tf.float32)
            for statistic in (self.moving_mean, self.moving_variance)
        )
        normalized, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            images,
            scale=tf.convert_to_tensor(self.gamma, tf.float32),
            offset=tf.convert_to_tensor(self.beta, tf.float32),
            mean=None if by_batch else mean,
            variance=None if by_batch else variance,
            epsilon=self.epsilon,
            is_training=by_batch,
        )
        if by_batch:
            for statistic, before, found in (
                (self.moving_mean, mean, batch_mean),
                (self.moving_variance, variance, batch_variance),
            ):
                share = 1.0 - self.momentum
                statistic.assign_sub((before - found) * share)
        return tf.reshape(normalized, shape)
