"""Recordings cut into segments."""

import os

from data_prep import segments
from data_prep.manifest import read_manifest
from data_prep.segments import Segmentation
from data_prep.workers import Limits


def test_nothing_of_a_stretch_past_the_end_is_a_segment():
    assert segments.cut(100.0, 95.0, Segmentation(10.0), 0.5) == []
    assert segments.cut(5.0, 0.0, Segmentation(10.0, 3), 0.5) == []


def test_a_length_that_cannot_be_is_no_segments():
    assert segments.cut(0.0, 4e9, Segmentation(10.0), 0.5) == []
    found = segments.cut(0.0, 4e9, Segmentation(10.0, 2), 0.5)
    assert found == [(1e9, 1e9 + 10), (3e9, 3e9 + 10)]


def test_the_last_segment_may_be_shorter():
    found = segments.cut(1.0, 6.5, Segmentation(2.0), 0.5)
    assert found == [(1.0, 3.0), (3.0, 5.0), (5.0, 6.5)]
    assert segments.cut(1.0, 5.4, Segmentation(2.0), 0.5) == found[:2]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "manifest.csv").write_text("path\npipe.mp4\n")
    rows = read_manifest(str(tmp_path / "manifest.csv")).rows
    ((segment,),) = segments.cut_rows(
        rows,
        Segmentation(1.0),
        min_secs=0.5,
        max_file_mib=1.0,
        num_workers=1,
        limits=Limits(timeout_secs=600),
    )
    assert segment == rows[0]
