"""Clusters protocol: how well clusters agree with the true labels.

They are a run's final clusters, or those that mini-batch k-means makes of the features
of the test videos, by which encoders of any origin can be compared.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    homogeneity_completeness_v_measure,
)

from xdc_tf.evaluation import frozen_features
from xdc_tf.evaluation.encoder_sources import PRETRAINED, Source
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.protocols import MINIBATCH, OF_RUN, Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.labels import agreement
from xdc_tf.labels.label_makers import nearest
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.labels.pseudo_labels import side_by_side
from xdc_tf.runtime.typed_settings import Choice, OrNone, Whole
from xdc_tf.training import supervision, trained_run
from xdc_tf.training.trained_run import FinalClusters, TrainedRun

_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings(FrozenSettings):
    """Which clusters are compared, and of which features they are.

    Attributes:
      num_clips: evenly spread clips per video, whose features are averaged; None for as
        many as the run's clusters were made of.
      clustering: OF_RUN, or MINIBATCH: mini-batch k-means of the test videos.
      num_clusters: of MINIBATCH; 0 for the number of classes.
      num_seeds: of MINIBATCH, whose measures are averaged.
      seed: the first of them.
    """

    num_clips: Annotated[int | None, OrNone(Whole(1, 10_000))] = None  # type: ignore[assignment]
    clustering: Annotated[str, Choice((OF_RUN, MINIBATCH))] = OF_RUN
    num_clusters: Annotated[int, Whole(0, 1_000_000)] = 0
    num_seeds: Annotated[int, Whole(1, 1000)] = 5
    seed: Annotated[int, Whole()] = 0


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
    """Labels videos by clusters and compares.

    For the arguments see protocols.Protocol. By OF_RUN training and test videos get the
    nearest of the run's final clusters, and nothing is fitted to them; the source is a
    pretrained run of a method that clusters, and clusterings of the features of other
    encoders than `streams` are left out. By MINIBATCH see `cluster_test_videos`.

    Returns:
      By OF_RUN, for each split one result per clustering, named like its label source,
      with the fields of Quality for the test videos, and as train_FIELD for the
      training videos. Details have "num_clusters", "round" of the clustering,
      "num_train", "num_test", and "train_clusters" and "test_clusters" by `ranked`.

    Raises:
      FileNotFoundError: without clusters of the run's present encoders, or encoders.
      ValueError: encoders that are not of a pretrained run, or streams that are not
        enough for any of its clusterings; and see frozen_features.make_features_of.
      FloatingPointError: see there.
    """
    if settings.clustering == MINIBATCH:
        extraction = settings.extraction(
            streams,
            num_clips=settings.num_clips or source.run.config.features.clips_per_video,
            average=True,
        )
        return frozen_features.score_splits(
            lambda split, features: [
                cluster_test_videos(stream, features.test[stream], split, settings)
                for stream in streams
            ],
            source,
            splits,
            extraction,
            strategy=strategy,
        )
    if source.kind != PRETRAINED:
        raise ValueError(
            f"{source.kind} encoders have no clusters; take a pretrained run's, or "
            f"--clustering={MINIBATCH}."
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


def cluster_test_videos(
    stream: str, features: np.ndarray, split: Split, settings: ClusterSettings
) -> SplitResult:
    """Clusters the features of test videos by mini-batch k-means, seed by seed.

    Args:
      stream: name of the encoder.
      features: [N, D] of the test videos; they are scaled to length 1.
      split: with their classes.
      settings: of the clustering.

    Returns:
      v_measure (Rosenberg and Hirschberg 2007), homogeneity, completeness and the
      fields of Quality, each the mean over the seeds; details have the seeds,
      "num_clusters", and the v-measure of each and its deviation.

    Raises:
      ValueError: if there are fewer videos than clusters.
    """
    classes = split.test.labels
    num_clusters = settings.num_clusters or len(np.unique(classes))
    if len(features) < num_clusters:
        raise ValueError(
            f"--num_clusters={num_clusters}: there are {len(features)} test videos; "
            "take fewer clusters."
        )
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    seeds = range(settings.seed, settings.seed + settings.num_seeds)
    fits = []
    for seed in seeds:
        fitted = MiniBatchKMeans(num_clusters, n_init=10, random_state=seed)
        clusters = fitted.fit_predict(rows)
        names = ("homogeneity", "completeness", "v_measure")
        measures = homogeneity_completeness_v_measure(classes, clusters)
        values = dict(zip(names, map(float, measures), strict=True))
        fits.append(values | of_labels(clusters, classes)._asdict())
    v_measures = [values["v_measure"] for values in fits]
    means = {name: float(np.mean([fit[name] for fit in fits])) for name in fits[0]}
    means = {"v_measure": means.pop("v_measure")} | means  # first: the main one
    details = {
        "num_clusters": num_clusters,
        "num_test": len(features),
        "seeds": list(seeds),
        "v_measures": v_measures,
        "v_measure_std": float(np.std(v_measures)),
    }
    return SplitResult(stream, means, details)


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
