"""A run's configuration -> the named values that the parts take, checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data import log_mel
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO, DatasetInfo
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.labels.health import HealthSettings
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.models import two_stream
from xdc_tf.models.layers import LayerSettings
from xdc_tf.models.two_stream import EncoderSettings
from xdc_tf.training import config_ranges, supervision
from xdc_tf.training.config_ranges import FROM_TRAINING
from xdc_tf.training.optimizers import DECAYING
from xdc_tf.training.schedules import Schedule


class FeatureSettings(NamedTuple):
    """How the features to be clustered are made.

    Attributes:
      harvest: whether training steps give them.
      dtype: of the store, one of feature_store.DTYPES.
      clips_per_video: that a pass averages over.
    """

    harvest: bool
    dtype: str
    clips_per_video: int


def check_of_encoders(config: Any, source: str) -> None:
    """Checks what users of trained encoders read of a configuration from elsewhere.

    Keys of training may be missing, as they are where weights were imported.

    Args:
      config: what a file held.
      source: path of the file, for the message.

    Raises:
      ValueError: names the file, the key, its value and its range.
    """
    try:
        _check_of_encoders(config)
    except ValueError as error:
        raise ValueError(
            f"{source}: {error} Restore the file, or use another run's."
        ) from None
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{source} cannot be read as a configuration ({error!r}); restore the "
            "file, or use another run's."
        ) from None


def _check_of_encoders(config: Any) -> None:
    config_ranges.check_present(config)
    row = supervision.method(config["method"])
    if row.supervision:
        config["optimizer"]["name"]  # an error where it is missing
    log_mel.validate(LogMelSettings(**config["log_mel"]))
    missing = set(row.streams.values()) - set(architectures(config))
    if missing:
        raise ValueError(f"config.{min(missing)}_encoder is missing.")
    clip(config, None)


def check_log_mel(config: Mapping[str, Any], info: DatasetInfo, records: str) -> None:
    """Checks that records were made with the configuration's log-mel setting, if any.

    Raises:
      ValueError: names each setting that differs.
    """
    if AUDIO not in info.modalities:
        return
    wanted, found = LogMelSettings(**config["log_mel"]), info.log_mel
    differing = [
        f"{key} ({getattr(found, key)} in the records, {value} in the config)"
        for key, value in wanted._asdict().items()
        if getattr(found, key) != value
    ]
    if differing:
        raise ValueError(
            f"{records} was converted with another log-mel setting than "
            f"config.log_mel: {', '.join(differing)}. Convert again with the config's, "
            "or set config.log_mel to the records'."
        )


def clip(config: Mapping[str, Any], info: DatasetInfo | None) -> ClipSettings:
    """The clip's shape; log-mel normalisation is that of the training records, if any.

    Raises:
      ValueError: on a shape that no clip can have.
    """
    wanted = ClipSettings(
        **config["clip"],
        mel_hop_secs=config["log_mel"]["hop_ms"] / 1000,
        num_mels=config["log_mel"]["num_filters"],
        log_mel_mean=info.log_mel_mean if info else 0.0,
        log_mel_std=info.log_mel_std if info else 1.0,
    )
    if wanted.num_mel_frames < 1:
        raise ValueError(
            f"config.clip.audio_secs={wanted.audio_secs} must be at least "
            f"config.log_mel.hop_ms={config['log_mel']['hop_ms']}."
        )
    return wanted


def architectures(config: Mapping[str, Any]) -> dict[str, EncoderSettings]:
    """Encoder architectures by modality; imported weights have one.

    Raises:
      ValueError: see two_stream.encoder_settings.
    """
    return {
        modality: two_stream.encoder_settings(modality, config[f"{modality}_encoder"])
        for modality in ("video", "audio")
        if f"{modality}_encoder" in config
    }


def portable_layers(config: Mapping[str, Any]) -> LayerSettings:
    """What an encoder's layers keep outside of the run: float32, local batch norm.

    Of imported weights, which no configuration trained, the layers' defaults.
    """
    if "optimizer" not in config:
        return LayerSettings()
    return LayerSettings(
        batch_norm_momentum=config["batch_norm_momentum"],
        # These decay the weights themselves; a penalty would decay them twice.
        weight_decay=0.0
        if config["optimizer"]["name"] in DECAYING
        else config["optimizer"]["weight_decay"],
        seed=config["seed"],
    )


def training_layers(config: Mapping[str, Any]) -> LayerSettings:
    """What an encoder's layers are made with for training."""
    return portable_layers(config)._replace(
        dtype=config["precision"],
        synchronized_batch_norm=config["synchronized_batch_norm"],
        fast=True,
    )


def features(config: Mapping[str, Any]) -> FeatureSettings:
    """How the features to be clustered are made."""
    values = config["features"]
    return FeatureSettings(
        harvest=values["source"] == FROM_TRAINING,
        dtype=values["dtype"],
        clips_per_video=values["clips_per_video"],
    )


def kmeans(config: Mapping[str, Any]) -> KMeansSettings:
    """Arguments of k-means."""
    values = dict(config["kmeans"])
    return KMeansSettings(
        **values | {"pca_components": values["pca_components"] or None}
    )


def health(config: Mapping[str, Any]) -> HealthSettings:
    """When a clustering counts as collapsed, and what happens then.

    Raises:
      ValueError: on a fraction that every clustering exceeds.
    """
    values = HealthSettings(**config["health"])
    num_clusters = config["kmeans"]["num_clusters"]
    if values.max_cluster_share * num_clusters < 1:
        raise ValueError(
            f"config.health.max_cluster_share={values.max_cluster_share} is less than "
            f"the mean share of config.kmeans.num_clusters={num_clusters} clusters, so "
            f"that every clustering would count as collapsed; raise it."
        )
    return values


def schedule(config: Mapping[str, Any]) -> Schedule:
    """Shape of a round's learning rate, for the global batch."""
    optimizer = config["optimizer"]
    peak, reference = optimizer["learning_rate"], optimizer["reference_batch_size"]
    if reference:
        peak *= config["training"]["batch_size"] / reference
    return Schedule(
        name=optimizer["schedule"],
        peak=peak,
        warmup_steps=optimizer["warmup_steps"],
        decay_shares=tuple(optimizer["decay_shares"]),
        decay_factor=optimizer["decay_factor"],
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
