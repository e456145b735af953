"""Accuracies: by hand, and next to scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from xdc_tf.evaluation import metrics

pytestmark = pytest.mark.once


def _random(num_rows, num_classes, seed=0):
    """Scores of distinct values, and labels of which every class has one."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % num_classes
    return rng.normal(size=[num_rows, num_classes]), rng.permutation(labels)


def test_three_examples_of_two_classes_by_hand():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    found = metrics.accuracies(scores, np.array([0, 0, 1]))
    # The second is taken for class 1.
    assert found.top1 == pytest.approx(2 / 3)
    assert found.per_class.tolist() == [0.5, 1.0]
    assert found.mean_class == 0.75
    assert found.confusion.tolist() == [[1, 1], [0, 1]]


def test_two_classes_are_always_among_the_first_five():
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = metrics.accuracies(scores, np.array([0, 1]))
    assert (found.top1, found.top5) == (0.0, 1.0)


def test_random_scores_give_what_scikit_learn_gives():
    scores, labels = _random(200, 11)
    found = metrics.accuracies(scores, labels)
    best = scores.argmax(1)
    assert found.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, best))
    assert found.top5 == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(labels, scores, k=5)
    )
    assert found.mean_class == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, best)
    )
    np.testing.assert_array_equal(
        found.confusion, sklearn_metrics.confusion_matrix(labels, best)
    )
    np.testing.assert_allclose(
        found.per_class, sklearn_metrics.recall_score(labels, best, average=None)
    )


def test_classes_of_unequal_size_count_the_same_in_the_mean_over_classes():
    labels = np.array([0] * 9 + [1])
    found = metrics.accuracies(np.tile([1.0, 0.0], [10, 1]), labels)
    assert (found.top1, found.mean_class) == (0.9, 0.5)


def test_planted_scores_are_perfect_and_shuffled_ones_at_chance():
    _, labels = _random(4000, 10)
    planted = np.eye(10)[labels]
    found = metrics.accuracies(planted, labels)
    assert (found.top1, found.top5, found.mean_class) == (1.0, 1.0, 1.0)
    shuffled = np.random.default_rng(1).permutation(planted)
    shuffled = shuffled + np.random.default_rng(2).uniform(0, 0.1, shuffled.shape)
    found = metrics.accuracies(shuffled, labels)
    assert found.top1 == pytest.approx(0.1, abs=0.02)
    assert found.top5 == pytest.approx(0.5, abs=0.04)


def test_of_equal_scores_the_first_class_is_the_higher():
    found = metrics.accuracies(np.zeros([4, 8]), np.array([0, 1, 4, 5]))
    assert (found.top1, found.top5) == (0.25, 0.75)
    assert found.confusion[:, 0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


def test_a_class_without_an_example_has_no_accuracy_and_no_say():
    scores = np.eye(3)[[0, 0, 2]]
    found = metrics.accuracies(scores, np.array([0, 0, 0]))
    assert found.mean_class == found.top1 == pytest.approx(2 / 3)
    assert np.isnan(found.per_class).tolist() == [False, True, True]
    details = metrics.as_details(found, ["a", "b", "c"])
    assert details["per_class"] == [pytest.approx(2 / 3), None, None]
    assert json.loads(json.dumps(details, allow_nan=False)) == details


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_raise(value):
    scores, labels = _random(6, 3)
    scores[2, 1] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        metrics.accuracies(scores, labels)


@pytest.mark.parametrize(
    "scores, labels, told",
    [
        (np.zeros([0, 3]), [], "do not fit 0 labels"),
        (np.zeros([2, 3]), [0], "do not fit 1 labels"),
        (np.zeros([2]), [0, 0], "do not fit 2 labels"),
        (np.zeros([2, 0]), [0, 0], "do not fit 2 labels"),
        (np.zeros([2, 3]), [0, 3], "from 0 to 3 do not fit 3 columns"),
        (np.zeros([2, 3]), [-1, 2], "from -1 to 2"),
    ],
)
def test_what_does_not_fit_is_an_error(scores, labels, told):
    with pytest.raises(ValueError, match=told):
        metrics.accuracies(scores, np.array(labels, np.int64))


def test_mean_and_deviation_are_those_of_a_sample():
    # Deviations -1, 0, 1: (1 + 0 + 1) / 2.
    assert metrics.mean_and_std([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_a_single_value_has_no_deviation():
    assert metrics.mean_and_std([0.25]) == (0.25, None)


def test_shares_are_told_from_other_numbers():
    assert metrics.are_fractions([0.0, 1.0])
    assert not metrics.are_fractions([3.5])
    assert not metrics.are_fractions([-0.1, 0.2])
