"""Layers that both encoders are built from: convolution, batch norm, activation.

Stock Keras layers, so that a saved `.keras` encoder opens without this project; or, for
training, those of `fast_layers`, which have the same names and weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from xdc_tf.models import fast_layers

# Depth 4 has one stage; it is for trying things out, and no published network has it.
BLOCKS_PER_STAGE = {4: (1,), 10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


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
