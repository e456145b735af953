"""Ceilings of devices: of data sheets, or measured on this machine."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.client import device_lib

_GB, _GIB = 10**9, 2**30

# TensorFlow's float32 convolutions and matrix products use TF32 where a GPU has it.
MATMUL_DTYPES = ("float32", "bfloat16", "float16")
# Of the measurement.
_MATRIX_SIDE = 3072
# A processor without a fast form of a type would take minutes for a large product.
_PROBE_SIDE = 256
_COPIED_NUMBERS = 1 << 26  # 256 MiB of float32
_REPEATS = 5


class Device(NamedTuple):
    """Ceilings of one device.

    Attributes:
      name: as `find` takes it.
      product_flops: operations per second of dense matrix products by dtype, one of
        MATMUL_DTYPES; two per multiplication and addition. A dtype that is missing has
        no fast form on the device.
      bytes_per_sec: read and written in its memory.
      memory_bytes: of that memory.
      link_bytes_per_sec: to the other devices of its machine, in one direction.
      source: where the numbers are from.
    """

    name: str
    product_flops: dict[str, float]
    bytes_per_sec: float
    memory_bytes: float
    link_bytes_per_sec: float
    source: str


def _gpu(
    name: str,
    tflops: tuple[float, float, float],
    memory: tuple[float, float],
    link_gb_per_sec: float,
    source: str,
) -> Device:
    """Of MATMUL_DTYPES the dense TFLOP/s, 0 for none; GB/s and GiB of the memory."""
    rates = zip(MATMUL_DTYPES, tflops, strict=True)
    return Device(
        name=name,
        product_flops={kind: rate * 1e12 for kind, rate in rates if rate},
        bytes_per_sec=memory[0] * _GB,
        memory_bytes=memory[1] * _GIB,
        link_bytes_per_sec=link_gb_per_sec * _GB,
        source=f"NVIDIA {source}",
    )


_SHEET = "Tensor Core GPU data sheet"
# Data sheets quote some of these with sparsity, which doubles them, and links in both
# directions together; here they are dense, and one direction.
_GPUS = (
    # SXM2 with 32 GB: float32 on CUDA cores, float16 on tensor cores.
    _gpu("v100", (15.7, 0, 125), (900, 32), 150, f"V100 {_SHEET} (SXM2)"),
    # Both SXM4.
    _gpu(
        "a100-40gb", (156, 312, 312), (1555, 40), 300, f"A100 {_SHEET} (40GB SXM), TF32"
    ),
    _gpu(
        "a100-80gb", (156, 312, 312), (2039, 80), 300, f"A100 {_SHEET} (80GB SXM), TF32"
    ),
    # SXM5 with 80 GB; the sheet has 989 and 1,979 with sparsity.
    _gpu("h100", (494.5, 989, 989), (3350, 80), 450, f"H100 {_SHEET} (SXM), TF32"),
    # SXM5; the H100's rates with more and faster memory.
    _gpu("h200", (494.5, 989, 989), (4800, 141), 450, f"H200 {_SHEET} (SXM), TF32"),
    # The sheet has 120 and 242 with sparsity; PCIe 4.0 x16.
    _gpu("l4", (60, 121, 121), (300, 24), 32, f"L4 {_SHEET}, TF32"),
    # float32 on CUDA cores, float16 on tensor cores; PCIe 3.0 x16.
    _gpu("t4", (8.1, 0, 65), (320, 16), 16, f"T4 {_SHEET}"),
    # With float32 accumulation, as TensorFlow has it, which halves float16's rate on
    # GeForce; PCIe 4.0 x16.
    _gpu(
        "rtx4090",
        (82.6, 165.2, 165.2),
        (1008, 24),
        32,
        "Ada GPU Architecture white paper, appendix A (RTX 4090), TF32",
    ),
)
DEVICES = {device.name: device for device in _GPUS}
DEVICES["a100"] = DEVICES["a100-80gb"]
THIS = "this"


def find(name: str) -> Device:
    """The device of that name; THIS is measured, which takes some seconds.

    Raises:
      ValueError: if the name is unknown.
    """
    if name == THIS:
        return measure()
    if name not in DEVICES:
        raise ValueError(
            f"--gpu={name} is unknown; choose one of {', '.join(sorted(DEVICES))}, or "
            f"{THIS} to measure this machine's."
        )
    return DEVICES[name]


def matmul_flops(device: Device, dtype: str, *, key: str) -> float:
    """Operations per second of matrix products.

    Args:
      device: where.
      dtype: one of MATMUL_DTYPES.
      key: of the configuration, that chose it.

    Raises:
      ValueError: if the device has no fast form of it.
    """
    if dtype not in device.product_flops:
        raise ValueError(
            f"{device.name} has no fast matrix products in {dtype}, only in "
            f"{', '.join(device.product_flops)}; change config.{key}."
        )
    return device.product_flops[dtype]


def measure() -> Device:
    """Measures the first GPU, or all cores of the CPU without one, in some seconds.

    The fastest of a few large matrix products for each type, and of a few sums of a
    large vector and a number.
    """
    probed = {dtype: _measured_flops(dtype, _PROBE_SIDE) for dtype in MATMUL_DTYPES}
    flops = {
        dtype: _measured_flops(dtype, _MATRIX_SIDE)
        for dtype, rate in probed.items()
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


def _measured_flops(dtype: str, side: int) -> float:
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
        devices = device_lib.list_local_devices()
        return next(d.memory_limit for d in devices if d.device_type == "GPU")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
