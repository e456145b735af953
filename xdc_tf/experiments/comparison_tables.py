"""A comparison's table as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from xdc_tf.evaluation import metrics
from xdc_tf.experiments.comparison import Cell, Column, Difference, Table
from xdc_tf.runtime import escaping

_NONE = "n/a"
_CSV_COLUMNS = (
    *("method", "protocol", "stream", "metric", "mean", "std", "num_runs"),
    *("reference", *(f"difference_{name}" for name in Difference._fields)),
)
_DIFFERENCE_HEADER = (
    *("method", "column", "pairs", "difference", "95% interval", "p", "p (Holm)"),
)


class Unit(NamedTuple):
    """The factor and the number of decimals that values are printed with."""

    factor: float
    decimals: int

    def format(self, value: float, sign: str = "") -> str:
        return f"{self.factor * value:{sign}.{self.decimals}f}"


PERCENT, _PLAIN = Unit(100, 1), Unit(1, 3)


def markdown(table: Table) -> str:
    """Two tables, of means and of differences, with a line that says what they are."""
    escape = escaping.markdown
    lines = []
    for title, header, *body in _grids(table):
        lines += [escape(title[0]), ""]
        for number, cells in enumerate((header, *body)):
            lines.append(f"| {' | '.join(map(escape, cells))} |")
            if not number:
                lines.append("|---" + "|---:" * (len(header) - 1) + "|")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def latex(table: Table) -> str:
    """Two tabulars, of means and of differences; they need no package."""
    escape = escaping.latex
    blocks = []
    for title, header, *body in _grids(table):
        lines = [" & ".join(map(escape, cells)) + r" \\" for cells in (header, *body)]
        blocks.append(
            "\n".join(
                [
                    f"% {escape(title[0])}",
                    r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
                    r"\hline",
                    *(lines[0], r"\hline", *lines[1:], r"\hline"),
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def as_csv(table: Table) -> str:
    """A line per method and column, all numbers in full; empty where there is none.

    Made for spreadsheets: see escaping.csv_cell.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for method, column, cell in _cells(table):
        difference = cell.difference or [None] * len(Difference._fields)
        cells = [method, *column, *cell[:3], table.reference, *difference]
        writer.writerow(map(escaping.csv_cell, cells))
    return text.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "csv": as_csv,
    "latex": latex,
}


def _cells(table: Table) -> Iterator[tuple[str, Column, Cell]]:
    for method in table.methods:
        for column in table.columns:
            if (method, column) in table.cells:
                yield method, column, table.cells[method, column]


def _grids(table: Table) -> list[list[list[str]]]:
    """Two tables as text: a title, a header, and lines."""
    unit_of = {column: column_unit(table, column) for column in table.columns}
    title_of = {
        column: ", ".join(column) + (" (%)" if unit == PERCENT else "")
        for column, unit in unit_of.items()
    }
    means = [["method", *title_of.values()]]
    for method in table.methods:
        cells = {column: table.cells.get((method, column)) for column in table.columns}
        texts = [
            _mean(cell, unit_of[column]) if cell else ""
            for column, cell in cells.items()
        ]
        means.append([method, *texts])
    title = "mean ± sample standard deviation (number of seeds and splits)"
    grids = [[[title], *means]]
    differences = [
        [method, title_of[column], *_difference(cell.difference, unit_of[column])]
        for method, column, cell in _cells(table)
        if cell.difference
    ]
    if differences:
        title = f"difference from {table.reference}, paired t-test"
        grids.append([[title], list(_DIFFERENCE_HEADER), *differences])
    return grids


def column_unit(table: Table, column: Column) -> Unit:
    """How a column is written: fractions in percent, others as they are."""
    means = [cell.mean for _, other, cell in _cells(table) if other == column]
    return PERCENT if metrics.are_fractions(column.metric, means) else _PLAIN


def _mean(cell: Cell, unit: Unit) -> str:
    deviation = "" if cell.std is None else f" ± {unit.format(cell.std)}"
    return f"{unit.format(cell.mean)}{deviation} ({cell.num_runs})"


def _difference(difference: Difference, unit: Unit) -> list[str]:
    mean, interval = _NONE, _NONE
    if difference.mean is not None:
        mean = unit.format(difference.mean, "+")
    if difference.low is not None and difference.high is not None:
        ends = (difference.low, difference.high)
        interval = " to ".join(unit.format(end, "+") for end in ends)
    p_values = [
        _NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
        for value in (difference.p_value, difference.p_holm)
    ]
    return [str(difference.num_pairs), mean, interval, *p_values]
