import numpy as np
import pytest

from xdc_tf.training import batches

pytestmark = pytest.mark.once


def draws(*labels, trained=None):
    labels = {str(number): np.array(one) for number, one in enumerate(labels)}
    trained = np.ones(len(labels["0"]), bool) if trained is None else np.array(trained)
    return batches.expected_draws(labels, trained)


def test_clusters_of_one_and_of_three_are_drawn_twice_each():
    np.testing.assert_allclose(draws([1, 0, 1, 1]), [2 / 3, 2, 2 / 3, 2 / 3])


def test_equal_clusters_give_one_draw_each():
    assert draws([0, 1, 1, 0]).tolist() == [1, 1, 1, 1]


def test_empty_clusters_take_no_share():
    np.testing.assert_allclose(draws([9, 4, 9, 9]), [2 / 3, 2, 2 / 3, 2 / 3])


def test_only_trained_examples_are_drawn_and_counted():
    # Of the four trained, one is of cluster 0 and three of 1.
    found = draws([0, 0, 1, 1, 1, 0], trained=[True, False, True, True, True, False])
    np.testing.assert_allclose(found, [2, 0, 2 / 3, 2 / 3, 2 / 3, 0])


def test_an_example_without_a_label_is_not_drawn_and_the_others_more():
    np.testing.assert_allclose(draws([-1, 0, 1, 1]), [0, 2, 1, 1])


def test_several_sources_give_the_mean_of_their_draws():
    # By the first source alone 2 and 2/3 three times; by the second 1, 1, 0 and 2.
    found = draws([0, 1, 1, 1], [5, 5, -1, 6])
    np.testing.assert_allclose(found, [3 / 2, 5 / 6, 1 / 3, 4 / 3])


def test_draws_sum_to_the_number_of_trained_examples():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 40, (3, 500)) ** 2 // 40
    trained = rng.random(500) < 0.8
    assert draws(*labels, trained=trained).sum() == pytest.approx(trained.sum())


def test_a_source_without_any_label_is_named():
    labels = {"video": np.array([0, 1]), "audio": np.array([-1, 3])}
    with pytest.raises(ValueError, match="none of the 1 .* has a label of audio"):
        batches.expected_draws(labels, np.array([True, False]))
