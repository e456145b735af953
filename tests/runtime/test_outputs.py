"""Tests of places that are tried before a command's work."""

import os

import pytest

from xdc_tf.runtime import outputs

pytestmark = pytest.mark.once


def test_a_folder_that_is_missing_is_made_and_nothing_is_left_in_it(tmp_path):
    outputs.try_file(str(tmp_path / "a" / "b" / "report.json"))
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_file_that_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "report.json").write_text("old")
    outputs.try_file(str(tmp_path / "report.json"))
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_directory_under_the_name_of_a_file_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory; give the name of a"):
        outputs.try_file(str(tmp_path))


@pytest.mark.parametrize("attempt", [outputs.try_file, outputs.try_directory])
def test_a_place_below_a_file_is_refused_by_its_name(attempt, tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "report.json")
    with pytest.raises(OSError, match=f"^{path} cannot be written: "):
        attempt(path)


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux")
def test_a_place_where_nothing_can_be_written_is_refused_by_its_name():
    with pytest.raises(OSError, match="^/proc/self/report.json cannot be written: "):
        outputs.try_file("/proc/self/report.json")


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="a.json cannot be written: No space left on dev"):
        outputs.try_file(str(tmp_path / "a.json"))
    assert os.listdir(tmp_path) == []


def test_a_link_is_refused_even_one_that_leads_nowhere(tmp_path):
    (tmp_path / "results.csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="results.csv is a symbolic link"):
        outputs.refuse_link(str(tmp_path / "results.csv"))
