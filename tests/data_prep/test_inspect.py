"""Faults of records: every corruption is found, where it is and nowhere else."""

import functools
import json
import os
import shutil
import struct

import numpy as np
import pytest
import record_files
import tensorflow as tf
from forked_commands import run_command
from media_files import write_manifest

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.inspection import record_summary, record_tables
from data_prep.inspection.record_verification import find_faults, verify
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import example_tables, records, shard_writing

pytestmark = pytest.mark.once

SETTINGS = ConversionSettings(
    fps=10.0, short_side=48, min_secs=0.5, store_waveform=True
)
FIRST, LAST = "records-00000-of-00002.tfrecord", "records-00001-of-00002.tfrecord"
# Of a record's length, and of that length's checksum.
HEADER_BYTES = 12


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four rows, the second one broken."""
    return write_manifest(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def convert(manifest, tmp_path_factory):
    """Converts once with each settings: records 0 and 2 in FIRST, 3 in LAST."""

    @functools.cache
    def convert_once(settings):
        out = tmp_path_factory.mktemp("converted") / "records"
        convert_manifest(
            manifest,
            str(out),
            settings=settings,
            pool=PoolSettings(2),
            rows_per_shard=3,
        )
        return out

    return convert_once


@pytest.fixture
def copied(convert, tmp_path):
    """A copy of records of both modalities with waveforms, to be damaged."""
    return shutil.copytree(convert(SETTINGS), tmp_path / "records")


def faults_of(folder):
    folder = str(folder)
    return [
        str(fault) for fault in find_faults(folder, record_tables.read_info(folder))
    ]


def read_shard(path):
    return [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]


def write_shard(path, serialized):
    """Writes records with the right checksums and the index that belongs to them."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    shard_writing.index_shard(str(path))


def edit(path, number, change):
    """Changes one record of a shard: change(message) works on the SequenceExample."""
    serialized = read_shard(path)
    message = tf.train.SequenceExample.FromString(serialized[number])
    change(message)
    serialized[number] = message.SerializeToString(deterministic=True)
    write_shard(path, serialized)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def start_of(path, number):
    """Where a record's length is."""
    before = read_shard(path)[:number]
    return sum(HEADER_BYTES + len(serialized) + 4 for serialized in before)


def steps(message, key):
    return message.feature_lists.feature_list[key].feature


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"store_waveform": False},
        {"modalities": ("video",), "store_waveform": False},
        {"modalities": ("audio",)},
        {"keep_truncated": True},
    ],
)
def test_what_the_conversion_writes_has_no_faults(convert, changed, capsys):
    folder = convert(SETTINGS._replace(**changed))
    assert faults_of(folder) == []
    assert verify(str(folder)) == 0
    assert "no faults in" in capsys.readouterr().out


def test_a_flipped_bit_of_a_record_does_not_hide_the_records_after_it(copied):
    flip(copied / FIRST, start_of(copied / FIRST, 0) + HEADER_BYTES + 500)
    edit(copied / LAST, 0, lambda m: steps(m, records.LOG_MEL).pop())
    found = faults_of(copied)
    assert found[0].startswith(f"{FIRST}, record 0 (example_index 0): the checksum of")
    assert found[1].startswith(f"{LAST}, record 0 (example_index 3): log-mel has 49")
    assert all(fault.startswith(LAST) for fault in found[1:])


def test_a_flipped_bit_of_a_length_ends_its_shard_alone(copied):
    flip(copied / FIRST, start_of(copied / FIRST, 1))
    (copied / f"{LAST}.index").unlink()
    assert faults_of(copied) == [
        f"{FIRST}, record 1 (example_index 2): the checksum of its length is wrong; "
        "nothing from there on can be read",
        f"{LAST}.index: does not exist; python -m data_prep.convert makes it anew",
    ]


def test_a_shard_cut_off_within_a_record_names_the_record(copied):
    start = start_of(copied / FIRST, 1)
    whole = (copied / FIRST).stat().st_size - start
    os.truncate(copied / FIRST, start + 1000)
    assert faults_of(copied) == [
        f"{FIRST}, record 1 (example_index 2): cut off: 1000 of its {whole} bytes are "
        "there; nothing from there on can be read"
    ]


def test_a_shard_cut_off_between_records_names_what_is_missing(copied):
    os.truncate(copied / FIRST, start_of(copied / FIRST, 1))
    found = faults_of(copied)
    assert found[:2] == [
        f"{FIRST}: 1 records, dataset_info.json says 2",
        f"{FIRST}: lacks example_index 2 of examples.csv",
    ]
    assert found[2].startswith(
        f"{FIRST}.index, record 0 (example_index 0): shard_bytes"
    )
    assert found[3:] == [f"{FIRST}.index: 2 entries for 1 records"]


@pytest.mark.parametrize("garbage", [b"\0", b"garbage " * 9])
def test_bytes_after_the_last_record_are_a_fault(copied, garbage):
    with open(copied / FIRST, "ab") as file:
        file.write(garbage)
    (found,) = faults_of(copied)
    expected = f"{FIRST}: {len(garbage)} bytes after its last record are no record"
    assert found.startswith(expected)


def test_swapped_records_are_named_by_both_their_order_and_the_index(copied):
    serialized = read_shard(copied / FIRST)
    with tf.io.TFRecordWriter(str(copied / FIRST)) as writer:
        for one in reversed(serialized):
            writer.write(one)
    assert faults_of(copied) == [
        f"{FIRST}, record 1 (example_index 0): comes after example_index 2",
        f"{FIRST}.index, record 0 (example_index 2): example_index is 0, which should "
        "be 2",
        f"{FIRST}.index, record 1 (example_index 0): example_index is 2, which should "
        "be 0",
    ]


def test_a_record_of_another_shards_rows_is_a_fault(copied):
    (alien,) = read_shard(copied / LAST)
    write_shard(copied / FIRST, [read_shard(copied / FIRST)[0], alien])
    where = f"{FIRST}, record 1 (example_index 3)"
    assert faults_of(copied) == [
        f"{where}: examples.csv has no example_index 3 in this shard",
        f"{where}: example_index is not of the shard's rows, 0 to 2",
        f"{FIRST}: lacks example_index 2 of examples.csv",
    ] + [fault for fault in faults_of(copied) if fault.startswith("dataset_info.json")]


HEIGHT_AND_WIDTH = struct.pack(">HH", 48, 64)


def jpeg(height, width):
    return tf.io.encode_jpeg(np.zeros((height, width, 3), np.uint8)).numpy()


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (jpeg(32, 64), "frame 4 has height, width, channels (32, 64, 3), the record"),
        (jpeg(48, 64)[:300], "frame 4 of 300 bytes is no JPEG image: "),
        (b"", "frame 4 of 0 bytes is no JPEG image: "),
        # A header that promises 12 GB of pixels, if they were decoded.
        (
            jpeg(48, 64).replace(HEIGHT_AND_WIDTH, struct.pack(">HH", 65000, 65000)),
            "frame 4 has height, width, channels (65000, 65000, 3), the record",
        ),
    ],
)
def test_a_wrong_image_is_named(copied, image, what):
    def change(message):
        steps(message, records.FRAMES)[4].bytes_list.value[0] = image

    edit(copied / FIRST, 1, change)
    (found,) = faults_of(copied)
    assert found.startswith(f"{FIRST}, record 1 (example_index 2): {what}")


def set_value(values, number, value):
    values[number] = value


@pytest.mark.parametrize(
    ("change", "whats"),
    [
        (
            lambda m: set_value(
                steps(m, records.LOG_MEL)[7].float_list.value, 3, np.nan
            ),
            ["log-mel has values that are not finite, first in row 7"],
        ),
        (
            lambda m: set_value(steps(m, records.LOG_MEL)[7].float_list.value, 3, -20),
            ["log-mel has values outside -13.82 to "],
        ),
        (
            lambda m: set_value(steps(m, records.LOG_MEL)[7].float_list.value, 3, 0.5),
            ["log-mel differs from its waveform's by up to "],
        ),
        (
            lambda m: steps(m, records.LOG_MEL)[7].float_list.value.pop(),
            ["cannot be parsed: ", "rows of audio of different sizes"],
        ),
        (
            lambda m: set_value(
                steps(m, records.WAVEFORM)[0].float_list.value, 9, np.inf
            ),
            ["waveform has samples that are not finite"],
        ),
        (
            lambda m: steps(m, records.WAVEFORM)[0].float_list.value.extend([0.0] * 9),
            ["waveform has 16009 samples for 1.000000 s at 16000 Hz"],
        ),
        (
            lambda m: steps(m, records.FRAMES).pop(),
            ["has 9 frames for 1.000000 s at 10.0 per second"],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.WIDTH].int64_list.value, 0, 65
            ),
            ["frame 0 has height, width, channels (48, 64, 3), the record says (48, 65"]
            + [f"frame {number} has" for number in range(1, 10)],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.FRAME_RATE].float_list.value, 0, 25
            ),
            ["frame_rate is 25.0, dataset_info.json says 10.0"],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.LABEL_INDEX].int64_list.value, 0, 2
            ),
            [
                "clip/label/text is 'bell', label 2 of label_names is 'dog'",
                "clip/label/string is 'bell', label 2 of label_names is 'dog'",
                "label is 'dog', examples.csv says 'bell'",
            ],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.LABEL_INDEX].int64_list.value, 0, 3
            ),
            ["label 3 is none of the 3 label_names", "label is ''"],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.MEDIA_ID].bytes_list.value, 0, b"\xff\x1b"
            ),
            ["video_id is '\ufffd\\x1b', examples.csv says 'c.mp4'"],
        ),
        (
            lambda m: set_value(
                m.context.feature[records.START_TIMESTAMP].int64_list.value, 0, -5
            ),
            ["start is -5e-06 s", "is from -5 to 1000000 microseconds"],
        ),
        (
            lambda m: m.context.feature.pop(records.MEDIA_ID),
            ["cannot be parsed: "],
        ),
    ],
)
def test_wrong_values_of_a_record_are_named(copied, change, whats):
    try:
        edit(copied / FIRST, 1, change)
    except ValueError:  # no index can be made: the one there is of another size
        pass
    found = [fault for fault in faults_of(copied) if ".index" not in fault]
    found = [fault for fault in found if not fault.startswith("dataset_info.json")]
    assert len(found) == len(whats)
    for fault, what in zip(found, whats, strict=True):
        where = f"{FIRST}, record 1 (example_index 2): "
        assert fault.startswith(where)
        assert what in fault


@pytest.mark.parametrize("serialized", [b"", b"\xff" * 99, b"\n\x05hello"])
def test_bytes_that_are_no_record_are_a_fault_and_no_traceback(copied, serialized):
    good, _ = read_shard(copied / FIRST)
    with tf.io.TFRecordWriter(str(copied / FIRST)) as writer:
        writer.write(good)
        writer.write(serialized)
    found = faults_of(copied)
    assert found[0].startswith(f"{FIRST}, record 1 (example_index 2): cannot be parsed")


def test_random_damage_never_raises(copied):
    """Flipped bits with the right checksums: as what wrote the records may have it."""
    generator = np.random.default_rng(0)
    good, other = read_shard(copied / FIRST)
    # Where most of the structure lies: the frames' sizes are at both ends of it.
    for _ in range(40):
        damaged = bytearray(good)
        for position in generator.integers(0, 400, 3):
            damaged[position] ^= 1 << int(generator.integers(8))
        with tf.io.TFRecordWriter(str(copied / FIRST)) as writer:
            writer.write(bytes(damaged))
            writer.write(other)
        assert all(isinstance(fault, str) for fault in faults_of(copied))


def test_records_of_other_modalities_than_said_are_a_fault(convert, copied):
    record_files.forget_sizes(copied)
    shutil.copy(convert(SETTINGS._replace(modalities=("audio",))) / LAST, copied / LAST)
    shard_writing.index_shard(str(copied / LAST))
    where = f"{LAST}, record 0 (example_index 3)"
    assert faults_of(copied)[0].startswith(f"{where}: cannot be parsed")
    info = json.loads((copied / "dataset_info.json").read_text())
    info |= {"modalities": ["audio"]}
    (copied / "dataset_info.json").write_text(json.dumps(info))
    assert faults_of(copied) == [
        f"{FIRST}, record {number} (example_index {index}): holds image/encoded, with "
        "modalities=audio and has_waveform=True"
        for number, index in ((0, 0), (1, 2))
    ]


def test_a_size_that_is_not_said_is_a_fault_of_files_without_another(copied):
    values = json.loads((copied / "dataset_info.json").read_text())
    num_bytes = values["shards"][0]["num_bytes"]
    values["shards"][0]["num_bytes"] = num_bytes + 1
    values["shards"][1]["index_bytes"] = 0
    (copied / "dataset_info.json").write_text(json.dumps(values))
    index_bytes = (copied / f"{LAST}.index").stat().st_size
    assert faults_of(copied) == [
        f"{FIRST}: {num_bytes} bytes, dataset_info.json says {num_bytes + 1}",
        f"{LAST}.index: {index_bytes} bytes, dataset_info.json says 0",
    ]


def test_records_that_say_a_huge_size_like_their_images_are_not_decoded(copied):
    def change(message):
        for key in (records.HEIGHT, records.WIDTH):
            set_value(message.context.feature[key].int64_list.value, 0, 65000)
        for step in steps(message, records.FRAMES):
            step.bytes_list.value[0] = jpeg(48, 64).replace(
                HEIGHT_AND_WIDTH, struct.pack(">HH", 65000, 65000)
            )

    edit(copied / FIRST, 1, change)
    assert faults_of(copied)[0] == (
        f"{FIRST}, record 1 (example_index 2): height and width are 65000 and 65000, "
        "dataset_info.json says short_side=48"
    )


def test_a_missing_shard_is_a_fault(copied):
    (copied / LAST).unlink()
    assert faults_of(copied) == [f"{LAST}: does not exist"]


def test_an_index_that_says_something_else_is_a_fault(copied):
    with tf.io.TFRecordWriter(str(copied / f"{LAST}.index")) as writer:
        writer.write(b"nothing")
    (found,) = faults_of(copied)
    assert found == f"{LAST}.index, record 0 (example_index 3): 7 bytes are no entry"


def test_an_index_with_a_moved_frame_is_a_fault(copied):
    (vector,) = read_shard(copied / f"{LAST}.index")
    values = np.frombuffer(vector, "<i8").copy()
    values[7] += 1
    with tf.io.TFRecordWriter(str(copied / f"{LAST}.index")) as writer:
        writer.write(values.tobytes())
    assert faults_of(copied) == [
        f"{LAST}.index, record 0 (example_index 3): item_positions are not those of "
        "the record"
    ]


def test_a_flipped_bit_of_an_index_is_a_fault(copied):
    flip(copied / f"{FIRST}.index", HEADER_BYTES)
    (found,) = faults_of(copied)
    assert found.startswith(f"{FIRST}.index, record 0 (example_index 0): the checksum")


def test_a_row_missing_in_examples_csv_names_its_record(copied):
    lines = (copied / "examples.csv").read_text().splitlines(keepends=True)
    (copied / "examples.csv").write_text("".join(lines[:2] + lines[3:]))
    assert faults_of(copied) == [
        "examples.csv: 2 rows, dataset_info.json says 3 examples",
        f"{FIRST}, record 1 (example_index 2): examples.csv has no example_index 2 in "
        "this shard",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "examples.csv has columns None"),
        ("example_index,video_id\n0,a\n", "examples.csv has columns"),
        ("{header}0,a.mp4\n", "not 6 values on line 2"),
        ("{header}zero,a.mp4,dog,x,0.0,1.0\n", "cannot be read beyond its row 1"),
        ("{header}0,a.mp4,dog,nowhere,0.0,1.0\n", "is in shard 'nowhere'"),
        ('{header}0,"a', "not 6 values"),
    ],
)
def test_examples_csv_of_another_form_is_a_fault(copied, text, what):
    header = (copied / "examples.csv").read_text().splitlines()[0] + "\n"
    (copied / "examples.csv").write_text(text.replace("{header}", header))
    found = [fault for fault in faults_of(copied) if fault.startswith("examples.csv: ")]
    assert what in found[0]
    with pytest.raises(ValueError, match="examples.csv"):
        example_tables.read_examples(str(copied))


def test_a_quarantined_row_too_few_is_a_fault(copied):
    (copied / "quarantine.csv").write_text("path,start_secs,reason,detail\n")
    assert faults_of(copied) == [
        "quarantine.csv: 0 rows, dataset_info.json says 1 quarantined"
    ]


@pytest.mark.parametrize(
    ("changed", "whats"),
    [
        (
            {"num_examples": 4},
            [
                "dataset_info.json: num_rows=4 is not num_examples=4 + num_quarantined",
                "dataset_info.json: the shards have 3 examples, num_examples=4",
                "examples.csv: 3 rows, dataset_info.json says 4 examples",
            ],
        ),
        (
            {"shards": [{"file": FIRST, "num_examples": 2}]},
            [
                "dataset_info.json: the shards have 2 examples, num_examples=3",
                "dataset_info.json: 1 shards do not hold num_rows=4 with rows",
                "examples.csv: example_index 3 is in shard 'records-00001-of-00002.",
            ],
        ),
        (
            {"log_mel_mean": 1.0},
            ["dataset_info.json: log_mel_mean is 1.0, the"],
        ),
        ({"log_mel_std": 9.0}, ["dataset_info.json: log_mel_std is 9.0, the"]),
        (
            {"label_names": ["bell", "cat", "cow"]},
            [f"{FIRST}, record 0 (example_index 0): clip/label/text is 'dog', label 2"]
            + [f"{FIRST}, record 0 (example_index 0)"] * 2,
        ),
    ],
)
def test_wrong_numbers_in_dataset_info_are_faults(copied, changed, whats):
    info = json.loads((copied / "dataset_info.json").read_text()) | changed
    (copied / "dataset_info.json").write_text(json.dumps(info))
    found = faults_of(copied)
    assert len(found) == len(whats)
    for fault, what in zip(found, whats, strict=True):
        assert fault.startswith(what)


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": 5},
        {"log_mel": None},
        {"num_rows": "4"},
        {"limits": []},
        {"fps": None},
    ],
)
def test_values_of_another_kind_in_dataset_info_are_one_error(copied, changed):
    info = json.loads((copied / "dataset_info.json").read_text()) | changed
    (copied / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="dataset_info.json"):
        record_tables.read_info(str(copied))


def test_only_so_many_faults_are_printed(copied, capsys):
    flip(copied / FIRST, start_of(copied / FIRST, 0) + HEADER_BYTES)
    (copied / f"{FIRST}.index").unlink()
    (copied / f"{LAST}.index").unlink()
    assert verify(str(copied), max_printed=1) == 3
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[1] == "... and 2 more"


def test_checksums_of_all_lengths_are_those_of_tensorflow(tmp_path):
    generator = np.random.default_rng(0)
    sizes = (0, 1, 7, 1023, 1024, 1025, 5000, 100_001)
    path = str(tmp_path / "records")
    with tf.io.TFRecordWriter(path) as writer:
        for size in sizes:
            writer.write(generator.bytes(size))
    from xdc_tf.data.record_framing import read_record, read_records

    found = list(read_records(path))
    assert [len(framed.data) for framed in found] == list(sizes)
    assert read_record(path, 6) == found[6].data


def test_the_summary_tells_counts_durations_storage_and_labels(convert):
    folder = str(convert(SETTINGS))
    info = record_tables.read_info(folder)
    examples = example_tables.read_examples(folder)
    lines = record_summary.describe(folder, info, examples)
    sizes = [os.path.getsize(os.path.join(folder, name)) for name in (FIRST, LAST)]
    assert lines[0] == f"{folder}: video and audio, with waveforms"
    assert lines[1] == "rows         4: 3 converted, 1 quarantined (1 cannot_open)"
    assert "shortest 1.00 s, median 1.00 s, longest 1.00 s" in lines[2]
    assert lines[3].startswith(f"shards       2 of {sum(sizes) / 1000:.3g} kB")
    assert "10 frames" in lines[4]
    assert "log-mel 50 x 40, 8 kB; waveform 64 kB" in lines[4]
    assert lines[5] == "labels       3; 1 examples have none"
    assert lines[6:] == ["  1  bell", "  1  dog", "  0  cat"]


def test_many_labels_are_cut_short_and_their_names_are_harmless(convert):
    folder = str(convert(SETTINGS))
    names = tuple(f"\x1b[2J{number:02}" for number in range(30))
    info = record_tables.read_info(folder)._replace(label_names=names)
    examples = example_tables.read_examples(folder)
    examples = examples._replace(label_sets=np.array([[25], [25], [29]]))
    lines = record_summary.describe(folder, info, examples)[-21:]
    assert lines[0] == "  2  \\x1b[2J25"
    assert lines[1] == "  1  \\x1b[2J29"
    assert lines[-1] == "  and 10 more with 0 examples"


def test_a_lost_shard_is_told_by_the_summary(copied):
    (copied / LAST).unlink()
    info = record_tables.read_info(str(copied))
    examples = example_tables.read_examples(str(copied))
    lines = record_summary.describe(str(copied), info, examples)
    assert "MISSING      1 shards; --verify names them" in lines


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (1, r"example_index 1 is quarantined \(cannot_open\), see row 1 of"),
        (4, "there is no example_index 4: .* is of 4 rows, 0 to 3"),
        (-1, "there is no example_index -1"),
    ],
)
def test_an_index_without_example_is_told_why(convert, index, message):
    folder = str(convert(SETTINGS))
    info = record_tables.read_info(folder)
    examples = example_tables.read_examples(folder)
    with pytest.raises(ValueError, match=message):
        record_tables.read_example(folder, info, examples, index)


def run_program(*flags):
    return run_command("data_prep.inspect", *flags)


def test_the_program_leaves_with_1_when_there_is_a_fault(copied):
    flip(copied / FIRST, start_of(copied / FIRST, 1) + HEADER_BYTES)
    done = run_program(f"--records={copied}", "--verify")
    assert done.returncode == 1
    assert f"{FIRST}, record 1 (example_index 2): the checksum" in done.stdout
    assert "1 fault in" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_program_leaves_with_0_when_there_is_none(convert):
    done = run_program(f"--records={convert(SETTINGS)}", "--verify")
    assert done.returncode == 0, done.stderr
    assert "no faults in" in done.stdout


def test_the_program_writes_what_it_is_asked_for(convert, tmp_path):
    done = run_program(
        f"--records={convert(SETTINGS)}", f"--out={tmp_path}", "--index=3", "--index=0"
    )
    assert done.returncode == 0, done.stderr
    assert "rows         4: 3 converted" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "example_0.png",
        "example_0.wav",
        "example_3.png",
        "example_3.wav",
    ]


def test_a_quarantined_index_is_one_message_and_exit_code_1(convert, tmp_path):
    done = run_program(
        f"--records={convert(SETTINGS)}", f"--out={tmp_path / 'out'}", "--index=1"
    )
    assert done.returncode == 1
    assert "error: example_index 1 is quarantined (cannot_open)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
