"""Agreement of labellings, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from xdc_tf.clustering import agreement


@pytest.mark.parametrize(("num_a", "num_b"), [(2, 2), (5, 40), (300, 7), (1, 4)])
def test_nmi_is_that_of_scikit_learn(num_a, num_b):
    rng = np.random.default_rng(num_a)
    a = rng.integers(0, num_a, 500)
    b = np.where(rng.random(500) < 0.5, a % num_b, rng.integers(0, num_b, 500))
    np.testing.assert_allclose(
        agreement.normalized_mutual_information(a, b),
        normalized_mutual_info_score(a, b),
        atol=1e-12,
    )


def test_nmi_of_renamed_labels_is_one():
    a, b = [0, 0, 1, 2], [7, 7, 3, 1000]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(1.0)


def test_nmi_of_independent_labels_is_zero():
    a, b = [0, 0, 1, 1], [0, 1, 0, 1]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(0.0)


def test_nmi_of_two_single_classes_is_one():
    assert agreement.normalized_mutual_information([3, 3], [0, 0]) == 1.0


def test_nmi_leaves_out_positions_without_a_label():
    a, b = [0, -1, 0, 1, 1, 2], [5, 5, 5, 6, 6, -1]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(1.0)


def test_nmi_of_very_large_label_numbers_needs_no_large_table():
    a = np.array([0, 2**40, 2**40], np.int64)
    assert agreement.normalized_mutual_information(a, a) == pytest.approx(1.0)


def test_purity_counts_the_commonest_class_of_each_cluster():
    clusters, classes = [0, 0, 0, 1, 1, 1, 1], [4, 4, 5, 5, 5, 6, 4]
    assert agreement.purity(clusters, classes) == pytest.approx(4 / 7)


def test_purity_leaves_out_positions_without_a_label():
    assert agreement.purity([0, 0, -1, 1], [1, -1, 2, 3]) == 1.0


def test_equal_clusters_count_fully():
    assert agreement.effective_num_clusters([5, 5, 5, 5]) == pytest.approx(4.0)


def test_empty_clusters_do_not_count():
    assert agreement.effective_num_clusters([8, 0, 8, 0]) == pytest.approx(2.0)


def test_uneven_clusters_count_by_their_entropy():
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert agreement.effective_num_clusters([3, 1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "measure", [agreement.normalized_mutual_information, agreement.purity]
)
def test_labellings_of_different_lengths_are_refused(measure):
    with pytest.raises(ValueError, match=r"received shapes \(2,\) and \(3,\)"):
        measure([0, 1], [0, 1, 2])


@pytest.mark.parametrize(
    "measure", [agreement.normalized_mutual_information, agreement.purity]
)
def test_labellings_without_a_common_example_are_refused(measure):
    with pytest.raises(ValueError, match="none of the 2 positions"):
        measure([0, -1], [-1, 1])


@pytest.mark.parametrize("sizes", [[], [0, 0], [3, -1]])
def test_sizes_without_an_example_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be counts"):
        agreement.effective_num_clusters(sizes)
