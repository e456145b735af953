"""Runs that stop before their end, and go on."""

import os
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf import program
from xdc_tf import workdir as work
from xdc_tf.clustering import label_tables
from xdc_tf.models import encoder_files, two_stream
from xdc_tf.signals import Stop, Stopped
from xdc_tf.training import pretrain as pretrain_module
from xdc_tf.training.pretrain import pretrain

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")
# 24 videos, 5 of them held out, in batches of 4.
STEPS_PER_ROUND = 4


def final_step(workdir):
    path = tf.train.latest_checkpoint(os.path.join(workdir, work.CHECKPOINTS_DIR))
    reader = tf.train.load_checkpoint(path)
    return int(reader.get_tensor("progress/step/.ATTRIBUTES/VARIABLE_VALUE"))


def run_pretrain(config, records, workdir, strategy=ONE_DEVICE, **arguments):
    pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=strategy,
        **arguments,
    )


def test_a_restarted_run_gives_the_labels_of_an_uninterrupted_one(
    tiny_config, tiny_records, tiny_run, tmp_path
):
    run_pretrain(tiny_config | {"num_rounds": 1}, tiny_records, tmp_path)
    run_pretrain(tiny_config, tiny_records, tmp_path, allow_config_change=True)
    whole, halves = (
        label_tables.read(work.round_dir(str(workdir), 1)).clusterings
        for workdir in (tiny_run, tmp_path)
    )
    for source, clustering in whole.items():
        np.testing.assert_array_equal(clustering.labels, halves[source].labels)


@pytest.fixture
def stop_after(monkeypatch):
    """The function (steps) -> a Stop that is requested while that step runs."""

    def stop_after(steps):
        stop, prepared = Stop(), pretrain_module.prepare_work

        def prepare_work(run):
            work_of_rounds = prepared(run)
            calls = []

            def train(batch):
                calls.append(batch)
                if len(calls) == steps:
                    stop._signal = "SIGTERM"
                return work_of_rounds.train(batch)

            return work_of_rounds._replace(train=train)

        monkeypatch.setattr(pretrain_module, "prepare_work", prepare_work)
        return stop

    return stop_after


def test_a_signal_saves_after_the_step_and_the_rest_gives_the_same_bits(
    tiny_config, tiny_records, tiny_run, tmp_path, stop_after
):
    with pytest.raises(Stopped, match="SIGTERM"):
        run_pretrain(tiny_config, tiny_records, tmp_path, stop=stop_after(2))
    assert final_step(tmp_path) == 2
    run_pretrain(tiny_config, tiny_records, tmp_path)
    for stream in ("video", "audio"):
        whole, halves = (
            keras.models.load_model(work.encoder_file(str(workdir), stream))
            for workdir in (tiny_run, tmp_path)
        )
        for expected, found in zip(
            whole.get_weights(), halves.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(expected, found)


def test_a_signal_in_the_last_step_of_a_round_finishes_the_round(
    tiny_config, tiny_records, tmp_path, stop_after
):
    config = tiny_config | {"method": "same_audio"}
    with pytest.raises(Stopped):
        run_pretrain(config, tiny_records, tmp_path, stop=stop_after(STEPS_PER_ROUND))
    assert final_step(tmp_path) == STEPS_PER_ROUND


def test_a_run_goes_on_with_other_devices(
    tiny_config, tiny_records, tmp_path, stop_after, two_devices
):
    config = tiny_config | {"method": "same_audio"}
    with pytest.raises(Stopped):
        run_pretrain(config, tiny_records, tmp_path, stop=stop_after(2))
    run_pretrain(config, tiny_records, tmp_path, two_devices)
    assert final_step(tmp_path) == 2 * STEPS_PER_ROUND
    table = label_tables.read(work.round_dir(str(tmp_path), 2))
    assert set(table.clusterings) == {"audio", "audio2"}


def test_records_that_vanish_are_named_and_the_run_goes_on_with_them_back(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    records, hidden = tmp_path / "records", tmp_path / "hidden"
    shutil.copytree(tiny_records / "train", records / "train")
    config = tiny_config | {"method": "same_audio", "num_rounds": 1}
    reset_heads = two_stream.reset_heads

    def vanish(*args, **kwargs):  # between the clustering and the first step
        os.rename(records, hidden)
        return reset_heads(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(two_stream, "reset_heads", vanish)
        with pytest.raises(tf.errors.OpError) as stopped:
            run_pretrain(config, records, tmp_path / "run")
    assert f"{records}/train/records-0000" in program.tensorflow_user_error(
        stopped.value
    )
    os.rename(hidden, records)
    run_pretrain(config, records, tmp_path / "run")
    assert final_step(tmp_path / "run") == STEPS_PER_ROUND


def test_a_full_disk_names_the_file_and_with_room_the_run_goes_on(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    config = tiny_config | {"method": "same_audio", "num_rounds": 1}
    save_heads = encoder_files.save_heads

    def save_on_full_disk(heads, path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            save_heads(heads, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch:
        patch.setattr(encoder_files, "save_heads", save_on_full_disk)
        with pytest.raises(OSError, match="File too large: .*audio_heads.npz"):
            run_pretrain(config, tiny_records, tmp_path)
    run_pretrain(config, tiny_records, tmp_path)
    assert final_step(tmp_path) == STEPS_PER_ROUND


def test_a_second_run_in_a_work_directory_is_refused(
    tiny_config, tiny_records, tiny_run
):
    with work.lock(str(tiny_run)):
        with pytest.raises(BlockingIOError, match="is in use by process"):
            run_pretrain(tiny_config, tiny_records, tiny_run)


def test_another_configuration_stops_naming_the_keys(
    tiny_config, tiny_records, tiny_run
):
    with pytest.raises(ValueError, match=r"seed \(0 there, 5 now\)"):
        run_pretrain(tiny_config | {"seed": 5}, tiny_records, tiny_run)


def test_records_of_another_manifest_stop(tiny_config, tiny_records, tiny_run):
    with pytest.raises(ValueError, match="is of other records than .*manifest_sha256"):
        pretrain(
            tiny_config
            | {"training": tiny_config["training"] | {"held_out_share": 0.0}},
            workdir=str(tiny_run),
            records_dir=str(tiny_records / "test"),
            strategy=ONE_DEVICE,
        )
