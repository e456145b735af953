"""The tables of docs/results, and those that others quote, follow from the reports."""

import glob
import os
import shlex
import shutil

import numpy as np
import pytest
from forked_commands import ROOT, run_command

from xdc_tf.experiments import comparison

pytestmark = pytest.mark.once

RESULTS = os.path.join(ROOT, "docs", "results")
PAGES = sorted(
    os.path.relpath(path, RESULTS)
    for path in glob.glob(os.path.join(RESULTS, "**", "*.md"), recursive=True)
)


def _text(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def _arguments(page):
    """Of the command by which a page's tables are printed."""
    start = "    python -m xdc_tf.cli.compare "
    (line,) = (line for line in page.splitlines() if line.startswith(start))
    collection, *flags = shlex.split(line.removeprefix(start))
    return [os.path.join(ROOT, collection), *flags]


def _percent(name):
    """Means of top-1 accuracies in percent by row, protocol and stream."""
    rows = comparison.collect(
        comparison.read(os.path.join(RESULTS, f"{name}.json")), ["top1"]
    )
    table = comparison.summarize(rows)
    return {
        (row, column.protocol, column.stream): 100 * cell.mean
        for (row, column), cell in table.cells.items()
    }


def _cells(line):
    return [cell.strip(" *") for cell in line.strip().strip("|").split("|")]


def test_all_collected_reports_have_a_page():
    collections = glob.glob(os.path.join(RESULTS, "**", "*.json"), recursive=True)
    names = [os.path.relpath(path, RESULTS)[: -len(".json")] for path in collections]
    assert sorted(f"{name}.md" for name in names) == PAGES
    assert len(PAGES) == 23
    assert sum(map(os.path.getsize, collections)) < 4_000_000


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_of_a_page_are_what_its_command_prints(name):
    page = _text("docs", "results", name)
    done = run_command("xdc_tf.cli.compare", *_arguments(page))
    assert done.returncode == 0
    assert done.stdout.startswith("mean ± ") and "paired t-test" in done.stdout
    body = page.split("\n\n", 1)[1]
    assert body.split("\n\n\n![")[0] + "\n" == done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_the_csv_file_beside_a_page_is_what_its_command_writes(name):
    arguments = _arguments(_text("docs", "results", name))
    done = run_command("xdc_tf.cli.compare", *arguments, "--format=csv")
    assert done.stdout == _text("docs", "results", name[: -len(".md")] + ".csv")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_no_row_or_seed_that_its_reports_lack(name):
    path = os.path.join(RESULTS, name[: -len(".md")] + ".json")
    reports = [report.values for report in comparison.read(path)]
    seeds = sorted(
        {about["seed"] for report in reports for about in report["source"].values()}
    )
    page = _text("docs", "results", name)
    assert f"over {len(seeds)} seeds ({', '.join(map(str, seeds))})" in page
    assert {report["versions"]["tensorflow"] for report in reports} == {"2.15.1"}


def test_what_is_collected_is_not_run_again_and_comes_out_the_same(tmp_path):
    shutil.copy(os.path.join(RESULTS, "shared.json"), tmp_path)
    flags = ["--table=shared", "--seeds=1", "--scale=small", "--methods=xdc"]
    done = run_command("xdc_tf.cli.reproduce", *flags, f"--out={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == [
        f"shared.{suffix}" for suffix in ("csv", "json", "md", "png")
    ]
    for suffix in ("csv", "json", "md"):
        text = (tmp_path / f"shared.{suffix}").read_text()
        published = _text("docs", "results", f"shared.{suffix}")
        assert text.replace(str(tmp_path), "docs/results") == published


ONE_THING_AT_A_TIME = {
    "microphones 0 dB": ("nuisance", "microphone_db=0.0"),
    "microphones 6 dB": ("nuisance", "microphone_db=6.0"),
    "microphones 12 dB": ("nuisance", "microphone_db=12.0"),
    "1 round of 9 epochs": ("rounds", "rounds=1"),
    "3 rounds of 3": ("rounds", "rounds=3"),
    "9 rounds of 1": ("rounds", "rounds=9"),
    "3 rounds of 1 epoch": ("updates", "epochs_per_round=1"),
    "3 rounds of 2": ("updates", "epochs_per_round=2"),
    "3 rounds of 4": ("updates", "epochs_per_round=4"),
    "3 rounds of 8": ("updates", "epochs_per_round=8"),
    "features normalised": ("normalize", "normalize=True"),
    "features not normalised": ("normalize", "normalize=False"),
    "k = 5": ("clusters", "num_clusters=5"),
    "k = 10": ("clusters", "num_clusters=10"),
    "k = 20": ("clusters", "num_clusters=20"),
    "k = 40": ("clusters", "num_clusters=40"),
    "k = 80": ("clusters", "num_clusters=80"),
}


@pytest.mark.parametrize("label", ONE_THING_AT_A_TIME)
def test_a_line_of_one_thing_at_a_time_follows_from_the_reports(label):
    name, setting = ONE_THING_AT_A_TIME[label]
    means = _percent(name)
    lines = map(_cells, _text("docs", "evaluation.md").splitlines())
    (cells,) = (cells for cells in lines if cells[0] == label)
    for method, cell in zip(("mdc", "cdc", "xdc"), cells[1:], strict=True):
        for stream, number in zip(("video", "audio"), cell.split(" / "), strict=True):
            expected = means[f"{method}, {setting}", "linear", stream]
            assert float(number) == pytest.approx(expected, abs=0.0501)


def test_the_numbers_of_the_full_scale_follow_from_the_reports():
    means = _percent(os.path.join("full", "methods"))
    lines = map(_cells, _text("docs", "evaluation.md").splitlines())
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) == 5}
    for label, protocol in (
        ("linear", "linear"),
        ("finetuned, 5 labels per class", "finetune"),
    ):
        for method, cell in zip(("sdc", "mdc", "cdc", "xdc"), rows[label], strict=True):
            assert cell == " / ".join(
                f"{means[method, protocol, stream]:.1f}"
                for stream in ("video", "audio")
            )


def test_the_table_of_methods_and_what_the_readme_quotes_follow_from_the_reports():
    means = _percent("methods")
    methods = ("scratch", "same modality", "sdc", "mdc", "cdc", "xdc", "supervised")
    lines = list(map(_cells, _text("docs", "evaluation.md").splitlines()))
    for stream in ("video", "audio"):
        numbers = [f"{means[method, 'linear', stream]:.1f}" for method in methods]
        assert [stream, *numbers] in lines
    (video, audio) = (
        f"{stream} {means['xdc', 'linear', stream]:.1f} and "
        f"{means['scratch', 'linear', stream]:.1f}"
        for stream in ("video", "audio")
    )
    assert f"{video}, {audio}" in " ".join(_text("README.md").split())


@pytest.mark.parametrize("kind", ["digits", "shapes"])
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_the_methods_with_the_defaults_follow_from_the_reports(kind, stream):
    # Of the page, whose tables are those of its reports.
    page = map(
        _cells, _text("docs", "results", "medium", kind, "methods.md").split("\n")
    )
    column = 1 + ("video", "audio").index(stream)
    means = {cells[0]: cells[column] for cells in page if cells[-1].endswith(" (5)")}
    methods = ("scratch", "same modality", "sdc", "mdc", "cdc", "xdc", "supervised")
    cells = [means[method].removesuffix(" (5)") for method in methods]
    lines = list(map(_cells, _text("docs", "evaluation.md").splitlines()))
    assert [f"{kind}, {stream}", *cells] in lines


def _values(name):
    """Top-1 accuracies in percent by row and stream: one of each seed."""
    values = {}
    reports = comparison.read(os.path.join(RESULTS, f"{name}.json"))
    for row in comparison.collect(reports, ["top1"]):
        values.setdefault((row.method, row.stream), []).append(100 * row.value)
    return values


@pytest.mark.parametrize("kind", ["shapes", "clutter", "digits", "long_tail"])
def test_what_runs_start_from_and_come_to_follows_from_the_reports(kind):
    start = _values(os.path.join("medium", kind, "start"))
    settings = _values(os.path.join("medium", kind, "settings"))
    streams = ("video", "audio")
    random, configured, one_round, by_encoders = (
        [values[row, stream] for stream in streams]
        for values, row in (
            (start, "scratch"),
            (settings, "xdc, as configured"),
            (settings, "xdc, first clusters for one round"),
            (start, "xdc, first clusters of random encoders"),
        )
    )

    def means(pair):
        return " / ".join(f"{np.mean(values):.1f}" for values in pair)

    def lowest(pair):
        return " / ".join(f"{min(values):.1f}" for values in pair)

    def counted(pair):
        return f"{means(pair)} ({len(pair[0])})"

    cells = [counted(random), counted(by_encoders), lowest(by_encoders)]
    cells += [counted(one_round), lowest(one_round)]
    cells += [counted(configured), lowest(configured)]
    lines = list(map(_cells, _text("docs", "evaluation.md").splitlines()))
    assert [kind, *cells] in lines
    (line,) = (
        cells
        for cells in map(_cells, _text("README.md").splitlines())
        if cells[0] == kind.replace("_", " ")
    )
    assert line[1] == means(random)
    assert line[2:4] == [
        f"{np.mean(values):.1f} ({min(values):.1f})" for values in configured
    ]
    methods = _percent(os.path.join("medium", kind, "methods"))
    assert line[4] == " / ".join(
        f"{methods['supervised', 'linear', stream]:.1f}" for stream in streams
    )


@pytest.mark.parametrize(
    "name, rows",
    [
        ("data", [f"num_unlabelled={number}" for number in (40, 80, 160, 320)]),
        ("shared", [f"shared={share}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)]),
    ],
)
def test_the_numbers_of_a_sentence_follow_from_the_reports(name, rows):
    means = _percent(name)
    told = ", ".join(
        " / ".join(
            f"{means[f'xdc, {row}', 'linear', stream]:.1f}"
            for stream in ("video", "audio")
        )
        for row in rows
    )
    assert told in " ".join(_text("docs", "evaluation.md").split())
