"""A run's configuration -> the named values that the parts take, checked."""

from typing import Any

import numpy as np

from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO, VIDEO, DatasetInfo
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import typed_settings
from xdc_tf.training import configuration, supervision
from xdc_tf.training.configuration import Config
from xdc_tf.training.optimizers import DECAYING
from xdc_tf.training.schedules import Schedule


def of_encoders(values: Any, source: str) -> Config:
    """The configuration of trained encoders, of a file from elsewhere.

    Args:
      values: what the file held.
      source: path of the file, for the message.

    Raises:
      ValueError: names the file, the key, its value and its range.
    """
    try:
        return configuration.of_encoders(values)
    except ValueError as error:
        raise ValueError(
            f"{source}: {error} Restore the file, or use another run's."
        ) from None
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{source} cannot be read as a configuration ({error!r}); restore the "
            "file, or use another run's."
        ) from None


def check_log_mel(config: Config, info: DatasetInfo, records: str) -> None:
    """Checks that records were made with the configuration's log-mel setting, if any.

    Raises:
      ValueError: names each setting that differs.
    """
    if AUDIO not in info.modalities:
        return
    differing = [
        f"{key} ({getattr(info.log_mel, key)} in the records, {value} in the config)"
        for key, value in config.log_mel._asdict().items()
        if getattr(info.log_mel, key) != value
    ]
    if differing:
        raise ValueError(
            f"{records} was converted with another log-mel setting than "
            f"config.log_mel: {', '.join(differing)}. Convert again with the config's, "
            "or set config.log_mel to the records'."
        )


def clip(config: Config, info: DatasetInfo | None) -> ClipSettings:
    """The clip's shape; log-mel normalisation is that of the records, if any."""
    return ClipSettings(
        **typed_settings.to_mapping(config.clip),
        mel_hop_secs=config.log_mel.hop_ms / 1000,
        num_mels=config.log_mel.num_filters,
        log_mel_mean=info.log_mel_mean if info else 0.0,
        log_mel_std=info.log_mel_std if info else 1.0,
    )


def architectures(config: Config) -> dict[str, EncoderSettings]:
    """Encoder architectures by modality; imported weights have one."""
    encoders = {VIDEO: config.video_encoder, AUDIO: config.audio_encoder}
    return {modality: encoder for modality, encoder in encoders.items() if encoder}


def portable_layers(config: Config) -> LayerSettings:
    """What an encoder's layers keep outside of the run: float32, local batch norm.

    Of imported weights, which no configuration trained, the layers' defaults.
    """
    if config.method == supervision.IMPORTED:
        return LayerSettings()
    return LayerSettings(
        batch_norm_momentum=config.batch_norm_momentum,
        # These decay the weights themselves; a penalty would decay them twice.
        weight_decay=0.0
        if config.optimizer.name in DECAYING
        else config.optimizer.weight_decay,
        seed=config.seed,
    )


def training_layers(config: Config) -> LayerSettings:
    """What an encoder's layers are made with for training."""
    return portable_layers(config)._replace(
        dtype=config.precision,
        synchronized_batch_norm=config.synchronized_batch_norm,
        fast=True,
    )


def check_health(config: Config) -> None:
    """Checks that some clustering does not count as collapsed.

    Raises:
      ValueError: on a fraction that every clustering exceeds.
    """
    largest, num_clusters = config.health.max_cluster_share, config.kmeans.num_clusters
    if largest * num_clusters < 1:
        raise ValueError(
            f"config.health.max_cluster_share={largest} is less than the mean fraction "
            f"of config.kmeans.num_clusters={num_clusters} clusters, so that every "
            "clustering would count as collapsed; raise it."
        )


def schedule(config: Config) -> Schedule:
    """Shape of a round's learning rate, for the global batch."""
    optimizer = config.optimizer
    peak = optimizer.learning_rate
    if optimizer.reference_batch_size:
        peak *= config.training.batch_size / optimizer.reference_batch_size
    return Schedule(
        name=optimizer.schedule,
        peak=peak,
        warmup_steps=optimizer.warmup_steps,
        decay_shares=optimizer.decay_shares,
        decay_factor=optimizer.decay_factor,
    )


def held_out_rows(
    example_indices: np.ndarray, *, num_rows: int, share: float, seed: int
) -> np.ndarray:
    """[num_rows] bool: the examples that a run never trains on.

    Args:
      example_indices: of all examples.
      num_rows: rows of the manifest.
      share: fraction of the examples to hold out, in [0, 1).
      seed: of the draw.
    """
    chosen = np.random.default_rng([seed, 1]).permutation(np.sort(example_indices))
    held_out = np.zeros(num_rows, bool)
    held_out[chosen[: round(share * len(chosen))]] = True
    return held_out
