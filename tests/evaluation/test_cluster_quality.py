"""Quality of clusters: by hand, by scikit-learn and scipy, and of a whole run."""

import json
import types

import numpy as np
import pytest
import sklearn.cluster
import sklearn.metrics
from scipy.optimize import linear_sum_assignment

from xdc_tf.evaluation import cluster_quality, encoder_sources
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import workdir
from xdc_tf.training.trained_run import FinalClusters


def test_clusters_that_are_the_classes_under_other_numbers_are_perfect():
    classes = np.arange(40) % 4
    found = cluster_quality.of_labels(np.array([7, 0, 3, 2])[classes], classes)
    np.testing.assert_allclose(found, 1.0)


def test_shuffled_labels_give_chance():
    rng = np.random.default_rng(0)
    classes = np.arange(2000) % 4
    found = cluster_quality.of_labels(rng.permutation(classes), classes)
    assert abs(found.ami) < 0.01 and abs(found.ari) < 0.01 and found.nmi < 0.01
    assert abs(found.purity - 0.25) < 0.05 and abs(found.hungarian - 0.25) < 0.05


def test_purity_and_hungarian_accuracy_are_those_by_hand():
    # Clusters 0 and 1 are both mostly of class 0: only one can be given it.
    clusters = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    classes = np.array([0, 0, 0, 0, 0, 1, 2, 1])
    found = cluster_quality.of_labels(clusters, classes)
    assert found.purity == pytest.approx((3 + 2 + 1) / 8)
    assert found.hungarian == pytest.approx((3 + 1 + 1) / 8)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(4, 9), (9, 4), (5, 5)])
def test_measures_are_those_of_scikit_learn_and_scipy(num_clusters, num_classes):
    rng = np.random.default_rng(num_clusters)
    classes = rng.integers(0, num_classes, 300)
    clusters = np.where(
        rng.random(300) < 0.5,
        classes % num_clusters,
        rng.integers(0, num_clusters, 300),
    )
    found = cluster_quality.of_labels(clusters, classes)
    counts = np.zeros([num_clusters, num_classes], int)
    np.add.at(counts, (clusters, classes), 1)
    rows, columns = linear_sum_assignment(-counts)
    for name, score in (
        ("nmi", sklearn.metrics.normalized_mutual_info_score),
        ("ami", sklearn.metrics.adjusted_mutual_info_score),
        ("ari", sklearn.metrics.adjusted_rand_score),
    ):
        assert getattr(found, name) == pytest.approx(score(classes, clusters)), name
    assert found.purity == pytest.approx(counts.max(axis=1).sum() / 300)
    assert found.hungarian == pytest.approx(counts[rows, columns].sum() / 300)


def test_clusters_are_ranked_by_purity_and_then_size():
    clusters = np.array([0, 0, 0, 0, 2, 2, 3, 3, 3, 5])
    classes = np.array([0, 0, 1, 1, 1, 1, 0, 0, 0, 1])
    assert cluster_quality.ranked(clusters, classes, ["dog", "cat"]) == [
        {"cluster": 3, "size": 3, "class": "dog", "purity": 1.0},
        {"cluster": 2, "size": 2, "class": "cat", "purity": 1.0},
        {"cluster": 5, "size": 1, "class": "cat", "purity": 1.0},
        {"cluster": 0, "size": 4, "class": "dog", "purity": 0.5},
    ]


def test_several_streams_are_assigned_side_by_side(monkeypatch):
    monkeypatch.setattr(cluster_quality, "_BLOCK_ROWS", 2)
    half = np.sqrt(0.5)
    clustering = Clustering(
        labels=np.zeros(0, np.int32),
        centroids=np.array([[half, 0, 0, half], [0, half, half, 0]], np.float32),
        sizes=np.array([1, 1]),
        inertia=0.0,
    )
    features = {
        "video": np.array([[5, 0], [0, 1], [2, 0]], np.float32),
        "audio": np.array([[0, 1], [9, 0], [0, 9]], np.float32),
    }
    found = cluster_quality.assign_clusters(features, ["video", "audio"], clustering)
    assert found.tolist() == [0, 1, 0]


def evaluate(source, split, streams):
    settings = cluster_quality.ClusterSettings()
    return cluster_quality.run(source, [split], settings, streams=streams).splits


def test_a_runs_training_videos_get_the_labels_of_its_last_table(
    source, split, tiny_run
):
    ((audio, video),) = evaluate(source, split, ["audio", "video"])
    assert {audio.stream, video.stream} == {"audio", "video"}
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    for result in (audio, video):
        labels = table.clusterings[result.stream].labels
        of_videos = labels[split.train.examples.example_indices]
        expected = cluster_quality.of_labels(of_videos, split.train.labels)
        for name, value in expected._asdict().items():
            assert result.metrics[f"train_{name}"] == pytest.approx(value), name
        ranking = result.details["train_clusters"]
        assert sum(row["size"] for row in ranking) == result.details["num_train"] == 24
        assert sum(row["size"] for row in result.details["test_clusters"]) == 12
        assert (result.details["round"], result.details["num_clusters"]) == (2, 4)
        assert json.loads(json.dumps(result.details)) == result.details
    assert list(audio.metrics)[:5] == ["nmi", "ami", "ari", "purity", "hungarian"]


def test_clusterings_of_other_streams_are_left_out(source, split):
    ((audio,),) = evaluate(source, split, ["audio"])
    assert audio.stream == "audio"


def test_joint_clusters_need_both_streams(source, split, tiny_run, monkeypatch):
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    final = FinalClusters(2, {"joint": table.clusterings["audio"]})
    monkeypatch.setattr(
        cluster_quality.trained_run, "final_clusters", lambda run: final
    )
    with pytest.raises(ValueError, match=r"streams=\['audio'\]: .*\['joint'\]"):
        evaluate(source, split, ["audio"])


def test_initial_encoders_have_no_clusters(tiny_run, split):
    initial = encoder_sources.open_source(str(tiny_run), initial=True)
    with pytest.raises(ValueError, match="initial encoders have no clusters"):
        evaluate(initial, split, ["audio"])


def minibatch(features, classes, **settings):
    """The result of clustering features of videos with classes."""
    test = types.SimpleNamespace(labels=np.asarray(classes))
    return cluster_quality.cluster_test_videos(
        "audio",
        np.asarray(features, np.float32),
        types.SimpleNamespace(test=test),
        cluster_quality.ClusterSettings(clustering="minibatch", **settings),
    )


def test_minibatch_clusters_of_planted_features_are_the_classes_whatever_their_length():
    rng = np.random.default_rng(0)
    classes = np.arange(120) % 4
    directions = np.eye(4, 9)[classes] + rng.normal(scale=0.02, size=(120, 9))
    features = directions * rng.uniform(0.1, 10, size=(120, 1))
    found = minibatch(features, classes)
    assert list(found.metrics)[0] == "v_measure"
    assert found.metrics["v_measure"] == pytest.approx(1.0)
    assert found.metrics["hungarian"] == pytest.approx(1.0)
    assert found.details["seeds"] == [0, 1, 2, 3, 4]
    assert found.details["num_clusters"] == 4


def test_minibatch_measures_are_means_of_scikit_learns_over_the_seeds():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, 200)
    features = np.eye(3, 5)[classes] + rng.normal(scale=0.7, size=(200, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = minibatch(features, classes, num_clusters=6, num_seeds=2, seed=7)
    expected = []
    for seed in (7, 8):
        fitted = sklearn.cluster.MiniBatchKMeans(6, n_init=10, random_state=seed)
        clusters = fitted.fit_predict(features.astype(np.float32))
        expected.append(sklearn.metrics.v_measure_score(classes, clusters))
    assert found.metrics["v_measure"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.details["v_measures"] == pytest.approx(expected, abs=1e-6)
    assert found.details["v_measure_std"] == pytest.approx(np.std(expected), abs=1e-6)
    assert found.metrics["nmi"] == pytest.approx(found.metrics["v_measure"])


def test_minibatch_clusters_of_shuffled_classes_are_worth_nothing():
    rng = np.random.default_rng(2)
    found = minibatch(rng.normal(size=(600, 8)), np.arange(600) % 3)
    assert found.metrics["v_measure"] < 0.02


def test_more_minibatch_clusters_than_videos_are_refused():
    with pytest.raises(ValueError, match="num_clusters=9: there are 5 test videos"):
        minibatch(np.eye(5), np.arange(5), num_clusters=9)


def test_encoders_that_have_no_clusters_can_be_clustered(tiny_run, split):
    initial = encoder_sources.open_source(str(tiny_run), initial=True)
    settings = cluster_quality.ClusterSettings(clustering="minibatch", num_seeds=1)
    ((result,),) = cluster_quality.run(
        initial, [split], settings, streams=["audio"]
    ).splits
    assert result.stream == "audio" and 0 <= result.metrics["v_measure"] <= 1
    assert result.details["num_test"] == len(split.test.labels)
