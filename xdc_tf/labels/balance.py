"""Clusters that are drawn equally often, whatever their sizes.

DeepCluster (section 3.3) samples uniformly over pseudo-labels, since a network that
sees a few large clusters most of the time learns little but to distinguish these.
"""

from collections.abc import Mapping

import numpy as np


def expected_draws(labels: Mapping[str, np.ndarray], trained: np.ndarray) -> np.ndarray:
    """How often to draw each example per epoch, for clusters that are drawn alike.

    An example's draws are the mean over the label sources of num_trained / (clusters
    that are not empty * examples in its cluster), counting trained examples only.

    Args:
      labels: by label source [num_rows] integers, negative for no label.
      trained: [num_rows] bool, which examples may be drawn.

    Returns:
      [num_rows] float64, 0 for what is not trained or has no label; the sum is the
      number of trained examples to rounding.

    Raises:
      ValueError: if a source has no label for any trained example.
    """
    draws = np.zeros(len(trained))
    for source, source_labels in labels.items():
        counted = trained & (source_labels >= 0)
        clusters = source_labels[counted]
        if not len(clusters):
            raise ValueError(
                f"none of the {trained.sum()} examples to train on has a label of "
                f"{source}, so its clusters cannot be balanced; set "
                "config.training.balance_clusters=False or give labels."
            )
        sizes = np.bincount(clusters)
        draws_per_cluster = trained.sum() / np.count_nonzero(sizes)
        draws[counted] += draws_per_cluster / sizes[clusters] / len(labels)
    return draws
