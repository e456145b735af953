"""Features -> clusterings for every label source, over a whole data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.features.extraction import Features
from xdc_tf.kmeans import distances, kmeans
from xdc_tf.kmeans.fit_settings import PRECISIONS
from xdc_tf.labels.label_tables import Clustering, clustering_name
from xdc_tf.runtime import arrays
from xdc_tf.runtime.typed_settings import COUNT, FLAG, Choice, Number, Several, Whole

_BLOCK_ROWS = 8192


class KMeansSettings(NamedTuple):
    """How all clusterings of a run are fitted; fields are keys of config.kmeans.

    Attributes:
      num_clusters: of each clustering.
      num_iterations: the most.
      num_restarts: fits from other centroids, of which that of least inertia counts.
      num_heads: clusterings of each source, from different initial centroids.
      head_clusters: number of clusters of each clustering of a source, in place of
        num_clusters and num_heads; (): as these say.
      tolerance: an iteration that lowers the objective by no more than this fraction is
        the last; 0: labels that do not change any more.
      precision: one of kmeans.fit_settings.PRECISIONS.
      normalize: L2-normalise the features.
      spherical: L2-normalise the centroids too.
      balanced: clusters of nearly equal size, by Sinkhorn's iteration.
      pca_components: whiten to that many dimensions; 0: do not.
      memory_gib: features in files are taken into memory up to this size as float32,
        in 2^30 bytes; larger ones are read anew in every iteration.
    """

    num_clusters: Annotated[int, Whole(2)] = 256
    num_iterations: Annotated[int, COUNT] = 20
    num_restarts: Annotated[int, Whole(1, 10_000)] = 1
    num_heads: Annotated[int, Whole(1, 10_000)] = 1
    head_clusters: Annotated[tuple[int, ...], Several(Whole(2))] = ()
    tolerance: Annotated[float, Number(0, 1, below=True)] = 0.0
    precision: Annotated[str, Choice(PRECISIONS)] = "float32"
    normalize: Annotated[bool, FLAG] = True
    spherical: Annotated[bool, FLAG] = False
    balanced: Annotated[bool, FLAG] = False
    pca_components: Annotated[int, Whole()] = 0
    memory_gib: Annotated[float, Number(0, 1e6)] = 4.0

    @property
    def clusters_of_heads(self) -> tuple[int, ...]:
        """Number of clusters of each clustering of a source."""
        return self.head_clusters or (self.num_clusters,) * self.num_heads


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
      features: of the whole data set, in memory or in files.
      sources: for each label source the streams whose features it clusters.
      fitted_rows: [num_rows] bool, the examples that the centroids are fitted to. Other
        examples that are present get the label of their nearest centroid; rows without
        an example get -1.
      settings: of k-means.
      seed: of the round; every source derives another one from it.
      strategy: devices to spread the rows over.

    Returns:
      For each source a clustering for each of settings.clusters_of_heads, by name
      (label_tables.clustering_name).

    Raises:
      ValueError: see kmeans.fit; names the key of an unusable setting.
    """
    options = fit_options(settings)
    # Heads of one number of clusters are fitted together.
    fits = [(options, settings.num_heads, 0)]
    if settings.head_clusters:
        fits = [
            (options._replace(num_clusters=num_clusters), 1, head)
            for head, num_clusters in enumerate(settings.head_clusters)
        ]
    limit = settings.memory_gib * 2**30
    clusterings = {}
    for number, (source, streams) in enumerate(sources.items()):
        rows = side_by_side([features.streams[name] for name in streams], memory=limit)
        for of_fit, num_heads, first in fits:
            entropy = [seed, number, first] if first else [seed, number]
            fit_seed = np.random.SeedSequence(entropy).generate_state(1)[0] >> 1
            try:
                heads = kmeans.fit_heads(
                    rows,
                    of_fit,
                    num_heads=num_heads,
                    seed=int(fit_seed),
                    fitted_rows=fitted_rows & features.present,
                    present_rows=features.present,
                    strategy=strategy,
                )
            except kmeans.ArgumentError as error:
                key = error.argument
                if settings.head_clusters and key == "num_clusters":
                    key = "head_clusters"
                raise ValueError(
                    f"{source}: {error} The key is config.kmeans.{key}."
                ) from error
            for head, result in enumerate(heads, start=first):
                clusterings[clustering_name(source, head)] = Clustering(
                    *(getattr(result, name) for name in Clustering._fields)
                )
    return clusterings


def fit_options(settings: KMeansSettings) -> kmeans.Options:
    """The options of a single fit, of the first head."""
    options = kmeans.Options(
        *(getattr(settings, name) for name in kmeans.Options._fields)
    )
    return options._replace(
        num_clusters=settings.clusters_of_heads[0],
        pca_components=settings.pca_components or None,
    )


def side_by_side(
    streams: Sequence[np.ndarray], *, memory: float = float("inf")
) -> np.ndarray:
    """[num_rows, D] features, or several streams' concatenated.

    Several are first scaled to length one each, so that they weigh the same.

    Args:
      streams: each [num_rows, width], memory-mapped or not.
      memory: bytes that the result may take; a larger one of memory-mapped streams is
        memory-mapped too, joined in a file next to the first stream's if they are
        several.
    """
    num_rows, width = len(streams[0]), sum(stream.shape[1] for stream in streams)
    fits = 4 * num_rows * width <= memory
    first = streams[0]
    mapped = first if isinstance(first, np.memmap) and not fits else None
    if len(streams) == 1:
        return np.asarray(first, np.float32) if mapped is None else mapped
    blocks = (
        np.concatenate(
            [
                distances.normalize_rows(
                    tf.constant(stream[start : start + _BLOCK_ROWS], tf.float32)
                )
                for stream in streams
            ],
            axis=1,
        )
        for start in range(0, num_rows, _BLOCK_ROWS)
    )
    if mapped is not None:
        path = Path(str(mapped.filename)).with_name("joined.npy")
        arrays.write_npy(path, blocks, shape=(num_rows, width), dtype=first.dtype)
        return arrays.open_npy(path)
    joined = np.empty([num_rows, width], np.float32)
    for start, block in zip(range(0, num_rows, _BLOCK_ROWS), blocks, strict=True):
        joined[start : start + _BLOCK_ROWS] = block
    return joined
