"""Finetuning protocol: encoder and a linear head trained on labels, scored on others.

With FinetuneSettings(frozen=True) it is the linear protocol by SGD with augmentation.
"""

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data.clips import ClipSettings
from xdc_tf.distribution import workers
from xdc_tf.evaluation import classifier as classifiers
from xdc_tf.evaluation import classifier_training, encoder_sources, metrics
from xdc_tf.evaluation.classifier import Classifier
from xdc_tf.evaluation.classifier_training import Epoch, Trained
from xdc_tf.evaluation.encoder_sources import SCRATCH, Source
from xdc_tf.evaluation.finetune_settings import FinetuneSettings, check_devices
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split, few_per_class
from xdc_tf.evaluation.protocols import Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.features import extraction
from xdc_tf.models import encoder_files
from xdc_tf.models.encoder_files import Head
from xdc_tf.runtime import files, outputs, workdir
from xdc_tf.training import supervision

CLASSIFIER_FILE = "classifier.json"
# Batches that give a random encoder its batch-norm statistics where it is not trained.
_BATCH_NORM_BATCHES = 50


def run(
    source: Source,
    splits: Sequence[Split],
    settings: FinetuneSettings,
    *,
    streams: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Trains a classifier for every split and stream and scores it on the test videos.

    Args:
      source: of the encoders, each of which starts every split anew.
      splits: labelled records with their test records.
      settings: of training and test. Their save_dir, if any, gets split_NAME/ with
        STREAM_encoder.keras, STREAM_heads.npz and STREAM_classifier.json; it is made if
        missing.
      streams: names of the encoders.
      strategy: the devices of this process; None for the present one.

    Returns:
      For each split one result per stream: top1, top5 and mean_class; its details have
      metrics.as_details and classifier_training.Trained.as_details. A note says how the
      epoch was chosen.

    Raises:
      FileNotFoundError: without an encoder.
      ValueError: on an unknown stream, a batch that the devices cannot share, or
        several worker processes.
      FloatingPointError: on a loss that is not finite; names epoch and step.
      OSError: if the disk fails.
    """
    strategy = strategy or tf.distribute.get_strategy()
    check_devices(settings, strategy.num_replicas_in_sync)
    if workers.place(strategy)[1] > 1:
        raise ValueError(
            "finetuning runs in one process, on any number of its devices; unset "
            "TF_CONFIG."
        )
    encoder_sources.check_streams(source, streams)
    if settings.save_dir:
        outputs.try_directory(settings.save_dir)
    results = [
        [_evaluate(source, split, stream, settings, strategy) for stream in streams]
        for split in splits
    ]
    return Results(results, (results[0][0].details["selection"],))


def _evaluate(
    source: Source,
    split: Split,
    stream: str,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> SplitResult:
    modality = source.run.streams[stream]
    clip = settings.clip(source.run.clip)
    train = _training_part(split, settings)
    encoder = encoder_sources.load_encoder(source, stream, clip)
    classifier = classifiers.build(
        encoder,
        modality=modality,
        architecture=source.run.architectures[modality],
        clip=clip,
        num_classes=len(train.class_names),
        settings=settings,
        strategy=strategy,
    )
    if settings.frozen and source.kind == SCRATCH:
        _refresh(classifier, train, clip=clip, settings=settings, strategy=strategy)
    predict = classifiers.make_predict(classifier, strategy)

    def print_epoch(epoch: Epoch) -> None:
        print(_line(epoch, settings, f"split {split.name}, {stream}"), flush=True)

    trained = classifier_training.train(
        classifier,
        train,
        predict,
        clip=clip,
        settings=settings,
        strategy=strategy,
        on_epoch=print_epoch,
    )
    scores = classifier_training.predict_scores(
        predict,
        split.test,
        clip=clip,
        modality=modality,
        num_clips=settings.num_clips,
        num_crops=settings.num_crops,
        batch_size=settings.eval_batch_size,
        strategy=strategy,
    )
    result = _result(stream, split, scores, trained, clip)
    if settings.save_dir:
        encoder.set_weights(classifier.encoder.get_weights())
        directory = os.path.join(settings.save_dir, f"split_{split.name}")
        _save(encoder, classifier, stream, directory, train, clip, trained)
    return result


def _training_part(split: Split, settings: FinetuneSettings) -> LabelledRecords:
    """The training videos, or so many of each class as the settings ask for."""
    if not settings.num_train:
        return split.train
    return split.train.part(
        few_per_class(split.train.labels, settings.num_train, settings.seed)
    )


def _result(
    stream: str, split: Split, scores: np.ndarray, trained: Trained, clip: ClipSettings
) -> SplitResult:
    """What [N, K] scores of the test videos are worth."""
    accuracies = metrics.accuracies(scores, split.test.labels)
    details = {
        **metrics.as_details(accuracies, split.test.class_names),
        **trained.as_details(),
        "num_test": len(split.test.labels),
        "clip": _clip_as_json(clip),
    }
    return SplitResult(stream, metrics.main_metrics(accuracies), details)


def _refresh(
    classifier: Classifier,
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> None:
    """Batch-norm statistics for a random encoder that is to stay as it is."""
    batches = classifier_training.training_batches(
        records,
        clip=clip,
        modality=classifier.modality,
        settings=settings,
        strategy=strategy,
    )
    per_pass = max(len(records.labels) // settings.batch_size, 1)
    extraction.refresh_batch_norm(
        {classifier.modality: classifier.encoder},
        {classifier.modality: classifier.modality},
        itertools.islice(batches, min(_BATCH_NORM_BATCHES, per_pass)),
        strategy=strategy,
    )


def _line(epoch: Epoch, settings: FinetuneSettings, classifier: str) -> str:
    line = (
        f"{classifier}: epoch {epoch.epoch}/{settings.num_epochs}, rate "
        f"{epoch.learning_rate:.2g}, loss {epoch.train_loss:.3f}, accuracy "
        f"{100 * epoch.train_accuracy:.1f}%"
    )
    if epoch.held_out_accuracy is None:
        return line
    return (
        f"{line}; held out: loss {epoch.held_out_loss:.3f}, accuracy "
        f"{100 * epoch.held_out_accuracy:.1f}%"
    )


def _clip_as_json(clip: ClipSettings) -> dict[str, Any]:
    """A clip's shape, of types that JSON has."""
    values = clip._asdict()
    return values | {name: list(values[name]) for name in ("video_mean", "video_std")}


def _save(
    encoder: keras.Model,
    classifier: Classifier,
    stream: str,
    directory: str,
    records: LabelledRecords,
    clip: ClipSettings,
    trained: Trained,
) -> None:
    """Encoder and head as a run's files, and a JSON file of their clip and classes."""
    encoder_files.save_encoder(encoder, workdir.encoder_file(directory, stream))
    kernel, bias = classifier.head.get_weights()
    encoder_files.save_heads(
        {supervision.TRUE_LABELS: Head(kernel, bias)},
        workdir.heads_file(directory, stream),
    )
    values = {
        "stream": stream,
        "modality": classifier.modality,
        "class_names": list(records.class_names),
        "clip": _clip_as_json(clip),
        "best_epoch": trained.best.epoch,
        "held_out_accuracy": trained.best.held_out_accuracy,
    }
    path = os.path.join(directory, f"{stream}_{CLASSIFIER_FILE}")
    files.write_text(path, json.dumps(values, indent=2) + "\n")
