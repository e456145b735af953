"""A frame and audio of some examples, against the whole records."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import example_previews, record_directory, records
from xdc_tf.data.record_framing import read_record


def open_source(directory):
    return record_directory.open_directory(str(directory))


def parsed_record(source, place):
    path, number = record_directory.record_place(source.directory, source.info, place)
    serialized = tf.constant(read_record(path, number))
    return records.parse_record(serialized, source.info)


def test_a_preview_is_the_middle_frame_and_the_audio_of_its_record(tiny_records):
    source = open_source(tiny_records / "train")
    previews, faults = example_previews.read_previews(source, [17, 3, 3])
    assert not faults and sorted(previews) == [3, 17]
    parsed = parsed_record(source, 17)
    assert int(parsed["example_index"]) == 17
    # 12 frames, of which the sixth ends in the middle.
    frame = tf.io.decode_jpeg(parsed["video_items"][5]).numpy()
    np.testing.assert_array_equal(previews[17].frame, frame)
    np.testing.assert_array_equal(previews[17].audio_rows, parsed["audio_rows"])


def test_of_long_audio_the_middle_is_read(tiny_records, monkeypatch):
    monkeypatch.setattr(example_previews, "MOST_SECS", 0.1)
    source = open_source(tiny_records / "train")
    previews, _ = example_previews.read_previews(source, [0])
    rows = parsed_record(source, 0)["audio_rows"].numpy()
    assert len(rows) == 75
    np.testing.assert_array_equal(previews[0].audio_rows, rows[35:40])


def test_what_cannot_be_read_is_named_and_the_others_are_there(tiny_records, tmp_path):
    shutil.copytree(tiny_records / "train", tmp_path / "train")
    source = open_source(tmp_path / "train")
    path, _ = record_directory.record_place(source.directory, source.info, 0)
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(b"\xff" * size)
    previews, faults = example_previews.read_previews(source, [0, 9])
    assert list(previews) == [9]
    (fault,) = faults
    assert fault.startswith(f"{path}, example_index 0: frame 0: ")


def test_an_index_that_is_gone_costs_the_examples_of_its_shard(tiny_records, tmp_path):
    shutil.copytree(tiny_records / "train", tmp_path / "train")
    source = open_source(tmp_path / "train")
    path, _ = record_directory.record_place(source.directory, source.info, 8)
    (tmp_path / "train" / f"{path}.index").unlink()
    previews, faults = example_previews.read_previews(source, [0, 9, 10])
    assert list(previews) == [0]
    assert len(faults) == 1 and f"{path}.index cannot be read" in faults[0]


def test_a_waveform_is_the_middle_of_the_stored_one(waveform_records, monkeypatch):
    monkeypatch.setattr(example_previews, "MOST_SECS", 0.5)
    source = open_source(waveform_records / "train")
    samples = parsed_record(source, 9)["waveform"].numpy()
    middle = samples[(len(samples) - 8000) // 2 :][:8000]
    np.testing.assert_array_equal(example_previews.read_waveform(source, 9), middle)


@pytest.mark.parametrize("place, number", [(0, 0), (7, 7), (8, 0), (23, 7)])
def test_a_record_lies_where_examples_csv_says(place, number, tiny_records):
    source = open_source(tiny_records / "train")
    path, found = record_directory.record_place(source.directory, source.info, place)
    assert found == number and path.endswith(
        source.info.shards[source.examples.shard_numbers[place]].file
    )
