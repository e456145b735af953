"""Trains one encoder with one linear head on true labels, and finds its best epoch."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import AUDIO
from xdc_tf.distribution import devices
from xdc_tf.evaluation import classifier as classifiers
from xdc_tf.evaluation import labelled_records
from xdc_tf.evaluation.classifier import Classifier
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.labelled_records import LabelledRecords
from xdc_tf.models import two_stream
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
      train_loss: mean cross-entropy over its clips, as they were trained on.
      train_accuracy: the same of hits.
      held_out_loss: mean cross-entropy of the videos' scores; None if not looked at.
      held_out_accuracy: share of held-out videos; None if not looked at.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    held_out_loss: float | None
    held_out_accuracy: float | None


class Trained(NamedTuple):
    """What a training came to; the classifier has the best epoch's weights.

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


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Examples to be held out from training, of all classes alike.

    Args:
      labels: [N] int.
      share: of all examples, rounded to a whole number of them. Each class gives the
        same share of its own, rounded up or down, and keeps one example or more.
      seed: which ones.

    Returns:
      [N] bool.
    """
    rng = np.random.default_rng([seed, 2])
    counts = np.bincount(labels)
    wanted = np.minimum(np.floor(share * counts + 1e-9), np.maximum(counts - 1, 0))
    room = np.flatnonzero(counts - 1 > wanted)
    # Largest remainders first; classes of equal ones in random order.
    rng.shuffle(room)
    room = room[np.argsort(-(share * counts - wanted)[room], kind="stable")]
    missing = max(round(share * len(labels)) - int(wanted.sum()), 0)
    wanted[room[:missing]] += 1
    chosen = np.zeros(len(labels), bool)
    for label, number in enumerate(wanted.astype(int)):
        own = np.flatnonzero(labels == label)
        chosen[rng.permutation(own)[:number]] = True
    return chosen


def few_per_class(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """[N] bool: so many examples of each class, or all that it has."""
    rng = np.random.default_rng([seed, 3])
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        chosen[rng.permutation(own)[:number]] = True
    return chosen


def training_batches(
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    modality: str,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Iterable[dict[str, tf.Tensor]]:
    """Endless distributed batches of random clips.

    A pass has each example once, or as often as it takes to fill a batch.
    """
    keep = records.keep
    times = -(-settings.batch_size // int(keep.sum()))
    dataset = pipeline.training_batches(
        ClipSource(records.shards, clip, (modality,), records.promised),
        augmentation=settings.augmentation,
        batch_size=settings.batch_size,
        keep=keep,
        draws=times * keep.astype(np.float64) if times > 1 else None,
        seed=settings.seed,
        shuffle_buffer=settings.shuffle_buffer,
    )
    return devices.distribute(dataset, strategy)


def predict_scores(
    predict: Predict,
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    modality: str,
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
      modality: what the classifier sees.
      num_clips: per video.
      num_crops: per clip, of video; sound has one.
      batch_size: clips per batch, over all devices.
      strategy: the devices.

    Returns:
      [N, K] float32 in the order of the records' examples; rows sum to 1.
    """
    batches = pipeline.evaluation_batches(
        ClipSource(records.shards, clip, (modality,), records.promised),
        batch_size=batch_size,
        num_clips=num_clips,
        num_crops=1 if modality == AUDIO else num_crops,
        keep=records.keep,
    )
    rows = predict(
        devices.distribute(batches, strategy), num_rows=records.info.num_rows
    )[records.examples.example_indices]
    labelled_records.check_filled(
        records, rows.any(axis=1)
    )  # a softmax has no row of zeros
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
    held_out = hold_out(records.labels, settings.held_out_share, settings.seed)
    trained, kept_back = records.part(~held_out), records.part(held_out)
    table = np.full(records.info.num_rows, -1, np.int32)
    table[records.examples.example_indices] = records.labels
    variables = classifiers.trained_variables(classifier, frozen=settings.frozen)
    optimizer = classifiers.make_optimizer(classifier, settings, strategy)
    with strategy.scope():
        label_table = tf.Variable(table, trainable=False, name="labels")
        multipliers = tf.Variable(tf.zeros([len(variables)]), trainable=False)
    train_step = classifiers.make_train_step(
        classifier,
        label_table,
        multipliers,
        optimizer,
        settings=settings,
        strategy=strategy,
    )
    num_clips = settings.clips_per_epoch or int((~held_out).sum())
    steps_per_epoch = max(num_clips // settings.batch_size, 1)
    num_steps = steps_per_epoch * settings.num_epochs
    schedule = settings.head_schedule(steps_per_epoch)
    modality = classifier.modality
    batches = iter(
        training_batches(
            trained, clip=clip, modality=modality, settings=settings, strategy=strategy
        )
    )

    def measure(found: Epoch) -> Epoch:
        scores = predict_scores(
            predict,
            kept_back,
            clip=clip,
            modality=modality,
            num_clips=settings.held_out_clips,
            batch_size=settings.eval_batch_size,
            strategy=strategy,
        )
        if not np.isfinite(scores).all():
            raise FloatingPointError(
                f"Scores of held-out videos are not finite after epoch {found.epoch}, "
                f"step {found.epoch * steps_per_epoch}. {_LOWER_RATES}"
            )
        loss, accuracy = _measures(scores, kept_back.labels)
        return found._replace(held_out_loss=loss, held_out_accuracy=accuracy)

    curve, best, best_weights = [], None, None
    for epoch in range(settings.num_epochs):
        multipliers.assign(classifiers.multipliers(classifier, settings, epoch=epoch))
        epoch_sums = _EpochSums(epoch)
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            rate = schedules.learning_rate(schedule, step, num_steps)
            compat.set_learning_rate(optimizer, rate)
            sums = train_step(next(batches), tf.constant(step, tf.int64))
            epoch_sums.add(sums, step)
        loss, accuracy = epoch_sums.means(steps_per_epoch * settings.batch_size)
        if not settings.frozen:
            two_stream.average_statistics([classifier.encoder], strategy)
        found = Epoch(epoch + 1, rate, loss, accuracy, None, None)
        is_last = epoch + 1 == settings.num_epochs
        looks = is_last or (epoch + 1) % settings.evaluate_every == 0
        if held_out.any() and looks:
            found = measure(found)
            if best is None or _is_better(found, best):
                best, best_weights = found, classifier.weights()
        curve.append(found)
        if on_epoch:
            on_epoch(found)
    if best is not None and best is not curve[-1]:
        classifier.set_weights(best_weights)
    return Trained(
        best=best or curve[-1],
        curve=tuple(curve),
        num_train=int((~held_out).sum()),
        num_held_out=int(held_out.sum()),
        note=LAST_EPOCH_NOTE if best is None else SELECTION_NOTE,
    )


class _EpochSums:
    """An epoch's sums, looked at a step late so that no device waits for the host."""

    def __init__(self, epoch: int):
        self._epoch = epoch
        self._newest: tuple[tf.Tensor, int] | None = None
        self._total = np.zeros(2)

    def add(self, sums: tf.Tensor, step: int) -> None:
        self._look()
        self._newest = sums, step

    def means(self, num_clips: int) -> tuple[float, float]:
        """Loss and accuracy."""
        self._look()
        loss, accuracy = (self._total / num_clips).tolist()
        return loss, accuracy

    def _look(self) -> None:
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


def _is_better(found: Epoch, best: Epoch) -> bool:
    return (found.held_out_accuracy, -found.held_out_loss) > (
        best.held_out_accuracy,
        -best.held_out_loss,
    )


def _measures(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy and share of hits."""
    own = scores[np.arange(len(labels)), labels].astype(np.float64)
    # A score may round to zero in float32.
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()
    return float(loss), float((scores.argmax(axis=1) == labels).mean())
