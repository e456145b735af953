"""Runs that stop before their end, and go on."""

import contextlib
import io
import os
import re
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.labels import label_tables
from xdc_tf.models import encoder_files, two_stream
from xdc_tf.runtime import program
from xdc_tf.runtime import workdir as work
from xdc_tf.runtime.signals import Stop, Stopped
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


@contextlib.contextmanager
def stopping_after(steps):
    """A Stop that is requested while that step of a run runs."""
    stop, prepared = Stop(), pretrain_module.make_round_context

    def make_round_context(run):
        context = prepared(run)
        calls = []

        def train(batch):
            calls.append(batch)
            if len(calls) == steps:
                stop._signal = "SIGTERM"
            return context.train(batch)

        return context._replace(train=train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_module, "make_round_context", make_round_context)
        yield stop


class StoppedRun(NamedTuple):
    workdir: Path
    reason: str
    steps: int  # done when it stopped


@pytest.fixture(scope="module")
def stopped_run(new_tiny_config, tiny_records, tmp_path_factory):
    """A run of one round that a signal stops, goes on to its end, and then for two."""
    workdir, config = tmp_path_factory.mktemp("stopped"), new_tiny_config()
    of_one_round = config | {"num_rounds": 1}
    with stopping_after(2) as stop, pytest.raises(Stopped) as stopped:
        run_pretrain(of_one_round, tiny_records, workdir, stop=stop)
    steps = final_step(workdir)
    run_pretrain(of_one_round, tiny_records, workdir)
    assert final_step(workdir) == STEPS_PER_ROUND
    run_pretrain(config, tiny_records, workdir, allow_config_change=True)
    return StoppedRun(workdir, str(stopped.value), steps)


def test_a_signal_saves_after_the_step(stopped_run):
    assert "SIGTERM" in stopped_run.reason
    assert stopped_run.steps == 2


def test_a_stopped_and_prolonged_run_gives_the_labels_of_an_uninterrupted_one(
    stopped_run, tiny_run
):
    for round_index in range(3):
        whole, parts = (
            label_tables.read(work.round_dir(str(workdir), round_index)).clusterings
            for workdir in (tiny_run, stopped_run.workdir)
        )
        assert parts.keys() == whole.keys()
        for source, clustering in whole.items():
            np.testing.assert_array_equal(clustering.labels, parts[source].labels)


def test_a_stopped_and_prolonged_run_ends_with_the_bits_of_an_uninterrupted_one(
    stopped_run, tiny_run
):
    for stream in ("video", "audio"):
        whole, parts = (
            keras.models.load_model(work.encoder_file(str(workdir), stream))
            for workdir in (tiny_run, stopped_run.workdir)
        )
        for expected, found in zip(
            whole.get_weights(), parts.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(expected, found)


class TroubledRun(NamedTuple):
    """A run of sound alone whose records vanish, whose disk is full, and that goes on.

    Attributes:
      records: directory.
      without_records: what was told of the error when they had vanished.
      on_full_disk: the error's text then, with the records back.
      num_steps: that it had done when a signal came in its last step of the round.
    """

    records: Path
    without_records: str
    on_full_disk: str
    num_steps: int


@pytest.fixture(scope="module")
def troubled_run(new_tiny_config, tiny_records, tmp_path_factory):
    """See TroubledRun."""
    directory = tmp_path_factory.mktemp("troubled")
    records, hidden, workdir = (
        directory / name for name in ("records", "hidden", "run")
    )
    shutil.copytree(tiny_records / "train", records / "train")
    config = new_tiny_config() | {"method": "same_audio"}
    reset_heads, save_heads = two_stream.reset_heads, encoder_files.save_heads

    def vanish(*args, **kwargs):  # between the clustering and the first step
        os.rename(records, hidden)
        return reset_heads(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_stream, "reset_heads", vanish)
        with pytest.raises(tf.errors.OpError) as without_records:
            run_pretrain(config, records, workdir)
    os.rename(hidden, records)

    def save_on_full_disk(heads, path):  # after the last step of a round
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            save_heads(heads, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_files, "save_heads", save_on_full_disk)
        with pytest.raises(OSError) as on_full_disk:
            run_pretrain(config, records, workdir)
    # The checkpoint of step 3 is there: one step is left of the round.
    with stopping_after(1) as stop, pytest.raises(Stopped):
        run_pretrain(config, records, workdir, stop=stop)
    return TroubledRun(
        records,
        program.tensorflow_user_error(without_records.value),
        str(on_full_disk.value),
        final_step(workdir),
    )


@pytest.mark.slow
def test_records_that_vanish_are_named_and_the_run_goes_on_with_them_back(troubled_run):
    named = f"{troubled_run.records}/train/records-0000"
    assert named in troubled_run.without_records
    # Only a round's end saves heads.
    assert "audio_heads.npz" in troubled_run.on_full_disk


def test_a_full_disk_names_the_file_and_with_room_the_run_goes_on(troubled_run):
    assert re.search("File too large: .*audio_heads.npz", troubled_run.on_full_disk)
    assert troubled_run.num_steps == STEPS_PER_ROUND


def test_a_signal_in_the_last_step_of_a_round_finishes_the_round(troubled_run):
    assert troubled_run.num_steps == STEPS_PER_ROUND


class Continued(NamedTuple):
    workdir: Path
    output: str  # of the part on two devices


@pytest.fixture(scope="module")
def continued_on_two_devices(
    new_tiny_config, tiny_records, tmp_path_factory, two_devices
):
    """A run in mixed precision that harvests float16 features, stopped on one device.

    No example is held out: six steps a round see all 24.
    """
    workdir = tmp_path_factory.mktemp("continued")
    config = new_tiny_config() | {
        "method": "same_audio",
        "precision": "mixed_bfloat16",
    }
    config["features"] |= {"source": "training", "dtype": "float16"}
    config["training"]["held_out_share"] = 0.0
    with stopping_after(2) as stop, pytest.raises(Stopped):
        run_pretrain(config, tiny_records, workdir, stop=stop)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        run_pretrain(config, tiny_records, workdir, two_devices)
    return Continued(workdir, output.getvalue())


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(continued_on_two_devices):
    workdir, output = continued_on_two_devices
    assert "Going on from step 2" in output
    assert final_step(workdir) == 2 * 6
    table = label_tables.read(work.round_dir(str(workdir), 2))
    assert set(table.clusterings) == {"audio", "audio2"}


def test_two_devices_harvest_mixed_precision_into_a_float16_store(
    continued_on_two_devices,
):
    workdir, output = continued_on_two_devices
    # Between the rounds; four steps of six were on two devices.
    assert re.search("features +24 .*harvested +0 .*before +0 extracted in", output)
    rows = np.load(workdir / work.FEATURES_DIR / "audio2.npy")
    assert rows.dtype == np.float16
    assert rows.any(axis=1).all()


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
