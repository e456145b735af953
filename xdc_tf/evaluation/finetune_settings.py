"""How a classifier is trained and tested: named values, checked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xdc_tf.data.augment import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import typed_settings
from xdc_tf.runtime.typed_settings import Choice, Kind, Number, Several, Whole
from xdc_tf.training.configuration import PRECISIONS
from xdc_tf.training.schedules import SCHEDULES, Schedule

# Where configs/finetune/base.py has each key, but for seed, frozen and augmentation.
_GROUPS = {
    "clip": ("num_frames", "fps", "crop_size", "audio_secs"),
    "model": ("dropout", "batch_norm_momentum", "synchronized_batch_norm", "precision"),
    "optimizer": (
        *("head_learning_rate", "encoder_learning_rate", "layer_decay", "momentum"),
        *("weight_decay", "schedule", "warmup_epochs", "milestones", "decay_factor"),
    ),
    "training": (
        *("num_train", "batch_size", "num_epochs", "clips_per_epoch", "head_epochs"),
        *("shuffle_buffer", "held_out_share", "held_out_clips", "evaluate_every"),
    ),
    "test": ("num_clips", "num_crops", "eval_batch_size"),
}

_COUNT, _RATE = Whole(1), Number(0, 1e6)
_BELOW_ONE = Number(0, 1, below=True)
_FACTOR = Number(0, 1, above=True)
_RANGES: dict[str, Any] = {
    "seed": Whole(),
    "frozen": Kind(bool),
    "num_frames": Whole(0, 4096),
    "fps": Number(0, 1e4),
    "crop_size": Whole(0, 4096),
    "audio_secs": Number(0, 3600),
    "dropout": _BELOW_ONE,
    "batch_norm_momentum": Number(0, 1),
    "synchronized_batch_norm": Kind(bool),
    "precision": Choice(PRECISIONS),
    "head_learning_rate": Number(0, 1e6, above=True),
    "encoder_learning_rate": _RATE,
    "layer_decay": _FACTOR,
    "momentum": _BELOW_ONE,
    "weight_decay": _RATE,
    "schedule": Choice(tuple(SCHEDULES)),
    "warmup_epochs": Number(0, 1e6),
    "milestones": Several(Number(0, 1e6)),
    "decay_factor": _FACTOR,
    "num_train": Whole(),
    "batch_size": _COUNT,
    "num_epochs": Whole(1, 1_000_000),
    "clips_per_epoch": Whole(),
    "head_epochs": Whole(),
    "shuffle_buffer": _COUNT,
    "held_out_share": _BELOW_ONE,
    "held_out_clips": Whole(1, 10_000),
    "evaluate_every": _COUNT,
    "num_clips": Whole(1, 10_000),
    "num_crops": Choice((1, 3)),
    "eval_batch_size": _COUNT,
}


class FinetuneSettings(NamedTuple):
    """What is trained, how, and how it is tested; see configs/finetune/base.py.

    Attributes:
      seed: of the head, held-out videos, clips, their order and dropout.
      frozen: train the head alone, on an encoder in evaluation mode.
      num_frames, fps, crop_size, audio_secs: of a clip; 0 as the encoder was trained.
      augmentation: random changes of training clips.
      dropout: share of the features that the head does not see in a step.
      batch_norm_momentum: kept share of the moving statistics at each update.
      synchronized_batch_norm: statistics over all devices.
      precision: one of configuration.PRECISIONS.
      head_learning_rate, encoder_learning_rate: peaks, for the whole batch.
      layer_decay: each stage of the encoder has the rate of the one above times this.
      momentum: of SGD.
      weight_decay: coefficient of the L2 penalty on kernels.
      schedule: one of schedules.SCHEDULES.
      warmup_epochs: of linear growth; may be a part of an epoch.
      milestones, decay_factor: for "steps": epochs done when the rate is multiplied.
      num_train: training videos per class; 0: all.
      batch_size: clips for one update, over all devices.
      num_epochs: how often clips_per_epoch are trained on.
      clips_per_epoch: 0: one of each training video.
      head_epochs: the first so many train the head alone.
      shuffle_buffer: clips.
      held_out_share: of the training videos, by which the best epoch is chosen.
      held_out_clips: clips per held-out video.
      evaluate_every: epochs from one look at the held-out videos to the next.
      num_clips: clips per test video, evenly spread.
      num_crops: 1 or 3 per clip along the longer side; sound has 1.
      eval_batch_size: clips per batch for held-out and test videos.
    """

    seed: int = 0
    frozen: bool = False
    num_frames: int = 0
    fps: float = 0.0
    crop_size: int = 0
    audio_secs: float = 0.0
    augmentation: Augmentation = Augmentation()
    dropout: float = 0.0
    batch_norm_momentum: float = 0.9
    synchronized_batch_norm: bool = False
    precision: str = "float32"
    head_learning_rate: float = 0.01
    encoder_learning_rate: float = 0.001
    layer_decay: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = ()
    decay_factor: float = 0.1
    num_train: int = 0
    batch_size: int = 32
    num_epochs: int = 12
    clips_per_epoch: int = 0
    head_epochs: int = 0
    shuffle_buffer: int = 2048
    held_out_share: float = 0.1
    held_out_clips: int = 3
    evaluate_every: int = 1
    num_clips: int = 10
    num_crops: int = 1
    eval_batch_size: int = 32

    def clip(self, trained_on: ClipSettings) -> ClipSettings:
        """The clips to train and test on, by those of the encoder."""
        wanted = {key: getattr(self, key) for key in _GROUPS["clip"]}
        changes = {key: value for key, value in wanted.items() if value}
        return trained_on._replace(**changes)

    def layers(self) -> LayerSettings:
        """What the layers of the classifier in training are made with."""
        return LayerSettings(
            batch_norm_momentum=self.batch_norm_momentum,
            synchronized_batch_norm=self.synchronized_batch_norm,
            weight_decay=self.weight_decay,
            dtype=self.precision,
            seed=self.seed,
            fast=True,
        )

    def head_schedule(self, steps_per_epoch: int) -> Schedule:
        """The learning rate of the head; see classifier.multipliers for the others."""
        return Schedule(
            name=self.schedule,
            peak=self.head_learning_rate,
            warmup_steps=round(self.warmup_epochs * steps_per_epoch),
            decay_shares=tuple(epoch / self.num_epochs for epoch in self.milestones),
            decay_factor=self.decay_factor,
        )


def finetune_settings(config: Mapping[str, Any]) -> FinetuneSettings:
    """The settings of a configuration with the keys of configs/finetune/base.py.

    Raises:
      ValueError: on a key that is missing or unknown, or a value that cannot be.
    """
    config = dict(config)
    augmentation = dict(config.pop("augmentation", {}))
    _check_keys("config.augmentation", augmentation, Augmentation._fields)
    values = {"augmentation": Augmentation(**augmentation)}
    for group, keys in _GROUPS.items():
        found = dict(config.pop(group, {}))
        _check_keys(f"config.{group}", found, keys)
        values |= found
    _check_keys("config", config, ("seed", "frozen"))
    values |= config
    if isinstance(values["milestones"], list):
        values["milestones"] = tuple(values["milestones"])
    return check(FinetuneSettings(**values))


def _check_keys(name: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    if set(found) != set(wanted):
        raise ValueError(
            f"{name} has the keys {sorted(found)} and needs {sorted(wanted)}; start "
            "from configs/finetune/base.py."
        )


def check(settings: FinetuneSettings) -> FinetuneSettings:
    """The same settings, which can be.

    Raises:
      ValueError: on a value that cannot be; names key, value and remedy.
    """
    s = settings
    for key, key_range in _RANGES.items():
        if not key_range.fits(getattr(s, key)):
            raise ValueError(f"{_told(s, key)} must be {key_range}.")
    typed_settings.check(s.augmentation, key="config.augmentation")
    if s.schedule == "steps" and not s.milestones:
        raise ValueError(
            f"{_told(s, 'milestones')} must be the epochs at which schedule='steps' "
            "goes down; give some."
        )
    late = [epoch for epoch in s.milestones if not 0 < epoch < s.num_epochs]
    if late and s.schedule == "steps":
        raise ValueError(
            f"{_told(s, 'milestones')} must lie between 0 and "
            f"{_told(s, 'num_epochs')}; take out {late} or train longer."
        )
    if s.warmup_epochs >= s.num_epochs:
        raise ValueError(
            f"{_told(s, 'warmup_epochs')} leaves none of {_told(s, 'num_epochs')} at "
            "the full learning rate; lower it."
        )
    return settings


def check_devices(settings: FinetuneSettings, num_devices: int) -> None:
    """Raises ValueError if a batch cannot be split over the devices."""
    for key in ("batch_size", "eval_batch_size"):
        if getattr(settings, key) % num_devices:
            raise ValueError(
                f"{_told(settings, key)} is not a multiple of the {num_devices} "
                "devices; change it, or use another number of devices."
            )


def _told(settings: FinetuneSettings, key: str) -> str:
    """A key as the command line has it, and its value."""
    groups = [f"{group}." for group, keys in _GROUPS.items() if key in keys]
    value = getattr(settings, key)
    # Without the quotes of lists, so that the middle of long ones can be left out.
    shown = str(value) if isinstance(value, list | tuple) else repr(value)
    return f"config.{groups[0] if groups else ''}{key}={shown[:200]}"
