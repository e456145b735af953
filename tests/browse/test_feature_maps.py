"""Maps and neighbours of features."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from xdc_tf.browse import feature_maps

pytestmark = pytest.mark.once

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def three_groups():
    """Features [90, 16] around three directions, and the group of each."""
    groups = np.arange(90) % 3
    centres = 4 * np.eye(3, 16)
    return (centres[groups] + RNG.normal(size=(90, 16)) / 4).astype("float32"), groups


def test_a_map_keeps_groups_apart_and_says_how_it_was_made(three_groups):
    features, groups = three_groups
    feature_map = feature_maps.make_map(features, np.arange(90), seed=0)
    assert feature_map.method == "PCA to 16, t-SNE (perplexity 29.7)"
    nearest = KNeighborsClassifier(3).fit(feature_map.places, groups)
    assert nearest.score(feature_map.places, groups) == 1


def test_the_same_features_and_seed_give_the_same_map(three_groups):
    maps = [
        feature_maps.make_map(three_groups[0], np.arange(90), seed=3).places
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (4, 1)])
def test_a_map_of_hardly_any_examples_is_one_of_principal_components(shape):
    feature_map = feature_maps.make_map(RNG.normal(size=shape), np.arange(1), seed=0)
    assert feature_map.method == "PCA to 2"
    assert feature_map.places.shape == (shape[0], 2)
    assert np.isfinite(feature_map.places).all()


def test_a_sample_has_what_is_shown_and_nothing_without_features():
    present = np.ones(1000, bool)
    present[7] = False
    sample = feature_maps.choose_sample(present, [7, 8, 500], seed=0, size=20)
    assert len(sample) == 20 and (np.diff(sample) > 0).all()
    assert {8, 500} <= set(sample.tolist()) and 7 not in sample
    again = feature_maps.choose_sample(present, [7, 8, 500], seed=0, size=20)
    np.testing.assert_array_equal(sample, again)


def test_neighbours_are_the_ten_nearest_by_cosine(three_groups, monkeypatch):
    monkeypatch.setattr(feature_maps, "_BLOCK_ROWS", 7)
    features, _ = three_groups
    examples = np.arange(90) * 5
    neighbours = feature_maps.nearest_neighbours(features, examples)
    cosines = cosine_similarity(features)
    np.fill_diagonal(cosines, -2)
    assert set(neighbours) == set(map(str, examples))
    for place, example in enumerate(examples):
        found = neighbours[str(example)]
        expected = np.sort(cosines[place])[::-1][:10]
        np.testing.assert_allclose([value for _, value in found], expected, atol=1e-4)
        assert example not in [other for other, _ in found]


def test_a_single_example_has_no_neighbours():
    assert feature_maps.nearest_neighbours(np.ones((1, 4)), np.array([3])) == {"3": []}
