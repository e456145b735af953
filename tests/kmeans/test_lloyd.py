import numpy as np
import pytest
import tensorflow as tf
from sklearn.cluster import kmeans_plusplus

from xdc_tf.kmeans import lloyd


def objective(rows, centroids):
    distances = ((rows[:, None] - centroids) ** 2).sum(axis=2)
    return distances.min(axis=1).sum()


def blobs(num_blobs, seed):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((num_blobs, 8))
    rows = centres[rng.integers(0, num_blobs, 1500)] + rng.standard_normal((1500, 8))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def choose():
    function = tf.function(lloyd.plus_plus, autograph=False)

    def choose_rows(rows, num_clusters, seed):
        seeds = tf.constant([seed, 0], tf.int64)
        return function(tf.constant(rows), seeds, num_clusters).numpy()

    return choose_rows


# 64 rows are drawn two at a time, 8 one by one.
@pytest.mark.parametrize("num_clusters", [8, 64])
def test_chosen_rows_are_as_good_a_start_as_those_of_scikit_learn(choose, num_clusters):
    ours, theirs = [], []
    for seed in range(8):
        rows = blobs(num_clusters, seed)
        ours.append(objective(rows, choose(rows, num_clusters, seed)))
        start, _ = kmeans_plusplus(rows, num_clusters, random_state=seed)
        theirs.append(objective(rows, start))
    assert np.mean(ours) <= 1.05 * np.mean(theirs)


@pytest.mark.parametrize("num_clusters", [1, 2, 65, 200])
def test_as_many_different_rows_are_chosen_as_wanted(choose, num_clusters):
    rows = blobs(5, 0)
    chosen = choose(rows, num_clusters, 3)
    assert chosen.shape == (num_clusters, 8)
    assert len(np.unique(chosen, axis=0)) == num_clusters
    assert {row.tobytes() for row in chosen} <= {row.tobytes() for row in rows}


def test_another_seed_chooses_other_rows(choose):
    rows = blobs(5, 0)
    np.testing.assert_array_equal(choose(rows, 5, 0), choose(rows, 5, 0))
    assert not np.array_equal(choose(rows, 5, 0), choose(rows, 5, 1))
