import json

import pytest

from xdc_tf.data import dataset_info, example_tables
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.log_mel import LogMelSettings

pytestmark = pytest.mark.once

INFO = DatasetInfo(
    manifest_sha256="ab" * 32,
    num_rows=3,
    num_examples=2,
    num_quarantined=1,
    fps=29.97,
    short_side=256,
    jpeg_quality=90,
    min_secs=0.5,
    max_secs=300.0,
    has_waveform=False,
    rows_per_shard=64,
    log_mel=LogMelSettings(num_filters=80),
    log_mel_mean=-3.25,
    log_mel_std=1 / 3,
    label_names=("bell", "dög"),
    shards=(ShardInfo("records-00000-of-00001.tfrecord", 2),),
    modalities=("video",),
)
ROWS = [
    ExampleRow(0, 'a, "b".mp4', "dög", "records-00000-of-00001.tfrecord", 0.0, 2.0),
    ExampleRow(2, "c.mp4#t=1.5,3", "", "records-00000-of-00001.tfrecord", 1.5, 3.0),
]


def write_complete(folder):
    example_tables.write_examples(str(folder), ROWS)
    dataset_info.write_dataset_info(str(folder), INFO)


def test_the_info_comes_back(tmp_path):
    dataset_info.write_dataset_info(str(tmp_path), INFO)
    assert dataset_info.read_dataset_info(str(tmp_path)) == INFO


def test_a_file_from_before_modalities_were_listed_holds_both(tmp_path):
    dataset_info.write_dataset_info(str(tmp_path), INFO)
    path = tmp_path / "dataset_info.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["modalities"]
    path.write_text(json.dumps(values), encoding="utf-8")
    read = dataset_info.read_dataset_info(str(tmp_path))
    assert read == INFO._replace(modalities=("video", "audio"))


@pytest.mark.parametrize("modalities", [["smell"], [], None, [["video"]]])
def test_a_file_of_unknown_modalities_is_refused(tmp_path, modalities):
    dataset_info.write_dataset_info(str(tmp_path), INFO._replace(modalities=modalities))
    with pytest.raises(ValueError, match="dataset_info.json: .* Convert again"):
        dataset_info.read_dataset_info(str(tmp_path))


def test_modalities_have_one_order():
    assert dataset_info.order_modalities(["audio", "video"]) == ("video", "audio")
    assert dataset_info.order_modalities(["audio", "audio"]) == ("audio",)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (("video",), ["video"]),
        (("video", "audio"), ["audio"]),
        (("video", "audio"), ["audio", "video"]),
    ],
)
def test_records_that_hold_what_is_wanted_pass(held, wanted):
    dataset_info.check_modalities(INFO._replace(modalities=held), wanted, "r")


def test_records_without_what_is_wanted_are_refused_with_the_way_out():
    message = (
        "^r/train holds video but no audio, which is needed; "
        "convert .* with --modalities=video,audio .* or use video alone"
    )
    with pytest.raises(ValueError, match=message):
        dataset_info.check_modalities(INFO, ["audio", "video"], "r/train")


def test_log_mel_settings_are_stored_by_name(tmp_path):
    dataset_info.write_dataset_info(str(tmp_path), INFO)
    stored = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert stored["log_mel"]["num_filters"] == 80


def test_writing_leaves_no_temporary_file(tmp_path):
    write_complete(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dataset_info.json", "examples.csv"]


def test_the_examples_come_back_with_label_numbers(tmp_path):
    write_complete(tmp_path)
    examples = example_tables.read_examples(str(tmp_path))
    assert examples.example_indices.tolist() == [0, 2]
    assert examples.video_ids.tolist() == ['a, "b".mp4', "c.mp4#t=1.5,3"]
    assert examples.labels.tolist() == [1, -1]
    assert examples.start_secs.tolist() == [0.0, 1.5]
    assert examples.end_secs.tolist() == [2.0, 3.0]


def test_a_directory_without_info_is_an_unfinished_conversion(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished conversion"):
        dataset_info.read_dataset_info(str(tmp_path))


def test_broken_json_is_named(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="dataset_info.json is not JSON"):
        dataset_info.read_dataset_info(str(tmp_path))


def test_another_format_version_is_refused(tmp_path):
    dataset_info.write_dataset_info(str(tmp_path), INFO._replace(format_version=99))
    with pytest.raises(ValueError, match="format_version 99"):
        dataset_info.read_dataset_info(str(tmp_path))


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match="log_mel_mean"):
        dataset_info.read_dataset_info(str(tmp_path))


def test_examples_that_do_not_match_the_info_are_refused(tmp_path):
    write_complete(tmp_path)
    example_tables.write_examples(str(tmp_path), ROWS[:1])
    with pytest.raises(ValueError, match="1 rows"):
        example_tables.read_examples(str(tmp_path))
