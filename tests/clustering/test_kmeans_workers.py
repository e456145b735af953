"""k-means over worker processes on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xdc_tf.clustering import kmeans

PROGRAM = Path(__file__).with_name("worker_program.py")
ROOT = Path(__file__).parents[2]


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_workers(directory, parts, place):
    """Runs a worker per part of the rows; what each of them saved."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(len(parts))]
    processes = []
    for number, rows in enumerate(parts):
        np.save(directory / f"rows{number}.npy", rows)
        task = {"cluster": {"worker": workers}, "task": {"type": "worker"}}
        task["task"]["index"] = number
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    PROGRAM,
                    directory / f"rows{number}.npy",
                    directory / f"out{number}.npz",
                    place,
                ],
                env=os.environ
                | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [dict(np.load(directory / f"out{n}.npz")) for n in range(len(parts))]


@pytest.mark.parametrize("place", ["in_memory", "in_file"])
def test_two_workers_with_their_own_rows_find_what_one_process_does(tmp_path, place):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((150, 5)).astype(np.float32)
    parts = [rows[:90], rows[90:]]
    fitted = np.ones(150, bool)
    fitted[[3, 93]] = False
    first, second = run_workers(tmp_path, parts, place)
    alone = kmeans.fit(rows, num_clusters=6, seed=2, fitted_rows=fitted)
    np.testing.assert_array_equal(
        np.concatenate([first["labels"], second["labels"]]), alone.labels
    )
    np.testing.assert_array_equal(first["centroids"], second["centroids"])
    np.testing.assert_allclose(first["centroids"], alone.centroids, atol=1e-5)
    np.testing.assert_array_equal(first["sizes"], alone.sizes)
    np.testing.assert_allclose(first["inertia"], alone.inertia, rtol=1e-5)
    whitened = kmeans.fit(rows, num_clusters=4, seed=2, pca_components=3)
    np.testing.assert_array_equal(
        np.concatenate([first["whitened_labels"], second["whitened_labels"]]),
        whitened.labels,
    )
