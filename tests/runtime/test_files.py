import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from xdc_tf.runtime import files, locks

pytestmark = pytest.mark.once
# Processes forked from this one might inherit a lock that a thread of it holds.
CONTEXT = multiprocessing.get_context("forkserver")


def test_writing_text_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "report.json"
    files.write_text(str(path), "old")
    files.write_text(str(path), "new, with ä")
    assert path.read_text(encoding="utf-8") == "new, with ä"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_text_that_fails_leaves_the_old_one_and_names_the_file(tmp_path):
    path = tmp_path / "report.json"
    files.write_text(str(path), "old")
    with pytest.raises(OSError, match="report.json"):
        with files.placing(str(path)):
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / ".report.partial.json").write_text("a half that is longer than all")
    files.write_text(str(tmp_path / "report.json"), "whole")
    assert (tmp_path / "report.json").read_text() == "whole"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".report.partial.json").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="report.json"):
        files.write_text(str(tmp_path / "report.json"), "text")
    assert (tmp_path / "precious").read_text() == "precious"


def _write_many(path, letter):
    for _ in range(50):
        files.write_text(path, letter * 100_000)


def test_two_writers_of_one_file_never_mix(tmp_path):
    path = str(tmp_path / "a.txt")
    writers = [CONTEXT.Process(target=_write_many, args=(path, c)) for c in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if os.path.exists(path):
            seen.add(files.read_text(path))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {"a" * 100_000, "b" * 100_000}
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300, 3],
)
def test_a_name_that_could_lead_out_of_its_directory_is_refused(name):
    with pytest.raises(ValueError, match="not the name of a file in records"):
        files.member_path("records", name)


@pytest.mark.parametrize("name", ["records-00000-of-00001.tfrecord", "größe", "..a"])
def test_a_plain_name_makes_a_path_in_its_directory(name):
    assert files.member_path("records", name) == f"records/{name}"


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        for read in (files.sha256, files.read_text):
            with pytest.raises(ValueError, match="give a regular file"):
                read(str(path))


def test_a_directory_with_a_link_in_it_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    files.check_no_links(str(tmp_path))
    (tmp_path / "a" / "b").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="a/b is a symbolic link"):
        files.check_no_links(str(tmp_path))


def test_a_directory_appears_when_it_is_whole(tmp_path):
    with files.new_directory(str(tmp_path / "a")) as directory:
        with open(os.path.join(directory, "b"), "w"):
            assert not os.path.exists(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "as usual").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "as usual").stat().st_mode


def test_a_directory_that_fails_does_not_appear(tmp_path):
    with pytest.raises(OSError, match="full"):
        with files.new_directory(str(tmp_path / "a")):
            raise OSError("full")
    assert os.listdir(tmp_path) == []


def test_no_other_file_is_overwritten_or_removed(tmp_path):
    (tmp_path / "a").write_text("precious")
    with pytest.raises(FileExistsError, match="a exists; remove it"):
        with files.new_directory(str(tmp_path / "a")):
            pass
    assert (tmp_path / "a").read_text() == "precious"
    for name in ("b.tmp", "b.partial", ".b.partial"):
        (tmp_path / name).mkdir()
    with files.new_directory(str(tmp_path / "b")):
        pass
    assert sorted(os.listdir(tmp_path)) == [
        ".b.partial",
        "a",
        "b",
        "b.partial",
        "b.tmp",
    ]


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(FileExistsError, match="a exists"):
        with files.new_directory(str(tmp_path / "a")):
            (tmp_path / "a").mkdir()
    assert os.listdir(tmp_path / "a") == []


_HOLDER = """
import sys, time
from xdc_tf.runtime import files
with files.new_directory(sys.argv[1]) as directory:
    open(directory + "/half", "w").close()
    print("made", flush=True)
    time.sleep(60)
"""


def test_a_directory_is_made_by_one_process_at_a_time_and_its_remains_removed(tmp_path):
    path = str(tmp_path / "a")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    with pytest.raises(BlockingIOError, match=f"a is in use by process {holder.pid}"):
        with files.new_directory(path):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(os.listdir(tmp_path)) == 2  # the lock and the half
    with files.new_directory(path):
        assert len(os.listdir(tmp_path)) == 2  # the lock and the new one
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(path) == []


def test_a_lock_that_was_left_beside_a_finished_directory_is_removed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / ".a.lock").write_text("process 1 on a host that was switched off\n")
    with pytest.raises(FileExistsError, match="a exists; remove it"):
        files.check_free(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == ["a"]


def test_the_lock_of_a_process_at_work_stays(tmp_path):
    with files.scratch_directory(str(tmp_path / "a")) as scratch:
        (tmp_path / "a").mkdir()
        with pytest.raises(FileExistsError, match="a exists; remove it"):
            files.check_free(str(tmp_path / "a"))
        names = {".a.lock", "a", os.path.basename(scratch)}
        assert set(os.listdir(tmp_path)) == names


def test_a_lock_that_is_removed_while_another_waits_is_one_lock_still(tmp_path):
    path = str(tmp_path / "lock")
    first = locks.Lock(path, held="it", remove=True)
    first.release()
    second = locks.Lock(path, held="it", remove=True)
    with pytest.raises(BlockingIOError, match="it is in use"):
        locks.Lock(path, held="it", remove=True)
    second.release()
    assert os.listdir(tmp_path) == []


def test_lines_are_those_of_the_file_however_long_it_is(tmp_path):
    # Two bytes each in UTF-8, so that blocks end within a letter; no last line feed.
    text = "\n".join("ü" * (number % 50_000) for number in range(0, 400_000, 999))
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    parts = list(files.read_lines(str(path)))
    assert len(parts) > 3 and all(part.endswith("\n") for part in parts[:-1])
    assert "".join(parts) == text == files.read_text(str(path))
    path.write_bytes(b"")
    assert list(files.read_lines(str(path))) == []


@pytest.mark.parametrize("content", [b"a\n\xff\nb", b"a\nb\xc3"])
def test_what_is_not_utf8_is_named(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match="a.txt is not UTF-8 text"):
        files.read_text(str(tmp_path / "a.txt"))


def test_a_file_is_written_in_parts_or_not_at_all(tmp_path):
    path = str(tmp_path / "a.txt")
    files.write_text(path, (f"{number}\n" for number in range(3)))
    assert files.read_text(path) == "0\n1\n2\n"

    def failing():
        yield "new"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        files.write_text(path, failing())
    assert files.read_text(path) == "0\n1\n2\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
