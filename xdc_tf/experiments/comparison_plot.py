"""A comparison as a picture: a panel for each column, a point for each value."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from xdc_tf.experiments.comparison import Row, Table
from xdc_tf.experiments.comparison_tables import PERCENT, column_unit
from xdc_tf.runtime import escaping, figures

_PANEL_WIDTH, _PANEL_HEIGHT = 4.2, 4.2  # in inches
_MOST_COLUMNS = 4


def write(rows: Sequence[Row], table: Table, path: str, *, title: str = "") -> None:
    """Draws every seed and split as a point, and the means as lines, into a PNG file.

    Args:
      rows: the values.
      table: of the rows: its methods from left to right, its columns as panels.
      path: of the file to make.
      title: above all panels.

    Raises:
      OSError: the file cannot be written.
    """
    columns = min(len(table.columns), _MOST_COLUMNS)
    lines = -(-len(table.columns) // columns)
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(
            _PANEL_WIDTH * columns, _PANEL_HEIGHT * lines, layout="constrained"
        )
        if title:
            figure.suptitle(escaping.plot(title))
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes in panels[len(table.columns) :]:
            axes.set_visible(False)
        for axes, column in zip(panels, table.columns, strict=False):
            scale = column_unit(table, column)
            for place, method in enumerate(table.methods):
                values = [
                    scale.factor * row.value
                    for row in rows
                    if (row.method, row.protocol, row.stream, row.metric)
                    == (method, *column)
                ]
                if not values:
                    continue
                axes.plot(
                    [place] * len(values),
                    values,
                    "o",
                    color=figures.CYCLE[0],
                    alpha=0.5,
                )
                axes.plot(place, np.mean(values), "_", color=figures.TEXT, ms=22)
            axes.set_title(escaping.plot(f"{column.protocol}, {column.stream}"))
            axes.set_ylabel(
                escaping.plot(column.metric + (", %" if scale == PERCENT else ""))
            )
            names = list(map(escaping.plot, table.methods))
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.grid()
        figures.write(figure, path)
