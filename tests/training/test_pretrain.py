import functools
import glob
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.labels import label_tables
from xdc_tf.models import encoder_files
from xdc_tf.runtime import workdir as work
from xdc_tf.training import supervision
from xdc_tf.training.pretrain import pretrain

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")
# 24 videos, 5 of them held out, in batches of 4.
STEPS_PER_ROUND = 4


def final_step(workdir):
    path = tf.train.latest_checkpoint(os.path.join(workdir, work.CHECKPOINTS_DIR))
    reader = tf.train.load_checkpoint(path)
    return int(reader.get_tensor("progress/step/.ATTRIBUTES/VARIABLE_VALUE"))


def run_pretrain(config, records, workdir, strategy=ONE_DEVICE, **arguments):
    pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=strategy,
        **arguments,
    )


# What the runs of one round below do that make_tiny_config does not.
CHANGES = {
    "mdc": {"kmeans": {"num_heads": 2, "balanced": True, "spherical": True}},
    "cdc": {},
    # Its loss stays as it is: by steps of no size, whatever the batch.
    "same_audio": {
        "profile_steps": (2, 3),
        "training": {"epochs_per_round": 20, "patience": 1},
        "optimizer": {"learning_rate": 0.0},
        "batch_norm_momentum": 1.0,
    },
    "supervised": {},
}


@pytest.fixture(scope="module")
def run_of(new_tiny_config, tiny_records, tmp_path_factory):
    """The function from a method in CHANGES to its run's work directory."""

    @functools.cache
    def run_of(method):
        workdir = tmp_path_factory.mktemp(method)
        config = new_tiny_config() | {"method": method, "num_rounds": 1}
        run_pretrain(changed(config, CHANGES[method]), tiny_records, workdir)
        return workdir

    return run_of


def changed(config, changes):
    """The configuration with these keys, those in sections too."""
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    return config


# The rows that differ in kind; xdc runs in other tests.
@pytest.mark.parametrize("method", CHANGES)
def test_a_method_runs_and_writes_its_encoders_and_labels(method, run_of):
    workdir = str(run_of(method))
    row = supervision.METHODS[method]
    for stream in row.streams:
        assert os.path.exists(work.encoder_file(workdir, stream))
        assert os.path.exists(work.encoder_file(workdir, stream, initial=True))
    clustered = set(supervision.label_sources(row)) - {supervision.TRUE_LABELS}
    round_dir = work.round_dir(workdir, 0)
    if clustered:
        table = label_tables.read(round_dir)
        assert set(table.clusterings) >= clustered
        for clustering in table.clusterings.values():
            assert clustering.labels.min() == 0 and clustering.labels.max() == 3
            # The held-out videos are labelled, but the centroids are not theirs.
            assert len(clustering.labels) == 24 and clustering.sizes.sum() == 19
    else:
        assert not os.path.exists(round_dir)
    num_epochs = 2 if method == "same_audio" else 1
    assert final_step(workdir) == num_epochs * STEPS_PER_ROUND


@pytest.mark.parametrize("method", ["cdc", "same_audio"])
def test_a_method_clusters_its_sources_and_nothing_else(method, run_of):
    table = label_tables.read(work.round_dir(str(run_of(method)), 0))
    assert set(table.clusterings) == set(
        supervision.label_sources(supervision.METHODS[method])
    )


def test_several_clusterings_of_a_source_have_heads_and_labels_each(run_of):
    workdir = str(run_of("mdc"))
    table = label_tables.read(work.round_dir(workdir, 0))
    assert set(table.clusterings) == {"video", "video-1", "audio", "audio-1"}
    heads = encoder_files.load_heads(work.heads_file(workdir, "video"), num_features=32)
    assert set(heads) == {"video", "video-1", "audio", "audio-1"}


def test_imported_is_no_method_to_train_by(tiny_config, tiny_records, tmp_path):
    told = "imported trains nothing; choose one of sdc, .*supervised\\."
    with pytest.raises(ValueError, match=told):
        run_pretrain(tiny_config | {"method": "imported"}, tiny_records, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_encoders_of_the_lowest_held_out_loss_are_kept(tiny_run):
    with open(os.path.join(tiny_run, work.BEST_DIR, work.ENCODERS_FILE)) as file:
        told = json.load(file)
    # The last round has one epoch alone, whose end is the round's.
    assert (told["round"], told["steps"]) == (1, 2 * STEPS_PER_ROUND)
    best = os.path.join(tiny_run, work.BEST_DIR)
    for stream in ("video", "audio"):
        kept, last = (
            keras.models.load_model(work.encoder_file(str(folder), stream))
            for folder in (best, tiny_run)
        )
        for found, expected in zip(kept.get_weights(), last.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert encoder_files.load_heads(work.heads_file(best, "video"), num_features=32)


def test_the_steps_asked_for_are_profiled(run_of):
    (path,) = run_of("same_audio").glob("tensorboard/plugins/profile/*/*.xplane.pb")
    assert b"train" in path.read_bytes()


@pytest.mark.parametrize("steps", [(3, 2), (0, 4), (1,)])
def test_steps_that_cannot_be_profiled_are_refused(
    steps, tiny_config, tiny_records, tmp_path
):
    with pytest.raises(ValueError, match=r"config\.profile_steps="):
        run_pretrain(
            tiny_config | {"profile_steps": steps}, tiny_records, tmp_path / "run"
        )


def test_patience_ends_a_round_whose_held_out_loss_does_not_fall(run_of):
    assert final_step(run_of("same_audio")) == 2 * STEPS_PER_ROUND


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "xxx"}, "config.method='xxx' must be one of"),
        ({"kmeans": {"num_clusters": 100}}, "num_clusters=100 .* 19 examples"),
        ({"training": {"batch_size": 20}}, "19 examples .*batch_size=20"),
        ({"training": {"batch_size": 0}}, "training.batch_size=0"),
        ({"log_mel": {"num_filters": 64}}, "num_filters .40 in the records, 64 in"),
        ({"precision": "half"}, "config.precision='half'"),
        ({"video_encoder": {"depth": 50}}, "video_encoder.depth=50"),
        ({"optimizer": {"name": "adam"}}, "config.optimizer.name='adam'"),
        ({"optimizer": {"schedule": "linear"}}, "config.optimizer.schedule='linear'"),
        ({"training": {"held_out_share": 1.0}}, "held_out_share=1.0"),
    ],
)
def test_settings_that_do_not_fit_stop_before_any_work(
    keys, message, tiny_config, tiny_records, tmp_path
):
    with pytest.raises(ValueError, match=message):
        run_pretrain(changed(tiny_config, keys), tiny_records, tmp_path / "run")
    assert not os.path.exists(tmp_path / "run" / work.CHECKPOINTS_DIR)
    assert not os.path.exists(tmp_path / "run" / work.CONFIG_FILE)


def test_tensorboard_has_the_curves_of_training_and_clustering(
    tiny_run,
):
    log_dir = os.path.join(tiny_run, work.TENSORBOARD_DIR)
    tags = set()
    for path in glob.glob(os.path.join(log_dir, "events.*")):
        for event in tf.compat.v1.train.summary_iterator(path):
            tags |= {value.tag for value in event.summary.value}
    assert tags >= {
        "training/learning_rate",
        "training/clips_per_sec",
        "training/input_wait_share",
        "training/video_from_audio/loss",
        "training/audio_from_video/accuracy",
        "held_out/video_from_audio/loss",
        "clusters/video/inertia",
        "clusters/video/sizes",
        "clusters/audio/empty_clusters",
        "clusters/audio/nmi_with_previous_round",
        "clusters/audio/nmi_with_true_labels",
        "clusters/nmi_of_audio_and_video",
        "clusters/audio/contact_sheet",
        "clusters/cross_table_of_audio_and_video",
        "run/configuration",
    }
