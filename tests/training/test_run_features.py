import contextlib
import io
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import killed_run
import numpy as np
import pytest
import tensorflow as tf
from forked_workers import run_alone

from xdc_tf.features import extraction, feature_store
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as work
from xdc_tf.training import run_features, trained_run
from xdc_tf.training.pretrain import pretrain
from xdc_tf.training.run import prepare

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")


def run_pretrain(config, records, workdir, strategy=ONE_DEVICE):
    pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=strategy,
    )


def counts(output):
    """What each clustering said: examples harvested, extracted before, extracted."""
    pattern = r"features +(\d+) .*harvested +(\d+) .*before +(\d+) extracted in"
    return [tuple(int(n) for n in found) for found in re.findall(pattern, output)]


def clusterings(workdir, round_index):
    return label_tables.read(work.round_dir(str(workdir), round_index)).clusterings


def assert_same_clusterings(workdir, other, *, rounds):
    for round_index in rounds:
        found, expected = (clusterings(one, round_index) for one in (workdir, other))
        assert found.keys() == expected.keys()
        for source, clustering in expected.items():
            np.testing.assert_array_equal(clustering.labels, found[source].labels)
            np.testing.assert_array_equal(clustering.centroids, found[source].centroids)


def run_killed(config, records, workdir, *, batch=None, save=None):
    """Runs in a process that is killed after a pass's batch or before a checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        process = run_alone(
            Path(directory),
            killed_run.main,
            *(config, str(workdir), str(records / "train"), batch, save),
        )
    assert process.returncode == -signal.SIGKILL, process.stderr
    return process.stdout


@pytest.fixture
def num_batches(monkeypatch):
    """Grows by the number of batches of each pass in this process."""
    numbers, average = [], extraction.average_clips

    def counting(batches):
        batches = list(batches)
        numbers.append(len(batches))
        return average(batches)

    monkeypatch.setattr(extraction, "average_clips", counting)
    return numbers


@pytest.fixture(scope="module")
def new_config(new_tiny_config):
    """Two rounds, whose four steps see 16 of 19 examples; 5 are held out."""

    def make():
        config = new_tiny_config() | {"method": "same_audio"}
        # 72 clips in 36 batches; every third ends with an example.
        config["features"] |= {
            "source": "training",
            "clips_per_video": 3,
            "batch_size": 2,
        }
        return config

    return make


class HarvestedRun(NamedTuple):
    workdir: str
    counts: list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def harvested_run(new_config, tiny_records, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("harvested") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        run_pretrain(new_config(), tiny_records, workdir)
    return HarvestedRun(str(workdir), counts(output.getvalue()))


@pytest.fixture(scope="module")
def killed_in_a_pass(new_config, tiny_records, tmp_path_factory):
    """Work directory of a run of one round that was killed after its 25th batch."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    run_killed(new_config() | {"num_rounds": 1}, tiny_records, workdir, batch=25)
    return workdir


@pytest.mark.slow
def test_a_pass_that_was_killed_goes_on_and_ends_as_an_uninterrupted_one(
    new_config,
    killed_in_a_pass,
    harvested_run,
    tiny_records,
    tmp_path,
    capsys,
    num_batches,
):
    config = new_config() | {"num_rounds": 1}
    shutil.copytree(killed_in_a_pass, tmp_path, dirs_exist_ok=True)
    run_pretrain(config, tiny_records, tmp_path)
    # 24 batches were on disk; the final clustering is of other encoders.
    assert counts(capsys.readouterr().out) == [(0, 16, 8), (0, 0, 24)]
    assert num_batches == [12, 36]
    assert_same_clusterings(tmp_path, harvested_run.workdir, rounds=[0])


def test_a_row_that_changed_on_disk_is_extracted_again(
    new_config, killed_in_a_pass, harvested_run, tiny_records, tmp_path, capsys
):
    config = new_config() | {"num_rounds": 1}
    shutil.copytree(killed_in_a_pass, tmp_path, dirs_exist_ok=True)
    rows = np.load(tmp_path / "features" / "rows.npy")
    features_file = tmp_path / "features" / "audio.npy"
    damaged = np.load(features_file, mmap_mode="r+")
    damaged[np.flatnonzero(rows)[5], 0] += 1
    damaged.flush()

    run_pretrain(config, tiny_records, tmp_path)

    output = capsys.readouterr()
    assert f"warning: {features_file}: 1 rows have changed on disk" in output.err
    assert counts(output.out) == [(0, 15, 9), (0, 0, 24)]
    expected = clusterings(harvested_run.workdir, 0)
    for source, clustering in clusterings(tmp_path, 0).items():
        np.testing.assert_array_equal(clustering.labels, expected[source].labels)
        np.testing.assert_allclose(
            clustering.centroids, expected[source].centroids, rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
def test_a_harvesting_run_killed_in_training_and_in_a_pass_ends_as_an_uninterrupted_one(
    new_config, harvested_run, tiny_records, tmp_path, capsys
):
    # Checkpoints are two at the start, the third step's and the round's. That one is
    # lost, with all of the round's features in the store.
    out = run_killed(new_config(), tiny_records, tmp_path, save=4)
    assert "step 4/4" in out
    # 3 examples are in no step: 9 clips in 5 batches, the third ends with the second.
    out = run_killed(new_config(), tiny_records, tmp_path, batch=4)
    assert "from step 3" in out
    run_pretrain(new_config(), tiny_records, tmp_path)
    assert counts(capsys.readouterr().out) == [(21, 2, 1), (0, 0, 24)]
    assert_same_clusterings(tmp_path, harvested_run.workdir, rounds=[0, 1, 2])


def test_a_clustering_between_rounds_extracts_only_what_no_step_has_seen(harvested_run):
    assert harvested_run.counts == [(0, 0, 24), (21, 0, 3), (0, 0, 24)]


def test_only_clusters_of_extracted_features_are_matched_to_encoders(harvested_run):
    made_of = [
        label_tables.read_settings(work.round_dir(harvested_run.workdir, round_index))
        for round_index in range(3)
    ]
    assert [bool(one["encoders_sha256"]) for one in made_of] == [True, False, True]
    run = trained_run.open_run(harvested_run.workdir)
    assert trained_run.final_clusters(run).round_index == 2


def test_supervised_training_keeps_no_features(tiny_config, tiny_records, tmp_path):
    run = prepare(
        tiny_config | {"method": "supervised"},
        workdir=str(tmp_path),
        records_dir=str(tiny_records / "train"),
        strategy=ONE_DEVICE,
        allow_config_change=False,
    )
    assert run_features.open_store(run) is None
    assert not os.path.exists(tmp_path / work.FEATURES_DIR)


def make_collector(tmp_path):
    store = feature_store.FeatureStore(
        str(tmp_path), num_rows=4, widths={"audio": 1}, dtype="float32", made_with={}
    )
    collector = run_features.FeatureCollector(store, ONE_DEVICE)
    collector.start_round(0)
    return store, collector


def encoded(index, values):
    rows = tf.constant(values, tf.float32)[:, None]
    return ExampleFeatures(tf.constant(index, tf.int64), {"audio": rows})


def test_a_step_is_written_when_the_next_one_comes_or_at_a_commit(tmp_path):
    store, collector = make_collector(tmp_path)
    audio = store.features().streams["audio"]
    collector.add(encoded([0, 2, -1], [1.0, 2.0, 9.0]), round_index=0, step=1)
    assert audio[:, 0].tolist() == [0, 0, 0, 0]
    collector.add(encoded([2, 3], [3.0, 4.0]), round_index=0, step=2)
    assert audio[:, 0].tolist() == [1, 0, 2, 0]
    collector.prepare_commit()()
    assert audio[:, 0].tolist() == [1, 0, 3, 4]
    assert store.features().present.tolist() == [True, False, True, True]


def test_harvested_features_that_are_not_finite_stop_with_round_and_step(tmp_path):
    _, collector = make_collector(tmp_path)
    collector.add(encoded([0, 2], [1.0, np.nan]), round_index=1, step=7)
    told = "audio .*example_index 2.* in round 2, step 7; the last checkpoint"
    with pytest.raises(FloatingPointError, match=told):
        collector.prepare_commit()()


def test_another_round_starts_with_an_empty_store(tmp_path):
    store, collector = make_collector(tmp_path)
    collector.add(encoded([0, 2], [1.0, 2.0]), round_index=0, step=1)
    collector.prepare_commit()()
    collector.start_round(0)
    assert store.states.any()
    collector.start_round(1)
    assert not store.states.any()
