"""Reports and work directories of strangers, given to real commands."""

import csv
import io
import json
import os

import pytest
from forked_commands import run_command

pytestmark = pytest.mark.once

HOSTILE = "\x1b[2J\u202e[free](http://x.org) | <img src=x>"


def write_report(path, method, **changes):
    about = {"kind": "pretrained", "method": method, "seed": 0, "directory": "run"}
    report = {
        "format_version": 1,
        "protocol": "linear",
        "time": "2026-01-01T00:00:00Z",
        "source": {"video": about},
        "results": [
            {
                "stream": "video",
                "metric": "top1",
                "mean": {"top1": 0.5},
                "std": {"top1": None},
                "splits": [{"split": "1", "metrics": {"top1": 0.5}, "details": {}}],
            }
        ],
        "settings": {"seed": 0},
        "records": {},
        "notes": [],
        "config": {},
        "versions": {},
    }
    path.write_text(json.dumps(report | changes))
    return path


@pytest.fixture
def hostile_reports(tmp_path):
    """Two reports that differ in a setting whose text is hostile, too."""
    return [
        write_report(
            tmp_path / "a.json", HOSTILE, settings={"solver": "a\x1b]0;b\x07"}
        ),
        write_report(tmp_path / "b.json", "=1+1", settings={"solver": "b\nerror: c"}),
    ]


def test_compare_prints_no_escape_sequences_and_no_markup(hostile_reports):
    done = run_command("xdc_tf.cli.compare", *hostile_reports)

    assert done.returncode == 0
    for output in (done.stdout, done.stderr):
        assert output.replace("\n", "").isprintable()
    assert (
        r"| \\x1b\[2J\\u202e\[free\](http&#58;//x.org) &#124; &lt;img src=x&gt; |"
        in done.stdout
    )
    assert done.stderr == (
        "warning: not the same everywhere: linear: solver is a\\x1b]0;b\\x07 or "
        "b\\nerror: c\n"
    )


def test_compare_writes_no_formula_into_a_spreadsheet(hostile_reports, tmp_path):
    out = tmp_path / "folder" / "table.csv"
    done = run_command(
        "xdc_tf.cli.compare", *hostile_reports, "--format=csv", f"--out={out}"
    )

    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text(), newline="")))
    assert [row["method"] for row in rows] == [HOSTILE, "'=1+1"]
    assert [row["mean"] for row in rows] == ["0.5", "0.5"]


def test_compare_refuses_a_report_that_is_none_in_a_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    forged = write_report(tmp_path / "forged.json", "xdc", results=[{"stream": {}}])

    for path, message in (
        (tmp_path / "pipe.json", "is a pipe, socket or device; give a regular file."),
        (forged, "results[0] has an unusable value under stream, {}."),
    ):
        done = run_command("xdc_tf.cli.compare", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {path}")
        assert done.stderr.endswith(f"{message}\n") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        (
            "xdc_tf.cli.plan",
            ["--config=configs/synthetic.py", "--num_videos=1000", "--gpu=h100"],
        ),
        ("xdc_tf.cli.compare", ["REPORT"]),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error_before_the_work(
    module, flags, hostile_reports, tmp_path
):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out.json"
    flags = [hostile_reports[0] if flag == "REPORT" else flag for flag in flags]
    name = "json" if module.endswith("plan") else "out"

    done = run_command(module, *flags, f"--{name}={path}")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {path} cannot be written: Not a directory.\n"


@pytest.fixture
def evaluation(tiny_run, tiny_records):
    """Flags of a short evaluation."""
    return [
        f"--workdir={tiny_run}",
        f"--records={tiny_records / 'train'}",
        f"--test_records={tiny_records / 'test'}",
        "--protocol=retrieval",
        "--streams=audio",
        "--num_clips=1",
    ]


def test_evaluate_tries_its_place_before_the_work(evaluation, tmp_path):
    done = run_command("xdc_tf.cli.evaluate", *evaluation, f"--json={tmp_path}")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path} is a directory; give the name of a file.\n"
    )


def test_evaluate_does_not_write_through_a_link_of_a_work_directory(
    evaluation, tiny_run, tmp_path
):
    (tmp_path / "profile").write_text("alias ls=ls\n")
    (tmp_path / "run").mkdir()
    for path in tiny_run.iterdir():
        if path.name != "results.csv":
            (tmp_path / "run" / path.name).symlink_to(path)
    (tmp_path / "run" / "results.csv").symlink_to(tmp_path / "profile")
    flags = [f"--workdir={tmp_path / 'run'}", *evaluation[1:]]

    done = run_command("xdc_tf.cli.evaluate", *flags)

    assert done.returncode == 1
    assert "is a symbolic link, and what is written there must stay" in done.stderr
    assert (tmp_path / "profile").read_text() == "alias ls=ls\n"


def test_evaluate_prints_its_result_though_it_cannot_be_written_any_more(
    evaluation, tmp_path
):
    # Where the file lies until it is complete; a link there is never followed.
    (tmp_path / ".report.partial.json").symlink_to(tmp_path / "elsewhere")

    done = run_command(
        "xdc_tf.cli.evaluate", *evaluation, f"--json={tmp_path / 'report.json'}"
    )

    assert done.returncode == 1
    assert done.stdout.startswith("retrieval, fractions in percent\naudio")
    assert "Report: " not in done.stdout
    assert "report.json" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()
