"""Label tables on disk: round trips, replacement, damage."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays, files

pytestmark = pytest.mark.once

VIDEO_IDS = ["swim", "", 'a "b", c', "dé\nf"]
FILES = ["audio.labels.npy", "audio.npz", "labels.csv", "settings.json"]
SETTINGS = {"method": "xdc", "round": 3, "versions": {"numpy": "1"}, "lr": 0.5}


def clustering(labels=(1, -1, 0, 1), **changes):
    return Clustering(
        labels=np.array(labels, np.int32),
        centroids=np.arange(6, dtype=np.float32).reshape(2, 3),
        sizes=np.array([1, 2]),
        inertia=0.1,
    )._replace(**changes)


def write(round_dir, clusterings=None, *, video_ids=VIDEO_IDS, **changes):
    label_tables.write(
        round_dir,
        clusterings={"audio": clustering()} if clusterings is None else clusterings,
        video_ids=video_ids,
        **{"settings": SETTINGS} | changes,
    )


@pytest.fixture
def three_rows_per_block(monkeypatch):
    """Blocks so small that every table of these tests takes several."""
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 3)


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
        offsets=np.array([0.5, -0.5], np.float32),
    )
    written = {"audio": clustering(), "video": whitened}
    write(tmp_path / "labels" / "round_003", written)
    table = label_tables.read(tmp_path / "labels" / "round_003")
    assert list(table.clusterings) == ["audio", "video"]
    for name, value in written.items():
        assert_same_clustering(table.clusterings[name], value)
    assert table.settings == SETTINGS


def test_video_ids_are_read_one_by_one(tmp_path, three_rows_per_block):
    write(tmp_path / "r")
    ids = label_tables.read_video_ids(tmp_path / "r")
    assert next(ids) == VIDEO_IDS[0]
    assert list(ids) == VIDEO_IDS[1:]


@pytest.mark.parametrize("num_rows", [0, 1, 3, 6, 7])
def test_a_table_of_any_number_of_blocks_is_read_as_it_was_written(
    tmp_path, three_rows_per_block, num_rows
):
    labels = np.arange(num_rows, dtype=np.int32) % 3 - 1
    written = clustering(labels)
    ids = (f"v{number}" for number in range(num_rows))
    write(tmp_path / "r", {"audio": written}, video_ids=ids)
    read = label_tables.read(tmp_path / "r").clusterings["audio"]
    np.testing.assert_array_equal(read.labels, labels)
    with open(tmp_path / "r" / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert rows == [[f"{n}", f"v{n}", f"{n % 3 - 1}"] for n in range(num_rows)]


def test_writing_and_reading_take_less_memory_than_the_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 100)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 10_000)
    labels = np.zeros(100_000, np.int32)
    write(tmp_path / "r")
    label_tables.read(tmp_path / "r")  # what is imported meanwhile is not counted
    tracemalloc.start()
    try:
        ids = (f"v{number}" for number in range(len(labels)))
        write(
            tmp_path / "r",
            {"audio": clustering()._replace(labels=labels)},
            video_ids=ids,
        )
        label_tables.read(tmp_path / "r")
        for _ in label_tables.read_video_ids(tmp_path / "r"):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < labels.nbytes


def test_video_ids_may_be_an_array_of_texts(tmp_path):
    write(tmp_path / "r", video_ids=np.array(VIDEO_IDS))
    assert list(label_tables.read_video_ids(tmp_path / "r")) == VIDEO_IDS


def test_a_table_is_written_as_it_was_from_the_map_of_another(
    tmp_path, three_rows_per_block
):
    write(tmp_path / "one")
    write(tmp_path / "other", label_tables.read(tmp_path / "one").clusterings)
    for name in FILES:
        one, other = (tmp_path / part / name for part in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_labels_are_a_read_only_map_of_their_file(tmp_path):
    write(tmp_path / "r")
    labels = label_tables.read(tmp_path / "r").clusterings["audio"].labels
    assert isinstance(labels, np.memmap) and not labels.flags.writeable


def test_labels_outlive_a_replacement_of_their_table(tmp_path, three_rows_per_block):
    write(tmp_path / "r")
    before = label_tables.read(tmp_path / "r").clusterings["audio"].labels
    write(tmp_path / "r", {"audio": clustering((0, 0, 0, 0))})
    assert before.tolist() == [1, -1, 0, 1]


def test_a_table_with_its_labels_among_the_other_arrays_is_read(tmp_path):
    write(tmp_path / "r")
    (tmp_path / "r" / "audio.labels.npy").unlink()
    path = tmp_path / "r" / "audio.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays) | {"labels": np.array([0, 1, -1, 0], np.int32)}
    np.savez(path, **arrays)
    record = json.loads((tmp_path / "r" / "settings.json").read_text())
    del record["sha256"]["audio.labels.npy"], record["record_sha256"]
    record["sha256"]["audio.npz"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "r" / "settings.json").write_text(json.dumps(record))
    labels = label_tables.read(tmp_path / "r").clusterings["audio"].labels
    assert labels.tolist() == [0, 1, -1, 0]


def test_health_is_read_as_it_was_written(tmp_path):
    health = {"audio": {"sizes": [1, 2], "nmi": None, "effective": 1.5}}
    write(tmp_path / "r", health=health)
    assert label_tables.read_health(tmp_path / "r") == health


def test_a_table_without_health_has_none(tmp_path):
    write(tmp_path / "r")
    assert label_tables.read_health(tmp_path / "r") == {}
    assert sorted(os.listdir(tmp_path / "r")) == FILES


def test_arrays_keep_their_types(tmp_path):
    write(
        tmp_path / "r", {"audio": clustering()._replace(labels=np.array([1, -1, 0, 1]))}
    )
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
    labels = np.load(tmp_path / "r" / "audio.labels.npy", allow_pickle=False)
    np.testing.assert_array_equal(labels, [1, -1, 0, 1])
    with np.load(tmp_path / "r" / "audio.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["sizes"], [1, 2])
    record = json.loads((tmp_path / "r" / "settings.json").read_text())
    assert record["settings"]["method"] == "xdc"


def test_a_table_without_clusterings_keeps_its_video_ids(tmp_path):
    write(tmp_path / "r", {})
    assert list(label_tables.read_video_ids(tmp_path / "r")) == VIDEO_IDS


def test_writing_again_replaces_the_whole_directory(tmp_path):
    write(tmp_path / "r", {"audio": clustering(), "video": clustering()})
    write(tmp_path / "r", {"joint": clustering((0, 0, 0, 0))})
    assert list(label_tables.read(tmp_path / "r").clusterings) == ["joint"]
    assert sorted(os.listdir(tmp_path / "r")) == [
        "joint.labels.npy",
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

    monkeypatch.setattr(os, "rename", counted)


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


@pytest.mark.parametrize("name", [*FILES[:3], "health.json"])
def test_a_changed_byte_is_noticed(tmp_path, name):
    write(tmp_path / "r", health={"audio": {}})
    content = bytearray((tmp_path / "r" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "r" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: damaged, SHA-256 is"):
        label_tables.read(tmp_path / "r")


def rewrite(round_dir, name, content):
    """Replaces a file of a table and its SHA-256, as a forger would."""
    (round_dir / name).write_bytes(content)
    path = round_dir / "settings.json"
    record = json.loads(path.read_text())
    record["sha256"][name] = hashlib.sha256(content).hexdigest()
    del record["record_sha256"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("key", ["method", "round", "audio.npz"])
def test_a_change_of_the_settings_is_noticed(tmp_path, key):
    write(tmp_path / "r")
    path = tmp_path / "r" / "settings.json"
    path.write_text(path.read_text().replace(key, key[::-1]))
    with pytest.raises(ValueError, match="settings.json: damaged.*record_sha256"):
        label_tables.read_settings(tmp_path / "r")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centroids": np.zeros((2, 3))}, "'centroids' is float64"),
        ({"centroids": np.zeros(2, np.float32)}, r"'centroids' is float32 \(2,\)"),
        ({"centroids": np.full((2, 3), np.nan, np.float32)}, "not finite"),
        ({"sizes": np.array([1, -2])}, "negative sizes or inertia"),
        ({"inertia": np.float64(-1)}, "negative sizes or inertia"),
        ({"sizes": np.array([1, 2, 3])}, r"'sizes' is int64 \(3,\) where int64 \(2,\)"),
        ({"inertia": np.array(["1"])}, "'inertia': holds '<U1'"),
        ({"normalize": np.array([None])}, "'normalize': holds '|O'"),
        ({"pca_projection": np.zeros((5, 4), np.float32)}, "'pca_projection' is"),
        ({"labels": np.array([0, 1, 9, 0], np.int32)}, "example 2 the label 9"),
    ],
)
def test_a_forged_archive_is_an_error_of_its_name(tmp_path, changes, message):
    write(tmp_path / "r")
    with np.load(tmp_path / "r" / "audio.npz") as arrays:
        forged = dict(arrays) | changes
    np.savez(tmp_path / "forged.npz", **forged)
    content = (tmp_path / "forged.npz").read_bytes()
    rewrite(tmp_path / "r", "audio.npz", content)
    with pytest.raises(ValueError, match=message):
        label_tables.read(tmp_path / "r")


def test_forged_labels_without_end_are_an_error_of_their_file(tmp_path):
    write(tmp_path / "r")
    name = "audio.labels.npy"
    content = (tmp_path / "r" / name).read_bytes()
    rewrite(tmp_path / "r", name, content.replace(b"(4,)", b"(4000000000,)", 1))
    with pytest.raises(ValueError, match=f"{name}: has"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "video_id,audio\nswim,0\n",
        "example_index,video_id,audio\n1,swim,0\n",
        "example_index,video_id,audio\n0\n",
        'example_index,video_id,audio\n0,"swim,0\n',
        f"example_index,video_id,audio\n0,{'x' * 200_000},0\n",
    ],
)
def test_a_forged_csv_is_an_error_of_its_name(tmp_path, text):
    write(tmp_path / "r")
    rewrite(tmp_path / "r", "labels.csv", text.encode())
    with pytest.raises(ValueError, match="labels.csv: damaged"):
        list(label_tables.read_video_ids(tmp_path / "r"))


def test_a_pipe_in_a_table_is_refused_at_once(tmp_path):
    write(tmp_path / "r")
    (tmp_path / "r" / "settings.json").unlink()
    os.mkfifo(tmp_path / "r" / "settings.json")
    with pytest.raises(FileNotFoundError, match="settings.json: missing"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"clusterings": 1, "sha256": 2}',
        '{"clusterings": [[]], "sha256": {}, "settings": {}}',
        '{"clusterings": ["a"], "sha256": {"a.npz": 1}, "settings": {}}',
        '{"clusterings": [], "sha256": {}, "settings": {"lr": NaN}}',
        '{"settings": ' + "[" * 100_000,
    ],
)
def test_damaged_settings_are_noticed(tmp_path, text):
    write(tmp_path / "r")
    (tmp_path / "r" / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings.json: damaged"):
        label_tables.read(tmp_path / "r")


def test_video_ids_and_health_are_checked_without_the_labels(tmp_path):
    write(tmp_path / "r", health={})
    for name in ("labels.csv", "health.json"):
        (tmp_path / "r" / name).write_text("changed")
    with pytest.raises(ValueError, match="labels.csv: damaged"):
        label_tables.read_video_ids(tmp_path / "r")
    with pytest.raises(ValueError, match="health.json: damaged"):
        label_tables.read_health(tmp_path / "r")


def test_a_record_of_names_that_lead_elsewhere_is_damaged(tmp_path):
    write(tmp_path / "r")
    text = (tmp_path / "r" / "settings.json").read_text()
    (tmp_path / "r" / "settings.json").write_text(text.replace('"audio"', '"../a"'))
    with pytest.raises(ValueError, match="settings.json: damaged .*'../a' cannot name"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize("name", [*FILES, "health.json"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "r", health={"audio": {}})
    (tmp_path / "r" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: missing"):
        label_tables.read(tmp_path / "r")


@pytest.mark.parametrize(
    ("clusterings", "message"),
    [
        (
            {"audio": clustering(), "video": clustering((0, 1))},
            r"shapes {'audio': \(4,\), 'video': \(2,\)}",
        ),
        ({"audio": clustering(np.zeros((4, 1), int))}, r"shapes {'audio': \(4, 1\)}"),
        ({"audio": clustering((0, 1))}, "more video ids for 2 labels"),
        ({"audio": clustering([0] * 6)}, "4 video ids for 6 labels"),
        ({"audio": clustering([0] * 9)}, "4 video ids for 9 labels"),
        ({"audio": clustering()._replace(labels=np.zeros(4))}, "labels of float64"),
        ({"audio": clustering((0, 1, 2, 0))}, "example 2 the label 2, but there are 2"),
        ({"audio": clustering((0, 1, 0, -2))}, "example 3 the label -2"),
        (
            {"audio": clustering()._replace(labels=np.full(4, 2**32))},
            "example 0 the label 4294967296",
        ),
        ({"audio": clustering(sizes=np.ones(3))}, "3 sizes for 2 centroids"),
        ({"audio": clustering(offsets=np.ones(1))}, "1 offsets for 2 centroids"),
        ({"../audio": clustering()}, "cannot name a file and a column"),
        ({"video_id": clustering()}, "cannot name a file and a column"),
    ],
)
def test_clusterings_that_do_not_fit_are_refused_and_nothing_is_left(
    tmp_path, three_rows_per_block, clusterings, message
):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "r", clusterings)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
@pytest.mark.parametrize("part", ["settings", "health"])
def test_what_json_cannot_hold_is_refused(tmp_path, part, value):
    with pytest.raises(ValueError, match=f"{part} cannot be written as JSON"):
        write(tmp_path / "r", **{part: {"seed": value}})
    assert os.listdir(tmp_path) == []


def test_a_failing_write_leaves_the_former_table(tmp_path, three_rows_per_block):
    def failing_ids():
        yield from VIDEO_IDS[:3]
        raise OSError("no more")

    write(tmp_path / "r")
    with pytest.raises(OSError, match="no more"):
        write(tmp_path / "r", {"joint": clustering()}, video_ids=failing_ids())
    assert list(label_tables.read(tmp_path / "r").clusterings) == ["audio"]
    assert os.listdir(tmp_path) == ["r"]


def test_reading_imports_no_tensorflow():
    code = (
        "import sys, xdc_tf.labels.label_tables, xdc_tf.labels.agreement;"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
