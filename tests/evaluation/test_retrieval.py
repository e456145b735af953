"""Retrieval: by hand, by scikit-learn's neighbours, across modalities, a whole run."""

import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from xdc_tf.evaluation import encoder_sources, retrieval
from xdc_tf.evaluation.retrieval import RetrievalSettings
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_makers import nearest
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import workdir


def _recalls(queries, gallery, query_labels, gallery_labels, ks=(1, 5, 10), **options):
    found = retrieval.ranks(
        queries,
        gallery,
        query_labels=query_labels,
        gallery_labels=gallery_labels,
        **options,
    )
    return retrieval.recalls(found, ks, gallery_size=len(gallery))[0]


def _normal(seed, shape):
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_planted_features_give_100_percent():
    queries, gallery = np.arange(10) % 5, np.arange(50) % 5
    found = _recalls(np.eye(5)[queries], np.eye(5)[gallery], queries, gallery)
    assert found == {"r1": 1.0, "r5": 1.0, "r10": 1.0}


def test_shuffled_labels_give_chance():
    labels = np.arange(500) % 5
    shuffled = np.random.default_rng(0).permutation(labels)
    found = _recalls(_normal(1, (500, 8)), _normal(2, (500, 8)), labels, shuffled)
    # One of five classes, with a deviation of 0.018; 1 - 0.8 ** 5 for five neighbours.
    assert abs(found["r1"] - 0.2) < 0.08
    assert abs(found["r5"] - 0.672) < 0.08


def test_ranks_are_those_by_hand():
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    gallery = np.array([[0.9, 0.1], [0.8, 0.3], [0.1, 0.9]])
    # Similarities: 0.9 0.8 0.1 | 0.1 0.3 0.9 | 1.0 1.1 1.0
    found = retrieval.ranks(
        queries,
        gallery,
        query_labels=np.array([1, 2, 3]),
        gallery_labels=np.array([0, 1, 2]),
    )
    # The second nearest; the nearest; none of the three.
    assert found.tolist() == [1, 0, 3]


def test_a_label_that_the_gallery_lacks_is_never_found_however_large_k():
    found = _recalls(np.eye(2), np.eye(2), np.array([0, 7]), np.array([0, 1]), ks=(9,))
    assert found == {"r9": 0.5}


def test_features_that_are_all_the_same_find_nothing():
    labels = np.arange(10)
    found = _recalls(np.ones([10, 3]), np.ones([10, 3]), labels, labels)
    assert found["r1"] == found["r5"] == 0.0


def test_recalls_are_those_of_scikit_learns_neighbours():
    queries, gallery = _normal(0, (60, 6)), _normal(1, (90, 6))
    query_labels, gallery_labels = np.arange(60) % 9, np.arange(90) % 9
    ks = (1, 2, 5, 10, 50)
    found = _recalls(queries, gallery, query_labels, gallery_labels, ks)
    oracle = NearestNeighbors(metric="cosine", algorithm="brute").fit(gallery)
    order = oracle.kneighbors(queries, 50, return_distance=False)
    hits = gallery_labels[order] == query_labels[:, None]
    assert found == {f"r{k}": hits[:, :k].any(axis=1).mean() for k in ks}


@pytest.mark.parametrize("block_rows", [1, 7, 60])
def test_blocks_change_nothing(block_rows):
    arguments = (_normal(0, (60, 6)), _normal(1, (90, 6)))
    labels = {"query_labels": np.arange(60) % 9, "gallery_labels": np.arange(90) % 9}
    np.testing.assert_array_equal(
        retrieval.ranks(*arguments, **labels, block_rows=block_rows),
        retrieval.ranks(*arguments, **labels),
    )


def test_k_beyond_the_gallery_is_capped_and_told():
    shares, capped = retrieval.recalls(np.array([0, 2, 3]), (1, 5), gallery_size=3)
    assert shares == {"r1": 1 / 3, "r5": 2 / 3}
    assert capped == {"r5": 3}


def _clustering(centroids, inertia=1.0, **options):
    centroids = np.array(centroids, np.float32)
    return Clustering(
        labels=np.zeros(0, np.int32),
        centroids=centroids,
        sizes=np.full(len(centroids), 1),
        inertia=inertia,
        **options,
    )


def test_distributions_are_softmaxes_of_squared_distances_by_their_mean():
    # Four clusters of one example each: the mean squared distance is 2 / 4.
    clustering = _clustering([[0, 0], [1, 0], [0, 1], [3, 4]], 2.0, normalize=False)
    found = retrieval.distributions(
        np.array([[0, 0]], np.float32), clustering, temperature=3.0
    )
    expected = np.exp(-np.array([0, 1, 1, 25]) / 1.5)
    np.testing.assert_allclose(found[0], expected / expected.sum(), rtol=1e-6)


def test_the_likeliest_cluster_is_the_nearest_one(monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 6)).astype(np.float32)
    clustering = _clustering(
        rng.normal(size=(5, 4)),
        pca_mean=rng.normal(size=6).astype(np.float32),
        pca_projection=rng.normal(size=(6, 4)).astype(np.float32),
        offsets=rng.normal(size=5).astype(np.float32),
    )
    found = retrieval.distributions(features, clustering, temperature=1.0)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_array_equal(
        found.argmax(axis=1), nearest(tf.constant(features), clustering).cluster
    )


def test_centroids_without_any_distance_give_the_nearest_all():
    clustering = _clustering([[1, 0], [0, 1]], inertia=0.0)
    found = retrieval.distributions(
        np.array([[0.9, 0.1]], np.float32), clustering, temperature=1.0
    )
    assert found.tolist() == [[1.0, 0.0]]


def test_conditionals_are_counts_and_one_example_spread_over_the_row():
    counts = retrieval.co_occurrences(
        np.array([0, 0, 0, 1, -1, 0]), np.array([0, 0, 1, 1, 1, -1]), shape=(3, 2)
    )
    assert counts.tolist() == [[2, 1], [0, 1], [0, 0]]
    np.testing.assert_allclose(
        retrieval.conditional(counts),
        [[2.5 / 4, 1.5 / 4], [0.5 / 2, 1.5 / 2], [0.5, 0.5]],
    )


def _bridge(pairs):
    """Of three video and three audio clusters, whose centroids are unit vectors."""
    clustering = _clustering(np.eye(3), inertia=0.3)
    counts = retrieval.co_occurrences(*np.array(pairs).T, shape=(3, 3))
    return retrieval.Bridge(
        clusterings={"video": clustering, "audio": clustering},
        conditionals={
            ("video", "audio"): retrieval.conditional(counts),
            ("audio", "video"): retrieval.conditional(counts.T),
        },
        temperature=1.0,
        details={},
    )


@pytest.mark.parametrize(("one", "other"), [("video", "audio"), ("audio", "video")])
def test_planted_clusters_carry_queries_over_to_the_other_modality(one, other):
    # Video clusters 0, 1, 2 go with the audio clusters 1, 2, 0.
    bridge = _bridge([(0, 1), (1, 2), (2, 0)] * 20)
    classes = np.arange(30) % 3
    streams = {"video": np.eye(3)[classes], "audio": np.eye(3)[(classes + 1) % 3]}
    queries = bridge.carry_over(streams[one].astype(np.float32), one, other)
    gallery = bridge.describe(streams[other].astype(np.float32), other)
    assert _recalls(queries, gallery, classes, classes)["r1"] == 1.0


def test_clusters_that_do_not_go_together_give_chance_across_modalities():
    rng = np.random.default_rng(0)
    bridge = _bridge(rng.integers(0, 3, (9000, 2)))
    # All pairs are as likely, so every query takes the same to the other side.
    streams = rng.dirichlet(np.ones(3), (2, 600)).astype(np.float32)
    classes = np.argmax(streams, axis=2)
    queries = bridge.carry_over(streams[0], "video", "audio")
    gallery = bridge.describe(streams[1], "audio")
    found = _recalls(queries, gallery, classes[0], rng.permutation(classes[1]))
    assert abs(found["r1"] - 1 / 3) < 0.1


def test_the_similarity_of_a_description_with_itself_is_one():
    bridge = _bridge([(0, 0)])
    rows = bridge.describe(_normal(0, (5, 3)).astype(np.float32), "video")
    np.testing.assert_allclose(np.sum(rows * rows, axis=1), 1.0)


def test_a_run_is_evaluated_within_and_across_modalities(source, split):
    ((results,), notes) = retrieval.run(
        source,
        [split],
        RetrievalSettings(num_clips=1),
        streams=["video", "audio"],
    )
    assert notes == ()
    names = ["video", "audio", "video_to_audio", "audio_to_video"]
    assert [result.stream for result in results] == names
    within, across = results[0], results[2]
    assert list(within.metrics) == ["r1", "r5", "r10", "r20", "r50"]
    assert list(across.metrics)[5:] == ["instance_r1", "instance_r10"]
    for result in results:
        values = [result.metrics[f"r{k}"] for k in retrieval.KS]
        assert values == sorted(values) and 0 <= values[0] <= values[-1] == 1.0
        assert result.details["num_queries"] == 12
        assert result.details["gallery_size"] == 24
        assert result.details["capped"] == {"r50": 24}
        assert json.loads(json.dumps(result.details)) == result.details
    assert across.details["num_pairs"] == 24
    assert across.details["num_clusters"] == {"video": 4, "audio": 4}


def test_one_stream_alone_is_evaluated_without_the_other(source, split):
    ((results,), notes) = retrieval.run(
        source,
        [split],
        RetrievalSettings(num_clips=1, ks=(1, 2)),
        streams=["audio"],
    )
    assert [result.stream for result in results] == ["audio"]
    assert list(results[0].metrics) == ["r1", "r2"]
    assert notes == ("no retrieval across modalities without the stream video",)


def test_joint_clusters_alone_leave_modalities_apart(source, tiny_run, monkeypatch):
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    monkeypatch.setattr(
        retrieval.trained_run,
        "final_clusters",
        lambda run: retrieval.trained_run.FinalClusters(
            2, {"joint": table.clusterings["video"]}
        ),
    )
    why_not = retrieval.not_across(source, ["video", "audio"])
    assert "clusters joint, and not video and audio each for itself" in why_not


def test_initial_encoders_leave_modalities_apart(tiny_run):
    initial = encoder_sources.open_source(str(tiny_run), initial=True)
    why_not = retrieval.not_across(initial, ["video", "audio"])
    assert why_not == "no retrieval across modalities by initial encoders"


def test_a_run_without_final_clusters_leaves_modalities_apart(source, monkeypatch):
    monkeypatch.setattr(workdir, "round_dirs", lambda directory: [])
    why_not = retrieval.not_across(source, ["video", "audio"])
    assert "has no clusters of its present encoders" in why_not


@pytest.mark.parametrize("ks", [(), (0, 1)])
def test_numbers_of_neighbours_that_cannot_be_are_an_error(ks):
    with pytest.raises(ValueError, match="ks=.* must be one or more values, each a"):
        RetrievalSettings(ks=ks)
