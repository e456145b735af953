"""Finetuning protocol: encoders and a linear head trained on labels, scored on others.

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
from xdc_tf.evaluation import (
    classifier_training,
    encoder_sources,
    example_choices,
    protocols,
    target_types,
)
from xdc_tf.evaluation.classifier import Classifier, Part
from xdc_tf.evaluation.classifier_training import Epoch, Trained
from xdc_tf.evaluation.encoder_sources import SCRATCH, Source
from xdc_tf.evaluation.finetune_settings import FinetuneSettings, check_devices
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split
from xdc_tf.evaluation.protocols import FUSED_FEATURES, FUSED_SCORES, Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.evaluation.target_types import TargetType
from xdc_tf.features import extraction
from xdc_tf.models import encoder_files, encoder_table
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
        STREAM_encoder.keras, STREAM_heads.npz and STREAM_classifier.json, and of fusion
        fused_features/ with the encoders that were trained together; it is made if
        missing.
      streams: names of the encoders.
      strategy: the devices of this process; None for the present one.

    Returns:
      For each split one result per stream: top1, top5 and mean_class, or of several
      labels per example mAP, AUC and d_prime; details have what target_types says and
      classifier_training.Trained.as_details. With fusion two more: FUSED_SCORES of the
      mean of the streams' probabilities, FUSED_FEATURES of encoders that are trained
      together with one head on their features. A note says how the epoch was chosen.

    Raises:
      FileNotFoundError: without an encoder.
      ValueError: on an unknown stream, fusion of one alone, a batch that the devices
        cannot share, gradient checkpointing of encoders that do not allow it, or
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
    if settings.fusion:
        protocols.check_fusion(streams)
    if settings.gradient_checkpointing:
        modalities = [source.run.streams[stream] for stream in streams]
        encoder_table.check_recomputes(source.run.architectures[m] for m in modalities)
    if settings.save_dir:
        outputs.try_directory(settings.save_dir)
    results = [
        _evaluate(source, split, streams, settings, strategy) for split in splits
    ]
    return Results(results, (results[0][0].details["selection"],))


def _evaluate(
    source: Source,
    split: Split,
    streams: Sequence[str],
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> list[SplitResult]:
    """Results of each stream's classifier, and of all streams together."""
    results, scores = [], []
    for stream in streams:
        result, of_stream = _classify(
            source, split, stream, [stream], settings, strategy
        )
        results.append(result)
        scores.append(of_stream)
    if settings.fusion:
        results.append(_fuse(split, np.mean(scores, axis=0)))
        result, _ = _classify(
            source, split, FUSED_FEATURES, streams, settings, strategy
        )
        results.append(result)
    return results


def _classify(
    source: Source,
    split: Split,
    name: str,
    streams: Sequence[str],
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> tuple[SplitResult, np.ndarray]:
    """Trains and tests a classifier on streams' features; also its [N, K] scores."""
    clip = settings.clip(source.run.clip)
    train = _training_part(split, settings)
    encoders = {
        stream: encoder_sources.load_encoder(source, stream, clip) for stream in streams
    }
    architectures, modalities = source.run.architectures, source.run.streams
    classifier = classifiers.build(
        {
            stream: Part(encoder, modalities[stream], architectures[modalities[stream]])
            for stream, encoder in encoders.items()
        },
        clip=clip,
        num_classes=len(train.class_names),
        target=target_types.of(train.info.several_labels),
        settings=settings,
        strategy=strategy,
    )
    if settings.frozen and source.kind == SCRATCH:
        _refresh(classifier, train, clip=clip, settings=settings, strategy=strategy)
    predict = classifiers.make_predict(classifier, strategy)

    def print_epoch(epoch: Epoch) -> None:
        text = _line(epoch, classifier.target, settings.num_epochs)
        print(f"split {split.name}, {name}: {text}", flush=True)

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
        modalities=classifier.modalities,
        num_clips=settings.num_clips,
        num_crops=settings.num_crops,
        batch_size=settings.eval_batch_size,
        strategy=strategy,
    )
    result = _result(name, split, scores, classifier, trained, clip)
    if settings.save_dir:
        directory = os.path.join(settings.save_dir, f"split_{split.name}")
        if name == FUSED_FEATURES:
            directory = os.path.join(directory, name)
        _save(encoders, classifier, name, directory, train, clip, trained)
    return result, scores


def _training_part(split: Split, settings: FinetuneSettings) -> LabelledRecords:
    """The training videos, or so many of each class as the settings ask for."""
    if not settings.num_train:
        return split.train
    chosen = example_choices.few_per_class(
        split.train.label_sets, settings.num_train, settings.seed
    )
    return split.train.part(chosen)


def _result(
    name: str,
    split: Split,
    scores: np.ndarray,
    classifier: Classifier,
    trained: Trained,
    clip: ClipSettings,
) -> SplitResult:
    """What [N, K] scores of the test videos are worth."""
    measured = classifier.target.measure(
        scores, split.test.label_sets, split.test.class_names
    )
    details = {
        **measured.details,
        **trained.as_details(),
        "num_test": len(scores),
        "clip": _clip_as_json(clip),
    }
    return SplitResult(name, measured.metrics, details)


def _fuse(split: Split, scores: np.ndarray) -> SplitResult:
    """What the streams' mean scores [N, K] of the test videos are worth."""
    target = target_types.of(split.test.info.several_labels)
    measured = target.measure(scores, split.test.label_sets, split.test.class_names)
    details = measured.details | {"num_test": len(scores)}
    return SplitResult(FUSED_SCORES, measured.metrics, details)


def _refresh(
    classifier: Classifier,
    records: LabelledRecords,
    *,
    clip: ClipSettings,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> None:
    """Batch-norm statistics for random encoders that are to stay as they are."""
    batches = classifier_training.training_batches(
        records,
        clip=clip,
        modalities=classifier.modalities,
        settings=settings,
        strategy=strategy,
    )
    per_pass = max(len(records.label_sets) // settings.batch_size, 1)
    extraction.refresh_batch_norm(
        classifier.encoders,
        classifier.stream_modalities,
        itertools.islice(batches, min(_BATCH_NORM_BATCHES, per_pass)),
        strategy=strategy,
    )


def _line(epoch: Epoch, target: TargetType, num_epochs: int) -> str:
    line = (
        f"epoch {epoch.epoch}/{num_epochs}, rate {epoch.learning_rate:.2g}, loss "
        f"{epoch.train_loss:.3f}, accuracy {100 * epoch.train_accuracy:.1f}%"
    )
    if epoch.held_out_accuracy is None:
        return line
    return (
        f"{line}; held out: loss {epoch.held_out_loss:.3f}, {target.accuracy} "
        f"{100 * epoch.held_out_accuracy:.1f}%"
    )


def _clip_as_json(clip: ClipSettings) -> dict[str, Any]:
    """A clip's shape, of types that JSON has."""
    values = clip._asdict()
    return values | {name: list(values[name]) for name in ("video_mean", "video_std")}


def _save(
    encoders: dict[str, keras.Model],
    classifier: Classifier,
    name: str,
    directory: str,
    records: LabelledRecords,
    clip: ClipSettings,
    trained: Trained,
) -> None:
    """Encoders and head as a run's files, and a JSON file of their clip and classes."""
    for stream, encoder in encoders.items():
        encoder.set_weights(classifier.encoders[stream].get_weights())
        encoder_files.save_encoder(encoder, workdir.encoder_file(directory, stream))
    kernel, bias = classifier.head.get_weights()
    encoder_files.save_heads(
        {supervision.TRUE_LABELS: Head(kernel, bias)},
        workdir.heads_file(directory, name),
    )
    values = {
        "stream": name,
        "modality": " ".join(classifier.modalities),
        "encoders": list(encoders),
        "target": classifier.target.name,
        "class_names": list(records.class_names),
        "clip": _clip_as_json(clip),
        "best_epoch": trained.best.epoch,
        "held_out_accuracy": trained.best.held_out_accuracy,
    }
    path = os.path.join(directory, f"{name}_{CLASSIFIER_FILE}")
    files.write_text(path, json.dumps(values, indent=2) + "\n")
