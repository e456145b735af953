"""The projector's files, as TensorBoard's own server reads them."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug.test import Client

from tests.prepared_runs import make_run
from xdc_tf.data import example_previews
from xdc_tf.data.text_columns import TextColumn
from xdc_tf.features import feature_store
from xdc_tf.features.extraction import Features
from xdc_tf.labels import label_tables
from xdc_tf.training import projector

VIDEO = "video features, 24 of 24 examples"


@pytest.fixture(scope="module")
def served(tiny_run):
    """The function path, parameters -> answer of TensorBoard's projector for a run."""
    logdir = str(tiny_run / "tensorboard")
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(logdir)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, logdir)
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(data_provider=provider, logdir=logdir)
    )
    apps = plugin.get_plugin_apps()

    def get(path, **parameters):
        answer = Client(apps[f"/{path}"]).get(f"/{path}", query_string=parameters)
        assert answer.status_code == 200, answer.get_data()
        return answer.get_data()

    return get


def test_tensorboard_shows_a_tensor_per_stream(served):
    assert json.loads(served("runs")) == ["."]
    embeddings = json.loads(served("info", run="."))["embeddings"]
    names = [embedding["tensorName"] for embedding in embeddings]
    assert sorted(names) == ["audio features, 24 of 24 examples", VIDEO]
    assert [embedding["tensorShape"] for embedding in embeddings] == [[24, 32]] * 2


def test_tensorboard_reads_the_features_of_the_last_clustering(served, tiny_run):
    values = np.frombuffer(served("tensor", run=".", name=VIDEO), np.float32)
    stored = feature_store.read_features(str(tiny_run / "features"))
    expected = stored.features.streams["video"]
    np.testing.assert_allclose(
        values.reshape(expected.shape), expected, rtol=1e-4, atol=1e-7
    )


def test_tensorboard_reads_ids_clusters_and_labels(served, tiny_run):
    text = served("metadata", run=".", name=VIDEO).decode()
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert [row["example_index"] for row in rows] == [str(k) for k in range(24)]
    last = label_tables.read(tiny_run / "labels" / "round_002").clusterings
    for name in ("audio", "video"):
        clusters = [int(row[f"cluster_{name}"]) for row in rows]
        np.testing.assert_array_equal(clusters, last[name].labels)
    assert rows[0]["video_id"].endswith("000000.mp4") and rows[0]["label"]


def test_tensorboard_reads_the_pictures(served):
    picture = np.asarray(
        Image.open(io.BytesIO(served("sprite_image", run=".", name=VIDEO)))
    )
    assert picture.shape == (5 * 32, 5 * 32, 3)  # 24 of 32 x 32 in a square
    assert picture[:32, :32].std() > 0
    assert (picture[-32:, -32:] == 255).all()


@pytest.fixture
def prepared(tiny_config, tiny_records, tmp_path):
    """The function sizes -> a run at its start and the folder for its projector."""

    def prepare(projector_examples):
        tiny_config["tensorboard"]["projector_examples"] = projector_examples
        run = make_run(tiny_config, tiny_records, tmp_path)
        return run, tmp_path / "tensorboard"

    return prepare


def write(run):
    features = Features(
        {"video": np.arange(48, dtype=np.float32).reshape(24, 2)}, np.ones(24, bool)
    )
    clustering = label_tables.Clustering(
        (np.arange(24) % 4).astype(np.int32),
        np.zeros([4, 2], np.float32),
        np.full(4, 6),
        1.0,
    )
    projector.write(run, features, {"video": clustering, "video-1": clustering})


def test_a_sample_of_examples_is_the_same_in_every_call(prepared):
    run, folder = prepared(5)
    write(run)
    first = (folder / "projector" / "video.tsv").read_text()
    write(run)
    assert (folder / "projector" / "video.tsv").read_text() == first
    rows = [[float(cell) for cell in line.split("\t")] for line in first.splitlines()]
    assert len(rows) == 5 and rows == sorted(rows)
    lines = (folder / "projector" / "metadata.tsv").read_text().splitlines()
    assert lines[0] == "video_id\texample_index\tcluster_video\tlabel"
    assert [int(line.split("\t")[1]) for line in lines[1:]] == [r[0] / 2 for r in rows]
    assert "5 of 24 examples" in (folder / "projector_config.pbtxt").read_text()
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_strangers_id_stays_in_its_cell(prepared):
    run, folder = prepared(24)
    examples = run.records.examples
    ids = examples.video_ids.tolist()
    ids[3] = "a\tb\nc\x1b"
    examples = examples._replace(video_ids=TextColumn.of(ids))
    write(run._replace(records=run.records._replace(examples=examples)))
    lines = (folder / "projector" / "metadata.tsv").read_text().splitlines()
    assert len(lines) == 25
    assert lines[4].split("\t")[:2] == ["a\\tb\\nc\\x1b", "3"]


def test_no_file_is_written_where_no_example_is_to_be_shown(prepared):
    run, folder = prepared(0)
    write(run)
    assert not (folder / "projector").exists()


def test_examples_that_cannot_be_read_are_grey(prepared, monkeypatch, capsys):
    run, folder = prepared(4)
    monkeypatch.setattr(
        example_previews, "read_previews", lambda source, examples: ({}, ["gone"])
    )
    write(run)
    assert "pictures for TensorBoard: gone" in capsys.readouterr().err
    picture = np.asarray(Image.open(folder / "projector" / "sprite.png"))
    assert (picture == 128).all() and picture.shape == (64, 64, 3)


def test_a_link_in_its_place_is_refused(prepared, tmp_path):
    run, folder = prepared(4)
    folder.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "projector").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="symbolic link"):
        write(run)
