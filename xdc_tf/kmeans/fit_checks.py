"""Checks of the arguments of a fit, before it starts."""

import operator
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import matrices, replicas, survey
from xdc_tf.kmeans.fit_settings import ArgumentError, Options
from xdc_tf.kmeans.matrices import FeatureMatrix
from xdc_tf.kmeans.rows import Rows

PRECISIONS = ("float32", "mixed")
_PROBLEMS = {
    survey.NOT_FINITE: (
        "rows with NaN or infinity in float32, {}; look for a diverged encoder or "
        "unfilled rows."
    ),
    survey.ALL_ZERO: (
        "all-zero rows, {}, which cannot be scaled to length one; look for unfilled "
        "rows or dead units, or set normalize=False."
    ),
    survey.TOO_LARGE: (
        f"rows longer than {survey.MAX_SQUARE**0.5:g}, {{}}, whose squares float32 "
        "cannot add up; scale the features down."
    ),
}


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


def check_rows(
    shards: Rows,
    matrix: FeatureMatrix,
    *,
    num_clusters: int,
    normalize: bool,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> None:
    """Checks the values of all rows.

    Args:
      shards: the rows on their replicas, not prepared.
      matrix: the same rows.
      num_clusters: distinct fitted rows that there must be.
      normalize: whether all-zero rows are wrong.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.

    Raises:
      ArgumentError: on fewer distinct rows than clusters, or all-zero rows.
      ValueError: on other rows that cannot be clustered; names some.
    """
    faults, num_faults, num_large_enough = survey.find_faults(
        shards, normalize, block_rows, strategy
    )
    if int(num_faults):
        local_faults = replicas.local_rows(strategy, faults, matrix.num_rows)
        raise _error_of_faults(local_faults, int(num_faults))
    if num_clusters and not normalize and not int(num_large_enough):
        raise ValueError(
            f"all {matrix.num_rows} rows of the features are shorter than "
            f"{survey.MIN_SQUARE**0.5:g}, so that float32 cannot hold their squares; "
            "scale the features up."
        )
    distinct = matrices.count_distinct(
        matrix, at_most=num_clusters, block_rows=block_rows
    )
    distinct = int(replicas.sum_over_processes(strategy, np.asarray(distinct)))
    if distinct < num_clusters:
        raise ArgumentError(
            "num_clusters",
            f"num_clusters={num_clusters} exceeds the {distinct} distinct rows of the "
            "features; lower num_clusters, or look for an encoder that gives many "
            "examples the same features.",
        )


def _error_of_faults(faults: np.ndarray, num_faults: int) -> ValueError:
    """The error that names rows of this process, or of others if these are in order.

    Args:
      faults: [N] int8, of the rows of this process.
      num_faults: of all processes.
    """
    for fault, problem in _PROBLEMS.items():
        numbers = np.flatnonzero(faults == fault)
        if numbers.size:
            first_rows = "the first are " + ", ".join(str(row) for row in numbers[:5])
            message = f"features have {numbers.size} " + problem.format(first_rows)
            if fault == survey.ALL_ZERO:
                return ArgumentError("normalize", message)
            return ValueError(message)
    return ValueError(
        f"features of other processes have {num_faults} rows that cannot be "
        "clustered; their messages name them."
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
