"""k-means over worker processes on loopback."""

import numpy as np
import pytest
import worker_program
from forked_workers import run_workers

from xdc_tf.kmeans import kmeans


@pytest.fixture(scope="module")
def rows():
    """Those of both workers, 90 of them the first one's."""
    return np.random.default_rng(0).standard_normal((150, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def told_by_workers(rows, tmp_path_factory):
    """What each of two workers saved of its rows in both places."""
    directory, files = tmp_path_factory.mktemp("workers"), []
    for number, part in enumerate((rows[:90], rows[90:])):
        files.append((directory / f"rows{number}.npy", directory / f"out{number}.npz"))
        np.save(files[number][0], part)
    for worker in run_workers(directory, worker_program.main, files):
        assert worker.returncode == 0, worker.stdout + worker.stderr
    return [dict(np.load(out)) for _, out in files]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in_memory", "in_file"])
def test_two_workers_with_their_own_rows_find_what_one_process_does(
    rows, told_by_workers, place
):
    first, second = (
        {
            name.removeprefix(f"{place}_"): values
            for name, values in told.items()
            if name.startswith(place)
        }
        for told in told_by_workers
    )
    fitted = np.ones(150, bool)
    fitted[[3, 93]] = False
    alone = kmeans.fit(rows, num_clusters=6, seed=2, fitted_rows=fitted)
    np.testing.assert_array_equal(
        np.concatenate([first["labels"], second["labels"]]), alone.labels
    )
    np.testing.assert_array_equal(first["centroids"], second["centroids"])
    np.testing.assert_allclose(first["centroids"], alone.centroids, atol=1e-5)
    np.testing.assert_array_equal(first["sizes"], alone.sizes)
    np.testing.assert_allclose(first["inertia"], alone.inertia, rtol=1e-5)
    whitened = kmeans.fit(rows, num_clusters=6, seed=2, pca_components=5)
    np.testing.assert_array_equal(
        np.concatenate([first["whitened_labels"], second["whitened_labels"]]),
        whitened.labels,
    )
