"""Features of clips: their times, averages, formats; imported weights; bad input."""

import csv
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from pyarrow import parquet

from xdc_tf.data import dataset_info, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import encoder_input
from xdc_tf.inference import video_features
from xdc_tf.inference.parts import Conversion, Sampling
from xdc_tf.runtime import compat, files, workdir
from xdc_tf.training import trained_run


def _extract(run, videos, out, sampling, *, format_name="npy", **options):
    return video_features.extract_features(
        str(run),
        str(videos),
        str(out),
        format_name=format_name,
        sampling=sampling,
        conversion=Conversion(num_workers=2, rows_per_part=3),
        **options,
    )


def _read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _times(rows):
    return [(float(row["start_secs"]), float(row["end_secs"])) for row in rows]


@pytest.fixture(scope="module")
def dense(tiny_run, tiny_records, odd_videos, tmp_path_factory):
    """Windows every quarter of a second: a file, segments of it, broken, mute."""
    folder = tmp_path_factory.mktemp("dense")
    (folder / "manifest.csv").write_text(
        "path,start_secs,end_secs\n"
        f"{odd_videos}/sub folder/one video.mp4,,\n"
        f"{odd_videos}/broken.mp4,,\n"
        f"{odd_videos}/sub folder/one video.mp4,0.5,1.5\n"
        f"{odd_videos}/sub folder/one video.mp4,1.25,\n"
        f"{odd_videos}/mute.mp4,0.25,0.75\n"
    )
    done = _extract(
        tiny_run, folder / "manifest.csv", folder / "out", Sampling(stride_secs=0.25)
    )
    return folder, done


@pytest.fixture(scope="module")
def clips(tiny_run, tiny_records, tmp_path_factory):
    """Three clips of each test video, in all formats, and their means."""
    folder = tmp_path_factory.mktemp("clips")
    for format_name in ("npy", "parquet", "tfrecord"):
        _extract(
            tiny_run,
            tiny_records / "test",
            folder / format_name,
            Sampling(num_clips=3, batch_size=5),
            format_name=format_name,
        )
    _extract(
        tiny_run,
        tiny_records / "test",
        folder / "average",
        Sampling(num_clips=3),
        average=True,
    )
    return folder


def test_dense_windows_have_the_times_of_the_original_file(dense, odd_videos):
    folder, _ = dense
    rows = _read(folder / "out" / "clips.csv")
    # Clips of half a second, in files of 1.5 s.
    assert _times(rows) == [
        *((0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.25), (1.0, 1.5)),
        *((0.5, 1.0), (0.75, 1.25), (1.0, 1.5)),
        (1.25, 1.5),  # a segment shorter than a clip
    ]
    name = f"{odd_videos}/sub folder/one video.mp4"
    assert [row["path"] for row in rows] == [name] * 9
    assert [row["video_id"] for row in rows] == [
        *([name] * 5),
        *([f"{name}#t=0.5,1.5"] * 3),
        f"{name}#t=1.25",
    ]
    assert [int(row["row"]) for row in rows] == list(range(9))


def test_a_window_of_a_segment_is_that_of_the_whole_file(dense):
    folder, _ = dense
    video = np.load(folder / "out" / "video.npy", mmap_mode="r")
    assert video.shape == (9, 32)
    # Both begin at 0.5, 0.75 and 1 s.
    np.testing.assert_allclose(video[5:8], video[2:5], rtol=1e-4, atol=1e-6)
    assert not np.allclose(video[0], video[2], rtol=1e-3)


def test_quarantined_rows_are_listed_and_counted(dense, odd_videos):
    folder, done = dense
    rows = _read(folder / "out" / "quarantine.csv")
    assert [(row["path"], float(row["start_secs"]), row["reason"]) for row in rows] == [
        (f"{odd_videos}/broken.mp4", 0.0, "cannot_open"),
        (f"{odd_videos}/mute.mp4", 0.25, "no_audio"),
    ]
    assert rows[1]["detail"] == "the file has no audio stream"
    card = json.loads((folder / "out" / "features.json").read_text())
    assert (card["num_videos"], card["num_quarantined"]) == (3, 2)
    assert card["num_rows"] == done.num_features == 9


def test_only_what_was_asked_for_is_left(dense):
    folder, _ = dense
    assert sorted(os.listdir(folder)) == ["manifest.csv", "out"]
    assert sorted(os.listdir(folder / "out")) == [
        *("audio.npy", "clips.csv", "features.json", "quarantine.csv", "video.npy")
    ]


def test_features_are_those_of_the_encoder_on_the_clip(clips, tiny_run, tiny_records):
    run = trained_run.open_run(str(tiny_run))
    records = str(tiny_records / "test")
    info = dataset_info.read_dataset_info(records)
    (batch, *_) = pipeline.evaluation_batches(
        ClipSource(dataset_info.shard_paths(records, info), run.clip),
        batch_size=7,
        num_clips=3,
    )
    for stream in ("video", "audio"):
        encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), stream))
        found = np.load(clips / "npy" / f"{stream}.npy")
        assert found.shape == (36, 32)
        expected = encoder(encoder_input(batch, stream), training=False)
        np.testing.assert_allclose(found[:7], expected, rtol=1e-4, atol=1e-6)


def test_evenly_spread_clips_have_their_times(clips):
    rows = _read(clips / "npy" / "clips.csv")
    assert _times(rows) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)] * 12


def test_all_formats_hold_the_same_numbers(clips):
    table = parquet.read_table(clips / "parquet" / "features.parquet")
    rows = _read(clips / "npy" / "clips.csv")
    for name in ("path", "video_id", "start_secs", "end_secs"):
        assert [str(value) for value in table[name].to_pylist()] == [
            row[name] for row in rows
        ]
    (path,) = (clips / "tfrecord").glob("features-*.tfrecord")
    examples = [
        tf.train.Example.FromString(serialized.numpy()).features.feature
        for serialized in tf.data.TFRecordDataset(str(path))
    ]
    assert [
        (
            one["clip/start/timestamp"].int64_list.value[0] / 1e6,
            one["clip/end/timestamp"].int64_list.value[0] / 1e6,
        )
        for one in examples
    ] == _times(rows)
    for stream in ("video", "audio"):
        expected = np.load(clips / "npy" / f"{stream}.npy")
        np.testing.assert_array_equal(
            np.array(table[stream].to_pylist(), np.float32), expected
        )
        found = [one[f"{stream}/feature/floats"].float_list.value for one in examples]
        np.testing.assert_array_equal(np.array(found, np.float32), expected)


def test_averages_are_the_means_of_the_clips(clips):
    for stream in ("video", "audio"):
        every = np.load(clips / "npy" / f"{stream}.npy").reshape(12, 3, 32)
        found = np.load(clips / "average" / f"{stream}.npy")
        np.testing.assert_allclose(found, every.mean(1), rtol=1e-4, atol=1e-6)
    rows = _read(clips / "average" / "clips.csv")
    assert _times(rows) == [(0.0, 1.5)] * 12
    assert rows[11]["video_id"] == "videos/seed1_000011.mp4"


def test_the_card_says_what_made_the_features(clips, dense, tiny_run, tiny_records):
    card = json.loads((clips / "average" / "features.json").read_text())
    config = workdir.read_config(str(tiny_run))
    assert card == {
        "workdir": str(tiny_run),
        "method": "xdc",
        "streams": {
            stream: {
                "modality": stream,
                "width": 32,
                "encoder_sha256": files.sha256(
                    workdir.encoder_file(str(tiny_run), stream)
                ),
            }
            for stream in ("video", "audio")
        },
        "clip": config["clip"] | {"duration_secs": 0.5},
        "log_mel": config["log_mel"],
        "videos": str(tiny_records / "test"),
        "conversion": {
            "fps": 8.0,
            "short_side": 32,
            "jpeg_quality": 90,
            "min_secs": 0.5,
            "max_secs": 60.0,
        },
        "format": "npy",
        "num_clips": 3,
        "stride_secs": None,
        "average": True,
        "num_rows": 12,
        "num_videos": 12,
        "num_quarantined": 0,
        "versions": compat.versions(),
        "sha256": {
            name: files.sha256(clips / "average" / name)
            for name in ("audio.npy", "clips.csv", "quarantine.csv", "video.npy")
        },
    }
    card = json.loads((dense[0] / "out" / "features.json").read_text())
    assert (card["num_clips"], card["stride_secs"]) == (None, 0.25)
    assert (card["conversion"]["min_secs"], card["conversion"]["max_secs"]) == (
        0.1,
        600,
    )


def test_the_video_stream_alone_needs_no_sound(dense, tiny_run, odd_videos, tmp_path):
    done = _extract(
        tiny_run,
        odd_videos,
        tmp_path / "out",
        Sampling(stride_secs=0.25),
        streams=["video"],
    )
    assert done.widths == {"video": 32}
    assert [row.reason for row in done.rows] == ["cannot_open", "", "", ""]
    rows = _read(tmp_path / "out" / "clips.csv")
    assert [row["path"] for row in rows[::5]] == [
        *("mute.mp4", "sub folder/one video.mp4", "two.mov")
    ]
    video = np.load(tmp_path / "out" / "video.npy")
    expected = np.load(dense[0] / "out" / "video.npy")[:5]
    np.testing.assert_allclose(video[5:10], expected, rtol=1e-4, atol=1e-6)


def test_imported_weights_see_videos_without_sound(imported_run, odd_videos, tmp_path):
    done = _extract(imported_run, odd_videos, tmp_path / "out", Sampling(num_clips=2))
    assert [row.reason for row in done.rows] == ["cannot_open", "", "", ""]
    video = np.load(tmp_path / "out" / "video.npy")
    assert (video.shape, done.widths) == ((6, 32), {"video": 32})
    card = json.loads((tmp_path / "out" / "features.json").read_text())
    assert card["method"] == "imported"
    assert card["conversion"]["short_side"] == 32
    assert np.ptp(video, axis=0).max() > 0


def test_imported_weights_see_records(imported_run, tiny_records, tmp_path):
    done = _extract(
        imported_run, tiny_records / "test", tmp_path / "out", Sampling(num_clips=1)
    )
    assert done.num_features == 12


def test_videos_of_which_none_is_usable_give_an_empty_array(
    tiny_run, odd_videos, tmp_path
):
    (tmp_path / "a.csv").write_text(f"path\n{odd_videos}/broken.mp4\n")
    done = _extract(tiny_run, tmp_path / "a.csv", tmp_path / "out", Sampling())
    assert done.num_features == 0
    assert np.load(tmp_path / "out" / "video.npy").shape == (0, 32)
    assert len(_read(tmp_path / "out" / "quarantine.csv")) == 1


def test_an_unknown_stream_is_an_error(tiny_run, tiny_records, tmp_path):
    with pytest.raises(ValueError, match="streams=smell: .* video, audio"):
        _extract(
            tiny_run,
            tiny_records / "test",
            tmp_path / "out",
            Sampling(),
            streams=["smell"],
        )


def test_an_error_leaves_no_directory(tiny_run, tiny_records, tmp_path):
    with pytest.raises(ValueError, match="less than one frame"):
        _extract(
            tiny_run,
            tiny_records / "test",
            tmp_path / "out",
            Sampling(stride_secs=0.01),
        )
    assert os.listdir(tmp_path) == []


def test_an_existing_directory_is_left_alone(tiny_run, tiny_records, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists; remove it"):
        _extract(tiny_run, tiny_records / "test", tmp_path / "out", Sampling())
    assert os.listdir(tmp_path) == ["out"]
