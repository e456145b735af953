"""A report in TensorBoard: results, learning curves, confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.runtime import pictures
from xdc_tf.training import charts


def write(log_dir: str, report: Mapping[str, Any]) -> None:
    """Writes a report's summaries into an event file of its own.

    Args:
      log_dir: of the work directory.
      report: of reports.make_report.

    Raises:
      OSError: if they cannot be written.
    """
    try:
        writer = tf.summary.create_file_writer(log_dir)
        with writer.as_default(step=0):
            for result in report["results"]:
                name = f"evaluation/{report['protocol']}/{result['stream']}"
                _write_result(name, result)
        writer.close()
    except tf.errors.OpError as error:
        raise OSError(f"{log_dir} cannot be written: {error}") from error


def _write_result(name: str, result: Mapping[str, Any]) -> None:
    for metric, mean in result["mean"].items():
        tag = f"{name}/{metric}"
        tf.summary.scalar(tag, mean, description=charts.describe(tag))
    for split in result["splits"]:
        curve = split["details"].get("learning_curve", ())
        _write_curve(f"{name}/split_{split['split']}", curve)
    details = [split["details"] for split in result["splits"]]
    matrix = sum_of_confusions(details)
    if matrix is not None:
        tag = f"{name}/confusion"
        names = details[0].get("class_names", ())
        picture = draw_confusion(matrix, names, title=name)
        tf.summary.image(tag, picture[None], description=charts.describe(tag))


def _write_curve(tag: str, curve: Sequence[Mapping[str, Any]]) -> None:
    described = set()
    for epoch in curve:
        for metric, value in epoch.items():
            if metric == "epoch" or value is None:
                continue
            name = f"{tag}/{metric}"
            # TensorBoard keeps the first.
            description = None if name in described else charts.describe(name)
            described.add(name)
            tf.summary.scalar(
                name, value, step=int(epoch["epoch"]), description=description
            )


def sum_of_confusions(details: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """[K, K] int64, the splits' confusion matrices added up.

    None without any, or where splits have other classes than each other.
    """
    matrices = [split.get("confusion") for split in details]
    names = [split.get("class_names") for split in details]
    if not all(matrices) or any(other != names[0] for other in names):
        return None
    return np.sum([np.array(matrix, np.int64) for matrix in matrices], axis=0)


def draw_confusion(
    matrix: np.ndarray, class_names: Sequence[str], *, title: str
) -> np.ndarray:
    """A picture of a confusion matrix.

    Args:
      matrix: [K, K] numbers of examples by true and by predicted class.
      class_names: of the K classes, or none.
      title: above it.
    """
    return pictures.table(
        matrix,
        title=f"{title}: {np.trace(matrix)} of {matrix.sum()} right",
        rows="true class",
        columns="predicted class",
        row_names=class_names,
        column_names=class_names,
    )
