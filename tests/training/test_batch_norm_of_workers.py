"""Batch norm over two worker processes on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("batch_norm_program.py")
ROOT = Path(__file__).parents[2]
ROWS = (
    np.array([[1.0, 10.0], [3.0, 30.0]], np.float32),
    np.array([[5.0, 10.0], [11.0, 90.0]], np.float32),
)


@pytest.fixture(scope="module")
def told_by_workers(tmp_path_factory):
    """What each of two workers with ROWS has saved."""
    directory = tmp_path_factory.mktemp("batch_norm")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ROWS]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for number, rows in enumerate(ROWS):
        np.save(directory / f"rows{number}.npy", rows)
        task = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": number},
        }
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    PROGRAM,
                    directory / f"rows{number}.npy",
                    directory / f"out{number}.npz",
                ],
                env=os.environ
                | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [dict(np.load(directory / f"out{n}.npz")) for n in range(len(ROWS))]


def test_without_synchronisation_a_worker_normalises_by_its_own_rows(told_by_workers):
    for told in told_by_workers:
        np.testing.assert_allclose(
            told["own_outputs"], [[-1.0, -1.0], [1.0, 1.0]], rtol=1e-5
        )


def test_averaged_statistics_are_the_mean_over_the_workers(told_by_workers):
    for told in told_by_workers:
        # Means 2, 20 and 8, 50; variances 1, 100 and 9, 1600.
        np.testing.assert_allclose(told["own_mean"], [5.0, 35.0], rtol=1e-5)
        np.testing.assert_allclose(told["own_variance"], [5.0, 850.0], rtol=1e-5)


def test_synchronised_batch_norm_normalises_by_the_rows_of_all(told_by_workers):
    rows = np.concatenate(ROWS)
    for told, own in zip(told_by_workers, ROWS, strict=True):
        np.testing.assert_allclose(
            told["all_outputs"], (own - rows.mean(0)) / rows.std(0), rtol=1e-4
        )
        np.testing.assert_allclose(told["all_mean"], rows.mean(0), rtol=1e-5)
