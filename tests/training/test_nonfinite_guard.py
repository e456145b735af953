"""Steps whose loss or gradients are not finite."""

import math
import os

import numpy as np
import pytest
import tensorflow as tf
from prepared_runs import ONE_DEVICE, make_run, make_step

from xdc_tf.runtime import compat
from xdc_tf.runtime import workdir as work
from xdc_tf.training import pretrain
from xdc_tf.training.batches import training_batches


def state(run):
    """All that a step can change, on the first device."""
    variables = [
        *(one for part in run.state.model.encoders.values() for one in part.variables),
        *(one for part in run.state.model.heads.values() for one in part.variables),
    ]
    slots = compat.optimizer_variables(run.state.optimizer)
    return [one.numpy() for one in (*variables, *slots)]


def same(before, after):
    return [np.array_equal(*pair) for pair in zip(before, after, strict=True)]


def with_nan(batch):
    """The batch with one value of its sound, on the last device, that is no number."""

    def spoil(audio):
        return tf.concat([audio[:-1], audio[-1:] * math.nan], axis=0)

    def spoil_last(audio):
        context = tf.distribute.get_replica_context()
        last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
        return tf.cond(last, lambda: spoil(audio), lambda: audio)

    strategy = tf.distribute.get_strategy()
    return {**batch, "audio": strategy.run(spoil_last, args=(batch["audio"],))}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_one_does(
    devices, tiny_config, tiny_records, tmp_path, two_devices
):
    strategy = {1: ONE_DEVICE, 2: two_devices}[devices]
    run = make_run(
        tiny_config | {"method": "same_audio"}, tiny_records, tmp_path, strategy
    )
    step, batches = make_step(run), training_batches(run)
    assert bool(step(next(batches)).finite)
    before = state(run)
    with strategy.scope():
        spoiled = with_nan(next(batches))
    assert not bool(step(spoiled).finite)
    assert all(same(before, state(run)))
    assert bool(step(next(batches)).finite)
    assert not any(same(before, state(run)))


def test_gradients_too_large_for_float16_lower_the_scale_and_are_no_fault(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    config = tiny_config | {"method": "same_audio", "precision": "mixed_float16"}
    run = make_run(config, tiny_records, tmp_path)
    scale_loss = compat.scale_loss
    monkeypatch.setattr(compat, "scale_loss", lambda *args: scale_loss(*args) * np.inf)
    before, scale = state(run), float(compat.loss_scale(run.state.optimizer))
    result = make_step(run)(next(training_batches(run)))
    assert bool(result.finite)
    assert all(same(before, state(run)))
    assert float(compat.loss_scale(run.state.optimizer)) == scale / 2


def test_a_loss_that_is_no_number_is_a_fault_in_float16_too(
    tiny_config, tiny_records, tmp_path
):
    config = tiny_config | {"method": "same_audio", "precision": "mixed_float16"}
    run = make_run(config, tiny_records, tmp_path)
    batches, before = training_batches(run), state(run)
    with ONE_DEVICE.scope():
        spoiled = with_nan(next(batches))
    assert not bool(make_step(run)(spoiled).finite)
    assert all(same(before, state(run)))


@pytest.fixture
def spoiled(monkeypatch):
    """Spoils the batches of these steps; a dictionary of their example indices."""
    steps = {2: None}

    def spoiling(run, **arguments):
        for number, batch in enumerate(training_batches(run, **arguments), 1):
            if number in steps:
                steps[number] = batch["example_index"].numpy().tolist()
                with run.strategy.scope():
                    batch = with_nan(batch)
            yield batch

    prepared = pretrain.make_round_context

    def make_round_context(run):
        return prepared(run)._replace(training_batches=spoiling(run))

    monkeypatch.setattr(pretrain, "make_round_context", make_round_context)
    return steps


def run_pretrain(config, records, workdir):
    pretrain.pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=ONE_DEVICE,
    )


def saved(workdir, name):
    path = tf.train.latest_checkpoint(os.path.join(workdir, work.CHECKPOINTS_DIR))
    reader = tf.train.load_checkpoint(path)
    return reader.get_tensor(f"progress/{name}/.ATTRIBUTES/VARIABLE_VALUE")


def test_a_run_stops_with_round_step_and_examples(
    tiny_config, tiny_records, tmp_path, spoiled
):
    tiny_config |= {"method": "same_audio"}
    with pytest.raises(FloatingPointError) as stopped:
        run_pretrain(tiny_config, tiny_records, tmp_path)
    told = str(stopped.value)
    assert "round 1, step 2" in told and f"examples {spoiled[2]} (" in told
    assert "config.training.skip_nonfinite=0" in told
    assert saved(tmp_path, "step") == 0


def test_as_many_steps_are_left_out_as_the_configuration_says(
    tiny_config, tiny_records, tmp_path, spoiled, capsys
):
    tiny_config |= {"method": "same_audio", "num_rounds": 1}
    tiny_config["training"]["skip_nonfinite"] = 1
    tiny_config["features"]["source"] = "training"
    run_pretrain(tiny_config, tiny_records, tmp_path)
    assert (saved(tmp_path, "step"), saved(tmp_path, "skipped")) == (4, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and f"examples {spoiled[2]}" in line
    assert "number 1 of the 1" in line
    tags = {
        value.tag
        for path in (tmp_path / work.TENSORBOARD_DIR).glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert "training/skipped_steps" in tags


def test_one_step_more_stops_the_run(tiny_config, tiny_records, tmp_path, spoiled):
    tiny_config |= {"method": "same_audio"}
    tiny_config["training"]["skip_nonfinite"] = 1
    spoiled[3] = None
    with pytest.raises(FloatingPointError, match="round 1, step 3"):
        run_pretrain(tiny_config, tiny_records, tmp_path)
