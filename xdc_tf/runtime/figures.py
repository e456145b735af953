"""Figures by Matplotlib, in the colours of the cluster pages (xdc_tf/browse/page).

Matplotlib takes a second to import: import this module where a figure is drawn.
"""

import warnings
from typing import Any

import cycler
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xdc_tf.runtime import files

PANEL, TEXT, MUTED, LINE = "#ffffff", "#1b1f27", "#59616f", "#d9dde4"
# The first of those that the pages give to clusters.
CYCLE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b6992d")

STYLE: Any = {
    "figure.dpi": 100,
    "figure.facecolor": PANEL,
    "axes.facecolor": PANEL,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler.cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "grid.color": LINE,
    "legend.frameon": False,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def new_figure(width: float, height: float, **options) -> Figure:
    """An empty figure without a display; draw it inside of rc_context(STYLE).

    Args:
      width: in inches of 100 pixels.
      height: in the same.
      **options: of matplotlib's Figure, such as layout.
    """
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str) -> None:
    """Writes a figure as PNG, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context(STYLE),  # ticks are made when they are drawn
        files.placing(path) as temporary,
    ):
        # Names in scripts that the font lacks are no reason for messages.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(temporary, format="png")
