"""Figures look like the cluster pages, and are written whole or not at all."""

import re
from pathlib import Path

import pytest

from xdc_tf.runtime import figures

PAGE = Path(figures.__file__).parents[1] / "browse" / "page"


def test_colours_are_those_of_the_cluster_pages():
    css = (PAGE / "page.css").read_text()
    light = dict(re.findall(r"--([\w-]+): (#\w{6});", css[: css.index("@media")]))
    names = ("panel", "text", "muted", "line")
    colours = (figures.PANEL, figures.TEXT, figures.MUTED, figures.LINE)
    assert tuple(light[name] for name in names) == colours
    of_clusters = re.findall(r'"(#\w{6})"', (PAGE / "charts.js").read_text())
    assert tuple(of_clusters[: len(figures.CYCLE)]) == figures.CYCLE


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    figure = figures.new_figure(2, 1)
    figure.suptitle("$\\broken{$")
    with pytest.raises(ValueError, match="broken"):
        figures.write(figure, str(tmp_path / "figure.png"))
    assert list(tmp_path.iterdir()) == []


def test_size_is_in_inches_of_100_pixels(tmp_path):
    path = tmp_path / "figure.png"
    figures.write(figures.new_figure(3, 2), str(path))
    assert path.read_bytes()[16:24] == bytes([0, 0, 1, 44, 0, 0, 0, 200])
