"""Label tables on disk: round trips, replacement, damage."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from xdc_tf.clustering import label_tables
from xdc_tf.clustering.label_tables import Clustering

VIDEO_IDS = ["swim", "", 'a "b", c', "dé\nf"]
SETTINGS = {"method": "xdc", "round": 3, "versions": {"numpy": "1"}, "lr": 0.5}


def clustering(labels=(1, -1, 0, 1), **changes):
    return Clustering(
        labels=np.array(labels, np.int32),
        centroids=np.arange(6, dtype=np.float32).reshape(2, 3),
        sizes=np.array([1, 2]),
        inertia=0.1,
    )._replace(**changes)


def write(round_dir, clusterings=None, video_ids=VIDEO_IDS, settings=SETTINGS):
    label_tables.write(
        round_dir,
        clusterings={"audio": clustering()} if clusterings is None else clusterings,
        video_ids=video_ids,
        settings=settings,
    )


def assert_same_clustering(actual, expected):
    for name, value in expected._asdict().items():
        if value is None:
            assert getattr(actual, name) is None
        else:
            np.testing.assert_array_equal(getattr(actual, name), value)


def test_a_table_is_read_as_it_was_written(tmp_path):
    whitened = clustering(
        (0, -1, 0, -1),
        normalize=False,
        pca_mean=np.ones(5, np.float32),
        pca_projection=np.ones((5, 3), np.float32),
    )
    written = {"audio": clustering(), "video": whitened}
    write(tmp_path / "labels" / "round_003", written)
    table = label_tables.read(tmp_path / "labels" / "round_003")
    assert list(table.clusterings) == ["audio", "video"]
    for name, value in written.items():
        assert_same_clustering(table.clusterings[name], value)
    assert table.video_ids == VIDEO_IDS
    assert table.settings == SETTINGS


def test_arrays_keep_their_types(tmp_path):
    write(tmp_path / "r", {"audio": clustering(labels=np.array([1, -1, 0, 1]))})
    read = label_tables.read(tmp_path / "r").clusterings["audio"]
    assert read.labels.dtype == np.int32
    assert read.centroids.dtype == np.float32
    assert read.sizes.dtype == np.int64


def test_the_csv_has_one_row_per_manifest_row_and_one_column_per_clustering(tmp_path):
    write(tmp_path / "r", {"audio": clustering(), "video": clustering((0, -1, 0, 0))})
    with open(tmp_path / "r" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["example_index", "video_id", "audio", "video"],
        ["0", "swim", "1", "0"],
        ["1", "", "-1", "-1"],
        ["2", 'a "b", c', "0", "0"],
        ["3", "dé\nf", "1", "0"],
    ]


def test_the_files_need_no_pickle_and_no_project_to_be_read(tmp_path):
    write(tmp_path / "r")
    with np.load(tmp_path / "r" / "audio.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["labels"], [1, -1, 0, 1])
    record = json.loads((tmp_path / "r" / "settings.json").read_text())
    assert record["settings"]["method"] == "xdc"


def test_a_table_without_clusterings_keeps_its_video_ids(tmp_path):
    write(tmp_path / "r", {})
    assert label_tables.read(tmp_path / "r").video_ids == VIDEO_IDS


def test_writing_again_replaces_the_whole_directory(tmp_path):
    write(tmp_path / "r", {"audio": clustering(), "video": clustering()})
    write(tmp_path / "r", {"joint": clustering((0, 0, 0, 0))})
    assert list(label_tables.read(tmp_path / "r").clusterings) == ["joint"]
    assert sorted(os.listdir(tmp_path / "r")) == [
        "joint.npz",
        "labels.csv",
        "settings.json",
    ]
    assert os.listdir(tmp_path) == ["r"]


def stop_at_rename(monkeypatch, number):
    """Makes the given call of os.rename, counted from 1, fail as a kill would."""
    rename, calls = os.rename, []

    def counted(source, target):
        calls.append(source)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(label_tables.os, "rename", counted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_write_stopped_while_replacing_leaves_the_former_table(
    tmp_path, monkeypatch, number
):
    write(tmp_path / "r")
    with monkeypatch.context() as patch:
        stop_at_rename(patch, number)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "r", {"joint": clustering()})
    assert list(label_tables.read(tmp_path / "r").clusterings) == ["audio"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_write_after_a_stopped_one_replaces_the_table_and_cleans_up(
    tmp_path, monkeypatch, number
):
    write(tmp_path / "r")
    with monkeypatch.context() as patch:
        stop_at_rename(patch, number)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "r")
    write(tmp_path / "r", {"joint": clustering()})
    assert list(label_tables.read(tmp_path / "r").clusterings) == ["joint"]
    assert os.listdir(tmp_path) == ["r"]


def test_a_first_write_that_is_stopped_leaves_no_table(tmp_path, monkeypatch):
    stop_at_rename(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="no such directory of labels"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize("name", ["labels.csv", "audio.npz"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    write(tmp_path / "r")
    content = bytearray((tmp_path / "r" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "r" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: damaged, SHA-256 is"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"clusterings": 1, "sha256": 2}'])
def test_damaged_settings_are_noticed(tmp_path, text):
    write(tmp_path / "r")
    (tmp_path / "r" / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings.json: damaged"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize("name", ["labels.csv", "audio.npz", "settings.json"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "r")
    (tmp_path / "r" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: missing"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize(
    ("clusterings", "message"),
    [
        ({"audio": clustering((0, 1))}, r"labels of shape \(2,\) for 4 video ids"),
        ({"audio": clustering((0, 1, 2, 0))}, "example 2 the label 2, but there are 2"),
        ({"audio": clustering((0, 1, 0, -2))}, "example 3 the label -2"),
        ({"audio": clustering(sizes=np.ones(3))}, "3 sizes for 2 centroids"),
        ({"../audio": clustering()}, "cannot name a file and a column"),
        ({"video_id": clustering()}, "cannot name a file and a column"),
    ],
)
def test_clusterings_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path, clusterings, message
):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "r", clusterings)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_settings_that_json_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="settings cannot be written as JSON"):
        write(tmp_path / "r", settings={"seed": value})


def test_reading_imports_no_tensorflow():
    code = (
        "import sys, xdc_tf.clustering.label_tables, xdc_tf.clustering.agreement;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
