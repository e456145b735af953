"""What --videos may be: folders, manifests, records; and what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
import record_files

from xdc_tf.data.example_tables import Examples
from xdc_tf.data.text_columns import TextColumn
from xdc_tf.inference import new_videos
from xdc_tf.inference.new_videos import Row
from xdc_tf.training import trained_run


@pytest.fixture
def run(tiny_run):
    return trained_run.open_run(str(tiny_run))


@pytest.fixture
def records(tiny_records, tmp_path):
    """A copy of the test records, with rows 3 and 10 quarantined afterwards."""
    folder = tmp_path / "records"
    shutil.copytree(tiny_records / "test", folder)
    record_files.take_out(folder, [3, 10])
    (folder / "quarantine.csv").write_text(
        "path,start_secs,reason,detail\n"
        "mute one.mp4,0.0,no_audio,the file has no audio stream\n"
        "long.mp4,7.5,too_long,900 s\n"
    )
    return folder


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_a_folder_gives_its_videos_sorted_and_counts_the_others(tmp_path, run):
    _touch(tmp_path, "b/x y.MKV", "a.mp4", "b/c/z.webm", "b/notes.txt", ".DS_Store")
    videos = new_videos.open_videos(str(tmp_path), run)
    assert [row.path for row in videos.rows] == ["a.mp4", "b/c/z.webm", "b/x y.MKV"]
    assert [row.video_id for row in videos.rows] == [row.path for row in videos.rows]
    assert videos.rows[2].file == str(tmp_path / "b" / "x y.MKV")
    assert videos.num_others == 2


def test_a_link_to_a_folder_is_counted_and_not_followed(tmp_path, run):
    _touch(tmp_path, "videos/a.mp4", "elsewhere/b.mp4")
    os.symlink(tmp_path / "elsewhere", tmp_path / "videos" / "link")
    videos = new_videos.open_videos(str(tmp_path / "videos"), run)
    assert ([row.path for row in videos.rows], videos.num_others) == (["a.mp4"], 1)


def test_a_manifest_gives_its_rows(tmp_path, run):
    path = tmp_path / "some.csv"
    path.write_text("path,start_secs,end_secs,label\nb.mp4,,,x\na.mp4,1,2.5,\n")
    videos = new_videos.open_videos(str(path), run)
    assert [row.video_id for row in videos.rows] == ["b.mp4", "a.mp4#t=1,2.5"]
    assert videos.num_others == 0


def test_records_give_their_rows_with_the_quarantined_ones_in_the_holes(records, run):
    rows = new_videos.open_videos(str(records), run).rows
    assert len(rows) == 12
    assert rows[3] == Row(
        "mute one.mp4", "", 0.0, None, "no_audio", "the file has no audio stream"
    )
    assert rows[10] == Row("long.mp4", "", 7.5, None, "too_long", "900 s")
    name = "videos/seed1_000011.mp4"
    assert rows[11] == Row(name, name, 0.0, 1.5)


@pytest.mark.parametrize(
    ("video_id", "path"),
    [
        ("a.mp4#t=1.5,3", "a.mp4"),
        ("a.mp4#t=2", "a.mp4"),
        ("odd#t=1.mp4", "odd#t=1.mp4"),
        ("a, b.mp4", "a, b.mp4"),
    ],
)
def test_the_path_of_a_record_is_its_video_id_without_the_segment(
    tmp_path, video_id, path
):
    (tmp_path / "quarantine.csv").write_text("path,start_secs,reason,detail\n")
    examples = Examples(
        example_indices=np.array([0]),
        video_ids=TextColumn.of([video_id]),
        label_sets=np.array([[-1]]),
        shard_numbers=np.array([0]),
        start_secs=np.array([0.0]),
        end_secs=np.array([1.0]),
    )
    assert new_videos.read_rows(str(tmp_path), examples) == [
        Row(path, video_id, 0.0, 1.0)
    ]


@pytest.mark.parametrize(
    ("quarantine", "message"),
    [
        (
            "path,start_secs,reason,detail\n",
            "10 rows by examples.csv and quarantine.csv, but by dataset_info.json 12",
        ),
        (
            "path,reason\na.mp4,no_audio\n",
            "quarantine.csv has columns 'path,reason', expected 'path,start_secs,",
        ),
        (
            "path,start_secs,reason,detail\na.mp4,soon,no_audio,\n",
            "quarantine.csv, line 2: start_secs 'soon' is no time in seconds",
        ),
        ("path,start_secs,reason,detail\na.mp4,nan,no_audio,\n", "line 2: .* 'nan'"),
        ("path,start_secs,reason,detail\na.mp4,0\n", "line 2: 2 values, expected 4"),
        (
            "path,start_secs,reason,detail\n" + "a.mp4,0,no_audio,\n" * 3,
            "13 rows by examples.csv and quarantine.csv, but by dataset_info.json 12",
        ),
    ],
)
def test_records_whose_reports_do_not_fit_are_refused(
    records, run, quarantine, message
):
    (records / "quarantine.csv").write_text(quarantine)
    with pytest.raises(ValueError, match=message):
        new_videos.open_videos(str(records), run)


def test_records_of_another_log_mel_setting_are_refused_where_sound_is_used(
    records, run
):
    path = records / "dataset_info.json"
    values = json.loads(path.read_text())
    values["log_mel"]["num_filters"] = 64
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"num_filters \(64 in the records"):
        new_videos.open_videos(str(records), run)
    only_video = run._replace(streams={"video": "video"})
    assert len(new_videos.open_videos(str(records), only_video).rows) == 12


def test_records_without_sound_are_refused_where_it_is_used(records, run):
    path = records / "dataset_info.json"
    values = json.loads(path.read_text()) | {"modalities": ["video"]}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="holds video but no audio"):
        new_videos.open_videos(str(records), run)


def test_nothing_there_is_an_error(tmp_path, run):
    with pytest.raises(
        FileNotFoundError, match="missing does not exist; give a folder"
    ):
        new_videos.open_videos(str(tmp_path / "missing"), run)


def test_a_folder_without_videos_is_an_error(tmp_path, run):
    _touch(tmp_path, "a.wav", "b.txt")
    with pytest.raises(ValueError, match="holds 2 files and none with a video's"):
        new_videos.open_videos(str(tmp_path), run)


def test_a_single_video_file_is_an_error_that_names_the_ways_out(tmp_path, run):
    _touch(tmp_path, "a.mp4")
    with pytest.raises(
        ValueError, match="is one video file; give its folder, or a man"
    ):
        new_videos.open_videos(str(tmp_path / "a.mp4"), run)


@pytest.mark.parametrize("name", ["a\nb.mp4", "a\rb.mp4", b"\xff.mp4"])
def test_a_name_that_no_report_can_hold_is_an_error(tmp_path, name, run):
    with open(os.path.join(os.fsencode(tmp_path), os.fsencode(name)), "wb"):
        pass
    with pytest.raises(ValueError, match="line break or bytes that are not UTF-8"):
        new_videos.open_videos(str(tmp_path), run)


def test_the_summary_counts_the_reasons():
    rows = [Row("a", "a", 0.0, 1.0, reason) for reason in ("", "x", "y", "y", "")]
    assert new_videos.describe_usable(rows) == "2 of 5 videos (quarantined: 2 y, 1 x)"
    assert new_videos.describe_usable(rows[:1]) == "1 of 1 videos"
