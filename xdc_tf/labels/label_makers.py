"""The ways to make labels of a round's features, as one table.

A further way takes a module of its own, a row of LABEL_MAKERS, and a method that names
it (training.supervision.METHODS). Label tables, health, monitoring, evaluation of
clusters and labels of new videos need nothing else: further examples get the nearest
of a clustering's centroids, whatever made it.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.kmeans.distances import preprocess
from xdc_tf.labels import pseudo_labels
from xdc_tf.labels.label_tables import Clustering


class LabelMaker(NamedTuple):
    """A row of LABEL_MAKERS.

    Attributes:
      fit: fit(features, sources, *, fitted_rows, settings, seed, strategy) -> for each
        label source settings.clusters_of_heads Clusterings by
        label_tables.clustering_name. Of
        the arguments see pseudo_labels.cluster; `settings` are those of config.kmeans.
        A Clustering's labels are of all rows of `features`, from 0 to
        settings.num_clusters - 1, -1 for none; its centroids label further examples.
        With several processes each has the features of its own examples, and all call
        `fit` together.
    """

    fit: Callable[..., dict[str, Clustering]]


LABEL_MAKERS = {"kmeans": LabelMaker(pseudo_labels.cluster)}


class Nearest(NamedTuple):
    """Nearest centroids of N rows.

    Attributes:
      cluster: [N] int32, the nearest centroid, in a balanced clustering after its
        offsets.
      distance: [N] float32, Euclidean, to it in the space of preprocessed features.
      margin: [N] float32, how much farther the runner-up is; 0 is a tie, and in a
        balanced clustering it can be negative.
    """

    cluster: tf.Tensor
    distance: tf.Tensor
    margin: tf.Tensor


def nearest(features: tf.Tensor, clustering: Clustering) -> Nearest:
    """Labels rows by a clustering of two or more clusters.

    Works eagerly and inside a `tf.function`.

    Args:
      features: [N, D] float32, as the encoder gives them.
      clustering: made of features of the same encoder.
    """
    rows = preprocess(
        features,
        normalize=clustering.normalize,
        pca_mean=clustering.pca_mean,
        pca_projection=clustering.pca_projection,
    )
    centroids = tf.constant(clustering.centroids, tf.float32)
    # Around the middle of the centroids, where squares lose the fewest digits.
    origin = tf.reduce_mean(centroids, axis=0)
    rows, centroids = rows - origin, centroids - origin
    squares = tf.reduce_sum(tf.square(rows), axis=1, keepdims=True)
    squares += tf.reduce_sum(tf.square(centroids), axis=1)
    squares -= 2.0 * tf.matmul(rows, centroids, transpose_b=True)
    if clustering.offsets is not None:
        squares -= tf.constant(clustering.offsets, tf.float32)
    index = tf.math.top_k(-squares, k=2).indices
    # Measured anew by differences: sums of squares cancel where a row is close.
    differences = rows[:, tf.newaxis] - tf.gather(centroids, index)
    distances = tf.norm(differences, axis=2)
    return Nearest(index[:, 0], distances[:, 0], distances[:, 1] - distances[:, 0])
