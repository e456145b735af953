"""The index beside a shard: where frames and log-mel rows lie, and reading them."""

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import record_index, record_layout, records, shard_writing

LOG_MEL = np.arange(50, dtype=np.float32).reshape(10, 5)
FRAMES = [b"first", b"", b"third " * 30]


def encode(**changed):
    values = {
        "example_index": 3,
        "data_path": "a.mp4",
        "video_id": "a.mp4",
        "video_items": FRAMES,
        "start_us": 5,
        "end_us": 2**40,
        "frame_rate": 8.0,
        "height": 2,
        "width": 3,
        "labels": [1],
        "label_texts": ["label"],
        "audio_rows": LOG_MEL,
        "waveform": np.ones(300, np.float32),
    }
    return records.encode_example(records.Example(**values | changed))


def write(path, *serialized):
    with shard_writing.ShardWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    return str(path)


def read_entries(path):
    return [entry for _, entry in record_index.read_index(path)]


def cut(data, positions, sizes):
    return [
        data[position : position + size]
        for position, size in zip(positions, sizes, strict=True)
    ]


def test_positions_in_a_shard_are_those_of_frames_and_log_mel_rows(tmp_path):
    path = write(tmp_path / "shard", encode(), encode(example_index=4, video_items=[]))
    data = (tmp_path / "shard").read_bytes()
    first, second = read_entries(path)
    assert cut(data, first.item_positions, first.item_bytes) == FRAMES
    assert second.item_positions.shape == (0,)
    for entry, index in ((first, 3), (second, 4)):
        assert entry[:4] == (index, 5, 2**40, len(data))
        row_ends = entry.rows_position + entry.row_bytes * np.arange(1, 11)
        assert entry.num_rows == 10
        assert cut(data, row_ends - 20, [20] * 10) == [row.tobytes() for row in LOG_MEL]


def test_a_record_without_log_mel_has_none():
    entry = record_layout.locate(encode(audio_rows=None))
    assert (entry.rows_position, entry.num_rows) == (0, 0)


def test_one_log_mel_row_is_found():
    serialized = encode(audio_rows=LOG_MEL[:1])
    entry = record_layout.locate(serialized)
    end = entry.rows_position + entry.row_bytes
    assert serialized[end - 20 : end] == LOG_MEL[0].tobytes()


def test_the_index_of_a_shard_made_anew_is_the_one_written_with_it(tmp_path):
    path = write(tmp_path / "shard", encode(), encode(example_index=9))
    index = tmp_path / "shard.index"
    written = index.read_bytes()
    index.unlink()
    shard_writing.index_shard(path)
    assert index.read_bytes() == written


def test_other_readers_find_the_records_of_a_shard(tmp_path):
    path = write(tmp_path / "shard", encode(), encode(example_index=9))
    assert [one.numpy() for one in tf.data.TFRecordDataset(path)] == [
        encode(),
        encode(example_index=9),
    ]


def test_a_shard_that_fails_halfway_gets_no_name(tmp_path):
    with pytest.raises(ValueError, match="not a record"):
        write(tmp_path / "shard", encode(), b"no record")
    assert not (tmp_path / "shard").exists()
    assert not (tmp_path / "shard.index").exists()


def test_a_shard_of_other_records_is_refused_by_name(tmp_path):
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(encode())
        writer.write(b"other")
    with pytest.raises(ValueError, match="shard, record 1: 5 bytes are not a record"):
        shard_writing.index_shard(path)


def test_rows_of_different_sizes_are_refused():
    example = tf.train.SequenceExample.FromString(encode())
    example.feature_lists.feature_list[records.LOG_MEL].feature[
        4
    ].float_list.value.pop()
    with pytest.raises(ValueError, match="audio of different sizes"):
        record_layout.locate(example.SerializeToString())


def test_changed_bytes_are_refused_or_give_positions_within_the_record():
    serialized = encode(waveform=None)
    rng = np.random.default_rng(0)
    num_refused = 0
    for _ in range(2000):
        changed = bytearray(serialized[: rng.integers(1, len(serialized) + 1)])
        for place in rng.integers(0, len(changed), rng.integers(0, 4)):
            changed[place] = rng.integers(256)
        try:
            entry = record_layout.locate(bytes(changed))
        except ValueError:
            num_refused += 1
            continue
        ends = entry.item_positions + entry.item_bytes
        assert np.all(ends <= len(changed))
        rows_bytes = entry.num_rows * entry.row_bytes
        assert 0 <= entry.rows_position <= len(changed) - rows_bytes
    assert 500 < num_refused < 2000


def read(path, positions, sizes, file_bytes):
    return record_index.read_file(
        str(path), np.array(positions), np.array(sizes), file_bytes
    )


def test_parts_of_a_file_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    assert read(path, [30, 0, 95], [5, 100, 5], 100) == [
        bytes(range(30, 35)),
        bytes(range(100)),
        bytes(range(95, 100)),
    ]


def test_tensorflows_file_systems_read_the_same_parts(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    places = [(30, 5), (0, 100), (95, 5)]
    expected = record_index._read_local(str(path), places)
    assert record_index._read_remote(str(path), places) == expected


@pytest.mark.parametrize(("num_bytes", "end"), [(101, 35), (34, 35)])
def test_a_file_of_another_size_is_refused(num_bytes, end, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(num_bytes))
    with pytest.raises(
        ValueError,
        match=f"file has {num_bytes} bytes and not the 100 that .*file.index was made",
    ):
        read(path, [end - 5], [5], 100)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing_here cannot be read: .*No such"):
        read(tmp_path / "nothing_here", [0], [1], 2)
