"""Linear protocol: a linear classifier on the features of a frozen encoder."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation import (
    finetune,
    frozen_features,
    protocols,
    target_types,
)
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.protocols import (
    FUSED_FEATURES,
    FUSED_SCORES,
    LOGISTIC,
    SGD,
    UNREPORTED,
    Options,
    Results,
)
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.evaluation.target_types import TargetType
from xdc_tf.runtime.typed_settings import (
    COUNT,
    FLAG,
    Choice,
    Kind,
    Number,
    OrNone,
    Whole,
)

_MAX_ITERATIONS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSettings(FrozenSettings):
    """How the features of a frozen encoder are classified.

    Attributes:
      num_clips: of SGD the recipe's.
      solver: LOGISTIC, a regression on the features, or SGD, a head that is trained on
        random clips, see finetune.
      c: inverse strength of the regression's L2 penalty, as scikit-learn has it.
      with_initial: of a pretrained run also score the encoders that it started from;
        not of SGD.
      fusion: also classify by all encoders together.
      num_jobs: of several labels per example, classes that are fitted side by side.
      recipe: of SGD, with a frozen encoder.
    """

    num_clips: Annotated[int, Whole(1, 10_000)] = 3
    solver: Annotated[str, Choice((LOGISTIC, SGD))] = LOGISTIC
    c: Annotated[float, Number(0, 1e9, above=True), UNREPORTED] = 1.0
    with_initial: Annotated[bool, FLAG, UNREPORTED] = True
    fusion: Annotated[bool, FLAG, UNREPORTED] = False
    num_jobs: Annotated[int, COUNT, UNREPORTED] = 1
    recipe: Annotated[
        FinetuneSettings | None, OrNone(Kind(FinetuneSettings)), UNREPORTED
    ] = None

    @classmethod
    def from_options(cls, options: Options) -> "LinearSettings":
        """The settings with the options, and of SGD with their recipe.

        Raises:
          ValueError: see finetune_settings.finetune_settings.
        """
        if options.solver != SGD:
            return super().from_options(options._replace(recipe=None))
        recipe = FinetuneSettings.from_options(options._replace(save_dir=None))
        recipe = dataclasses.replace(recipe, frozen=True)
        return cls(num_clips=recipe.num_clips, solver=SGD, recipe=recipe)

    def clip(self, trained_on: ClipSettings) -> ClipSettings:
        """The clips that recordings are cut into, by the encoder's."""
        return self.recipe.clip(trained_on) if self.recipe else trained_on

    def as_json(self) -> dict[str, Any]:
        """What a report states of the settings, of types that JSON has."""
        recipe = self.recipe.as_json() if self.recipe else {}
        return {"num_clips": self.num_clips, **recipe, "solver": self.solver}


class Scores(NamedTuple):
    """What a fitted classifier says of test rows.

    Attributes:
      scores: [M, K] float64, one column per class, the highest for the predicted one.
      converged: whether the fit ended by itself.
    """

    scores: np.ndarray
    converged: bool

    def probabilities(self, target: TargetType) -> np.ndarray:
        """[M, K] float64, of the scores as logits."""
        return target.probabilities(tf.constant(self.scores)).numpy()


def run(
    source: Source,
    splits: Sequence[Split],
    settings: LinearSettings,
    *,
    streams: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Fits a classifier to the training videos' features and scores the test videos.

    By regression a video's feature is the mean over its clips; features are
    standardised by the training videos' mean and deviation. Of several labels per
    example there is one regression for each class. For SGD see finetune.run.

    For the arguments see protocols.Protocol.

    Returns:
      For each split one result per stream: top1, top5 and mean_class, or of several
      labels per example mAP, AUC and d_prime; and initial_top1, or initial_mAP, of the
      encoder that a pretrained run started from. Details have what target_types says,
      "num_train", "num_test" and "converged". With fusion two more: FUSED_SCORES of the
      mean of the streams' probabilities, FUSED_FEATURES of one classifier on their
      features side by side.

    Raises:
      FileNotFoundError, ValueError, FloatingPointError: see
        frozen_features.make_features_of, or finetune.run.
    """
    if settings.recipe is not None:
        return finetune.run(
            source, splits, settings.recipe, streams=streams, strategy=strategy
        )
    if settings.fusion:
        protocols.check_fusion(streams)
    with_initial = settings.with_initial and frozen_features.has_initial(source)
    return frozen_features.score_splits(
        lambda split, features: _score_all(
            split, features, streams, settings, with_initial
        ),
        source,
        splits,
        settings.extraction(streams, average=True, with_initial=with_initial),
        strategy=strategy,
    )


def _score_all(
    split: Split,
    features: SplitFeatures,
    streams: Sequence[str],
    settings: LinearSettings,
    with_initial: bool,
) -> list[SplitResult]:
    """Results of each stream, and of all streams together."""
    target = target_types.of(split.train.info.several_labels)

    def fit(names: Sequence[str]) -> Scores:
        train, test = (
            np.concatenate([part[name] for name in names], axis=1)
            for part in (features.train, features.test)
        )
        labels = split.train.label_sets
        if target is target_types.MULTICLASS:
            return class_scores(train, labels[:, 0], test, c=settings.c)
        members = target_types.membership(labels, len(split.train.class_names))
        return label_scores(
            train,
            members,
            test,
            class_names=split.train.class_names,
            c=settings.c,
            num_jobs=settings.num_jobs,
        )

    def result(name: str, scores: np.ndarray, converged: bool) -> SplitResult:
        measured = target.measure(scores, split.test.label_sets, split.test.class_names)
        details = measured.details | {
            "num_train": len(split.train.label_sets),
            "num_test": len(scores),
            "converged": converged,
        }
        return SplitResult(name, measured.metrics, details)

    fits = {stream: fit([stream]) for stream in streams}
    results = []
    for stream, fitted in fits.items():
        scored = result(stream, fitted.scores, fitted.converged)
        if with_initial:
            initial = fit([frozen_features.initial_name(stream)])
            values = result(stream, initial.scores, initial.converged).metrics
            scored.metrics[f"initial_{target.accuracy}"] = values[target.accuracy]
            scored.details["initial_converged"] = initial.converged
        results.append(scored)
    if settings.fusion:
        means = np.mean([f.probabilities(target) for f in fits.values()], axis=0)
        converged = all(fitted.converged for fitted in fits.values())
        results.append(result(FUSED_SCORES, means, converged))
        together = fit(streams)
        results.append(result(FUSED_FEATURES, together.scores, together.converged))
    return results


def label_scores(
    train_features: np.ndarray,
    train_members: np.ndarray,
    test_features: np.ndarray,
    *,
    class_names: Sequence[str],
    c: float = 1.0,
    num_jobs: int = 1,
) -> Scores:
    """Scores of test rows by a logistic regression for each class by itself.

    Args:
      train_features: [N, D] float.
      train_members: [N, K] bool, which classes each row has.
      test_features: [M, D] float.
      class_names: of the K classes.
      c: inverse strength of the L2 penalty.
      num_jobs: classes that are fitted side by side.

    Raises:
      ValueError: a class that no training row has, or that all have.
    """
    counts = train_members.sum(axis=0)
    same = np.flatnonzero((counts == 0) | (counts == len(train_members)))
    if len(same):
        raise ValueError(
            f"{counts[same[0]]} of {len(train_members)} training examples have the "
            f"label {class_names[same[0]]!r}, and some must have it and others not; "
            "take it out of the manifest, or use more videos."
        )
    scaler = StandardScaler().fit(train_features)
    regression = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
    classifier = OneVsRestClassifier(regression, n_jobs=num_jobs)
    fit_quietly(
        classifier, scaler.transform(train_features), train_members.astype(np.int8)
    )
    # By their numbers: warnings of other processes are not seen.
    converged = all(
        regression.n_iter_.max() < _MAX_ITERATIONS
        for regression in classifier.estimators_
    )
    scores = classifier.decision_function(scaler.transform(test_features))
    return Scores(np.asarray(scores, np.float64), converged)


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
    """A decision_function's [M, K], or [M] of two classes, as [M, K] logits."""
    if decisions.ndim == 1:
        return np.stack([-decisions, decisions], axis=1) / 2
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
