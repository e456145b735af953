"""Pretraining by two worker processes on loopback."""

import os
import signal

import numpy as np
import pretraining_worker
import pytest
from forked_workers import run_workers
from prepared_runs import make_run

from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as work
from xdc_tf.training import configuration, first_features


def pretrain(directory, records, *, deadly_steps=(0, 0)):
    """Runs two workers to their ends; exit code, output and errors of each."""
    arguments = [
        (
            deadly_step,
            str(directory / f"weights{number}.npz"),
            f"--config={directory / 'config.py'}",
            f"--workdir={directory / 'run'}",
            f"--records={records / 'train'}",
        )
        for number, deadly_step in enumerate(deadly_steps)
    ]
    completed = run_workers(directory, pretraining_worker.main, arguments)
    return [(worker.returncode, worker.stdout, worker.stderr) for worker in completed]


def _config(new_tiny_config):
    config = new_tiny_config() | {"method": "same_audio"}
    config["labels"] = config["labels"] | {"first_features": "statistics"}
    return config


@pytest.fixture(scope="module")
def killed_and_restarted(tiny_records, new_tiny_config, tmp_path_factory):
    """A run whose second worker is killed in its sixth step, and then started again.

    Two rounds of 4 steps, a checkpoint in the steps 3 and 6.
    """
    directory = tmp_path_factory.mktemp("workers")
    config = _config(new_tiny_config)
    (directory / "config.py").write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({config!r})\n"
    )
    killed = pretrain(directory, tiny_records, deadly_steps=(0, 6))
    finished = pretrain(directory, tiny_records)
    return directory, killed, finished


def test_a_killed_worker_ends_the_other_with_one_line_and_exit_code_75(
    killed_and_restarted,
):
    _, (chief, other), _ = killed_and_restarted
    assert other[0] == -signal.SIGKILL, other
    assert chief[0] == os.EX_TEMPFAIL, chief
    told = [line for line in chief[2].splitlines() if line.startswith("error:")]
    assert len(told) == 1 and "another worker is lost" in told[0], chief[2]


def test_restarted_workers_go_on_from_the_last_checkpoint_to_a_common_end(
    killed_and_restarted,
):
    _, _, (chief, other) = killed_and_restarted
    assert chief[0] == 0, chief
    assert other[0] == 0, other
    # The end of the first round is step 4; the fifth is lost.
    assert "Going on from step 4" in chief[1]
    assert "has all its 2 rounds" in chief[1]


def test_both_workers_end_with_the_same_weights(killed_and_restarted):
    directory, _, _ = killed_and_restarted
    first, second = (np.load(directory / f"weights{number}.npz") for number in (0, 1))
    assert len(first.files) > 20
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_label_tables_have_the_examples_of_both_workers(killed_and_restarted):
    directory, _, _ = killed_and_restarted
    for round_index in range(3):
        table = label_tables.read(work.round_dir(str(directory / "run"), round_index))
        assert set(table.clusterings) == {"audio", "audio2"}
        for clustering in table.clusterings.values():
            assert len(clustering.labels) == 24 and clustering.labels.min() == 0
            assert clustering.sizes.sum() == 19


def test_first_centroids_are_means_of_the_statistics_that_one_process_finds(
    killed_and_restarted, tiny_records, new_tiny_config, tmp_path
):
    directory, _, _ = killed_and_restarted
    table = label_tables.read(work.round_dir(str(directory / "run"), 0))
    config = configuration.from_mapping(_config(new_tiny_config))
    run = make_run(config, tiny_records, tmp_path / "run")
    with run.lock, first_features.of_statistics(run) as found:
        statistics = {name: np.array(rows) for name, rows in found.streams.items()}
    trained = run.records.trained
    for name, clustering in table.clusterings.items():
        rows = statistics[name]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for number, centroid in enumerate(clustering.centroids):
            members = rows[trained & (clustering.labels == number)]
            np.testing.assert_allclose(centroid, members.mean(axis=0), atol=1e-4)


def test_the_chief_alone_tells_and_writes_and_each_keeps_its_own_features(
    killed_and_restarted,
):
    directory, _, (_, other) = killed_and_restarted
    assert other[1] == ""
    features = directory / "run" / work.FEATURES_DIR
    assert sorted(os.listdir(features)) == ["worker_000", "worker_001"]
    rows = [len(np.load(path / "rows.npy")) for path in sorted(features.iterdir())]
    # Three files of eight videos.
    assert rows == [16, 8]
