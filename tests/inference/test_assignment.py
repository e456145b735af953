"""Labels for new videos: those of the run's own table, NumPy as oracle, quarantine."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

from xdc_tf.inference import cluster_assignment
from xdc_tf.inference.parts import Conversion
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import files, workdir

COLUMNS = {
    source: [f"{source}_{value}" for value in ("cluster", "distance", "margin")]
    for source in ("audio", "video", "joint")
}


def _assign(run, videos, out, *, rows_per_part=256, **options):
    conversion = Conversion(num_workers=2, rows_per_part=rows_per_part)
    return cluster_assignment.assign_clusters(
        str(run), str(videos), str(out), conversion=conversion, **options
    )


def _read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _column(rows, name):
    return np.array([float(row[name]) for row in rows])


def _numpy_labels(features, centroids):
    """Cluster, distance and margin by plain NumPy in float64.

    In float32, the square root of a square that should be 0 is off by some 3e-4.
    """
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.linalg.norm(rows[:, None] - centroids[None], axis=2)
    ordered = np.sort(distances, axis=1)
    return distances.argmin(1), ordered[:, 0], ordered[:, 1] - ordered[:, 0]


@pytest.fixture(scope="module")
def from_files(tiny_run, tiny_records, tmp_path_factory):
    """The training videos' files, assigned in three parts, with their features."""
    folder = tmp_path_factory.mktemp("assigned")
    manifest = tiny_records / "train_videos" / "manifest.csv"
    done = _assign(
        tiny_run,
        manifest,
        folder / "assigned.csv",
        rows_per_part=9,
        features_dir=str(folder / "features"),
    )
    return folder, done


@pytest.fixture(scope="module")
def odd(tiny_run, odd_videos, tmp_path_factory):
    """The odd videos, assigned, with their features."""
    folder = tmp_path_factory.mktemp("odd_assigned")
    _assign(
        tiny_run,
        odd_videos,
        folder / "assigned.csv",
        features_dir=str(folder / "features"),
    )
    return folder


def test_the_training_videos_get_the_labels_of_the_final_table(from_files, tiny_run):
    folder, done = from_files
    rows = _read(folder / "assigned.csv")
    round_dir = workdir.round_dir(str(tiny_run), 2)
    table = label_tables.read(round_dir)
    assert done.round_index == 2
    video_ids = list(label_tables.read_video_ids(round_dir))
    assert [row["video_id"] for row in rows] == video_ids
    assert set(done.sources) == {"audio", "video"}
    for source in done.sources:
        found = [int(row[f"{source}_cluster"]) for row in rows]
        assert found == table.clusterings[source].labels.tolist()


def test_distances_and_margins_are_those_of_numpy(from_files, tiny_run):
    folder, done = from_files
    rows = _read(folder / "assigned.csv")
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    for source in done.sources:
        features = np.load(folder / "features" / f"{source}.npy")
        expected = _numpy_labels(features, table.clusterings[source].centroids)
        for name, values in zip(COLUMNS[source], expected, strict=True):
            np.testing.assert_allclose(_column(rows, name), values, atol=1e-3)


def test_rows_tell_path_and_times(from_files):
    folder, _ = from_files
    row = _read(folder / "assigned.csv")[23]
    name = "videos/seed0_000023.mp4"
    assert (row["path"], row["video_id"], row["reason"]) == (name, name, "")
    assert (float(row["start_secs"]), float(row["end_secs"])) == (0.0, 1.5)


def test_records_give_the_labels_that_their_files_give(
    from_files, tiny_run, tiny_records, tmp_path
):
    folder, _ = from_files
    _assign(tiny_run, tiny_records / "train", tmp_path / "assigned.csv")
    expected, found = _read(folder / "assigned.csv"), _read(tmp_path / "assigned.csv")
    for source in ("audio", "video"):
        cluster, *numbers = COLUMNS[source]
        assert [r[cluster] for r in found] == [r[cluster] for r in expected]
        for name in numbers:
            np.testing.assert_allclose(
                _column(found, name), _column(expected, name), atol=1e-3
            )
    names = ("path", "video_id", "start_secs", "end_secs")
    assert [[r[n] for n in names] for r in found] == [
        [r[n] for n in names] for r in expected
    ]


def test_a_quarantined_row_keeps_its_line_with_the_reason(odd):
    rows = _read(odd / "assigned.csv")
    assert [(row["path"], row["reason"]) for row in rows] == [
        ("broken.mp4", "cannot_open"),
        ("mute.mp4", "no_audio"),
        ("sub folder/one video.mp4", ""),
        ("two.mov", ""),
    ]
    assert rows[1]["detail"] == "the file has no audio stream"
    assert list(rows[0]) == [
        *("path", "start_secs", "end_secs", "video_id"),
        *COLUMNS["audio"],
        *COLUMNS["video"],
        *("reason", "detail"),
    ]
    for name in (*COLUMNS["audio"], *COLUMNS["video"], "end_secs"):
        assert [bool(row[name]) for row in rows] == [False, False, True, True]


def test_features_lie_in_the_order_of_the_lines_with_nan_for_quarantined_ones(
    odd, from_files
):
    folder, _ = from_files
    assert sorted(os.listdir(odd / "features")) == ["audio.npy", "video.npy"]
    for stream in ("audio", "video"):
        expected = np.load(folder / "features" / f"{stream}.npy")
        found = np.load(odd / "features" / f"{stream}.npy", mmap_mode="r")
        assert (found.shape, found.dtype) == ((4, 32), np.float32)
        assert np.isnan(found[:2]).all()
        np.testing.assert_allclose(found[2:], expected[:2], rtol=1e-4, atol=1e-6)


def test_only_what_was_asked_for_is_left(odd, from_files):
    for folder in (odd, from_files[0]):
        assert sorted(os.listdir(folder)) == ["assigned.csv", "features"]


def test_several_clips_are_averaged(tiny_run, tiny_records, tmp_path):
    for num_clips in (1, 3):
        _assign(
            tiny_run,
            tiny_records / "test",
            tmp_path / f"{num_clips}.csv",
            num_clips=num_clips,
            features_dir=str(tmp_path / str(num_clips)),
        )
    one, three = (np.load(tmp_path / name / "video.npy") for name in ("1", "3"))
    assert one.shape == three.shape == (12, 32)
    assert not np.allclose(one, three, rtol=1e-3)


def test_a_joint_clustering_sees_the_features_of_both_side_by_side(
    tiny_run, tiny_records, tmp_path
):
    # A finished run of CDC, but for its training: its clusters are drawn.
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text()) | {"method": "cdc"}
    (run / "config.json").write_text(json.dumps(config))
    centroids = np.random.default_rng(0).normal(size=[5, 64]).astype(np.float32) / 8
    label_tables.write(
        workdir.round_dir(str(run), 7),
        clusterings={
            "joint": Clustering(
                labels=np.zeros(24, np.int32),
                centroids=centroids,
                sizes=np.array([24, 0, 0, 0, 0]),
                inertia=0.0,
            )
        },
        video_ids=[""] * 24,
        settings={
            "encoders_sha256": {
                stream: files.sha256(workdir.encoder_file(str(run), stream))
                for stream in ("video", "audio")
            }
        },
    )
    done = _assign(
        run,
        tiny_records / "test",
        tmp_path / "assigned.csv",
        features_dir=str(tmp_path / "features"),
    )
    assert (done.sources, done.round_index) == (("joint",), 7)
    streams = [np.load(tmp_path / "features" / f"{s}.npy") for s in ("video", "audio")]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in streams]
    expected = _numpy_labels(np.concatenate(unit, axis=1), centroids)
    rows = _read(tmp_path / "assigned.csv")
    for name, values in zip(COLUMNS["joint"], expected, strict=True):
        np.testing.assert_allclose(_column(rows, name), values, atol=1e-5)


def test_nothing_is_left_after_an_error(tiny_run, tiny_records, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(cluster_assignment, "mean_features", fail)
    with pytest.raises(OSError, match="no space left"):
        _assign(
            tiny_run,
            tiny_records / "test",
            tmp_path / "assigned.csv",
            features_dir=str(tmp_path / "features"),
        )
    assert os.listdir(tmp_path) == []


def test_what_was_killed_before_the_csv_had_its_name_is_made_again(
    tiny_run, tiny_records, tmp_path
):
    out, features = tmp_path / "assigned.csv", tmp_path / "features"
    arguments = tiny_run, tiny_records / "test", out
    _assign(*arguments, features_dir=str(features))
    expected = out.read_bytes()
    out.rename(features / ".assigned.csv")
    (features / "video.npy").write_bytes(b"of an earlier attempt")
    _assign(*arguments, features_dir=str(features))
    assert out.read_bytes() == expected
    assert sorted(os.listdir(tmp_path)) == ["assigned.csv", "features"]
    assert sorted(os.listdir(features)) == ["audio.npy", "video.npy"]
    assert len(np.load(features / "video.npy")) == 12


@pytest.fixture
def naming(tmp_path):
    """A name for one cluster of audio, and the manifest of its videos."""
    names = tmp_path / "names.csv"
    header = "source,round,cluster,name,junk,merged_into"
    names.write_text(f"{header}\naudio,2,0,the first,0,\n")
    return cluster_assignment.Naming(str(names), str(tmp_path / "manifest.csv"))


def test_a_manifest_whose_csv_was_never_finished_is_made_again(
    tiny_run, tiny_records, naming, tmp_path, monkeypatch
):
    def fail(*paths):
        raise OSError("no room")

    arguments = tiny_run, tiny_records / "test", tmp_path / "assigned.csv"
    with monkeypatch.context() as patch:
        patch.setattr(cluster_assignment, "_move", fail)
        with pytest.raises(OSError, match="no room"):
            _assign(*arguments, naming=naming)
    assert (tmp_path / "manifest.csv").exists()
    assert not (tmp_path / "assigned.csv").exists()
    done = _assign(*arguments, naming=naming)
    clusters = _column(_read(tmp_path / "assigned.csv"), "audio_cluster")
    assert done.num_labelled == (clusters == 0).sum()
    made = ["assigned.csv", "manifest.csv", "names.csv"]
    assert sorted(os.listdir(tmp_path)) == made


def test_an_existing_manifest_is_not_overwritten(
    tiny_run, tiny_records, naming, tmp_path
):
    (tmp_path / "manifest.csv").write_text("precious")
    with pytest.raises(FileExistsError, match=r"manifest\.csv exists"):
        _assign(
            tiny_run,
            tiny_records / "test",
            tmp_path / "assigned.csv",
            naming=naming,
        )
    assert (tmp_path / "manifest.csv").read_text() == "precious"


def test_features_without_their_csv_are_somebodys_and_stay(
    tiny_run, tiny_records, tmp_path
):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "video.npy").write_text("precious")
    with pytest.raises(FileExistsError, match="features exists"):
        _assign(
            tiny_run,
            tiny_records / "test",
            tmp_path / "assigned.csv",
            features_dir=str(tmp_path / "features"),
        )
    assert (tmp_path / "features" / "video.npy").read_text() == "precious"
    assert os.listdir(tmp_path) == ["features"]


def test_an_existing_file_is_not_overwritten(tiny_run, tiny_records, tmp_path):
    (tmp_path / "assigned.csv").write_text("precious")
    with pytest.raises(FileExistsError, match="assigned.csv exists"):
        _assign(tiny_run, tiny_records / "test", tmp_path / "assigned.csv")
    assert (tmp_path / "assigned.csv").read_text() == "precious"


def test_one_place_for_the_csv_and_the_features_is_an_error(
    tiny_run, tiny_records, tmp_path
):
    out = tmp_path / "assigned"
    with pytest.raises(ValueError, match="need different places"):
        _assign(tiny_run, tiny_records / "test", out, features_dir=f"{out}/")


def test_weights_without_clusters_are_an_error(imported_run, tiny_records, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no clusters .*method imported"):
        _assign(imported_run, tiny_records / "test", tmp_path / "assigned.csv")


def test_records_that_lack_an_example_are_an_error(tiny_run, tiny_records, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(tiny_records / "test", records)
    (records / "records-00001-of-00002.tfrecord.index").write_bytes(b"")
    with pytest.raises(ValueError, match="index has 0 bytes, and dataset_info"):
        _assign(tiny_run, records, tmp_path / "assigned.csv")
