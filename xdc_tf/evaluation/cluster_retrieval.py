"""Similarity of videos across modalities, by the clusters of both.

A video is described by a distribution over the final clusters of one modality. The
pairs of labels of the run's videos say how clusters of the two go together, which turns
a distribution over the clusters of one modality into one over those of the other.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data.dataset_info import AUDIO, VIDEO
from xdc_tf.evaluation.encoder_sources import PRETRAINED, Source
from xdc_tf.kmeans.distances import preprocess
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.training import trained_run
from xdc_tf.training.trained_run import TrainedRun

TEMPERATURE = 1.0
_BLOCK_ROWS = 4096


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
