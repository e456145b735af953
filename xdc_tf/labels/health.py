"""How a round's clusterings are doing, as numbers for people and for curves.

A report is what JSON can hold:

    round           from 0; after the last round, the number of rounds
    clusterings     by name, MEASURES of each; those of an example's label in the round
                    before, or of its true label, where there are any
    between         MEASURES_BETWEEN pairs of label sources
    collapses       by name, in words, how a clustering has collapsed
    criteria        figures of training.round_criteria, which pretraining adds

The sources' first heads are compared with each other, and no further ones, so that
reports grow with the number of clusterings and not with its square. Labels are read in
blocks (see `agreement`), so they may be memory maps.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np

from xdc_tf.labels import agreement, label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime.typed_settings import FRACTION, Choice

WARN, STOP = "warn", "stop"
ON_COLLAPSE = (WARN, STOP)
_QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


class HealthSettings(NamedTuple):
    """When a clustering counts as collapsed, and what then happens.

    Attributes:
      min_effective_share: effective clusters, exp(entropy of the sizes), are under this
        fraction of num_clusters; 0: never.
      max_cluster_share: one cluster holds more than this fraction of the examples; 1:
        never.
      on_collapse: one of ON_COLLAPSE.
    """

    min_effective_share: Annotated[float, FRACTION] = 0.1
    max_cluster_share: Annotated[float, FRACTION] = 0.5
    on_collapse: Annotated[str, Choice(ON_COLLAPSE)] = WARN


class CollapseError(ValueError):
    """Clusters that are not worth a round of training."""


def build_report(
    clusterings: Mapping[str, Clustering],
    *,
    previous: Callable[[str], np.ndarray],
    true_labels: np.ndarray,
    settings: HealthSettings,
    round_index: int,
) -> dict[str, Any]:
    """Measures a round's clusterings; see the module for what the report holds.

    Args:
      clusterings: by label_tables.clustering_name.
      previous: name -> labels of the round before, [num_rows] by example_index, -1
        where there is none; called once for each name, so that one copy of them is in
        memory at a time.
      true_labels: [num_rows], -1 where unknown.
      settings: when a clustering counts as collapsed.
      round_index: from 0; after the last round, the number of rounds.
    """
    measures, collapses = {}, {}
    for name, clustering in clusterings.items():
        measures[name] = measures_of_sizes(clustering.sizes)
        measures[name] |= {
            "empty_reseeded": int(clustering.num_reseeded),
            "inertia": float(clustering.inertia),
            "mean_squared_distance": (
                float(clustering.inertia) / measures[name]["num_examples"]
            ),
            **_with_previous_round(clustering.labels, previous(name)),
            **_with_true_labels(clustering.labels, true_labels),
        }
        if collapse := describe_collapse(measures[name], settings):
            collapses[name] = collapse
    between: dict[str, float] = {}
    for name, other in itertools.combinations(filter(is_first_head, clusterings), 2):
        pairs = agreement.count_pairs(
            clusterings[name].labels, clusterings[other].labels
        )
        if pairs.nnz:
            pair = agreement.compare(pairs)
            between |= {
                f"nmi_of_{name}_and_{other}": pair.nmi,
                f"ari_of_{name}_and_{other}": pair.ari,
                f"entropy_of_{name}_given_{other}": pair.first_given_second,
                f"entropy_of_{other}_given_{name}": pair.second_given_first,
            }
    return {
        "round": round_index,
        "clusterings": measures,
        "between": between,
        "collapses": collapses,
    }


def measures_of_sizes(sizes: np.ndarray) -> dict[str, float]:
    """Measures of how even clusters are.

    Args:
      sizes: [k] examples per cluster, of those that were clustered.

    Returns:
      num_clusters, num_examples, quantiles of the sizes from size_min to size_max,
      entropy in nats, effective_clusters (the number of equal clusters with the same
      entropy), effective_share (that by k), largest_share of the examples in one
      cluster, and empty_clusters.

    Raises:
      ValueError: no example in any cluster.
    """
    effective = agreement.effective_num_clusters(sizes)
    num_examples = int(np.sum(sizes))
    quantiles = np.quantile(sizes, list(_QUANTILES.values())).tolist()
    return {
        "num_clusters": len(sizes),
        "num_examples": num_examples,
        "size_min": int(np.min(sizes)),
        **{
            f"size_{name}": size
            for name, size in zip(_QUANTILES, quantiles, strict=True)
        },
        "size_max": int(np.max(sizes)),
        "entropy": agreement.entropy(np.asarray(sizes)),
        "effective_clusters": effective,
        "effective_share": effective / len(sizes),
        "largest_share": int(np.max(sizes)) / num_examples,
        "empty_clusters": int(np.sum(np.asarray(sizes) == 0)),
    }


def check_collapses(report: Mapping[str, Any], settings: HealthSettings) -> None:
    """Refuses a round on collapsed clusters, if on_collapse is STOP.

    Args:
      report: by build_report.
      settings: what happens on a collapse.

    Raises:
      CollapseError: names round, clusterings, values and remedies.
    """
    if settings.on_collapse == STOP and report["collapses"]:
        raise CollapseError(
            f"{describe_collapses(report)} The round is not trained, and its labels "
            "and health.json are written. Start again with a lower "
            "config.optimizer.learning_rate or fewer config.training.epochs_per_round; "
            "or go on by --allow_config_change with config.kmeans.balanced or "
            "config.kmeans.pca_components, with fewer config.kmeans.num_clusters, or "
            "with another config.health."
        )


def describe_collapses(report: Mapping[str, Any]) -> str:
    """The collapses of a report in a sentence each; empty if there is none."""
    return " ".join(
        f"Round {report['round'] + 1}: the clustering {name} has collapsed: {collapse}."
        for name, collapse in report["collapses"].items()
    )


def is_first_head(name: str) -> bool:
    """Whether a clustering is the first of its source, or the only one."""
    return label_tables.source_of(name) == name


def describe_collapse(measures: Mapping[str, float], settings: HealthSettings) -> str:
    """The reasons why a clustering counts as collapsed; empty if it does not."""
    reasons = []
    if measures["effective_share"] < settings.min_effective_share:
        reasons.append(
            f"its {measures['num_clusters']} clusters are as even as "
            f"{measures['effective_clusters']:.1f} equal ones, fewer than "
            f"config.health.min_effective_share={settings.min_effective_share} of them"
        )
    if measures["largest_share"] > settings.max_cluster_share:
        reasons.append(
            f"one cluster holds {measures['size_max']} of "
            f"{measures['num_examples']} examples, more than "
            f"config.health.max_cluster_share={settings.max_cluster_share} of them"
        )
    return ", and ".join(reasons)


def _with_previous_round(labels, previous) -> dict[str, float]:
    pairs = agreement.count_pairs(previous, labels)
    if not pairs.nnz:
        return {}
    compared = agreement.compare(pairs)
    return {
        "churn": agreement.churn(pairs),
        "nmi_with_previous_round": compared.nmi,
        "ari_with_previous_round": compared.ari,
    }


def _with_true_labels(labels, true_labels) -> dict[str, float]:
    pairs = agreement.count_pairs(labels, true_labels)
    if not pairs.nnz:
        return {}
    compared = agreement.compare(pairs)
    return {
        "purity": compared.purity,
        "nmi_with_true_labels": compared.nmi,
        "ari_with_true_labels": compared.ari,
    }
