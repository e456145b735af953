"""What a run of a configuration needs: memory, disk, reading, decoding, time, money.

A plan comes as tables for people and as JSON for programs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from xdc_tf.planning import needs, run_size, times
from xdc_tf.planning.needs import VIDEO_ID_BYTES, Memory, Storage
from xdc_tf.planning.recordings import Recordings
from xdc_tf.planning.run_size import RunSize
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
      decoded_pixels_per_sec: of whole frames by one CPU core.
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
            recordings, parts, decoded_pixels_per_sec=decoded_pixels_per_sec
        ),
        price_per_device_hour=price_per_device_hour,
        warnings=[
            *_memory_warnings(cluster, memory, usable, largest),
            *_storage_warnings(cluster, parts),
            *_size_warnings(size),
        ],
    )


def _decoding_cores(
    recordings: Recordings,
    parts: Sequence[Part],
    *,
    decoded_pixels_per_sec: float,
) -> dict[str, float]:
    """By part the CPU cores that decode as fast as devices take clips."""
    pixels_per_clip = recordings.decoded_frames * recordings.frame_pixels
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


def as_json(plan: Plan) -> dict[str, Any]:
    """All figures, in bytes, seconds, clips and hours."""
    size, cluster, device = plan.size, plan.cluster, plan.cluster.device
    return {
        "num_videos": size.num_videos,
        "num_trained": size.num_trained,
        "device": device._asdict(),
        "num_devices": cluster.num_devices,
        "num_machines": cluster.num_machines,
        "encoders": {
            stream: {
                "num_parameters": encoder.num_parameters,
                "num_trainable": encoder.num_trainable,
                "flops_per_clip": encoder.flops,
                "kept_bytes_per_clip": encoder.kept_bytes,
            }
            for stream, encoder in size.encoders.items()
        },
        "memory_bytes_per_device": plan.memory._asdict()
        | {"total": plan.memory.total_bytes, "usable": plan.usable_bytes},
        "batch_size_per_device": size.batch_size // cluster.num_devices,
        "largest_batch_size_per_device": plan.largest_batch,
        "storage_bytes": plan.storage._asdict(),
        "steps_per_round": size.steps_per_round,
        "secs_per_step": plan.step_secs,
        "parts": [
            part._asdict() | {"decoding_cores": plan.decoding_cores[part.name]}
            for part in plan.parts
        ],
        "total_secs": plan.total_secs,
        "device_hours": plan.device_hours,
        "cost": plan.cost,
        "efficiency": plan.efficiency._asdict(),
        "recordings": plan.recordings._asdict(),
        "warnings": plan.warnings,
        "assumptions": assumptions(plan),
    }


def as_text(plan: Plan) -> str:
    """The tables, the assumptions and the warnings."""
    size, cluster = plan.size, plan.cluster
    per_device = size.batch_size // cluster.num_devices
    lines = [
        f"{size.num_videos:,} videos, {size.num_rounds} rounds of "
        f"{size.steps_per_round:,} steps of {size.batch_size} clips, on "
        f"{cluster.num_devices} x {cluster.device.name} in {cluster.num_machines} "
        f"{'machine' if cluster.num_machines == 1 else 'machines'}",
        "",
        *_encoder_table(size),
        "",
        *_memory_table(plan),
        f"clips per device and step: {per_device}, at most {plan.largest_batch} fit",
        "",
        *_storage_table(plan.storage),
        "",
        *_part_table(plan),
        f"training step: {1e3 * plan.step_secs:.4g} ms; device hours: "
        f"{plan.device_hours:,.2f}"
        + ("" if plan.cost is None else f"; cost: {plan.cost:,.2f}"),
        "",
        "Assumed:",
        *(f"- {line}" for line in assumptions(plan)),
        *(f"warning: {line}" for line in plan.warnings),
    ]
    return "\n".join(lines)


def _encoder_table(size: RunSize) -> list[str]:
    rows = [
        [
            stream,
            f"{encoder.num_parameters:,}",
            f"{encoder.flops / 1e9:.4g}",
            f"{encoder.kept_bytes / 1e6:.1f}",
        ]
        for stream, encoder in size.encoders.items()
    ]
    return _table(["encoder", "parameters", "GFLOP/clip", "kept, MB/clip"], rows)


def _memory_table(plan: Plan) -> list[str]:
    sizes = {
        **{
            name.replace("_", " "): size for name, size in plan.memory._asdict().items()
        },
        "most at a time": plan.memory.total_bytes,
        "usable": plan.usable_bytes,
    }
    rows = [[name, f"{num_bytes / 2**30:.3f}"] for name, num_bytes in sizes.items()]
    return _table(["memory per device", "GiB"], rows)


def _storage_table(storage: Storage) -> list[str]:
    rows = [
        [name.replace("_", " "), f"{num_bytes / 1e9:,.3f}"]
        for name, num_bytes in storage._asdict().items()
    ]
    return _table(["storage", "GB"], rows)


def _part_table(plan: Plan) -> list[str]:
    header = ["part", "per round", "in all", "bound by", "clips/s", "read, GB/s"]
    rows = [
        [
            part.name,
            _duration(part.secs_per_round),
            _duration(part.total_secs),
            part.bound,
            f"{part.clips_per_sec:,.1f}",
            f"{part.bytes_per_sec / 1e9:,.3f}",
            f"{plan.decoding_cores[part.name]:,.1f}",
        ]
        for part in plan.parts
    ]
    total = ["all", "", _duration(plan.total_secs), "", "", "", ""]
    return _table([*header, "decoding cores"], [*rows, total])


def assumptions(plan: Plan) -> list[str]:
    """What the figures rest on, beside counted operations."""
    device, efficiency = plan.cluster.device, plan.efficiency
    rates = ", ".join(
        f"{rate / 1e12:.4g} TFLOP/s {dtype}"
        for dtype, rate in device.product_flops.items()
    )
    return [
        f"{device.name}: {rates}, {device.bytes_per_sec / 1e9:.4g} GB/s, "
        f"{device.memory_bytes / 2**30:.4g} GiB, of which {USABLE_FRACTION:.0%} are "
        f"usable ({device.source})",
        f"matrix products reach {efficiency.training:.0%} of that in training, "
        f"{efficiency.extraction:.0%} in extraction and {efficiency.kmeans:.0%} in "
        "k-means; the defaults are of a CPU: measure yours with benchmarks.plan_check",
        "a layer takes as long as its operations or its bytes, whichever is longer; "
        "gradients are exchanged after them, at "
        f"{device.link_bytes_per_sec / 1e9:.4g} GB/s in a machine and "
        f"{plan.cluster.network_bytes_per_sec / 1e9:.4g} GB/s between machines",
        f"records: {plan.recordings.bytes_per_video / 1e6:.4g} MB a video "
        f"({plan.recordings.source}), of which a clip reads "
        f"{plan.recordings.bytes_per_clip / 1e3:.4g} kB",
        f"storage gives {plan.cluster.storage_bytes_per_sec / 1e9:.4g} GB/s to each "
        "machine; rates of reading and cores are those at which devices do not wait",
        "rounds have all their epochs and k-means all its iterations; labels.csv has "
        f"video ids of {VIDEO_ID_BYTES} bytes",
        "not counted: start-up, starting each layer, tracing, saving, k-means++ and "
        "the health report",
    ]


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _duration(secs: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if secs >= 2 * length:
            return f"{secs / length:.1f} {unit}"
    return f"{secs:.1f} s"
