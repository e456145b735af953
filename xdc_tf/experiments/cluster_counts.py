"""k-means with several numbers of clusters: fit, stability, sizes and time."""

import contextlib
import csv
import functools
import io
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.features import row_arrays
from xdc_tf.features.feature_store import ROWS_FILE, RowState
from xdc_tf.inference import feature_files
from xdc_tf.kmeans import kmeans, matrices
from xdc_tf.labels import agreement, health, pseudo_labels
from xdc_tf.runtime import arrays, compat, files


class CountResult(NamedTuple):
    """k-means with one number of clusters, over some seeds.

    Attributes:
      num_clusters: k.
      inertia: sum of squared distances to the centroids, of the seed with the lowest.
      mean_inertia: mean over the seeds.
      variance_explained: 1 - inertia / inertia of a single cluster, in [0, 1].
      nmi: mean over the pairs of seeds, of the normalised mutual information of their
        labels; in [0, 1], and higher by chance for more clusters of fewer examples.
      ari: the same of the adjusted Rand index, which is 0 for chance.
      size_min: examples in the smallest cluster of the fit with the lowest inertia.
      size_median: in the median one.
      size_max: in the largest one.
      effective_clusters: number of equal clusters with the same entropy.
      empty_clusters: clusters without an example.
      secs: of the fastest fit; the first one traces the computation too.
    """

    num_clusters: int
    inertia: float
    mean_inertia: float
    variance_explained: float
    nmi: float
    ari: float
    size_min: int
    size_median: float
    size_max: int
    effective_clusters: float
    empty_clusters: int
    secs: float


class Features(NamedTuple):
    """A matrix of features to be clustered.

    Attributes:
      rows: [N, D] float32 in memory, or a memory map of float16 or float32.
      present: [N] bool, the rows that hold an example.
    """

    rows: np.ndarray
    present: np.ndarray


def open_features(path: str, *, max_rows: int = 0, memory_gib: float = 4.0) -> Features:
    """Opens a matrix of features.

    Args:
      path: a .npy file; in a run's directory of features its neighbours say which rows
        hold an example and what they were when they were written, and in a directory
        of extract_features the card says that.
      max_rows: take so many rows at most, drawn by a fixed seed; 0 for all.
      memory_gib: rows up to this size as float32 are read into memory, in 2^30 bytes.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a matrix, or changed since it was written, or no row of it
        holds an example.
    """
    rows: np.ndarray = matrices.open_rows(path)
    feature_files.check_intact(path)
    present = np.ones(len(rows), bool)
    states_path = os.path.join(os.path.dirname(path), ROWS_FILE)
    if os.path.exists(states_path):
        present = _read_states(states_path, len(rows)) != RowState.EMPTY
        if not present.any():
            raise ValueError(
                f"{states_path}: none of the {len(rows)} rows of {path} is filled; let "
                "the run finish a clustering."
            )
    damaged = row_arrays.damaged_rows(path, present)
    if damaged.any():
        raise ValueError(
            f"{path}: {damaged.sum()} rows have changed since they were written, first "
            f"row {np.argmax(damaged)}; let the run compute them again."
        )
    if 0 < max_rows < np.sum(present):
        drawn = np.random.default_rng(0).choice(
            np.flatnonzero(present), max_rows, replace=False
        )
        rows, present = np.asarray(rows[np.sort(drawn)]), np.ones(max_rows, bool)
    rows = pseudo_labels.side_by_side([rows], memory=memory_gib * 2**30)
    return Features(rows, present)


def _read_states(path: str, num_rows: int) -> np.ndarray:
    remedy = "copy the features elsewhere if they are not of a run."
    try:
        states = arrays.open_npy(path)
    except ValueError as error:
        raise ValueError(f"{path}: no .npy array ({error}); {remedy}") from error
    if (states.shape, states.dtype) != ((num_rows,), np.uint8):
        raise ValueError(
            f"{path}: {states.dtype} {states.shape} does not say which of {num_rows} "
            f"rows are filled; {remedy}"
        )
    return np.array(states)


def check_candidates(candidates: Sequence[str], *, num_rows: int) -> list[int]:
    """Parses and checks numbers of clusters; gives them in ascending order.

    Raises:
      ValueError: something that is no number of clusters for so many rows, or twice the
        same.
    """
    counts = []
    for text in candidates:
        if not text.strip().isdecimal() or not 2 <= int(text) < num_rows:
            raise ValueError(
                f"candidates={','.join(candidates)}: {text!r} must be a whole number "
                f"from 2 to {num_rows - 1}, fewer than the {num_rows} rows of features."
            )
        counts.append(int(text))
    repeated = {count for count in counts if counts.count(count) > 1}
    if repeated or not counts:
        raise ValueError(
            f"candidates={','.join(candidates)}: "
            + (f"{min(repeated)} is given twice" if repeated else "none is given")
            + "; list each number of clusters once."
        )
    return sorted(counts)


def try_counts(
    features: Features, candidates: Sequence[int], *, num_seeds: int, **settings: Any
) -> Iterator[CountResult]:
    """Clusters features with each number of clusters, one result at a time.

    Memory for labels: num_seeds * N * 4 bytes, beside what kmeans.fit takes.

    Args:
      features: by open_features.
      candidates: numbers of clusters.
      num_seeds: fits of each, from different seeds; at least 2.
      **settings: further arguments of kmeans.fit.

    Raises:
      ValueError: see kmeans.fit; fewer than two seeds, or rows that are all the same.
    """
    if num_seeds < 2:
        raise ValueError(
            f"num_seeds={num_seeds} must be at least 2: stability compares seeds."
        )
    fit = functools.partial(
        kmeans.fit, features.rows, present_rows=features.present, **settings
    )
    # Its single centroid is the mean of the preprocessed rows.
    total = fit(num_clusters=1, seed=0).inertia
    if not total > 0:
        raise ValueError(
            f"all {np.sum(features.present)} rows of features are the same and make "
            "one cluster; look for a collapsed encoder."
        )
    for num_clusters in candidates:
        fits, secs = [], []
        for seed in range(num_seeds):
            start = time.perf_counter()
            fits.append(fit(num_clusters=num_clusters, seed=seed))
            secs.append(time.perf_counter() - start)
        yield _result(fits, total=total, secs=min(secs))


def _result(
    fits: list[kmeans.KMeansResult], *, total: float, secs: float
) -> CountResult:
    """Statistics of fits from several seeds; `total` is the inertia of a cluster."""
    best = min(fits, key=lambda fit: fit.inertia)
    sizes = health.measures_of_sizes(best.sizes)
    agreements = [
        agreement.compare(agreement.count_pairs(first.labels, second.labels))
        for first, second in itertools.combinations(fits, 2)
    ]
    return CountResult(
        num_clusters=len(best.sizes),
        inertia=best.inertia,
        mean_inertia=float(np.mean([fit.inertia for fit in fits])),
        variance_explained=1 - best.inertia / total,
        nmi=float(np.mean([scores.nmi for scores in agreements])),
        ari=float(np.mean([scores.ari for scores in agreements])),
        size_min=int(sizes["size_min"]),
        size_median=sizes["size_median"],
        size_max=int(sizes["size_max"]),
        effective_clusters=sizes["effective_clusters"],
        empty_clusters=int(sizes["empty_clusters"]),
        secs=secs,
    )


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
      features_path: see open_features.
      candidates: see check_candidates.
      out_dir: a directory to make, whole or not at all, with CSV_FILE, JSON_FILE and
        PLOT_FILE.
      max_rows: see open_features.
      memory_gib: the same.
      num_seeds: see try_counts.
      **settings: JSON values, further arguments of kmeans.fit.

    Raises:
      FileExistsError: if out_dir exists.
      FileNotFoundError: without such a file.
      ValueError: see cluster_counts.
    """
    features = open_features(features_path, max_rows=max_rows, memory_gib=memory_gib)
    num_rows = int(features.present.sum())
    counts = check_candidates(candidates, num_rows=num_rows)
    output = files.new_directory(out_dir) if out_dir else contextlib.nullcontext()
    with output as directory:
        results: list[CountResult] = []
        for result in try_counts(features, counts, num_seeds=num_seeds, **settings):
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
    # Imported late, since it takes a second.
    import matplotlib

    from xdc_tf.runtime import figures

    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(10, 7, layout="constrained")
        _draw(figure, results)
        figures.write(figure, path)


def _draw(figure: Any, results: Sequence[CountResult]) -> None:
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
        axes.grid()
