"""Records, indices and tables as a stranger could write them: one clear error each."""

import csv
import io
import json
import os
import shutil
import struct

import numpy as np
import pytest
import record_files
import tensorflow as tf

from xdc_tf.data import (
    dataset_info,
    example_tables,
    jpeg_frames,
    pipeline,
    record_directory,
    record_index,
)
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.record_index import SUFFIX

pytestmark = pytest.mark.once

SHARD = "records-00001-of-00003.tfrecord"  # of the examples 8 to 15
CLIP = ClipSettings(
    num_frames=4,
    fps=8.0,
    crop_size=16,
    crop_share=0.875,
    audio_secs=0.5,
    mel_hop_secs=0.02,
    num_mels=40,
    log_mel_mean=0.0,
    log_mel_std=1.0,
)
# Places in an index's vector.
INDEX, START, END, SHARD_BYTES, POSITION, ROW_BYTES, NUM_ROWS, FRAMES = range(8)
NUM_FRAMES = 12


@pytest.fixture
def folder(tiny_records, tmp_path):
    """A copy of the 24 training records, to be changed."""
    return shutil.copytree(tiny_records / "train", tmp_path / "records")


def batches_of(folder, *, training=False, modalities=("video", "audio")):
    """All evaluation batches, or an epoch of training batches, of a directory."""
    opened = record_directory.open_directory(str(folder))
    paths = dataset_info.shard_paths(str(folder), opened.info)
    source = ClipSource(paths, CLIP, modalities, opened.promised)
    if not training:
        return list(pipeline.evaluation_batches(source, batch_size=4))
    batches = pipeline.training_batches(
        source,
        batch_size=4,
        augmentation=Augmentation(),
        keep=np.ones(opened.info.num_rows, bool),
        seed=0,
        shuffle_buffer=8,
    )
    return list(batches.take(6))


def error_of(function, *arguments, **options):
    """The message of a ValueError, or of one within a data set."""
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    if isinstance(caught.value, tf.errors.OpError):
        assert "ValueError: " in message
        message = message.split("ValueError: ", 1)[1].split("\nTraceback")[0]
    assert "\n" not in message
    return message


def change_entry(folder, number, change):
    """Changes an entry of the index: change(vector) works on a copy or returns one."""
    index = folder / (SHARD + SUFFIX)
    vectors = [vector.copy() for vector in record_files.read_vectors(index)]
    changed = change(vectors[number])
    vectors[number] = vectors[number] if changed is None else changed
    record_files.write_vectors(index, vectors)


def test_untouched_records_pass(folder):
    found = np.concatenate([batch["example_index"] for batch in batches_of(folder)])
    assert found.tolist() == list(range(24))
    assert len(batches_of(folder, training=True)) == 6


@pytest.mark.parametrize("name", [SHARD, SHARD + SUFFIX])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_missing_file_is_named_when_a_directory_is_opened(folder, name, is_old):
    if is_old:
        record_files.forget_sizes(folder)
    (folder / name).unlink()
    message = error_of(record_directory.open_directory, str(folder))
    assert name in message and "cannot be read" in message


@pytest.mark.parametrize("num_kept", [0, 5])
@pytest.mark.parametrize("is_old", [False, True])
def test_an_index_without_some_of_its_records_is_named(folder, num_kept, is_old):
    if is_old:
        record_files.forget_sizes(folder)
    index = folder / (SHARD + SUFFIX)
    record_files.write_vectors(index, record_files.read_vectors(index)[:num_kept])
    message = error_of(record_directory.open_directory, str(folder))
    size = index.stat().st_size
    if is_old:
        assert f"{SHARD}.index has {num_kept} records, and examples.csv" in message
    else:
        assert f"{SHARD}.index has {size} bytes, and dataset_info.json" in message


@pytest.mark.parametrize("is_old", [False, True])
def test_a_shard_that_lost_its_last_record_is_named(folder, is_old):
    if is_old:
        record_files.forget_sizes(folder)
    last = record_files.read_vectors(folder / (SHARD + SUFFIX))[-1]
    os.truncate(folder / SHARD, last[FRAMES] - 300)
    message = error_of(record_directory.open_directory, str(folder))
    assert SHARD in message and f" has {last[FRAMES] - 300} bytes" in message


CHANGES = {
    "short": (lambda v: v[:6], "48 bytes are no entry"),
    "odd": (lambda v: v[:-1], "are no entry"),
    "bytes": (lambda v: v.tobytes()[:-3], "are no entry"),
    "twice": (lambda v: v.__setitem__(INDEX, 10), "example_index 10 comes after 10"),
    "foreign": (
        lambda v: v.__setitem__(INDEX, 17),
        "example_index 17 is here, and by examples.csv 11",
    ),
    "negative": (lambda v: v.__setitem__(INDEX, -1), "-1 comes after 10"),
    "huge": (lambda v: v.__setitem__(INDEX, 2**62), "by examples.csv 11"),
    "backwards": (lambda v: v.__setitem__(END, 0), "from 0 to 0 microseconds"),
    "later": (lambda v: v.__setitem__(END, 2**62), "end is 4611686018427387904 micro"),
    "size": (lambda v: v.__setitem__(SHARD_BYTES, 2**40), "and not the 1099511627776"),
    "no_rows": (lambda v: v.__setitem__(NUM_ROWS, 0), "a place of rows without"),
    "no_sound": (
        lambda v: v.__setitem__([POSITION, ROW_BYTES, NUM_ROWS], 0),
        "no rows of audio",
    ),
    "few_rows": (lambda v: v.__setitem__(NUM_ROWS, 70), "70 rows of log-mel for 1.5"),
    "many_rows": (lambda v: v.__setitem__(NUM_ROWS, 2**61), "do not fit"),
    "row_bytes": (lambda v: v.__setitem__(ROW_BYTES, 3), "40 values take 169"),
    "moved": (lambda v: v.__setitem__(POSITION, v[POSITION] - 4), "rows of audio"),
    "far": (lambda v: v.__setitem__(POSITION, 2**62), "do not fit into the shard"),
    "no_frames": (lambda v: v[:FRAMES], "no items of video"),
    "frame": (lambda v: v.__setitem__(FRAMES + 3, 7), "items do not follow"),
    "negative_size": (lambda v: v.__setitem__(-1, -5), "items lie outside"),
    "huge_size": (lambda v: v.__setitem__(-1, 2**62), "items lie outside"),
    "wrapped": (
        lambda v: v.__setitem__(slice(FRAMES + NUM_FRAMES, None), 2**62),
        "items lie outside",
    ),
    "one_frame": (
        lambda v: v[[*range(FRAMES + 1), FRAMES + NUM_FRAMES]],
        "1 items of jpeg for 1.5",
    ),
    "another_record": (
        lambda v: v.__setitem__(
            slice(FRAMES, FRAMES + NUM_FRAMES), v[FRAMES : FRAMES + NUM_FRAMES] - 20000
        ),
        "outside of bytes",
    ),
}


def read(folder, promised):
    """What reading the index checks for a pass over both modalities."""
    record_index.read_index(
        str(folder / SHARD),
        modalities=("video", "audio"),
        row_length=CLIP.num_mels,
        promised=promised,
    )


# A place that is wrong by less than a row is seen by what is read there.
@pytest.mark.parametrize("name", [name for name in CHANGES if name != "moved"])
def test_an_entry_that_cannot_be_true_is_named(folder, name):
    promised = record_directory.open_directory(str(folder)).promised
    read(folder, promised)
    change, what = CHANGES[name]
    change_entry(folder, 3, change)
    message = error_of(read, folder, promised)
    assert SHARD in message and what in message


# By an entry alone, examples.csv, a row's values, what is asked for, and what is read.
@pytest.mark.parametrize("name", ["short", "foreign", "row_bytes", "no_sound", "moved"])
@pytest.mark.parametrize("training", [False, True])
def test_an_entry_that_cannot_be_true_ends_the_pass(folder, name, training):
    change, what = CHANGES[name]
    change_entry(folder, 3, change)
    values = json.loads((folder / "dataset_info.json").read_text())
    values["shards"][1]["index_bytes"] = (folder / (SHARD + SUFFIX)).stat().st_size
    record_files.change_info(folder, shards=values["shards"])
    message = error_of(batches_of, folder, training=training)
    assert SHARD in message and what in message


def test_entries_of_one_modality_need_not_have_the_other(folder):
    change_entry(folder, 3, lambda v: v[:FRAMES])
    values = json.loads((folder / "dataset_info.json").read_text())
    values["shards"][1]["index_bytes"] = (folder / (SHARD + SUFFIX)).stat().st_size
    record_files.change_info(folder, shards=values["shards"])
    assert len(batches_of(folder, modalities=["audio"])) == 6


def test_a_length_of_terabytes_is_an_error_and_not_the_end_of_the_process(folder):
    index = folder / (SHARD + SUFFIX)
    data = index.read_bytes()
    forged = record_files.framed(b"", length=2**40)
    index.write_bytes(forged + data[len(forged) :])
    message = error_of(batches_of, folder)
    assert f"{SHARD}.index, record 0: cut off: " in message
    assert f"of its {2**40 + 16} bytes are there" in message


def test_two_entries_that_changed_places_are_named(folder):
    index = folder / (SHARD + SUFFIX)
    vectors = record_files.read_vectors(index)
    vectors[2], vectors[3] = vectors[3], vectors[2]
    record_files.write_vectors(index, vectors)
    assert "example_index 11 is here, and by examples.csv 10" in error_of(
        batches_of, folder
    )


def place_frames(folder, make):
    """Changes the images of example 11: make(number, jpeg) keeps their lengths."""
    entry = record_files.read_vectors(folder / (SHARD + SUFFIX))[3]
    data = bytearray((folder / SHARD).read_bytes())
    places = entry[FRAMES:].reshape(2, -1).T.tolist()
    for number, (first, size) in enumerate(places):
        data[first : first + size] = make(number, bytes(data[first : first + size]))
    (folder / SHARD).write_bytes(data)


def with_size(jpeg, height, width):
    """The image with another size in its header."""
    size = struct.pack(">HH", *jpeg_frames.declared_size(jpeg))
    return jpeg.replace(b"\x08" + size, b"\x08" + struct.pack(">HH", height, width), 1)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (
            lambda number, jpeg: with_size(jpeg, 65500, 65500),
            "frame 0 has 65500 x 65500 pixels, which must be 1 to 33554432",
        ),
        (
            lambda number, jpeg: with_size(jpeg, 64, 64),
            "frame 0 has 64 x 64 pixels, and by dataset_info.json the shorter side",
        ),
        (
            lambda number, jpeg: with_size(jpeg, 32, 40) if number == 5 else jpeg,
            "has 40 x 32 pixels, and the first one 32 x 32",
        ),
        (lambda number, jpeg: b"x" * len(jpeg), "frame 0: .* bytes are no JPEG image"),
        (
            lambda number, jpeg: jpeg.replace(b"\xff\xc0", b"\xff\xc2", 1),
            "no JPEG image of sequential coding",
        ),
    ],
)
def test_a_frame_of_another_size_is_named_before_it_is_decoded(folder, make, what):
    place_frames(folder, make)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"example_index 11: .*{what}"
    ):
        batches_of(folder, modalities=["video"])


def test_the_size_that_is_read_is_the_one_that_the_decoder_sees():
    for height, width in ((1, 1), (32, 48), (300, 17)):
        for options in ({}, {"format": "grayscale"}, {"xmp_metadata": "note"}):
            channels = 1 if options.get("format") else 3
            image = np.zeros((height, width, channels), np.uint8)
            jpeg = tf.io.encode_jpeg(image, **options).numpy()
            shape = tf.io.extract_jpeg_shape(jpeg).numpy()
            assert (
                jpeg_frames.declared_size(jpeg) == tuple(shape[:2]) == (height, width)
            )


def test_log_mel_that_is_not_finite_is_named(folder):
    entry = record_files.read_vectors(folder / (SHARD + SUFFIX))[3]
    data = bytearray((folder / SHARD).read_bytes())
    end = entry[POSITION] + entry[ROW_BYTES] * entry[NUM_ROWS]
    data[entry[POSITION] + 9 : end : entry[ROW_BYTES]] = b"\0" * entry[NUM_ROWS]
    for row in range(entry[NUM_ROWS]):
        first = entry[POSITION] + (row + 1) * entry[ROW_BYTES] - 4
        data[first : first + 4] = np.float32(np.nan).tobytes()
    (folder / SHARD).write_bytes(data)
    message = error_of(batches_of, folder, modalities=["audio"])
    assert f"{SHARD}, example_index 11: values of audio are not finite" in message


INFO_CHANGES = {
    "num_rows": [10**12, -1, 24.0, "24", True, float("nan")],
    "num_examples": [23, -24, None],
    "num_quarantined": [1, -1, 10**12],
    "fps": [0, -8, float("inf"), float("nan"), "8", 10**400],
    "short_side": [0, 32.5, 10**6],
    "jpeg_quality": [0, "90"],
    "min_secs": [-1, 61.0],
    "max_secs": [float("nan"), [60]],
    "has_waveform": [0, "no"],
    "rows_per_shard": [0, -8, 7, 10**12],
    "log_mel_mean": [float("nan"), "1"],
    "log_mel_std": [float("nan"), float("-inf"), -1],
    "label_names": ["abc", [1, 2], [""], ["a", "a"], {}],
    "shards": [[], {}, "x", [{"file": "../x", "num_examples": 24}]],
    "modalities": ["video", ["video", "smell"], 3, ["x" * 9000]],
    "x" * 9000: [0],
    "segment_secs": [0, "1"],
    "max_segments": [0, 1.5],
    "limits": [[], {"a": "b"}, {"a": float("nan")}],
    "payloads": [
        5,
        None,
        [],
        {"jpeg": {}},
        {"mpeg": {}},
        {"h264": {"gop": 0}},
        {"x" * 9000: 1},
    ],
    "manifest_sha256": [1, []],
    "log_mel": [
        {},
        [],
        {"num_filters": 10**12},
        {"hop_ms": float("inf")},
        {"fft_size": 2**40},
        {"sample_rate_hz": "16000"},
        {"window_ms": float("nan")},
    ],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in INFO_CHANGES.items() for value in values],
)
def test_a_value_of_dataset_info_that_cannot_be_is_named(folder, key, value):
    path = folder / "dataset_info.json"
    values = json.loads(path.read_text())
    if key == "log_mel" and value:
        value = values["log_mel"] | value
    path.write_text(json.dumps(values | {key: value}))
    message = error_of(record_directory.open_directory, str(folder))
    assert str(folder) in message
    assert len(message) < 500


def test_rows_that_no_table_lists_are_not_believed(folder):
    values = json.loads((folder / "dataset_info.json").read_text())
    record_files.change_info(
        folder,
        num_rows=10**12,
        num_quarantined=10**12 - 24,
        rows_per_shard=10**12,
        shards=[
            {"file": shard["file"], "num_examples": 24 * (number == 0)}
            for number, shard in enumerate(values["shards"][:1])
        ],
    )
    assert "24 rows by examples.csv and quarantine.csv, but by" in error_of(
        record_directory.open_directory, str(folder)
    )


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", "\x00", '{"format_version": 1e0}']
)
def test_what_is_no_dataset_info_is_one_line(folder, text):
    (folder / "dataset_info.json").write_text(text)
    assert "dataset_info.json" in error_of(dataset_info.read_dataset_info, str(folder))


EXAMPLE_CHANGES = {
    "example_index": {
        "7": "comes after 8",
        "8": "comes after 8",
        "-1": "'-1' is no row's number",
        "24": "24 is none of the 24 rows",
        "1000000000000": "is none of the 24 rows",
        "9" * 5000: "is no row's number",
        "nine": "'nine' is no row's number",
        "1_0": "is no row's number",
        "9.0": "is no row's number",
        "٩": "is no row's number",
        "": "is no row's number",
        "17": "is in shard records-00001-of-00003.tfrecord, and should be in",
    },
    "video_id": {
        "": "a video_id of 0 characters",
        "x" * 9000: "a video_id of 9000 characters",
        "videos/seed0_000000.mp4": "is there twice",
        "x" * 200_000: "field larger than field limit",
    },
    "label": {"nobody": "label 'nobody' is none of label_names"},
    "shard": {
        "../x": "shard '../x' is none of",
        "records-00000-of-00003.tfrecord": "and should be in",
    },
    "start_secs": {
        "nan": "'nan' is no time",
        "soon": "'soon' is no time",
        "-1": "'-1' is no time",
        "2.0": "is from 2.0 to 1.5 s",
        "1.5": "is from 1.5 to 1.5 s",
    },
    "end_secs": {"inf": "'inf' is no time", "1e300": "'1e300' is no time"},
}


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column, values in EXAMPLE_CHANGES.items() for value in values],
)
def test_a_row_of_examples_that_cannot_be_is_named_by_its_line(folder, column, value):
    path = folder / "examples.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    rows[9][column] = value
    example_tables.write_csv(str(path), rows[0], (row.values() for row in rows))
    message = error_of(record_directory.open_directory, str(folder))
    assert f"{path}, line 11: " in message
    assert EXAMPLE_CHANGES[column][value] in message


def test_rows_of_another_shards_number_are_named(folder):
    path = folder / "examples.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:10] + lines[11:]))
    assert f"has 7 rows of {SHARD}, and dataset_info.json says 8" in error_of(
        record_directory.open_directory, str(folder)
    )


def test_a_pipe_in_place_of_an_index_does_not_wait_for_a_writer(folder):
    record_files.forget_sizes(folder)
    (folder / (SHARD + SUFFIX)).unlink()
    os.mkfifo(folder / (SHARD + SUFFIX))
    assert "is a pipe, socket or device" in error_of(
        record_directory.open_directory, str(folder)
    )


def test_records_that_differ_in_any_key_are_told_apart(tiny_records):
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    assert dataset_info.differences(info, info) == []
    old = info._replace(
        limits={}, shards=tuple(s._replace(num_bytes=None) for s in info.shards)
    )
    assert dataset_info.differences(old, info) == []
    other = info._replace(
        fps=16.0, log_mel=info.log_mel._replace(hop_ms=10.0), shards=info.shards[:2]
    )
    assert dataset_info.differences(info, other) == [
        "fps 8.0 there, 16.0 now",
        "number of shards 3 there, 2 now",
        "log_mel.hop_ms 20.0 there, 10.0 now",
    ]
    shards = (info.shards[0]._replace(num_bytes=5), *info.shards[1:])
    assert dataset_info.differences(info, info._replace(shards=shards)) == [
        f"shards[0].num_bytes {info.shards[0].num_bytes} there, 5 now"
    ]
