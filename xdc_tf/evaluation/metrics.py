"""Classification scores -> accuracies or average precisions; means over splits."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np


class Accuracies(NamedTuple):
    """Accuracies of classification scores.

    Attributes:
      top1: fraction of examples whose highest score is their class's.
      top5: fraction of examples whose class is among the five highest scores, or among
        all if there are fewer.
      mean_class: mean of the top1 of all classes that have an example.
      per_class: [K] float64 top1 of each class; NaN without an example.
      confusion: [K, K] int64, number of examples by true class (row) and best score.
    """

    top1: float
    top5: float
    mean_class: float
    per_class: np.ndarray
    confusion: np.ndarray


def accuracies(scores: np.ndarray, labels: np.ndarray) -> Accuracies:
    """Accuracies of scores; of equal ones the first class counts as the higher.

    Args:
      scores: [N, K] float, one column per class.
      labels: [N] int, numbers of columns.

    Raises:
      ValueError: without an example, or on shapes or labels that do not fit.
    """
    num_classes = scores.shape[1] if scores.ndim == 2 else 0
    if not len(labels) or len(scores) != len(labels) or not num_classes:
        raise ValueError(f"scores {scores.shape} do not fit {len(labels)} labels.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} do not fit {num_classes} "
            "columns of scores."
        )
    if not np.isfinite(scores).all():
        raise FloatingPointError("scores have values that are not finite numbers.")
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = order[:, :5] == labels[:, None]
    confusion = np.zeros([num_classes, num_classes], np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    counts = confusion.sum(axis=1)
    per_class = np.full(num_classes, np.nan)
    np.divide(np.diag(confusion), counts, out=per_class, where=counts > 0)
    return Accuracies(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        mean_class=float(np.nanmean(per_class)),
        per_class=per_class,
        confusion=confusion,
    )


def main_metrics(accuracies: Accuracies) -> dict[str, float]:
    """The metrics of a classification, as a SplitResult has them."""
    return {
        "top1": accuracies.top1,
        "top5": accuracies.top5,
        "mean_class": accuracies.mean_class,
    }


def as_details(accuracies: Accuracies, class_names: Sequence[str]) -> dict[str, Any]:
    """Per class and confusion, as JSON holds them; null where there is no example."""
    return {
        "class_names": list(class_names),
        "per_class": without_nan(accuracies.per_class),
        "confusion": accuracies.confusion.tolist(),
    }


class AveragePrecisions(NamedTuple):
    """How well scores rank the examples that have a label before those that have not.

    Attributes:
      mean_ap: mean of the average precisions of all classes that have an example, mAP.
      mean_auc: mean of the areas under the ROC curves of the classes that have an
        example and do not have all.
      d_prime: sqrt(2) times the standard normal quantile of mean_auc (Gemmeke et al.
        2017), the distance of two normal distributions of unit variance with this area;
        capped where the area is 0 or 1.
      per_class_ap: [K] float64; NaN without an example.
      per_class_auc: [K] float64; NaN without an example, or where all are the class's.
      prevalence: mean over the same classes of the fraction of examples that have
        them, which is the mAP of scores that know nothing.
    """

    mean_ap: float
    mean_auc: float
    d_prime: float
    per_class_ap: np.ndarray
    per_class_auc: np.ndarray
    prevalence: float


# Of an area: no sample of examples tells it from 1.
_LARGEST_AREA = 1 - 1e-7


def average_precisions(scores: np.ndarray, membership: np.ndarray) -> AveragePrecisions:
    """Average precision and area under the ROC curve of each class.

    Args:
      scores: [N, K] float, one column per class, higher for what is rather of it.
      membership: [N, K] bool, the labels of each example.

    Raises:
      ValueError: on shapes that do not fit, or without any class that has an example.
      FloatingPointError: on scores that are not finite.
    """
    if scores.shape != membership.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} do not fit labels {membership.shape}.")
    if not np.isfinite(scores).all():
        raise FloatingPointError("scores have values that are not finite numbers.")
    # Here, so that reading reports does not wait for it.
    from sklearn.metrics import average_precision_score, roc_auc_score

    counts = membership.sum(axis=0)
    has_both = (counts > 0) & (counts < len(scores))
    if not counts.any():
        raise ValueError(
            f"none of {membership.shape[1]} classes has one of {len(scores)} examples "
            "to be found; use records with labels."
        )
    ap, auc = np.full([2, len(counts)], np.nan)
    for k in np.flatnonzero(counts):
        ap[k] = average_precision_score(membership[:, k], scores[:, k])
    for k in np.flatnonzero(has_both):
        auc[k] = roc_auc_score(membership[:, k], scores[:, k])
    # Where all examples are of all classes there is nothing to tell apart.
    mean_auc = float(np.nanmean(auc)) if has_both.any() else 0.5
    area = min(max(mean_auc, 1 - _LARGEST_AREA), _LARGEST_AREA)
    return AveragePrecisions(
        mean_ap=float(np.nanmean(ap)),
        mean_auc=mean_auc,
        d_prime=2**0.5 * NormalDist().inv_cdf(area),
        per_class_ap=ap,
        per_class_auc=auc,
        prevalence=float(counts[counts > 0].mean() / len(scores)),
    )


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; no deviation of a single value."""
    if len(values) == 1:
        return float(values[0]), None
    return float(np.mean(values)), float(np.std(values, ddof=1))


def without_nan(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON holds them; None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


# Metrics that are no fractions, whatever their values.
_NOT_FRACTIONS = ("d_prime",)


def are_fractions(metric: str, values: Sequence[float]) -> bool:
    """Whether all values of a metric are within [0, 1], to be shown in percent."""
    return metric not in _NOT_FRACTIONS and all(0 <= value <= 1 for value in values)
