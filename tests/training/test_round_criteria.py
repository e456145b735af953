"""The criteria of a run: those of each round, and that they can be left out."""

import numpy as np
import pytest
from prepared_runs import make_run, pretrain_on

from xdc_tf.features import extraction
from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import configuration, round_criteria

pytestmark = pytest.mark.once

ALWAYS = {
    f"{name}_of_{stream}"
    for name in ("effective_rank", "stability", "same_cluster")
    for stream in ("video", "audio")
} | {"retrieval_of_audio_by_video", "retrieval_of_video_by_audio"}
AFTER_TRAINING = {"held_out_of_video_from_audio", "held_out_of_audio_from_video"}


def _criteria(workdir, round_index):
    directory = run_directory.round_dir(str(workdir), round_index)
    return label_tables.read_health(directory)["criteria"]


MEASURED = {"criteria": {"max_examples": 100}}


@pytest.fixture(scope="module")
def measured_run(new_tiny_config, tiny_records, tmp_path_factory):
    """A run of two rounds with criteria."""
    workdir = tmp_path_factory.mktemp("measured") / "run"
    pretrain_on(new_tiny_config() | MEASURED, tiny_records, workdir)
    return workdir


def test_every_round_has_its_criteria(measured_run):
    for round_index in range(3):
        measured = _criteria(measured_run, round_index)
        assert set(measured) == (ALWAYS | AFTER_TRAINING if round_index else ALWAYS)
        for name, value in measured.items():
            assert value <= (24 if name.startswith("effective_rank") else 1), name


def test_a_run_that_does_not_take_off_says_so_after_the_second_round(
    tiny_config, tiny_records, tmp_path, capfd
):
    config = tiny_config | MEASURED
    config["optimizer"] = tiny_config["optimizer"] | {"learning_rate": 0.0}
    pretrain_on(config, tiny_records, tmp_path / "run")
    lines = capfd.readouterr().err.splitlines()
    (line,) = [line for line in lines if "has not taken off" in line]
    assert line.startswith("warning: After 2 rounds") and "xdc-tf advise" in line
    assert "config.labels.first_features=statistics" in line


def test_a_run_that_was_restored_measures_what_an_uninterrupted_one_does(
    measured_run, tiny_config, tiny_records, tmp_path
):
    config = tiny_config | MEASURED
    pretrain_on(config | {"num_rounds": 1}, tiny_records, tmp_path / "run")
    pretrain_on(config, tiny_records, tmp_path / "run", allow_config_change=True)
    for round_index in range(3):
        expected = _criteria(measured_run, round_index)
        assert _criteria(tmp_path / "run", round_index) == pytest.approx(expected)


def test_classes_that_come_in_turn_are_found_in_the_other_modality(
    tiny_config, tiny_records, tmp_path
):
    """Every second video is of half of the classes, which the map must not be of."""
    config = tiny_config | {"criteria": {"max_examples": 400}}
    config = configuration.from_mapping(config)
    run = make_run(config, tiny_records, tmp_path / "run")
    rng = np.random.default_rng(0)
    classes = np.arange(400) % 10
    streams = {
        stream: rng.normal(size=(10, 32))[classes] + 0.01 * rng.normal(size=(400, 32))
        for stream in ("video", "audio")
    }
    features = extraction.Features(streams, np.ones(400, bool))
    with run.lock:
        measured = round_criteria._of_features(run, features, rng)
    # Half of a tenth of the others come first by chance.
    for name in ("retrieval_of_audio_by_video", "retrieval_of_video_by_audio"):
        assert measured[name] == pytest.approx(0.9, abs=0.03)


def test_they_are_left_out_where_no_examples_are_asked_for(
    tiny_run,
):
    assert _criteria(tiny_run, 0) == {}


@pytest.mark.slow
def test_joint_clusters_have_criteria_of_their_own(tiny_config, tiny_records, tmp_path):
    config = tiny_config | MEASURED | {"method": "cdc", "num_rounds": 1}
    pretrain_on(config, tiny_records, tmp_path / "run")
    assert {name for name in _criteria(tmp_path / "run", 1) if "joint" in name} == {
        "stability_of_joint",
        "same_cluster_of_joint",
        "held_out_of_video_from_joint",
        "held_out_of_audio_from_joint",
    }
