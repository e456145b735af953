"""A run's work directory belongs to its records; records that lack examples stop it."""

import json
import shutil

import pytest
import record_files
import tensorflow as tf

from xdc_tf.training import run as runs
from xdc_tf.training import run_features


@pytest.fixture
def workdir(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def prepare(config, workdir, records_dir):
    return runs.prepare(
        config,
        workdir=str(workdir),
        records_dir=str(records_dir),
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        allow_config_change=True,
    )


def test_records_converted_anew_with_other_settings_are_refused_and_nothing_is_written(
    tiny_config, tiny_records, workdir, tmp_path
):
    other = shutil.copytree(tiny_records / "train", tmp_path / "other")
    record_files.change_info(other, jpeg_quality=80, log_mel_mean=-1.0)
    own_copy = workdir / "records" / "dataset_info.json"
    before = own_copy.read_bytes(), (workdir / "config.json").read_bytes()
    mean = json.loads(own_copy.read_text())["log_mel_mean"]
    message = (
        rf"run is of other records than .*other \(jpeg_quality 90 there, 80 now; "
        rf"log_mel_mean {mean} there, -1.0 now\); use the same records, or another"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tiny_config, workdir, other)
    assert (own_copy.read_bytes(), (workdir / "config.json").read_bytes()) == before


def test_what_an_earlier_program_did_not_note_down_is_not_compared_nor_replaced(
    tiny_config, tiny_records, workdir
):
    record_files.forget_sizes(workdir / "records")
    own_copy = workdir / "records" / "dataset_info.json"
    before = own_copy.read_bytes()
    prepare(tiny_config, workdir, tiny_records / "train").lock.release()
    assert own_copy.read_bytes() == before


def test_a_run_killed_before_its_copy_of_the_info_goes_on(
    tiny_config, tiny_records, workdir
):
    own_copy = workdir / "records" / "dataset_info.json"
    before = own_copy.read_bytes()
    own_copy.unlink()
    prepare(tiny_config, workdir, tiny_records / "train").lock.release()
    assert own_copy.read_bytes() == before


def test_a_pass_that_left_examples_out_stops_with_their_number_and_the_first(
    tiny_config, tiny_records, tmp_path
):
    run = prepare(tiny_config, tmp_path / "new", tiny_records / "train")
    missing = run.records.trained | run.records.held_out
    missing[:9] = False  # as if these had features
    message = (
        "15 of 24 examples were not in .* example_index 9 of records-00001-of-00003"
    )
    with pytest.raises(ValueError, match=message):
        run_features.check_complete(run, missing)
    missing[:] = False
    run_features.check_complete(run, missing)
    run.lock.release()
