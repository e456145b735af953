"""What is killed goes on, does only what is missing, and ends with the same bytes."""

import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import power_cut
import pytest
from media_files import digests, tone, write_lying, write_media

from data_prep import conversion, shards
from data_prep.conversion_settings import ConversionSettings
from data_prep.segments import Segmentation
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables
from xdc_tf.runtime import files

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SETTINGS = ConversionSettings(fps=10.0, short_side=48)
FLAGS = ("--fps=10", "--short_side=48", "--rows_per_shard=1")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Eight rows, the third one broken."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        write_media(folder / f"{number}.mp4", waveform=tone(1.0, hz=200 + 100 * number))
    (folder / "2.mp4").write_text("not a video")
    path = folder / "manifest.csv"
    path.write_text("path\n" + "".join(f"{number}.mp4\n" for number in range(8)))
    return str(path)


def convert(manifest, out, **options):
    pool = PoolSettings(options.pop("num_workers", 1))
    arguments = {"settings": SETTINGS, "pool": pool, "rows_per_shard": 1, **options}
    return conversion.convert_manifest(manifest, str(out), **arguments)


@pytest.fixture(scope="module")
def uninterrupted(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "records"
    convert(manifest, out)
    return out


def start(manifest, out):
    command = [sys.executable, "-m", "data_prep.convert", f"--manifest={manifest}"]
    return subprocess.Popen(
        [*command, f"--out={out}", *FLAGS, "--num_workers=2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.parametrize("num_reports", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_conversion_goes_on_with_what_is_missing(
    manifest, uninterrupted, tmp_path, num_reports
):
    out = tmp_path / "records"
    process = start(manifest, out)
    while process.poll() is None:
        reports = list(out.glob("progress/records-*.json"))
        if len(reports) >= num_reports:
            break
        time.sleep(0.001)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "dataset_info.json").exists()
    done = {
        path: path.stat().st_mtime_ns
        for report in out.glob("progress/records-*.tfrecord.json")
        for path in [out / report.name.removesuffix(".json")]
    }
    assert len(done) >= num_reports
    process = start(manifest, out)
    assert process.wait() == 0
    assert digests(out) == digests(uninterrupted)
    assert done == {path: path.stat().st_mtime_ns for path in done}


def test_a_conversion_cut_off_while_it_ends_decodes_nothing_again(
    manifest, uninterrupted, tmp_path, monkeypatch
):
    out = tmp_path / "records"
    asked_for = []
    make = shards.convert_shards

    def remember(missing, *arguments, **options):
        asked_for.append(len(missing))
        make(missing, *arguments, **options)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "convert_shards", remember)
    with monkeypatch.context() as patch:
        patch.setattr(dataset_info, "write_dataset_info", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(manifest, out)
    convert(manifest, out)
    assert asked_for == [8, 0]
    assert digests(out) == digests(uninterrupted)


def test_progress_that_was_left_behind_is_removed(manifest, uninterrupted, tmp_path):
    out = tmp_path / "records"
    convert(manifest, out)
    (out / "progress").mkdir()
    (out / "progress" / "plan.json").write_text("{}")
    (out / "records-00000-of-00008.tfrecord.0123abcd.tmp").write_text("half")
    convert(manifest, out)
    assert digests(out) == digests(uninterrupted)


def test_a_shard_that_lost_its_bytes_is_made_again(
    manifest, uninterrupted, tmp_path, monkeypatch
):
    out = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(example_tables, "write_examples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(manifest, out)
    (out / "records-00003-of-00008.tfrecord").write_bytes(b"")
    (out / "records-00005-of-00008.tfrecord.index").unlink()
    convert(manifest, out)
    assert digests(out) == digests(uninterrupted)


def test_the_beginning_of_another_conversion_is_no_place_to_go_on(
    manifest, tmp_path, monkeypatch
):
    out = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(example_tables, "write_examples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(manifest, out)
    before = digests(out / "progress")
    with pytest.raises(ValueError, match="fps: 10.0 there, 5.0 asked for"):
        convert(manifest, out, settings=SETTINGS._replace(fps=5.0))
    assert digests(out / "progress") == before


def promises_are_kept(moment) -> bool:
    """Whether dataset_info.json, if it could be there, finds all that it promises."""
    contents = moment.contents
    for info in contents.get("dataset_info.json", {None}) - {None}:
        if info is power_cut.TORN:
            return False
        info = json.loads(info)
        num_bytes = {
            shard["file"] + suffix: shard[key]
            for shard in info["shards"]
            for suffix, key in (("", "num_bytes"), (".index", "index_bytes"))
        }
        num_lines = {
            "examples.csv": info["num_examples"] + 1,
            "quarantine.csv": info["num_quarantined"] + 1,
        }
        for name in (*num_bytes, *num_lines):
            for content in contents[name]:
                if not isinstance(content, bytes):
                    return False
                if name in num_bytes and len(content) != num_bytes[name]:
                    return False
                if name in num_lines and content.count(b"\n") != num_lines[name]:
                    return False
    return True


def test_at_no_moment_of_a_power_cut_is_more_promised_than_there(manifest, tmp_path):
    (tmp_path / "records").mkdir()
    with power_cut.recorded(tmp_path / "records") as moments:
        convert(manifest, tmp_path / "records", rows_per_shard=3)
    assert [moment.event for moment in moments if not promises_are_kept(moment)] == []
    assert "dataset_info.json" in moments[-1].contents
    assert len(moments) > 50


def test_reports_that_survive_a_power_cut_are_of_whole_shards(manifest, tmp_path):
    (tmp_path / "records").mkdir()
    with power_cut.recorded(tmp_path / "records") as moments:
        convert(manifest, tmp_path / "records", rows_per_shard=3)
    seen = set()
    for moment in moments:
        for path, contents in moment.contents.items():
            if path.startswith("progress/records-") and path.endswith(".json"):
                for report in contents - {None}:
                    shard = json.loads(report)
                    whole = [shard["file"], shard["file"] + ".index"]
                    for name, size in zip(whole, shard["num_bytes"], strict=True):
                        assert {len(c) for c in moment.contents[name]} == {size}
                        seen.add(name)
    assert len(seen) == 6


def test_without_syncing_a_power_cut_would_be_noticed(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sync", lambda path: None)
    (tmp_path / "records").mkdir()
    with power_cut.recorded(tmp_path / "records") as moments:
        convert(manifest, tmp_path / "records", rows_per_shard=3)
    assert not promises_are_kept(moments[-1])


def kill_workers_at(path, *, times):
    """Kills, in a thread, as many processes as are seen to have a file open.

    Returns an event that ends it.
    """
    over = threading.Event()

    def watch():
        killed = set()
        while len(killed) < times and not over.is_set():
            if not threading.main_thread().is_alive():
                return
            for process in multiprocessing.active_children():
                if process.pid not in killed and has_open(process.pid, path):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.add(process.pid)
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()
    return over


def has_open(pid, path):
    try:
        return any(
            os.readlink(f"/proc/{pid}/fd/{name}") == str(path)
            for name in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False


@pytest.fixture(scope="module")
def slow_manifest(tmp_path_factory):
    """Four rows, the third one of 40 s."""
    folder = tmp_path_factory.mktemp("slow")
    for number in range(4):
        secs = 40.0 if number == 2 else 1.0
        write_media(folder / f"{number}.mp4", secs=secs, waveform=tone(secs))
    path = folder / "manifest.csv"
    path.write_text("path\n0.mp4\n1.mp4\n2.mp4\n3.mp4\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(slow_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "records"
    convert(str(slow_manifest), out)
    return out


@pytest.fixture(scope="module")
def killed_twice(slow_manifest, undisturbed, tmp_path_factory):
    """A conversion whose third row was killed, and killed again alone."""
    out = tmp_path_factory.mktemp("killed") / "records"
    kill_workers_at(slow_manifest.parent / "2.mp4", times=2)
    convert(str(slow_manifest), out)
    return out


@pytest.fixture
def killed(killed_twice, tmp_path):
    return shutil.copytree(killed_twice, tmp_path / "records")


def test_a_row_whose_worker_is_killed_once_is_converted(
    slow_manifest, undisturbed, tmp_path
):
    kill_workers_at(slow_manifest.parent / "2.mp4", times=1)
    convert(str(slow_manifest), tmp_path / "records", num_workers=2)
    assert digests(tmp_path / "records") == digests(undisturbed)


def test_a_row_that_is_killed_again_is_quarantined_with_that_reason(killed):
    with open(killed / "quarantine.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["reason"]) == ("2.mp4", "killed")
    assert row["detail"] == "process ended from outside by signal 9"
    assert dataset_info.read_dataset_info(str(killed)).num_examples == 3


def test_the_next_call_tries_killed_rows_again_and_no_others(
    slow_manifest, undisturbed, killed, capsys
):
    before = {path.name: path.stat().st_mtime_ns for path in killed.iterdir()}
    convert(str(slow_manifest), killed)
    assert digests(killed) == digests(undisturbed)
    assert "4 of 4 rows converted" in capsys.readouterr().out
    for number in (0, 1, 3):
        name = f"records-0000{number}-of-00004.tfrecord"
        assert (killed / name).stat().st_mtime_ns == before[name]


def test_the_summary_says_that_the_same_command_tries_again(
    slow_manifest, killed, tmp_path, capsys
):
    before = digests(killed / "progress")
    # On a busy machine a row can be over before the one who kills has seen it.
    for attempt in range(5):
        records = shutil.copytree(killed, tmp_path / str(attempt))
        over = kill_workers_at(slow_manifest.parent / "2.mp4", times=2)
        convert(str(slow_manifest), records)
        over.set()
        summary = capsys.readouterr().out
        if "4 of 4 rows converted" not in summary:
            break
    assert "; the same command tries 1 killed again." in summary
    assert digests(records / "progress") == before


def test_another_try_that_is_cut_off_leaves_no_directory_that_claims_to_be_complete(
    slow_manifest, undisturbed, killed, monkeypatch
):
    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "convert_shards", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(str(slow_manifest), killed)
    assert not (killed / "dataset_info.json").exists()
    convert(str(slow_manifest), killed)
    assert digests(killed) == digests(undisturbed)


def test_a_power_cut_in_another_try_leaves_no_false_promise(slow_manifest, killed):
    with power_cut.recorded(killed) as moments:
        convert(str(slow_manifest), killed)
    assert [moment.event for moment in moments if not promises_are_kept(moment)] == []


def test_rows_refused_for_good_are_not_tried_again(
    manifest, uninterrupted, tmp_path, capsys
):
    out = shutil.copytree(uninterrupted, tmp_path / "records")
    convert(manifest, out)
    assert "Nothing to do" in capsys.readouterr().out
    assert not (out / "progress").exists()


def test_a_second_process_is_refused_while_the_first_goes_on(
    manifest, uninterrupted, tmp_path
):
    out = tmp_path / "records"
    first = start(manifest, out)
    while not list(out.glob("progress/records-*.json")):
        assert first.poll() is None
        time.sleep(0.001)
    with pytest.raises(
        BlockingIOError, match=f"records is in use by process {first.pid}"
    ):
        convert(manifest, out)
    assert first.wait() == 0
    assert digests(out) == digests(uninterrupted)


LIMITED = """
import resource, sys
if __name__ == "__main__":
    limit = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from data_prep import convert
    convert.run()
"""


@pytest.mark.parametrize(
    ("num_bytes", "file"),
    [(50, "plan.json"), (10_000, "records-00000-of-00008.tfrecord")],
)
def test_a_full_disk_is_one_line_and_then_the_same_command_goes_on(
    manifest, uninterrupted, tmp_path, num_bytes, file
):
    out = tmp_path / "records"
    (tmp_path / "limited.py").write_text(LIMITED)
    done = subprocess.run(
        [
            *(sys.executable, tmp_path / "limited.py", str(num_bytes)),
            *(f"--manifest={manifest}", f"--out={out}", *FLAGS),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "video" not in line]
    assert line.startswith("error: ") and file in line
    assert os.strerror(errno.EFBIG) in line
    convert(manifest, out)
    assert digests(out) == digests(uninterrupted)


SHARD = "records-00003-of-00008.tfrecord"


@pytest.fixture
def complete(uninterrupted, tmp_path):
    return shutil.copytree(uninterrupted, tmp_path / "records")


def of_earlier_version(out):
    """Takes the sizes of the files out of dataset_info.json."""
    path = out / "dataset_info.json"
    info = json.loads(path.read_text())
    for shard in info["shards"]:
        del shard["num_bytes"], shard["index_bytes"]
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("content", [None, "", "half"])
def test_an_index_that_is_not_as_promised_is_made_anew(
    manifest, complete, is_old, content
):
    if is_old:
        of_earlier_version(complete)
    before = digests(complete)
    index = complete / f"{SHARD}.index"
    if content is None:
        index.unlink()
    else:
        index.write_bytes(index.read_bytes()[: 100 if content else 0])
    convert(manifest, complete)
    assert digests(complete) == before


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (SHARD, "remove", f"{SHARD} is missing, and dataset_info.json.* promises"),
        (SHARD, "cut", f"{SHARD}.* bring"),
        ("examples.csv", "remove", "examples.csv"),
        ("examples.csv", "cut", "examples.csv"),
        ("quarantine.csv", "cut", "quarantine.csv"),
    ],
)
def test_a_complete_directory_with_lost_records_is_no_success(
    manifest, complete, is_old, name, change, message
):
    if is_old:
        of_earlier_version(complete)
    path = complete / name
    content = path.read_bytes()
    path.unlink()
    if change == "cut":
        path.write_bytes(content[: content[:-1].rfind(b"\n") + 1 or 1000])
    with pytest.raises((ValueError, OSError), match=message):
        convert(manifest, complete)


def test_a_shard_of_another_size_is_named_with_both_sizes(manifest, complete):
    size = (complete / SHARD).stat().st_size
    (complete / SHARD).write_bytes((complete / SHARD).read_bytes() + b"x")
    message = f"{SHARD} has {size + 1} bytes, and dataset_info.json .* {size} bytes"
    with pytest.raises(ValueError, match=message):
        convert(manifest, complete)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", "[]", "plan.json is no JSON object"),
        ("plan.json", "{", "plan.json is no JSON object"),
        ("segments.csv", "row,start_secs,end_secs\n99,0,1\n", "segments.csv does not"),
        ("segments.csv", "row,start_secs,end_secs\nx,0,1\n", "segments.csv does not"),
        ("segments.csv", "row\n0\n", "segments.csv does not"),
    ],
)
def test_notes_on_progress_that_cannot_be_are_refused(
    long_manifest, tmp_path, monkeypatch, name, content, message
):
    out = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(shards, "convert_shards", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(long_manifest, out, segmentation=Segmentation(2.0))
    (out / "progress" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(long_manifest, out, segmentation=Segmentation(2.0))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"file": "../x"}'])
def test_a_damaged_report_has_its_shard_made_anew(
    manifest, uninterrupted, tmp_path, monkeypatch, content
):
    out = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr(example_tables, "write_examples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(manifest, out, num_workers=2)
    (out / "progress" / f"{SHARD}.json").write_text(content)
    convert(manifest, out)
    assert digests(out) == digests(uninterrupted)


@pytest.fixture(scope="module")
def long_manifest(tmp_path_factory):
    """A recording of 5.3 s, one of 0.7 s, and one that cannot be opened."""
    folder = tmp_path_factory.mktemp("long")
    write_media(folder / "long.mp4", secs=5.3, waveform=tone(5.3))
    write_media(folder / "short.mp4", secs=0.7, waveform=tone(0.7))
    path = folder / "manifest.csv"
    path.write_text(
        "path,start_secs,end_secs,label\nlong.mp4,,,a\nshort.mp4,,,b\n"
        "none.mp4,,,a\nlong.mp4,1,3.2,b\n"
    )
    return str(path)


def rows_of(out):
    with open(out / "examples.csv", newline="") as file:
        return [
            (row["video_id"], float(row["start_secs"]), float(row["end_secs"]))
            for row in csv.DictReader(file)
        ]


def test_recordings_are_cut_into_rows(long_manifest, tmp_path):
    out = tmp_path / "records"
    info = convert(long_manifest, out, segmentation=Segmentation(2.0))
    # The rest of 0.2 s of the last row is less than min_secs.
    assert rows_of(out) == [
        ("long.mp4#t=0,2", 0.0, 2.0),
        ("long.mp4#t=2,4", 2.0, 4.0),
        ("long.mp4#t=4,5.3", 4.0, 5.3),
        ("short.mp4#t=0,0.7", 0.0, 0.7),
        ("long.mp4#t=1,3", 1.0, 3.0),
    ]
    assert (info.num_rows, info.num_examples, info.num_quarantined) == (6, 5, 1)
    assert (info.segment_secs, info.max_segments) == (2.0, None)
    examples = example_tables.read_examples(str(out))
    assert examples.example_indices.tolist() == [0, 1, 2, 3, 5]
    assert examples.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_recording_gives_so_many_segments_spread_over_it(long_manifest, tmp_path):
    out = tmp_path / "records"
    convert(long_manifest, out, segmentation=Segmentation(1.0, max_segments=2))
    assert [start for name, start, _ in rows_of(out) if name.startswith("long")] == [
        1.0,
        3.0,
        1.0,
        2.0,
    ]


@pytest.mark.parametrize(("num_workers", "rows_per_shard"), [(2, 2), (1, 3)])
def test_segments_do_not_depend_on_the_number_of_workers(
    long_manifest, tmp_path, num_workers, rows_per_shard
):
    options = {"segmentation": Segmentation(1.0), "rows_per_shard": rows_per_shard}
    convert(long_manifest, tmp_path / "one", num_workers=1, **options)
    convert(long_manifest, tmp_path / "other", num_workers=num_workers, **options)
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_rows_past_the_end_do_not_depend_on_the_number_of_workers(tmp_path):
    write_lying(tmp_path / "a.mkv", secs=3.0, declared_secs=200_000.0)
    lines = "".join(f"a.mkv,{start},{start + 1}\n" for start in range(100))
    path = tmp_path / "manifest.csv"
    path.write_text("path,start_secs,end_secs\n" + lines)
    for num_workers in (1, 3):
        out = tmp_path / f"by {num_workers}"
        convert(str(path), out, num_workers=num_workers, rows_per_shard=15)
    assert digests(tmp_path / "by 1") == digests(tmp_path / "by 3")
    with open(tmp_path / "by 1" / "quarantine.csv", newline="") as file:
        details = [row["detail"] for row in csv.DictReader(file)]
    assert len(details) == 97
    assert set(details[1:]) == {
        "truncated: ends at 3.0 s of 200000.0 s declared, after 0 frames"
    }


def test_a_file_that_the_system_cannot_read_is_tried_again(manifest, tmp_path, capsys):
    path = tmp_path / "manifest.csv"
    video = os.path.join(os.path.dirname(manifest), "0.mp4")
    # A regular file, at whose beginning nothing can be read: an error of the system.
    path.write_text(f"path\n{video}\n/proc/self/mem\n")
    convert(str(path), tmp_path / "records")
    assert "; the same command tries 1 io_error again" in capsys.readouterr().out
    convert(str(path), tmp_path / "records")
    assert "; the same command tries 1 io_error again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (Segmentation(0.1), "segment_secs=0.1 must be from min_secs=0.5"),
        (Segmentation(1.0, 0), "max_segments=0 must be 1 or more"),
        (Segmentation(None, 3), "max_segments=3 must be 1 or more, and needs"),
    ],
)
def test_a_segmentation_without_meaning_is_refused(
    long_manifest, tmp_path, segmentation, message
):
    with pytest.raises(ValueError, match=message):
        convert(long_manifest, tmp_path / "records", segmentation=segmentation)


def test_truncated_rows_that_are_kept_are_listed(tmp_path):
    path = tmp_path / "a.mkv"
    write_media(path, secs=4.0, waveform=tone(4.0), audio_codec="pcm_s16le")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path\na.mkv\n")
    settings = SETTINGS._replace(keep_truncated=True)
    info = convert(str(manifest), tmp_path / "records", settings=settings)
    assert info.limits["keep_truncated"] is True
    with open(tmp_path / "records" / "truncated.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "a.mkv" and row["detail"].startswith("truncated: ends at")
