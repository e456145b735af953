"""Accuracies: by hand, and next to scikit-learn."""

import json

import numpy as np
import pytest
from scipy import stats
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
    assert metrics.are_fractions("top1", [0.0, 1.0])
    assert not metrics.are_fractions("top1", [3.5])
    assert not metrics.are_fractions("top1", [-0.1, 0.2])
    assert not metrics.are_fractions("d_prime", [0.5])


def _planted(num_rows=400, num_classes=6, seed=0):
    rng = np.random.default_rng(seed)
    frequencies = np.linspace(0.02, 0.6, num_classes)
    members = rng.random([num_rows, num_classes]) < frequencies
    members[0] = True  # each class has an example
    members[1] = False
    return members, rng


def test_perfect_scores_have_an_average_precision_and_an_area_of_one():
    members, rng = _planted()
    scores = members + 0.9 * rng.random(members.shape)
    found = metrics.average_precisions(scores, members)
    assert (found.mean_ap, found.mean_auc) == pytest.approx((1.0, 1.0))
    assert found.per_class_ap == pytest.approx(np.ones(6))
    assert 7 < found.d_prime < 8  # the largest that is told


def test_shuffled_scores_have_the_prevalence_as_their_average_precision():
    members, rng = _planted(num_rows=20_000)
    scores = rng.permutation(members + 0.9 * rng.random(members.shape))
    found = metrics.average_precisions(scores, members)
    assert found.prevalence == pytest.approx(members.mean(), rel=1e-9)
    assert found.mean_ap == pytest.approx(found.prevalence, abs=0.01)
    assert found.mean_auc == pytest.approx(0.5, abs=0.02)
    assert found.d_prime == pytest.approx(0.0, abs=0.08)


def test_average_precision_and_area_are_those_of_their_definitions():
    members, rng = _planted(num_rows=60)
    scores = np.round(members + rng.normal(0, 1, members.shape), 1)  # with equal ones
    found = metrics.average_precisions(scores, members)
    for k in range(members.shape[1]):
        positives, negatives = scores[members[:, k], k], scores[~members[:, k], k]
        precision_at, recalls = [], []
        for threshold in sorted(set(scores[:, k]), reverse=True):
            taken = scores[:, k] >= threshold
            precision_at.append(members[taken, k].mean())
            recalls.append(members[taken, k].sum() / len(positives))
        steps = np.diff([0.0, *recalls])
        assert found.per_class_ap[k] == pytest.approx(np.sum(steps * precision_at))
        wins = positives[:, None] - negatives[None]
        area = np.mean((wins > 0) + 0.5 * (wins == 0))
        assert found.per_class_auc[k] == pytest.approx(area)
    assert found.mean_ap == pytest.approx(found.per_class_ap.mean())
    assert found.d_prime == pytest.approx(
        np.sqrt(2) * stats.norm.ppf(found.per_class_auc.mean())
    )


def test_a_class_without_an_example_is_left_out_of_the_means():
    members, rng = _planted()
    members[:, 2] = False
    found = metrics.average_precisions(
        members + 0.9 * rng.random(members.shape), members
    )
    assert np.isnan(found.per_class_ap[2]) and np.isnan(found.per_class_auc[2])
    assert (found.mean_ap, found.mean_auc) == pytest.approx((1.0, 1.0))


def test_a_class_that_all_examples_have_has_no_area():
    members = np.array([[True, True], [True, False]])
    found = metrics.average_precisions(np.array([[0.1, 0.9], [0.2, 0.3]]), members)
    assert found.per_class_ap.tolist() == [1.0, 1.0]
    assert np.isnan(found.per_class_auc[0]) and found.mean_auc == 1.0


@pytest.mark.parametrize(
    ("scores", "members", "message"),
    [
        (np.zeros([2, 3]), np.ones([2, 2], bool), r"\(2, 3\) do not fit labels"),
        (np.zeros([2, 2]), np.zeros([2, 2], bool), "none of 2 classes has one of 2"),
    ],
)
def test_scores_and_labels_that_do_not_fit_are_refused(scores, members, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precisions(scores, members)
