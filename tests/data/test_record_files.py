"""Records read in part next to TensorFlow's own reader and parser."""

import os
import struct

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import record_files, record_source, records

LOG_MEL = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
WAVEFORM = np.linspace(-1, 1, 10, dtype=np.float32)
# Lengths of one to four bytes, and an image that ends in zeros.
IMAGES = [b"", b"a" * 100, b"b" * 200, b"c" * 40_000, b"d" * 3_000_000, b"\0\1\0\0"]


def encode(frames_jpeg, **changed):
    values = {
        "example_index": 7,
        "data_path": "videos/ä.mp4",
        "video_id": "videos/ä.mp4#t=1.5,2",
        "frames_jpeg": frames_jpeg,
        "log_mel": LOG_MEL,
        "start_us": 1_500_000,
        "end_us": 2_000_000,
        "frame_rate": 4.0,
        "height": 48,
        "width": 64,
    }
    return records.encode_example(**values | changed)


def write(path, *serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    return str(path)


@pytest.fixture
def path(tmp_path):
    return write(
        tmp_path / "shard",
        encode([b"one", b"two"], label=3, label_text="dog"),
        encode(IMAGES, waveform=WAVEFORM),
        encode([]),
    )


def examples(path, modalities):
    """As read in part, with all frames, and as parsed."""
    source = record_source.record_source([path], num_filters=4, modalities=modalities)
    in_part = source.open(tf.constant(path)).map(source.parse)
    parsed = tf.data.TFRecordDataset(path).map(
        lambda one: records.parse_example(one, num_filters=4, modalities=modalities)
    )
    return zip(
        in_part.map(record_source.with_jpegs).as_numpy_iterator(),
        parsed.as_numpy_iterator(),
        strict=True,
    )


@pytest.mark.parametrize("modalities", [["video"], ["audio"], ["video", "audio"]])
def test_what_is_read_in_part_is_what_is_parsed(path, modalities):
    for found, expected in examples(path, modalities):
        if "video" in modalities:
            expected["jpegs"] = expected.pop("frames_jpeg")
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_frames_are_read_in_the_order_that_is_asked_for(path):
    span = record_files.record_spans(path)[1]
    record = record_files.read_record(
        path, span, frames_key=records.FRAMES, other_keys=[]
    )
    assert record_files.read_frames(path, record.frames[[5, 1, 5]]) == [
        *(IMAGES[5], IMAGES[1], IMAGES[5])
    ]


def test_nothing_of_the_frames_or_of_other_lists_is_read(path):
    span = record_files.record_spans(path)[1]
    record = record_files.read_record(
        path, span, frames_key=records.FRAMES, other_keys=[records.LOG_MEL]
    )
    rest = tf.train.SequenceExample.FromString(record.rest)
    assert set(rest.feature_lists.feature_list) == {records.LOG_MEL}
    assert rest.context.feature[records.MEDIA_ID].bytes_list.value


def test_parts_of_a_message_may_come_in_any_order(tmp_path):
    one = tf.train.SequenceExample.FromString(encode([b"one"]))
    other = tf.train.SequenceExample(feature_lists=one.feature_lists)
    one.ClearField("feature_lists")
    # Serialized messages one after the other are one message.
    both = other.SerializeToString() + one.SerializeToString()
    ((found, expected),) = examples(write(tmp_path / "one", both), ["video", "audio"])
    assert found["example_index"] == 7
    assert found["jpegs"].tolist() == expected["frames_jpeg"].tolist() == [b"one"]


def test_an_empty_file_has_no_records(tmp_path):
    assert record_files.record_spans(write(tmp_path / "none")).shape == (0, 2)


@pytest.mark.parametrize("missing", [1, 10, 100])
def test_a_file_that_ends_within_a_record_is_damaged(path, missing):
    os.truncate(path, os.path.getsize(path) - missing)
    with pytest.raises(ValueError, match=f"{path} is damaged .*within record 3"):
        record_files.record_spans(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone: No such file.*; put the records back"):
        record_files.record_spans(str(tmp_path / "gone"))


def read_all(path):
    """Reads all of the first record in part."""
    span = record_files.record_spans(path)[0]
    record = record_files.read_record(
        path, span, frames_key=records.FRAMES, other_keys=[records.LOG_MEL]
    )
    return record_files.read_frames(path, record.frames)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a tag alone
        b"\x0a\x05abc",  # shorter than its length
        b"\x08\x01",  # a field that is a number
        b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # no length
        b"\x12\xff\xff\xff\xff\x7f" + b"\x0a" * 20,  # 34 GB
        b"not a SequenceExample",
    ],
)
def test_what_is_no_sequence_example_is_damaged(tmp_path, data):
    path = write(tmp_path / "one", data)
    with pytest.raises(ValueError, match=f"{path} is damaged .record at byte 12"):
        read_all(path)


def test_every_byte_of_a_record_may_be_wrong(tmp_path):
    """It is read, or refused with the file's name; nothing else happens."""
    data = encode([b"one", b"two" * 50])
    path = str(tmp_path / "one")
    num_refused = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        with open(path, "wb") as file:
            file.write(struct.pack("<Q4x", len(data)) + changed + bytes(4))
        try:
            read_all(path)
        except ValueError as error:
            num_refused += 1
            assert str(error).startswith(f"{path} is damaged")
    assert 0 < num_refused < len(data)


def test_frames_that_have_gone_since_are_damaged(path):
    span = record_files.record_spans(path)[1]
    record = record_files.read_record(
        path, span, frames_key=records.FRAMES, other_keys=[]
    )
    os.truncate(path, 300)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        record_files.read_frames(path, record.frames)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        record_files.read_record(path, span, frames_key=records.FRAMES, other_keys=[])


def test_remote_files_are_read_as_a_whole():
    source = record_source.record_source(["s3://bucket/shard"], num_filters=4)
    assert source.open is tf.data.TFRecordDataset
