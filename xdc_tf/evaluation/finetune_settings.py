"""How a classifier is trained and tested: the keys of finetuning, checked."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from xdc_tf.data.augment import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation.protocols import Options, Settings, key
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import typed_settings
from xdc_tf.runtime.typed_settings import Choice, Kind, Number, Several, Whole
from xdc_tf.training.configuration import PRECISIONS
from xdc_tf.training.schedules import SCHEDULES, Schedule

_RATE = Number(0, 1e6)
_BELOW_ONE = Number(0, 1, below=True)
_FACTOR = Number(0, 1, above=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Settings):
    """What is trained, how, and how it is tested.

    Every key has its type, its range and its place in a configuration here;
    configs/finetune/base.py has its default and says what it means.

    Attributes:
      save_dir: directory that gets the classifiers; None to keep none.

    Raises:
      ValueError: on a value that cannot be; names key, value and remedy.
    """

    seed: int = key(Whole(), group="")
    frozen: bool = key(Kind(bool), group="")
    num_frames: int = key(Whole(0, 4096), group="clip")
    fps: float = key(Number(0, 1e4), group="clip")
    crop_size: int = key(Whole(0, 4096), group="clip")
    audio_secs: float = key(Number(0, 3600), group="clip")
    augmentation: Augmentation = key(None, group="")
    dropout: float = key(_BELOW_ONE, group="model")
    batch_norm_momentum: float = key(Number(0, 1), group="model")
    synchronized_batch_norm: bool = key(Kind(bool), group="model")
    precision: str = key(Choice(PRECISIONS), group="model")
    head_learning_rate: float = key(Number(0, 1e6, above=True), group="optimizer")
    encoder_learning_rate: float = key(_RATE, group="optimizer")
    layer_decay: float = key(_FACTOR, group="optimizer")
    momentum: float = key(_BELOW_ONE, group="optimizer")
    weight_decay: float = key(_RATE, group="optimizer")
    schedule: str = key(Choice(SCHEDULES), group="optimizer")
    warmup_epochs: float = key(Number(0, 1e6), group="optimizer")
    milestones: tuple[float, ...] = key(Several(Number(0, 1e6)), group="optimizer")
    decay_factor: float = key(_FACTOR, group="optimizer")
    num_train: int = key(Whole(), group="training")
    batch_size: int = key(Whole(1), group="training")
    num_epochs: int = key(Whole(1, 1_000_000), group="training")
    clips_per_epoch: int = key(Whole(), group="training")
    head_epochs: int = key(Whole(), group="training")
    shuffle_buffer: int = key(Whole(1), group="training")
    held_out_share: float = key(_BELOW_ONE, group="training")
    held_out_clips: int = key(Whole(1, 10_000), group="training")
    evaluate_every: int = key(Whole(1), group="training")
    num_clips: int = key(Whole(1, 10_000), group="test")
    num_crops: int = key(Choice((1, 3)), group="test")
    eval_batch_size: int = key(Whole(1), group="test")
    save_dir: str | None = key(Kind(str), None, reported=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        typed_settings.check(self.augmentation, key="config.augmentation")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                f"{self.shown('milestones')} must be the epochs at which "
                "schedule='steps' goes down; give some."
            )
        late = [epoch for epoch in self.milestones if not 0 < epoch < self.num_epochs]
        if late and self.schedule == "steps":
            raise ValueError(
                f"{self.shown('milestones')} must lie between 0 and "
                f"{self.shown('num_epochs')}; take out {late} or train longer."
            )
        if self.warmup_epochs >= self.num_epochs:
            raise ValueError(
                f"{self.shown('warmup_epochs')} leaves none of "
                f"{self.shown('num_epochs')} at the full learning rate; lower it."
            )

    @classmethod
    def from_options(cls, options: Options) -> "FinetuneSettings":
        """The settings of the recipe, with the options' clips and batch of the test.

        Raises:
          ValueError: see finetune_settings.
        """
        changes: dict[str, Any] = {
            "num_clips": options.num_clips,
            "eval_batch_size": options.batch_size,
            "save_dir": options.save_dir,
        }
        return dataclasses.replace(
            finetune_settings(options.recipe or {}),
            **{name: value for name, value in changes.items() if value},
        )

    def as_json(self) -> dict[str, Any]:
        """What a report states of the settings, of types that JSON has."""
        values = {"num_clips": self.num_clips} | super().as_json()
        return values | {"augmentation": self.augmentation._asdict()}

    def clip(self, trained_on: ClipSettings) -> ClipSettings:
        """The clips to train and test on, by those of the encoder."""
        values = {name: getattr(self, name) for name in _keys_of("clip")}
        return trained_on._replace(
            **{name: value for name, value in values.items() if value}
        )

    def layers(self) -> LayerSettings:
        """The settings of the layers of a classifier in training."""
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
    values: dict[str, Any] = {}
    for group in _GROUPS:
        members = dict(config.pop(group, {}))
        _check_keys(f"config.{group}", members, _keys_of(group))
        values |= members
    augmentation = dict(config.pop("augmentation", {}))
    _check_keys("config.augmentation", augmentation, Augmentation._fields)
    _check_keys("config", config, set(_keys_of("")) - {"augmentation"})
    values |= config | {"augmentation": Augmentation(**augmentation)}
    if isinstance(values["milestones"], list):
        values["milestones"] = tuple(values["milestones"])
    return FinetuneSettings(**values)


def check_devices(settings: FinetuneSettings, num_devices: int) -> None:
    """Raises ValueError if a batch cannot be split over the devices."""
    for name in ("batch_size", "eval_batch_size"):
        if getattr(settings, name) % num_devices:
            raise ValueError(
                f"{settings.shown(name)} is not a multiple of the {num_devices} "
                "devices; change it, or use another number of devices."
            )


def _keys_of(group: str) -> list[str]:
    """The keys of a part of the configuration, "" for its top."""
    return [
        field.name
        for field in dataclasses.fields(FinetuneSettings)
        if field.metadata["group"] == group
    ]


def _check_keys(
    name: str, members: Mapping[str, Any], expected: Collection[str]
) -> None:
    if set(members) != set(expected):
        raise ValueError(
            f"{name} has the keys {sorted(members)} and needs {sorted(expected)}; "
            "start from configs/finetune/base.py."
        )


_GROUPS = tuple(
    dict.fromkeys(
        field.metadata["group"]
        for field in dataclasses.fields(FinetuneSettings)
        if field.metadata["group"]
    )
)
