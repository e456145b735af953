"""What can be wrong with the arguments of a fit, said before any work."""

import operator
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.kmeans import replicas, sources, survey
from xdc_tf.kmeans.rows import Rows
from xdc_tf.kmeans.sources import Source

PRECISIONS = ("float32", "mixed")


def checked_mask(name: str, mask: np.ndarray | None, num_rows: int) -> np.ndarray:
    """[num_rows] bool; all True for None.

    Raises:
      ValueError: on another shape or type.
    """
    if mask is None:
        return np.ones(num_rows, bool)
    mask = np.asarray(mask)
    if mask.shape != (num_rows,) or mask.dtype != bool:
        raise ValueError(
            f"{name} has shape {mask.shape} and type {mask.dtype} for {num_rows} rows "
            "of features; give one truth value per row."
        )
    return mask


def whole_number(name: str, value: Any, *, least: int) -> int:
    """The value as an int, which NumPy's integers are not.

    Raises:
      ValueError: if it is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number.") from None
    if not least <= number < 2**63:
        raise ValueError(
            f"{name}={number} must be from {least} to 2^63 - 1; change "
            f"config.kmeans.{name}."
        )
    return number


def check_settings(
    *,
    num_fitted: int,
    num_clusters: int,
    precision: str,
    normalize: bool,
    spherical: bool,
    tolerance: float,
) -> None:
    """Raises a ValueError that names a setting of kmeans.fit_heads which cannot be."""
    if num_clusters > num_fitted:
        raise ValueError(
            f"num_clusters={num_clusters} exceeds the {num_fitted} examples with "
            f"features; lower config.kmeans.num_clusters."
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision={precision!r} is unknown; set config.kmeans.precision to one "
            f"of {', '.join(PRECISIONS)}."
        )
    if spherical and not normalize:
        raise ValueError(
            "spherical=True needs rows of length one; set config.kmeans.normalize=True "
            "or config.kmeans.spherical=False."
        )
    if not 0 <= tolerance < 1:
        raise ValueError(
            f"tolerance={tolerance} must be in [0, 1), a part of the objective; change "
            "config.kmeans.tolerance."
        )


def check_rows(
    shards: Rows,
    source: Source,
    fitted: np.ndarray,
    *,
    num_clusters: int,
    normalize: bool,
    block_rows: int,
    strategy: tf.distribute.Strategy | None,
) -> None:
    """Raises a ValueError that names rows which cannot be clustered.

    Args:
      shards: the rows on their replicas, not prepared.
      source: the same rows.
      fitted: [N] bool.
      num_clusters: distinct fitted rows that there must be.
      normalize: whether all-zero rows are wrong.
      block_rows: rows per block.
      strategy: the one that the rows were sharded for.
    """
    faults, num_faults, num_large_enough = survey.find_faults(
        shards, normalize, block_rows, strategy
    )
    if int(num_faults):
        found = replicas.local_rows(strategy, faults, source.num_rows)
        for fault, problem in (
            (
                survey.NOT_FINITE,
                "rows with NaN or infinity in float32, {}; look for a diverged encoder "
                "or unfilled rows.",
            ),
            (
                survey.ALL_ZERO,
                "all-zero rows, {}, which cannot be scaled to length one; look for "
                "unfilled rows or dead units, or set config.kmeans.normalize=False.",
            ),
            (
                survey.TOO_LARGE,
                f"rows longer than {survey.MAX_SQUARE**0.5:g}, {{}}, whose squares "
                "float32 cannot add up; scale the features down.",
            ),
        ):
            numbers = np.flatnonzero(found == fault)
            if numbers.size:
                named = "the first are " + ", ".join(str(row) for row in numbers[:5])
                raise ValueError(
                    f"features have {numbers.size} " + problem.format(named)
                )
        raise ValueError(
            f"features of other processes have {int(num_faults)} rows that cannot be "
            "clustered; their messages name them."
        )
    if num_clusters and not normalize and not int(num_large_enough):
        raise ValueError(
            f"all {source.num_rows} rows of the features are shorter than "
            f"{survey.MIN_SQUARE**0.5:g}, so that float32 cannot hold their squares; "
            "scale the features up."
        )
    distinct = sources.count_distinct(
        source, fitted, at_most=num_clusters, block_rows=block_rows
    )
    distinct = int(replicas.sum_over_processes(strategy, np.int64(distinct)))
    if distinct < num_clusters:
        raise ValueError(
            f"num_clusters={num_clusters} exceeds the {distinct} distinct rows of the "
            "features; lower config.kmeans.num_clusters, or look for an encoder that "
            "gives many examples the same features."
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
