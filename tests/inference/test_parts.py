"""Parts of new videos: their rows, the disk that they take, limits, settings."""

import os

import numpy as np
import pytest

from data_prep.engines.dask_cluster import DaskCluster
from xdc_tf.data import payloads
from xdc_tf.inference import new_videos, parts
from xdc_tf.inference.parts import Conversion, Sampling
from xdc_tf.training import trained_run

pytestmark = pytest.mark.once

CONVERSION = Conversion(num_workers=2, rows_per_part=3)
CENTRE = Sampling()


@pytest.fixture
def run(tiny_run):
    return trained_run.open_run(str(tiny_run))


@pytest.fixture
def all_parts(run, tmp_path):
    def all_parts(path, sampling=CENTRE, conversion=CONVERSION):
        return parts.parts(
            new_videos.open_videos(str(path), run),
            run,
            sampling=sampling,
            conversion=conversion,
            scratch_dir=str(tmp_path),
        )

    return all_parts


def test_a_part_without_a_usable_row_is_no_error(all_parts, odd_videos):
    conversion = CONVERSION._replace(rows_per_part=1)
    found = [
        ([row.reason for row in part.rows], len(list(part.batches)))
        for part in all_parts(odd_videos, conversion=conversion)
    ]
    assert found == [(["cannot_open"], 0), (["no_audio"], 0), ([""], 1), ([""], 1)]


def test_the_disk_holds_one_part_at_a_time_and_nothing_at_the_end(
    all_parts, odd_videos, tmp_path
):
    held = []
    for part in all_parts(odd_videos):
        assert os.listdir(tmp_path) == ["part"]
        files = os.listdir(tmp_path / "part" / "records")
        held.append((len(part.rows), sum(name.endswith(".tfrecord") for name in files)))
    assert held == [(3, 1), (1, 1)]
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_parts_that_a_cluster_converts_are_the_same(all_parts, odd_videos):
    pytest.importorskip("distributed")
    with DaskCluster("local", num_workers=1) as engine:
        conversions = CONVERSION, CONVERSION._replace(num_workers=1, engine=engine)
        here, there = (
            [
                (part.rows, [batch["video"].numpy() for batch in part.batches])
                for part in all_parts(odd_videos, conversion=conversion)
            ]
            for conversion in conversions
        )
    assert [rows for rows, _ in here] == [rows for rows, _ in there]
    assert len(here) == 2
    for (_, ours), (_, theirs) in zip(here, there, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_abandoned_part_is_removed(all_parts, odd_videos, tmp_path):
    some = all_parts(odd_videos)
    next(some)
    some.close()
    assert os.listdir(tmp_path) == []


def test_parts_of_records_follow_their_files(
    all_parts, tiny_records, monkeypatch, capsys
):
    monkeypatch.setattr(parts, "_RECORD_ROWS_PER_PART", 16)
    indices = [
        [int(i) for batch in part.batches for i in batch["example_index"] if i >= 0]
        for part in all_parts(tiny_records / "train", Sampling(batch_size=5))
    ]
    assert indices == [list(range(16)), list(range(8))]
    assert capsys.readouterr().out.splitlines() == [
        "16 of 24 rows, 0 quarantined",
        "24 of 24 rows, 0 quarantined",
    ]


def test_files_are_converted_as_the_runs_records_were(run):
    found = parts.conversion_settings(run, CONVERSION)
    assert (found.fps, found.short_side, found.jpeg_quality) == (8.0, 32, 90)
    assert found.log_mel == run.config.log_mel
    assert found.modalities == ("video", "audio")
    assert not found.store_waveform
    stored = run._replace(info=run.info._replace(fps=12.5, jpeg_quality=70))
    found = parts.conversion_settings(stored, CONVERSION)
    assert (found.fps, found.jpeg_quality) == (12.5, 70)
    segments = payloads.parse(["h264:gop=4"])
    stored = run._replace(info=run.info._replace(payloads=segments))
    assert parts.conversion_settings(stored, CONVERSION).payloads == segments
    alone = stored._replace(streams={"audio": "audio"})
    found = parts.conversion_settings(alone, CONVERSION, sound_files=True)
    assert not found.payloads


def test_files_for_imported_weights_are_converted_as_the_clips_need(imported_run):
    run = trained_run.open_run(str(imported_run))
    found = parts.conversion_settings(run, CONVERSION)
    # 28 pixels are 0.875 of 32.
    assert (found.fps, found.short_side, found.jpeg_quality) == (8.0, 32, 90)
    assert found.modalities == ("video",)


def test_an_encoder_of_sound_alone_needs_the_picture_for_its_times(run):
    alone = run._replace(streams={"audio": "audio"})
    found = parts.conversion_settings(alone, CONVERSION)
    assert found.modalities == ("video", "audio")


def test_sound_files_have_no_picture_to_go_by(run):
    alone = run._replace(streams={"audio": "audio"})
    found = parts.conversion_settings(alone, CONVERSION, sound_files=True)
    assert found.modalities == ("audio",)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(num_clips=0), "num_clips=0 must be from 1 to 10000"),
        (Sampling(num_clips=10**9), "num_clips=1000000000 must be from 1 to 10000"),
        (Sampling(batch_size=-1), "batch_size=-1"),
        (Sampling(stride_secs=0.0), "stride_secs=0.0 must be a positive"),
        (Sampling(stride_secs=-1.0), "stride_secs=-1.0 must be a positive"),
        (Sampling(stride_secs=float("nan")), "stride_secs=nan must be a positive"),
        (Sampling(stride_secs=float("inf")), "stride_secs=inf must be a positive"),
        (Sampling(stride_secs=1e-9), "less than one frame at 8 frames.* 0.125000"),
    ],
)
def test_sampling_without_meaning_is_an_error(all_parts, odd_videos, sampling, message):
    with pytest.raises(ValueError, match=message):
        next(all_parts(odd_videos, sampling))


def test_a_stride_of_millions_of_windows_is_an_error(all_parts, odd_videos):
    conversion = CONVERSION._replace(max_secs=1e6)
    with pytest.raises(ValueError, match="allows 8000000 clips of a video of 1e"):
        next(all_parts(odd_videos, Sampling(stride_secs=0.125), conversion))
