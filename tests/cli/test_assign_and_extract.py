"""The commands assign and extract_features as processes of their own."""

import csv
import os

import numpy as np
import pytest
from forked_commands import run_command

from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir


@pytest.fixture(scope="module")
def folder(tiny_records, tmp_path_factory):
    """A folder "my videos" of two training videos, a broken file and a text."""
    folder = tmp_path_factory.mktemp("commands")
    videos = folder / "my videos"
    videos.mkdir()
    for number in range(2):
        source = tiny_records / "train_videos" / "videos" / f"seed0_{number:06d}.mp4"
        (videos / f"video {number}.mp4").write_bytes(source.read_bytes())
    (videos / "broken.mp4").write_text("not a video")
    (videos / "notes.txt").write_text("not a video either")
    return folder


@pytest.fixture(scope="module")
def names(tiny_run, tmp_path_factory):
    """The CSV of names that calls each cluster of audio "audio cluster N"."""
    clusterings = label_tables.read(workdir.round_dir(str(tiny_run), 2)).clusterings
    path = tmp_path_factory.mktemp("names") / "cluster_names.csv"
    path.write_text(
        "source,round,cluster,name,junk,merged_into\n"
        + "".join(
            f"audio,2,{cluster},audio cluster {cluster},0,\n"
            for cluster in range(len(clusterings["audio"].centroids))
        )
    )
    return path


@pytest.fixture(scope="module")
def done(folder, names, tiny_run):
    """The finished processes."""
    both = [f"--workdir={tiny_run}", f"--videos={folder / 'my videos'}"]
    commands = {
        "assign": [
            "assign",
            *both,
            f"--out={folder / 'made' / 'assigned.csv'}",
            f"--features={folder / 'made' / 'features'}",
            "--rows_per_part=2",
            f"--names={names}",
            f"--manifest={folder / 'made' / 'labelled.csv'}",
        ],
        "extract": [
            "extract_features",
            *both,
            f"--out={folder / 'made' / 'dense'}",
            "--stride_secs=0.5",
            "--streams=video",
        ],
        "both ways": [
            *("extract_features", *both, f"--out={folder / 'dense'}"),
            *("--stride_secs=0.5", "--num_clips=3"),
        ],
        "no videos": [
            *("assign", *both, f"--videos={folder / 'none'}"),
            f"--out={folder / 'assigned.csv'}",
        ],
        "no names": [
            *("assign", *both, f"--out={folder / 'assigned.csv'}"),
            f"--manifest={folder / 'labelled.csv'}",
        ],
        "names of others": [
            *("assign", *both, f"--out={folder / 'assigned.csv'}"),
            *(f"--names={names}", f"--manifest={folder / 'labelled.csv'}"),
            "--label_source=video",
        ],
    }
    return {
        case: run_command(f"xdc_tf.cli.{module}", *arguments)
        for case, (module, *arguments) in commands.items()
    }


def test_assign_says_what_it_did(done, folder):
    process = done["assign"]
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == [
        "other files and links to folders, left out: 1",
        "2 of 3 rows, 1 quarantined",
        "3 of 3 rows, 1 quarantined",
        f"{folder}/made/assigned.csv: 2 of 3 videos (quarantined: 1 cannot_open) "
        "labelled with the clusters of audio and video (round_002)",
        f"{folder}/made/labelled.csv: 2 videos with a label",
    ]


def test_assign_writes_a_line_per_video(done, folder):
    with open(folder / "made" / "assigned.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["reason"]) for row in rows] == [
        ("broken.mp4", "cannot_open"),
        ("video 0.mp4", ""),
        ("video 1.mp4", ""),
    ]
    assert np.load(folder / "made" / "features" / "audio.npy").shape == (3, 32)
    assert [row["audio_name"] for row in rows] == [
        "",
        *(f"audio cluster {row['audio_cluster']}" for row in rows[1:]),
    ]
    assert {row["video_name"] for row in rows} == {""}


def test_named_clusters_become_labels_of_records(done, folder, tmp_path):
    process = run_command(
        "data_prep.convert",
        f"--manifest={folder / 'made' / 'labelled.csv'}",
        f"--out={tmp_path / 'records'}",
        *("--fps=8", "--short_side=32"),
    )
    assert process.returncode == 0, process.stderr
    with open(folder / "made" / "assigned.csv", newline="") as file:
        names = [row["audio_name"] for row in csv.DictReader(file)][1:]
    with open(tmp_path / "records" / "examples.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == names


def test_extract_features_says_what_it_did(done, folder):
    process = done["extract"]
    assert (process.returncode, process.stderr) == (0, "")
    # Three clips of half a second in each of the two.
    assert process.stdout.splitlines()[-1] == (
        f"{folder}/made/dense: 6 rows of features (video 32), of 2 of 3 videos "
        "(quarantined: 1 cannot_open)"
    )
    assert np.load(folder / "made" / "dense" / "video.npy").shape == (6, 32)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("both ways", "--num_clips=3 and --stride_secs=0.5 exclude each other"),
        ("no videos", "none does not exist; give a folder of video files"),
        ("no names", "--manifest needs --names"),
        ("names of others", "'video', and the clusterings with names are: audio"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(done, case, told):
    process = done[case]
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and told in line


def test_nothing_else_is_written(done, folder):
    assert sorted(os.listdir(folder)) == ["made", "my videos"]
    assert sorted(os.listdir(folder / "made")) == [
        *("assigned.csv", "dense", "features", "labelled.csv"),
    ]
