import shutil

import numpy as np
import pytest

from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir
from xdc_tf.training import trained_run


def test_the_final_clusters_are_those_after_the_last_round(tiny_run):
    found = trained_run.final_clusters(trained_run.open_run(str(tiny_run)))
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    assert found.round_index == 2
    for source in ("video", "audio"):
        np.testing.assert_array_equal(
            found.clusterings[source].centroids, table.clusterings[source].centroids
        )


def test_clusters_of_other_encoders_are_not_taken_for_the_final_ones(
    tiny_run, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run, run_dir)
    shutil.rmtree(workdir.round_dir(str(run_dir), 2))
    with pytest.raises(FileNotFoundError, match="no clusters of its present encoders"):
        trained_run.final_clusters(trained_run.open_run(str(run_dir)))


def test_the_first_rounds_clusters_are_of_the_initial_encoders(tiny_run):
    made_of = label_tables.read_settings(workdir.round_dir(str(tiny_run), 0))
    run = trained_run.open_run(str(tiny_run))
    assert set(made_of["encoders_sha256"]) == set(run.streams)
    later = label_tables.read_settings(workdir.round_dir(str(tiny_run), 1))
    assert made_of["encoders_sha256"] != later["encoders_sha256"]


def test_a_run_has_a_head_per_source_as_wide_as_its_clusters(tiny_run):
    run = trained_run.open_run(str(tiny_run))
    (head,) = trained_run.load_heads(run, "video").values()
    assert list(trained_run.load_heads(run, "video")) == ["audio"]
    assert head.kernel.shape == (32, 4) and head.bias.shape == (4,)


def test_the_run_tells_what_its_encoders_take(tiny_run):
    run = trained_run.open_run(str(tiny_run))
    assert run.streams == {"video": "video", "audio": "audio"}
    assert run.modalities == ("video", "audio")
    assert run.architectures["video"].architecture == "r2plus1d"
    assert run.clip.num_frames == 4
    assert run.info.num_examples == 24
