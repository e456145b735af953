"""The three formats of features, each against the rows that were written."""

import csv
import sys

import numpy as np
import pytest
import tensorflow as tf
from pyarrow import parquet

from xdc_tf.inference import feature_files
from xdc_tf.inference.feature_files import FeatureRows

WIDTHS = {"video": 3, "audio": 2}


def _rows(numbers):
    """Rows of these numbers; the values tell row, stream and column."""
    return FeatureRows(
        paths=[f"a, {number}.mp4" for number in numbers],
        video_ids=[f"a, {number}.mp4#t=1,9" for number in numbers],
        start_secs=[1.0 + number / 8 for number in numbers],
        end_secs=[2.000001 + number / 8 for number in numbers],
        streams={
            stream: np.array(
                [
                    [100 * width + number + c / 8 for c in range(width)]
                    for number in numbers
                ],
                np.float32,
            ).reshape(-1, width)
            for stream, width in WIDTHS.items()
        },
    )


EVERY = _rows(range(5))


@pytest.fixture
def write(tmp_path):
    """Writes five rows in two steps with an empty one between."""

    def write(format_name):
        with feature_files.writer(format_name, str(tmp_path), WIDTHS) as append:
            for numbers in (range(2), [], range(2, 5)):
                append(_rows(numbers))
        return tmp_path

    return write


def test_npy_files_are_mapped_into_memory(write):
    folder = write("npy")
    for stream, expected in EVERY.streams.items():
        found = np.load(folder / f"{stream}.npy", mmap_mode="r", allow_pickle=False)
        assert isinstance(found, np.memmap)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_the_clips_csv_has_one_line_per_row_of_the_npy_files(write):
    with open(write("npy") / "clips.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["row", "path", "video_id", "start_secs", "end_secs"]
    assert lines[5] == ["4", "a, 4.mp4", "a, 4.mp4#t=1,9", "1.5", "2.500001"]
    assert len(lines) == 6


def test_npy_files_of_more_rows_than_the_header_was_written_for_are_whole(tmp_path):
    with feature_files.write_arrays(str(tmp_path), {"video": 1}) as append:
        for _ in range(11):
            append({"video": np.ones([1000, 1], np.float32)})
    array = np.load(tmp_path / "video.npy")
    assert (array.shape, array.sum()) == ((11000, 1), 11000)


def test_npy_files_without_rows_are_empty_arrays(tmp_path):
    with feature_files.write_arrays(str(tmp_path), {"video": 7}):
        pass
    assert np.load(tmp_path / "video.npy", mmap_mode="r").shape == (0, 7)


def test_parquet_holds_the_rows(write):
    table = parquet.read_table(write("parquet") / "features.parquet")
    assert table.column_names == [*feature_files.CLIP_COLUMNS, *WIDTHS]
    for name, expected in zip(feature_files.CLIP_COLUMNS, EVERY, strict=False):
        assert table[name].to_pylist() == expected
    for stream, expected in EVERY.streams.items():
        assert table[stream].to_pylist() == expected.tolist()


def test_parquet_is_written_in_groups_of_rows(write, monkeypatch):
    monkeypatch.setattr(feature_files, "_ROWS_PER_GROUP", 2)
    file = parquet.ParquetFile(write("parquet") / "features.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [2, 3]
    assert file.read()["start_secs"].to_pylist() == EVERY.start_secs


def test_tfrecords_hold_the_rows_under_the_names_of_records(write):
    (path,) = write("tfrecord").iterdir()
    assert path.name == "features-00000-of-00001.tfrecord"
    spec = {
        "clip/data_path": tf.io.FixedLenFeature([], tf.string),
        "clip/media_id": tf.io.FixedLenFeature([], tf.string),
        "clip/start/timestamp": tf.io.FixedLenFeature([], tf.int64),
        "clip/end/timestamp": tf.io.FixedLenFeature([], tf.int64),
        "video/feature/floats": tf.io.FixedLenFeature([3], tf.float32),
        "audio/feature/floats": tf.io.FixedLenFeature([2], tf.float32),
    }
    parsed = [
        tf.io.parse_single_example(serialized, spec)
        for serialized in tf.data.TFRecordDataset(str(path))
    ]
    found = {name: np.array([one[name].numpy() for one in parsed]) for name in spec}
    assert found["clip/data_path"].tolist() == [path.encode() for path in EVERY.paths]
    assert found["clip/media_id"][4] == b"a, 4.mp4#t=1,9"
    assert found["clip/start/timestamp"].tolist() == [
        *(1_000_000, 1_125_000, 1_250_000, 1_375_000, 1_500_000)
    ]
    assert found["clip/end/timestamp"][4] == 2_500_001
    for stream, expected in EVERY.streams.items():
        np.testing.assert_array_equal(found[f"{stream}/feature/floats"], expected)


def test_tfrecords_are_divided_into_numbered_files(write, monkeypatch):
    monkeypatch.setattr(feature_files, "_ROWS_PER_SHARD", 2)
    paths = sorted(str(path) for path in write("tfrecord").iterdir())
    assert [path.rpartition("/")[2] for path in paths] == [
        f"features-{number:05d}-of-00003.tfrecord" for number in range(3)
    ]
    names = [
        tf.train.Example.FromString(serialized.numpy())
        .features.feature["clip/data_path"]
        .bytes_list.value[0]
        .decode()
        for serialized in tf.data.TFRecordDataset(paths)
    ]
    assert names == EVERY.paths


def test_without_pyarrow_parquet_is_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        with feature_files.writer("parquet", str(tmp_path), WIDTHS):
            pass


def test_an_unknown_format_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'hdf5' is unknown; choose npy, parquet, tfr"):
        feature_files.writer("hdf5", str(tmp_path), WIDTHS)
