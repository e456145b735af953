"""A run's configuration -> the named values that the parts take, checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.clustering import feature_store
from xdc_tf.clustering.health import ON_COLLAPSE, HealthSettings
from xdc_tf.clustering.pseudo_labels import KMeansSettings
from xdc_tf.data import log_mel
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO, DatasetInfo
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.models import two_stream
from xdc_tf.models.layers import LayerSettings
from xdc_tf.models.two_stream import EncoderSettings
from xdc_tf.training import supervision
from xdc_tf.training.optimizers import DECAYING, OPTIMIZERS
from xdc_tf.training.schedules import SCHEDULES, Schedule

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FROM_PASS = "pass"
FROM_TRAINING = "training"


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


# What users of trained encoders read of a configuration that may be a stranger's: of
# each key type, least and greatest value.
_NUMBERS_OF_ENCODERS = {
    "seed": (int, 0, 2**31 - 1),
    "batch_norm_momentum": (float, 0, 1),
    "clip.num_frames": (int, 1, 4096),
    "clip.fps": (float, 1e-3, 1e4),
    "clip.crop_size": (int, 1, 4096),
    "clip.crop_share": (float, 1e-3, 1),
    "clip.audio_secs": (float, 1e-3, 3600),
    "optimizer.weight_decay": (float, 0, 1),
    "features.batch_size": (int, 1, 2**16),
    "features.clips_per_video": (int, 1, 10_000),
    "log_mel.sample_rate_hz": (int, 1, 10**6),
    "log_mel.window_ms": (float, 1e-3, 1e4),
    "log_mel.hop_ms": (float, 1e-3, 1e4),
    "log_mel.fft_size": (int, 2, 2**16),
    "log_mel.num_filters": (int, 1, 4096),
    "log_mel.min_hz": (float, 0, 1e6),
    "log_mel.max_hz": (float, 0, 1e6),
    "log_mel.log_offset": (float, 1e-30, 1e3),
}


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
    for key, (kind, least, greatest) in _NUMBERS_OF_ENCODERS.items():
        *section, name = key.split(".")
        values = config[section[0]] if section and section[0] in config else config
        if name not in values:
            continue
        check_number(values[name], f"config.{key}", kind, least, greatest)
    row = supervision.method(config["method"])
    if row.supervision and config["optimizer"]["name"] not in OPTIMIZERS:
        raise ValueError(
            f"config.optimizer.name={config['optimizer']['name']!r} is not one of "
            f"{', '.join(OPTIMIZERS)}."
        )
    log_mel.validate(LogMelSettings(**config["log_mel"]))
    shapes = architectures(config)
    missing = set(row.streams.values()) - set(shapes)
    if missing:
        raise ValueError(f"config.{min(missing)}_encoder is missing.")
    for key in ("video_mean", "video_std"):
        values = config["clip"][key]
        if not isinstance(values, list | tuple) or len(values) != 3:
            raise ValueError(f"config.clip.{key}={values!r} must be three numbers.")
        for value in values:
            check_number(value, f"config.clip.{key}", float, -1e6, 1e6)
    clip(config, None)


def check_number(
    value: Any, key: str, kind: type, least: float, greatest: float
) -> None:
    """Raises ValueError unless a value is a number of the kind in the range.

    Args:
      value: anything.
      key: what to call it.
      kind: int, or float for both.
      least: the range's lower end.
      greatest: its upper end.
    """
    kinds = (int,) if kind is int else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or not least <= value <= greatest:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(
            f"{key}={value!r} must be {what} from {least:g} to {greatest:g}."
        )


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
    ranges = {
        "num_frames": (wanted.num_frames >= 1, "at least 1"),
        "fps": (wanted.fps > 0, "positive"),
        "crop_size": (wanted.crop_size >= 1, "at least 1"),
        "crop_share": (0 < wanted.crop_share <= 1, "in (0, 1]"),
        "audio_secs": (wanted.num_mel_frames >= 1, "at least config.log_mel.hop_ms"),
        "video_mean": (len(wanted.video_mean) == 3, "three numbers"),
        "video_std": (
            len(wanted.video_std) == 3 and min(wanted.video_std) > 0,
            "three positive numbers",
        ),
    }
    for key, (fits, range_name) in ranges.items():
        if not fits:
            value = getattr(wanted, key)
            raise ValueError(f"config.clip.{key}={value} must be {range_name}.")
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
    """What an encoder's layers are made with for training.

    Raises:
      ValueError: on an unknown precision.
    """
    if config["precision"] not in PRECISIONS:
        raise ValueError(
            f"config.precision={config['precision']!r} is unknown; choose one of "
            f"{', '.join(PRECISIONS)}."
        )
    return portable_layers(config)._replace(
        dtype=config["precision"],
        synchronized_batch_norm=config["synchronized_batch_norm"],
        fast=True,
    )


def features(config: Mapping[str, Any]) -> FeatureSettings:
    """How the features to be clustered are made.

    Raises:
      ValueError: on an unknown source or dtype, or no clips.
    """
    values = config["features"]
    for key, known in (
        ("source", (FROM_PASS, FROM_TRAINING)),
        ("dtype", feature_store.DTYPES),
    ):
        if values[key] not in known:
            raise ValueError(
                f"config.features.{key}={values[key]!r} is unknown; choose one of "
                f"{', '.join(known)}."
            )
    if values["clips_per_video"] < 1:
        raise ValueError(
            f"config.features.clips_per_video={values['clips_per_video']} must be at "
            "least 1."
        )
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
      ValueError: on shares outside of [0, 1], a share that every clustering exceeds, or
        an unknown reaction.
    """
    values = HealthSettings(**config["health"])
    for key in ("min_effective_share", "max_cluster_share"):
        value = getattr(values, key)
        if not 0 <= value <= 1:
            raise ValueError(f"config.health.{key}={value} must be in [0, 1].")
    num_clusters = config["kmeans"]["num_clusters"]
    if values.max_cluster_share * num_clusters < 1:
        raise ValueError(
            f"config.health.max_cluster_share={values.max_cluster_share} is less than "
            f"the mean share of config.kmeans.num_clusters={num_clusters} clusters, so "
            f"that every clustering would count as collapsed; raise it."
        )
    if values.on_collapse not in ON_COLLAPSE:
        raise ValueError(
            f"config.health.on_collapse={values.on_collapse!r} is unknown; choose one "
            f"of {', '.join(ON_COLLAPSE)}."
        )
    return values


def schedule(config: Mapping[str, Any]) -> Schedule:
    """Shape of a round's learning rate, for the global batch.

    Raises:
      ValueError: on an unknown schedule name, or a reference batch that cannot be.
    """
    optimizer = config["optimizer"]
    peak, reference = optimizer["learning_rate"], optimizer["reference_batch_size"]
    if reference < 0:
        raise ValueError(
            f"config.optimizer.reference_batch_size={reference} must be the batch that "
            "learning_rate is stated for, or 0 for training.batch_size."
        )
    if reference:
        peak *= config["training"]["batch_size"] / reference
    if optimizer["schedule"] not in SCHEDULES:
        raise ValueError(
            f"config.optimizer.schedule={optimizer['schedule']!r} is unknown; choose "
            f"one of {', '.join(SCHEDULES)}."
        )
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

    Raises:
      ValueError: on a share outside of [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"config.training.held_out_share={share} must be in [0, 1).")
    chosen = np.random.default_rng([seed, 1]).permutation(np.sort(example_indices))
    held_out = np.zeros(num_rows, bool)
    held_out[chosen[: round(share * len(chosen))]] = True
    return held_out
