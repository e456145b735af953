"""A run whose clusters collapse: it warns, or stops before it trains on them."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.labels import label_tables
from xdc_tf.labels.health import CollapseError
from xdc_tf.runtime import workdir as work
from xdc_tf.training.pretrain import pretrain

# No clustering of 19 examples into 4 is so even.
STRICT = {"min_effective_share": 1.0}


def run_pretrain(like, records, workdir, *, on_collapse, **arguments):
    config = work.read_config(str(like))
    config |= {"method": "same_audio", "num_rounds": 1}
    config["health"] |= STRICT | {"on_collapse": on_collapse}
    # A restart is told from the first clustering by this.
    config["kmeans"]["num_restarts"] = {"stop": 1, "warn": 2}[on_collapse]
    pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        **arguments,
    )


def health_of(workdir, round_index):
    path = os.path.join(work.round_dir(str(workdir), round_index), "health.json")
    with open(path) as file:
        return json.load(file)


@pytest.fixture(scope="module")
def stopped(tiny_run, tiny_records, tmp_path_factory):
    """Work directory of a run that stopped at its first clustering."""
    workdir = tmp_path_factory.mktemp("collapse") / "stopped"
    with pytest.raises(CollapseError, match="Round 1: the clustering .* has collapsed"):
        run_pretrain(tiny_run, tiny_records, workdir, on_collapse="stop")
    return workdir


@pytest.fixture(scope="module")
def restarted(stopped, tiny_run, tiny_records):
    """Work directory of the same run, restarted to warn only, and its warnings."""
    workdir = stopped.parent / "restarted"
    shutil.copytree(stopped, workdir)
    warnings = io.StringIO()
    with contextlib.redirect_stderr(warnings):
        run_pretrain(
            tiny_run,
            tiny_records,
            workdir,
            on_collapse="warn",
            allow_config_change=True,
        )
    return workdir, warnings.getvalue()


def test_a_stopped_run_has_written_its_labels_and_their_health(stopped):
    table = label_tables.read(work.round_dir(str(stopped), 0))
    found = health_of(stopped, 0)
    assert set(found["collapses"]) == set(table.clusterings) == {"audio", "audio2"}
    for name, measures in found["clusterings"].items():
        assert measures["num_examples"] == table.clusterings[name].sizes.sum() == 19


def test_a_stopped_run_has_not_trained_and_takes_no_label_over(stopped):
    assert not os.path.exists(work.heads_file(str(stopped), "audio"))
    path = tf.train.latest_checkpoint(os.path.join(stopped, work.CHECKPOINTS_DIR))
    if path is not None:
        reader = tf.train.load_checkpoint(path)
        labels = [
            reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if name.startswith("label_tables/")
        ]
        assert labels and np.concatenate(labels).max() == -1


@pytest.mark.slow
def test_a_restarted_run_clusters_anew_with_its_changed_settings(restarted):
    workdir, _ = restarted
    settings = label_tables.read_settings(work.round_dir(str(workdir), 0))
    assert settings["kmeans"]["num_restarts"] == 2


def test_a_run_that_only_warns_goes_on_to_its_end(restarted):
    workdir, warnings = restarted
    assert os.path.exists(work.heads_file(str(workdir), "audio"))
    assert set(health_of(workdir, 1)["collapses"]) == {"audio", "audio2"}
    assert warnings.count("warning: Round 1") == 1
    assert warnings.count("warning: Round 2") == 1


def test_a_finished_run_tells_the_health_of_every_round(tiny_run):
    first, second, end = (health_of(tiny_run, number) for number in range(3))
    assert [first["round"], second["round"], end["round"]] == [0, 1, 2]
    assert "churn" not in first["clusterings"]["audio"]
    assert 0 <= second["clusterings"]["audio"]["churn"] < 1
    assert 0 < end["clusterings"]["video"]["purity"] <= 1
    assert set(end["between"]) == {
        "nmi_of_audio_and_video",
        "ari_of_audio_and_video",
        "entropy_of_audio_given_video",
        "entropy_of_video_given_audio",
    }
