"""How far two labellings of the same examples agree, and how even cluster sizes are.

Positions where either labelling has no label (a negative one) are left out. Only the
pairs of labels that occur are counted, so that 10,000 clusters need no 10,000 x 10,000
table.
"""

import numpy as np


def normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information over the arithmetic mean of the entropies, in [0, 1].

    It is 1 where both labellings have a single class, as in scikit-learn.

    Args:
      a: [N] integers, negative for no label.
      b: [N] integers, negative for no label.

    Raises:
      ValueError: shapes differ or no position has both labels.
    """
    pairs, counts, a_sizes, b_sizes = _contingency(a, b)
    if len(a_sizes) == 1 and len(b_sizes) == 1:
        return 1.0
    total = counts.sum()
    expected = a_sizes[pairs[0]] * (b_sizes[pairs[1]] / total)
    information = np.sum(counts / total * np.log(counts / expected))
    mean_entropy = (_entropy(a_sizes) + _entropy(b_sizes)) / 2
    return float(np.clip(information / mean_entropy, 0.0, 1.0))


def purity(clusters: np.ndarray, classes: np.ndarray) -> float:
    """The part of the examples that belong to the commonest class of their cluster.

    Args:
      clusters: [N] integers, negative for no label.
      classes: [N] integers, negative for no label.

    Raises:
      ValueError: shapes differ or no position has both labels.
    """
    pairs, counts, cluster_sizes, _ = _contingency(clusters, classes)
    commonest = np.zeros(len(cluster_sizes), np.int64)
    np.maximum.at(commonest, pairs[0], counts)
    return float(commonest.sum() / counts.sum())


def effective_num_clusters(sizes: np.ndarray) -> float:
    """The number of equal clusters with the same entropy, between 1 and k.

    Args:
      sizes: [k] examples per cluster.

    Raises:
      ValueError: no example in any cluster.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or np.any(sizes < 0) or not np.any(sizes > 0):
        raise ValueError(
            f"sizes must be counts of examples per cluster, at least one above zero, "
            f"received {sizes.tolist()}; pass the sizes of a fitted clustering."
        )
    return float(np.exp(_entropy(sizes[sizes > 0])))


def _contingency(
    a: np.ndarray, b: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pairs that occur, their counts, and the sizes of a's and b's classes.

    Classes are numbered densely, in order of their labels.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"labellings must be vectors of one length, received shapes {a.shape} and "
            f"{b.shape}; index both by example."
        )
    both = (a >= 0) & (b >= 0)
    if not both.any():
        raise ValueError(
            f"none of the {len(a)} positions has a label in both labellings; compare "
            f"labellings of the same examples."
        )
    _, a_classes, a_sizes = np.unique(a[both], return_inverse=True, return_counts=True)
    _, b_classes, b_sizes = np.unique(b[both], return_inverse=True, return_counts=True)
    codes, counts = np.unique(
        a_classes.astype(np.int64) * len(b_sizes) + b_classes, return_counts=True
    )
    return np.divmod(codes, len(b_sizes)), counts, a_sizes, b_sizes


def _entropy(sizes: np.ndarray) -> float:
    """In nats; sizes are above zero."""
    shares = sizes / sizes.sum()
    return float(-np.sum(shares * np.log(shares)))
