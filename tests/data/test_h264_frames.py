"""Frames as segments of H.264: exactness, checks, and clips next to those of JPEG."""

import io
import os
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import tensorflow as tf

from data_prep import conversion, conversion_settings
from data_prep.inspection import record_figures, record_tables
from data_prep.inspection.record_verification import verify
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import (
    crops,
    example_tables,
    h264_frames,
    payloads,
    pipeline,
    record_directory,
)
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.crops import Window
from xdc_tf.data.h264_frames import H264Settings

CLIP = ClipSettings(
    num_frames=5,
    fps=8.0,
    crop_size=32,
    crop_share=1.0,
    audio_secs=0.5,
    mel_hop_secs=0.01,
    num_mels=40,
    log_mel_mean=0.0,
    log_mel_std=1.0,
)


def moving_planes(height, width, num_frames=6):
    """Y, U and V of a pattern that moves by 3 pixels a frame."""
    rows, columns = np.mgrid[:height, :width]
    small = np.ones((-(-height // 2), -(-width // 2)), np.uint8)
    return [
        [
            np.uint8(128 + 60 * np.sin((columns + 3 * t) / 9) + 40 * np.cos(rows / 7)),
            (90 + 4 * t) * small,
            160 * small,
        ]
        for t in range(num_frames)
    ]


def colours_of(planes):
    """[H, W, 3] float of BT.601 planes of full range, by their formula."""
    y, u, v = (plane.astype(float) for plane in planes)
    u, v = (
        plane.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]] - 128
        for plane in (u, v)
    )
    rgb = [y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u]
    return np.clip(np.stack(rgb, -1), 0, 255)


@pytest.fixture(scope="module")
def item():
    """Six frames of 48 x 64 pixels."""
    return h264_frames.encode(moving_planes(48, 64), H264Settings(gop=6))


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (64, 31), (16, 16), (1, 1)])
def test_frames_of_any_size_come_back_in_order(size):
    frames = moving_planes(*size)
    item = h264_frames.encode(frames, H264Settings(crf=4))
    found = h264_frames.decode(item)
    assert found.shape == (6, *size, 3) and found.dtype == np.uint8
    expected = np.stack([colours_of(planes) for planes in frames])
    assert np.abs(found - expected).mean() < 2.5
    assert h264_frames.frame_shape(tf.constant(item)).numpy().tolist() == [*size]


def test_a_higher_crf_has_fewer_bytes_and_the_same_one_the_same_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64), np.uint8)
    grey = np.full((24, 32), 128, np.uint8)
    frames = [[plane, grey, grey] for plane in noise]
    sizes = [
        len(h264_frames.encode(frames, H264Settings(crf=crf))) for crf in (10, 18, 30)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[2]
    twice = [h264_frames.encode(frames, H264Settings()) for _ in range(2)]
    assert twice[0] == twice[1]


def test_the_packets_are_a_stream_that_other_software_plays(item):
    begin = 10 + 4 * 6
    with av.open(io.BytesIO(item[begin:]), format="h264") as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode()]
    assert [frame.shape for frame in frames] == [(48, 64)] * 6
    assert b"x264" not in item


@pytest.mark.parametrize("mirrored", [None, False, True])
@pytest.mark.parametrize("crop_size", [11, 24, 40])
@pytest.mark.parametrize(("top", "left"), [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_a_clip_is_cut_from_the_frames_as_decoded_ones_are(
    item, crop_size, top, left, mirrored
):
    frames = h264_frames.decode(item)
    window = Window(
        tf.constant(top),
        tf.constant(left),
        tf.constant(0.875),
        None if mirrored is None else tf.constant(mirrored),
    )
    places = tf.constant([[1, 4], [0, 2], [0, 0], [1, 1], [0, 2]])
    found = h264_frames.decode_clip(
        tf.constant([item, item]),
        places,
        window,
        CLIP._replace(crop_size=crop_size),
        (tf.constant("a.tfrecord"), tf.constant(3, tf.int64)),
    )
    expected = crops.crop_pixels(
        tf.constant(frames[places[:, 1].numpy()]),
        **{k: getattr(window, k) for k in ("top", "left", "fraction")},
        crop_size=crop_size,
    ).numpy()
    if mirrored:
        expected = expected[:, :, ::-1]
    assert found.shape == (5, crop_size, crop_size, 3)
    # Windows of blocks are scaled after they are mirrored.
    assert np.abs(found.numpy() - expected.astype(int)).max() <= 1


def test_blocks_at_the_edges_repeat_the_outermost_pixels():
    item = h264_frames.encode(moving_planes(37, 51), H264Settings())
    whole = Window(tf.constant(1.0), tf.constant(1.0), tf.constant(1.0))
    clip = CLIP._replace(crop_size=9, num_frames=1)
    origin = (tf.constant("a"), tf.constant(0, tf.int64))
    found = h264_frames.decode_clip(
        tf.constant([item]), tf.constant([[0, 3]]), whole, clip, origin
    )
    expected = crops.crop_pixels(
        tf.constant(h264_frames.decode(item)[3:4]),
        **{k: getattr(whole, k) for k in ("top", "left", "fraction")},
        crop_size=9,
    )
    np.testing.assert_array_equal(found, expected)


def with_head(item, **changes):
    names = ("height", "width", "number")
    head = dict(zip(names, struct.unpack_from(">HHH", item, 4), strict=True)) | changes
    return item[:4] + struct.pack(">HHH", *head.values()) + item[10:]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda item: b"", "no segment"),
        (lambda item: b"\xff\xd8" + item, "no segment"),
        (lambda item: item[:-1], "segment of 6 frames"),
        (lambda item: item + b"\0", "segment of 6 frames"),
        (lambda item: with_head(item, number=5), "segment of 5 frames"),
        (lambda item: with_head(item, number=0), "segment of 0 frames"),
        (lambda item: with_head(item, number=60000), "segment of 60000 frames"),
        (lambda item: with_head(item, height=65535, width=65535), "65535 x 65535"),
        (lambda item: with_head(item, width=0), "0 x 48"),
        (lambda item: with_head(item, height=50), "64 x 50 pixels, the first of"),
    ],
)
def test_what_an_item_says_of_itself_is_checked_before_it_is_decoded(
    item, change, what
):
    with pytest.raises(ValueError, match=what):
        h264_frames.check([item, change(item)], None)
    h264_frames.check([item, item], 48)
    with pytest.raises(ValueError, match="shorter side has 47"):
        h264_frames.check([item], 47)


def test_a_stream_of_larger_frames_than_the_item_says_is_not_decoded(item):
    large = h264_frames.encode(moving_planes(480, 640, 2), H264Settings())
    small = with_head(large, height=48, width=64)
    with pytest.raises(ValueError, match="frame 0 of a segment of H.264 cannot"):
        h264_frames.decode(small)
    with pytest.raises(ValueError, match="64 x 48 pixels and not of 60 x 48"):
        h264_frames.decode(with_head(item, width=60))


def test_damaged_streams_are_errors_or_pictures_of_the_same_size(item):
    rng = np.random.default_rng(0)
    num_errors = 0
    for _ in range(300):
        damaged = bytearray(item)
        for place in rng.integers(34, len(item), rng.integers(1, 20)):
            damaged[place] = rng.integers(256)
        try:
            assert h264_frames.decode(bytes(damaged)).shape == (6, 48, 64, 3)
        except ValueError:
            num_errors += 1
    assert num_errors > 100


def test_faults_name_the_item(item):
    assert list(h264_frames.faults([item, item], 48, 64, 12)) == []
    assert list(h264_frames.faults([item], 48, 64, 7)) == [
        "items hold 6 frames, and not 7"
    ]
    (fault,) = h264_frames.faults([item, item[:80]], 48, 64, 12)
    assert fault.startswith("item 1: 80 bytes")


def convert(tiny_records, out, *chosen):
    settings = conversion_settings.ConversionSettings(
        fps=8.0, short_side=32, payloads=payloads.parse(chosen)
    )
    conversion.convert_manifest(
        str(tiny_records / "train_videos" / "manifest.csv"),
        str(out),
        settings=settings,
        pool=PoolSettings(2),
        rows_per_shard=8,
    )
    return str(out)


@pytest.fixture(scope="module")
def records(tiny_records, tmp_path_factory):
    """Records of tiny_records' training videos, in segments of five frames."""
    out = tmp_path_factory.mktemp("h264") / "records"
    return convert(tiny_records, out, "h264:gop=5,crf=10")


def first_batch(directory, make=pipeline.evaluation_batches, **arguments):
    opened = record_directory.open_directory(str(directory))
    clip = CLIP._replace(num_mels=opened.info.log_mel.num_filters)
    source = ClipSource(list(opened.promised.rows), clip, promised=opened.promised)
    return next(iter(make(source, batch_size=24, **arguments)))


def test_clips_are_those_of_jpeg_records_within_the_codecs_error(records, tiny_records):
    ours, jpeg = (first_batch(path) for path in (records, tiny_records / "train"))
    np.testing.assert_array_equal(ours["example_index"], jpeg["example_index"])
    np.testing.assert_array_equal(ours["audio"], jpeg["audio"])
    difference = np.abs(ours["video"].numpy() - jpeg["video"].numpy().astype(int))
    assert ours["video"].shape == (24, 5, 32, 32, 3) and difference.mean() < 4


def test_random_clips_are_the_same_ones_as_of_jpeg_records(records, tiny_records):
    random = {
        "make": pipeline.training_batches,
        "augmentation": Augmentation(min_crop_share=0.6),
        "keep": np.ones(24, bool),
        "seed": 3,
        "shuffle_buffer": 24,
    }
    ours = first_batch(records, **random)
    jpeg = first_batch(tiny_records / "train", **random)
    np.testing.assert_array_equal(ours["example_index"], jpeg["example_index"])
    difference = np.abs(ours["video"].numpy() - jpeg["video"].numpy().astype(int))
    assert difference.mean() < 4
    another = difference.mean(axis=(1, 2, 3, 4))
    assert (another < 8).all()  # no other frames, places or sides


def test_records_of_segments_are_verified_and_drawn(records, tmp_path):
    assert verify(records) == 0
    info = record_tables.read_info(records)
    assert info.payloads[0].describe() == {"payload": {"h264": {"gop": 5, "crf": 10.0}}}
    examples = example_tables.read_examples(records)
    example = record_tables.read_example(records, info, examples, 3)
    assert [item[9] for item in example.video_items] == [5, 5, 2]  # of 12 frames
    record_figures.save_figure(str(tmp_path / "a.png"), example, info)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_damaged_segment_is_named_by_file_and_example(records, tmp_path):
    opened = record_directory.open_directory(records)
    (path, *_) = opened.promised.rows
    with open(path, "rb") as file:
        data = bytearray(file.read())
    begin = data.index(b"H264") + 10 + 4 * 5
    data[begin + 60 : begin + 120] = bytes(60)
    for name in os.listdir(records):
        target = tmp_path / name
        if os.path.join(records, name) == path:
            target.write_bytes(data)
        else:
            target.symlink_to(os.path.join(records, name))
    with pytest.raises(tf.errors.OpError, match="example_index 0: .*H.264") as raised:
        first_batch(tmp_path)
    assert os.path.basename(path) in str(raised.value)
    assert verify(str(tmp_path)) == 1


def test_the_default_may_be_named(tiny_records, tmp_path):
    assert payloads.parse(["jpeg", "log_mel"]) == ()
    with pytest.raises(ValueError, match="flags of their own"):
        payloads.parse(["jpeg:quality=3"])


def test_a_setting_out_of_range_is_an_error_of_the_command(tmp_path):
    (tmp_path / "a.csv").write_text("path\na.mp4\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "data_prep.convert"),
            *(f"--manifest={tmp_path / 'a.csv'}", f"--out={tmp_path / 'out'}"),
            "--payload=h264:gop=0",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "--payload.h264.gop=0 must be a whole number from 1 to 512" in done.stderr
