"""What is killed and started again: kill.py and kill_commands.py, in short."""

import os
import subprocess
import sys

import pytest

from benchmarks import kill_commands
from benchmarks.fingerprints import file_fingerprints
from benchmarks.writing_commands import Command

pytestmark = pytest.mark.once
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.slow
def test_a_run_killed_while_saving_ends_with_the_same_bits(
    tiny_records,
):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.kill", "--times=1"),
            *("--phases=saving", "--method=same_audio"),
            f"--records={tiny_records / 'train'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 the same, bit for bit" in done.stdout


@pytest.mark.slow
def test_commands_that_are_stopped_end_with_the_same_files():
    command = [sys.executable, "-m", "benchmarks.kill_commands", "--times=2"]
    done = subprocess.run(
        [*command, "--commands=make_manifest,convert"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line.split()[:6] for line in done.stdout.splitlines() if line[:1] == " "]
    assert table == [
        [name, how, times, "of", times, "as"]
        for name in ("make_manifest", "convert")
        for how, times in (
            ("kill", "2"),
            ("term", "2"),
            ("full_disk", "2"),
            ("pair", "1"),
        )
    ]


@pytest.mark.parametrize(
    "found, wrong",
    [
        ({"out/a": "1", "out/b": "2", "c": "3"}, []),
        ({}, []),
        ({".out.partial/a": "half", "progress/plan": "?", "c": "3"}, []),
        ({"d": "before"}, []),
        ({"c": "half"}, ["c is not whole"]),
        ({"other": "1"}, ["other is not whole"]),
        ({"out/a": "1"}, ["out lacks ['out/b']"]),
    ],
)
def test_what_has_its_final_name_must_be_whole(found, wrong):
    command = Command("", whole=("out",), unfinished=("progress",))
    expected = {"out/a": "1", "out/b": "2", "c": "3"}
    assert wrong == kill_commands.partial_results(
        command, found, before={"d": "before"}, expected=expected
    )


def test_fingerprints_leave_out_times_and_nothing_else(tmp_path):
    texts = {
        "a.json": ('{"time": 1, "x": [{"secs": 2, "y": 3}]}', '{"x": [{"y": 3}]}'),
        "b.csv": ("time,x\n1,2\n3,2\n", "time,x\n5,2\n"),
        "c.json": ('{"x": 1}', '{"x": 2}'),
        "d.csv": ("time,x\n1,2\n", "time,x\n1,3\n"),
        "e.json": ('{"x": ', '{"x": 1}'),
    }
    prints = []
    for which in (0, 1):
        for name, pair in texts.items():
            (tmp_path / name).write_text(pair[which])
        prints.append(file_fingerprints(str(tmp_path)))
    same = {name for name in texts if prints[0][name] == prints[1][name]}
    assert same == {"a.json", "b.csv"}
