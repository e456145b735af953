"""The type and range of every configuration key, in one table, and its check.

configs/base.py says what the keys mean.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from xdc_tf.features.feature_store import DTYPES
from xdc_tf.kmeans.fit_checks import PRECISIONS as KMEANS_PRECISIONS
from xdc_tf.labels.health import ON_COLLAPSE
from xdc_tf.models import two_stream
from xdc_tf.training import supervision
from xdc_tf.training.optimizers import OPTIMIZERS
from xdc_tf.training.schedules import SCHEDULES

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FROM_PASS, FROM_TRAINING = "pass", "training"
_MOST = 2**31 - 1


class Whole(NamedTuple):
    """A whole number from `least` to `greatest`."""

    least: int = 0
    greatest: int = _MOST

    def fits(self, value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and self.least <= value <= self.greatest

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.greatest}"


class Number(NamedTuple):
    """A number from `least` to `greatest`; `above` and `below` leave the ends out."""

    least: float = 0.0
    greatest: float = 1e9
    above: bool = False
    below: bool = False

    def fits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.greatest if self.below else value <= self.greatest
        return low and high

    def __str__(self) -> str:
        low = "above" if self.above else "from"
        high = "below" if self.below else "to"
        return f"a number {low} {self.least:g} {high} {self.greatest:g}"


class Several(NamedTuple):
    """A list of numbers of one range; of any length for length None."""

    range: Whole | Number
    length: int | None = None

    def fits(self, value: Any) -> bool:
        if not isinstance(value, list | tuple):
            return False
        right_length = self.length in (None, len(value))
        return right_length and all(map(self.range.fits, value))

    def __str__(self) -> str:
        length = "" if self.length is None else f"{self.length} values, "
        return f"a list of {length}each {self.range}"


class Choice(NamedTuple):
    """One of some texts, or of some whole numbers."""

    options: tuple[str, ...] | tuple[int, ...]

    def fits(self, value: Any) -> bool:
        return type(value) in (str, int) and value in self.options

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"


class Kind(NamedTuple):
    """Any value of a type."""

    kind: type

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def __str__(self) -> str:
        return {bool: "True or False", str: "a text"}[self.kind]


_FRACTION = Number(0, 1)
_FLAG = Kind(bool)
_COUNT = Whole(1)

RANGES: dict[str, Any] = {
    "method": Choice(tuple(supervision.METHODS)),
    "seed": Whole(),
    "num_rounds": Whole(1, 100_000),
    "init_from": Kind(str),
    "clip.num_frames": Whole(1, 4096),
    "clip.fps": Number(0, 1e4, above=True),
    "clip.crop_size": Whole(1, 4096),
    "clip.crop_share": Number(0, 1, above=True),
    "clip.audio_secs": Number(0, 3600, above=True),
    "clip.video_mean": Several(Number(-1e6, 1e6), 3),
    "clip.video_std": Several(Number(0, 1e6, above=True), 3),
    "log_mel.sample_rate_hz": Whole(1, 10**6),
    "log_mel.window_ms": Number(0, 1e4, above=True),
    "log_mel.hop_ms": Number(0, 1e4, above=True),
    "log_mel.fft_size": Whole(2, 2**16),
    "log_mel.num_filters": Whole(1, 4096),
    "log_mel.min_hz": Number(0, 1e6),
    "log_mel.max_hz": Number(0, 1e6, above=True),
    "log_mel.log_offset": Number(0, 1e3, above=True),
    "augmentation.min_crop_share": _FRACTION,
    "augmentation.flip": _FLAG,
    "augmentation.brightness": _FRACTION,
    "augmentation.contrast": _FRACTION,
    "augmentation.saturation": _FRACTION,
    "augmentation.gain_db": Number(0, 200),
    "augmentation.frequency_mask": Whole(0, 4096),
    "augmentation.time_mask": Whole(),
    "batch_norm_momentum": _FRACTION,
    "synchronized_batch_norm": _FLAG,
    "precision": Choice(PRECISIONS),
    "kmeans.num_clusters": Whole(2),
    "kmeans.num_iterations": _COUNT,
    "kmeans.num_restarts": Whole(1, 10_000),
    "kmeans.num_heads": Whole(1, 10_000),
    "kmeans.tolerance": Number(0, 1, below=True),
    "kmeans.precision": Choice(KMEANS_PRECISIONS),
    "kmeans.normalize": _FLAG,
    "kmeans.spherical": _FLAG,
    "kmeans.balanced": _FLAG,
    "kmeans.pca_components": Whole(),
    "kmeans.memory_gib": Number(0, 1e6),
    "health.min_effective_share": _FRACTION,
    "health.max_cluster_share": _FRACTION,
    "health.on_collapse": Choice(ON_COLLAPSE),
    "features.clips_per_video": Whole(1, 10_000),
    "features.source": Choice((FROM_PASS, FROM_TRAINING)),
    "features.dtype": Choice(DTYPES),
    "features.batch_size": _COUNT,
    "features.batch_norm_batches": Whole(),
    "training.batch_size": _COUNT,
    "training.accumulate_steps": _COUNT,
    "training.shuffle_buffer": _COUNT,
    "training.epochs_per_round": _COUNT,
    "training.patience": Whole(),
    "training.held_out_share": Number(0, 1, below=True),
    "training.max_steps_per_epoch": Whole(),
    "training.skip_nonfinite": Whole(),
    "training.balance_clusters": _FLAG,
    "optimizer.name": Choice(OPTIMIZERS),
    "optimizer.learning_rate": Number(0, 1e4),
    "optimizer.reference_batch_size": Whole(),
    "optimizer.momentum": Number(0, 1, below=True),
    "optimizer.trust_coefficient": Number(0, 1e4),
    "optimizer.weight_decay": Number(0, 1e4),
    "optimizer.warmup_steps": Whole(),
    "optimizer.schedule": Choice(tuple(SCHEDULES)),
    "optimizer.decay_shares": Several(Number(0, 1, above=True, below=True)),
    "optimizer.decay_factor": Number(0, 1e4),
    "checkpoint_every_steps": _COUNT,
    "checkpoints.keep": _COUNT,
    "log_every_steps": _COUNT,
    "profile_steps": Several(Whole(), 2),
    "deterministic": _FLAG,
}
_ENCODERS = ("video_encoder", "audio_encoder")


def check(config: Any) -> None:
    """Checks every key of a configuration.

    Raises:
      ValueError: on a value out of its range, a missing or an unknown key; names the
        key, the value and the range.
    """
    values = flatten(config)
    missing = sorted(set(RANGES) - set(values))
    if missing:
        key = missing[0]
        raise ValueError(f"config.{key} is missing; it must be {RANGES[key]}.")
    unknown = sorted(set(values) - set(RANGES))
    if unknown:
        raise ValueError(f"config.{unknown[0]} is no key of a configuration.")
    check_present(config)


def check_present(config: Any) -> None:
    """Checks the known keys that a configuration has, as `check` does.

    That of imported weights has part of them, and that of another version others too.
    """
    for key, value in flatten(config).items():
        if key in RANGES and not RANGES[key].fits(value):
            shown = value if isinstance(value, list | tuple) else repr(value)
            raise ValueError(f"config.{key}={str(shown)[:200]} must be {RANGES[key]}.")
    for key in _ENCODERS:
        if key in config:
            modality = key.removesuffix("_encoder")
            two_stream.encoder_settings(modality, config[key])


def flatten(config: Any) -> dict[str, Any]:
    """The values by their keys, a.b for nested ones; without those of encoders.

    Raises:
      ValueError: if the configuration, or a part of it, is no mapping with text keys.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a configuration is no {type(config).__name__}.")
    sections = {key.partition(".")[0] for key in RANGES if "." in key}
    values = {}
    for key, value in config.items():
        if key in _ENCODERS:
            continue
        if key not in sections:
            values[str(key)] = value
        elif isinstance(value, Mapping):
            values |= {f"{key}.{name}": member for name, member in value.items()}
        else:
            raise ValueError(f"config.{key}={value!r} must have keys of its own.")
    return values
