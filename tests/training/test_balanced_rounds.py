"""Rounds that draw from all clusters equally often, uninterrupted and cut."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as work
from xdc_tf.training import run, train_step
from xdc_tf.training.batches import expected_draws
from xdc_tf.training.pretrain import pretrain

# 24 videos, 4 of them held out, in batches of 4: one pass of 5 steps per round.
STEPS_PER_ROUND = 5


class Cut(Exception):
    """Stands for whatever ends a process."""


class Batches(NamedTuple):
    """What the steps of a run were given, a row per step."""

    indices: list[list[int]]
    sounds: list[bytes]


def run_pretrain(config, records, workdir, *, last_step=None):
    """Runs until it is over, or cut in the step after `last_step`."""
    seen = Batches([], [])
    make = train_step.make_train_step

    def make_watched(*arguments, **named):
        step = make(*arguments, **named)

        def watched(batch):
            if len(seen.indices) == last_step:
                raise Cut
            seen.indices.append(batch["example_index"].numpy().tolist())
            seen.sounds.append(batch["audio"].numpy().tobytes())
            return step(batch)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "make_train_step", make_watched)
        try:
            pretrain(
                config,
                workdir=str(workdir),
                records_dir=str(records / "train"),
                strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
            )
        except Cut:
            assert last_step is not None
    return seen


def labels_of(workdir, round_index):
    table = label_tables.read(work.round_dir(str(workdir), round_index))
    return {
        source: np.array(clustering.labels)
        for source, clustering in table.clusterings.items()
    }


@pytest.fixture(scope="module")
def config(tiny_run):
    """That of tiny_run for sound, with balanced clusters and without a remainder."""
    config = work.read_config(str(tiny_run)) | {"method": "same_audio"}
    config["training"] |= {"balance_clusters": True, "held_out_share": 1 / 6}
    return config


@pytest.fixture(scope="module")
def whole_run(config, tiny_records, tmp_path_factory):
    """The work directory of an uninterrupted run and what its steps were given."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run_pretrain(config, tiny_records, workdir)


def trained_rows(config):
    return ~run.held_out_rows(
        np.arange(24), num_rows=24, share=1 / 6, seed=config["seed"]
    )


def test_every_round_draws_by_its_own_clusters(config, whole_run):
    workdir, batches = whole_run
    assert len(batches.indices) == 2 * STEPS_PER_ROUND
    expected_of_rounds = []
    for round_index in range(2):
        first = round_index * STEPS_PER_ROUND
        indices = np.ravel(batches.indices[first : first + STEPS_PER_ROUND])
        expected = expected_draws(labels_of(workdir, round_index), trained_rows(config))
        # Whole numbers next to the draws, every one of the 20 in a batch.
        assert (np.abs(np.bincount(indices, minlength=24) - expected) < 1).all()
        expected_of_rounds.append(expected)
    assert np.abs(expected_of_rounds[0] - expected_of_rounds[1]).max() > 0.1
    assert max(map(np.max, expected_of_rounds)) > 1.5


@pytest.mark.slow
def test_a_run_cut_in_a_round_goes_on_with_the_same_batches_and_labels(
    config, whole_run, tiny_records, tmp_path
):
    workdir, whole = whole_run
    # In the second round, after the checkpoint of step 6.
    before = run_pretrain(config, tiny_records, tmp_path, last_step=8)
    after = run_pretrain(config, tiny_records, tmp_path)
    assert before.indices == whole.indices[:8]
    assert after.indices == whole.indices[6:]
    assert after.sounds == whole.sounds[6:]
    for round_index in (1, 2):
        found = labels_of(tmp_path, round_index)
        for source, labels in labels_of(workdir, round_index).items():
            np.testing.assert_array_equal(found[source], labels)
