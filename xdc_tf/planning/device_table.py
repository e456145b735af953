"""Ceilings of devices, from their vendors' data sheets."""

from typing import NamedTuple

_GB, _GIB = 10**9, 2**30

# What the products of each precision run in: TensorFlow's float32 convolutions and
# matrix products use TF32 where a GPU has it.
PRODUCT_TYPES = ("float32", "bfloat16", "float16")


class Device(NamedTuple):
    """What one device can do at most.

    Attributes:
      name: as `find` takes it.
      product_flops: operations per second of dense products by type, one of
        PRODUCT_TYPES; two per multiplication and addition. A type that is missing has
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
    *,
    tflops: tuple[float, float, float],
    memory_gb_per_sec: float,
    memory_gib: float,
    link_gb_per_sec: float,
    source: str,
) -> Device:
    """`tflops` are those of PRODUCT_TYPES, dense; 0 for none."""
    return Device(
        name=name,
        product_flops={
            kind: value * 1e12
            for kind, value in zip(PRODUCT_TYPES, tflops, strict=True)
            if value
        },
        bytes_per_sec=memory_gb_per_sec * _GB,
        memory_bytes=memory_gib * _GIB,
        link_bytes_per_sec=link_gb_per_sec * _GB,
        source=source,
    )


# Data sheets quote some of these with sparsity, which doubles them, and links in both
# directions together; here they are dense, and one direction.
_GPUS = (
    _gpu(
        "v100",  # SXM2 with 32 GB: float32 on CUDA cores, float16 on tensor cores
        tflops=(15.7, 0, 125),
        memory_gb_per_sec=900,
        memory_gib=32,
        link_gb_per_sec=150,
        source="NVIDIA V100 Tensor Core GPU data sheet (SXM2)",
    ),
    _gpu(
        "a100-40gb",  # SXM4
        tflops=(156, 312, 312),
        memory_gb_per_sec=1555,
        memory_gib=40,
        link_gb_per_sec=300,
        source="NVIDIA A100 Tensor Core GPU data sheet (40GB SXM), TF32",
    ),
    _gpu(
        "a100-80gb",  # SXM4
        tflops=(156, 312, 312),
        memory_gb_per_sec=2039,
        memory_gib=80,
        link_gb_per_sec=300,
        source="NVIDIA A100 Tensor Core GPU data sheet (80GB SXM), TF32",
    ),
    _gpu(
        "h100",  # SXM5 with 80 GB; the sheet has 989 and 1,979 with sparsity
        tflops=(494.5, 989, 989),
        memory_gb_per_sec=3350,
        memory_gib=80,
        link_gb_per_sec=450,
        source="NVIDIA H100 Tensor Core GPU data sheet (SXM), TF32",
    ),
    _gpu(
        "l4",  # the sheet has 120 and 242 with sparsity; PCIe 4.0 x16
        tflops=(60, 121, 121),
        memory_gb_per_sec=300,
        memory_gib=24,
        link_gb_per_sec=32,
        source="NVIDIA L4 Tensor Core GPU data sheet, TF32",
    ),
    _gpu(
        "t4",  # float32 on CUDA cores, float16 on tensor cores; PCIe 3.0 x16
        tflops=(8.1, 0, 65),
        memory_gb_per_sec=320,
        memory_gib=16,
        link_gb_per_sec=16,
        source="NVIDIA T4 Tensor Core GPU data sheet",
    ),
    _gpu(
        # With float32 accumulation, as TensorFlow has it, which halves float16's rate
        # on GeForce; PCIe 4.0 x16.
        "rtx4090",
        tflops=(82.6, 165.2, 165.2),
        memory_gb_per_sec=1008,
        memory_gib=24,
        link_gb_per_sec=32,
        source="NVIDIA Ada GPU Architecture white paper, appendix A (RTX 4090), TF32",
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
        from xdc_tf.planning import this_machine  # TensorFlow is slow to import.

        return this_machine.measure()
    if name not in DEVICES:
        raise ValueError(
            f"--gpu={name} is unknown; choose one of {', '.join(sorted(DEVICES))}, or "
            f"{THIS} to measure this machine's."
        )
    return DEVICES[name]


def product_flops(device: Device, kind: str, *, key: str) -> float:
    """Operations per second of products of a type.

    Args:
      device: where.
      kind: one of PRODUCT_TYPES.
      key: of the configuration, that chose it.

    Raises:
      ValueError: if the device has no fast form of it.
    """
    if kind not in device.product_flops:
        raise ValueError(
            f"{device.name} has no fast products in {kind}, only in "
            f"{', '.join(device.product_flops)}; change config.{key}."
        )
    return device.product_flops[kind]
