"""Features -> one clustering per label source, over a whole data set."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.clustering import kmeans
from xdc_tf.clustering.features import Features
from xdc_tf.clustering.label_tables import NO_LABEL, Clustering


class KMeansSettings(NamedTuple):
    """Arguments of kmeans.fit that all clusterings of a run share."""

    num_clusters: int
    num_iterations: int = 20
    num_restarts: int = 1
    precision: str = "float32"
    normalize: bool = True
    pca_components: int | None = None


def cluster(
    features: Features,
    sources: Mapping[str, Sequence[str]],
    *,
    fitted_rows: np.ndarray,
    settings: KMeansSettings,
    seed: int,
    strategy: tf.distribute.Strategy | None = None,
) -> dict[str, Clustering]:
    """Clusters each source's features and labels every example by them.

    Args:
      features: of the whole data set.
      sources: for each label source the streams whose features it clusters.
      fitted_rows: [num_rows] bool, the examples that the centroids are fitted to. Other
        examples that are present get the label of their nearest centroid; rows without
        an example get -1.
      settings: of k-means.
      seed: one for the round; each source derives its own.
      strategy: devices to spread the rows over.
    """
    return {
        source: _cluster_source(
            side_by_side([features.streams[stream] for stream in streams]),
            fitted_rows=fitted_rows & features.present,
            other_rows=~fitted_rows & features.present,
            settings=settings,
            seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1),
            strategy=strategy,
        )
        for number, (source, streams) in enumerate(sources.items())
    }


def side_by_side(streams: Sequence[np.ndarray]) -> np.ndarray:
    """[num_rows, D] features, or several streams' concatenated.

    Several are first scaled to length one each, so that they weigh the same.
    """
    if len(streams) == 1:
        return streams[0]
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in streams]
    scaled = [
        rows / np.where(length > 0, length, 1)
        for rows, length in zip(streams, lengths, strict=True)
    ]
    return np.concatenate(scaled, axis=1)


def _cluster_source(
    rows, *, fitted_rows, other_rows, settings, seed, strategy
) -> Clustering:
    result = kmeans.fit(
        rows[fitted_rows], seed=seed, strategy=strategy, **settings._asdict()
    )
    labels = np.full(len(rows), NO_LABEL, np.int32)
    labels[fitted_rows] = result.labels
    if other_rows.any():
        labels[other_rows], _ = kmeans.assign(rows[other_rows], result)
    return Clustering(
        labels=labels,
        centroids=result.centroids,
        sizes=result.sizes,
        inertia=result.inertia,
        normalize=result.normalize,
        pca_mean=result.pca_mean,
        pca_projection=result.pca_projection,
    )
