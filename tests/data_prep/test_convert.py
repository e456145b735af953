import csv
import io
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from forked_commands import run_command
from media_files import SAMPLE_RATE_HZ, digests, tone, write_manifest, write_media
from PIL import Image

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables, records
from xdc_tf.data.log_mel import log_mel

pytestmark = pytest.mark.once

SETTINGS = ConversionSettings(
    fps=10.0, short_side=48, min_secs=0.5, store_waveform=True
)
VIDEO_SETTINGS = SETTINGS._replace(modalities=("video",), store_waveform=False)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four rows, the second one broken."""
    return write_manifest(tmp_path_factory.mktemp("videos"))


def convert(manifest, out, *, num_workers=2, settings=SETTINGS):
    return convert_manifest(
        manifest,
        str(out),
        settings=settings,
        pool=PoolSettings(num_workers),
        rows_per_shard=3,
    )


@pytest.fixture(scope="module")
def converted(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "records"
    convert(manifest, out)
    return out


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Manifest of three rows: with sound, without, and with silent sound."""
    folder = tmp_path_factory.mktemp("soundless")
    write_media(folder / "sound.mp4", waveform=tone(1.0))
    write_media(folder / "none.mp4")
    write_media(folder / "silent.mp4", waveform=0 * tone(1.0))
    path = folder / "manifest.csv"
    path.write_text("path\nsound.mp4\nnone.mp4\nsilent.mp4\n")
    return str(path)


@pytest.fixture(scope="module")
def converted_videos(videos, tmp_path_factory):
    """`videos` converted with the modality video alone."""
    out = tmp_path_factory.mktemp("converted") / "videos"
    convert(videos, out, settings=VIDEO_SETTINGS)
    return out


def read_records(folder):
    info = dataset_info.read_dataset_info(str(folder))
    files = [os.path.join(folder, shard.file) for shard in info.shards]
    return [
        records.parse_example(
            serialized,
            num_filters=40,
            modalities=info.modalities,
            with_waveform=info.has_waveform,
        )
        for serialized in tf.data.TFRecordDataset(files)
    ]


def run_program(*flags):
    return run_command("data_prep.convert", *flags)


def test_the_totals_add_up(converted):
    info = dataset_info.read_dataset_info(str(converted))
    assert (info.num_rows, info.num_examples, info.num_quarantined) == (4, 3, 1)
    assert [shard.num_examples for shard in info.shards] == [2, 1]


def test_only_whole_files_lie_in_the_directory(converted):
    assert sorted(path.name for path in converted.iterdir()) == [
        "dataset_info.json",
        "examples.csv",
        "quarantine.csv",
        "records-00000-of-00002.tfrecord",
        "records-00000-of-00002.tfrecord.index",
        "records-00001-of-00002.tfrecord",
        "records-00001-of-00002.tfrecord.index",
    ]


def test_the_quarantine_report_names_file_and_reason(converted):
    with open(converted / "quarantine.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["reason"]) == ("broken.mp4", "cannot_open")


def test_example_indices_are_row_numbers_with_a_hole(converted):
    indices = [int(example["example_index"]) for example in read_records(converted)]
    assert indices == [0, 2, 3]
    examples = example_tables.read_examples(str(converted))
    assert examples.example_indices.tolist() == [0, 2, 3]
    assert examples.video_ids.tolist() == ["a.mp4", "c.mp4", "d.mp4#t=0.5,1.5"]


def test_labels_index_the_sorted_names_of_the_whole_manifest(converted):
    info = dataset_info.read_dataset_info(str(converted))
    assert info.label_names == ("bell", "cat", "dog")
    labels = [int(example["label"]) for example in read_records(converted)]
    assert labels == [2, 0, -1]
    assert example_tables.read_examples(str(converted)).labels.tolist() == [2, 0, -1]


def test_a_record_holds_frames_sound_and_times_of_its_segment(converted):
    example = read_records(converted)[2]
    assert (int(example["start_us"]), int(example["end_us"])) == (500_000, 1_500_000)
    assert example["video_items"].shape == (10,)
    image = Image.open(io.BytesIO(example["video_items"][0].numpy()))
    assert image.size == (int(example["width"]), int(example["height"])) == (64, 48)
    assert example["waveform"].shape == (SAMPLE_RATE_HZ,)
    np.testing.assert_array_equal(
        example["audio_rows"], log_mel(example["waveform"].numpy(), SETTINGS.log_mel)
    )


def test_mean_and_deviation_are_those_of_all_log_mel_values(converted):
    values = np.concatenate(
        [example["audio_rows"] for example in read_records(converted)]
    )
    info = dataset_info.read_dataset_info(str(converted))
    assert info.log_mel_mean == pytest.approx(values.astype(np.float64).mean())
    assert info.log_mel_std == pytest.approx(values.astype(np.float64).std())


def test_one_worker_writes_the_same_bytes_as_two(manifest, converted, tmp_path):
    convert(manifest, tmp_path / "records", num_workers=1)
    assert digests(tmp_path / "records") == digests(converted)


def test_a_complete_directory_is_left_alone(manifest, converted, capsys):
    before = {path: path.stat().st_mtime_ns for path in converted.iterdir()}
    convert(manifest, converted)
    assert {path: path.stat().st_mtime_ns for path in converted.iterdir()} == before
    assert "is complete: 3 examples" in capsys.readouterr().out


def test_other_settings_do_not_overwrite_a_complete_directory(manifest, converted):
    with pytest.raises(ValueError, match="fps: 10.0 there, 5.0 asked for"):
        convert(manifest, converted, settings=SETTINGS._replace(fps=5.0))


def test_other_modalities_do_not_overwrite_a_complete_directory(manifest, converted):
    message = r"modalities: \('video', 'audio'\) there, \('video',\) asked for"
    with pytest.raises(ValueError, match=message):
        convert(manifest, converted, settings=VIDEO_SETTINGS)


def test_the_order_of_modalities_does_not_matter(manifest, converted):
    settings = SETTINGS._replace(modalities=("audio", "video"))
    assert convert(manifest, converted, settings=settings).num_examples == 3


def test_video_alone_needs_no_sound(converted_videos):
    info = dataset_info.read_dataset_info(str(converted_videos))
    assert (info.modalities, info.num_examples) == (("video",), 3)
    assert (info.log_mel_mean, info.log_mel_std) == (0.0, 1.0)
    for example in read_records(converted_videos):
        assert example["video_items"].shape == (10,)


def test_records_of_video_alone_hold_no_sound(converted_videos):
    info = dataset_info.read_dataset_info(str(converted_videos))
    for serialized in tf.data.TFRecordDataset(
        dataset_info.shard_paths(str(converted_videos), info)
    ):
        example = tf.train.SequenceExample.FromString(serialized.numpy())
        assert list(example.feature_lists.feature_list) == [records.FRAMES]


def test_video_alone_has_the_frames_that_it_has_with_sound(
    manifest, converted, tmp_path
):
    convert(manifest, tmp_path / "records", settings=VIDEO_SETTINGS)
    for alone, both in zip(
        read_records(tmp_path / "records"), read_records(converted), strict=True
    ):
        np.testing.assert_array_equal(alone["video_items"], both["video_items"])


def test_only_what_an_earlier_conversion_left_in_the_same_directory_is_removed(
    manifest, tmp_path
):
    for folder in ("o[1]", "o1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "records-00000.tmp").touch()
    convert(manifest, tmp_path / "o[1]")
    assert not (tmp_path / "o[1]" / "records-00000.tmp").exists()
    assert (tmp_path / "o1" / "records-00000.tmp").exists()


def test_a_name_with_line_breaks_of_all_kinds_is_one_line_of_the_table(tmp_path):
    names = ["a\rb.mp4", "c\nd.mp4", "e\r\nf.mp4", "g\r"]
    path = str(tmp_path / "table.csv")
    example_tables.write_csv(path, ["path", "number"], [(n, 1) for n in names])
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "number"], *([name, "1"] for name in names)]


def test_an_unfinished_directory_is_done_again(manifest, converted, tmp_path):
    out = tmp_path / "records"
    out.mkdir()
    (out / "records-00000-of-00002.tfrecord").write_text("half")
    (out / "records-00008-of-00009.tfrecord.tmp").write_text("older")
    convert(manifest, out)
    assert digests(out) == digests(converted)


def test_a_directory_with_a_scheme_is_written_and_read_back(manifest):
    out = "ram://converted/records"  # TensorFlow's file system in memory
    convert(manifest, out)
    assert len(read_records(out)) == 3
    assert example_tables.read_examples(out).example_indices.tolist() == [0, 2, 3]


def test_without_a_usable_row_no_info_is_written(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path\nnone.mp4\n")
    with pytest.raises(ValueError, match="none of the 1 rows.*1 cannot_open"):
        convert(str(manifest), tmp_path / "records")
    names = sorted(path.name for path in (tmp_path / "records").iterdir())
    shard = "records-00000-of-00001.tfrecord"
    assert names == ["quarantine.csv", shard, f"{shard}.index"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"max_file_mib": math.inf},
            "max_file_mib must be positive and finite, got inf",
        ),
        ({"fps": 0.0}, "fps must be positive and finite, got 0.0"),
        ({"jpeg_quality": 101}, "jpeg_quality must be from 1 to 95, got 101"),
        ({"min_secs": 400.0}, "min_secs=400.0"),
        ({"modalities": ("video",)}, "store_waveform needs sound"),
        ({"max_length_ratio": 0.5}, "max_length_ratio must be 1 or more, got 0.5"),
        ({"modalities": ("smell",)}, "modalities=.'smell'. must be one or more of"),
    ],
)
def test_settings_without_meaning_are_refused(manifest, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        convert(manifest, tmp_path, settings=SETTINGS._replace(**changed))


def test_the_program_converts_and_says_what_it_did(manifest, converted, tmp_path):
    done = run_program(
        f"--manifest={manifest}",
        f"--out={tmp_path / 'records'}",
        "--fps=10",
        "--short_side=48",
        "--store_waveform",
        "--rows_per_shard=3",
        "--num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 4 rows converted" in done.stdout
    assert "1 quarantined (1 cannot_open)" in done.stdout
    assert digests(tmp_path / "records") == digests(converted)


def test_the_program_converts_video_alone(videos, converted_videos, tmp_path):
    done = run_program(
        f"--manifest={videos}",
        f"--out={tmp_path / 'records'}",
        "--modalities=video",
        "--fps=10",
        "--short_side=48",
        "--rows_per_shard=3",
        "--num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "records") == digests(converted_videos)


def test_a_missing_manifest_is_one_message_and_exit_code_1(tmp_path):
    done = run_program(f"--manifest={tmp_path / 'no.csv'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1
    assert "no.csv does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lost_index_is_made_anew(manifest, tmp_path):
    convert(manifest, tmp_path / "records")
    index = tmp_path / "records" / "records-00001-of-00002.tfrecord.index"
    written = index.read_bytes()
    index.unlink()
    convert(manifest, tmp_path / "records")
    assert index.read_bytes() == written
