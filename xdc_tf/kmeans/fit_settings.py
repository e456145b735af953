"""Settings of a fit, checked: a caller's, and those that follow from the machine."""

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans.distances import MatmulFormat
from xdc_tf.runtime import processor

PRECISIONS = ("float32", "mixed")
# More clusters get smaller blocks, so that a block's scores stay within 32 MB.
MOST_BLOCK_ROWS, _FEWEST_BLOCK_ROWS = 8192, 512
_BLOCK_SCORES = 1 << 23
# On a GPU blocks are large, so that starting its kernels does not take longer than they
# do: scores within 256 MB.
MOST_BLOCK_ROWS_ON_GPU, BLOCK_SCORES_ON_GPU = 1 << 18, 1 << 26
# k-means++ chooses from a sample of the rows. Twice as many cost twice the time, for
# 0.2% less inertia in the end (docs/clustering.md, 400,000 rows).
_MIN_SAMPLE_ROWS = 4096
_SAMPLE_ROWS_PER_CLUSTER = 8


class ArgumentError(ValueError):
    """An argument of a fit that is unusable, or does not suit the features.

    Attributes:
      argument: its name.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(message)
        self.argument = argument


class Options(NamedTuple):
    """How to cluster; each is a keyword argument of `kmeans.fit`.

    Attributes:
      num_clusters: k, at most the number of distinct fitted rows.
      num_iterations: at most so many iterations; a fixed point ends them earlier.
      num_restarts: fits from so many initialisations for each head, of which the one
        with the lowest inertia is kept.
      precision: "float32", or "mixed" for matrix products of half the width in the
        iterations where they are fast: bfloat16, or float16 on a GPU without it, or
        float32 on a CPU without bfloat16 instructions (sums and the final assignment
        are float32).
      normalize: scale rows to length one, after PCA-whitening if there is any.
      spherical: scale centroids to length one too, which needs `normalize`; the
        nearest centroid is then the one of the largest cosine.
      balanced: clusters of about N / k rows. Sinkhorn's iteration finds an offset for
        each cluster, which is subtracted from its squared distances.
      tolerance: a fit is done when an iteration lowers its objective by no more than
        this fraction, in [0, 1); 0 for a fixed point.
      pca_components: whiten to so many principal components first; None for none.
    """

    num_clusters: int
    num_iterations: int = 20
    num_restarts: int = 1
    precision: str = "float32"
    normalize: bool = True
    spherical: bool = False
    balanced: bool = False
    tolerance: float = 0.0
    pca_components: int | None = None


def whole_number(name: str, value: Any, *, least: int) -> int:
    """The value as an int, which NumPy's integers are not.

    Raises:
      ArgumentError: if it is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(name, f"{name}={value!r} must be a whole number.") from None
    if not least <= number < 2**63:
        raise ArgumentError(
            name, f"{name}={number} must be from {least} to 2^63 - 1; change {name}."
        )
    return number


def check_options(options: Options) -> Options:
    """The options with counts as ints.

    Raises:
      ArgumentError: on an option without meaning, whatever the features.
    """
    options = options._replace(
        num_clusters=whole_number("num_clusters", options.num_clusters, least=1),
        num_iterations=whole_number("num_iterations", options.num_iterations, least=1),
        num_restarts=whole_number("num_restarts", options.num_restarts, least=1),
    )
    if options.precision not in PRECISIONS:
        raise ArgumentError(
            "precision",
            f"precision={options.precision!r} is unknown; set precision to one of "
            f"{', '.join(PRECISIONS)}.",
        )
    if options.spherical and not options.normalize:
        raise ArgumentError(
            "spherical",
            "spherical=True needs rows of length one; set normalize=True or "
            "spherical=False.",
        )
    if not 0 <= options.tolerance < 1:
        raise ArgumentError(
            "tolerance",
            f"tolerance={options.tolerance} must be in [0, 1), a fraction of the "
            "objective; change tolerance.",
        )
    return options


def check_num_clusters(num_clusters: int, *, num_fitted: int) -> None:
    """Raises an ArgumentError if there are fewer fitted rows than clusters."""
    if num_clusters > num_fitted:
        raise ArgumentError(
            "num_clusters",
            f"num_clusters={num_clusters} exceeds the {num_fitted} rows that centroids "
            "are fitted to; lower num_clusters.",
        )


def checked_initial_centroids(
    centroids: np.ndarray | tf.Tensor, *, shape: tuple[int, int], num_fits: int
) -> tf.Tensor:
    """Centroids to start from as float32.

    Raises:
      ValueError: on another shape, NaN or infinity, or several fits from the same ones.
    """
    centroids = tf.cast(tf.convert_to_tensor(centroids), tf.float32)
    if tuple(centroids.shape) != shape:
        raise ValueError(
            f"initial_centroids have shape {tuple(centroids.shape)} but must have "
            f"{shape}: num_clusters by dimensions of the preprocessed features."
        )
    if not np.isfinite(centroids.numpy()).all():
        raise ValueError("initial_centroids hold NaN or infinity; pass finite ones.")
    if num_fits != 1:
        raise ValueError(
            f"{num_fits} heads and restarts would repeat the same fit from "
            f"initial_centroids; pass num_restarts=1 and one head, or leave them out."
        )
    return centroids


class TraceSettings(NamedTuple):
    """What a fit is traced for.

    Attributes:
      num_fits: R, clusterings in one loop.
      num_clusters: k.
      tolerance: see Options.
      spherical: centroids of length one about `FitContext.origin`.
      balanced: assign by Sinkhorn offsets, which even out the sizes.
      block_rows: rows per block.
      on_gpu: in the form for GPUs: no shape depends on values, for which the host would
        have to wait, and labels are int64, since TensorFlow has int32 tensors of loops
        and of most operations on the host.
      compiled: what is computed of a block is one program of XLA.
    """

    num_fits: int
    num_clusters: int
    tolerance: float
    spherical: bool
    balanced: bool
    block_rows: int
    on_gpu: bool = False
    compiled: bool = False

    @property
    def label_dtype(self) -> tf.DType:
        return tf.int64 if self.on_gpu else tf.int32

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of tensors as one program of XLA, where fits are compiled.

        TensorFlow writes a block's scores out several times, and its argmax on GPUs
        takes six times as long as the matrix product (docs/gpu.md); XLA finds the
        largest while it reads them once.
        """
        if not self.compiled:
            return function
        return tf.function(function, autograph=False, jit_compile=True)


class FitContext(NamedTuple):
    """What stays the same through all iterations of R fits.

    Attributes:
      origin: [d] float32, what the preparation has subtracted from rows.
      variance: [] float64, mean squared length of the sample's prepared rows; serves
        as a scale only.
      num_fitted: [] float64, fitted rows of all replicas.
      matmul_format: of rows and centroids in the iterations' matrix products.
      settings: what the fits are traced for.
      strategy: the one that the rows were sharded for.
    """

    origin: tf.Tensor
    variance: tf.Tensor
    num_fitted: tf.Tensor
    matmul_format: MatmulFormat
    settings: TraceSettings
    strategy: tf.distribute.Strategy | None


def trace_settings(options: Options, *, num_fits: int, on_gpu: bool) -> TraceSettings:
    """What `num_fits` fits with these options are traced for."""
    return TraceSettings(
        num_fits=num_fits,
        num_clusters=options.num_clusters,
        tolerance=options.tolerance,
        spherical=options.spherical,
        balanced=options.balanced,
        block_rows=block_rows(num_fits * options.num_clusters, on_gpu=on_gpu),
        on_gpu=on_gpu,
        compiled=on_gpu and can_compile(),
    )


@functools.cache
def can_compile() -> bool:
    """Whether XLA compiles here; on GPUs it needs parts of CUDA that can be missing."""
    try:
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.zeros([2]))
    except tf.errors.OpError as error:
        warnings.warn(
            f"k-means runs without XLA, which takes longer: {error.message}",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def _warn_of_float32() -> None:
    warnings.warn(
        'k-means with precision="mixed" computes in float32 here: this processor has '
        "no bfloat16 instructions, and takes longer in bfloat16",
        stacklevel=3,
    )


def matmul_dtype(precision: str, *, on_gpu: bool) -> tf.DType:
    """Type of both factors of the matrix products: of "mixed", what is fast here.

    Args:
      precision: one of PRECISIONS.
      on_gpu: whether GPUs compute the fit.
    """
    if precision == "float32":
        return tf.float32
    if not on_gpu:
        if processor.has_bfloat16():
            return tf.bfloat16
        _warn_of_float32()
        return tf.float32
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    # Before Ampere, NVIDIA's tensor cores have float16 only.
    if any(gpu.get("compute_capability", (8, 0)) < (8, 0) for gpu in details):
        return tf.float16
    return tf.bfloat16


def matmul_format(precision: str, sample: tf.Tensor, *, on_gpu: bool) -> MatmulFormat:
    """The format for prepared rows like those of the sample [s, d] float32."""
    squares = tf.reduce_mean(tf.reduce_sum(tf.square(sample), axis=1))
    scale = tf.math.rsqrt(tf.maximum(squares, 1e-30))
    return MatmulFormat(matmul_dtype(precision, on_gpu=on_gpu), scale)


def works_on_gpu(device: str | None, strategy: tf.distribute.Strategy | None) -> bool:
    """Whether GPUs compute a fit.

    Args:
      device: that holds the rows; None for the default one.
      strategy: whose replicas the rows are spread over, wherever they were before.
    """
    if strategy is not None:
        device = strategy.extended.worker_devices[0]
    if device is None:
        return bool(tf.config.list_logical_devices("GPU"))
    return tf.DeviceSpec.from_string(device).device_type == "GPU"


def block_rows(num_columns: int, *, on_gpu: bool = False) -> int:
    """Rows that are compared at once with so many centroids of all fits."""
    most, scores = MOST_BLOCK_ROWS, _BLOCK_SCORES
    if on_gpu:
        most, scores = MOST_BLOCK_ROWS_ON_GPU, BLOCK_SCORES_ON_GPU
    return int(np.clip(scores // num_columns, _FEWEST_BLOCK_ROWS, most))


def sample_rows(num_fitted: int, num_clusters: int) -> int:
    """Rows of the sample that k-means++ chooses from."""
    proportional = min(_SAMPLE_ROWS_PER_CLUSTER * num_clusters, num_fitted // 8)
    return min(num_fitted, max(_MIN_SAMPLE_ROWS, 2 * num_clusters, proportional))
