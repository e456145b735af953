"""A round's health, by hand on labels of a few examples."""

import json
import math

import numpy as np
import pytest

from xdc_tf.labels import health
from xdc_tf.labels.health import HealthSettings
from xdc_tf.labels.label_tables import Clustering

pytestmark = pytest.mark.once

NO_LABELS = np.full(8, -1, np.int32)


def clustering(labels, *, num_clusters=2, inertia=4.0, num_reseeded=0):
    labels = np.array(labels, np.int32)
    sizes = np.bincount(labels[labels >= 0], minlength=num_clusters)
    return Clustering(
        labels=labels,
        centroids=np.zeros([num_clusters, 3], np.float32),
        sizes=sizes,
        inertia=inertia,
        num_reseeded=num_reseeded,
    )


def report(clusterings, *, previous=NO_LABELS, true_labels=NO_LABELS, **settings):
    return health.build_report(
        clusterings,
        previous=lambda name: previous,
        true_labels=np.array(true_labels),
        settings=HealthSettings(**settings),
        round_index=2,
    )


AUDIO = clustering([0, 0, 0, 0, 1, 1, 1, 1])
VIDEO = clustering([0, 0, 1, 1, 1, 1, 0, 0])


def test_even_clusters_count_fully():
    assert health.measures_of_sizes(np.array([5, 5, 5, 5])) == pytest.approx(
        {
            "num_clusters": 4,
            "num_examples": 20,
            "size_min": 5,
            "size_p05": 5,
            "size_p25": 5,
            "size_median": 5,
            "size_p75": 5,
            "size_p95": 5,
            "size_max": 5,
            "entropy": math.log(4),
            "effective_clusters": 4,
            "effective_share": 1,
            "largest_share": 0.25,
            "empty_clusters": 0,
        }
    )


def test_uneven_clusters_show_in_every_measure_of_sizes():
    found = health.measures_of_sizes(np.array([0, 1, 2, 3, 10]))
    shares = np.array([1, 2, 3, 10]) / 16
    entropy = -np.sum(shares * np.log(shares))
    assert found == pytest.approx(
        {
            "num_clusters": 5,
            "num_examples": 16,
            "size_min": 0,
            "size_p05": 0.2,
            "size_p25": 1,
            "size_median": 2,
            "size_p75": 3,
            "size_p95": 3 + 0.8 * 7,
            "size_max": 10,
            "entropy": entropy,
            "effective_clusters": np.exp(entropy),
            "effective_share": np.exp(entropy) / 5,
            "largest_share": 10 / 16,
            "empty_clusters": 1,
        }
    )


def test_the_report_tells_inertia_and_clusters_placed_anew():
    one = clustering(AUDIO.labels, inertia=6.0, num_reseeded=3)
    found = report({"audio": one})["clusterings"]["audio"]
    assert found["inertia"] == 6.0
    assert found["mean_squared_distance"] == 0.75
    assert found["empty_reseeded"] == 3


def test_renamed_clusters_are_those_of_the_round_before():
    found = report({"audio": AUDIO}, previous=1 - AUDIO.labels)
    assert found["clusterings"]["audio"]["churn"] == 0
    for measure in ("nmi", "ari"):
        agreement = found["clusterings"]["audio"][f"{measure}_with_previous_round"]
        assert agreement == pytest.approx(1)


def test_churn_is_the_share_of_examples_that_left_their_cluster():
    before = np.array([1, 1, 1, 0, 0, 0, 0, -1])
    found = report({"audio": AUDIO}, previous=before)
    assert found["clusterings"]["audio"]["churn"] == pytest.approx(1 / 7)


def test_a_first_round_has_no_measures_of_change():
    found = report({"audio": AUDIO}, previous=NO_LABELS)["clusterings"]["audio"]
    assert not {name for name in found if "previous" in name or name == "churn"}


def test_agreement_with_true_labels_is_over_those_that_are_known():
    labels = [5, 5, 6, -1, 6, 6, 6, -1]
    found = report({"audio": AUDIO}, true_labels=labels)["clusterings"]["audio"]
    assert found["purity"] == pytest.approx(5 / 6)
    assert 0 < found["nmi_with_true_labels"] < 1
    assert 0 < found["ari_with_true_labels"] < 1


def test_without_true_labels_nothing_is_said_about_them():
    found = report({"audio": AUDIO})["clusterings"]["audio"]
    assert not {name for name in found if "true" in name or name == "purity"}


def test_independent_modalities_leave_each_others_labels_open():
    assert report({"audio": AUDIO, "video": VIDEO})["between"] == pytest.approx(
        {
            "nmi_of_audio_and_video": 0,
            "ari_of_audio_and_video": -1 / 6,
            "entropy_of_audio_given_video": math.log(2),
            "entropy_of_video_given_audio": math.log(2),
        },
        abs=1e-12,
    )


def test_a_finer_clustering_tells_a_coarser_one_but_not_the_other_way_round():
    finer = clustering([0, 0, 1, 1, 2, 2, 3, 3], num_clusters=4)
    found = report({"audio": AUDIO, "video": finer})["between"]
    assert found["entropy_of_audio_given_video"] == pytest.approx(0, abs=1e-12)
    assert found["entropy_of_video_given_audio"] == pytest.approx(math.log(2))


def test_only_the_sources_first_heads_are_compared():
    names = ["audio", "audio-1", "audio-2", "video", "video-1", "video-2"]
    found = report(dict.fromkeys(names, AUDIO))
    assert len(found["clusterings"]) == 6
    assert set(found["between"]) == {
        "nmi_of_audio_and_video",
        "ari_of_audio_and_video",
        "entropy_of_audio_given_video",
        "entropy_of_video_given_audio",
    }


def test_a_report_is_json():
    found = report(
        {"audio": AUDIO, "video": VIDEO},
        previous=VIDEO.labels,
        true_labels=VIDEO.labels,
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_few_effective_clusters_are_a_collapse():
    even = clustering([0, 0, 1, 1, 2, 2, 3, 3], num_clusters=16)
    assert report({"audio": even}, min_effective_share=0.25)["collapses"] == {}
    found = report({"audio": even}, min_effective_share=0.26)
    assert found["collapses"] == {
        "audio": "its 16 clusters are as even as 4.0 equal ones, fewer than "
        "config.health.min_effective_share=0.26 of them"
    }


def test_one_large_cluster_is_a_collapse():
    uneven = clustering([0, 0, 0, 0, 0, 0, 1, 2], num_clusters=3)
    assert report({"audio": uneven}, max_cluster_share=0.75)["collapses"] == {}
    found = report({"audio": uneven}, max_cluster_share=0.7)
    assert found["collapses"] == {
        "audio": "one cluster holds 6 of 8 examples, more than "
        "config.health.max_cluster_share=0.7 of them"
    }


COLLAPSED = {"audio": AUDIO, "video": clustering([0] * 8, num_clusters=9)}


def test_a_collapse_stops_where_that_is_wanted_and_names_all_of_it():
    settings = HealthSettings(min_effective_share=0.2, on_collapse="stop")
    found = report(COLLAPSED, **settings._asdict())
    with pytest.raises(health.CollapseError) as error:
        health.check_collapses(found, settings)
    told = str(error.value)
    assert told.startswith("Round 3: the clustering video has collapsed: its 9 ")
    assert "as even as 1.0 equal ones" in told
    assert "8 of 8 examples, more than config.health.max_cluster_share=0.5" in told
    assert "audio" not in told


def test_a_collapse_goes_on_where_it_only_warns():
    settings = HealthSettings(min_effective_share=0.2, on_collapse="warn")
    health.check_collapses(report(COLLAPSED, **settings._asdict()), settings)


def test_healthy_clusterings_go_on():
    settings = HealthSettings(on_collapse="stop")
    found = report({"audio": AUDIO, "video": VIDEO}, **settings._asdict())
    health.check_collapses(found, settings)
    assert health.describe_collapses(found) == ""
