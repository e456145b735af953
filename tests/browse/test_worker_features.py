"""Pages of a run whose features several workers have left, each its own."""

import json
import shutil

import numpy as np
import pytest

from xdc_tf.browse import page_files
from xdc_tf.data import record_directory
from xdc_tf.distribution import workers
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import FeatureStore, RowState

SOURCES = ["audio", "video"]


def table(page, name):
    return page_files.read_table(str(page), name)


def split_features(directories, num_workers):
    """Puts the features of a run where several workers would have left them."""
    features = directories.workdir / "features"
    record = json.loads((features / "store.json").read_text())
    streams = {name: np.load(features / f"{name}.npy") for name in SOURCES}
    records = record_directory.open_directory(str(directories.records))
    for number in range(num_workers):
        _, rows = workers.local_rows(
            records.info, records.examples, number=number, num_processes=num_workers
        )
        store = FeatureStore(
            str(features / f"worker_{number:03d}"),
            num_rows=len(rows),
            widths=record["form"]["widths"],
            dtype=record["form"]["dtype"],
            made_with=record["form"]["made_with"] | {"worker": [number, num_workers]},
            example_indices=rows,
        )
        provenance = (record["harvested_in"], record["extracted_by"])
        store.keep_only(harvested_in=provenance[0], extracted_by=provenance[1])
        parts = {name: matrix[rows] for name, matrix in streams.items()}
        store.write(ExampleFeatures(rows, parts), RowState.EXTRACTED)
        store.commit()
    for path in features.glob("*.*"):
        path.unlink()


@pytest.mark.slow
def test_features_of_several_workers_are_read_as_those_of_one(
    copied, tiny_page, tmp_path
):
    split_features(copied, 2)
    page = copied.make(tmp_path / "page", examples_per_cluster=6)
    for name in ("round-0002", "map-audio", "neighbours-video"):
        assert table(page, name) == table(tiny_page, name)


def test_features_of_a_worker_that_are_missing_leave_random_members(
    copied, tmp_path, capsys
):
    split_features(copied, 2)
    shutil.rmtree(copied.workdir / "features" / "worker_001")
    page = copied.make(tmp_path / "page", examples_per_cluster=2, rounds="last")
    assert "no features that are whole" in capsys.readouterr().err
    rows = table(page, "round-0002")["clusterings"]["audio"]["clusters"]
    assert {member["kind"] for row in rows for member in row["members"]} == {"random"}
    assert table(page, "overview")["maps"] == {}
