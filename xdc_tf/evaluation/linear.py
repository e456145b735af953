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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation import finetune, frozen_features, metrics
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.metrics import Accuracies
from xdc_tf.evaluation.protocols import LOGISTIC, SGD, UNREPORTED, Options, Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.runtime.typed_settings import FLAG, Choice, Kind, Number, OrNone, Whole

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
      recipe: of SGD, with a frozen encoder.
    """

    num_clips: Annotated[int, Whole(1, 10_000)] = 3
    solver: Annotated[str, Choice((LOGISTIC, SGD))] = LOGISTIC
    c: Annotated[float, Number(0, 1e9, above=True), UNREPORTED] = 1.0
    with_initial: Annotated[bool, FLAG, UNREPORTED] = True
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
    standardised by the training videos' mean and deviation. For SGD see finetune.run.

    For the arguments see protocols.Protocol.

    Returns:
      For each split one result per stream: top1, top5 and mean_class, and initial_top1
      of the encoder that a pretrained run started from. Details have
      metrics.as_details, "num_train", "num_test" and "converged".

    Raises:
      FileNotFoundError, ValueError, FloatingPointError: see
        frozen_features.make_features_of, or finetune.run.
    """
    if settings.recipe is not None:
        return finetune.run(
            source, splits, settings.recipe, streams=streams, strategy=strategy
        )
    with_initial = settings.with_initial and frozen_features.has_initial(source)
    return frozen_features.score_splits(
        lambda split, features: [
            _score(stream, split, features, settings.c, with_initial)
            for stream in streams
        ],
        source,
        splits,
        settings.extraction(streams, average=True, with_initial=with_initial),
        strategy=strategy,
    )


def _score(
    stream: str, split: Split, features: SplitFeatures, c: float, with_initial: bool
) -> SplitResult:
    accuracies, converged = _accuracies(stream, split, features, c)
    values = metrics.main_metrics(accuracies)
    details = describe(accuracies, split) | {"converged": converged}
    if with_initial:
        name = frozen_features.initial_name(stream)
        initial, converged = _accuracies(name, split, features, c)
        values["initial_top1"] = initial.top1
        details["initial_converged"] = converged
    return SplitResult(stream, values, details)


def _accuracies(
    name: str, split: Split, features: SplitFeatures, c: float
) -> tuple[Accuracies, bool]:
    """Accuracies of one encoder's features, and whether the fit converged."""
    fitted = class_scores(
        features.train[name], split.train.labels, features.test[name], c=c
    )
    return metrics.accuracies(fitted.scores, split.test.labels), fitted.converged


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


def describe(accuracies: Accuracies, split: Split) -> dict[str, Any]:
    """The details of a classification that do not depend on the classifier."""
    return {
        **metrics.as_details(accuracies, split.train.class_names),
        "num_train": len(split.train.labels),
        "num_test": len(split.test.labels),
    }
