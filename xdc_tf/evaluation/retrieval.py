"""Retrieval protocol: nearest neighbours of test videos, within and across modalities.

Encoders of two modalities share no space, but their clusters are related. A video is
described by a distribution over the final clusters of one modality. The pairs of labels
of the run's videos say how clusters of the two go together, which turns a distribution
over the clusters of one modality into one over those of the other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.evaluation import frozen_features
from xdc_tf.evaluation.encoder_sources import PRETRAINED, Source
from xdc_tf.evaluation.frozen_features import FrozenSettings, SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.protocols import UNREPORTED, Results
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.kmeans.distances import normalize_rows, preprocess
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime.typed_settings import COUNT, NonEmpty, Number
from xdc_tf.training import trained_run
from xdc_tf.training.trained_run import TrainedRun

KS = (1, 5, 10, 20, 50)
INSTANCE_KS = (1, 10)
TEMPERATURE = 1.0
_BLOCK_ROWS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalSettings(FrozenSettings):
    """How neighbours are looked for.

    Attributes:
      ks: numbers of neighbours, ascending.
      temperature: see `distributions`.
    """

    ks: Annotated[tuple[int, ...], NonEmpty(COUNT), UNREPORTED] = KS
    temperature: Annotated[float, Number(0, 1e9, above=True), UNREPORTED] = TEMPERATURE


class Bridge(NamedTuple):
    """Final clusters of a run's video and audio, and how they go together.

    Attributes:
      clusterings: by stream.
      conditionals: by (stream, other stream), [k, k'] float64: in each row, a cluster
        of the first, the probabilities of the clusters of the second.
      temperature: see `distributions`.
      details: what a report says of this, of types that JSON has.
    """

    clusterings: dict[str, Clustering]
    conditionals: dict[tuple[str, str], np.ndarray]
    temperature: float
    details: dict[str, Any]

    def describe(self, features: np.ndarray, stream: str) -> np.ndarray:
        """[N, k] float64: square roots of the distributions of [N, D] features.

        The inner product of two rows is the Bhattacharyya coefficient: 1 for the same
        distributions, 0 for those that have nothing in common.
        """
        return np.sqrt(
            distributions(
                features, self.clusterings[stream], temperature=self.temperature
            )
        )

    def carry_over(self, features: np.ndarray, stream: str, other: str) -> np.ndarray:
        """[N, k'] float64, the same over the clusters that the other stream has."""
        weights = distributions(
            features, self.clusterings[stream], temperature=self.temperature
        )
        return np.sqrt(weights @ self.conditionals[stream, other])


def run(
    source: Source,
    splits: Sequence[Split],
    settings: RetrievalSettings,
    *,
    streams: Sequence[str],
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Finds each test video's nearest training videos, and whether its class is there.

    A video's feature is the mean over its clips, scaled to length one; the nearest is
    that with the highest cosine.

    The training videos are the gallery, the test videos the queries. For the arguments
    see protocols.Protocol.

    Returns:
      For each split one result per stream with rK, the fraction of queries that have
      one of their class or more among the K nearest. And unless not_across says why
      not, which is then a note, "video_to_audio" and "audio_to_video" with queries of
      the first and a gallery of the second, and instance_rK, the fraction of test
      videos whose other modality is among the K nearest of all test videos. Equal
      similarities count against the query. Details have "num_queries", "gallery_size",
      and "capped", the Ks that exceed the gallery and what was taken for them.

    Raises:
      FileNotFoundError, ValueError, FloatingPointError: see
        frozen_features.make_features_of.
    """
    bridge, why_not = None, not_across(source, streams)
    if not why_not:
        bridge = make_bridge(source.run, temperature=settings.temperature)

    def score(split, features):
        results = [_within(split, features, name, ks=settings.ks) for name in streams]
        if bridge is not None:
            results += [
                _across(split, features, bridge, pair, ks=settings.ks)
                for pair in ((VIDEO, AUDIO), (AUDIO, VIDEO))
            ]
        return results

    extraction = settings.extraction(streams, average=True)
    results = frozen_features.score_splits(
        score, source, splits, extraction, strategy=strategy
    )
    return results._replace(notes=(why_not,) if why_not else ())


def not_across(source: Source, streams: Sequence[str]) -> str:
    """Why there is no retrieval across modalities, in words; "" if there is."""
    missing = [name for name in (VIDEO, AUDIO) if name not in streams]
    if missing:
        return f"no retrieval across modalities without the stream {missing[0]}"
    return lacks(source)


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    block_rows: int = _BLOCK_ROWS,
) -> np.ndarray:
    """How many of another label come before a query's first of the same label.

    Args:
      queries: [Q, D] float; the similarity is the inner product.
      gallery: [G, D] float.
      query_labels: [Q] int.
      gallery_labels: [G] int.
      block_rows: queries at a time, whose [block_rows, G] similarities are held.

    Returns:
      [Q] int64: from 0 to G. G if none has its label. What is as similar counts as
      coming before: features that are all the same find nothing.
    """
    num_before = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), block_rows):
        rows = slice(start, start + block_rows)
        similarities = queries[rows] @ gallery.T
        same = query_labels[rows, None] == gallery_labels
        best = np.max(similarities, axis=1, where=same, initial=-np.inf)
        num_before[rows] = np.sum(~same & (similarities >= best[:, None]), axis=1)
    return num_before


def recalls(
    query_ranks: np.ndarray, ks: Sequence[int], *, gallery_size: int, prefix: str = "r"
) -> tuple[dict[str, float], dict[str, int]]:
    """Fractions of queries with a hit among the k nearest; what k was capped to.

    Args:
      query_ranks: [Q] int, by `ranks`.
      ks: numbers of neighbours.
      gallery_size: G; a larger k is taken for G.
      prefix: of the names.

    Returns:
      By name the recall, and of those whose k exceeds the gallery the k that was taken.
    """
    values = {
        f"{prefix}{k}": float(np.mean(query_ranks < min(k, gallery_size))) for k in ks
    }
    return values, {f"{prefix}{k}": gallery_size for k in ks if k > gallery_size}


def _within(
    split: Split, features: SplitFeatures, stream: str, *, ks: Sequence[int]
) -> SplitResult:
    queries, gallery = (
        normalize_rows(tf.constant(part[stream])).numpy()
        for part in (features.test, features.train)
    )
    values, details = _class_recalls(queries, gallery, split, ks)
    return SplitResult(stream, values, details)


def _across(
    split: Split,
    features: SplitFeatures,
    bridge: Bridge,
    pair: tuple[str, str],
    *,
    ks: Sequence[int],
) -> SplitResult:
    stream, other = pair
    queries = bridge.carry_over(features.test[stream], stream, other)
    gallery = bridge.describe(features.train[other], other)
    values, details = _class_recalls(queries, gallery, split, ks)
    indices = np.arange(len(queries))
    instances, capped = recalls(
        ranks(
            queries,
            bridge.describe(features.test[other], other),
            query_labels=indices,
            gallery_labels=indices,
        ),
        INSTANCE_KS,
        gallery_size=len(indices),
        prefix="instance_r",
    )
    details["capped"] |= capped
    details |= bridge.details
    return SplitResult(f"{stream}_to_{other}", values | instances, details)


def _class_recalls(
    queries: np.ndarray, gallery: np.ndarray, split: Split, ks: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    query_ranks = ranks(
        queries,
        gallery,
        query_labels=split.test.labels,
        gallery_labels=split.train.labels,
    )
    values, capped = recalls(query_ranks, ks, gallery_size=len(gallery))
    return values, {
        "num_queries": len(queries),
        "gallery_size": len(gallery),
        "capped": capped,
    }


def lacks(source: Source) -> str:
    """Why a source has no bridge between its modalities, in words; "" if it has one."""
    if source.kind != PRETRAINED:
        return f"no retrieval across modalities by {source.kind} encoders"
    try:
        clusterings = trained_run.final_clusters(source.run).clusterings
    except FileNotFoundError as error:
        return f"no retrieval across modalities: {error}"
    if not {VIDEO, AUDIO} <= set(clusterings):
        return (
            f"no retrieval across modalities: method {source.method} clusters "
            f"{', '.join(clusterings)}, and not video and audio each for itself"
        )
    return ""


def make_bridge(run: TrainedRun, *, temperature: float = TEMPERATURE) -> Bridge:
    """The bridge between the final clusters of video and audio.

    Args:
      run: whose training videos the pairs of labels are of, held-out ones included.
      temperature: see `distributions`.

    Raises:
      FileNotFoundError: without clusters of the run's present encoders.
      KeyError: if these are not of video and audio each for itself; see `lacks`.
      ValueError: on a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive.")
    final = trained_run.final_clusters(run)
    clusterings = {name: final.clusterings[name] for name in (VIDEO, AUDIO)}
    video, audio = clusterings.values()
    sizes = len(video.centroids), len(audio.centroids)
    counts = co_occurrences(video.labels, audio.labels, shape=sizes)
    return Bridge(
        clusterings=clusterings,
        conditionals={
            (VIDEO, AUDIO): conditional(counts),
            (AUDIO, VIDEO): conditional(counts.T),
        },
        temperature=temperature,
        details={
            "temperature": temperature,
            "round": final.round_index,
            "num_clusters": dict(zip(clusterings, sizes, strict=True)),
            "num_pairs": int(counts.sum()),
        },
    )


def co_occurrences(
    first: np.ndarray, second: np.ndarray, *, shape: tuple[int, int]
) -> np.ndarray:
    """Of [N] int labels, negative for none, [k, k'] int64 numbers of pairs."""
    pairs = agreement.count_pairs(first, second).toarray()
    counts = np.zeros(shape, np.int64)
    counts[: pairs.shape[0], : pairs.shape[1]] = pairs
    return counts


def conditional(counts: np.ndarray) -> np.ndarray:
    """[k, k'] float64 probabilities of the second label given the first, by row.

    One more example, spread evenly over the row, is added to each row: of a cluster
    that never occurs nothing is known, and no pair is impossible.

    Args:
      counts: [k, k'] numbers of pairs.
    """
    smoothed = counts + 1 / counts.shape[1]
    return smoothed / smoothed.sum(axis=1, keepdims=True)


def distributions(
    features: np.ndarray, clustering: Clustering, *, temperature: float
) -> np.ndarray:
    """[N, k] float64: softmax over the clusters of minus the squared distance.

    Squared distances are measured by `temperature` times their mean from the examples
    that the centroids were fitted to, each to its centroid. In a balanced
    clustering they are taken after its offsets.

    Args:
      features: [N, D] float32, as the encoder gives them.
      clustering: made of features of the same encoder.
      temperature: positive; the lower, the more goes to the nearest cluster.
    """
    mean_square = clustering.inertia / max(int(clustering.sizes.sum()), 1)
    # With a centroid on every example the mean is zero, and the nearest has it all.
    unit = max(temperature * mean_square, 1e-9)
    centroids = clustering.centroids.astype(np.float64)
    probabilities = np.empty([len(features), len(centroids)])
    for start in range(0, len(features), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        rows = preprocess(
            tf.constant(features[block]),
            normalize=clustering.normalize,
            pca_mean=clustering.pca_mean,
            pca_projection=clustering.pca_projection,
        )
        rows = rows.numpy().astype(np.float64)
        # Without the rows' squared norms, which are the same for all clusters.
        squares = np.sum(centroids**2, axis=1) - 2 * rows @ centroids.T
        if clustering.offsets is not None:
            squares -= clustering.offsets
        logits = -squares / unit
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities[block] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
