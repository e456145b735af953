"""How long the parts of a round take: what bounds them, and the time at that bound.

A layer takes as long as its operations at a fraction of the device's peak, or as its
activations at the rate of the device's memory, whichever is longer; layers follow one
another. A part whose records or features come slower than that takes as long as they.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.planning import device_table
from xdc_tf.planning.device_table import Device
from xdc_tf.planning.operations import EncoderCost
from xdc_tf.planning.run_size import RunSize

EXTRACTION, CLUSTERING, TRAINING, HELD_OUT = (
    "extraction",
    "k-means",
    "training",
    "held-out",
)

# Of kmeans.assignment, over centroids that stay as they are.
_BALANCING_PASSES = 20


class Efficiency(NamedTuple):
    """Fraction of a device's peak that matrix products reach, by part of a round."""

    training: float
    extraction: float
    kmeans: float


# Measured by `python -m benchmarks.plan_check`: float32, a CPU with AVX-512.
CPU_EFFICIENCY = Efficiency(training=0.74, extraction=0.85, kmeans=0.66)
# Of an H200 in bfloat16, by `python -m benchmarks.gpu` (docs/gpu.md): what is not a
# matrix product takes most of the time there. Extraction is taken to be as training.
GPU_EFFICIENCY = Efficiency(training=0.11, extraction=0.11, kmeans=0.03)


def default_efficiency(device: Device) -> Efficiency:
    """Of this machine's CPU, or of GPUs: its own or one of the table."""
    if device.name == device_table.THIS and not tf.config.list_physical_devices("GPU"):
        return CPU_EFFICIENCY
    return GPU_EFFICIENCY


def parse_efficiency(texts: Sequence[str] | None) -> Efficiency | None:
    """One number for all parts, or one for each; None for None.

    Raises:
      ValueError: on any other list, or numbers outside of (0, 1].
    """
    if texts is None:
        return None
    try:
        fractions = [float(text) for text in texts]
    except ValueError:
        fractions = []
    if len(fractions) not in (1, 3) or not all(0 < value <= 1 for value in fractions):
        raise ValueError(
            f"--efficiency={','.join(texts)} must be one number in (0, 1], or three: "
            "for training, extraction and k-means."
        )
    return Efficiency(*(fractions * 3)[:3])


class Cluster(NamedTuple):
    """The machines of a run.

    Attributes:
      device: each of them.
      num_devices: over all machines.
      devices_per_machine: the most in one.
      storage_bytes_per_sec: that one machine reads.
      network_bytes_per_sec: of one machine, in one direction.
    """

    device: Device
    num_devices: int
    devices_per_machine: int
    storage_bytes_per_sec: float
    network_bytes_per_sec: float

    @property
    def num_machines(self) -> int:
        """Machines that the devices fill."""
        return -(-self.num_devices // self.devices_per_machine)


class Part(NamedTuple):
    """A part of the run.

    Attributes:
      name: EXTRACTION, CLUSTERING, TRAINING or HELD_OUT.
      secs_per_round: mean over the times that it is done.
      total_secs: of the whole run.
      bound: "devices" or "storage".
      clips_per_sec: that the input has to deliver; 0 for k-means.
      bytes_per_sec: that storage has to deliver so that devices do not wait.
    """

    name: str
    secs_per_round: float
    total_secs: float
    bound: str
    clips_per_sec: float
    bytes_per_sec: float


def forward_secs(
    encoder: EncoderCost, batch: int, *, flops: float, bytes_per_sec: float
) -> float:
    """Seconds of a batch in evaluation mode.

    Args:
      encoder: its cost for one clip.
      batch: clips.
      flops: operations per second that matrix products reach.
      bytes_per_sec: of the device's memory.
    """
    return sum(
        max(
            batch * layer.flops / flops,
            (batch * layer.inference_bytes + layer.kernel_bytes) / bytes_per_sec,
        )
        for layer in encoder.layers
    )


def gradient_secs(
    encoder: EncoderCost, batch: int, *, flops: float, bytes_per_sec: float
) -> float:
    """Seconds of a batch's forward and backward pass in training mode.

    Arguments as for forward_secs.
    """
    return sum(
        layer.num_forward
        * max(
            batch * layer.flops / flops,
            (batch * layer.forward_bytes + layer.kernel_bytes) / bytes_per_sec,
        )
        + max(
            2 * batch * layer.flops / flops,
            (batch * layer.backward_bytes + 2 * layer.kernel_bytes) / bytes_per_sec,
        )
        for layer in encoder.layers
    )


def exchange_secs(cluster: Cluster, num_bytes: int) -> float:
    """Seconds to sum up gradients over all devices, each link used in a ring."""
    if cluster.num_devices == 1:
        return 0.0
    rate = cluster.device.link_bytes_per_sec
    if cluster.num_machines > 1:
        rate = min(rate, cluster.network_bytes_per_sec)
    return 2 * (1 - 1 / cluster.num_devices) * num_bytes / rate


def step_secs(size: RunSize, cluster: Cluster, efficiency: Efficiency) -> float:
    """Seconds of a training step."""
    device = cluster.device
    peak = device_table.matmul_flops(device, size.matmul_dtype, key="precision")
    batch = size.batch_size // cluster.num_devices
    encoders = sum(
        gradient_secs(
            encoder,
            batch,
            flops=efficiency.training * peak,
            bytes_per_sec=device.bytes_per_sec,
        )
        for encoder in size.encoders.values()
    )
    # The gradient is read, weight and slots are read and written, all float32.
    update_bytes = 4 * size.num_weights * (3 + 2 * size.slots_per_weight)
    return (
        encoders
        + update_bytes / device.bytes_per_sec
        + exchange_secs(cluster, 4 * size.num_weights)
    )


def clips_secs(
    encoders: Iterable[EncoderCost],
    size: RunSize,
    cluster: Cluster,
    efficiency: Efficiency,
) -> float:
    """Seconds per clip in evaluation mode, over all devices."""
    peak = device_table.matmul_flops(cluster.device, size.matmul_dtype, key="precision")
    batch = size.features_batch_size // cluster.num_devices
    return (
        sum(
            forward_secs(
                encoder,
                batch,
                flops=efficiency.extraction * peak,
                bytes_per_sec=cluster.device.bytes_per_sec,
            )
            for encoder in encoders
        )
        / size.features_batch_size
    )


def kmeans_secs(
    size: RunSize, cluster: Cluster, efficiency: Efficiency
) -> tuple[float, float]:
    """Seconds of a round's k-means, by its operations and memory and by storage.

    All iterations are counted; a fixed point or a tolerance ends a fit earlier.
    """
    kmeans, device = size.kmeans, cluster.device
    half = "bfloat16" if "bfloat16" in device.product_flops else "float16"
    single = device_table.matmul_flops(device, "float32", key="kmeans.precision")
    peak = single
    if kmeans.precision == "mixed":
        peak = device_table.matmul_flops(device, half, key="kmeans.precision")
    num_centroids = sum(kmeans.clusters_of_heads) * kmeans.num_restarts
    iterations = kmeans.num_iterations + (_BALANCING_PASSES if kmeans.balanced else 0)
    # The rows are checked before the iterations and labelled after them.
    passes = iterations + 2 + bool(kmeans.pca_components)
    device_secs = storage_secs = 0.0
    for clustering in size.clusterings:
        width = clustering.fitted_width
        flops = 2.0 * size.num_videos * width * num_centroids
        secs = iterations * flops / peak + flops / single
        if kmeans.pca_components:
            projections = passes if clustering.from_files else 1
            secs += (
                2.0
                * size.num_videos
                * clustering.width
                * (clustering.width + projections * width)
                / single
            )
        by_memory = 4.0 * size.num_videos * width * passes / device.bytes_per_sec
        device_secs += max(secs / efficiency.kmeans, by_memory) / cluster.num_devices
        read = size.feature_bytes * size.num_videos * clustering.width
        storage_secs += read * (passes if clustering.from_files else 1)
    return device_secs, storage_secs / _storage(cluster)


def parts(
    size: RunSize, cluster: Cluster, efficiency: Efficiency, *, bytes_per_clip: float
) -> list[Part]:
    """The parts of the run, in the order of a round; those that it does not have not.

    Args:
      size: of the run.
      cluster: its machines.
      efficiency: of matrix products.
      bytes_per_clip: that are read of a record.
    """
    extraction = _part_of_clips(
        EXTRACTION,
        clips_secs(size.folded.values(), size, cluster, efficiency),
        num_clips=sum(size.num_extracted) * size.clips_per_video,
        bytes_per_clip=bytes_per_clip,
        times=len(size.num_extracted) or 1,
        cluster=cluster,
    )
    training = _part_of_clips(
        TRAINING,
        step_secs(size, cluster, efficiency) / size.batch_size,
        num_clips=size.steps_per_round * size.batch_size * size.num_rounds,
        bytes_per_clip=bytes_per_clip,
        times=size.num_rounds,
        cluster=cluster,
    )
    held_out = _part_of_clips(
        HELD_OUT,
        clips_secs(size.encoders.values(), size, cluster, efficiency),
        num_clips=size.num_held_out * size.epochs_per_round * size.num_rounds,
        bytes_per_clip=bytes_per_clip,
        times=size.num_rounds,
        cluster=cluster,
    )
    run_parts = [training]
    if size.num_extracted:
        clustering = _clustering(size, cluster, efficiency)
        run_parts = [extraction, clustering, training]
    if size.num_held_out:
        run_parts.append(held_out)
    return run_parts


def _clustering(size: RunSize, cluster: Cluster, efficiency: Efficiency) -> Part:
    by_devices, by_storage = kmeans_secs(size, cluster, efficiency)
    secs = max(by_devices, by_storage)
    return Part(
        name=CLUSTERING,
        secs_per_round=secs,
        total_secs=secs * (size.num_rounds + 1),
        bound="storage" if by_storage > by_devices else "devices",
        clips_per_sec=0.0,
        bytes_per_sec=by_storage * _storage(cluster) / by_devices,
    )


def _part_of_clips(
    name, secs_per_clip, *, num_clips, bytes_per_clip, times, cluster
) -> Part:
    by_devices = num_clips * secs_per_clip
    by_storage = num_clips * bytes_per_clip / _storage(cluster)
    total = max(by_devices, by_storage)
    return Part(
        name=name,
        secs_per_round=total / times,
        total_secs=total,
        bound="storage" if by_storage > by_devices else "devices",
        clips_per_sec=1 / secs_per_clip,
        bytes_per_sec=bytes_per_clip / secs_per_clip,
    )


def _storage(cluster) -> float:
    return cluster.storage_bytes_per_sec * cluster.num_machines
