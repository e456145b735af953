"""What is said of power cuts, by examples that can be followed by hand."""

import os

import power_cut
import pytest
from power_cut import TORN

from xdc_tf.runtime import files

pytestmark = pytest.mark.once


def at_the_end(moments, name):
    return moments[-1].contents[name]


def test_what_was_never_synced_may_be_torn_or_absent(tmp_path):
    with power_cut.recorded(tmp_path) as moments:
        (tmp_path / "a").write_text("new")
    assert at_the_end(moments, "a") == {None, TORN}


def test_a_synced_file_without_its_directory_may_be_absent(tmp_path):
    with power_cut.recorded(tmp_path) as moments:
        (tmp_path / "a").write_text("new")
        files.sync(tmp_path / "a")
    assert at_the_end(moments, "a") == {None, b"new"}


def test_a_renamed_file_may_be_the_old_one_until_its_directory_is_synced(tmp_path):
    (tmp_path / "a").write_text("old")
    with power_cut.recorded(tmp_path) as moments:
        (tmp_path / "b").write_text("new")
        files.sync(tmp_path / "b")
        os.replace(tmp_path / "b", tmp_path / "a")
        assert moments[-1].contents["a"] == {b"old", b"new"}
        files.sync(tmp_path)
    assert moments[-1].contents == {"a": {b"new"}}


def test_a_file_that_was_changed_after_it_was_synced_may_be_torn(tmp_path):
    (tmp_path / "a").write_text("old")
    with power_cut.recorded(tmp_path) as moments:
        with open(tmp_path / "a", "a") as file:
            file.write(" and new")
    assert at_the_end(moments, "a") == {TORN}


def test_what_was_removed_may_still_be_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with power_cut.recorded(tmp_path) as moments:
        os.remove(tmp_path / "a")
        assert moments[-1].contents["a"] == {b"old", None}
        files.sync(tmp_path)
    assert moments[-1].contents == {}


@pytest.mark.parametrize("is_synced", [True, False])
def test_files_go_with_their_directory(tmp_path, is_synced):
    with power_cut.recorded(tmp_path) as moments:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a").write_text("new")
        files.sync(tmp_path / "d" / "a")
        files.sync(tmp_path / "d")
        os.rename(tmp_path / "d", tmp_path / "e")
        if is_synced:
            files.sync(tmp_path)
    assert at_the_end(moments, "e/a") == {b"new"} | (set() if is_synced else {None})


def test_a_directory_that_is_placed_is_whole_or_not_there(tmp_path):
    with power_cut.recorded(tmp_path) as moments:
        with files.new_directory(str(tmp_path / "d")) as directory:
            with open(os.path.join(directory, "a"), "w") as file:
                file.write("new")
    seen = [moment.contents.get("d/a", {None}) for moment in moments]
    assert {None, b"new"} in seen
    assert set().union(*seen) == {None, b"new"}
    assert seen[-1] == {b"new"}


def test_a_text_that_is_written_is_the_old_or_the_new_one(tmp_path):
    (tmp_path / "a").write_text("old")
    with power_cut.recorded(tmp_path) as moments:
        files.write_text(str(tmp_path / "a"), "new")
    assert set().union(*(moment.contents["a"] for moment in moments)) == {
        b"old",
        b"new",
    }
    assert at_the_end(moments, "a") == {b"new"}
