"""Changes of a round's labels before they are trained on: numbers, and which."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy import optimize

from xdc_tf.data.dataset_info import NO_LABEL
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime.typed_settings import COUNT, FLAG, TEXT, Choice, Number, Whole

ENCODERS, STATISTICS = "encoders", "statistics"
FIRST_FEATURES = (ENCODERS, STATISTICS)


@dataclass(frozen=True)
class LabelSettings:
    """How clusters become labels."""

    # Directory of a round's label table, of a run on the same manifest, whose labels
    # are those of the first round: WORKDIR/labels/round_000. "": the first clustering.
    first_from: Annotated[str, TEXT] = ""
    # Features that the first clusters of a source are of: a work directory or export,
    # whose encoders compute them, or a directory of arrays STREAM.npy [rows of the
    # manifest, D] by example_index. Sources whose streams it lacks: as below.
    features_from: Annotated[str, TEXT] = ""
    # Rounds in which these clusters are the labels, at least; see first_stay.
    features_rounds: Annotated[int, COUNT] = 1
    # What the first clustering is of otherwise: statistics of the clips
    # (models.clip_statistics) unless encoders start from other weights, or features of
    # the encoders, as in the paper.
    first_features: Annotated[str, Choice(FIRST_FEATURES)] = STATISTICS
    # Unless they are of encoders, the first clusters of a source stay its labels until
    # those of its encoder agree better with the labels that it learns from.
    first_stay: Annotated[bool, FLAG] = True
    # Number clusters as those of the round before that they share the most examples
    # with, and go on with the heads instead of resetting them.
    keep_heads: Annotated[bool, FLAG] = False
    # Of each cluster, the fraction nearest to its centroid that is trained on.
    nearest_fraction: Annotated[float, Number(0, 1, above=True)] = 1.0
    # Label source that alone has labels in the first teacher_rounds rounds.
    teacher: Annotated[str, TEXT] = ""
    teacher_rounds: Annotated[int, Whole()] = 0


def match_clusters(clustering: Clustering, previous: np.ndarray) -> Clustering:
    """A clustering with its clusters numbered as those of another one.

    The numbers are those by which the most examples keep theirs (Kuhn 1955).

    Args:
      clustering: of k clusters.
      previous: [num_rows] labels below k, -1 for none.
    """
    num_clusters = len(clustering.centroids)
    pairs = agreement.count_pairs(previous, clustering.labels).tocoo()
    counts = np.zeros([num_clusters, num_clusters])
    counts[pairs.coords] = pairs.data
    # Row j is the cluster of the round before whose number takes[j] is to have.
    _, takes = optimize.linear_sum_assignment(counts, maximize=True)
    numbers = np.empty(num_clusters + 1, np.int32)
    numbers[takes] = np.arange(num_clusters)
    numbers[NO_LABEL] = NO_LABEL
    offsets = clustering.offsets
    return clustering._replace(
        labels=numbers[clustering.labels],
        centroids=clustering.centroids[takes],
        sizes=clustering.sizes[takes],
        offsets=None if offsets is None else offsets[takes],
    )


def nearest_part(
    labels: np.ndarray, distances: np.ndarray, fraction: float
) -> np.ndarray:
    """Labels of each cluster's nearest members; -1 for the others.

    Args:
      labels: [N] int32, -1 for none.
      distances: [N] to the centroid.
      fraction: of a cluster's members, rounded up.

    Returns:
      [N] int32.
    """
    order = np.lexsort((distances, labels))
    in_order = labels[order]
    starts = np.searchsorted(in_order, in_order)
    sizes = np.searchsorted(in_order, in_order, side="right") - starts
    is_near = np.arange(len(labels)) - starts < np.ceil(fraction * sizes)
    kept = np.full_like(labels, NO_LABEL)
    kept[order[is_near]] = in_order[is_near]
    return kept
