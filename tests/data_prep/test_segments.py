"""Recordings cut into segments, and what lies past their end."""

import os

import pytest
from media_files import tone, write_lying, write_media

from data_prep import rows as conversion_rows
from data_prep import segments
from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import packets
from data_prep.manifest import read_manifest
from data_prep.segments import Segmentation
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings

pytestmark = pytest.mark.once


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


def read_rows(tmp_path, *lines):
    text = "\n".join(("path,start_secs,end_secs", *lines, ""))
    (tmp_path / "manifest.csv").write_text(text)
    return read_manifest(str(tmp_path / "manifest.csv")).rows


def cut_rows(rows, segmentation):
    return list(
        segments.cut_rows(
            rows,
            segmentation,
            min_secs=0.5,
            max_file_mib=1.0,
            pool=PoolSettings(1, Limits(timeout_secs=600)),
        )
    )


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    rows = read_rows(tmp_path, "pipe.mp4,,")
    assert cut_rows(rows, Segmentation(1.0)) == [[rows[0]]]


def test_a_file_that_declares_too_much_gives_its_rows_and_one_that_says_so(tmp_path):
    write_lying(tmp_path / "a.mkv", secs=5.0, declared_secs=200_000.0)
    write_media(tmp_path / "b.mp4", secs=5.0, waveform=tone(5.0))
    rows = read_rows(tmp_path, "a.mkv,,", "a.mkv,1,150000", "b.mp4,,")
    cuts = cut_rows(rows, Segmentation(2.0))
    assert [[row[4:6] for row in cut] for cut in cuts] == [
        # 4 to 6 is not more than a second too long.
        [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 8.0)],
        [(1.0, 3.0), (3.0, 5.0), (5.0, 7.0)],
        [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)],
    ]
    outcomes = list(conversion_rows.convert_rows(cuts[0], SETTINGS))
    assert [bool(outcome.result) for outcome in outcomes] == [True, True, True, False]
    assert (outcomes[3].reason, outcomes[3].detail) == PAST_END


SETTINGS = ConversionSettings(fps=10.0, short_side=48)
PAST_END = (
    "decode_error",
    "truncated: ends at 5.0 s of 200000.0 s declared, after 0 frames",
)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        SETTINGS._replace(modalities=("video",)),
        SETTINGS._replace(modalities=("audio",)),
    ],
)
def test_rows_past_the_end_are_refused_the_same_without_another_look(
    tmp_path, settings
):
    write_lying(tmp_path / "a.mkv", secs=5.0, declared_secs=200_000.0)
    lines = [f"a.mkv,{start},{start + 2}" for start in range(0, 40, 2)]
    rows = read_rows(tmp_path, *lines)
    each = [list(conversion_rows.convert_rows([row], settings))[0] for row in rows]
    assert [(outcome.reason, outcome.detail) for outcome in each[3:]] == [PAST_END] * 17
    conversion_rows.convert_rows(rows[:1], settings)
    os.remove(tmp_path / "a.mkv")
    after = list(conversion_rows.convert_rows(rows[4:], settings))
    assert after == each[4:]


def test_the_first_row_past_the_end_is_looked_at_wherever_a_group_begins(tmp_path):
    write_lying(tmp_path / "a.mkv", secs=5.0, declared_secs=200_000.0)
    write_media(tmp_path / "b.mp4", secs=5.0, waveform=tone(5.0))
    lines = [f"a.mkv,{start},{start + 1}" for start in range(7, 15)]
    *rows, other = read_rows(tmp_path, *lines, "b.mp4,9,10")
    together = list(conversion_rows.convert_rows(rows, SETTINGS))
    # Another file's end is none of this one's.
    (outcome,) = conversion_rows.convert_rows([other], SETTINGS)
    assert (outcome.reason, outcome.detail) == (
        "too_short",
        "0.000 s of picture from the segment's start, need 0.500 s",
    )
    (last,) = conversion_rows.convert_rows(rows[-1:], SETTINGS)
    assert [outcome[1:] for outcome in (*together, last)] == [PAST_END] * 9


def test_a_row_that_is_too_long_says_so_past_the_end_as_well(tmp_path):
    write_lying(tmp_path / "a.mkv", secs=5.0, declared_secs=200_000.0)
    rows = read_rows(tmp_path, "a.mkv,10,12", "a.mkv,10,400", "a.mkv,20,21")
    outcomes = list(conversion_rows.convert_rows(rows, SETTINGS))
    reasons = [outcome.reason for outcome in outcomes]
    assert reasons == ["decode_error", "too_long", "decode_error"]


def test_the_end_of_a_file_is_where_its_last_packet_ends(tmp_path):
    write_media(tmp_path / "a.mp4", secs=5.0, waveform=tone(5.0))
    path = str(tmp_path / "a.mp4")
    assert packets.end_before(path, 4.9) is None
    assert packets.end_before(path, 7.0) == pytest.approx(5.0, abs=0.07)


def test_a_file_that_ends_in_damage_ends_there(tmp_path):
    write_lying(tmp_path / "a.mkv", secs=5.0, declared_secs=200_000.0)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    end_secs = packets.end_before(str(tmp_path / "a.mkv"), 100.0)
    assert 1.0 < end_secs < 4.0
