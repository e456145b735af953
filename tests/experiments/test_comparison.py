"""Comparisons: means, paired tests, corrections, formats, the command."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from forked_commands import ROOT, run_command
from scipy import stats

from xdc_tf.evaluation import reports
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.experiments import comparison, comparison_plot, comparison_tables
from xdc_tf.experiments.comparison import Column, Report, Row

pytestmark = pytest.mark.once

LINEAR = Column("linear", "video", "top1")
SEEDS_AND_SPLITS = [(seed, split) for seed in "01" for split in ("1", "2", "3")]
XDC = dict(zip(SEEDS_AND_SPLITS, [0.61, 0.64, 0.60, 0.66, 0.62, 0.63], strict=True))
SDC = dict(zip(SEEDS_AND_SPLITS, [0.52, 0.60, 0.55, 0.59, 0.50, 0.61], strict=True))
MDC = dict(zip(SEEDS_AND_SPLITS, [0.60, 0.65, 0.58, 0.65, 0.63, 0.62], strict=True))


def _rows(values, method, column=LINEAR):
    return [
        Row(method, seed, split, *column, value, f"{method}{seed}.json")
        for (seed, split), value in values.items()
    ]


def _report(method="xdc", *, seed=0, accuracies=(0.5, 0.75), streams=("video",), **own):
    about = {"kind": "pretrained", "method": method, "seed": seed, "directory": ""}
    return reports.make_report(
        "linear",
        [
            [SplitResult(stream, {"top1": one, "top5": 1.0}, {}) for stream in streams]
            for one in accuracies
        ],
        split_names=[str(1 + number) for number in range(len(accuracies))],
        source={"video": about, "audio": about},
        **{
            "settings": {"seed": seed, "c": {"values": [1, 10]}},
            "config": {},
            "records": {"train": {"directory": method, "manifest_sha256": "00"}},
        }
        | own,
    )


@pytest.fixture
def table():
    rows = [*_rows(XDC, "xdc"), *_rows(SDC, "sdc"), *_rows(MDC, "mdc")]
    return comparison.summarize(rows, reference="xdc")


def test_every_split_and_metric_of_a_report_is_a_row():
    rows = comparison.collect([Report("a.json", _report(seed=4))])
    assert rows == [
        Row("xdc", "4", "1", "linear", "video", "top1", 0.5, "a.json"),
        Row("xdc", "4", "1", "linear", "video", "top5", 1.0, "a.json"),
        Row("xdc", "4", "2", "linear", "video", "top1", 0.75, "a.json"),
        Row("xdc", "4", "2", "linear", "video", "top5", 1.0, "a.json"),
    ]


def test_the_row_of_the_settings_is_in_place_of_the_method():
    named = _report(settings={"row": "more videos"})
    ours = [Report("a", _report()), Report("b", named)]
    table = comparison.summarize(comparison.collect(ours))
    assert table.methods == ("xdc", "more videos")


def test_an_evaluation_with_a_seed_of_its_own_is_another_value():
    ours = [Report(str(k), _report(settings={"seed": k})) for k in range(3)]
    rows = comparison.collect(ours)
    assert [row.seed for row in rows[::4]] == ["0", "0 and 1", "0 and 2"]
    assert comparison.summarize(rows).cells["xdc", LINEAR].num_runs == 6


def test_what_takes_two_encoders_has_the_method_of_their_run():
    report = _report("cdc", streams=["video_to_audio"])
    assert comparison.collect([Report("a", report)])[0].method == "cdc"


def test_a_value_that_two_reports_have_is_an_error_that_names_both():
    ours = [Report("a.json", _report()), Report("b.json", _report())]
    with pytest.raises(ValueError, match="a.json and b.json both have top1 of xdc, se"):
        comparison.summarize(comparison.collect(ours))
    ours[1] = Report("b.json", _report(seed=1))
    assert len(comparison.collect(ours)) == 8


def test_means_and_deviations_are_numpys(table):
    for method, values in (("xdc", XDC), ("sdc", SDC)):
        cell = table.cells[method, LINEAR]
        values = list(values.values())
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.std == pytest.approx(np.std(values, ddof=1))
        assert cell.num_runs == 6


def test_the_test_is_scipys(table):
    expected = stats.ttest_rel(list(SDC.values()), list(XDC.values()))
    found = table.cells["sdc", LINEAR].difference
    assert found.num_pairs == 6
    assert found.p_value == pytest.approx(expected.pvalue)
    assert table.cells["xdc", LINEAR].difference is None


def test_the_interval_is_that_of_the_mean_of_the_differences(table):
    found = table.cells["sdc", LINEAR].difference
    differences = np.array(list(SDC.values())) - np.array(list(XDC.values()))
    # Of t with 5 degrees of freedom, by its table.
    half = 2.570582 * differences.std(ddof=1) / 6**0.5
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - half)
    assert found.high == pytest.approx(differences.mean() + half)


def test_values_are_paired_by_seed_and_split_in_any_order():
    backwards = dict(reversed(SDC.items())) | {("7", "1"): 0.9}
    rows = [*_rows(XDC, "xdc"), *_rows(backwards, "sdc")]
    found = comparison.summarize(rows).cells["sdc", LINEAR]
    assert (found.num_runs, found.difference.num_pairs) == (7, 6)
    expected = stats.ttest_rel(list(SDC.values()), list(XDC.values()))
    assert found.difference.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    "p_values, expected",
    [
        # 4 x 0.01; 3 x 0.02; 2 x 0.03, no less than before; 1 x 0.04, the same.
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.5, 0.9, 0.001], [1.0, 1.0, 0.003]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(p_values, expected):
    assert comparison.holm(p_values) == pytest.approx(expected)


def test_the_methods_of_a_column_are_corrected_together(table):
    p_values = [table.cells[m, LINEAR].difference.p_value for m in ("sdc", "mdc")]
    corrected = [table.cells[m, LINEAR].difference.p_holm for m in ("sdc", "mdc")]
    assert p_values[0] < p_values[1]
    assert corrected == pytest.approx([2 * p_values[0], p_values[1]])


def test_a_method_that_cannot_be_tested_does_not_count_in_the_correction():
    alone = {("0", "1"): 0.3}
    rows = [*_rows(XDC, "xdc"), *_rows(SDC, "sdc"), *_rows(alone, "mdc")]
    table = comparison.summarize(rows)
    found = table.cells["sdc", LINEAR].difference
    assert found.p_holm == found.p_value
    alone = table.cells["mdc", LINEAR]
    assert (alone.std, alone.num_runs) == (None, 1)
    assert alone.difference.num_pairs == 1
    assert alone.difference.mean == pytest.approx(0.3 - 0.61)
    assert alone.difference[2:] == (None, None, None, None)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_differences_that_are_all_the_same_are_not_tested(offset):
    moved = {key: value + offset for key, value in XDC.items()}
    rows = [*_rows(XDC, "xdc"), *_rows(moved, "sdc")]
    found = comparison.summarize(rows).cells["sdc", LINEAR].difference
    assert found.mean == pytest.approx(offset)
    assert found[2:] == (None, None, None, None)


def test_without_a_common_pair_there_is_no_difference():
    rows = [*_rows(XDC, "xdc"), *_rows({(8, "1"): 0.5}, "sdc")]
    table = comparison.summarize(rows)
    assert table.cells["sdc", LINEAR].difference == (0, None, None, None, None, None)
    assert "| 0 | n/a | n/a | n/a | n/a |" in comparison_tables.markdown(table)


def test_a_column_that_the_reference_lacks_has_means_alone():
    other = Column("svm", "audio", "top1")
    rows = [*_rows(XDC, "xdc"), *_rows(SDC, "sdc"), *_rows(SDC, "sdc", other)]
    table = comparison.summarize(rows)
    assert table.cells["sdc", other].difference is None
    assert ("xdc", other) not in table.cells
    assert table.columns == (LINEAR, other)


def test_the_reference_is_the_first_method_or_the_one_asked_for(table):
    rows = [*_rows(SDC, "sdc"), *_rows(XDC, "xdc")]
    assert comparison.summarize(rows).reference == "sdc"
    assert comparison.summarize(rows, reference="xdc").reference == "xdc"
    with pytest.raises(ValueError, match="reference=cdc is not among .* sdc, xdc"):
        comparison.summarize(rows, reference="cdc")
    with pytest.raises(ValueError, match="no results"):
        comparison.summarize([])


def test_rows_can_be_given_an_order():
    rows = [*_rows(SDC, "sdc"), *_rows(XDC, "xdc"), *_rows(MDC, "mdc")]
    table = comparison.summarize(rows, order=["xdc", "absent", "mdc"])
    assert table.methods == ("xdc", "mdc", "sdc")


def test_markdown_has_means_and_differences_in_percent(table):
    assert comparison_tables.markdown(table).splitlines() == [
        "mean ± sample standard deviation (number of seeds and splits)",
        "",
        "| method | linear, video, top1 (%) |",
        "|---|---:|",
        "| xdc | 62.7 ± 2.2 (6) |",
        "| sdc | 56.2 ± 4.5 (6) |",
        "| mdc | 62.2 ± 2.8 (6) |",
        "",
        "difference from xdc, paired t-test",
        "",
        "| method | column | pairs | difference | 95% interval | p | p (Holm) |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| sdc | linear, video, top1 (%) | 6 | -6.5 | -10.3 to -2.7 | 0.007 | 0.014 |",
        "| mdc | linear, video, top1 (%) | 6 | -0.5 | -1.8 to +0.8 | 0.363 | 0.363 |",
    ]


def test_what_is_no_share_is_as_it_is():
    column = Column("clusters", "video", "ari")
    rows = _rows({("0", "1"): -0.5, ("1", "1"): -0.5}, "xdc", column)
    assert "| xdc | -0.500 ± 0.000 (2) |" in comparison_tables.markdown(
        comparison.summarize(rows)
    )


@pytest.fixture
def odd_table():
    column = Column("linear", "video", "top_1")
    rows = _rows(XDC, "a|b <i>&\n*c* \\ 5% {x}_y$#~^", column)
    return comparison.summarize([*rows, *_rows(SDC, "sdc", column)])


def test_markdown_takes_nothing_for_markup(odd_table):
    line = comparison_tables.markdown(odd_table).splitlines()[4]
    name = r"a&#124;b &lt;i&gt;&amp; \*c\* \\ 5% {x}\_y\$#\~^"
    assert line == f"| {name} | 62.7 ± 2.2 (6) |"


def test_latex_takes_nothing_for_commands(odd_table):
    text = comparison_tables.latex(odd_table)
    assert (
        r"a\textbar{}b \textless{}i\textgreater{}\& *c* \textbackslash{} 5\% "
        r"\{x\}\_y\$\#\textasciitilde{}\textasciicircum{} & 62.7 $\pm$ 2.2 (6) \\"
    ) in text.splitlines()
    assert r"method & linear, video, top\_1 (\%) \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    # No line of the text is left without its comment or its end.
    assert all(
        line.startswith(("%", "\\")) or line.endswith(r" \\")
        for line in text.splitlines()
        if line
    )


def test_csv_has_all_numbers_in_full(odd_table):
    lines = list(
        csv.DictReader(io.StringIO(comparison_tables.as_csv(odd_table), newline=""))
    )
    assert lines[0]["method"] == odd_table.reference
    cell = odd_table.cells["sdc", odd_table.columns[0]]
    line = lines[1]
    assert (line["method"], line["metric"]) == ("sdc", "top_1")
    assert line["reference"] == odd_table.reference
    assert (float(line["mean"]), float(line["std"])) == (cell.mean, cell.std)
    assert (line["num_runs"], line["difference_num_pairs"]) == ("6", "6")
    for name in ("mean", "low", "high", "p_value", "p_holm"):
        value = getattr(cell.difference, name)
        assert float(line[f"difference_{name}"]) == value
    assert lines[0]["difference_mean"] == ""


def test_reports_that_were_made_differently_are_told():
    ours = [
        Report("a", _report(seed=0)),
        Report("b", _report("sdc", seed=1, settings={"seed": 1, "c": {"values": [1]}})),
        Report("c", _report("sdc", records={"train": {"manifest_sha256": "ff"}})),
    ]
    assert comparison.find_differences(ours) == [
        "linear: c.values is [1, 10] or [1]",
        "linear: train.manifest_sha256 is 00 or ff",
    ]
    assert comparison.find_differences(ours[:1]) == []


def test_names_of_rows_are_no_difference():
    ours = [Report(row, _report(settings={"row": row})) for row in ("a", "b")]
    assert comparison.find_differences(ours) == []


@pytest.fixture
def paths(tmp_path):
    """Files of four reports: two methods, two seeds."""
    paths = []
    for method, accuracies in (("xdc", (0.5, 0.75)), ("sdc", (0.25, 0.625))):
        for seed in (0, 1):
            report = _report(method, seed=seed, accuracies=accuracies)
            path = tmp_path / f"{method} {seed}.json"
            path.write_text(json.dumps(report))
            paths.append(str(path))
    return paths


def _command(*arguments):
    return run_command("xdc_tf.cli.compare", *arguments)


def test_the_command_prints_the_table_or_writes_it(paths, tmp_path):
    printed = _command(*paths)
    assert (printed.returncode, printed.stderr) == (0, "")
    ours = comparison.collect(
        [report for path in paths for report in comparison.read(path)]
    )
    assert printed.stdout == comparison_tables.markdown(comparison.summarize(ours))
    named = _command(paths[0], f"a name={paths[1]}", "--format=csv", "--metrics=top1")
    assert (named.returncode, named.stderr) == (0, "")
    lines = list(csv.DictReader(io.StringIO(named.stdout)))
    assert [line["method"] for line in lines] == ["xdc", "a name"]
    assert {line["metric"] for line in lines} == {"top1"}
    out = tmp_path / "new folder" / "table.csv"
    written = _command("--format=csv", "--reference=sdc", *paths, f"--out={out}")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert out.read_text() == comparison_tables.as_csv(
        comparison.summarize(ours, reference="sdc")
    )


def test_the_picture_has_a_point_for_each_value_and_a_line_for_each_mean(
    paths, tmp_path, monkeypatch
):
    rows = comparison.collect(
        [report for path in paths for report in comparison.read(path)], ["top1"]
    )
    table = comparison.summarize(rows)
    drawn = []
    monkeypatch.setattr(
        comparison_plot.figures, "write", lambda figure, path: drawn.append(figure)
    )
    comparison_plot.write(rows, table, "unused")
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(table.columns)
    for axes, column in zip(panels, table.columns, strict=True):
        points, means = axes.lines[::2], axes.lines[1::2]
        values = [
            [100 * row.value for row in rows if _key(row) == (method, *column)]
            for method in table.methods
        ]
        assert [list(line.get_ydata()) for line in points] == values
        np.testing.assert_allclose(
            [line.get_ydata()[0] for line in means], [np.mean(row) for row in values]
        )
        labels = [text.get_text() for text in axes.get_xticklabels()]
        assert labels == list(table.methods)


def _key(row):
    return row.method, row.protocol, row.stream, row.metric


def test_the_command_draws_a_picture(paths, tmp_path):
    plot = tmp_path / "plot.png"
    done = _command(*paths, f"--plot={plot}")
    assert (done.returncode, done.stderr) == (0, "")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_mistakes_of_the_command_are_one_line(paths, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    for arguments, told in (
        ([], "no results to compare"),
        ([paths[0], str(tmp_path / "other.json")], "other.json has format_version"),
        ([paths[0], paths[0]], "both have top1 of xdc"),
    ):
        done = _command(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and told in line


def test_comparing_imports_no_tensorflow():
    code = "import sys, xdc_tf.experiments.comparison; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert "xdc_tf.evaluation.reports" in modules.split()
    assert "tensorflow" not in modules.split()
