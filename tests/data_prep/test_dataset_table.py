"""A data set is a module and a row: one that is added here alone gets its manifest.

The test runs this file as a program, which adds the row and starts the command.
"""

import os

import pytest
from forked_commands import run_command

from data_prep.datasets.manifests import DATASETS
from data_prep.datasets.media_files import collect, list_files, row_or_missing
from data_prep.manifest import read_manifest

pytestmark = pytest.mark.once


def find_clips(annotations, root, *, split):
    """Files whose names end in the split's, labelled by their first letter."""
    media, _ = list_files(root)
    rows = [
        row_or_missing(file, file, label=file[0])
        for file in media
        if file.endswith(f"_{split}.mp4")
    ]
    return collect(rows, (label for row in rows for label in row.labels))


def test_a_data_set_of_one_row_gets_its_manifest(tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    for name in ("a1_train.mp4", "b1_train.mp4", "b2_test.mp4"):
        (root / name).touch()
    out = tmp_path / "train.csv"
    done = run_command(
        __file__,
        "--dataset=letters",
        f"--root={root}",
        "--split=train",
        f"--out={out}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_manifest(str(out)).rows
    assert [(os.path.basename(row.file), row.label) for row in rows] == [
        ("a1_train.mp4", "a"),
        ("b1_train.mp4", "b"),
    ]


if __name__ == "__main__":
    DATASETS["letters"] = find_clips
    from data_prep import make_manifest

    make_manifest.run()
