"""The ceilings of the device that TensorFlow uses here, measured in some seconds."""

import os
import time
from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.client import device_lib

from xdc_tf.planning.device_table import PRODUCT_TYPES, THIS, Device

_MATRIX_SIDE = 3072
# A processor without a fast form of a type would take minutes for a large product.
_PROBE_SIDE = 256
_COPIED_NUMBERS = 1 << 26  # 256 MiB of float32
_REPEATS = 5


def measure() -> Device:
    """The first GPU, or all cores of the CPU without one.

    The fastest of a few large matrix products for each type, and of a few sums of a
    large vector and a number.
    """
    probed = {name: _product_flops(name, _PROBE_SIDE) for name in PRODUCT_TYPES}
    flops = {
        name: _product_flops(name, _MATRIX_SIDE)
        for name, rate in probed.items()
        if rate >= 0.1 * probed["float32"]
    }
    vector = tf.zeros([_COPIED_NUMBERS])
    secs = _fastest(tf.function(lambda a: a + 1.0), vector)
    bytes_per_sec = 2 * 4 * _COPIED_NUMBERS / secs
    return Device(
        name=THIS,
        product_flops=flops,
        bytes_per_sec=bytes_per_sec,
        memory_bytes=_memory_bytes(),
        link_bytes_per_sec=bytes_per_sec / 2,  # through memory that both share
        source="measured on this machine",
    )


def _product_flops(dtype: str, side: int) -> float:
    matrix = tf.cast(tf.random.normal([side, side]), dtype)
    product = tf.function(lambda a: tf.matmul(a, a))
    return 2 * side**3 / _fastest(product, matrix)


def _fastest(function: Callable, argument: tf.Tensor) -> float:
    function(argument)  # traces, and takes memory for the first time
    secs = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        # Fetching one number waits for a GPU, and costs next to nothing.
        tf.reshape(function(argument), [-1])[0].numpy()
        secs.append(time.perf_counter() - start)
    return min(secs)


def _memory_bytes() -> float:
    """What TensorFlow may take of the first GPU's memory, or the machine's."""
    if tf.config.list_logical_devices("GPU"):
        found = device_lib.list_local_devices()
        return next(d.memory_limit for d in found if d.device_type == "GPU")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
