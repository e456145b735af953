"""Clusters protocol: how well a run's final clusters agree with the true labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.metrics import adjusted_mutual_info_score

from xdc_tf.evaluation import frozen_features
from xdc_tf.evaluation.encoder_sources import PRETRAINED, Source
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.protocols import Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.labels import agreement
from xdc_tf.labels.label_makers import nearest
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.labels.pseudo_labels import side_by_side
from xdc_tf.runtime.typed_settings import OrNone, Whole
from xdc_tf.training import supervision, trained_run
from xdc_tf.training.trained_run import FinalClusters, TrainedRun

_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings(FrozenSettings):
    """Of which features the clusters are.

    Attributes:
      num_clips: evenly spread clips per video, whose features are averaged; None for as
        many as the run's clusters were made of.
    """

    num_clips: Annotated[int | None, OrNone(Whole(1, 10_000))] = None  # type: ignore[assignment]


class Quality(NamedTuple):
    """Agreement of clusters with classes.

    Attributes:
      nmi: mutual information over the arithmetic mean of the entropies, in [0, 1].
      ami: the same, adjusted for chance: about 0 for random clusters, whatever their
        number.
      ari: adjusted Rand index, also about 0 for random clusters.
      purity: fraction of the examples that are of their cluster's commonest class.
      hungarian: fraction that is right if each cluster is given a class, and no class
        to two clusters, such that it is the highest; clusters beyond the number of
        classes count as wrong.
    """

    nmi: float
    ami: float
    ari: float
    purity: float
    hungarian: float


def run(
    source: Source,
    splits: Sequence[Split],
    settings: ClusterSettings,
    *,
    streams: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Labels training and test videos by a run's final clusters and compares.

    Nothing is fitted to the videos. For the arguments see protocols.Protocol; the
    source is a pretrained run of a method that clusters, and clusterings of the
    features of other encoders than `streams` are left out.

    Returns:
      For each split one result per clustering, named like its label source, with the
      fields of Quality for the test videos, and as train_FIELD for the training videos.
      Details have "num_clusters", "round" of the clustering, "num_train", "num_test",
      and "train_clusters" and "test_clusters" by `ranked`.

    Raises:
      FileNotFoundError: without clusters of the run's present encoders, or encoders.
      ValueError: encoders that are not of a pretrained run, or streams that are not
        enough for any of its clusterings; and see frozen_features.make_features_of.
      FloatingPointError: see there.
    """
    if source.kind != PRETRAINED:
        raise ValueError(
            f"{source.kind} encoders have no clusters; take a pretrained run's."
        )
    final = trained_run.final_clusters(source.run)
    clustered = _clustered_streams(source.run, final, streams)
    extraction = settings.extraction(
        tuple(dict.fromkeys(s for names in clustered.values() for s in names)),
        num_clips=settings.num_clips or source.run.config.features.clips_per_video,
        average=True,
    )
    return frozen_features.score_splits(
        lambda split, features: [
            _compare(name, clustered[name], final, split, features)
            for name in clustered
        ],
        source,
        splits,
        extraction,
        strategy=strategy,
    )


def _clustered_streams(
    run: TrainedRun, final: FinalClusters, streams: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """By clustering its streams, of those clusterings that these are enough for."""
    method = supervision.method(run.config.method)
    clustered = {
        name: tuple(names)
        for name in final.clusterings
        if set(streams).issuperset(names := supervision.clustered_streams(method, name))
    }
    if not clustered:
        raise ValueError(
            f"streams={sorted(streams)}: the clusterings {list(final.clusterings)} are "
            "of features of others too; take all of the run's streams."
        )
    return clustered


def _compare(
    name: str,
    streams: Sequence[str],
    final: FinalClusters,
    split: Split,
    features: SplitFeatures,
) -> SplitResult:
    """A clustering of these streams against the classes of a split."""
    clustering = final.clusterings[name]
    train = assign_clusters(features.train, streams, clustering)
    test = assign_clusters(features.test, streams, clustering)
    values = of_labels(test, split.test.labels)._asdict()
    train_values = of_labels(train, split.train.labels)._asdict()
    values |= {f"train_{metric}": value for metric, value in train_values.items()}
    class_names = split.train.class_names
    details = {
        "num_clusters": len(clustering.centroids),
        "round": final.round_index,
        "num_train": len(train),
        "num_test": len(test),
        "train_clusters": ranked(train, split.train.labels, class_names),
        "test_clusters": ranked(test, split.test.labels, class_names),
    }
    return SplitResult(name, values, details)


def assign_clusters(
    features: Mapping[str, np.ndarray], streams: Sequence[str], clustering: Clustering
) -> np.ndarray:
    """[N] int32 nearest clusters of features that are clustered side by side.

    Args:
      features: by stream [N, D] float32, as the encoders give them.
      streams: those that the clustering was made of, in order.
      clustering: of two or more clusters.
    """
    rows = side_by_side([features[stream] for stream in streams])
    return np.concatenate(
        [
            nearest(tf.constant(rows[start : start + _BLOCK_ROWS]), clustering).cluster
            for start in range(0, len(rows), _BLOCK_ROWS)
        ]
    )


def of_labels(clusters: np.ndarray, classes: np.ndarray) -> Quality:
    """All measures, of examples that have both labels.

    Args:
      clusters: [N] int, 0 or above.
      classes: [N] int, 0 or above.

    Raises:
      ValueError: shapes differ or there is no example.
    """
    pairs = agreement.count_pairs(clusters, classes)
    scores = agreement.compare(pairs)
    return Quality(
        nmi=scores.nmi,
        ami=float(adjusted_mutual_info_score(classes, clusters)),
        ari=float(scores.ari),
        purity=scores.purity,
        # What does not change, if clusters are renamed to classes one to one.
        hungarian=1 - agreement.churn(pairs),
    )


def ranked(
    clusters: np.ndarray, classes: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Clusters by purity, the purest first, of equal ones the larger; none is empty.

    Args:
      clusters: [N] int, 0 or above.
      classes: [N] int, numbers in class_names.
      class_names: of all classes.

    Returns:
      "cluster", "size", "class" (the commonest, of equal ones the first) and "purity"
      (its fraction) of each.
    """
    counts = agreement.count_pairs(clusters, classes)
    sizes, best = counts.sum(axis=1), counts.argmax(axis=1)
    purities = counts.max(axis=1).toarray().ravel() / np.maximum(sizes, 1)
    order = np.lexsort((-sizes, -purities))
    return [
        {
            "cluster": int(k),
            "size": int(sizes[k]),
            "class": class_names[best[k]],
            "purity": float(purities[k]),
        }
        for k in order
        if sizes[k]
    ]
