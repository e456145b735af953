"""A small part of benchmarks.fuzz_records: what holds for 8,000 changes holds here."""

import os
import signal

import pytest

from benchmarks import fuzz_records
from benchmarks.fuzz_records import Answer

pytestmark = pytest.mark.once

CLIPS = {0: "a", 1: "b", 3: "c"}


@pytest.mark.slow
def test_forged_directories_are_refused_or_read_as_they_were(tmp_path):
    lines = []
    faults = fuzz_records.fuzz(
        str(tmp_path), targets=fuzz_records.TARGETS, num=10, seed=7, report=lines.append
    )
    assert faults == []
    assert [line.split(":")[0] for line in lines] == list(fuzz_records.TARGETS)
    assert all("10 mutations" in line and " 0 refused" not in line for line in lines)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (Answer(CLIPS), ""),
        (Answer(CLIPS | {1: "x"}), "other clips of [1] were read"),
        (Answer(CLIPS | {3: "x"}), ""),
        (Answer({0: "a", 1: "b"}), "but for the examples [3]"),
        (Answer(CLIPS | {2: "d"}), "but for the examples [2]"),
        (Answer({}, "records/x has 3 bytes."), ""),
        (Answer({}, "two\nlines"), "an error of other form"),
        (Answer({}, "", "KeyError: 'x'"), "KeyError"),
    ],
)
def test_what_is_read_in_silence_is_a_fault_unless_it_was_changed(answer, what):
    found = fuzz_records.fault(answer, CLIPS, changed={3})
    assert what in found if what else found == ""


@pytest.mark.slow
def test_a_reader_that_waits_or_ends_is_a_fault_and_is_started_anew(
    tmp_path, monkeypatch
):
    reader = fuzz_records.Reader(str(tmp_path))
    assert "holds no finished conversion" in reader.read(str(tmp_path)).error
    os.kill(reader.pid, signal.SIGSTOP)
    monkeypatch.setattr(fuzz_records, "_TIMEOUT_SECS", 0.1)
    assert "took more than 0.1 s" in reader.read(str(tmp_path)).traceback
    monkeypatch.undo()
    assert "holds no finished conversion" in reader.read(str(tmp_path)).error
    os.kill(reader.pid, signal.SIGKILL)
    assert "ended the process with -9" in reader.read(str(tmp_path)).traceback
    reader.close()
