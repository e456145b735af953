"""Layers for training: convolution and batch norm as fast as this machine has them.

They compute what Keras's layers of the same names do, with the same weights, but choose
the operations. On a CPU a factorised 3-d convolution can be computed as a 3-d one or,
on a view of its tensors, as a 2-d one, and which of them is faster differs between the
output and the two gradients, and by type: in bfloat16 the gradients of TensorFlow's 2-d
convolution are about twenty times slower (`python -m benchmarks.convolutions`). On GPUs
the operations are Keras's; 2-d ones for clips were no faster there (docs/gpu.md).
"""

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.runtime import tuning

# How a convolution is computed.
PLANAR = "2d"  # output and gradients as 2-d convolutions
SPATIAL = "3d"  # as 3-d ones
MATMUL = "matmul"  # as 3-d ones; the kernel's gradient by matrix products

# On CPUs with oneDNN, by compute type and rank of the layer, of clips or of images;
# other types and devices take what Keras does. Without oneDNN the gradients of 3-d
# convolutions take up to a hundred times as long as those of 2-d ones.
FORMS = {
    ("float32", 2): SPATIAL,
    ("bfloat16", 3): MATMUL,
    ("bfloat16", 2): MATMUL,
}
# Gradients of kernels in space are faster as matrix products where a channel has few
# numbers.
_MOST_POSITIONS = 1024


@tf.autograph.experimental.do_not_convert  # starts faster
def convolve(
    clips: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int, int], form: str
) -> tf.Tensor:
    """3-d convolution with kernel // 2 zeros on each side.

    Args:
      clips: [B, T, H, W, C].
      kernel: [t, h, w, C, D], odd sizes; t or h and w are 1 in PLANAR.
      strides: in time, height and width.
      form: PLANAR, SPATIAL or MATMUL.

    Returns:
      [B, ceil(T / strides[0]), ceil(H / strides[1]), ceil(W / strides[2]), D].

    Raises:
      ValueError: on another kernel in these.
    """
    time, height, width = kernel.shape[:3]
    if form == SPATIAL:
        return _convolve_spatial(clips, kernel, strides)
    if form == MATMUL:
        return _convolve_matmul(clips, kernel, strides)
    if time > 1 and max(height, width) > 1:
        raise ValueError(
            f"A kernel of {time} x {height} x {width} has no 2-d form; use {SPATIAL!r}."
        )
    if time == 1 and strides[0] > 1:
        clips = clips[:, :: strides[0]]
        strides = (1, *strides[1:])
    return _convolve_planar(clips, kernel, strides)


def _convolve_spatial(clips, kernel, strides):
    if max(strides) == 1:
        return tf.nn.conv3d(clips, kernel, [1, 1, 1, 1, 1], "SAME")
    # "SAME" would pad the far side alone where the stride leaves a remainder.
    pads = _pads(kernel)
    if max(map(max, pads)):
        clips = tf.pad(clips, pads)
    return tf.nn.conv3d(clips, kernel, [1, *strides, 1], "VALID")


def _convolve_matmul(clips, kernel, strides):
    in_space = max(kernel.shape[1:3]) > 1
    positions = clips.shape[:4].num_elements() or 2 * _MOST_POSITIONS
    if max(strides) > 1 or in_space and positions > _MOST_POSITIONS:
        return _convolve_spatial(clips, kernel, strides)

    @tf.custom_gradient
    def differentiable(clips, kernel):
        def gradients(upstream):
            of_clips = tf.raw_ops.Conv3DBackpropInputV2(
                input_sizes=tf.stack(shape_of(clips)),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1, 1],
                padding="SAME",
            )
            return of_clips, _kernel_gradient(clips, upstream, kernel)

        return _convolve_spatial(clips, kernel, strides), gradients

    return differentiable(clips, kernel)


def _kernel_gradient(clips, upstream, kernel):
    """For each place in the kernel, a product over all positions that it reaches."""
    in_channels, out_channels = kernel.shape[3:]
    sizes = shape_of(clips)[1:4]

    def gradient(place):
        reach = [at - size // 2 for at, size in zip(place, kernel.shape, strict=False)]
        seen, by = (
            [
                slice(max(0, sign * step), size - max(0, -sign * step))
                for step, size in zip(reach, sizes, strict=True)
            ]
            for sign in (1, -1)
        )
        return tf.matmul(
            tf.reshape(clips[:, seen[0], seen[1], seen[2]], [-1, in_channels]),
            tf.reshape(upstream[:, by[0], by[1], by[2]], [-1, out_channels]),
            transpose_a=True,
        )

    gradients = [gradient(place) for place in np.ndindex(*kernel.shape[:3])]
    return tf.reshape(tf.stack(gradients), kernel.shape)


def _convolve_planar(clips, kernel, strides):
    planar_strides, pads = _planar(kernel, strides)
    output = tf.nn.conv2d(
        _images(clips, kernel), _planar_kernel(kernel), planar_strides, pads
    )
    batch, frames, rows, columns, _ = shape_of(clips)
    if kernel.shape[0] > 1:
        shape = [batch, shape_of(output)[1], rows, columns]
    else:
        shape = [batch, frames, *shape_of(output)[1:3]]
    return tf.reshape(output, [*shape, kernel.shape[-1]])


def _pads(kernel):
    sizes = [1, *kernel.shape[:3], 1]
    return [[size // 2, size // 2] for size in sizes]


def _planar(kernel, strides):
    """Strides and pads of the 2-d convolution."""
    pads = _pads(kernel)
    if kernel.shape[0] > 1:
        # Space is one axis of the images, which the kernel does not reach along.
        if max(strides[1:]) > 1:
            raise ValueError(f"strides={strides} with a kernel in time alone.")
        return (strides[0], 1), [[0, 0], pads[1], [0, 0], [0, 0]]
    return strides[1:], [[0, 0], pads[2], pads[3], [0, 0]]


def _planar_kernel(kernel):
    return kernel[:, 0] if kernel.shape[0] > 1 else kernel[0]


def _images(clips, kernel):
    """The view of clips [B, T, H, W, C] that a kernel in time, or in space, sees."""
    batch, frames, rows, columns, channels = shape_of(clips)
    if kernel.shape[0] > 1:
        return tf.reshape(clips, [batch, frames, rows * columns, channels])
    return tf.reshape(clips, [batch * frames, rows, columns, channels])


def shape_of(tensor: tf.Tensor) -> list:
    """Sizes, as numbers where they are known."""
    if None not in tensor.shape.as_list():
        return tensor.shape.as_list()
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]


def choose_form(layer: keras.layers.Layer) -> str:
    """The form of a Conv2D's or Conv3D's convolution on this machine."""
    size = layer.kernel_size
    if len(size) == 3 and size[0] > 1 and max(size[1:]) > 1:
        return SPATIAL
    stock = PLANAR if len(size) == 2 else SPATIAL
    if tf.config.list_physical_devices("GPU"):
        return stock
    if not tuning.uses_onednn():
        return PLANAR
    return FORMS.get((layer.compute_dtype, len(size)), stock)


class Conv3D(keras.layers.Conv3D):
    """Convolution of [B, T, H, W, C], padded by kernel // 2 whatever the stride.

    Make it with padding="same", whose output has the same size.
    """

    def call(self, inputs):
        """See convolve."""
        kernel = tf.convert_to_tensor(self.kernel, self.compute_dtype)
        output = convolve(inputs, kernel, self.strides, choose_form(self))
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
        clips, strides = inputs[:, tf.newaxis], (1, *self.strides)
        output = convolve(clips, kernel[tf.newaxis], strides, choose_form(self))[:, 0]
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
        shape = shape_of(inputs)
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
            for moving, before, of_batch in (
                (self.moving_mean, mean, batch_mean),
                (self.moving_variance, variance, batch_variance),
            ):
                moving.assign_sub((before - of_batch) * (1.0 - self.momentum))
        return tf.reshape(normalized, shape)
