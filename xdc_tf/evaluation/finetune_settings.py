"""Finetuning's settings: every key with its type, default, range and meaning.

Imports no TensorFlow: the command's default recipe, configs/finetune/base.py, is made
of these defaults while flags are defined.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.evaluation.protocols import UNREPORTED, Group, Options, Settings
from xdc_tf.runtime import typed_settings
from xdc_tf.runtime.typed_settings import (
    COUNT,
    FLAG,
    FRACTION,
    PRECISION,
    TEXT,
    Choice,
    Number,
    OrNone,
    Several,
    Whole,
)
from xdc_tf.training.schedules import SCHEDULES, Schedule

if TYPE_CHECKING:
    from xdc_tf.data.clips import ClipSettings
    from xdc_tf.models.layers import LayerSettings

_TOP, _CLIP, _MODEL = Group(""), Group("clip"), Group("model")
_OPTIMIZER, _TRAINING, _TEST = Group("optimizer"), Group("training"), Group("test")
_RATE = Number(0, 1e6)
_BELOW_ONE = Number(0, 1, below=True)
_FACTOR = Number(0, 1, above=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Settings):
    """What is trained, how, and how it is tested.

    Raises:
      ValueError: when made, on a value that cannot be; names key, value and remedy.
    """

    # Of the head, held-out videos, clips, their order and dropout.
    seed: Annotated[int, Whole(), _TOP] = 0
    # Train the head alone, on an encoder in evaluation mode that stays as it is: the
    # linear protocol, by SGD and with random clips.
    frozen: Annotated[bool, FLAG, _TOP] = False

    # Clips; 0: as the encoder was trained.
    num_frames: Annotated[int, Whole(0, 4096), _CLIP] = 0
    fps: Annotated[float, Number(0, 1e4), _CLIP] = 0.0
    crop_size: Annotated[int, Whole(0, 4096), _CLIP] = 0  # pixels
    audio_secs: Annotated[float, Number(0, 3600), _CLIP] = 0.0

    augmentation: Augmentation = Augmentation()  # of training clips

    dropout: Annotated[float, _BELOW_ONE, _MODEL] = 0.0  # of the head's features
    batch_norm_momentum: Annotated[float, FRACTION, _MODEL] = 0.9
    # Batch-norm statistics over all devices.
    synchronized_batch_norm: Annotated[bool, FLAG, _MODEL] = False
    precision: Annotated[str, PRECISION, _MODEL] = "float32"

    # SGD with momentum, or AdamW, as transformers want it.
    name: Annotated[str, Choice(("sgd", "adamw")), _OPTIMIZER] = "sgd"
    # Learning rates are peaks, for the whole batch; the encoder's is that of its last
    # stage.
    head_learning_rate: Annotated[float, Number(0, 1e6, above=True), _OPTIMIZER] = 0.01
    encoder_learning_rate: Annotated[float, _RATE, _OPTIMIZER] = 0.001
    # Each stage has the rate of the one above times this; the stem has the lowest.
    layer_decay: Annotated[float, _FACTOR, _OPTIMIZER] = 1.0
    momentum: Annotated[float, _BELOW_ONE, _OPTIMIZER] = 0.9  # of SGD
    # Of the kernels of all that is trained: coefficient of an L2 penalty, or of AdamW
    # the decay in a step by the learning rate.
    weight_decay: Annotated[float, _RATE, _OPTIMIZER] = 1e-4
    schedule: Annotated[str, Choice(SCHEDULES), _OPTIMIZER] = "cosine"
    # Of linear growth; may be a part of an epoch.
    warmup_epochs: Annotated[float, _RATE, _OPTIMIZER] = 0.0
    # For "steps": learning rates x decay_factor after so many epochs.
    milestones: Annotated[tuple[float, ...], Several(_RATE), _OPTIMIZER] = ()
    decay_factor: Annotated[float, _FACTOR, _OPTIMIZER] = 0.1

    # Training videos per class, chosen by the seed; 0: all.
    num_train: Annotated[int, Whole(), _TRAINING] = 0
    batch_size: Annotated[int, COUNT, _TRAINING] = 32  # over all devices, per update
    # Compute a transformer's blocks again for their gradients: less memory, more time.
    gradient_checkpointing: Annotated[bool, FLAG, _TRAINING] = False
    num_epochs: Annotated[int, Whole(1, 1_000_000), _TRAINING] = 12
    # Clips in an epoch, by as many passes over the videos as it takes; 0: one pass.
    clips_per_epoch: Annotated[int, Whole(), _TRAINING] = 0
    # The first so many epochs train the head alone; batch norm follows the clips.
    head_epochs: Annotated[int, Whole(), _TRAINING] = 0
    # Draw a video the more often the rarer its classes are.
    balanced_sampling: Annotated[bool, FLAG, _TRAINING] = False
    shuffle_buffer: Annotated[int, COUNT, _TRAINING] = 2048  # clips
    # Fraction of the training videos, of every class, that is not trained on. The epoch
    # with the best accuracy on them counts, of equal ones that with the lowest loss.
    # 0: all are trained on, and the last epoch counts.
    held_out_share: Annotated[float, _BELOW_ONE, _TRAINING] = 0.1
    held_out_clips: Annotated[int, Whole(1, 10_000), _TRAINING] = 3  # per video
    evaluate_every: Annotated[int, COUNT, _TRAINING] = 1  # epochs

    # Per test video, evenly spread, their softmax scores averaged.
    num_clips: Annotated[int, Whole(1, 10_000), _TEST] = 10
    # Per clip, of video: or 3, along the frame's longer side.
    num_crops: Annotated[int, Choice((1, 3)), _TEST] = 1
    # Clips, of held-out and test videos.
    eval_batch_size: Annotated[int, COUNT, _TEST] = 32

    # Also classify by all encoders together. No key of a recipe, nor is the next one.
    fusion: Annotated[bool, FLAG, UNREPORTED] = False
    # Directory that gets the classifiers; None keeps none.
    save_dir: Annotated[str | None, OrNone(TEXT), UNREPORTED] = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
            "fusion": options.fusion,
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

    def clip(self, trained_on: "ClipSettings") -> "ClipSettings":
        """The clips to train and test on, by those of the encoder."""
        values = {name: getattr(self, name) for name in self.groups()["clip"]}
        return trained_on._replace(
            **{name: value for name, value in values.items() if value}
        )

    def layers(self) -> "LayerSettings":
        """The settings of the layers of a classifier in training."""
        from xdc_tf.models.layers import LayerSettings

        return LayerSettings(
            batch_norm_momentum=self.batch_norm_momentum,
            synchronized_batch_norm=self.synchronized_batch_norm,
            weight_decay=0.0 if self.name == "adamw" else self.weight_decay,
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


def default_config() -> dict[str, Any]:
    """The configuration of the defaults, as finetune_settings takes it."""
    defaults = FinetuneSettings()
    sections: dict[str, Any] = {
        group: {name: getattr(defaults, name) for name in names}
        for group, names in FinetuneSettings.groups().items()
    }
    augmentation = typed_settings.to_mapping(defaults.augmentation)
    return {**sections.pop(""), "augmentation": augmentation, **sections}


def finetune_settings(config: Mapping[str, Any]) -> FinetuneSettings:
    """The settings of a configuration with the keys of configs/finetune/base.py.

    Raises:
      ValueError: on a key that is missing or unknown, or a value that cannot be.
    """
    top = dict(config)
    values: dict[str, Any] = {
        "augmentation": typed_settings.from_mapping(
            Augmentation, dict(top.pop("augmentation", {})), key="config.augmentation"
        )
    }
    groups = FinetuneSettings.groups()
    top_names = groups.pop("")
    for group, names in groups.items():
        section = dict(top.pop(group, {}))
        _check_keys(f"config.{group}", section, names)
        values |= section
    _check_keys("config", top, top_names)
    values |= top
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


def _check_keys(
    name: str, members: Mapping[str, Any], expected: Collection[str]
) -> None:
    if set(members) != set(expected):
        raise ValueError(
            f"{name} has the keys {sorted(members)} and needs {sorted(expected)}; "
            "start from configs/finetune/base.py."
        )
