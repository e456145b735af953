"""A small part of benchmarks.fuzz_runs: what holds for 2,000 mutations holds here."""

import json
import time

import numpy as np
import pytest

from benchmarks import fuzz_runs

pytestmark = pytest.mark.once


@pytest.mark.parametrize("target", fuzz_runs.TARGETS)
def test_what_is_damaged_is_refused_or_read_as_it_is(target, tmp_path):
    assert fuzz_runs.TARGETS[target](str(tmp_path), num=120, seed=7) == []


def unnamed():
    raise ValueError("something is wrong")


def several_lines():
    raise ValueError("a.json:\nwrong")


def bug():
    return {}["centroids"]


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (unnamed, "an error of other form"),
        (several_lines, "an error of other form"),
        (bug, "KeyError"),
        (lambda: "another", "was read as another"),
        (lambda: np.ones(80 << 20).sum() and "same", "took "),
        (lambda: time.sleep(10), "took more than 0.1 s"),
        (lambda: "same", ""),
    ],
)
def test_faults_are_noticed(read, fault, monkeypatch):
    monkeypatch.setattr(fuzz_runs, "_TIMEOUT_SECS", 0.1 if "more" in fault else 10.0)

    found = fuzz_runs._attempt(
        read, lambda value: "" if value == "same" else "was read as another", "a.json"
    )

    assert found.startswith(fault) and bool(found) == bool(fault)


def test_mutations_of_json_change_copies_alone():
    values = {"a": [1, {"b": 2.5}], "c": "text"}
    rng = np.random.default_rng(0)
    mutated = [fuzz_runs.mutate_json(values, rng) for _ in range(50)]
    assert values == {"a": [1, {"b": 2.5}], "c": "text"}
    assert len({json.dumps(value) for value in mutated}) > 20
