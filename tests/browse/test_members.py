"""Distances against NumPy, and which members of a cluster are shown."""

import numpy as np
import pytest

from xdc_tf.browse import members
from xdc_tf.browse.members import BORDERLINE, RANDOM, TYPICAL, Distances
from xdc_tf.labels import shown_members
from xdc_tf.labels.label_tables import Clustering

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def clustered():
    """Features [200, 8], which rows are there, and a clustering of them."""
    features = RNG.normal(size=(200, 8)).astype(np.float32)
    centroids = (RNG.normal(size=(5, 8)) / 3).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - centroids, axis=2)
    labels = apart.argmin(axis=1).astype(np.int32)
    labels[::17] = -1
    present = np.ones(200, bool)
    present[::13] = False
    sizes = np.bincount(labels[labels >= 0], minlength=5)
    return features, present, Clustering(labels, centroids, sizes, 1.0), apart


def measure(clustered):
    features, present, clustering, _ = clustered
    return members.measure_distances([features], present, clustering)


def test_distances_and_margins_are_those_of_numpy(clustered, monkeypatch):
    monkeypatch.setattr(members, "_BLOCK_NUMBERS", 64)  # many blocks
    distances = measure(clustered)
    _, present, clustering, apart = clustered
    sorted_apart = np.sort(apart, axis=1)
    known = present & (clustering.labels >= 0)
    nearest = sorted_apart[known, 0]
    np.testing.assert_allclose(distances.distance[known], nearest, rtol=1e-5)
    margins = sorted_apart[known, 1] - nearest
    np.testing.assert_allclose(distances.margin[known], margins, rtol=1e-3, atol=1e-5)
    assert np.isnan(distances.distance[~known]).all()
    assert np.isnan(distances.margin[~known]).all()


def test_features_of_another_width_than_the_clusters_are_refused(clustered):
    features, present, clustering, _ = clustered
    with pytest.raises(ValueError, match="7 values a row.*of 8; move"):
        members.measure_distances([features[:, :7]], present, clustering)


def test_the_dispersion_is_the_mean_distance_of_the_members(clustered):
    labels, distance = clustered[2].labels, measure(clustered).distance
    means = members.mean_distances(labels, distance, 6)
    for cluster in range(5):
        expected = np.nanmean(distance[labels == cluster])
        assert means[cluster] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(means[5])


def select(labels, distances, per_cluster, seed=0):
    labels = np.asarray(labels, np.int32)
    return members.select_members(
        labels,
        num_clusters=int(labels.max()) + 1,
        distances=distances,
        priorities=shown_members.draw_priorities(len(labels), seed=seed),
        per_cluster=per_cluster,
    )


def test_a_third_each_is_nearest_of_smallest_margin_and_random():
    distance = np.arange(30, dtype=np.float32)
    margin = np.arange(30, 0, -1).astype(np.float32)
    (chosen,) = select(np.zeros(30), Distances(distance, margin), 6)
    kinds = [member.kind for member in chosen]
    assert kinds == [TYPICAL] * 2 + [BORDERLINE] * 2 + [RANDOM] * 2
    assert [member.example for member in chosen[:4]] == [0, 1, 29, 28]
    assert len({member.example for member in chosen}) == 6


def test_an_example_is_shown_once_even_if_it_is_nearest_and_on_the_border():
    values = np.arange(5, dtype=np.float32)
    (chosen,) = select(np.zeros(5), Distances(values, values), 24)
    assert sorted(member.example for member in chosen) == list(range(5))


def test_without_distances_all_members_are_random_and_of_their_cluster():
    labels = np.array([0, 1, -1] * 20)
    chosen = select(labels, None, 4)
    for cluster, shown in enumerate(chosen):
        assert len(shown) == 4
        assert {labels[member.example] for member in shown} == {cluster}
        assert {member.kind for member in shown} == {RANDOM}


def test_random_members_follow_from_the_seed():
    labels = np.zeros(1000)
    assert select(labels, None, 5) == select(labels, None, 5)
    assert select(labels, None, 5) != select(labels, None, 5, seed=1)


def test_random_members_of_a_cluster_that_stays_are_the_same_in_all_rounds():
    before, now = np.arange(100) % 2, 1 - np.arange(100) % 2  # renamed
    assert select(before, None, 5)[0] == select(now, None, 5)[1]


def test_an_empty_cluster_has_no_members():
    assert select([0, 2], None, 3)[1] == []
