"""What the overview warns of, each on a run that has it and on one that has not."""

import numpy as np
import pytest

from xdc_tf.browse import opened_run, run_warnings
from xdc_tf.browse.members import RANDOM, Member
from xdc_tf.labels.label_tables import Clustering

NUM_ROWS = 24
# Twelve examples in each of two clusters.
LABELS = (np.arange(NUM_ROWS) // 12).astype(np.int32)


@pytest.fixture(scope="module")
def run(tiny):
    return opened_run.open_run(str(tiny.workdir), str(tiny.records))


def with_ids(run, video_ids):
    examples = run.records.examples._replace(video_ids=np.array(video_ids))
    return run._replace(records=run.records._replace(examples=examples))


def clusterings(labels=LABELS, num_clusters=2):
    sizes = np.bincount(labels, minlength=num_clusters)
    centroids = np.zeros((num_clusters, 1), np.float32)
    return {"audio": Clustering(np.asarray(labels, np.int32), centroids, sizes, 1.0)}


def facts(example, **values):
    return {
        "brightness": 0.5,
        "quiet_db": 20.0,
        "has_sound": True,
        "fingerprint": bytes([(example * 37 + k * 11) % 200 for k in range(64)]).hex(),
        **values,
    }


def found(run, media=None):
    """Kind, cluster and text of the warnings of members."""
    shown = [[Member(k, RANDOM) for k in range(12 * c, 12 * c + 12)] for c in (0, 1)]
    warnings = run_warnings.member_warnings(
        run,
        2,
        clusterings(),
        members={"audio": shown},
        media=media or {str(k): facts(k) for k in range(NUM_ROWS)},
    )
    return [(each["kind"], each["cluster"], each["text"]) for each in warnings]


def test_clusters_of_different_videos_give_no_warning(run):
    assert found(run) == []


def test_a_clustering_in_one_cluster_has_collapsed(run):
    (warning,) = run_warnings.collapse_warnings(
        run, 1, clusterings(np.zeros(NUM_ROWS, np.int32), 4)
    )
    assert (warning["kind"], warning["round"], warning["source"]) == (
        *("collapse", 1, "audio"),
    )
    assert "one cluster holds 24 of 24 examples" in warning["text"]
    assert "config.kmeans.num_clusters" in warning["advice"]


def test_even_clusters_have_not_collapsed(run):
    assert not list(run_warnings.collapse_warnings(run, 1, clusterings()))


def test_a_cluster_of_segments_of_one_recording_is_named(run):
    ids = [f"long.mp4#t={k},{k + 1}" if k < 7 else f"{k}.mp4" for k in range(NUM_ROWS)]
    assert found(with_ids(run, ids)) == [
        ("recording", 0, "7 of 12 members are of one recording.")
    ]


def test_a_cluster_of_the_commonest_file_format_is_no_reason_for_a_warning(run):
    ids = [f"{k}.{'avi' if k < 10 else 'mp4'}" for k in range(NUM_ROWS)]
    assert found(with_ids(run, ids)) == []


def test_a_cluster_of_a_rarer_file_format_is_named(run):
    labels = np.where(np.arange(NUM_ROWS) < 6, 1, 0).astype(np.int32)
    ids = [f"{k}.{'webm' if k < 6 else 'mp4'}" for k in range(NUM_ROWS)]
    warnings = run_warnings.member_warnings(
        with_ids(run, ids), 2, clusterings(labels), members={}, media={}
    )
    assert [(each["kind"], each["cluster"], each["text"]) for each in warnings] == [
        ("extension", 1, "6 of 6 members are .webm, as 6 of 24 examples are.")
    ]


@pytest.mark.parametrize(
    "kind, values, text",
    [
        ("silence", {"quiet_db": 70.0}, "are nearly silent"),
        ("black", {"brightness": 0.01}, "are black"),
        ("duplicates", {"fingerprint": "7f" * 64}, "look the same as another"),
    ],
)
def test_what_most_shown_members_are_is_told_with_their_number(run, kind, values, text):
    media = {str(k): facts(k, **(values if k < 7 else {})) for k in range(NUM_ROWS)}
    (warning,) = found(run, media)
    assert warning[:2] == (kind, 0)
    assert warning[2].startswith("7 of 12 shown members") and text in warning[2]


def test_a_few_silent_or_black_members_are_no_reason_for_a_warning(run):
    media = {
        str(k): facts(k, **({"quiet_db": 90.0, "brightness": 0.0} if k < 6 else {}))
        for k in range(NUM_ROWS)
    }
    assert found(run, media) == []


def test_clips_without_sound_are_not_taken_for_silence(run):
    media = {str(k): facts(k, has_sound=False, quiet_db=0.0) for k in range(NUM_ROWS)}
    assert found(run, media) == []


def test_the_same_content_under_other_names_is_a_duplicate(run, monkeypatch):
    def content_hashes(paths, indices, promised):
        return np.where(indices > 7, indices, 0).astype(np.uint64)

    monkeypatch.setattr(run_warnings.record_index, "content_hashes", content_hashes)
    assert found(run) == [
        (
            "duplicates",
            0,
            "8 of 12 members have the same content as another example.",
        )
    ]
