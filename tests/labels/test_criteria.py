"""Criteria without labels: against other definitions of them, and at their ends."""

import numpy as np
import pytest
from sklearn import metrics

from xdc_tf.kmeans import kmeans
from xdc_tf.labels import criteria

RNG = np.random.default_rng(0)


def test_the_effective_rank_counts_directions_of_equal_strength():
    orthogonal, _ = np.linalg.qr(RNG.normal(size=(64, 8)) - 0.0)
    centered = orthogonal - orthogonal.mean(axis=0)
    left, _, right = np.linalg.svd(centered, full_matrices=False)
    for rank in (1, 3, 8):
        features = (left[:, :rank] @ right[:rank]) + 5.0
        assert criteria.effective_rank(features) == pytest.approx(rank, rel=1e-6)


def test_features_that_are_all_the_same_have_no_rank():
    assert criteria.effective_rank(np.full((10, 4), 3.0)) == 0


def test_same_cluster_is_cohens_kappa():
    first, second = RNG.integers(0, 5, (2, 200))
    second[:120] = first[:120]
    expected = metrics.cohen_kappa_score(first, second)
    assert criteria.same_cluster(first, second) == pytest.approx(expected)
    assert criteria.same_cluster(first, first) == 1


def test_above_chance_is_0_at_chance_and_1_at_the_best():
    assert criteria.above_chance(0.25, 0.25) == 0
    assert criteria.above_chance(1.0, 0.25) == 1
    assert np.isnan(criteria.above_chance(1.0, 1.0))


def test_clusters_that_are_there_are_stable_and_those_of_noise_are_not():
    options = kmeans.Options(num_clusters=8)
    centers = np.eye(8)
    blobs = np.repeat(centers, 40, axis=0) + 0.02 * RNG.normal(size=(320, 8))
    noise = RNG.normal(size=(320, 8))
    assert criteria.stability(blobs, options, seed=0) == 1
    assert criteria.stability(noise, options, seed=0) < 0.6


def test_more_clusters_than_half_the_rows_are_fewer():
    rows = RNG.normal(size=(10, 4))
    options = kmeans.Options(num_clusters=256)
    assert -1 <= criteria.stability(rows, options, seed=0) <= 1


def test_features_that_cannot_be_clustered_have_no_stability():
    options = kmeans.Options(num_clusters=8)
    repeated = np.repeat(RNG.normal(size=(3, 4)), 20, axis=0)
    assert np.isnan(criteria.stability(repeated, options, seed=0))
    assert np.isnan(criteria.stability(np.zeros((40, 4)), options, seed=0))


def _halves(number):
    return np.arange(number) % 2 == 0


def test_what_a_linear_map_gives_is_found_first():
    queries = RNG.normal(size=(200, 8))
    targets = queries @ RNG.normal(size=(8, 6)) + 1.0
    found = criteria.retrieval(queries, targets, fitted=_halves(200))
    assert found == pytest.approx(1, abs=0.02)


def test_unrelated_targets_are_found_as_by_chance():
    values = [
        criteria.retrieval(
            RNG.normal(size=(200, 8)), RNG.normal(size=(200, 6)), fitted=_halves(200)
        )
        for _ in range(10)
    ]
    # A mean rank of 100 has a deviation of 0.058 here, of ten 0.018.
    assert np.mean(values) == pytest.approx(0, abs=0.06)


def test_features_that_are_all_the_same_find_nothing():
    same = np.ones((40, 3))
    other = RNG.normal(size=(40, 3))
    assert criteria.retrieval(same, other, fitted=_halves(40)) == 0
    assert criteria.retrieval(other, same, fitted=_halves(40)) == 0


def test_the_deviation_by_chance_is_that_of_uniform_ranks():
    means = 1 - 2 * RNG.random((4000, 100)).mean(axis=1)
    assert means.std() == pytest.approx(criteria.retrieval_deviation(200), rel=0.05)


def _retrievals(value):
    return {
        "retrieval_of_audio_by_video": value + 0.01,
        "retrieval_of_video_by_audio": value - 0.01,
        "stability_of_audio": 0.9,
    }


def test_a_run_has_taken_off_where_retrieval_has_risen_by_more_than_chance():
    # 3 x sqrt(2) x sqrt(1 / 3 / 300) = 0.141
    for rise, has_taken_off in ((-0.1, False), (0.13, False), (0.15, True)):
        text = criteria.describe_start(
            _retrievals(0.05), _retrievals(0.05 + rise), num_examples=600
        )
        assert (text == "") == has_taken_off
    text = criteria.describe_start(
        _retrievals(0.05), _retrievals(0.06), num_examples=600
    )
    assert "at 0.06, and did at 0.05 before training" in text and "by 0.03" in text


def test_without_retrieval_nothing_is_said():
    measured = {"stability_of_joint": 0.5}
    assert criteria.describe_start(measured, measured, num_examples=600) == ""
