"""Labels of a round: given for the first, by a teacher first, with kept heads."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from prepared_runs import make_run, pretrain_on

from xdc_tf.labels import label_tables
from xdc_tf.models import encoder_files
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import configuration, first_features, round_labels
from xdc_tf.training.pretrain import pretrain

pytestmark = pytest.mark.once


def _labels(workdir, round_index):
    table = label_tables.read(run_directory.round_dir(str(workdir), round_index))
    return {name: c.labels for name, c in table.clusterings.items()}


def test_a_round_can_start_from_another_runs_labels(
    tiny_config, tiny_run, tiny_records, tmp_path
):
    given = run_directory.round_dir(str(tiny_run), 1)
    config = tiny_config | {
        "num_rounds": 1,
        "seed": 5,
        "labels": _with(first_from=given),
        "criteria": {"max_examples": 100},
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    for name, labels in _labels(tmp_path / "run", 0).items():
        np.testing.assert_array_equal(labels, _labels(tiny_run, 1)[name])
    health = label_tables.read_health(run_directory.round_dir(str(tmp_path / "run"), 0))
    assert not [name for name in health["criteria"] if name.startswith("same_cluster")]


def _with(**values):
    return {
        "first_from": "",
        "features_from": "",
        "features_rounds": 1,
        "first_features": "encoders",
        "first_stay": False,
        "keep_heads": False,
        "nearest_fraction": 1.0,
        "teacher": "",
        "teacher_rounds": 0,
    } | values


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kmeans": {"num_clusters": 3}}, "4 clusters, and config.kmeans.num_clusters"),
        ({"method": "cdc"}, "none is named joint"),
    ],
)
def test_labels_that_do_not_fit_the_run_are_named(
    tiny_config, tiny_run, tiny_records, tmp_path, change, message
):
    given = run_directory.round_dir(str(tiny_run), 0)
    config = tiny_config | {"labels": _with(first_from=given)}
    for key, value in change.items():
        is_section = isinstance(value, dict)
        config[key] = config[key] | value if is_section else value
    with pytest.raises(ValueError, match=message):
        pretrain_on(config, tiny_records, tmp_path / "run")


def test_labels_of_another_manifest_are_refused(
    tiny_config, tiny_run, tiny_records, tmp_path
):
    given = run_directory.round_dir(str(tiny_run), 0)
    config = tiny_config | {"labels": _with(first_from=given)}
    with pytest.raises(ValueError, match="of the manifest with SHA-256"):
        pretrain(
            config,
            workdir=str(tmp_path / "run"),
            records_dir=str(tiny_records / "test"),
            strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        )


def _weights(workdir, stream, *, initial=False):
    path = run_directory.encoder_file(str(workdir), stream, initial=initial)
    return [w.numpy() for w in keras.models.load_model(path).trainable_weights]


def test_a_stream_learns_nothing_while_the_teacher_is_itself(
    tiny_config, tiny_records, tmp_path
):
    config = tiny_config | {
        "labels": _with(teacher="audio", teacher_rounds=2),
        "optimizer": tiny_config["optimizer"] | {"weight_decay": 0.0},
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    for stream, learns in (("video", True), ("audio", False)):
        before = _weights(tmp_path / "run", stream, initial=True)
        after = _weights(tmp_path / "run", stream)
        changed = [np.any(old != new) for old, new in zip(before, after, strict=True)]
        assert all(changed) if learns else not any(changed)


@pytest.mark.slow
def test_kept_heads_go_on_where_others_start_anew(tiny_config, tiny_records, tmp_path):
    def heads():
        path = run_directory.heads_file(str(tmp_path / "run"), "video")
        return encoder_files.load_heads(path, num_features=32)["audio"].kernel

    # Nothing is learnt, so that a round ends with the heads that it starts with; the
    # first round after a change has been started before it.
    config = tiny_config | {
        "num_rounds": 1,
        "labels": _with(keep_heads=True, nearest_fraction=0.5),
        "optimizer": tiny_config["optimizer"] | {"learning_rate": 0.0},
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    first = heads()
    for keep_heads, num_rounds in ((True, 2), (False, 4)):
        config |= {"num_rounds": num_rounds, "labels": _with(keep_heads=keep_heads)}
        pretrain_on(config, tiny_records, tmp_path / "run", allow_config_change=True)
        assert np.array_equal(heads(), first) == keep_heads


@pytest.mark.parametrize(
    "values, message",
    [
        ({"teacher": "smell", "teacher_rounds": 1}, "teacher='smell'"),
        ({"teacher": "audio"}, "go together"),
        ({"nearest_fraction": 0.0}, "nearest_fraction"),
    ],
)
def test_values_that_mean_nothing_are_named(tiny_config, values, message):
    with pytest.raises(ValueError, match=message):
        configuration.from_mapping(tiny_config | {"labels": _with(**values)})


def test_the_first_clusters_can_be_of_statistics_of_the_clips(
    tiny_config, tiny_records, tmp_path
):
    config = tiny_config | {
        "num_rounds": 1,
        "labels": _with(first_features="statistics"),
        "kmeans": tiny_config["kmeans"] | {"pca_components": 5},
        "criteria": {"max_examples": 100},
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    directory = run_directory.round_dir(str(tmp_path / "run"), 0)
    table = label_tables.read(directory)
    widths = {name: c.centroids.shape[1] for name, c in table.clusterings.items()}
    assert widths == {"audio": 4 * 13, "video": 4 * 4 * 8}
    # They are of no encoders, and no clusters of encoders' features of other clips.
    assert table.settings["encoders_sha256"] is None
    criteria = label_tables.read_health(directory)["criteria"]
    assert not [name for name in criteria if name.startswith("same_cluster")]
    second = label_tables.read(run_directory.round_dir(str(tmp_path / "run"), 1))
    assert {c.centroids.shape[1] for c in second.clusterings.values()} == {5}


def _stay(monkeypatch, names):
    """Clusters of the named sources' encoders never agree better."""
    monkeypatch.setattr(
        round_labels, "_agrees_better", lambda run, name, *labels: name not in names
    )


def test_first_clusters_stay_until_those_of_the_encoder_are_better(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    config = tiny_config | {
        "num_rounds": 2,
        "labels": _with(first_features="statistics", first_stay=True),
        "optimizer": tiny_config["optimizer"] | {"learning_rate": 0.0},
    }
    _stay(monkeypatch, ["video"])
    pretrain_on(config, tiny_records, tmp_path / "run")
    first, second, last = (
        label_tables.read(run_directory.round_dir(str(tmp_path / "run"), number))
        for number in range(3)
    )
    kept = second.clusterings["video"]
    np.testing.assert_array_equal(kept.labels, first.clusterings["video"].labels)
    assert kept.centroids.shape == first.clusterings["video"].centroids.shape
    assert second.clusterings["audio"].centroids.shape[1] == 32
    assert second.settings["encoders_sha256"] is None
    criteria = label_tables.read_health(
        run_directory.round_dir(str(tmp_path / "run"), 1)
    )["criteria"]
    assert "same_cluster_of_video" not in criteria
    # After the last round all are the finished encoders'.
    assert {c.centroids.shape[1] for c in last.clusterings.values()} == {32}
    assert set(last.settings["encoders_sha256"]) == {"video", "audio"}


def test_heads_that_learn_clusters_that_stay_go_on(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    # Nothing is learnt, so that a round ends with the heads that it starts with.
    config = tiny_config | {
        "labels": _with(first_features="statistics", first_stay=True),
        "optimizer": tiny_config["optimizer"] | {"learning_rate": 0.0},
    }
    _stay(monkeypatch, ["video"])
    heads = []
    for num_rounds in (1, 2):
        workdir = str(tmp_path / str(num_rounds))
        pretrain_on(config | {"num_rounds": num_rounds}, tiny_records, workdir)
        heads.append(
            {
                source: encoder_files.load_heads(
                    run_directory.heads_file(workdir, stream), num_features=32
                )[source].kernel
                for stream, source in (("audio", "video"), ("video", "audio"))
            }
        )
    np.testing.assert_array_equal(heads[0]["video"], heads[1]["video"])
    assert not np.array_equal(heads[0]["audio"], heads[1]["audio"])


@pytest.mark.parametrize(
    "taught, new, expected",
    [
        ([0, 0, 1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 0, 0, 3, 3], True),
        ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3, 0, 1, 2, 3], False),
        # Without labels there is nothing to have learnt, and nothing to compare.
        ([-1] * 8, [0, 1, 2, 3, 0, 1, 2, 3], True),
    ],
)
def test_clusters_are_better_where_they_agree_with_what_was_learnt(
    tiny_config, tiny_records, tmp_path, taught, new, expected
):
    run = make_run(tiny_config, tiny_records, tmp_path / "run")
    padding = 24 - 8
    run.state.label_tables["audio"].assign(taught + [-1] * padding)
    before = np.array([0, 0, 1, 1, 0, 0, 1, 1] + [-1] * padding)
    found = round_labels._agrees_better(
        run, "video", np.array(new + [-1] * padding), before
    )
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdc", "mdc"])
def test_clusters_of_encoders_that_learn_their_own_do_not_stay(
    tiny_config, tiny_records, tmp_path, method
):
    config = tiny_config | {
        "method": method,
        "num_rounds": 2,
        "labels": _with(first_features="statistics", first_stay=True),
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    second = label_tables.read(run_directory.round_dir(str(tmp_path / "run"), 1))
    assert {c.centroids.shape[1] for c in second.clusterings.values()} == {32}


def test_statistics_have_mean_0_and_variance_1_over_what_is_trained_on(
    tiny_config, tiny_records, tmp_path
):
    config = configuration.from_mapping(
        tiny_config | {"training": tiny_config["training"] | {"held_out_share": 0.2}}
    )
    run = make_run(config, tiny_records, tmp_path / "run")
    with run.lock, first_features.of_statistics(run) as found:
        features = found._replace(
            streams={name: np.array(rows) for name, rows in found.streams.items()}
        )
        assert os.listdir(run.workdir + "/features.first")
    assert not os.path.exists(run.workdir + "/features.first")
    trained = run.records.trained
    assert trained.sum() < features.present.sum()
    for matrix in features.streams.values():
        varies = matrix[trained].std(axis=0) > 0
        assert varies.mean() > 0.5
        np.testing.assert_allclose(matrix[trained].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(matrix[trained].std(axis=0)[varies], 1, atol=1e-3)
        assert np.all(matrix[~features.present] == 0)


@pytest.mark.slow
def test_encoders_that_start_from_weights_make_the_first_clusters_themselves(
    tiny_config, tiny_run, tiny_records, tmp_path
):
    config = tiny_config | {
        "num_rounds": 1,
        "init_from": str(tiny_run),
        "labels": _with(first_features="statistics"),
    }
    pretrain_on(config, tiny_records, tmp_path / "run")
    table = label_tables.read(run_directory.round_dir(str(tmp_path / "run"), 0))
    widths = {c.centroids.shape[1] for c in table.clusterings.values()}
    assert widths == {32}


@pytest.mark.slow
def test_heads_of_several_numbers_of_clusters_learn_their_own(
    tiny_config, tiny_records, tmp_path
):
    kmeans = tiny_config["kmeans"] | {"head_clusters": (3, 5)}
    config = tiny_config | {"num_rounds": 1, "kmeans": kmeans}
    pretrain_on(config, tiny_records, tmp_path / "run")
    for number in (0, 1):
        table = label_tables.read(
            run_directory.round_dir(str(tmp_path / "run"), number)
        )
        numbers = {name: len(c.centroids) for name, c in table.clusterings.items()}
        assert numbers == {"audio": 3, "audio-1": 5, "video": 3, "video-1": 5}
    path = run_directory.heads_file(str(tmp_path / "run"), "video")
    heads = encoder_files.load_heads(path, num_features=32)
    assert {name: len(head.bias) for name, head in heads.items()} == {
        "audio": 3,
        "audio-1": 5,
    }


def test_a_head_of_more_clusters_than_examples_is_refused_before_the_run_begins(
    tiny_config, tiny_records, tmp_path
):
    kmeans = tiny_config["kmeans"] | {"head_clusters": (3, 500)}
    with pytest.raises(
        ValueError, match=r"kmeans.head_clusters=\(3, 500\) must be fro"
    ):
        make_run(tiny_config | {"kmeans": kmeans}, tiny_records, tmp_path / "run")
