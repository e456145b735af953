"""Large tensors in memory that NumPy has allocated.

NumPy allocates large arrays in large pages, TensorFlow in small ones; to touch the
small ones for the first time can take longer than what is then done with them.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_ALIGNMENT = 64  # bytes, of tensors


def empty(shape: Sequence[int]) -> np.ndarray:
    """An array of float32 that `as_tensor` takes as it is."""
    num_bytes = 4 * int(np.prod(shape))
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(np.float32).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """The same memory as a tensor on the CPU; the array must not change any more."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
