"""A comparison of numbers of clusters: a table as it goes, then CSV, JSON, a plot."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from xdc_tf.experiments import cluster_counts
from xdc_tf.experiments.cluster_counts import CountResult
from xdc_tf.runtime import compat, files

CSV_FILE, JSON_FILE, PLOT_FILE = "counts.csv", "counts.json", "counts.png"
# Column of the table, the CountResult's attribute, format.
_COLUMNS = (
    ("clusters", "num_clusters", "d"),
    ("inertia", "inertia", ".6g"),
    ("explained", "variance_explained", ".4f"),
    ("NMI", "nmi", ".3f"),
    ("ARI", "ari", ".3f"),
    ("smallest", "size_min", "d"),
    ("median", "size_median", "g"),
    ("largest", "size_max", "d"),
    ("effective", "effective_clusters", ".1f"),
    ("empty", "empty_clusters", "d"),
    ("secs", "secs", ".2f"),
)
_WIDTH = 10


def compare(
    features_path: str,
    candidates: Sequence[str],
    *,
    out_dir: str | None = None,
    max_rows: int = 0,
    memory_gib: float = 4.0,
    num_seeds: int = 3,
    **settings: Any,
) -> list[CountResult]:
    """Tries numbers of clusters on a file of features and prints a line for each.

    Args:
      features_path: see cluster_counts.open_features.
      candidates: see cluster_counts.check_candidates.
      out_dir: a directory to make, whole or not at all, with CSV_FILE, JSON_FILE and
        PLOT_FILE.
      max_rows: see cluster_counts.open_features.
      memory_gib: the same.
      num_seeds: see cluster_counts.try_counts.
      **settings: JSON values, further arguments of kmeans.fit.

    Raises:
      FileExistsError: if out_dir exists.
      FileNotFoundError: without such a file.
      ValueError: see cluster_counts.
    """
    features = cluster_counts.open_features(
        features_path, max_rows=max_rows, memory_gib=memory_gib
    )
    num_rows = int(features.present.sum())
    counts = cluster_counts.check_candidates(candidates, num_rows=num_rows)
    output = files.new_directory(out_dir) if out_dir else contextlib.nullcontext()
    with output as directory:
        results: list[cluster_counts.CountResult] = []
        for result in cluster_counts.try_counts(
            features, counts, num_seeds=num_seeds, **settings
        ):
            if not results:
                print("".join(f"{column:>{_WIDTH}}" for column, _, _ in _COLUMNS))
            cells = (f"{getattr(result, name):{form}}" for _, name, form in _COLUMNS)
            print("".join(f"{cell:>{_WIDTH}}" for cell in cells), flush=True)
            results.append(result)
        if directory:
            made_with = {
                "features": features_path,
                "num_rows": num_rows,
                "width": features.rows.shape[1],
                "num_seeds": num_seeds,
                "kmeans": settings,
                "versions": compat.versions(),
            }
            _write(directory, results, made_with)
    return results


def _write(
    directory: str, results: Sequence[CountResult], made_with: Mapping[str, Any]
) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CountResult._fields)
    table.writerows(results)
    files.write_text(os.path.join(directory, CSV_FILE), text.getvalue())
    values = {**made_with, "results": [result._asdict() for result in results]}
    files.write_text(
        os.path.join(directory, JSON_FILE), json.dumps(values, indent=2) + "\n"
    )
    _plot(results, os.path.join(directory, PLOT_FILE))


def _plot(results: Sequence[CountResult], path: str) -> None:
    # Imported late, since it takes a second; without pyplot it needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    fit, stability, sizes, effective = figure.subplots(2, 2).flat
    counts = [result.num_clusters for result in results]
    curves = (
        (fit, "variance explained", ("variance_explained",)),
        (stability, "agreement of seeds", ("nmi", "ari")),
        (sizes, "examples per cluster", ("size_min", "size_median", "size_max")),
    )
    for axes, title, names in curves:
        for name in names:
            values = [getattr(result, name) for result in results]
            axes.plot(counts, values, "o-", label=name)
        axes.set_title(title)
        axes.legend()
    sizes.set_yscale("symlog")
    fractions = [result.effective_clusters / result.num_clusters for result in results]
    effective.plot(counts, fractions, "o-")
    effective.set_title("effective fraction of the clusters")
    effective.set_ylim(0, 1.05)
    for axes in (fit, stability, sizes, effective):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("clusters")
        axes.grid(alpha=0.3)
    figure.savefig(path)
