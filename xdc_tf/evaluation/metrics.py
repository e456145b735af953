"""Classification scores -> accuracies, per class and over all; means over splits."""

from collections.abc import Sequence
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
        "per_class": [
            None if np.isnan(value) else value for value in accuracies.per_class
        ],
        "confusion": accuracies.confusion.tolist(),
    }


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; no deviation of a single value."""
    if len(values) == 1:
        return float(values[0]), None
    return float(np.mean(values)), float(np.std(values, ddof=1))


def are_fractions(values: Sequence[float]) -> bool:
    """Whether all values are within [0, 1], to be shown in percent."""
    return all(0 <= value <= 1 for value in values)
