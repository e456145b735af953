"""Trains encoders with one linear head on true labels, and finds the best epoch."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.distribution import devices
from xdc_tf.evaluation import classifier as classifiers
from xdc_tf.evaluation import example_choices, labelled_records
from xdc_tf.evaluation.classifier import Classifier
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.labelled_records import LabelledRecords
from xdc_tf.evaluation.target_types import TargetType
from xdc_tf.models import two_stream
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import compat
from xdc_tf.training import schedules

SELECTION_NOTE = (
    "The epoch that counts is the one with the best accuracy on training videos that "
    "were held out from training; no test video had a part in choosing it."
)
LAST_EPOCH_NOTE = (
    "The last epoch counts: no training video was held out to choose one by, and no "
    "test video had a part in it."
)
_LOWER_RATES = (
    "Lower config.optimizer.head_learning_rate and encoder_learning_rate, or raise "
    "warmup_epochs."
)
Predict = Callable[..., np.ndarray]


class Epoch(NamedTuple):
    """One epoch of a training.

    Attributes:
      epoch: from 1.
      learning_rate: of the head, in the last step.
      train_loss: mean loss over its clips, as they were trained on.
      train_accuracy: fraction of its clips whose highest score is (one of) their
        labels.
      held_out_loss: mean loss of the videos' scores; None if not measured.
      held_out_accuracy: of the held-out videos, the fraction that was classified right,
        or of several labels per video the mAP; None if not measured.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    held_out_loss: float | None
    held_out_accuracy: float | None


class Trained(NamedTuple):
    """Result of a training; the classifier has the best epoch's weights.

    Attributes:
      best: the epoch that counts.
      curve: all epochs.
      num_train: videos trained on.
      num_held_out: videos by which the epoch was chosen.
      note: how it was chosen, SELECTION_NOTE or LAST_EPOCH_NOTE.
    """

    best: Epoch
    curve: tuple[Epoch, ...]
    num_train: int
    num_held_out: int
    note: str

    def as_details(self) -> dict[str, Any]:
        """For a report, of types that JSON has."""
        return {
            "best_epoch": self.best.epoch,
            "held_out_accuracy": self.best.held_out_accuracy,
            "held_out_loss": self.best.held_out_loss,
            "num_train": self.num_train,
            "num_held_out": self.num_held_out,
            "selection": self.note,
            "learning_curve": [epoch._asdict() for epoch in self.curve],
        }


def training_batches(
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    modalities: tuple[str, ...],
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Iterable[dict[str, tf.Tensor]]:
    """Endless distributed batches of random clips.

    A pass has each example once, or as often as it takes to fill a batch; of balanced
    sampling it has as many draws, see example_choices.balanced_draws.

    Args:
      records: the videos.
      clip: the clips' shape.
      modalities: what the classifier sees.
      settings: of the batches and the augmentation.
      strategy: the devices.
    """
    keep = records.keep
    times = -(-settings.batch_size // int(keep.sum()))
    draws = times * keep.astype(np.float64)
    if settings.balanced_sampling:
        of_examples = example_choices.balanced_draws(records.label_sets)
        draws[records.examples.example_indices] = times * of_examples
    dataset = pipeline.training_batches(
        ClipSource(records.shards, clip, modalities, records.promised),
        augmentation=settings.augmentation,
        batch_size=settings.batch_size,
        keep=keep,
        draws=draws if times > 1 or settings.balanced_sampling else None,
        seed=settings.seed,
        shuffle_buffer=settings.shuffle_buffer,
    )
    return devices.distribute(dataset, strategy)


def predict_scores(
    predict: Predict,
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    modalities: tuple[str, ...],
    num_clips: int,
    num_crops: int = 1,
    batch_size: int,
    strategy: tf.distribute.Strategy,
) -> np.ndarray:
    """Class scores of videos, the mean over evenly spread clips and their crops.

    Args:
      predict: of classifier.make_predict.
      records: the videos.
      clip: the clips' shape.
      modalities: what the classifier sees.
      num_clips: per video.
      num_crops: per clip, where all that is seen has several.
      batch_size: clips per batch, over all devices.
      strategy: the devices.

    Returns:
      [N, K] float32 probabilities in the order of the records' examples.
    """
    has_crops = all(MODALITIES[modality].has_crops for modality in modalities)
    batches = pipeline.evaluation_batches(
        ClipSource(records.shards, clip, modalities, records.promised),
        batch_size=batch_size,
        num_clips=num_clips,
        num_crops=num_crops if has_crops else 1,
        keep=records.keep,
    )
    rows = predict(
        devices.distribute(batches, strategy), num_rows=records.info.num_rows
    )[records.examples.example_indices]
    labelled_records.check_filled(records, rows[:, 0] != classifiers.NO_EXAMPLE)
    return rows


def train(
    classifier: Classifier,
    records: LabelledRecords,
    predict: Predict,
    *,
    clip: ClipSettings,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Trains a classifier, which has the best epoch's weights when this returns.

    The best epoch has the highest held-out accuracy, and of those the lowest held-out
    loss; without held-out videos it is the last.

    Args:
      classifier: changed in place.
      records: labelled; a part of them is held out.
      predict: of the classifier, by classifier.make_predict.
      clip: the clips' shape.
      settings: of the training, checked.
      strategy: the classifier's.
      on_epoch: called after each epoch.

    Raises:
      FloatingPointError: on a loss that is not finite; names epoch and step.
    """
    held_out = example_choices.hold_out(
        records.label_sets, settings.held_out_share, settings.seed
    )
    trained, validation = records.part(~held_out), records.part(held_out)
    training = _prepare(classifier, trained, clip, settings, strategy)
    curve: list[Epoch] = []
    best, best_rank, best_weights = None, (-np.inf, -np.inf), None
    for index in range(settings.num_epochs):
        epoch = training.train_epoch(index)
        is_last = epoch.epoch == settings.num_epochs
        if held_out.any() and (is_last or epoch.epoch % settings.evaluate_every == 0):
            loss, accuracy = training.validate(validation, predict, epoch.epoch)
            epoch = epoch._replace(held_out_loss=loss, held_out_accuracy=accuracy)
            if best is None or (accuracy, -loss) > best_rank:
                best, best_weights = epoch, classifier.weights()
                best_rank = accuracy, -loss
        curve.append(epoch)
        if on_epoch:
            on_epoch(epoch)
    if best_weights is not None and best is not curve[-1]:
        classifier.set_weights(best_weights)
    return Trained(
        best=best or curve[-1],
        curve=tuple(curve),
        num_train=int((~held_out).sum()),
        num_held_out=int(held_out.sum()),
        note=LAST_EPOCH_NOTE if best is None else SELECTION_NOTE,
    )


class _Training(NamedTuple):
    """What trains and validates a classifier.

    Attributes:
      classifier: changed in place.
      train_step: of classifier.make_train_step.
      optimizer: of the steps.
      multipliers: [number of trained variables] float32, the step's.
      batches: endless, of the training clips.
      steps_per_epoch: of a batch each.
      clip: the clips' shape.
      settings: of the training.
      strategy: the classifier's.
    """

    classifier: Classifier
    train_step: Callable[[dict, tf.Tensor], tf.Tensor]
    optimizer: keras.optimizers.Optimizer
    multipliers: tf.Variable
    batches: Iterator[dict[str, tf.Tensor]]
    steps_per_epoch: int
    clip: ClipSettings
    settings: FinetuneSettings
    strategy: tf.distribute.Strategy

    def train_epoch(self, index: int) -> Epoch:
        """Takes an epoch's steps, from index 0; without validation."""
        settings, steps_per_epoch = self.settings, self.steps_per_epoch
        schedule = settings.head_schedule(steps_per_epoch)
        self.multipliers.assign(
            classifiers.multipliers(self.classifier, settings, epoch=index)
        )
        epoch_sums = _EpochSums(index)
        for step in range(index * steps_per_epoch, (index + 1) * steps_per_epoch):
            rate = schedules.learning_rate(
                schedule, step, steps_per_epoch * settings.num_epochs
            )
            compat.set_learning_rate(self.optimizer, rate)
            sums = self.train_step(next(self.batches), tf.constant(step, tf.int64))
            epoch_sums.add(sums, step)
        loss, accuracy = epoch_sums.means(steps_per_epoch * settings.batch_size)
        if not settings.frozen:
            two_stream.average_statistics(
                self.classifier.encoders.values(), self.strategy
            )
        return Epoch(index + 1, rate, loss, accuracy, None, None)

    def validate(
        self, records: LabelledRecords, predict: Predict, epoch: int
    ) -> tuple[float, float]:
        """Loss and accuracy on held-out videos, after an epoch, from 1."""
        scores = predict_scores(
            predict,
            records,
            clip=self.clip,
            modalities=self.classifier.modalities,
            num_clips=self.settings.held_out_clips,
            batch_size=self.settings.eval_batch_size,
            strategy=self.strategy,
        )
        if not np.isfinite(scores).all():
            raise FloatingPointError(
                f"Scores of held-out videos are not finite after epoch {epoch}, step "
                f"{epoch * self.steps_per_epoch}. {_LOWER_RATES}"
            )
        return _measures(scores, records, self.classifier.target)


def _prepare(
    classifier: Classifier,
    records: LabelledRecords,
    clip: ClipSettings,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> _Training:
    label_sets = records.label_sets
    labels = np.full([records.info.num_rows, label_sets.shape[1]], -1, np.int32)
    labels[records.examples.example_indices] = label_sets
    bias = classifier.target.initial_bias(label_sets, classifier.head.units)
    classifier.head.bias.assign(bias)
    variables = classifiers.trained_variables(classifier, frozen=settings.frozen)
    with strategy.scope():
        label_table = tf.Variable(labels, trainable=False, name="labels")
        multipliers = tf.Variable(tf.zeros([len(variables)]), trainable=False)
    optimizer = classifiers.make_optimizer(classifier, multipliers, settings, strategy)
    train_step = classifiers.make_train_step(
        classifier,
        label_table,
        optimizer,
        settings=settings,
        strategy=strategy,
    )
    batches = training_batches(
        records,
        clip=clip,
        modalities=classifier.modalities,
        settings=settings,
        strategy=strategy,
    )
    num_clips = settings.clips_per_epoch or len(label_sets)
    return _Training(
        classifier=classifier,
        train_step=train_step,
        optimizer=optimizer,
        multipliers=multipliers,
        batches=iter(batches),
        steps_per_epoch=max(num_clips // settings.batch_size, 1),
        clip=clip,
        settings=settings,
        strategy=strategy,
    )


def _measures(
    scores: np.ndarray, records: LabelledRecords, target: TargetType
) -> tuple[float, float]:
    """Loss and accuracy of [N, K] probabilities."""
    label_sets = records.label_sets
    measured = target.measure(scores, label_sets, records.class_names)
    return target.loss(scores, label_sets), measured.metrics[target.accuracy]


class _EpochSums:
    """An epoch's sums, read a step late so that no device waits for the host."""

    def __init__(self, epoch: int):
        self._epoch = epoch
        self._newest: tuple[tf.Tensor, int] | None = None
        self._total = np.zeros(2)

    def add(self, sums: tf.Tensor, step: int) -> None:
        self._read()
        self._newest = sums, step

    def means(self, num_clips: int) -> tuple[float, float]:
        """Loss and accuracy."""
        self._read()
        loss, accuracy = (self._total / num_clips).tolist()
        return loss, accuracy

    def _read(self) -> None:
        if self._newest is None:
            return
        (sums, step), self._newest = self._newest, None
        values = sums.numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"The loss is not finite in epoch {self._epoch + 1}, step {step + 1}. "
                f"{_LOWER_RATES}"
            )
        self._total += values
