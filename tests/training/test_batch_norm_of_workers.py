"""Batch norm over two worker processes on loopback."""

import batch_norm_program
import numpy as np
import pytest
from forked_workers import run_workers

ROWS = (
    np.array([[1.0, 10.0], [3.0, 30.0]], np.float32),
    np.array([[5.0, 10.0], [11.0, 90.0]], np.float32),
)


@pytest.fixture(scope="module")
def told_by_workers(tmp_path_factory):
    """What each of two workers with ROWS has saved."""
    directory, files = tmp_path_factory.mktemp("batch_norm"), []
    for number, rows in enumerate(ROWS):
        files.append((directory / f"rows{number}.npy", directory / f"out{number}.npz"))
        np.save(files[number][0], rows)
    for worker in run_workers(directory, batch_norm_program.main, files):
        assert worker.returncode == 0, worker.stdout + worker.stderr
    return [dict(np.load(out)) for _, out in files]


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
