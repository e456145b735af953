"""Figures of clusters against scikit-learn and against arithmetic on tiny tables."""

import collections

import numpy as np
import pytest
from sklearn import metrics
from sklearn.metrics.cluster import contingency_matrix

from xdc_tf.browse import cluster_tables
from xdc_tf.labels.label_tables import Clustering

RNG = np.random.default_rng(0)
NUM_ROWS, NUM_CLUSTERS, NUM_CLASSES = 500, 7, 5


def clustering(labels, num_clusters=NUM_CLUSTERS):
    labels = np.asarray(labels, np.int32)
    sizes = np.bincount(labels[labels >= 0], minlength=num_clusters)
    return Clustering(labels, np.zeros((num_clusters, 2), np.float32), sizes, 1.0)


def random_labels(number, holes=0.1):
    labels = RNG.integers(number, size=NUM_ROWS).astype(np.int32)
    labels[RNG.random(NUM_ROWS) < holes] = -1
    return labels


@pytest.fixture(scope="module")
def round_of_two():
    """Clusterings of a round and of the one before, and true labels."""
    now = {name: clustering(random_labels(NUM_CLUSTERS)) for name in ("audio", "video")}
    before = {
        name: clustering(random_labels(NUM_CLUSTERS)) for name in ("audio", "video")
    }
    return now, before, random_labels(NUM_CLASSES, holes=0.5)


def rows_of(round_of_two):
    now, before, classes = round_of_two
    return cluster_tables.cluster_rows(
        "audio", now, previous=before, true_labels=classes
    )


def test_figures_of_a_clustering_are_those_of_scikit_learn(round_of_two):
    now, before, classes = round_of_two
    figures = cluster_tables.clustering_figures(
        "audio", now, previous=before, true_labels=classes
    )
    for key, other in (
        ("nmi_labels", classes),
        ("nmi_previous", before["audio"].labels),
        ("nmi", now["video"].labels),
    ):
        labels = now["audio"].labels
        both = (labels >= 0) & (other >= 0)
        expected = metrics.normalized_mutual_info_score(other[both], labels[both])
        value = figures[key]["video"] if key == "nmi" else figures[key]
        assert value == pytest.approx(expected, rel=1e-5)
    fractions = now["audio"].sizes / now["audio"].sizes.sum()
    effective = np.exp(-(fractions * np.log(fractions)).sum())
    assert figures["effective_clusters"] == pytest.approx(effective, rel=1e-5)
    assert figures["largest_fraction"] == pytest.approx(fractions.max(), rel=1e-5)


def test_purity_and_churn_of_each_cluster_follow_from_contingency(round_of_two):
    now, before, classes = round_of_two
    labels = now["audio"].labels
    for row in rows_of(round_of_two):
        members = labels == row["cluster"]
        assert row["size"] == members.sum()
        counts = np.bincount(classes[members & (classes >= 0)])
        assert row["purity"] == pytest.approx(counts.max() / counts.sum(), rel=1e-5)
        previous = before["audio"].labels
        counts = np.bincount(previous[members & (previous >= 0)])
        assert row["churn"] == pytest.approx(1 - counts.max() / counts.sum(), rel=1e-5)
        other = now["video"].labels
        counts = np.bincount(other[members & (other >= 0)])
        expected = counts.max() / counts.sum()
        assert row["agreement"] == {"video": pytest.approx(expected, rel=1e-5)}


def test_classes_of_a_cluster_are_counted_and_the_commonest_come_first(round_of_two):
    now, _, classes = round_of_two
    for row in rows_of(round_of_two):
        members = (now["audio"].labels == row["cluster"]) & (classes >= 0)
        counts = collections.Counter(classes[members].tolist())
        expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        assert row["classes"] == [list(item) for item in expected]


def test_at_most_twelve_clusters_of_the_other_source_are_listed():
    labels = np.arange(40, dtype=np.int32) % 20
    clusterings = {
        "audio": clustering(np.zeros(40), 1),
        "video": clustering(labels, 20),
    }
    (row,) = cluster_tables.cluster_rows(
        "audio", clusterings, previous={}, true_labels=np.full(40, -1)
    )
    assert row["others"]["video"] == [[number, 2] for number in range(12)]


def test_without_labels_or_a_round_before_figures_are_unknown_and_not_zero():
    clusterings = {"audio": clustering([0, 0, 1, -1], 3)}
    none = np.full(4, -1, np.int32)
    arguments = {"previous": {}, "true_labels": none}
    figures = cluster_tables.clustering_figures("audio", clusterings, **arguments)
    assert figures["nmi_labels"] is figures["nmi_previous"] is None
    assert (figures["nmi"], figures["empty_clusters"]) == ({}, 1)
    rows = cluster_tables.cluster_rows("audio", clusterings, **arguments)
    assert [row["size"] for row in rows] == [2, 1, 0]
    assert {row[key] for row in rows for key in ("purity", "churn")} == {None}


def test_pair_counts_are_the_contingency_matrix(round_of_two):
    now, before, _ = round_of_two
    first, second = before["audio"].labels, now["audio"].labels
    both = (first >= 0) & (second >= 0)
    expected = contingency_matrix(first[both], second[both])
    table = np.zeros_like(expected)
    for row, column, count in cluster_tables.pair_counts(first, second):
        table[row, column] = count
    np.testing.assert_array_equal(table, expected)


def test_of_too_many_pairs_the_largest_are_kept(monkeypatch):
    monkeypatch.setattr(cluster_tables, "MOST_PAIRS", 2)
    first = np.array([0, 0, 0, 1, 2, 2], np.int32)
    second = np.array([5, 5, 5, 1, 0, 0], np.int32)
    assert cluster_tables.pair_counts(first, second) == [[0, 5, 3], [2, 0, 2]]


def cross_of(first, second, **arguments):
    clusterings = {"audio": clustering(first, 3), "video": clustering(second, 3)}
    return cluster_tables.cross_table("audio", "video", clusterings, **arguments)


def test_cells_show_the_examples_that_have_clips():
    first, second = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 2]
    cross = cross_of(first, second, shown=[0, 2, 4], num_more=0)
    assert cross["examples"] == {"0,0": [0], "0,1": [2], "1,1": [4]}


def test_cells_without_a_clip_get_one_more_example_the_largest_first():
    first, second = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 2]
    cross = cross_of(first, second, shown=[0], num_more=1)
    assert cross["examples"] == {"0,0": [0], "1,1": [3]}


def test_examples_disagree_where_a_cell_is_rarer_than_by_chance():
    # Clusters 0 and 1 go together but for example 4.
    first, second = [0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]
    cross = cross_of(first, second, shown=list(range(8)), num_more=0)
    assert cross["disagreeing"] == [4]
