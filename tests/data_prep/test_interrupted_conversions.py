"""What is killed goes on, does only what is missing, and ends with the same bytes."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
from media_files import digests, tone, write_media

from data_prep import conversion, shards
from data_prep.conversion_settings import ConversionSettings
from data_prep.segments import Segmentation
from xdc_tf.data import dataset_info

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
    arguments = {"settings": SETTINGS, "num_workers": 1, "rows_per_shard": 1, **options}
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


@pytest.mark.parametrize("num_reports", [1, 4])
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
        patch.setattr(dataset_info, "write_examples", lambda *_: 1 / 0)
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
        patch.setattr(dataset_info, "write_examples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(manifest, out)
    before = digests(out / "progress")
    with pytest.raises(ValueError, match="fps: 10.0 there, 5.0 asked for"):
        convert(manifest, out, settings=SETTINGS._replace(fps=5.0))
    assert digests(out / "progress") == before


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
    examples = dataset_info.read_examples(str(out))
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
