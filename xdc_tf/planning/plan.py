"""What a run of a configuration needs: memory, disk, reading, decoding, time, money."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xdc_tf.planning import needs, run_size, times
from xdc_tf.planning.needs import Memory, Storage
from xdc_tf.planning.run_size import Recordings, RunSize
from xdc_tf.planning.times import Cluster, Efficiency, Part
from xdc_tf.training.configuration import Config

# Fraction of a device's memory that TensorFlow gets.
USABLE_FRACTION = 0.92

# Features of an encoder of half the usual width: from there up, measured times are near
# those of a plan (docs/planning.md).
_NARROW = 256


class Plan(NamedTuple):
    """A run's needs.

    Attributes:
      size: what it was counted from.
      cluster: the machines.
      recordings: the videos.
      efficiency: of matrix products.
      memory: of one device.
      usable_bytes: of one device's memory.
      largest_batch: clips of a training step for which one device has memory.
      step_secs: of a training step.
      storage: on disk.
      parts: with times and rates of reading.
      decoding_cores: by part, of all machines, so that devices do not wait.
      price_per_device_hour: in any currency; None without a price.
      warnings: what does not fit.
    """

    size: RunSize
    cluster: Cluster
    recordings: Recordings
    efficiency: Efficiency
    memory: Memory
    usable_bytes: float
    largest_batch: int
    step_secs: float
    storage: Storage
    parts: list[Part]
    decoding_cores: dict[str, float]
    price_per_device_hour: float | None
    warnings: list[str]

    @property
    def total_secs(self) -> float:
        """Seconds of all parts."""
        return sum(part.total_secs for part in self.parts)

    @property
    def device_hours(self) -> float:
        """Hours of all devices."""
        return self.total_secs / 3600 * self.cluster.num_devices

    @property
    def cost(self) -> float | None:
        """Price of the device hours; None without one."""
        if self.price_per_device_hour is None:
            return None
        return self.price_per_device_hour * self.device_hours


def make(
    config: Config,
    *,
    num_videos: int,
    cluster: Cluster,
    recordings: Recordings,
    efficiency: Efficiency,
    decoded_pixels_per_sec: float,
    price_per_device_hour: float | None = None,
    num_classes: int | None = None,
) -> Plan:
    """Plans a run.

    Args:
      config: of the run.
      num_videos: examples of the data set.
      cluster: the machines.
      recordings: the videos on average.
      efficiency: of matrix products on its devices.
      decoded_pixels_per_sec: of whole JPEG frames by one CPU core.
      price_per_device_hour: in any currency, or None.
      num_classes: of the records' labels, or None; see run_size.measure.

    Raises:
      ValueError: on settings that do not fit each other, the number of videos or the
        devices.
    """
    size = run_size.measure(
        config,
        num_videos=num_videos,
        num_devices=cluster.num_devices,
        num_classes=num_classes,
    )
    parts = times.parts(
        size, cluster, efficiency, bytes_per_clip=recordings.bytes_per_clip
    )
    memory = needs.memory(size, cluster)
    usable = USABLE_FRACTION * cluster.device.memory_bytes
    largest = needs.largest_batch(size, cluster, usable_bytes=usable)
    return Plan(
        size=size,
        cluster=cluster,
        recordings=recordings,
        efficiency=efficiency,
        memory=memory,
        usable_bytes=usable,
        largest_batch=largest,
        step_secs=times.step_secs(size, cluster, efficiency),
        storage=needs.storage(size, bytes_per_video=recordings.bytes_per_video),
        parts=parts,
        decoding_cores=_decoding_cores(
            size, recordings, parts, decoded_pixels_per_sec=decoded_pixels_per_sec
        ),
        price_per_device_hour=price_per_device_hour,
        warnings=[
            *_memory_warnings(cluster, memory, usable, largest),
            *_storage_warnings(cluster, parts),
            *_size_warnings(size),
        ],
    )


def _decoding_cores(
    size: RunSize,
    recordings: Recordings,
    parts: Sequence[Part],
    *,
    decoded_pixels_per_sec: float,
) -> dict[str, float]:
    """By part the CPU cores that decode as fast as devices take clips."""
    pixels_per_clip = size.clip_frames * recordings.frame_pixels
    return {
        part.name: part.clips_per_sec * pixels_per_clip / decoded_pixels_per_sec
        for part in parts
    }


def _memory_warnings(
    cluster: Cluster, memory: Memory, usable_bytes: float, largest_batch: int
) -> Iterator[str]:
    if memory.total_bytes <= usable_bytes:
        return
    remedies = {
        times.TRAINING: f"set config.training.batch_size="
        f"{largest_batch * cluster.num_devices}, the most that fits"
        if largest_batch
        else "not even one clip per device fits, so take a larger device",
        times.EXTRACTION: "lower config.features.batch_size",
        times.CLUSTERING: "lower config.kmeans.memory_gib, so that features stay on "
        "disk",
    }
    largest_part = max(memory.by_part, key=lambda name: memory.by_part[name])
    yield (
        f"a device needs {memory.total_bytes / 2**30:.1f} GiB of the "
        f"{usable_bytes / 2**30:.1f} GiB that are usable in {largest_part}; "
        f"{remedies[largest_part]}."
    )


def _storage_warnings(cluster: Cluster, parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        if part.bound == "storage":
            rate = part.bytes_per_sec / cluster.num_machines / 1e9
            yield (
                f"{part.name} waits for storage: devices take {rate:.2f} GB/s on each "
                f"machine, and it gives {cluster.storage_bytes_per_sec / 1e9:.2f}."
            )


def _size_warnings(size: RunSize) -> Iterator[str]:
    for stream, encoder in size.encoders.items():
        if encoder.width < _NARROW:
            yield (
                f"the {stream} encoder has {encoder.width} features: matrix products "
                "of so few channels reach less of a peak, and take up to three times "
                "as long."
            )
    if not size.steps_per_round:
        yield "a round has no training step; raise config.training.epochs_per_round."
