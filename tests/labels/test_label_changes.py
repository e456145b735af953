"""Labels matched to those before, and those of the nearest."""

import itertools

import numpy as np
import pytest

from xdc_tf.labels import label_changes
from xdc_tf.labels.label_tables import Clustering

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)


def _clustering(labels, num_clusters):
    return Clustering(
        labels,
        centroids=np.arange(num_clusters, dtype=np.float32)[:, None],
        sizes=np.bincount(labels[labels >= 0], minlength=num_clusters),
        inertia=1.0,
        offsets=np.arange(num_clusters, dtype=np.float32),
    )


def test_matching_keeps_the_numbers_of_as_many_examples_as_can_be():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        previous, labels = rng.integers(-1, 4, (2, 60)).astype(np.int32)
        matched = label_changes.match_clusters(_clustering(labels, 4), previous)
        by_hand = max(
            np.sum((np.array([*order, -1])[labels] == previous) & (previous >= 0))
            for order in itertools.permutations(range(4))
        )
        assert np.sum((matched.labels == previous) & (previous >= 0)) == by_hand


def test_what_is_numbered_anew_is_the_same_clustering():
    labels = RNG.integers(-1, 4, 60).astype(np.int32)
    clustering = _clustering(labels, 4)
    matched = label_changes.match_clusters(clustering, np.roll(labels, 7))
    for name in ("centroids", "sizes", "offsets"):
        old, new = getattr(clustering, name), getattr(matched, name)
        np.testing.assert_array_equal(
            old[labels[labels >= 0]], new[matched.labels[labels >= 0]]
        )
    np.testing.assert_array_equal(matched.labels < 0, labels < 0)


def test_the_nearest_of_each_cluster_keep_their_label():
    labels = RNG.integers(-1, 3, 50).astype(np.int32)
    distances = RNG.random(50)
    kept = label_changes.nearest_part(labels, distances, 0.3)
    for cluster in range(3):
        members = np.flatnonzero(labels == cluster)
        nearest = members[np.argsort(distances[members])]
        nearest = nearest[: int(np.ceil(0.3 * len(members)))]
        assert set(np.flatnonzero(kept == cluster)) == set(nearest)
    assert np.all(kept[labels < 0] == -1)
    np.testing.assert_array_equal(
        label_changes.nearest_part(labels, distances, 1.0), labels
    )
