"""Data tables, their escapes, and the folder that they are written in."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from xdc_tf.browse import page_files
from xdc_tf.runtime import files

RUN = {"workdir": "/run", "manifest_sha256": "0"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--",
    "\"'`${x}&amp;\\",
    "\u202egpj.exe \u2066",
    "a\u2028b\u2029c\0\n",
    "\ud800 half of a pair",
    "x" * 4000,
    "مرحبا",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return str(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_text_holds_its_table_is_one_ascii_line_without_markup(folder, text):
    page_files.write_table(folder, "examples-0", {text: [text]})
    with open(os.path.join(folder, "data", "examples-0.js"), "rb") as file:
        data = file.read()
    assert data.count(b"\n") == 1 and data.endswith(b");\n")
    assert not set(data) & set(b"<>&") and max(data) < 128
    assert page_files.read_table(folder, "examples-0") == {text: [text]}


def test_a_number_that_is_not_finite_is_refused_and_unknown_ones_are_null(folder):
    with pytest.raises(ValueError):
        page_files.write_table(folder, "overview", float("nan"))
    assert page_files.number(float("inf")) is None
    assert page_files.number(np.float32(1 / 3)) == 0.333333


def test_columns_are_written_in_blocks_and_read_as_lists(folder):
    labels = np.arange(-1, 9)
    blocks = {"audio": iter([labels[:4], labels[4:4], labels[4:]]), "video": iter([])}
    page_files.write_columns(folder, "labels-0003", blocks)
    expected = {"audio": labels.tolist(), "video": []}
    assert page_files.read_table(folder, "labels-0003") == expected


def test_what_is_written_of_a_table_is_whole_or_the_former_one(folder):
    page_files.write_table(folder, "media", {})

    def blocks():
        yield np.arange(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        page_files.write_columns(folder, "media", {"audio": blocks()})
    assert page_files.read_table(folder, "media") == {}
    assert os.listdir(os.path.join(folder, "data")) == ["media.js"]


def test_a_new_folder_has_nothing_done_and_keeps_what_is_written(tmp_path):
    out = str(tmp_path / "a" / "page")
    with page_files.claimed(out, RUN) as state:
        state.media["3"] = {"secs": 1.0}
        page_files.write_state(out, state)
    with page_files.claimed(out, RUN) as state:
        assert state.media == {"3": {"secs": 1.0}}
    assert sorted(os.listdir(out)) == ["data", "media", "state.json"]


def test_a_folder_with_something_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.doc").write_text("years")
    with pytest.raises(FileExistsError, match="thesis.doc.*choose a new folder"):
        with page_files.claimed(str(tmp_path), RUN):
            pass
    assert os.listdir(tmp_path) == ["thesis.doc"]


def test_media_of_somebody_else_are_refused_too(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "holiday.mp4").write_text("")
    with pytest.raises(FileExistsError, match="holds something else"):
        with page_files.claimed(str(tmp_path), RUN):
            pass


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "page").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        with page_files.claimed(str(tmp_path / "page"), RUN):
            pass


def test_a_remote_folder_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="copy the folder to a bucket"):
        with page_files.claimed("s3://bucket/page", RUN):
            pass


def test_pages_of_another_run_are_refused(tmp_path):
    with page_files.claimed(str(tmp_path), RUN):
        pass
    other = RUN | {"workdir": "/other"}
    with pytest.raises(ValueError, match="pages of another run.*choose a new folder"):
        with page_files.claimed(str(tmp_path), other):
            pass


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": "x"}'])
def test_a_damaged_state_is_refused_by_name(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match="state.json"):
        with page_files.claimed(str(tmp_path), RUN):
            pass


def test_a_link_in_the_folder_is_refused(tmp_path):
    with page_files.claimed(str(tmp_path / "page"), RUN):
        pass
    (tmp_path / "page" / "media" / "3.mp4").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="symbolic link"):
        with page_files.claimed(str(tmp_path / "page"), RUN):
            pass


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    code = (
        "import sys\nfrom xdc_tf.browse import page_files\n"
        f"with page_files.claimed({str(tmp_path)!r}, {json.dumps(RUN)}): pass"
    )
    with page_files.claimed(str(tmp_path), RUN):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert "BlockingIOError" in done.stderr and "is in use by" in done.stderr


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    out = str(tmp_path)
    with page_files.claimed(out, RUN):
        pass
    (tmp_path / "media" / ".3.partial.mp4").write_text("half")
    with page_files.claimed(out, RUN):
        assert os.listdir(tmp_path / "media") == []
    assert files.read_text(str(tmp_path / "state.json"))
