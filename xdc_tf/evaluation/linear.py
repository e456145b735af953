"""Linear protocol: logistic regression on the features of a frozen encoder."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_tf.evaluation import frozen_features, metrics
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.reports import SplitResult

_MAX_ITERATIONS = 2000


class Scores(NamedTuple):
    """What a fitted classifier says of test rows.

    Attributes:
      scores: [M, K] float64, one column per class, the highest for the predicted one.
      converged: whether the fit ended by itself.
    """

    scores: np.ndarray
    converged: bool


def evaluate_splits(
    source: Source,
    splits: Sequence[Split],
    *,
    streams: Sequence[str],
    num_clips: int = 3,
    c: float = 1.0,
    with_initial: bool = True,
    batch_size: int | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[list[SplitResult]]:
    """Fits a classifier to the training videos' features and scores the test videos.

    A video's feature is the mean over its clips; features are standardised by the
    training videos' mean and deviation.

    Args:
      source: of the encoders.
      splits: labelled records with their test records.
      streams: names of the encoders.
      num_clips: evenly spread clips per video.
      c: inverse strength of the L2 penalty, as scikit-learn has it.
      with_initial: of a pretrained run also the encoders that it started from.
      batch_size: clips per batch over all devices; None for that of the run.
      strategy: the devices; None for the present one.

    Returns:
      For each split one result per stream: top1, top5 and mean_class, and initial_top1
      of the encoder that a pretrained run started from. Details have
      metrics.as_details, "num_train", "num_test" and "converged".

    Raises:
      FileNotFoundError, ValueError, FloatingPointError: see
        frozen_features.make_features_of.
    """
    with_initial = with_initial and frozen_features.has_initial(source)
    features = frozen_features.of_splits(
        source,
        splits,
        streams=streams,
        num_clips=num_clips,
        average=True,
        with_initial=with_initial,
        batch_size=batch_size,
        strategy=strategy,
    )

    def accuracies(split, of_split, name):
        fitted = class_scores(
            of_split.train[name], split.train.labels, of_split.test[name], c=c
        )
        return metrics.accuracies(fitted.scores, split.test.labels), fitted.converged

    results: list[Any] = []
    for split, of_split in zip(splits, features, strict=True):
        results.append([])
        for stream in streams:
            found, converged = accuracies(split, of_split, stream)
            details = describe(found, split) | {"converged": converged}
            values = main_metrics(found)
            if with_initial:
                initial, converged = accuracies(
                    split, of_split, frozen_features.initial_name(stream)
                )
                values["initial_top1"] = initial.top1
                details["initial_converged"] = converged
            results[-1].append(SplitResult(stream, values, details))
    return results


def class_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    c: float = 1.0,
) -> Scores:
    """Scores of test rows by a classifier that is fitted to the training rows.

    Args:
      train_features: [N, D] float.
      train_labels: [N] int, of 0 to K - 1, each at least once.
      test_features: [M, D] float.
      c: inverse strength of the L2 penalty.

    Raises:
      ValueError: a class without a training row, or fewer than two classes.
    """
    check_classes(train_labels)
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
    )
    converged = fit_quietly(classifier, train_features, train_labels)
    return Scores(by_class(classifier.decision_function(test_features)), converged)


def check_classes(labels: np.ndarray) -> None:
    """Raises ValueError unless labels are 0 to K - 1, K at least 2, each there."""
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise ValueError(
            f"training labels {present[:10].tolist()} must be two or more numbers of "
            "classes from 0 on, each with an example."
        )


def by_class(decisions: np.ndarray) -> np.ndarray:
    """A decision_function's [M, K], or [M] of two classes, as [M, K] scores."""
    if decisions.ndim == 1:
        return np.stack([-decisions, decisions], axis=1)
    return decisions


def fit_quietly(estimator: BaseEstimator, *data: np.ndarray) -> bool:
    """Fits, and returns whether it converged instead of warning if it did not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(*data)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return converged


def main_metrics(found: metrics.Accuracies) -> dict[str, float]:
    """The metrics of a classification, as a SplitResult has them."""
    return {
        "top1": found.top1,
        "top5": found.top5,
        "mean_class": found.mean_class,
    }


def describe(found: metrics.Accuracies, split: Split) -> dict[str, Any]:
    """The details of a classification that do not depend on the classifier."""
    return {
        **metrics.as_details(found, split.train.class_names),
        "num_train": len(split.train.labels),
        "num_test": len(split.test.labels),
    }
