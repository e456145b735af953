import pytest

from xdc_tf.training import supervision

pytestmark = pytest.mark.once


def heads(name):
    """What each encoder of a method learns from."""
    return supervision.method(name).supervision


def clustered(name):
    """For each label source of a method the streams whose features are clustered."""
    row = supervision.method(name)
    return {
        source: supervision.clustered_streams(row, source)
        for source in supervision.label_sources(row)
    }


def test_sdc_labels_each_head_with_clusters_of_its_own_modality():
    assert heads("sdc") == {"video": ("video",), "audio": ("audio",)}
    assert clustered("sdc") == {"video": ("video",), "audio": ("audio",)}


def test_mdc_gives_each_encoder_a_head_for_either_modalitys_clusters():
    assert heads("mdc") == {"video": ("video", "audio"), "audio": ("audio", "video")}
    assert clustered("mdc") == {"video": ("video",), "audio": ("audio",)}


def test_cdc_labels_both_heads_with_clusters_of_both_modalities_together():
    assert heads("cdc") == {"video": ("joint",), "audio": ("joint",)}
    assert clustered("cdc") == {"joint": ("video", "audio")}


def test_xdc_labels_the_video_head_with_audio_clusters_and_the_audio_head_with_video():
    assert heads("xdc") == {"video": ("audio",), "audio": ("video",)}
    assert clustered("xdc") == {"audio": ("audio",), "video": ("video",)}


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_the_same_modality_control_swaps_labels_between_two_encoders(modality):
    row = supervision.method(f"same_{modality}")
    one, two = modality, f"{modality}2"
    assert row.streams == {one: modality, two: modality}
    assert row.supervision == {one: (two,), two: (one,)}
    assert clustered(f"same_{modality}") == {one: (one,), two: (two,)}


def test_supervised_learns_true_labels_and_clusters_nothing():
    assert heads("supervised") == {"video": ("true_labels",), "audio": ("true_labels",)}
    assert clustered("supervised") == {"true_labels": ()}


@pytest.mark.parametrize(
    "name",
    sorted(
        set(supervision.METHODS) - {supervision.IMPORTED, supervision.IMPORTED_AUDIO}
    ),
)
def test_every_encoder_has_a_head_and_every_source_a_stream(name):
    row = supervision.method(name)
    assert set(row.supervision) == set(row.streams)
    assert set(row.streams.values()) <= {"video", "audio"}
    for source, streams in clustered(name).items():
        assert set(streams) <= set(row.streams)
        assert streams or source == supervision.TRUE_LABELS


def test_a_source_that_two_heads_need_is_listed_once():
    assert supervision.label_sources(supervision.method("mdc")) == ("video", "audio")
    assert supervision.label_sources(supervision.method("cdc")) == ("joint",)


def test_heads_of_a_method_have_different_names():
    names = [
        supervision.head_name(stream, source)
        for stream, sources in heads("mdc").items()
        for source in sources
    ]
    assert names == [
        "video_from_video",
        "video_from_audio",
        "audio_from_audio",
        "audio_from_video",
    ]


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="config.method='xcd' is unknown.*sdc, .*xdc"):
        supervision.method("xcd")


def test_several_heads_of_a_source_have_labels_of_their_own():
    row = supervision.with_heads(supervision.method("mdc"), 2)
    assert row.supervision["video"] == ("video", "video-1", "audio", "audio-1")
    assert supervision.clustered_sources(row) == {
        "video": ("video",),
        "audio": ("audio",),
    }
    assert supervision.clustered_streams(row, "audio-1") == ("audio",)


def test_several_heads_of_a_joint_source_cluster_all_streams():
    row = supervision.with_heads(supervision.method("cdc"), 3)
    assert supervision.clustered_sources(row) == {"joint": ("video", "audio")}
    assert supervision.clustered_streams(row, "joint-2") == ("video", "audio")


def test_true_labels_have_one_head():
    row = supervision.method("supervised")
    assert supervision.with_heads(row, 4) == row
    assert supervision.clustered_sources(row) == {}


def test_the_heads_of_a_source_weigh_as_one():
    row = supervision.with_heads(supervision.method("mdc"), 2)
    weights = supervision.head_weights(row)
    assert set(weights.values()) == {0.5}
    assert len(weights) == 8
    plain = supervision.head_weights(supervision.method("mdc"))
    assert set(plain.values()) == {1.0}
