"""k-means on the device that holds the features.

`fit` clusters the rows of a matrix and `assign` labels other rows by the same
preprocessing and centroids. One `tf.function` (in `lloyd`) holds a whole fit:
initialisation, iterations, final assignment; the host waits once, at its end. Under a
distribution strategy every replica keeps its own rows, and only sums, counts and
candidates for empty clusters travel.

Distances are taken about the mean of the rows. Features after a ReLU point in much the
same direction, and products of such vectors lose to rounding what tells them apart.
"""

from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from xdc_tf.clustering import lloyd, sharding
from xdc_tf.clustering.preprocessing import preprocess


class KMeansResult(NamedTuple):
    """A clustering of [N, D] features; all arrays are numpy arrays.

    Attributes:
      centroids: [k, d] float32, in the space of the preprocessed features.
      labels: [N] int32, the nearest centroid of each row.
      inertia: sum of squared distances of the rows to their centroids.
      sizes: [k] int64, rows per cluster.
      inertia_history: [iterations run] float64, the objective at the start of each
        iteration; it is shorter than `num_iterations` if a fixed point was reached.
      num_reseeded: empty clusters that were placed on far points, in all iterations.
      normalize: whether rows are scaled to length one (after the projection).
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.
    """

    centroids: np.ndarray
    labels: np.ndarray
    inertia: float
    sizes: np.ndarray
    inertia_history: np.ndarray
    num_reseeded: int
    normalize: bool
    pca_mean: np.ndarray | None
    pca_projection: np.ndarray | None


class Fitted(Protocol):
    """What `assign` needs of a clustering, as KMeansResult has it."""

    @property
    def centroids(self) -> np.ndarray: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def pca_mean(self) -> np.ndarray | None: ...
    @property
    def pca_projection(self) -> np.ndarray | None: ...


def fit(
    features: np.ndarray | tf.Tensor,
    *,
    num_clusters: int,
    seed: int,
    num_iterations: int = 20,
    num_restarts: int = 1,
    precision: str = "float32",
    normalize: bool = True,
    pca_components: int | None = None,
    initial_centroids: np.ndarray | tf.Tensor | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> KMeansResult:
    """Clusters the rows of `features` by Lloyd's iterations from greedy k-means++.

    The objective does not increase from one iteration to the next: a cluster left empty
    is placed on a point far from its centroid, and the point leaves its old cluster.
    On a CPU the same arguments give the same result; on a GPU the sums are
    reproducible bit by bit after `tf.config.experimental.enable_op_determinism()`.

    Args:
      features: [N, D] numbers, taken as float32.
      num_clusters: k, at most N.
      seed: of the initialisation; restarts derive theirs from it.
      num_iterations: at most so many iterations; a fixed point ends them earlier.
      num_restarts: fits from so many initialisations, the lowest inertia is kept.
      precision: "float32", or "mixed" for bfloat16 products in the iterations (sums and
        the final assignment are float32).
      normalize: scale rows to length one, after PCA-whitening if there is any.
      pca_components: whiten to so many principal components first.
      initial_centroids: [k, d] in the space of the preprocessed features, instead of
        k-means++.
      strategy: a single-process strategy (MirroredStrategy) whose replicas share the
        rows; None for the one device that holds the features.

    Returns:
      A KMeansResult, labels in the order of the rows.

    Raises:
      ValueError: features that are not a finite matrix, all-zero rows with `normalize`,
        or a setting that does not fit them.
    """
    features = _checked_features(features)
    num_rows = int(features.shape[0])
    _check_settings(
        num_rows=num_rows,
        num_clusters=num_clusters,
        num_iterations=num_iterations,
        num_restarts=num_restarts,
        precision=precision,
    )
    if strategy is not None and strategy.num_replicas_in_sync == 1:
        strategy = None
    with tf.device(features.device):
        pca_mean, pca_projection = _fit_whitening(features, pca_components)
        rows = _preprocessed(
            features,
            normalize=normalize,
            pca_mean=pca_mean,
            pca_projection=pca_projection,
        )
        origin = tf.reduce_mean(rows, axis=0)
        rows -= origin
        initial = None
        if initial_centroids is not None:
            initial = _checked_initial_centroids(
                initial_centroids,
                shape=(num_clusters, rows.shape[1]),
                num_restarts=num_restarts,
            )
            initial -= origin
        shards = sharding.shard(rows, strategy)
        outcomes = (
            lloyd.fit_rows(
                shards,
                tf.constant([seed, restart], tf.int64),
                initial,
                num_rows=num_rows,
                num_clusters=num_clusters,
                num_iterations=num_iterations,
                precision=precision,
                strategy=strategy,
            )
            for restart in range(num_restarts)
        )
        best = min(outcomes, key=lambda outcome: float(outcome.inertia))
        labels = (best.labels,)
        if strategy is not None:
            labels = strategy.experimental_local_results(best.labels)
        return KMeansResult(
            centroids=(best.centroids + origin).numpy(),
            labels=np.concatenate([part.numpy() for part in labels])[:num_rows],
            inertia=float(best.inertia),
            sizes=best.sizes.numpy(),
            inertia_history=best.history.numpy()[: int(best.iterations)],
            num_reseeded=int(best.num_reseeded),
            normalize=normalize,
            pca_mean=pca_mean,
            pca_projection=pca_projection,
        )


def assign(
    features: np.ndarray | tf.Tensor, fitted: Fitted
) -> tuple[np.ndarray, np.ndarray]:
    """Labels rows, seen in the fit or not, with their nearest centroids.

    Args:
      features: [N, D] numbers, as given to `fit` (not preprocessed).
      fitted: a KMeansResult, or anything with its centroids and preprocessing.

    Returns:
      labels [N] int32, and squared distances to the centroids [N] float32.

    Raises:
      ValueError: features that are not a finite matrix as wide as those of the fit, or
        all-zero rows where the fit normalised.
    """
    features = _checked_features(features)
    centroids = tf.constant(fitted.centroids, tf.float32)
    width = (
        centroids.shape[1]
        if fitted.pca_projection is None
        else np.shape(fitted.pca_projection)[0]
    )
    if features.shape[1] != width:
        raise ValueError(
            f"features have {features.shape[1]} columns but the clustering was fitted "
            f"on {width}; extract them with the encoder of the same round."
        )
    with tf.device(features.device):
        rows = _preprocessed(
            features,
            normalize=fitted.normalize,
            pca_mean=fitted.pca_mean,
            pca_projection=fitted.pca_projection,
        )
        origin = tf.reduce_mean(centroids, axis=0)
        labels, distances = lloyd.nearest(rows - origin, centroids - origin)
        return labels.numpy(), distances.numpy()


def _checked_features(features: np.ndarray | tf.Tensor) -> tf.Tensor:
    features = tf.cast(tf.convert_to_tensor(features), tf.float32)
    if features.shape.rank != 2 or 0 in features.shape:
        raise ValueError(
            f"features must be a filled [examples, dimensions] matrix, received shape "
            f"{tuple(features.shape)}."
        )
    finite = tf.reduce_all(tf.math.is_finite(features), axis=1).numpy()
    if not finite.all():
        raise ValueError(
            f"features have {np.sum(~finite)} rows with NaN or infinity in float32, "
            f"the first are {_first_rows(~finite)}; look for a diverged encoder or "
            f"unfilled rows."
        )
    return features


def _check_settings(
    *,
    num_rows: int,
    num_clusters: int,
    num_iterations: int,
    num_restarts: int,
    precision: str,
) -> None:
    for name, value in (
        ("num_clusters", num_clusters),
        ("num_iterations", num_iterations),
        ("num_restarts", num_restarts),
    ):
        if value < 1:
            raise ValueError(
                f"{name}={value} must be at least 1; raise config.kmeans.{name}."
            )
    if num_clusters > num_rows:
        raise ValueError(
            f"num_clusters={num_clusters} exceeds the {num_rows} examples with "
            f"features; lower config.kmeans.num_clusters."
        )
    if precision not in lloyd.PRODUCT_DTYPES:
        raise ValueError(
            f"precision={precision!r} is unknown; set config.kmeans.precision to one "
            f"of {', '.join(lloyd.PRODUCT_DTYPES)}."
        )


def _checked_initial_centroids(
    centroids: np.ndarray | tf.Tensor, *, shape: tuple[int, int], num_restarts: int
) -> tf.Tensor:
    centroids = tf.cast(tf.convert_to_tensor(centroids), tf.float32)
    if tuple(centroids.shape) != shape:
        raise ValueError(
            f"initial_centroids have shape {tuple(centroids.shape)} but must have "
            f"{shape}: num_clusters by dimensions of the preprocessed features."
        )
    if not np.isfinite(centroids.numpy()).all():
        raise ValueError("initial_centroids hold NaN or infinity; pass finite ones.")
    if num_restarts != 1:
        raise ValueError(
            f"num_restarts={num_restarts} would repeat the same fit from "
            f"initial_centroids; pass num_restarts=1 or leave them out."
        )
    return centroids


def _first_rows(bad: np.ndarray) -> str:
    return ", ".join(str(row) for row in np.flatnonzero(bad)[:5])


def _fit_whitening(
    features: tf.Tensor, num_components: int | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the mean [D] and the projection [D, components] to unit covariance."""
    if num_components is None:
        return None, None
    num_rows, width = features.shape
    limit = min(width, num_rows - 1)
    if not 1 <= num_components <= limit:
        raise ValueError(
            f"pca_components={num_components} must lie between 1 and {limit} for "
            f"{num_rows} examples of {width} dimensions; change "
            f"config.kmeans.pca_components."
        )
    mean = tf.reduce_mean(features, axis=0)
    centred = features - mean
    covariance = tf.matmul(centred, centred, transpose_a=True) / (num_rows - 1)
    variances, directions = tf.linalg.eigh(tf.cast(covariance, tf.float64))
    variances = variances.numpy()[::-1]  # eigh sorts them ascending
    directions = directions.numpy()[:, ::-1]
    rank = int(np.sum(variances > max(variances[0], 0.0) * lloyd.RELATIVE_RESOLUTION))
    if rank < num_components:
        raise ValueError(
            f"pca_components={num_components} but the features vary along {rank} "
            f"directions only; lower config.kmeans.pca_components."
        )
    scales = np.sqrt(variances[:num_components])
    projection = (directions[:, :num_components] / scales).astype(np.float32)
    return mean.numpy(), projection


def _preprocessed(features: tf.Tensor, *, normalize: bool, **whitening) -> tf.Tensor:
    rows = preprocess(features, normalize=normalize, **whitening)
    zero = ~tf.reduce_any(rows != 0.0, axis=1).numpy()
    if normalize and zero.any():
        raise ValueError(
            f"features have {np.sum(zero)} all-zero rows, the first are "
            f"{_first_rows(zero)}, which cannot be scaled to length one; look for "
            f"unfilled rows or dead units, or set config.kmeans.normalize=False."
        )
    return rows
