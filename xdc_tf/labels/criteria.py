"""Figures that say without true labels how good features and clusterings are.

Each is of a sample of the examples, so that its cost does not grow with the data set.
Those that compare with chance are 0 there and 1 at the best.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np

from xdc_tf.kmeans import kmeans
from xdc_tf.labels import agreement
from xdc_tf.runtime.typed_settings import Whole

RETRIEVAL = "retrieval_of_"
# Of the linear map between modalities: added to the diagonal of the features'
# covariance, as a fraction of its mean.
_RIDGE = 0.1


class CriteriaSettings(NamedTuple):
    """How the criteria of a round are measured.

    Attributes:
      max_examples: of which they are measured; 0: they are not.
    """

    max_examples: Annotated[int, Whole()] = 2000


def effective_rank(features: np.ndarray) -> float:
    """The number of directions that features use.

    exp of the entropy of the singular values of the centred features, in proportion to
    their sum (Roy and Vetterli 2007; as a criterion, Garrido et al. 2023).

    Args:
      features: [N, D] numbers.

    Returns:
      From 1, all on one line, to min(N, D); 0 where all are the same.
    """
    centered = np.asarray(features, np.float64)
    centered = centered - centered.mean(axis=0)
    singular = np.linalg.svd(centered, compute_uv=False)
    total = singular.sum()
    if total <= 1e-9 * max(1.0, np.abs(features).max()):
        return 0.0
    fractions = singular[singular > 0] / total
    return float(np.exp(-np.sum(fractions * np.log(fractions))))


def above_chance(value: float, chance: float) -> float:
    """(value - chance) / (1 - chance): 0 at chance, 1 at the best; NaN for chance 1."""
    return (value - chance) / (1 - chance) if chance < 1 else float("nan")


def same_cluster(first: np.ndarray, second: np.ndarray) -> float:
    """How often two clips of a video are in the same cluster, above chance.

    Args:
      first: [N] clusters of a clip of each video.
      second: [N] of another clip of it.

    Returns:
      Cohen's kappa.
    """
    num_clusters = int(max(first.max(), second.max())) + 1
    counts = [np.bincount(x, minlength=num_clusters) for x in (first, second)]
    chance = float(counts[0] @ counts[1]) / len(first) ** 2
    return above_chance(float(np.mean(first == second)), chance)


def stability(features: np.ndarray, options: kmeans.Options, *, seed: int) -> float:
    """Adjusted Rand index of two fits of the same features from other centroids.

    Args:
      features: [N, D] numbers.
      options: of both fits; with fewer clusters where there are fewer than two rows
        for one.
      seed: of the fits.

    Returns:
      NaN for features that cannot be clustered so: too few distinct rows, or zeros.
    """
    options = options._replace(
        num_clusters=max(2, min(options.num_clusters, len(features) // 2)),
    )
    try:
        first, second = kmeans.fit_heads(features, options, num_heads=2, seed=seed)
    except kmeans.ArgumentError:
        return float("nan")
    return agreement.compare(agreement.count_pairs(first.labels, second.labels)).ari


def retrieval(queries: np.ndarray, targets: np.ndarray, *, fitted: np.ndarray) -> float:
    """How far features of one modality find those of the other, above chance.

    A linear map from queries to targets is fitted to some examples by ridge
    regression. Each other example's mapped query then ranks all of their targets by
    cosine similarity, and the rank of its own counts.

    Args:
      queries: [N, D] features of a modality.
      targets: [N, E] of the same examples in the other.
      fitted: [N] bool, the examples that the map is fitted to; two or more are not.

    Returns:
      1 - 2 x the mean rank, from 0 to 1, of an example's own target: 1 where it always
      comes first, 0 where it comes anywhere, as by chance.
    """
    queries, targets = (
        (x - x[fitted].mean(axis=0)) / (x[fitted].std(axis=0) + 1e-6)
        for x in (np.asarray(queries, np.float64), np.asarray(targets, np.float64))
    )
    covariance = queries[fitted].T @ queries[fitted]
    ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-9
    weights = np.linalg.solve(
        covariance + ridge * np.eye(len(covariance)),
        queries[fitted].T @ targets[fitted],
    )
    mapped, rest = queries[~fitted] @ weights, targets[~fitted]
    similarities = _unit(mapped) @ _unit(rest).T
    own = np.diag(similarities)[:, None]
    # A tie counts half, so that features that are all the same are at chance.
    ranks = (similarities > own).sum(axis=1) + 0.5 * (
        (similarities == own).sum(axis=1) - 1
    )
    return float(1 - 2 * np.mean(ranks) / (len(rest) - 1))


def mean_retrieval(measured: Mapping[str, float]) -> float:
    """The mean of a round's retrieval criteria; NaN without any."""
    values = [x for name, x in measured.items() if name.startswith(RETRIEVAL)]
    return float(np.mean(values)) if values else float("nan")


def retrieval_deviation(num_examples: int) -> float:
    """Standard deviation of `retrieval` where features are unrelated.

    That of the mean of ranks that are uniform from -1 to 1, of the half of the examples
    that the map is not fitted to.
    """
    return float(np.sqrt(1 / 3 / max(1, num_examples // 2)))


def describe_start(
    start: Mapping[str, float], measured: Mapping[str, float], *, num_examples: int
) -> str:
    """In words, that training has not brought the modalities together; "" if it has.

    It has if the mean retrieval has risen by more than three standard deviations, by
    chance, of a difference.

    Args:
      start: criteria before training.
      measured: criteria now.
      num_examples: that either was measured of.
    """
    before, now = mean_retrieval(start), mean_retrieval(measured)
    deviation = retrieval_deviation(num_examples)
    if not now - before < 3 * np.sqrt(2) * deviation:
        return ""  # also where one is missing
    return (
        f"features of one modality rank the other's of the same video at {now:.2f}, "
        f"and did at {before:.2f} before training (0 is chance, which deviates by "
        f"{deviation:.2f}; 1 is first)"
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
