"""k-means on the devices that hold the features, or that read them from files.

`fit` clusters the rows of a matrix and `assign` labels other rows by the same
preprocessing and centroids. One `tf.function` (in `lloyd`) holds a whole fit:
initialisation, iterations, final assignment; the host waits once, at its end. Under a
distribution strategy every replica keeps its own rows, and only sums, counts and
candidates for empty clusters travel. Rows of memory-mapped arrays stay in their files:
every pass reads them by blocks, ahead of the work on them.

Distances are taken about a point near the mean of the rows. Features after a ReLU point
in much the same direction, and products of such vectors lose to rounding what tells
them apart.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import (
    assignment,
    distances,
    fit_checks,
    fit_sizes,
    lloyd,
    replicas,
    rows,
    sources,
    survey,
    whitening,
)
from xdc_tf.kmeans.rows import Preparation
from xdc_tf.kmeans.sources import Features

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
    """What `assign` needs of a clustering, as KMeansResult has it."""

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
    features: Features, *, num_clusters: int, seed: int, **options: Any
) -> KMeansResult:
    """Clusters the rows of `features`: `fit_heads` with one head and its arguments."""
    return fit_heads(
        features, num_heads=1, num_clusters=num_clusters, seed=seed, **options
    )[0]


def fit_heads(
    features: Features,
    *,
    num_heads: int,
    num_clusters: int,
    seed: int,
    num_iterations: int = 20,
    num_restarts: int = 1,
    precision: str = "float32",
    normalize: bool = True,
    spherical: bool = False,
    balanced: bool = False,
    tolerance: float = 0.0,
    pca_components: int | None = None,
    fitted_rows: np.ndarray | None = None,
    present_rows: np.ndarray | None = None,
    initial_centroids: np.ndarray | tf.Tensor | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[KMeansResult]:
    """Clusters the rows of `features` several times, independently, in one loop.

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
      num_heads: clusterings wanted; each starts from other centroids.
      num_clusters: k, at most the number of distinct fitted rows.
      seed: of the initialisation; heads and restarts derive theirs from it.
      num_iterations: at most so many iterations; a fixed point ends them earlier.
      num_restarts: fits from so many initialisations for each head, the lowest inertia
        is kept.
      precision: "float32", or "mixed" for products of half the width in the
        iterations: bfloat16, or float16 on a GPU without it (sums and the final
        assignment are float32).
      normalize: scale rows to length one, after PCA-whitening if there is any.
      spherical: scale centroids to length one too, which needs `normalize`; the
        nearest centroid is then the one of the largest cosine.
      balanced: clusters of about N / k rows. Squared distances are compared after
        offsets were subtracted, one per cluster, which Sinkhorn's iteration finds.
      tolerance: a fit is done when an iteration lowers its objective by no more than
        this part; 0 for a fixed point.
      pca_components: whiten to so many principal components first.
      fitted_rows: [N] bool, the rows that centroids are fitted to; others that are
        present are labelled only. None for all.
      present_rows: [N] bool, False for rows that hold no example. None for all.
      initial_centroids: [k, d] in the space of the preprocessed features, instead of
        k-means++.
      strategy: whose replicas share the rows: MirroredStrategy, or
        MultiWorkerMirroredStrategy, where every process calls this with its own rows;
        None for the one device that holds the features.

    Returns:
      num_heads KMeansResults, labels in the order of the rows.

    Raises:
      ValueError: features that are not a finite matrix, all-zero rows with `normalize`,
        fewer distinct rows than clusters, or a setting that does not fit them.
    """
    num_heads, num_clusters, num_iterations, num_restarts = (
        fit_checks.whole_number(name, value, least=1)
        for name, value in (
            ("num_heads", num_heads),
            ("num_clusters", num_clusters),
            ("num_iterations", num_iterations),
            ("num_restarts", num_restarts),
        )
    )
    seed = fit_checks.whole_number("seed", seed, least=0)
    source = sources.open_source(features)
    present = fit_checks.checked_mask("present_rows", present_rows, source.num_rows)
    fitted = (
        fit_checks.checked_mask("fitted_rows", fitted_rows, source.num_rows) & present
    )
    if strategy is not None and strategy.num_replicas_in_sync == 1:
        strategy = None
    num_fitted = int(replicas.sum_over_processes(strategy, np.sum(fitted)))
    num_fits = num_heads * num_restarts
    on_gpu = fit_sizes.works_on_gpu(source.device, strategy)
    fit_checks.check_settings(
        num_fitted=num_fitted,
        num_clusters=num_clusters,
        precision=precision,
        normalize=normalize,
        spherical=spherical,
        tolerance=tolerance,
    )
    settings = assignment.Settings(
        num_fits=num_fits,
        num_clusters=num_clusters,
        tolerance=tolerance,
        spherical=spherical,
        balanced=balanced,
        block_rows=fit_sizes.block_rows(num_fits * num_clusters, on_gpu=on_gpu),
        on_gpu=on_gpu,
    )
    with tf.device(source.device), distances.full_float32():
        shards = sources.shard(
            source,
            block_rows=settings.block_rows,
            fitted=fitted,
            present=present,
            strategy=strategy,
        )
        fit_checks.check_rows(
            shards,
            source,
            fitted,
            num_clusters=num_clusters,
            normalize=normalize and pca_components is None,
            block_rows=settings.block_rows,
            strategy=strategy,
        )
        sample = sources.sample(
            source,
            fitted,
            size=fit_sizes.sample_rows(num_fitted, num_clusters),
            seed=seed,
            strategy=strategy,
        )
        preparation, sample = whitening.fit_preparation(
            shards,
            sample,
            normalize=normalize,
            pca_components=pca_components,
            block_rows=settings.block_rows,
            strategy=strategy,
        )
        initial = None
        if initial_centroids is not None:
            initial = fit_checks.checked_initial_centroids(
                initial_centroids,
                shape=(num_clusters, sample.shape[1]),
                num_fits=num_fits,
            )
            initial = (initial - preparation.origin)[tf.newaxis]
        products = fit_sizes.products_of(precision, sample)
        shards = survey.prepare_rows(
            shards, preparation, products, settings.block_rows, strategy
        )
        outcome = lloyd.fit_rows(
            shards,
            tf.constant([[seed, number] for number in range(num_fits)], tf.int64),
            sample,
            initial,
            preparation.origin,
            tf.constant(num_fitted, tf.float64),
            products,
            tf.constant(num_iterations),
            settings=settings,
            strategy=strategy,
        )
        labels = replicas.local_rows(strategy, outcome.labels, source.num_rows)
    inertia = outcome.inertia.numpy().reshape(num_heads, num_restarts)
    best = np.arange(num_heads) * num_restarts + inertia.argmin(axis=1)
    return [
        _result(outcome, labels, present, settings, preparation, fit=fit)
        for fit in best
    ]


def assign(features: Features, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
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
    source = sources.open_source(features)
    centroids = tf.constant(fitted.centroids, tf.float32)
    width = (
        centroids.shape[1]
        if fitted.pca_projection is None
        else np.shape(fitted.pca_projection)[0]
    )
    if source.width != width:
        raise ValueError(
            f"features have {source.width} columns but the clustering was fitted "
            f"on {width}; extract them with the encoder of the same round."
        )
    with tf.device(source.device), distances.full_float32():
        everything = np.ones(source.num_rows, bool)
        fit_checks.check_rows(
            sources.shard(
                source,
                block_rows=fit_sizes.MOST_BLOCK_ROWS,
                fitted=everything,
                present=everything,
                strategy=None,
            ),
            source,
            everything,
            num_clusters=0,
            normalize=fitted.normalize and fitted.pca_projection is None,
            block_rows=fit_sizes.MOST_BLOCK_ROWS,
            strategy=None,
        )
        # Around the middle of the centroids, where products lose the fewest digits.
        origin = tf.reduce_mean(centroids, axis=0)
        preparation = Preparation(
            fitted.normalize, fitted.pca_mean, fitted.pca_projection, origin
        )
        offsets = fitted.offsets
        if offsets is None:
            offsets = np.zeros(len(fitted.centroids), np.float32)
        parts = [
            assignment.nearest(
                rows.prepare(tf.constant(block), preparation),
                centroids - origin,
                tf.constant(offsets),
            )
            for block in sources.blocks(
                source, fit_sizes.block_rows(len(fitted.centroids))
            )
        ]
    labels, squared = zip(*parts, strict=True)
    return np.concatenate(labels), np.concatenate(squared)


def _result(
    outcome: lloyd.Outcome,
    labels: np.ndarray,
    present: np.ndarray,
    settings: assignment.Settings,
    preparation: Preparation,
    *,
    fit: int,
) -> KMeansResult:
    whitened = preparation.pca_projection is not None
    return KMeansResult(
        centroids=(outcome.centroids[fit] + preparation.origin).numpy(),
        labels=np.where(present, labels[:, fit], _NO_LABEL).astype(
            np.int32, copy=False
        ),
        inertia=float(outcome.inertia[fit]),
        sizes=outcome.sizes[fit].numpy(),
        inertia_history=outcome.history[: outcome.iterations, fit].numpy(),
        num_reseeded=int(outcome.num_reseeded[fit]),
        normalize=preparation.normalize,
        pca_mean=preparation.pca_mean.numpy() if whitened else None,
        pca_projection=preparation.pca_projection.numpy() if whitened else None,
        offsets=outcome.offsets[fit].numpy() if settings.balanced else None,
    )
