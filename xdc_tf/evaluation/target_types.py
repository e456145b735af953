"""What a classifier learns of an example: one class, or each class by itself.

The names are scikit-learn's: `multiclass` for one label per example, `multilabel` for
any number of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.evaluation import metrics


class Measured(NamedTuple):
    """What scores are worth.

    Attributes:
      metrics: by name, the main one first, as a SplitResult has them.
      details: more, of types that JSON has.
    """

    metrics: dict[str, float]
    details: dict[str, Any]


class TargetType(NamedTuple):
    """A type of targets.

    Labels are sets: [N, L] int numbers of classes, and -1 behind them.

    Attributes:
      name: scikit-learn's.
      losses: losses(label_sets, logits) of tensors [B, L] int32 and [B, K] -> [B].
      probabilities: of logits, a tensor of any shape [..., K].
      initial_bias: initial_bias(label_sets, num_classes), of arrays -> [K] float32
        bias of a new head, given the training examples' labels.
      loss: loss(probabilities, label_sets) of arrays [N, K] and [N, L]: mean loss.
      measure: measure(scores, label_sets, class_names) -> Measured, of arrays [N, K]
        and [N, L].
      accuracy: the metric by which an epoch is chosen.
    """

    name: str
    losses: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    probabilities: Callable[[tf.Tensor], tf.Tensor]
    initial_bias: Callable[[np.ndarray, int], np.ndarray]
    loss: Callable[[np.ndarray, np.ndarray], float]
    measure: Callable[[np.ndarray, np.ndarray, Sequence[str]], Measured]
    accuracy: str


def membership(label_sets: np.ndarray, num_classes: int) -> np.ndarray:
    """[N, K] bool: which classes each example has, of [N, L] label sets."""
    members = np.zeros([len(label_sets), num_classes], bool)
    rows, places = np.nonzero(label_sets >= 0)
    members[rows, label_sets[rows, places]] = True
    return members


def hits(label_sets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """[B] float32: whether the highest of [B, K] logits is one of [B, L] labels."""
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(tf.reduce_any(best[:, None] == label_sets, axis=1), tf.float32)


def _multiclass_losses(label_sets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label_sets[:, 0], logits)


def _multiclass_loss(probabilities: np.ndarray, label_sets: np.ndarray) -> float:
    chosen = np.take_along_axis(probabilities, label_sets[:, :1], axis=1)
    return float(-_log(chosen).mean())


def _multiclass_measure(
    scores: np.ndarray, label_sets: np.ndarray, class_names: Sequence[str]
) -> Measured:
    accuracies = metrics.accuracies(scores, label_sets[:, 0])
    return Measured(
        metrics.main_metrics(accuracies), metrics.as_details(accuracies, class_names)
    )


def _multilabel_losses(label_sets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Summed over the classes: a logit's gradient is of the size that softmax has."""
    # The one_hot of -1 is zero.
    targets = tf.reduce_max(tf.one_hot(label_sets, logits.shape[-1]), axis=1)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.reduce_sum(losses, axis=-1)


def _multilabel_bias(label_sets: np.ndarray, num_classes: int) -> np.ndarray:
    """The logits of the classes' frequencies, so that training begins at their loss."""
    members = membership(label_sets, num_classes)
    # As if there were one more example that has half of each class.
    rates = (members.sum(axis=0) + 0.5) / (len(members) + 1.0)
    return np.log(rates / (1.0 - rates)).astype(np.float32)


def _multilabel_loss(probabilities: np.ndarray, label_sets: np.ndarray) -> float:
    members = membership(label_sets, probabilities.shape[1])
    right = np.where(members, probabilities, 1.0 - probabilities)
    return float(-_log(right).sum(axis=1).mean())


def _multilabel_measure(
    scores: np.ndarray, label_sets: np.ndarray, class_names: Sequence[str]
) -> Measured:
    found = metrics.average_precisions(scores, membership(label_sets, len(class_names)))
    return Measured(
        {
            "mAP": found.mean_ap,
            "AUC": found.mean_auc,
            "d_prime": found.d_prime,
        },
        {
            "class_names": list(class_names),
            "per_class": metrics.without_nan(found.per_class_ap),
            "per_class_auc": metrics.without_nan(found.per_class_auc),
            "prevalence": found.prevalence,
        },
    )


def _log(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm in float64; a probability may round to zero in float32."""
    floor = float(np.finfo(np.float32).tiny)
    return np.log(np.maximum(probabilities.astype(np.float64), floor))


MULTICLASS = TargetType(
    name="multiclass",
    losses=_multiclass_losses,
    probabilities=tf.nn.softmax,
    initial_bias=lambda label_sets, num_classes: np.zeros(num_classes, np.float32),
    loss=_multiclass_loss,
    measure=_multiclass_measure,
    accuracy="top1",
)
MULTILABEL = TargetType(
    name="multilabel",
    losses=_multilabel_losses,
    probabilities=tf.nn.sigmoid,
    initial_bias=_multilabel_bias,
    loss=_multilabel_loss,
    measure=_multilabel_measure,
    accuracy="mAP",
)


def of(several_labels: bool) -> TargetType:
    """The type of records by DatasetInfo.several_labels."""
    return MULTILABEL if several_labels else MULTICLASS
