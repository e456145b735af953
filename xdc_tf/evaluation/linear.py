"""Linear protocol: logistic regression on the features of a frozen encoder."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_tf import compat
from xdc_tf.clustering.features import make_extract
from xdc_tf.data import dataset_info, pipeline
from xdc_tf.data.dataset_info import AUDIO, DatasetInfo, Examples
from xdc_tf.training import settings, trained_run
from xdc_tf.training.trained_run import TrainedRun


class LinearResult(NamedTuple):
    """Accuracies of one stream's encoder on the test records.

    Attributes:
      stream: name of the encoder.
      accuracy: of the pretrained encoder, share of test videos.
      initial_accuracy: of the encoder that the run started from, random unless it was
        started from another; None for imported weights.
      num_train: labelled training videos.
      num_test: labelled test videos.
      num_classes: classes of the training videos.
    """

    stream: str
    accuracy: float
    initial_accuracy: float | None
    num_train: int
    num_test: int
    num_classes: int


class _LabelledRecords(NamedTuple):
    directory: str
    info: DatasetInfo
    examples: Examples  # with a label only

    @property
    def classes(self) -> np.ndarray:
        """[N] label names."""
        return np.array(self.info.label_names)[self.examples.labels]


def evaluate(
    run_dir: str,
    *,
    train_dir: str,
    test_dir: str,
    num_clips: int = 3,
    batch_size: int | None = None,
) -> list[LinearResult]:
    """Evaluates all encoders of a run, one result per stream.

    A video's feature is the mean over num_clips evenly spread clips; features are
    standardised by the training videos' mean and deviation.

    Args:
      run_dir: work directory of a run that finished a round or more.
      train_dir: labelled records that the classifier is fitted to.
      test_dir: labelled records that it is scored on.
      num_clips: clips per video.
      batch_size: clips per batch; None for that of the run.

    Raises:
      FileNotFoundError: without a run, its encoders, or records.
      ValueError: on records of another log-mel setting, the same records for both,
        records without labels, or test classes that the training records lack.
    """
    run = trained_run.open_run(run_dir)
    train = _read_labelled(train_dir, run)
    test = _read_labelled(test_dir, run)
    _check_pair(train, test)
    pretrained, initial = "pretrained", "initial"
    encoders = {
        f"{stream} {pretrained}": encoder
        for stream, encoder in trained_run.load_encoders(run).items()
    }
    if run.info is not None:
        encoders |= {
            f"{stream} {initial}": encoder
            for stream, encoder in trained_run.load_encoders(run, initial=True).items()
        }
    strategy = tf.distribute.get_strategy()
    extract = make_extract(
        encoders,
        {name: run.streams[name.split()[0]] for name in encoders},
        strategy=strategy,
    )

    def features_of(records: _LabelledRecords) -> dict[str, np.ndarray]:
        wanted = np.zeros(records.info.num_rows, bool)
        wanted[records.examples.example_indices] = True
        batches = pipeline.evaluation_batches(
            dataset_info.shard_paths(records.directory, records.info),
            clip=run.clip,
            batch_size=batch_size or run.batch_size,
            num_clips=num_clips,
            keep=wanted,
            modalities=run.modalities,
        )
        rows = extract(batches, num_rows=records.info.num_rows).streams
        return {
            name: row[records.examples.example_indices] for name, row in rows.items()
        }

    train_features, test_features = features_of(train), features_of(test)
    scores = {
        name: accuracy(
            train_features[name], train.classes, test_features[name], test.classes
        )
        for name in encoders
    }
    return [
        LinearResult(
            stream=stream,
            accuracy=scores[f"{stream} {pretrained}"],
            initial_accuracy=scores.get(f"{stream} {initial}"),
            num_train=len(train.classes),
            num_test=len(test.classes),
            num_classes=len(set(train.classes)),
        )
        for stream in run.streams
    ]


def accuracy(
    train_features: np.ndarray,
    train_classes: np.ndarray,
    test_features: np.ndarray,
    test_classes: np.ndarray,
) -> float:
    """Share of test rows that a classifier fitted to the training rows gets right.

    Args:
      train_features: [N, D] float.
      train_classes: [N] class names.
      test_features: [M, D] float.
      test_classes: [M] class names.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(train_features, train_classes)
    return float(classifier.score(test_features, test_classes))


def _read_labelled(records_dir: str, run: TrainedRun) -> _LabelledRecords:
    compat.enable_remote_paths(records_dir)
    info = dataset_info.read_dataset_info(records_dir)
    dataset_info.check_modalities(info, run.modalities, records_dir)
    if AUDIO in run.modalities:
        settings.check_log_mel(run.config, info, records_dir)
    examples = dataset_info.read_examples(records_dir)
    labelled = examples.labels >= 0
    if len(set(examples.labels[labelled])) < 2:
        raise ValueError(
            f"{records_dir} has {int(labelled.sum())} labelled videos of fewer than "
            "two classes; the linear protocol needs a label column in the manifest."
        )
    kept = Examples(*(column[labelled] for column in examples))
    return _LabelledRecords(records_dir, info, kept)


def _check_pair(train: _LabelledRecords, test: _LabelledRecords) -> None:
    if train.info.manifest_sha256 == test.info.manifest_sha256:
        raise ValueError(
            f"{train.directory} and {test.directory} were made from one manifest; test "
            "on videos that the classifier is not fitted to."
        )
    unknown = sorted(set(test.classes.tolist()) - set(train.classes.tolist()))
    if unknown:
        raise ValueError(
            f"{test.directory} has the classes {unknown[:5]}, of which "
            f"{train.directory} has no example; use records of the same classes."
        )


def table(results: list[LinearResult], *, method: str) -> str:
    """The results for the terminal, accuracies in percent."""
    width = max(len(result.stream) for result in results)
    lines = [
        f"Linear accuracy on {results[0].num_test} held-out videos, "
        f"{results[0].num_classes} classes, in percent",
        f"{'encoder':{max(width, 7)}}  {'initial':>7}  {method:>10}  {'gain':>6}",
    ]
    for result in results:
        initial, gain = "", ""
        if result.initial_accuracy is not None:
            initial = f"{100 * result.initial_accuracy:.1f}"
            gain = f"{100 * (result.accuracy - result.initial_accuracy):+.1f}"
        lines.append(
            f"{result.stream:{max(width, 7)}}  {initial:>7}  "
            f"{100 * result.accuracy:10.1f}  {gain:>6}"
        )
    return "\n".join(lines)
