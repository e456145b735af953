"""Features for temporal action localisation: layout, times, names that collide."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from xdc_tf.inference import localization, video_features
from xdc_tf.inference.parts import Conversion, Sampling

CONVERSION = Conversion(num_workers=2, rows_per_part=3)


def _extract(run, videos, out, *, stride_secs=0.25, **options):
    return localization.extract_windows(
        str(run),
        str(videos),
        str(out),
        stride_secs=stride_secs,
        conversion=CONVERSION,
        **options,
    )


@pytest.fixture(scope="module")
def out(tiny_run, odd_videos, tmp_path_factory):
    """Of broken.mp4, mute.mp4, "sub folder/one video.mp4" and two.mov, of 1.5 s."""
    folder = tmp_path_factory.mktemp("localization")
    _extract(tiny_run, odd_videos, folder / "out")
    return folder / "out"


def _card(out):
    return json.loads((out / "features.json").read_text())


def test_each_stream_has_an_array_for_each_video(out):
    assert sorted(os.listdir(out.parent)) == ["out"]
    assert sorted(os.listdir(out)) == [
        *("audio", "features.json", "quarantine.csv", "times", "video")
    ]
    for folder in ("audio", "times", "video"):
        assert sorted(os.listdir(out / folder)) == ["one video.npy", "two.npy"]
    for stream in ("video", "audio"):
        array = np.load(out / stream / "two.npy", allow_pickle=False)
        assert (array.shape, array.dtype) == ((5, 32), np.float32)


def test_the_card_holds_the_sha256_of_every_other_file(out):
    paths = [path for path in out.rglob("*") if path.is_file()]
    assert _card(out)["sha256"] == {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name != "features.json"
    }
    assert "video/two.npy" in _card(out)["sha256"]


def test_windows_have_their_start_end_and_centre(out):
    # Clips of 4 frames at 8 per second, every quarter of a second.
    expected = [
        [0, 0.5, 0.25],
        [0.25, 0.75, 0.5],
        [0.5, 1, 0.75],
        [0.75, 1.25, 1],
        [1, 1.5, 1.25],
    ]
    np.testing.assert_allclose(np.load(out / "times" / "two.npy"), expected)


def test_a_loader_places_the_features_at_their_centres(out):
    card = _card(out)
    assert (card["fps"], card["feat_stride"], card["num_frames"]) == (8, 2, 4)
    assert (card["stride_secs"], card["window_secs"]) == (0.25, 0.5)
    centres = np.load(out / "times" / "two.npy")[:, 2]
    # ActionFormer's grid: (seconds * fps - num_frames / 2) / feat_stride.
    grid = (centres * card["fps"] - card["num_frames"] / 2) / card["feat_stride"]
    np.testing.assert_allclose(grid, range(5))


def test_a_loader_of_thumos_finds_all_videos_by_their_names(out):
    card = _card(out)
    for name, about in card["database"].items():
        file = card["file_prefix"] + name + card["file_ext"]
        assert file == about["file"]
        features = np.load(out / "video" / file).astype(np.float32)
        assert len(features[:: card["downsample_rate"], :]) == about["num_features"]
    assert card["database"]["one video"] == {
        "file": "one video.npy",
        "path": "sub folder/one video.mp4",
        "start_secs": 0.0,
        "duration": 1.5,
        "num_features": 5,
    }
    assert card["format"] == "localization"
    assert card["streams"]["audio"]["width"] == 32


def test_features_are_those_of_the_extraction(out, tiny_run, odd_videos, tmp_path):
    video_features.extract_features(
        str(tiny_run),
        str(odd_videos),
        str(tmp_path / "flat"),
        format_name="npy",
        sampling=Sampling(stride_secs=0.25),
        conversion=CONVERSION,
    )
    for stream in ("video", "audio"):
        found = [np.load(out / stream / f"{name}.npy") for name in ("one video", "two")]
        np.testing.assert_allclose(
            np.concatenate(found),
            np.load(tmp_path / "flat" / f"{stream}.npy"),
            rtol=1e-5,
            atol=1e-6,
        )


def test_quarantined_rows_are_listed(out):
    lines = (out / "quarantine.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["broken.mp4", "0.0", "cannot_open"],
        ["mute.mp4", "0.0", "no_audio"],
    ]
    assert _card(out)["num_quarantined"] == 2


def test_segments_are_videos_of_their_own_with_times_of_the_file(
    imported_run, odd_videos, tmp_path
):
    (tmp_path / "a.csv").write_text(
        "path,start_secs,end_secs\n"
        f"{odd_videos}/two.mov,,\n"
        f"{odd_videos}/two.mov,0.5,1.5\n"
        f"{odd_videos}/two.mov,1.25,\n"
    )
    done = _extract(imported_run, tmp_path / "a.csv", tmp_path / "out", batch_size=2)
    assert done.num_features == {"two": 5, "two#t=0.5,1.5": 3, "two#t=1.25": 1}
    assert done.widths == {"video": 32}
    times = np.load(tmp_path / "out" / "times" / "two#t=0.5,1.5.npy")
    np.testing.assert_allclose(times[:, 0], [0.5, 0.75, 1.0])
    # Shorter than a window.
    times = np.load(tmp_path / "out" / "times" / "two#t=1.25.npy")
    np.testing.assert_allclose(times, [[1.25, 1.5, 1.375]])
    about = _card(tmp_path / "out")["database"]["two#t=0.5,1.5"]
    assert (about["start_secs"], about["duration"]) == (0.5, 1.0)


def test_records_give_what_their_files_give(tiny_run, tiny_records, tmp_path):
    done = _extract(
        tiny_run, tiny_records / "test", tmp_path / "out", streams=["video"]
    )
    assert list(done.num_features.items())[-1] == ("seed1_000011", 5)
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("features.json", "quarantine.csv", "times", "video")
    ]
    video = tiny_records / "test_videos" / "videos" / "seed1_000011.mp4"
    (tmp_path / "a.csv").write_text(f"path\n{video}\n")
    _extract(tiny_run, tmp_path / "a.csv", tmp_path / "one", streams=["video"])
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / "video" / "seed1_000011.npy"),
        np.load(tmp_path / "one" / "video" / "seed1_000011.npy"),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_stride_of_no_whole_number_of_frames_is_told_as_it_is(
    imported_run, odd_videos, tmp_path
):
    _extract(imported_run, odd_videos, tmp_path / "out", stride_secs=0.3)
    assert _card(tmp_path / "out")["feat_stride"] == pytest.approx(2.4)
    times = np.load(tmp_path / "out" / "times" / "two.npy")
    np.testing.assert_allclose(times[:, 0], [0, 0.3, 0.6, 0.9])


def test_two_videos_of_one_name_are_an_error_that_names_both(
    imported_run, odd_videos, tmp_path
):
    for name in ("a/clip.mp4", "b/clip.mov"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True)
        shutil.copyfile(odd_videos / "two.mov", path)
    with pytest.raises(ValueError, match="a/clip.mp4 and b/clip.mov .* clip.npy"):
        _extract(imported_run, tmp_path / "videos", tmp_path / "out")
    assert os.listdir(tmp_path) == ["videos"]


def test_videos_of_which_none_is_usable_give_an_empty_database(
    imported_run, odd_videos, tmp_path
):
    (tmp_path / "a.csv").write_text(f"path\n{odd_videos}/broken.mp4\n")
    done = _extract(imported_run, tmp_path / "a.csv", tmp_path / "out")
    assert done.num_features == {}
    assert _card(tmp_path / "out")["database"] == {}


def test_an_unknown_stream_is_an_error(tiny_run, odd_videos, tmp_path):
    with pytest.raises(ValueError, match="streams=smell: .* video, audio"):
        _extract(tiny_run, odd_videos, tmp_path / "out", streams=["smell"])


@pytest.mark.parametrize("stride_secs", [0.0, -1.0, float("nan"), 0.01])
def test_a_stride_without_meaning_leaves_no_directory(
    imported_run, odd_videos, tmp_path, stride_secs
):
    with pytest.raises(ValueError, match="stride_secs"):
        _extract(imported_run, odd_videos, tmp_path / "out", stride_secs=stride_secs)
    assert os.listdir(tmp_path) == []


def test_an_existing_directory_is_left_alone(imported_run, odd_videos, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists; remove it"):
        _extract(imported_run, odd_videos, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
