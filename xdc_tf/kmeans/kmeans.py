"""k-means on the devices that hold the features, or that read them from files.

`fit` clusters the rows of a matrix and `assign` labels other rows by the same
preprocessing and centroids. One `tf.function` (in `lloyd`) holds a whole fit:
initialisation, iterations, final assignment; the host waits once, at its end. Under a
distribution strategy every replica keeps its rows, and only sums, counts and
candidates for empty clusters travel. Rows of memory-mapped arrays stay in their files:
every pass reads them by blocks, ahead of their assignment.

Distances are taken about a point near the mean of the rows. Features after a ReLU point
in much the same direction, and inner products of such vectors lose to rounding what
sets them apart.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import assignment, distances, fit_settings, lloyd, matrices, rows
from xdc_tf.kmeans.distances import Preparation
from xdc_tf.kmeans.fit_settings import ArgumentError, FitContext, Options
from xdc_tf.kmeans.matrices import FeatureMatrix, MatrixLike
from xdc_tf.kmeans.preparation import check_rows, fit_preparation, prepare_rows
from xdc_tf.kmeans.rows import Rows

__all__ = [
    "ArgumentError",
    "Fitted",
    "KMeansResult",
    "Options",
    "assign",
    "fit",
    "fit_heads",
]

_NO_LABEL = -1  # of a row that takes no part


class KMeansResult(NamedTuple):
    """A clustering of [N, D] features; all arrays are numpy arrays.

    Attributes:
      centroids: [k, d] float32, in the space of the preprocessed features.
      labels: [N] int32, the nearest centroid of each row, fitted or not; -1 for a row
        that is not present.
      inertia: sum of squared distances of the fitted rows to their centroids.
      sizes: [k] int64, fitted rows per cluster.
      inertia_history: [iterations run] float64, the objective at the start of each
        iteration; it is shorter than `num_iterations` if a fixed point was reached.
      num_reseeded: empty clusters that were placed on far points, in all iterations.
      normalize: whether rows are scaled to length one (after the projection).
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.
      offsets: [k] float32, subtracted from squared distances before the nearest is
        chosen; None unless balanced.
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
    offsets: np.ndarray | None = None


class Fitted(Protocol):
    """A clustering as `assign` needs it, such as a KMeansResult."""

    @property
    def centroids(self) -> np.ndarray: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def pca_mean(self) -> np.ndarray | None: ...
    @property
    def pca_projection(self) -> np.ndarray | None: ...
    @property
    def offsets(self) -> np.ndarray | None: ...


def fit(
    features: MatrixLike,
    *,
    num_clusters: int,
    seed: int,
    fitted_rows: np.ndarray | None = None,
    present_rows: np.ndarray | None = None,
    initial_centroids: np.ndarray | tf.Tensor | None = None,
    strategy: tf.distribute.Strategy | None = None,
    **options: Any,
) -> KMeansResult:
    """Clusters the rows of `features`.

    Lloyd's iterations from greedy k-means++. The objective does not increase from one
    iteration to the next, unless balanced: a cluster left empty is placed on a point
    far from its centroid, and the point leaves its old cluster.

    On a CPU the same arguments give the same result. On a GPU sums depend on the order
    of additions, unless `tf.config.experimental.enable_op_determinism()` was called.
    Another number of devices, or rows in files instead of memory, gives the same result
    up to rounding.

    Args:
      features: [N, D] numbers, taken as float32, in memory or on a device. Rows of a
        float32 or float16 `np.memmap`, or of several one after the other, stay in their
        files. Under a strategy of several processes, the rows of this process.
      num_clusters: k, at most the number of distinct fitted rows.
      seed: of the initialisation; restarts derive theirs from it.
      fitted_rows: [N] bool, the rows that centroids are fitted to; others that are
        present are labelled only. None for all.
      present_rows: [N] bool, False for rows that hold no example. None for all.
      initial_centroids: [k, d] in the space of the preprocessed features, instead of
        k-means++.
      strategy: over whose replicas the rows are spread: MirroredStrategy, or
        MultiWorkerMirroredStrategy, where every process calls this with its rows; None
        for the one device that holds the features.
      **options: further fields of `Options`: num_iterations, num_restarts, precision,
        normalize, spherical, balanced, tolerance and pca_components.

    Returns:
      A KMeansResult, labels in the order of the rows.

    Raises:
      ArgumentError: a setting without meaning, or one that does not suit the features,
        such as more clusters than distinct rows, or all-zero rows with `normalize`.
      ValueError: features that are not a finite matrix.
    """
    (result,) = fit_heads(
        features,
        Options(num_clusters=num_clusters, **options),
        num_heads=1,
        seed=seed,
        fitted_rows=fitted_rows,
        present_rows=present_rows,
        initial_centroids=initial_centroids,
        strategy=strategy,
    )
    return result


def fit_heads(
    features: MatrixLike,
    options: Options,
    *,
    num_heads: int,
    seed: int,
    fitted_rows: np.ndarray | None = None,
    present_rows: np.ndarray | None = None,
    initial_centroids: np.ndarray | tf.Tensor | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[KMeansResult]:
    """Clusters the rows of `features` several times, independently, in one loop.

    Args:
      features: see `fit`, as the other arguments.
      options: of every clustering.
      num_heads: number of clusterings; each starts from other centroids.
      seed: of the initialisation; heads and restarts derive theirs from it.
      fitted_rows: [N] bool, or None.
      present_rows: [N] bool, or None.
      initial_centroids: [k, d], or None.
      strategy: over whose replicas the rows are spread, or None.

    Returns:
      num_heads KMeansResults.

    Raises:
      ArgumentError, ValueError: see `fit`.
    """
    options = fit_settings.check_options(options)
    num_heads = fit_settings.whole_number("num_heads", num_heads, least=1)
    seed = fit_settings.whole_number("seed", seed, least=0)
    matrix = matrices.open_matrix(
        features, fitted_rows=fitted_rows, present_rows=present_rows
    )
    num_fits = num_heads * options.num_restarts
    with tf.device(matrix.device), distances.full_float32():
        shards, sample, preparation, context = _prepare_fit(
            matrix, options, num_fits=num_fits, seed=seed, strategy=strategy
        )
        fits = lloyd.fit_rows(
            shards,
            tf.constant([[seed, number] for number in range(num_fits)], tf.int64),
            sample,
            _checked_start(initial_centroids, sample, context),
            tf.constant(options.num_iterations),
            context,
        )
        labels = rows.local_rows(context.strategy, fits.labels, matrix.num_rows)
    return [
        _result_of_fit(
            fits,
            fit,
            labels=np.where(matrix.present, labels[:, fit], _NO_LABEL),
            preparation=preparation,
            balanced=options.balanced,
        )
        for fit in _best_of_restarts(fits, options.num_restarts)
    ]


def _checked_start(
    centroids: np.ndarray | tf.Tensor | None, sample: tf.Tensor, context: FitContext
) -> tf.Tensor | None:
    """Given centroids [k, d] -> [1, k, d] about the origin of the rows; or None."""
    if centroids is None:
        return None
    settings = context.settings
    shape = (settings.num_clusters, sample.shape[1])
    centroids = fit_settings.checked_initial_centroids(
        centroids, shape=shape, num_fits=settings.num_fits
    )
    return (centroids - context.origin)[tf.newaxis]


def _best_of_restarts(fits: lloyd.Fits, num_restarts: int) -> np.ndarray:
    """[num_heads] numbers of the fits with the lowest inertia of each head."""
    inertia = fits.inertia.numpy().reshape(-1, num_restarts)
    return np.arange(len(inertia)) * num_restarts + inertia.argmin(axis=1)


def _prepare_fit(
    matrix: FeatureMatrix,
    options: Options,
    *,
    num_fits: int,
    seed: int,
    strategy: tf.distribute.Strategy | None,
) -> tuple[Rows, tf.Tensor, Preparation, FitContext]:
    """Checks the rows and prepares them: whitened, normalised, about their mean.

    Returns:
      The prepared rows on their replicas, a sample [s, d] float32 of them, their
      preparation, and the context of the fits.
    """
    if strategy is not None and strategy.num_replicas_in_sync == 1:
        strategy = None
    num_fitted = int(rows.sum_over_processes(strategy, np.sum(matrix.fitted)))
    fit_settings.check_num_clusters(options.num_clusters, num_fitted=num_fitted)
    settings = fit_settings.trace_settings(
        options,
        num_fits=num_fits,
        on_gpu=fit_settings.works_on_gpu(matrix.device, strategy),
    )
    block_rows = settings.block_rows
    shards = matrices.shard(matrix, block_rows=block_rows, strategy=strategy)
    check_rows(
        shards,
        matrix,
        num_clusters=options.num_clusters,
        normalize=options.normalize and options.pca_components is None,
        block_rows=block_rows,
        strategy=strategy,
    )
    sample = matrices.sample(
        matrix,
        size=fit_settings.sample_rows(num_fitted, options.num_clusters),
        seed=seed,
        strategy=strategy,
    )
    preparation, sample = fit_preparation(
        shards,
        sample,
        normalize=options.normalize,
        pca_components=options.pca_components,
        block_rows=block_rows,
        strategy=strategy,
    )
    squares = tf.square(tf.cast(sample, tf.float64))
    context = FitContext(
        origin=preparation.origin,
        variance=tf.reduce_mean(tf.reduce_sum(squares, axis=1)),
        num_fitted=tf.constant(num_fitted, tf.float64),
        matmul_format=fit_settings.matmul_format(
            options.precision, sample, on_gpu=settings.on_gpu
        ),
        settings=settings,
        strategy=strategy,
    )
    shards = prepare_rows(
        shards, preparation, context.matmul_format, block_rows, strategy
    )
    return shards, sample, preparation, context


def assign(features: MatrixLike, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
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
    matrix = matrices.open_matrix(features)
    num_clusters, width = fitted.centroids.shape
    if fitted.pca_projection is not None:
        width = len(fitted.pca_projection)
    if matrix.width != width:
        raise ValueError(
            f"features have {matrix.width} columns but the clustering was fitted "
            f"on {width}; pass features of the same encoder."
        )
    offsets = fitted.offsets
    if offsets is None:
        offsets = np.zeros(num_clusters, np.float32)
    with tf.device(matrix.device), distances.full_float32():
        block_rows = fit_settings.MOST_BLOCK_ROWS
        check_rows(
            matrices.shard(matrix, block_rows=block_rows, strategy=None),
            matrix,
            num_clusters=0,
            normalize=fitted.normalize and fitted.pca_projection is None,
            block_rows=block_rows,
            strategy=None,
        )
        centroids = tf.constant(fitted.centroids, tf.float32)
        # Around the middle of the centroids, where inner products lose the fewest
        # digits.
        origin = tf.reduce_mean(centroids, axis=0)
        preparation = Preparation(
            fitted.normalize, fitted.pca_mean, fitted.pca_projection, origin
        )
        parts = [
            assignment.assign_prepared(
                distances.prepare(tf.constant(block), preparation),
                centroids - origin,
                tf.constant(offsets),
            )
            for block in matrices.blocks(matrix, fit_settings.block_rows(num_clusters))
        ]
    labels, squared = zip(*parts, strict=True)
    return np.concatenate(labels), np.concatenate(squared)


def _result_of_fit(
    fits: lloyd.Fits,
    fit: int,
    *,
    labels: np.ndarray,
    preparation: Preparation,
    balanced: bool,
) -> KMeansResult:
    """One of several fits, as arrays about the origin of the preprocessed features."""
    return KMeansResult(
        centroids=(fits.centroids[fit] + preparation.origin).numpy(),
        labels=labels.astype(np.int32, copy=False),
        inertia=float(fits.inertia[fit]),
        sizes=fits.sizes[fit].numpy(),
        inertia_history=fits.history[: fits.iterations, fit].numpy(),
        num_reseeded=int(fits.num_reseeded[fit]),
        normalize=preparation.normalize,
        pca_mean=_as_array(preparation.pca_mean),
        pca_projection=_as_array(preparation.pca_projection),
        offsets=fits.offsets[fit].numpy() if balanced else None,
    )


def _as_array(tensor: tf.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()
