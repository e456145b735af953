"""Agreement of labellings, by hand and against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from xdc_tf.labels import agreement
from xdc_tf.labels.agreement import churn, compare, count_pairs
from xdc_tf.runtime import arrays

pytestmark = pytest.mark.once


def labellings(num_a, num_b, seed=0, num_examples=500):
    rng = np.random.default_rng([num_a, seed])
    a = rng.integers(0, num_a, num_examples)
    other = rng.integers(0, num_b, num_examples)
    return a, np.where(rng.random(num_examples) < 0.5, a % num_b, other)


SIZES = pytest.mark.parametrize(
    ("num_a", "num_b"), [(2, 2), (5, 40), (300, 7), (400, 400), (1, 4)]
)


@SIZES
def test_nmi_is_that_of_scikit_learn(num_a, num_b):
    a, b = labellings(num_a, num_b)
    found = agreement.normalized_mutual_information(a, b)
    np.testing.assert_allclose(found, normalized_mutual_info_score(a, b), atol=1e-12)


@SIZES
def test_the_adjusted_rand_index_is_that_of_scikit_learn(num_a, num_b):
    a, b = labellings(num_a, num_b)
    found = compare(count_pairs(a, b)).ari
    np.testing.assert_allclose(found, adjusted_rand_score(a, b), atol=1e-12)


@SIZES
def test_conditional_entropies_are_those_of_the_table(num_a, num_b):
    a, b = labellings(num_a, num_b)
    table = contingency_matrix(a, b)
    by_row = entropy(table, axis=1) @ table.sum(axis=1) / table.sum()
    by_column = entropy(table, axis=0) @ table.sum(axis=0) / table.sum()
    found = compare(count_pairs(a, b))
    np.testing.assert_allclose(found.second_given_first, by_row, atol=1e-12)
    np.testing.assert_allclose(found.first_given_second, by_column, atol=1e-12)


@SIZES
def test_churn_is_what_the_best_matching_leaves(num_a, num_b):
    a, b = labellings(num_a, num_b)
    table = contingency_matrix(a, b)
    kept = table[linear_sum_assignment(table, maximize=True)].sum()
    assert churn(count_pairs(a, b)) == pytest.approx(1 - kept / 500, abs=1e-12)


def test_the_table_is_that_of_scikit_learn_whatever_the_blocks(monkeypatch):
    a, b = labellings(60, 50)
    expected = contingency_matrix(a, b)
    for block, cells in [(1000, 10**6), (7, 1), (100, 170)]:
        monkeypatch.setattr(arrays, "BLOCK_ROWS", block)
        monkeypatch.setattr(agreement, "_BLOCK", block)
        monkeypatch.setattr(agreement, "_CELLS", cells)
        found = count_pairs(a, b)
        np.testing.assert_array_equal(found.toarray(), expected)
        assert compare(found).nmi == pytest.approx(normalized_mutual_info_score(a, b))


def test_labels_may_be_memory_maps(tmp_path):
    a, b = labellings(6, 5)
    for name, labels in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", labels.astype(np.int32))
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"]
    found = count_pairs(*mapped)
    np.testing.assert_array_equal(found.toarray(), contingency_matrix(a, b))


def test_nmi_of_renamed_labels_is_one():
    a, b = [0, 0, 1, 2], [7, 7, 3, 1000]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(1.0)


def test_nmi_of_independent_labels_is_zero():
    a, b = [0, 0, 1, 1], [0, 1, 0, 1]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(0.0)


def test_two_single_classes_agree():
    found = compare(count_pairs([3, 3], [0, 0]))
    assert (found.nmi, found.ari, found.purity) == (1.0, 1.0, 1.0)


def test_one_example_agrees_with_itself():
    found = compare(count_pairs([3], [0]))
    assert (found.num_examples, found.nmi, found.ari) == (1, 1.0, 1.0)


def test_nmi_leaves_out_positions_without_a_label():
    a, b = [0, -1, 0, 1, 1, 2], [5, 5, 5, 6, 6, -1]
    assert agreement.normalized_mutual_information(a, b) == pytest.approx(1.0)


def test_only_examples_with_both_labels_are_counted():
    assert compare(count_pairs([0, -1, 0, 1], [5, 5, -1, 6])).num_examples == 2


def test_very_large_label_numbers_need_no_large_table():
    a = np.array([0, 2**40, 2**40, -5], np.int64)
    assert agreement.normalized_mutual_information(a, a) == pytest.approx(1.0)
    assert count_pairs(a, a).toarray().tolist() == [[1, 0], [0, 2]]


def test_purity_counts_the_commonest_class_of_each_cluster():
    clusters, classes = [0, 0, 0, 1, 1, 1, 1], [4, 4, 5, 5, 5, 6, 4]
    assert compare(count_pairs(clusters, classes)).purity == pytest.approx(4 / 7)


def test_purity_leaves_out_positions_without_a_label():
    assert compare(count_pairs([0, 0, -1, 1], [1, -1, 2, 3])).purity == 1.0


def test_renamed_labels_are_no_churn():
    assert churn(count_pairs([0, 0, 1, 2, 2], [7, 7, 0, 3, 3])) == 0.0


def test_a_cluster_that_was_divided_keeps_its_larger_part():
    assert churn(count_pairs([0, 0, 0, 0, 1], [2, 2, 2, 0, 1])) == pytest.approx(0.2)


def test_two_clusters_are_not_matched_with_the_same_one():
    assert churn(count_pairs([0, 0, 0, 1, 1], [4] * 5)) == pytest.approx(0.4)


def test_a_matching_gives_up_the_largest_pair_for_a_larger_sum():
    a, b = [0] * 5 + [0] * 4 + [1] * 4, [0] * 5 + [1] * 4 + [0] * 4
    assert churn(count_pairs(a, b)) == pytest.approx(5 / 13)


def test_equal_clusters_count_fully():
    assert agreement.effective_num_clusters([5, 5, 5, 5]) == pytest.approx(4.0)


def test_empty_clusters_do_not_count():
    assert agreement.effective_num_clusters([8, 0, 8, 0]) == pytest.approx(2.0)


def test_uneven_clusters_count_by_their_entropy():
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert agreement.effective_num_clusters([3, 1]) == pytest.approx(expected)


def test_labellings_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"received shapes \(2,\) and \(3,\)"):
        count_pairs([0, 1], [0, 1, 2])


@pytest.mark.parametrize("measure", [compare, churn])
@pytest.mark.parametrize("a", [[0, -1], [-1, -1], []])
def test_labellings_without_a_common_example_are_refused(measure, a):
    with pytest.raises(ValueError, match="no example has a label in both"):
        measure(count_pairs(a, [-1, 1][: len(a)]))


@pytest.mark.parametrize("sizes", [[], [0, 0], [3, -1]])
def test_sizes_without_an_example_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be counts"):
        agreement.effective_num_clusters(sizes)
