"""A way to make labels is a row: one that is added here alone trains and labels.

The test runs this file as a program, which adds a label maker that reads a given file
and a method that uses it, and starts a command.
"""

import csv
import functools
import runpy
import sys

import numpy as np
import pytest
from forked_commands import run_command

from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.labels import label_makers, label_tables, pseudo_labels
from xdc_tf.labels.label_makers import LabelMaker
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.training import supervision
from xdc_tf.training.supervision import Method


def read_labels(
    given_file, features, sources, *, fitted_rows, settings, seed, strategy
):
    """The labels of a file, [num_rows] int32; centroids are the means of features."""
    del seed, strategy
    labels = np.load(given_file)
    clusterings = {}
    for source, streams in sources.items():
        rows = pseudo_labels.side_by_side([features.streams[name] for name in streams])
        members = [
            fitted_rows & (labels == number) for number in range(settings.num_clusters)
        ]
        centroids = np.stack([rows[member].mean(axis=0) for member in members])
        distances = np.square(rows - centroids[labels]).sum(axis=1)
        clusterings[source] = Clustering(
            labels=labels,
            centroids=centroids.astype(np.float32),
            sizes=np.array([member.sum() for member in members], np.int64),
            inertia=float(distances[fitted_rows].sum()),
            normalize=False,
        )
    return clusterings


@pytest.fixture(scope="module")
def given(tiny_records, new_tiny_config, tmp_path_factory):
    """Labels, and the work directory of a run that was trained on them."""
    folder = tmp_path_factory.mktemp("given")
    labels = (np.arange(24, dtype=np.int32) * 7) % 4
    np.save(folder / "labels.npy", labels)
    config = new_tiny_config()
    flags = [
        f"--config.{section}.{key}={value}"
        for section in ("clip", "kmeans", "features", "video_encoder", "audio_encoder")
        for key, value in config[section].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    done = run_command(
        __file__,
        folder / "labels.npy",
        "xdc_tf.cli.pretrain",
        "--config=synthetic",
        "--config.method=given",
        "--config.num_rounds=1",
        "--config.training.batch_size=4",
        "--config.training.epochs_per_round=1",
        "--config.training.max_steps_per_epoch=2",
        *flags,
        f"--workdir={folder / 'run'}",
        f"--records={tiny_records / 'train'}",
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return labels, folder / "run"


def test_its_labels_are_those_of_the_tables(given):
    labels, workdir = given
    for round_dir in ("round_000", "round_001"):
        table = label_tables.read(str(workdir / "labels" / round_dir))
        assert list(table.clusterings) == ["audio"]
        clustering = table.clusterings["audio"]
        np.testing.assert_array_equal(clustering.labels, labels)
        assert clustering.centroids.shape[0] == 4


def test_new_videos_are_labelled_by_its_clusters(given, tiny_records, tmp_path):
    _, workdir = given
    path = tmp_path / "labels.csv"
    done = run_command(
        __file__,
        "none",
        "xdc_tf.cli.assign",
        f"--workdir={workdir}",
        f"--videos={tiny_records / 'test'}",
        f"--out={path}",
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {int(row["audio_cluster"]) for row in rows} <= set(range(4))


if __name__ == "__main__":
    del sys.argv[0]
    fit = functools.partial(read_labels, sys.argv.pop(0))
    label_makers.LABEL_MAKERS["given"] = LabelMaker(fit)
    supervision.METHODS["given"] = Method(
        {"video": VIDEO, "audio": AUDIO},
        {"video": ("audio",), "audio": ("audio",)},
        label_maker="given",
    )
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
