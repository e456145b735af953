"""Which labelled examples are trained on, held out, and how often they are drawn."""

from collections.abc import Mapping

import numpy as np

from xdc_tf.data.dataset_info import NO_LABEL


def hold_out(label_sets: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Examples to be held out from training.

    Args:
      label_sets: [N, L] int, and NO_LABEL behind them.
      fraction: of all examples, rounded to a whole number of them. Of one label per
        example, each class gives the same fraction of its examples, rounded up or down,
        and keeps one or more. Where there are several, random examples are held out of
        which each label keeps another one in training; there may be fewer.
      seed: which ones.

    Returns:
      [N] bool.
    """
    if label_sets.shape[1] == 1:
        return _hold_out_of_classes(label_sets[:, 0], fraction, seed)
    rng = np.random.default_rng([seed, 2])
    held_out = np.zeros(len(label_sets), bool)
    left = np.bincount(label_sets[label_sets != NO_LABEL])
    num_missing = round(fraction * len(label_sets))
    for example in rng.permutation(len(label_sets)):
        labels = label_sets[example][label_sets[example] != NO_LABEL]
        if num_missing and (left[labels] > 1).all():
            held_out[example] = True
            left[labels] -= 1
            num_missing -= 1
    return held_out


def _hold_out_of_classes(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """[N] bool of [N] int, of all classes alike; see hold_out."""
    rng = np.random.default_rng([seed, 2])
    counts = np.bincount(labels)
    numbers = np.minimum(np.floor(fraction * counts + 1e-9), np.maximum(counts - 1, 0))
    room = np.flatnonzero(counts - 1 > numbers)
    # Largest remainders first; classes of equal ones in random order.
    rng.shuffle(room)
    room = room[np.argsort(-(fraction * counts - numbers)[room], kind="stable")]
    num_missing = max(round(fraction * len(labels)) - int(numbers.sum()), 0)
    numbers[room[:num_missing]] += 1
    return _choose(labels[:, None], dict(enumerate(numbers.astype(int))), rng)


def few_per_class(label_sets: np.ndarray, number: int, seed: int) -> np.ndarray:
    """[N] bool: so many examples of each class of [N, L], or all that it has."""
    rng = np.random.default_rng([seed, 3])
    classes = [label for label in np.unique(label_sets) if label != NO_LABEL]
    return _choose(label_sets, dict.fromkeys(classes, number), rng)


def balanced_draws(label_sets: np.ndarray) -> np.ndarray:
    """[N] float64 with sum N: how often to draw each example, to balance classes.

    An example's share is the sum over its labels of 1 / the label's examples (Gong et
    al. 2021): of one label per example, each class is drawn as often as each other.

    Args:
      label_sets: [N, L] int, and NO_LABEL behind them.
    """
    is_label = label_sets != NO_LABEL
    counts = np.bincount(label_sets[is_label])
    shares = np.where(is_label, 1.0 / counts[label_sets], 0.0).sum(axis=1)
    return shares * (len(shares) / shares.sum())


def _choose(
    label_sets: np.ndarray, numbers: Mapping[int, int], rng: np.random.Generator
) -> np.ndarray:
    """[N] bool: so many random examples of each label of [N, L]."""
    chosen = np.zeros(len(label_sets), bool)
    for label, number in numbers.items():
        indices = np.flatnonzero((label_sets == label).any(axis=1))
        chosen[rng.permutation(indices)[:number]] = True
    return chosen
