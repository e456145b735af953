"""Which members of a cluster are shown: typical, borderline and random ones.

Distances are those to the centroid in the space that was clustered, and margins how
much farther the nearest other centroid is. Both need the features that the clusters
were made of; a round that is not the last has none, and its members are random.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.features import run_matrices
from xdc_tf.features.run_matrices import Matrix
from xdc_tf.kmeans.distances import preprocess
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.labels.pseudo_labels import side_by_side

TYPICAL, BORDERLINE, RANDOM = "typical", "borderline", "random"
# Of this many numbers, features and distances of a block.
_BLOCK_NUMBERS = 1 << 22


class Distances(NamedTuple):
    """Distances of all examples, NaN for one without a label or without features.

    Attributes:
      distance: [num_rows] float32, Euclidean, to the centroid of its cluster.
      margin: [num_rows] float32, how much farther the nearest other centroid is.
    """

    distance: np.ndarray
    margin: np.ndarray


class Member(NamedTuple):
    """A member of a cluster that is shown.

    Attributes:
      example: its example_index.
      kind: TYPICAL, BORDERLINE or RANDOM.
    """

    example: int
    kind: str


def measure_distances(
    streams: Sequence[Matrix], present: np.ndarray, clustering: Clustering
) -> Distances:
    """Measures the distances of all examples to the centroids, in blocks.

    Args:
      streams: each [num_rows, D], what was clustered, side by side.
      present: [num_rows] bool, the rows that are filled.
      clustering: of these features.

    Raises:
      ValueError: the features are of another width than the clustering's.
    """
    width = sum(stream.shape[1] for stream in streams)
    expected = clustering.centroids.shape[1]
    if clustering.pca_projection is not None:
        expected = len(clustering.pca_projection)
    if width != expected:
        raise ValueError(
            f"the run's features have {width} values a row, and its last clusters are "
            f"of {expected}; move its folder of features away, and members are drawn "
            "at random."
        )
    num_rows = len(present)
    distance = np.full(num_rows, np.nan, np.float32)
    margin = np.full(num_rows, np.nan, np.float32)
    centroids = clustering.centroids
    for rows in _row_blocks(num_rows, width=max(*centroids.shape, 1)):
        labels = np.array(clustering.labels[rows])
        usable = (labels >= 0) & present[rows]
        if not usable.any():
            continue
        labels = labels[usable]
        points = _clustered_space([stream[rows][usable] for stream in streams])
        for stream in streams:
            run_matrices.give_back(stream)
        points = _preprocess(points, clustering)
        own = np.linalg.norm(points - centroids[labels], axis=1)
        squares = (centroids**2).sum(1) - 2 * points @ centroids.T
        squares[np.arange(len(labels)), labels] = np.inf
        # Measured anew by differences: sums of squares cancel where a row is close.
        nearest = centroids[squares.argmin(axis=1)]
        other = np.linalg.norm(points - nearest, axis=1)
        places = np.flatnonzero(usable) + rows.start
        distance[places] = own
        margin[places] = other - own if len(centroids) > 1 else np.nan
    return Distances(distance, margin)


def _row_blocks(num_rows: int, *, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK_NUMBERS // width)
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def _clustered_space(streams: Sequence[np.ndarray]) -> np.ndarray:
    return side_by_side([np.asarray(stream, np.float32) for stream in streams])


def _preprocess(points: np.ndarray, clustering: Clustering) -> np.ndarray:
    return preprocess(
        tf.constant(points, tf.float32),
        normalize=clustering.normalize,
        pca_mean=clustering.pca_mean,
        pca_projection=clustering.pca_projection,
    ).numpy()


def mean_distances(
    labels: np.ndarray, distance: np.ndarray, num_clusters: int
) -> np.ndarray:
    """[num_clusters] float64, of the members of each; NaN without any.

    Args:
      labels: [num_rows], -1 for none.
      distance: [num_rows] of Distances.
      num_clusters: of the clustering.
    """
    there = (labels >= 0) & np.isfinite(distance)
    clusters = labels[there]
    sums = np.bincount(clusters, distance[there], minlength=num_clusters)
    counts = np.bincount(clusters, minlength=num_clusters)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def select_members(
    labels: np.ndarray,
    *,
    num_clusters: int,
    distances: Distances | None,
    priorities: np.ndarray,
    per_cluster: int,
) -> list[list[Member]]:
    """Chooses the members of each cluster that are shown, each example once.

    A third of them each are the nearest, those of the smallest margin, and random; all
    are random where there are no distances.

    Args:
      labels: [num_rows], -1 for none.
      num_clusters: of the clustering.
      distances: of its examples; None where they are not known.
      priorities: of shown_members.draw_priorities.
      per_cluster: how many, at most.

    Returns:
      For each cluster its members, in that order.
    """
    labels = np.asarray(labels)
    numbers = {TYPICAL: 0, BORDERLINE: 0}
    keys = {RANDOM: priorities}
    if distances is not None:
        numbers = {TYPICAL: -(-per_cluster // 3), BORDERLINE: per_cluster // 3}
        keys |= {TYPICAL: distances.distance, BORDERLINE: distances.margin}
    numbers[RANDOM] = per_cluster
    sorted_members = {
        kind: _SortedMembers(labels, key, num_clusters) for kind, key in keys.items()
    }
    selected = []
    for cluster in range(num_clusters):
        chosen: dict[int, str] = {}
        for kind in (TYPICAL, BORDERLINE, RANDOM):
            if kind not in sorted_members:
                continue
            most = min(per_cluster, len(chosen) + numbers[kind])
            # As many as could be chosen already, and those that are wanted.
            for example in sorted_members[kind].first(cluster, per_cluster * 2):
                if len(chosen) >= most:
                    break
                chosen.setdefault(example, kind)
        selected.append([Member(*item) for item in chosen.items()])
    return selected


class _SortedMembers:
    """The members of each cluster by a key; those without one are left out."""

    def __init__(self, labels: np.ndarray, key: np.ndarray, num_clusters: int):
        there = np.flatnonzero((labels >= 0) & np.isfinite(key))
        order = np.lexsort((key[there], labels[there]))
        self._examples = there[order]
        self._starts = np.searchsorted(
            labels[self._examples], np.arange(num_clusters + 1)
        )

    def first(self, cluster: int, number: int) -> list[int]:
        """The examples of the lowest keys, of equals the lower number."""
        start, end = self._starts[cluster : cluster + 2]
        return self._examples[start : min(end, start + number)].tolist()
