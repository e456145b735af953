"""Which clusters and members are shown."""

import numpy as np
import pytest

from xdc_tf.labels import shown_members

pytestmark = pytest.mark.once


def test_clusters_are_shown_from_the_largest_to_the_smallest_that_has_examples():
    sizes = np.array([5, 0, 9, 1, 7])
    assert shown_members.clusters_of_all_sizes(sizes, 3) == [2, 0, 3]
    assert shown_members.clusters_of_all_sizes(sizes, 9) == [2, 4, 0, 3]
    assert shown_members.clusters_of_all_sizes(sizes, 1) == [2]
    assert shown_members.clusters_of_all_sizes(np.zeros(2, int), 3) == []


def test_members_are_those_of_the_lowest_priority_among_those_that_may_be_drawn():
    labels = np.array([0, 1, 0, 0, -1, 1])
    priorities = np.array([0.5, 0.2, 0.1, 0.9, 0.0, 0.3])
    drawn = shown_members.random_members(
        labels,
        [1, 0],
        priorities=priorities,
        among=np.array([0, 1, 3, 4, 5]),
        per_cluster=2,
    )
    assert drawn == [[1, 5], [0, 3]]


def test_priorities_follow_from_the_seed():
    first, again, other = (
        shown_members.draw_priorities(5, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
