"""SVM protocol: a linear SVM on each clip's features, scores averaged per recording.

How XDC's authors evaluate audio encoders on ESC-50 and DCASE.
"""

import dataclasses
import re
import warnings
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.parallel import Parallel, delayed

from xdc_tf.evaluation import frozen_features, target_types
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split
from xdc_tf.evaluation.linear import by_class, check_classes
from xdc_tf.evaluation.protocols import Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.runtime.typed_settings import COUNT, NonEmpty, Number, Whole

CS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvmSettings(FrozenSettings):
    """How the SVM is fitted.

    Attributes:
      num_clips: the authors take 10 for ESC-50 and 60 for DCASE.
      cs: penalties to choose from; a single one is taken as it is.
      num_folds: of the cross-validation that chooses; fewer if the smallest class has
        fewer recordings.
      max_iterations: of the solver, for each fit.
      seed: of the folds and the solver.
      num_jobs: fits at a time, in threads; each takes 16 bytes per number of the
        training features.
    """

    cs: Annotated[tuple[float, ...], NonEmpty(Number(0, 1e9, above=True))] = CS
    num_folds: Annotated[int, Whole()] = 5
    max_iterations: Annotated[int, COUNT] = 1000
    seed: Annotated[int, Whole()] = 0
    num_jobs: Annotated[int, COUNT] = 1


DEFAULTS = SvmSettings()


class Scores(NamedTuple):
    """What a fitted SVM says of test recordings.

    Attributes:
      scores: [M, K] float64, decisions averaged over each recording's clips.
      c: the penalty that was chosen, the smallest of the best.
      cv_accuracy: for each penalty in ascending order, the mean over the folds of the
        fraction of recordings that are right when left out; empty without a choice.
      num_folds: of the cross-validation, 0 if there was none.
      converged: whether the fit whose scores these are ended by itself.
      cv_converged: the fraction of the cross-validation's fits that did; 1 without any.
    """

    scores: np.ndarray
    c: float
    cv_accuracy: tuple[float, ...]
    num_folds: int
    converged: bool
    cv_converged: float


class _Fitted(NamedTuple):
    scores: np.ndarray  # [M, K], columns for `classes`
    classes: np.ndarray
    converged: bool


def run(
    source: Source,
    splits: Sequence[Split],
    settings: SvmSettings,
    *,
    streams: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Fits an SVM to the training recordings' clips and scores the test recordings.

    Segments of one file count as one recording when training examples are dealt to the
    folds.

    For the arguments see protocols.Protocol.

    Returns:
      For each split one result per stream: top1, top5 and mean_class. Details have
      metrics.as_details, "num_train", "num_test", "c", "cs", "cv_accuracy" (of each of
      the cs), "c_is_at_edge" (a wider choice might do better), "num_folds",
      "converged" and "cv_converged".

    Raises:
      FileNotFoundError, FloatingPointError: see frozen_features.make_features_of.
      ValueError: there, or see class_scores.
    """
    return frozen_features.score_splits(
        lambda split, features: [
            _score(stream, split, features, settings) for stream in streams
        ],
        source,
        splits,
        settings.extraction(streams),
        strategy=strategy,
    )


def _score(
    stream: str, split: Split, features: SplitFeatures, settings: SvmSettings
) -> SplitResult:
    fitted = class_scores(
        features.train[stream],
        split.train.labels,
        features.test[stream],
        groups=recordings(split.train),
        settings=settings,
    )
    measured = target_types.MULTICLASS.measure(
        fitted.scores, split.test.label_sets, split.test.class_names
    )
    edges = (min(settings.cs), max(settings.cs))
    details = measured.details | {
        "num_train": len(split.train.labels),
        "num_test": len(split.test.labels),
        "c": fitted.c,
        "cs": sorted(settings.cs),
        "cv_accuracy": list(fitted.cv_accuracy),
        "c_is_at_edge": len(settings.cs) > 1 and fitted.c in edges,
        "num_folds": fitted.num_folds,
        "converged": fitted.converged,
        "cv_converged": fitted.cv_converged,
    }
    return SplitResult(stream, measured.metrics, details)


def recordings(records: LabelledRecords) -> np.ndarray:
    """[N] int64: the same number for all examples that are segments of one file."""
    # As data_prep.manifest.video_id writes a segment's times behind the path.
    paths = [re.sub(r"#t=[\d.,]+$", "", name) for name in records.examples.video_ids]
    return np.unique(paths, return_inverse=True)[1]


def class_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    settings: SvmSettings = DEFAULTS,
) -> Scores:
    """Scores of test recordings by an SVM whose penalty is chosen within the training.

    Args:
      train_features: [N, C, D] float, C clips of each example; standardised by the mean
        and deviation over the clips that an SVM is fitted to.
      train_labels: [N] int, of 0 to K - 1, each at least once.
      test_features: [M, C', D] float.
      groups: [N] int; examples of one number are never on both sides of a fold. None
        if each example is another recording.
      settings: of the SVM.

    Raises:
      ValueError: a class without an example, fewer than two classes, or a choice among
        several penalties where a class is of one group.
    """
    check_classes(train_labels)
    if groups is None:
        groups = np.arange(len(train_labels))
    cs = sorted(settings.cs)
    means, cv_converged = np.zeros(1), 1.0
    folds = _folds(train_labels, groups, settings) if len(cs) > 1 else []
    with warnings.catch_warnings():
        # Whether fits converged is in the result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds:
            means, cv_converged = _cross_validate(
                train_features, train_labels, cs, folds, settings
            )
        c = cs[int(np.argmax(means))]
        train, test = _standardised(train_features, test_features)
        fitted = _fit(train, test, train_labels, c, settings)
    return Scores(
        scores=fitted.scores,
        c=float(c),
        cv_accuracy=tuple(means.tolist()) if folds else (),
        num_folds=len(folds),
        converged=fitted.converged,
        cv_converged=cv_converged,
    )


def _folds(labels, groups, settings: SvmSettings) -> list[tuple]:
    """Pairs of training and held-out examples."""
    num_groups = [len(np.unique(groups[labels == k])) for k in np.unique(labels)]
    number = min(settings.num_folds, *num_groups)
    if number < 2:
        raise ValueError(
            f"num_folds={settings.num_folds} and {min(num_groups)} training recordings "
            f"of the smallest class must both be two or more to choose among "
            f"cs={settings.cs} by cross-validation; give a single one."
        )
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=settings.seed)
    return list(splitter.split(labels, labels, groups))


def _cross_validate(features, labels, cs, folds, settings: SvmSettings):
    """Mean accuracy of each of the cs on what is left out; fraction that converged."""
    accuracy, converged = np.zeros([2, len(cs), len(folds)])
    for number, (fitted_to, left_out) in enumerate(folds):
        train, test = _standardised(features[fitted_to], features[left_out])
        fits = Parallel(settings.num_jobs, prefer="threads")(
            delayed(_fit)(train, test, labels[fitted_to], c, settings) for c in cs
        )
        for row, fitted in enumerate(fits):
            best = fitted.classes[np.argmax(fitted.scores, axis=1)]
            accuracy[row, number] = np.mean(best == labels[left_out])
            converged[row, number] = fitted.converged
    return accuracy.mean(axis=1), float(converged.mean())


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, C, D] and [M, C', D] float64, by mean and deviation of the first."""
    width = train.shape[2]
    scaler = StandardScaler().fit(train.reshape(-1, width).astype(np.float64))
    return tuple(
        scaler.transform(rows.reshape(-1, width).astype(np.float64)).reshape(rows.shape)
        for rows in (train, test)
    )


def _fit(train, test, labels, c: float, settings: SvmSettings) -> _Fitted:
    """Fits to [N, C, D] clips of examples with these labels and scores [M, C', D]."""
    (num_examples, num_clips, width), num_tested = train.shape, len(test)
    classifier = LinearSVC(
        C=c, dual="auto", max_iter=settings.max_iterations, random_state=settings.seed
    )
    classifier.fit(
        train.reshape(num_examples * num_clips, width), np.repeat(labels, num_clips)
    )
    decisions = by_class(classifier.decision_function(test.reshape(-1, width)))
    return _Fitted(
        scores=decisions.reshape(num_tested, test.shape[1], -1).mean(axis=1),
        classes=classifier.classes_,
        # From this number on scikit-learn warns.
        converged=bool(np.max(classifier.n_iter_) < settings.max_iterations),
    )
