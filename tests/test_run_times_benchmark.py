"""Where a run's minutes go: each part's functions are there, and counted once."""

import ast
import cProfile
import os
import pstats

import pytest
from forked_commands import ROOT

from benchmarks import run_times

pytestmark = pytest.mark.once

FUNCTIONS = [each for functions in run_times.PARTS.values() for each in functions]


@pytest.mark.parametrize("path, name", FUNCTIONS)
def test_the_functions_that_are_timed_are_there(path, name):
    with open(os.path.join(ROOT, "xdc_tf", path), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    functions = [
        node.name
        for node in ast.walk(tree)
        if hasattr(node, "args") and hasattr(node, "name")
    ]
    assert functions.count(name) == 1


def test_parts_and_the_rest_add_up_to_all():
    code = (
        "def prepare():\n    return helper()\n"
        "def helper():\n    return sum(range(300_000))\n"
        "def other():\n    return sum(range(200_000))\n"
    )
    names: dict = {}
    exec(compile(code, "/somewhere/training/run.py", "exec"), names)
    profile = cProfile.Profile()
    profile.runcall(lambda: (names["prepare"](), names["other"]()))
    times = run_times.seconds(pstats.Stats(profile))
    everything = times.pop("all")
    assert 0 < times["preparing the run"] < everything
    assert times["else"] > 0
    assert sum(times.values()) == pytest.approx(everything)
