"""Methods next to each other: means over seeds and splits, and paired tests.

The table has a row per method and a column per protocol, stream and metric. A method's
values in a column are those of all its seeds and splits, compared with the reference's
where both have the same seed and split.

Of n differences d of values of the same seed and split:

- their mean, and its 95% confidence interval mean(d) +- t(0.975, n - 1) s / sqrt(n),
  with their sample standard deviation s; and the two-sided paired t-test (Student, "The
  probable error of a mean", Biometrika 6, 1908), as scipy.stats.ttest_rel has it;
- that p-value corrected for m methods compared with the same one: of the sorted ones
  p(1) <= ... <= p(m), the i-th becomes the largest min(1, (m - j + 1) p(j)) of all
  j <= i (Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
  Journal of Statistics 6, 1979).

Splits that share videos are not independent, as the test takes pairs to be: it then
finds differences too often (Nadeau and Bengio, "Inference for the generalization
error", Machine Learning 52, 2003).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from xdc_tf.evaluation import report_collections
from xdc_tf.evaluation.metrics import mean_and_std

CONFIDENCE = 0.95
# Differences that differ by less, next to the values, are equal but for rounding.
_ROUNDING = 1e-9


class Row(NamedTuple):
    """One value of a report.

    Its seed is that of the pretraining, and, if the evaluation has another, " and "
    that.
    """

    method: str
    seed: str
    split: str
    protocol: str
    stream: str
    metric: str
    value: float
    json: str  # path of the report


class Report(NamedTuple):
    """What an evaluation wrote, and where it lies."""

    path: str
    values: Mapping[str, Any]


class Difference(NamedTuple):
    """One method's values minus another's, over the pairs that both have.

    Attributes:
      num_pairs: n.
      mean: None without a pair.
      low: end of the 95% confidence interval; like the following None with fewer than
        two pairs, or where all differences are the same.
      high: its other end.
      p_value: of the paired t-test.
      p_holm: corrected for all that were tested with it.
    """

    num_pairs: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


class Column(NamedTuple):
    """What is compared."""

    protocol: str
    stream: str
    metric: str


class Cell(NamedTuple):
    """A method in a column.

    Attributes:
      mean: over seeds and splits.
      std: sample standard deviation, with n - 1; None of a single value.
      num_runs: n, how many pairs of a seed and a split.
      difference: from the reference; None in the reference's row, or where the
        reference has no value.
    """

    mean: float
    std: float | None
    num_runs: int
    difference: Difference | None


class Table(NamedTuple):
    """Methods next to each other.

    Attributes:
      reference: the method that the others are compared with.
      methods: rows, in the order in which they were given.
      columns: the same.
      cells: by method and column; absent where nothing was evaluated.
    """

    reference: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]


def read(path: str, row: str | None = None) -> list[Report]:
    """Reads the reports of a file, be it a collection or a report alone.

    Args:
      path: of the file; see report_collections.read.
      row: name of their row in the table, which they get as a setting.
    """
    reports_read = report_collections.read(path)
    if row is not None:
        for report in reports_read.values():
            report["settings"] = report["settings"] | {"row": row}
    return [Report(*item) for item in reports_read.items()]


def collect(reports_read: Sequence[Report], metrics: Sequence[str] = ()) -> list[Row]:
    """The values of reports, one row each.

    A report's row in the table is named by its setting "row", if it has that one, or
    else by its method.

    Args:
      reports_read: of `read`.
      metrics: names of those to collect; none for all.
    """
    rows = []
    for path, report in reports_read:
        source = report["source"]
        for result in report["results"]:
            # Of what takes two encoders, both are of one run.
            encoder = source.get(result["stream"]) or next(iter(source.values()))
            method = report["settings"].get("row", encoder["method"])
            seeds = encoder["seed"], report["settings"].get("seed", encoder["seed"])
            seed = " and ".join(dict.fromkeys(map(str, seeds)))
            for split in result["splits"]:
                for metric, value in split["metrics"].items():
                    if metrics and metric not in metrics:
                        continue
                    row = Row(
                        *(method, seed, split["split"]),
                        *(report["protocol"], result["stream"], metric, value, path),
                    )
                    rows.append(row)
    return rows


def find_differences(reports_read: Sequence[Report]) -> list[str]:
    """In words, what reports of one protocol should have in common and have not.

    That is their settings, except for seeds and the names of their rows, and the
    SHA-256 of their data.
    """
    values: dict[tuple[str, str], dict[str, None]] = {}
    for _, report in reports_read:
        settings = {k: v for k, v in report["settings"].items() if k != "row"}
        stated = [
            *(leaf for leaf in _leaves(settings) if "seed" not in leaf[0]),
            *(leaf for leaf in _leaves(report["records"]) if "sha256" in leaf[0]),
        ]
        for key, text in stated:
            values.setdefault((report["protocol"], key), {})[text] = None
    return [
        f"{protocol}: {key} is {' or '.join(texts)}"
        for (protocol, key), texts in values.items()
        if len(texts) > 1
    ]


def summarize(
    rows: Sequence[Row], *, reference: str | None = None, order: Sequence[str] = ()
) -> Table:
    """Means, deviations and tests of all methods.

    Args:
      rows: of `collect`.
      reference: a method; None for that of the first row. It is not the best one,
        which would be chosen by the values that are then tested.
      order: of the methods in the table; others follow as they come.

    Raises:
      ValueError: without rows; if the reference is not among them; or if two are of the
        same method, seed, split, protocol, stream and metric, which must not count
        twice.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    if not methods:
        raise ValueError("the reports hold no results; evaluate something first.")
    reference = methods[0] if reference is None else reference
    if reference not in methods:
        raise ValueError(
            f"reference={reference} is not among the methods of the reports, "
            f"{', '.join(methods)}."
        )
    first = [name for name in dict.fromkeys(order) if name in methods]
    methods = [*first, *(name for name in methods if name not in first)]
    columns = _by_column(rows)
    cells = {}
    for column, by_method in columns.items():
        differences = correct(
            {
                method: compare_pairs(values, by_method[reference])
                for method, values in by_method.items()
                if method != reference and reference in by_method
            }
        )
        for method, values in by_method.items():
            mean, std = mean_and_std(list(values.values()))
            difference = differences.get(method)
            cells[method, column] = Cell(mean, std, len(values), difference)
    return Table(reference, tuple(methods), tuple(columns), cells)


def compare_pairs(
    values: Mapping[Any, float], reference: Mapping[Any, float]
) -> Difference:
    """A method's difference from the reference, without p_holm.

    Args:
      values: of the method, by what makes a pair, such as seed and split.
      reference: of the reference.
    """
    pairs = [
        (value, reference[key]) for key, value in values.items() if key in reference
    ]
    if not pairs:
        return Difference(0)
    ours, theirs = np.array(pairs, np.float64).T
    difference = Difference(len(pairs), mean=float(np.mean(ours - theirs)))
    spread = np.ptp(ours - theirs)
    # Without a spread t is infinite, or 0 / 0.
    if len(pairs) < 2 or spread <= _ROUNDING * np.abs(pairs).max():
        return difference
    tested = stats.ttest_rel(ours, theirs)
    interval = tested.confidence_interval(CONFIDENCE)
    return difference._replace(
        low=float(interval.low), high=float(interval.high), p_value=float(tested.pvalue)
    )


def correct(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Differences from one reference, with p_holm for those that were tested."""
    p_values = {
        name: difference.p_value
        for name, difference in differences.items()
        if difference.p_value is not None
    }
    corrected = holm(list(p_values.values()))
    return dict(differences) | {
        name: differences[name]._replace(p_holm=value)
        for name, value in zip(p_values, corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's procedure, in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    in_order = np.minimum(1.0, factors * np.asarray(p_values, np.float64)[order])
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(in_order)
    return corrected.tolist()


def _by_column(
    rows: Sequence[Row],
) -> dict[Column, dict[str, dict[tuple[str, str], float]]]:
    """Values by column, then by method, then by seed and split."""
    columns: dict[Column, dict[str, dict[tuple[str, str], float]]] = {}
    path_of: dict[tuple, str] = {}
    for row in rows:
        if row[:6] in path_of:
            raise ValueError(
                f"{path_of[row[:6]]} and {row.json} both have {row.metric} of "
                f"{row.method}, seed {row.seed}, split {row.split}, {row.protocol}, "
                f"{row.stream}; leave out one of them, or give names, NAME=FILE."
            )
        path_of[row[:6]] = row.json
        by_method = columns.setdefault(Column(*row[3:6]), {})
        by_method.setdefault(row.method, {})[row.seed, row.split] = row.value
    return columns


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of what JSON's objects hold in their depths."""
    if not isinstance(value, Mapping):
        yield name, str(value)
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))
