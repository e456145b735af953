"""Bytes that a run takes in the memory of a device and on disk."""

from typing import NamedTuple

from xdc_tf.planning.run_size import RunSize
from xdc_tf.planning.times import CLUSTERING, EXTRACTION, TRAINING, Cluster

# Driver, libraries, workspaces of convolutions, gaps in TensorFlow's memory pool.
RESERVE_BYTES = 2**30
# Batches that wait on the device during a step.
_BATCHES_AHEAD = 2
# The latest two, and the one that is being written.
_CHECKPOINTS = 3
# Of an encoder as the run started, and as it is.
_ENCODER_FILES = 2
VIDEO_ID_BYTES = 20  # assumed, in labels.csv


class Memory(NamedTuple):
    """Bytes held on one device, by purpose; see `total_bytes`.

    Attributes:
      weights: float32, three times: in training, with batch norm folded for extraction
        and to be saved; and their 16-bit copies in mixed precision.
      gradients: float32.
      optimizer: its slots, float32.
      label_tables: int32, those of all videos.
      activations: of the device's part of a batch at the worst moment of a step.
      batches: clips, the present ones and those that wait.
      kmeans_rows: the device's rows of features where they are held in memory; while
        they are, there are no activations.
      extraction: activations of the device's part of a batch of extraction; then there
        are none of training.
      reserve: RESERVE_BYTES.
    """

    weights: int
    gradients: int
    optimizer: int
    label_tables: int
    activations: int
    batches: int
    kmeans_rows: int
    extraction: int
    reserve: int

    @property
    def by_part(self) -> dict[str, int]:
        """What is held only in one part of a round, by its name."""
        return {
            TRAINING: self.gradients + self.activations + self.batches,
            CLUSTERING: self.kmeans_rows,
            EXTRACTION: self.extraction,
        }

    @property
    def total_bytes(self) -> int:
        """The most that is held at a time."""
        lasting = self.weights + self.optimizer + self.label_tables + self.reserve
        return lasting + max(self.by_part.values())


class Storage(NamedTuple):
    """Bytes on disk: records, and what the work directory comes to hold."""

    records: float
    features: float
    label_tables: float
    checkpoints: float


def memory(size: RunSize, cluster: Cluster) -> Memory:
    """Memory of one device, in bytes."""
    encoders = size.encoders.values()
    batch = size.batch_size // cluster.num_devices
    num_parts = size.accumulate_steps
    features_batch = size.features_batch_size // cluster.num_devices
    saved = sum(encoder.num_parameters for encoder in encoders) + size.num_head_weights
    folded = sum(encoder.num_parameters for encoder in size.folded.values())
    weights = 4 * (2 * saved + folded)
    if size.matmul_dtype != "float32":
        weights += 2 * size.num_weights
    return Memory(
        weights=weights,
        # With several parts, of one of them and of all so far.
        gradients=4 * size.num_weights * min(2, num_parts),
        optimizer=round(4 * size.slots_per_weight * size.num_weights),
        label_tables=4 * size.num_videos * size.num_label_tables,
        activations=batch // num_parts * _activation_bytes_per_clip(size),
        batches=batch * _waiting_bytes_per_clip(size),
        kmeans_rows=_kmeans_rows(size, cluster),
        extraction=features_batch
        * (
            max(encoder.inference_peak_bytes for encoder in size.folded.values())
            + _waiting_bytes_per_clip(size)
        ),
        reserve=RESERVE_BYTES,
    )


def _activation_bytes_per_clip(size) -> int:
    encoders = size.encoders.values()
    # All streams are ahead of the first gradient.
    return sum(encoder.kept_bytes for encoder in encoders) + max(
        encoder.peak_bytes - encoder.kept_bytes for encoder in encoders
    )


def _waiting_bytes_per_clip(size) -> int:
    # The present clips are among the activations.
    encoders = size.encoders.values()
    return _BATCHES_AHEAD * sum(encoder.input_bytes for encoder in encoders)


def _kmeans_rows(size, cluster) -> int:
    # "mixed" has a 16-bit copy of them.
    item_bytes = 4 if size.kmeans.precision == "float32" else 6
    in_memory = [
        item_bytes * size.num_videos * clustering.fitted_width // cluster.num_devices
        for clustering in size.clusterings
        if not clustering.from_files
    ]
    return max(in_memory, default=0)


def largest_batch(size: RunSize, cluster: Cluster, *, usable_bytes: float) -> int:
    """The most clips of a training step for which one device has memory; maybe 0.

    Args:
      size: of the run; its batch size is of no consequence.
      cluster: its machines.
      usable_bytes: of the device's memory.
    """
    empty = memory(size._replace(batch_size=0, features_batch_size=0), cluster)
    free = usable_bytes - empty._replace(kmeans_rows=0).total_bytes
    # A device's batch is a multiple of its parts.
    per_part = (
        _activation_bytes_per_clip(size)
        + _waiting_bytes_per_clip(size) * size.accumulate_steps
    )
    return max(0, int(free // per_part)) * size.accumulate_steps


def storage(size: RunSize, *, bytes_per_video: float) -> Storage:
    """Bytes on disk that the whole run takes.

    Args:
      size: of the run.
      bytes_per_video: of a record.
    """
    num_videos = size.num_videos
    width = sum(encoder.width for encoder in size.encoders.values())
    joined = sum(
        clustering.width
        for clustering in size.clusterings
        if clustering.from_files
        and clustering.width == width
        and len(size.encoders) > 1
    )
    label_digits = len(str(max(size.kmeans.clusters_of_heads) - 1))
    line = (
        len(str(num_videos))
        + 1
        + VIDEO_ID_BYTES
        + size.num_label_tables * (1 + label_digits)
        + 1
    )
    weights = sum(encoder.num_parameters for encoder in size.encoders.values())
    checkpoint = 4 * (
        weights
        + size.num_head_weights
        + size.slots_per_weight * size.num_weights
        + num_videos * size.num_label_tables
    )
    return Storage(
        records=num_videos * bytes_per_video,
        features=num_videos * (size.feature_bytes * (width + joined) + 1)
        if size.clusterings
        else 0,
        label_tables=len(size.num_extracted)
        * num_videos
        * (4 * size.num_label_tables + line),
        checkpoints=_CHECKPOINTS * checkpoint + _ENCODER_FILES * 4 * weights,
    )
