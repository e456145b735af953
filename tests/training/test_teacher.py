"""First clusters of features of given encoders, or of arrays."""

import json
import os

import numpy as np
import pytest
from prepared_runs import ONE_DEVICE, make_run, pretrain_on

from xdc_tf.data.clips import encoder_input
from xdc_tf.export import export_run
from xdc_tf.features.extraction import Features
from xdc_tf.labels import agreement, label_tables
from xdc_tf.labels.label_makers import LABEL_MAKERS, LabelMaker
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import first_features, round_labels, supervision, trained_run
from xdc_tf.training.batches import evaluation_batches

pytestmark = pytest.mark.once

NUM_ROWS = 24


def taught(config, directory, **labels):
    """The configuration with a teacher, and without what else starts a run."""
    return config | {
        "labels": config["labels"] | {"features_from": str(directory)} | labels
    }


def table_of(workdir, number):
    return label_tables.read(run_directory.round_dir(str(workdir), number))


@pytest.fixture
def planted(tmp_path):
    """Arrays of audio alone, in four clusters that are far apart, and these."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    clusters = np.arange(NUM_ROWS) % 4
    centres = 10 * np.eye(4, 7)[clusters]
    noise = np.random.default_rng(0).normal(scale=0.1, size=(NUM_ROWS, 7))
    np.save(folder / "audio.npy", centres + noise)
    return folder, clusters


def test_arrays_are_clustered_for_their_source_and_encoders_features_for_the_others(
    planted, tiny_config, tiny_records, tmp_path
):
    folder, clusters = planted
    config = taught(tiny_config, folder) | {"num_rounds": 1}
    config["kmeans"] = config["kmeans"] | {"num_restarts": 5}
    pretrain_on(config, tiny_records, tmp_path / "run")
    pretrain_on(
        config | {"labels": tiny_config["labels"]}, tiny_records, tmp_path / "usual"
    )
    first, usual = (table_of(tmp_path / name, 0) for name in ("run", "usual"))
    assert list(first.clusterings) == list(usual.clusterings)
    audio = first.clusterings["audio"]
    assert audio.centroids.shape[1] == 7
    used = audio.labels >= 0
    assert agreement.normalized_mutual_information(
        audio.labels[used], clusters[used]
    ) == pytest.approx(1.0)
    assert first.clusterings["video"].centroids.shape[1] == 32
    # The clusters after the last round are of the run's own encoders.
    last = table_of(tmp_path / "run", 1)
    assert last.clusterings["audio"].centroids.shape[1] == 32


@pytest.mark.parametrize("rounds", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_clusters_of_a_teacher_stay_as_many_rounds_as_the_configuration_says(
    planted, tiny_config, tiny_records, tmp_path, rounds
):
    config = taught(tiny_config, planted[0], features_rounds=rounds, first_stay=False)
    pretrain_on(config, tiny_records, tmp_path / "run")
    first, second = (table_of(tmp_path / "run", number) for number in (0, 1))
    same = np.array_equal(
        first.clusterings["audio"].labels, second.clusterings["audio"].labels
    )
    assert same == (rounds == 2)
    assert (second.clusterings["audio"].centroids.shape[1] == 7) == (rounds == 2)
    assert second.clusterings["video"].centroids.shape[1] == 32


@pytest.mark.parametrize("form", ["work directory", "export"])
def test_features_of_given_encoders_are_those_that_they_compute(
    tiny_run, tiny_config, tiny_records, tmp_path, form
):
    directory = tiny_run
    if form == "export":
        directory = tmp_path / "export"
        export_run.export(str(tiny_run), str(directory))
    config = taught(tiny_config | {"method": "xdc"}, directory)
    config["clip"]["crop_size"] = 24  # of the run; its teacher saw others
    run = make_run(config, tiny_records, tmp_path / "run")
    with first_features.of_teacher(run) as maps:
        found = {name: np.array(rows) for name, rows in maps.items()}
    trained = trained_run.open_run(str(tiny_run))
    used = run.records.trained | run.records.held_out
    for stream, encoder in trained_run.load_encoders(trained).items():
        for batch in evaluation_batches(run, keep=used, clip=trained.clip):
            clips = encoder_input(batch, stream)
            expected = encoder(clips, training=False).numpy()
            index = batch["example_index"].numpy()
            rows = index[index >= 0]
            np.testing.assert_allclose(
                found[stream][rows], expected[index >= 0], rtol=1e-3, atol=1e-4
            )


def test_sources_are_clustered_in_their_own_order_whatever_the_teacher_has(
    planted, tiny_config, tiny_records, tmp_path, monkeypatch
):
    folder, _ = planted
    np.save(folder / "video.npy", np.load(folder / "audio.npy"))
    run = make_run(taught(tiny_config, folder), tiny_records, tmp_path / "run")
    asked, fit = [], LABEL_MAKERS["kmeans"].fit

    def fit_watched(features, sources, **arguments):
        asked.append(list(sources))
        return fit(features, sources, **arguments)

    monkeypatch.setitem(LABEL_MAKERS, "kmeans", LabelMaker(fit_watched))
    present = np.ones(NUM_ROWS, bool)
    for names in (frozenset(["audio", "video"]), {"video": 0, "audio": 1}):
        monkeypatch.setattr(
            round_labels.teacher, "sources", lambda *_, names=names: frozenset(names)
        )
        round_labels.cluster(run, Features({}, present), 0)
    ordered = list(supervision.clustered_sources(run.method))
    assert asked == [ordered, ordered]


@pytest.mark.slow
def test_a_run_of_a_trained_teacher_begins_with_its_clusters(
    tiny_run, tiny_config, tiny_records, tmp_path
):
    config = taught(tiny_config, tiny_run) | {"num_rounds": 1, "seed": 4}
    pretrain_on(config, tiny_records, tmp_path / "run")
    first = table_of(tmp_path / "run", 0)
    assert {c.centroids.shape[1] for c in first.clusterings.values()} == {32}
    assert first.settings["encoders_sha256"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((NUM_ROWS - 1, 3), np.float32), r"float32 \(23, 3\), and features"),
        (np.zeros((NUM_ROWS, 3), np.int64), r"int64 \(24, 3\), and features are float"),
        (np.zeros(NUM_ROWS, np.float32), r"float32 \(24,\), and features are float"),
        (b"\x93NUMPY no array", "audio.npy: "),
        (np.array([{"a": 1}] * NUM_ROWS, object), "audio.npy: "),
    ],
)
def test_arrays_that_hold_something_else_are_named_before_the_run_begins(
    tiny_config, tiny_records, tmp_path, content, message
):
    path = tmp_path / "arrays" / "audio.npy"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        make_run(taught(tiny_config, path.parent), tiny_records, tmp_path / "run")
    assert str(path) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_not_finite_are_named(
    planted, tiny_config, tiny_records, tmp_path
):
    path = planted[0] / "audio.npy"
    array = np.load(path)
    array[3, 2] = np.nan
    np.save(path, array)
    run = make_run(taught(tiny_config, planted[0]), tiny_records, tmp_path / "run")
    with pytest.raises(ValueError, match=r"audio.npy holds numbers that are not fin"):
        with first_features.of_teacher(run):
            pass


def test_teachers_that_cannot_teach_the_run_are_refused(
    tiny_run, tiny_config, tiny_records, tmp_path
):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        "is no directory": taught(tiny_config, tmp_path / "nowhere"),
        "holds neither a run nor an export": taught(tiny_config, empty),
        "both say what the first labels are": taught(
            tiny_config,
            tiny_run,
            first_from=run_directory.round_dir(str(tiny_run), 0),
        ),
    }
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "smell.npy", np.zeros((NUM_ROWS, 2), np.float32))
    cases["no features for any label source of xdc"] = taught(
        tiny_config, tmp_path / "other"
    )
    for message, config in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make_run(config, tiny_records, tmp_path / "run")


def test_an_audio_teacher_of_another_log_mel_is_refused(
    tiny_run, tiny_config, tiny_records, tmp_path
):
    other = tmp_path / "other"
    os.makedirs(other)
    for name in os.listdir(tiny_run):
        os.symlink(tiny_run / name, other / name)
    config = json.loads((tiny_run / "config.json").read_text())
    config["log_mel"]["hop_ms"] = 10.0
    os.unlink(other / "config.json")
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="hop_ms"):
        make_run(taught(tiny_config, other), tiny_records, tmp_path / "run")


def test_an_export_can_be_started_from(tiny_run, tiny_config, tiny_records, tmp_path):
    out = tmp_path / "export"
    export_run.export(str(tiny_run), str(out))
    config = tiny_config | {"init_from": str(out)}
    run = make_run(config, tiny_records, tmp_path / "run", ONE_DEVICE)
    expected = trained_run.load_encoder(trained_run.open_run(str(tiny_run)), "audio")
    for found, wanted in zip(
        run.state.model.encoders["audio"].get_weights(),
        expected.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)
