"""What a run of a configuration needs: memory, disk, reading, decoding, time, money."""

from typing import NamedTuple

from xdc_tf.planning import needs, run_size, times
from xdc_tf.planning.needs import Memory, Storage
from xdc_tf.planning.run_size import Recordings, RunSize
from xdc_tf.planning.times import Cluster, Efficiency, Part
from xdc_tf.training.configuration import Config

# What TensorFlow gets of a device's memory.
USABLE_SHARE = 0.92

# Features of an encoder of half the usual width: from there up, measured times are near
# those of a plan (docs/planning.md).
_NARROW = 256


class Plan(NamedTuple):
    """A run's needs.

    Attributes:
      size: what it was counted from.
      cluster: the machines.
      recordings: the videos.
      efficiency: of products.
      memory: of one device.
      usable_bytes: of one device's memory.
      largest_batch: clips of a training step for which one device has memory.
      step_secs: of a training step.
      storage: on disk.
      parts: with times and rates of reading.
      decoding_cores: by part, of all machines, so that devices do not wait.
      total_secs: of all parts.
      device_hours: of all devices.
      cost: for these hours; None without a price.
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
    total_secs: float
    device_hours: float
    cost: float | None
    warnings: list[str]


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
      efficiency: of products on its devices.
      decoded_pixels_per_sec: of whole JPEG frames by one CPU core.
      price_per_device_hour: in any currency, or None.
      num_classes: of the records' own labels, or None; see run_size.measure.

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
    usable = USABLE_SHARE * cluster.device.memory_bytes
    largest = needs.largest_batch(size, cluster, usable_bytes=usable)
    total_secs = sum(part.total_secs for part in parts)
    device_hours = total_secs / 3600 * cluster.num_devices
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
        decoding_cores={
            part.name: part.clips_per_sec
            * size.clip_frames
            * recordings.frame_pixels
            / decoded_pixels_per_sec
            for part in parts
        },
        total_secs=total_secs,
        device_hours=device_hours,
        cost=None
        if price_per_device_hour is None
        else price_per_device_hour * device_hours,
        warnings=_warnings(size, cluster, memory, usable, largest, parts),
    )


def _warnings(size, cluster, memory, usable, largest, parts) -> list[str]:
    found = []
    if memory.total_bytes > usable:
        remedies = {
            times.TRAINING: f"set config.training.batch_size="
            f"{largest * cluster.num_devices}, the most that fits"
            if largest
            else "not even one clip per device fits, so take a larger device",
            times.EXTRACTION: "lower config.features.batch_size",
            times.CLUSTERING: "lower config.kmeans.memory_gib, so that features stay "
            "on disk",
        }
        largest_part = max(memory.by_part, key=memory.by_part.get)
        found.append(
            f"a device needs {memory.total_bytes / 2**30:.1f} GiB of the "
            f"{usable / 2**30:.1f} GiB that are usable in "
            f"{largest_part}; {remedies[largest_part]}."
        )
    for part in parts:
        if part.bound == "storage":
            rate = part.bytes_per_sec / cluster.num_machines / 1e9
            found.append(
                f"{part.name} waits for storage: devices take {rate:.2f} GB/s on each "
                f"machine, and it gives {cluster.storage_bytes_per_sec / 1e9:.2f}."
            )
    for stream, encoder in size.encoders.items():
        if encoder.width < _NARROW:
            found.append(
                f"the {stream} encoder has {encoder.width} features: products of so "
                "few channels reach less of a peak, and take up to three times as long."
            )
    if not size.steps_per_round:
        found.append(
            "a round has no training step; raise config.training.epochs_per_round."
        )
    return found
