"""Pretraining by two worker processes on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xdc_tf import workdir as work
from xdc_tf.clustering import label_tables

ROOT = Path(__file__).parents[2]
# Two rounds of 4 steps, a checkpoint in the steps 3 and 6.
PROGRAM = """
import os, signal, sys
import numpy as np
from xdc_tf.training import pretrain as module, train_step

make, models, calls = train_step.make_train_step, [], []
def make_watched(model, *args, **kwargs):
    models.append(model)
    step = make(model, *args, **kwargs)
    def watched(batch):
        calls.append(batch)
        if len(calls) == {deadly_step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(batch)
    return watched
train_step.make_train_step = make_watched

pretrain = module.pretrain
def pretrain_and_tell(*args, **kwargs):
    pretrain(*args, **kwargs)
    variables = [
        variable
        for part in (*models[0].encoders.values(), *models[0].heads.values())
        for variable in part.get_weights()
    ]
    np.savez({told!r}, *variables)
module.pretrain = pretrain_and_tell

from xdc_tf.cli import pretrain as cli
cli.run()
"""


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_workers(directory, records, *, deadly_steps=(0, 0)):
    """Runs two workers to their ends; exit code, output and errors of each."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for number, deadly_step in enumerate(deadly_steps):
        task = {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": number},
        }
        told = str(directory / f"weights{number}.npz")
        program = PROGRAM.format(deadly_step=deadly_step, told=told)
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    program,
                    f"--config={directory / 'config.py'}",
                    f"--workdir={directory / 'run'}",
                    f"--records={records / 'train'}",
                ],
                cwd=ROOT,
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=600) for process in processes]
    return [
        (process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def killed_and_restarted(tiny_records, new_tiny_config, tmp_path_factory):
    """A run whose second worker is killed in its sixth step, and then started again."""
    directory = tmp_path_factory.mktemp("workers")
    config = new_tiny_config()
    (directory / "config.py").write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({config!r})\n"
    )
    killed = run_workers(directory, tiny_records, deadly_steps=(0, 6))
    finished = run_workers(directory, tiny_records)
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
        assert set(table.clusterings) == {"video", "audio"}
        for clustering in table.clusterings.values():
            assert len(clustering.labels) == 24 and clustering.labels.min() == 0
            assert clustering.sizes.sum() == 19


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
