"""Clusters protocol: how well a run's final clusters agree with the true labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.metrics import adjusted_mutual_info_score

from xdc_tf.evaluation import frozen_features
from xdc_tf.evaluation.encoder_sources import PRETRAINED, Source
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.labels.nearest import nearest
from xdc_tf.labels.pseudo_labels import side_by_side
from xdc_tf.training import supervision, trained_run

_BLOCK_ROWS = 8192


class Quality(NamedTuple):
    """Agreement of clusters with classes.

    Attributes:
      nmi: mutual information over the arithmetic mean of the entropies, in [0, 1].
      ami: the same, adjusted for chance: about 0 for random clusters, whatever their
        number.
      ari: adjusted Rand index, also about 0 for random clusters.
      purity: share of the examples that are of the commonest class of their cluster.
      hungarian: share that is right if each cluster is given a class, and no class to
        two clusters, such that it is the highest; clusters beyond the number of classes
        count as wrong.
    """

    nmi: float
    ami: float
    ari: float
    purity: float
    hungarian: float


def evaluate_splits(
    source: Source,
    splits: Sequence[Split],
    *,
    streams: Sequence[str] | None = None,
    num_clips: int | None = None,
    batch_size: int | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[list[SplitResult]]:
    """Labels training and test videos by a run's final clusters and compares.

    Args:
      source: a pretrained run of a method that clusters.
      splits: labelled records with their test records; nothing is fitted to either.
      streams: names of encoders; clusterings of the features of others are left out.
        None for all.
      num_clips: evenly spread clips per video, whose features are averaged; None for as
        many as the run's clusters were made of.
      batch_size: clips per batch over all devices; None for that of the run.
      strategy: the devices; None for the present one.

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
    run = source.run
    if source.kind != PRETRAINED:
        raise ValueError(
            f"{source.kind} encoders have no clusters; take a pretrained run's."
        )
    final = trained_run.final_clusters(run)
    method = supervision.method(run.config.method)
    allowed = set(run.streams if streams is None else streams)
    clustered = {
        name: names
        for name in final.clusterings
        if allowed.issuperset(names := supervision.clustered_streams(method, name))
    }
    if not clustered:
        raise ValueError(
            f"streams={sorted(allowed)}: the clusterings {list(final.clusterings)} are "
            "of features of others too; take all of the run's streams."
        )
    if num_clips is None:
        num_clips = run.config.features.clips_per_video
    features = frozen_features.of_splits(
        source,
        splits,
        streams=tuple(dict.fromkeys(s for names in clustered.values() for s in names)),
        num_clips=num_clips,
        average=True,
        batch_size=batch_size,
        strategy=strategy,
    )
    results: list[Any] = []
    for split, of_split in zip(splits, features, strict=True):
        results.append([])
        for name in clustered:
            clustering = final.clusterings[name]
            train = assign(of_split.train, clustered[name], clustering)
            test = assign(of_split.test, clustered[name], clustering)
            of_train = of_labels(train, split.train.labels)._asdict()
            values = of_labels(test, split.test.labels)._asdict()
            values |= {f"train_{key}": value for key, value in of_train.items()}
            names = split.train.class_names
            details = {
                "num_clusters": len(clustering.centroids),
                "round": final.round_index,
                "num_train": len(train),
                "num_test": len(test),
                "train_clusters": ranked(train, split.train.labels, names),
                "test_clusters": ranked(test, split.test.labels, names),
            }
            results[-1].append(SplitResult(name, values, details))
    return results


def assign(
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
    found = agreement.compare(pairs)
    return Quality(
        nmi=found.nmi,
        ami=float(adjusted_mutual_info_score(classes, clusters)),
        ari=float(found.ari),
        purity=found.purity,
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
      (its share) of each.
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
