"""A configuration and a number of videos -> the sizes of a run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from xdc_tf.data.payloads import VIDEO
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_changes import STATISTICS
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.models import encoder_table, layers
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.planning import operations
from xdc_tf.planning.operations import EncoderCost
from xdc_tf.runtime import compat
from xdc_tf.training import configuration, optimizers, supervision
from xdc_tf.training.configuration import Config, TrainingConfig

_MATMUL_DTYPES = {
    "float32": "float32",
    "mixed_bfloat16": "bfloat16",
    "mixed_float16": "float16",
}


class ClusteringSize(NamedTuple):
    """The clusterings of one label source.

    Attributes:
      source: its name.
      width: of the rows as they are stored.
      fitted_width: of the rows as they are compared, after whitening.
      from_files: whether rows are read anew in every pass.
    """

    source: str
    width: int
    fitted_width: int
    from_files: bool


class RunSize(NamedTuple):
    """A run in numbers.

    Attributes:
      num_videos: all of them.
      num_trained: those that are trained on.
      num_extracted: rows of features that passes compute, by clustering; there is one
        before every round and one after the last.
      clips_per_video: of a pass.
      clip_frames: frames that are decoded for a clip; 0 without video.
      matmul_dtype: of the encoders' convolutions, one of device_table.MATMUL_DTYPES.
      encoders: by stream.
      folded: the same in the form that features are extracted with.
      num_head_weights: of all heads.
      slots_per_weight: numbers that the optimizer keeps for each weight.
      batch_size: clips of a training step over all devices.
      accumulate_steps: parts that a device computes its batch in.
      features_batch_size: the same of a step of extraction.
      steps_per_round: training steps, where patience does not end a round.
      epochs_per_round: each ends with a measurement on the held-out videos.
      num_rounds: rounds.
      num_label_tables: of a round; they lie on every device too.
      feature_bytes: of one stored number.
      kmeans: its settings.
      clusterings: one for each clustered source.
    """

    num_videos: int
    num_trained: int
    num_extracted: tuple[int, ...]
    clips_per_video: int
    clip_frames: int
    matmul_dtype: str
    encoders: dict[str, EncoderCost]
    folded: dict[str, EncoderCost]
    num_head_weights: int
    slots_per_weight: float
    batch_size: int
    accumulate_steps: int
    features_batch_size: int
    steps_per_round: int
    epochs_per_round: int
    num_rounds: int
    num_label_tables: int
    feature_bytes: int
    kmeans: KMeansSettings
    clusterings: tuple[ClusteringSize, ...]

    @property
    def num_held_out(self) -> int:
        """Videos that are labelled and never trained on."""
        return self.num_videos - self.num_trained

    @property
    def num_weights(self) -> int:
        """What a training step updates."""
        trainable = sum(encoder.num_trainable for encoder in self.encoders.values())
        return trainable + self.num_head_weights


def measure(
    config: Config, *, num_videos: int, num_devices: int, num_classes: int | None = None
) -> RunSize:
    """Counts what a run of a configuration takes.

    Args:
      config: of the run.
      num_videos: examples of the data set.
      num_devices: that share every batch.
      num_classes: of the records' labels, for the method "supervised"; None: as
        many as clusters.

    Raises:
      ValueError: on settings that do not fit each other, the number of videos or that
        of the devices.
    """
    _check(config, num_videos=num_videos, num_devices=num_devices)
    method = supervision.with_heads(
        supervision.method(config.method), len(config.kmeans.clusters_of_heads)
    )
    training, kmeans = config.training, config.kmeans
    features = config.features
    encoders, folded = _count_encoders(config, method)
    num_labels = _num_labels(method, kmeans.clusters_of_heads, num_classes)
    num_trained = num_videos - round(training.held_out_share * num_videos)
    steps_per_round = _steps_per_round(training, num_trained)
    clusterings = _clusterings(method, encoders, kmeans, num_videos)
    has_video = VIDEO in method.streams.values()
    return RunSize(
        num_videos=num_videos,
        num_trained=num_trained,
        num_extracted=_num_extracted(config, num_videos, num_trained)
        if clusterings
        else (),
        clips_per_video=features.clips_per_video,
        clip_frames=config.clip.num_frames if has_video else 0,
        matmul_dtype=_MATMUL_DTYPES[config.precision],
        encoders=encoders,
        folded=folded,
        num_head_weights=sum(
            (encoders[stream].width + 1) * num_labels[source]
            for stream, sources in method.supervision.items()
            for source in sources
        ),
        slots_per_weight=_slots_per_weight(config),
        batch_size=training.batch_size,
        accumulate_steps=training.accumulate_steps,
        features_batch_size=config.features.batch_size,
        steps_per_round=steps_per_round,
        epochs_per_round=training.epochs_per_round,
        num_rounds=config.num_rounds,
        num_label_tables=len(num_labels),
        feature_bytes=np.dtype(features.dtype).itemsize,
        kmeans=kmeans,
        clusterings=clusterings,
    )


def _num_labels(
    method: supervision.Method,
    clusters_of_heads: Sequence[int],
    num_classes: int | None,
) -> dict[str, int]:
    """By label source its number of clusters, or classes."""
    return {
        source: (num_classes or clusters_of_heads[0])
        if source == supervision.TRUE_LABELS
        else clusters_of_heads[label_tables.head_of(source)]
        for source in supervision.label_sources(method)
    }


def _steps_per_round(training: TrainingConfig, num_trained: int) -> int:
    steps_per_epoch = num_trained // training.batch_size
    if training.max_steps_per_epoch:
        steps_per_epoch = min(steps_per_epoch, training.max_steps_per_epoch)
    return steps_per_epoch * training.epochs_per_round


def _num_extracted(
    config: Config, num_videos: int, num_trained: int
) -> tuple[int, ...]:
    """Rows of features that passes compute, by clustering.

    Where training steps give features, a pass computes those of the videos that were
    not trained on; before the first round and after the last it computes all. A pass
    for statistics of the clips, which has no encoders but reads as much, counts as one.
    """
    num_rounds, training = config.num_rounds, config.training
    between = num_videos
    if config.features.from_training:
        num_clips = _steps_per_round(training, num_trained) * training.batch_size
        between = num_trained - min(num_trained, num_clips)
    labels = config.labels
    by_statistics = labels.first_features == STATISTICS and not labels.first_from
    first = num_videos * (2 if by_statistics and not config.init_from else 1)
    return (first, *[between] * (num_rounds - 1), num_videos)


def _check(config, *, num_videos, num_devices) -> None:
    if not supervision.method(config.method).supervision:
        raise ValueError(f"config.method={config.method} trains nothing.")
    if num_videos < 1 or num_devices < 1:
        raise ValueError(
            f"num_videos={num_videos} and gpus={num_devices} must be at least 1."
        )
    sizes = {
        f"{key}.batch_size": getattr(config, key).batch_size
        for key in ("training", "features")
    }
    for key, size in sizes.items():
        if size % num_devices:
            up = max(1, math.ceil(size / num_devices)) * num_devices
            raise ValueError(
                f"config.{key}={size} is not a multiple of the {num_devices} devices; "
                f"set it to {up}, for example."
            )
    num_held_out = round(config.training.held_out_share * num_videos)
    num_trained = num_videos - num_held_out
    needed = {
        "training.batch_size": sizes["training.batch_size"],
        "kmeans.num_clusters": max(config.kmeans.clusters_of_heads),
    }
    for key, least in needed.items():
        if num_trained < least:
            raise ValueError(
                f"num_videos={num_videos} leaves {num_trained} to train on, fewer than "
                f"config.{key}={least}; lower it or plan with more videos."
            )


def _count_encoders(
    config: Config, method: supervision.Method
) -> tuple[dict[str, EncoderCost], dict[str, EncoderCost]]:
    """Costs of the encoders by stream, as trained and as features are extracted."""
    clip = configuration.clip(config, None)
    # Streams of one modality have equal encoders.
    costs = {
        modality: _count(config, modality, clip)
        for modality in dict.fromkeys(method.streams.values())
    }
    encoders = {stream: costs[name][0] for stream, name in method.streams.items()}
    folded = {stream: costs[name][1] for stream, name in method.streams.items()}
    return encoders, folded


def _count(config, modality, clip) -> tuple[EncoderCost, EncoderCost]:
    encoder = encoder_table.build(
        configuration.architectures(config)[modality],
        configuration.training_layers(config),
        modality,
        clip,
    )
    clip_shape = MODALITIES[modality].clip_shape(clip)
    return (
        operations.count(
            encoder,
            clip_shape,
            recomputes=config.training.gradient_checkpointing,
        ),
        operations.count(layers.fold(encoder), clip_shape),
    )


def _slots_per_weight(config) -> float:
    """Counted from the optimizer, on a layer of 1,000 weights."""
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 1000))
    optimizer = optimizers.make(
        config.optimizer.name,
        layer.trainable_variables,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        scale_loss=False,
    )
    slots = compat.optimizer_variables(optimizer)
    return sum(math.prod(slot.shape) for slot in slots) // 1000


def _clusterings(method, encoders, kmeans, num_videos) -> tuple[ClusteringSize, ...]:
    sizes = []
    for source, streams in supervision.clustered_sources(method).items():
        width = sum(encoders[stream].width for stream in streams)
        sizes.append(
            ClusteringSize(
                source=source,
                width=width,
                fitted_width=kmeans.pca_components or width,
                from_files=4 * num_videos * width > kmeans.memory_gib * 2**30,
            )
        )
    return tuple(sizes)
