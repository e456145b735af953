"""The pipeline on records whose pictures and sound say what and when they are.

Frame n of example i has the colour (6 n, 12 i, 0); row m of its log-mel holds the
time (m + 1/2) * 20 ms and i. So every clip tells where it was cut.
"""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import pipeline, record_directory, records, shard_writing
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.pipeline import EpochPosition

FRAME_RATE = 10.0
NUM_FRAMES = 40
NUM_MEL_ROWS = 200
HOP_SECS = 0.02
NUM_ROWS = 16  # of the manifest; row 5 was never converted
SHARDS = ([0, 1, 2, 3, 4, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15])
CONVERTED = [index for shard in SHARDS for index in shard]

CLIP = ClipSettings(
    num_frames=4,
    fps=5.0,
    crop_size=4,
    crop_share=0.5,
    audio_secs=0.6,
    mel_hop_secs=HOP_SECS,
    num_mels=2,
    log_mel_mean=1.5,
    log_mel_std=2.0,
)
KEYS = {"video": ["video", "video_normalization"], "audio": ["audio"]}
PLAIN = Augmentation(flip=False)
EVERYTHING = Augmentation(
    min_crop_share=0.25,
    flip=True,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    gain_db=3.0,
    frequency_mask=1,
    time_mask=5,
)


def serialized_example(index, video_items=None, **changed):
    video_items = video_items or [
        tf.io.encode_jpeg(
            np.full((8, 12, 3), [6 * number, 12 * index, 0], np.uint8),
            quality=100,
            chroma_downsampling=False,
        ).numpy()
        for number in range(NUM_FRAMES)
    ]
    times = (np.arange(NUM_MEL_ROWS, dtype=np.float32) + 0.5) * HOP_SECS
    values = {
        "example_index": index,
        "data_path": f"{index}.mp4",
        "video_id": f"{index}.mp4",
        "video_items": video_items,
        "audio_rows": np.stack([times, np.full_like(times, index)], axis=1),
        "start_us": 7_000_000,
        "end_us": 11_000_000,
        "frame_rate": FRAME_RATE,
        "height": 8,
        "width": 12,
    }
    return records.encode_example(records.Example(**values | changed))


def write_shard(path, *serialized):
    with shard_writing.ShardWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)
    return str(path)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timed")
    paths = []
    for number, indices in enumerate(SHARDS):
        examples_of_shard = map(serialized_example, indices)
        paths.append(write_shard(folder / f"{number}.tfrecord", *examples_of_shard))
    return paths


@pytest.fixture(scope="module")
def uninterrupted(shards):
    """Four epochs of three batches of four; three of the 15 examples are left over."""
    return training_batches(shards, 12, augmentation=EVERYTHING)


@pytest.fixture(scope="module")
def two_epochs(shards):
    """Two epochs of three batches of five, nothing left over."""
    return training_batches(shards, 6, batch_size=5)


def source_of(shards, changed):
    """The files' clips; takes from `changed` what is said of these."""
    parts = {key: changed.pop(key) for key in {"clip", "modalities"} & set(changed)}
    return ClipSource(shards, **{"clip": CLIP} | parts)


def training_batches(shards, count, **changed):
    source = source_of(shards, changed)
    arguments = {
        "augmentation": PLAIN,
        "batch_size": 4,
        "keep": np.ones(NUM_ROWS, bool),
        "seed": 0,
        "shuffle_buffer": 8,
    }
    batches = pipeline.training_batches(source, **arguments | changed)
    return list(itertools.islice(batches.as_numpy_iterator(), count))


def evaluation_batches(shards, **changed):
    source = source_of(shards, changed)
    batches = pipeline.evaluation_batches(source, **{"batch_size": 4} | changed)
    return list(batches.as_numpy_iterator())


def test_iterators_leave_no_thread_of_autotuning_to_wait_for(shards):
    training = pipeline.training_batches(
        ClipSource(shards, CLIP),
        augmentation=PLAIN,
        batch_size=4,
        keep=np.ones(NUM_ROWS, bool),
        seed=0,
        shuffle_buffer=8,
    )
    evaluation = pipeline.evaluation_batches(ClipSource(shards, CLIP), batch_size=4)
    for batches in (training, evaluation):
        assert batches.options().autotune.enabled is False


def order(batches):
    return np.concatenate([batch["example_index"] for batch in batches]).tolist()


def examples(batches):
    """All examples of some batches, in order."""
    return [
        {name: values[n] for name, values in batch.items()}
        for batch in batches
        for n in range(len(batch["example_index"]))
    ]


def frame_numbers(example):
    """The frames' numbers, as their colour tells, and the example as theirs tells."""
    colours = example["video"]
    numbers = np.round(colours[..., 0] / 6).reshape(CLIP.num_frames, -1)
    assert (numbers == numbers[:, :1]).all()
    np.testing.assert_array_equal(
        np.round(colours[..., 1] / 12), example["example_index"]
    )
    return numbers[:, 0].astype(int)


def mel_times(example, settings=CLIP):
    """The log-mel rows' times in seconds, as their values tell."""
    values = example["audio"][..., 0] * settings.log_mel_std + settings.log_mel_mean
    np.testing.assert_allclose(values[:, 1], example["example_index"], atol=1e-5)
    np.testing.assert_allclose(np.diff(values[:, 0]), HOP_SECS, atol=1e-5)
    assert len(values) == settings.num_mel_frames
    return values[:, 0]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def check_together(example, settings):
    """Sound is centred on the picture, or as close to it as the recording goes."""
    first = frame_numbers(example)[0]
    # Frame n is shown until n + 1, so the start is known to half a frame's time.
    center = (first + 0.5) / FRAME_RATE + settings.duration_secs / 2
    half = settings.audio_secs / 2
    wanted = np.clip(center, half, NUM_FRAMES / FRAME_RATE - half)
    found = mel_times(example, settings).mean()
    assert abs(found - wanted) <= 0.5 / FRAME_RATE + 0.5 * HOP_SECS + 1e-4


@pytest.mark.parametrize("audio_secs", [0.6, 2.4])
def test_picture_and_sound_of_random_clips_are_of_one_time(shards, audio_secs):
    settings = CLIP._replace(audio_secs=audio_secs)
    batches = training_batches(shards, 3, batch_size=5, clip=settings)
    for example in examples(batches):
        check_together(example, settings)
    assert len(set(starts(batches).values())) > 8


@pytest.mark.parametrize("audio_secs", [0.6, 2.4])
def test_picture_and_sound_of_uniform_clips_are_of_one_time(shards, audio_secs):
    settings = CLIP._replace(audio_secs=audio_secs)
    batches = evaluation_batches(shards, clip=settings, num_clips=3, batch_size=5)
    for example in examples(batches):
        check_together(example, settings)


def test_uniform_clips_are_cut_where_they_belong(shards):
    # 0.8 s of 4 s: starts 0, 1.6 and 3.2 s; every second of 10 frames per second.
    first, middle, last = examples(evaluation_batches(shards[:1], num_clips=3))[:3]
    assert frame_numbers(first).tolist() == [0, 2, 4, 6]
    assert frame_numbers(middle).tolist() == [16, 18, 20, 22]
    assert frame_numbers(last).tolist() == [32, 34, 36, 38]
    # Sound of 0.6 s around 0.4, 2 and 3.6 s.
    assert mel_times(first)[0] == pytest.approx(0.11)
    assert mel_times(middle)[0] == pytest.approx(1.71)
    assert mel_times(last)[0] == pytest.approx(3.31)


def test_frames_of_random_clips_are_as_far_apart_as_the_clip_rate_says(two_epochs):
    for example in examples(two_epochs):
        assert np.diff(frame_numbers(example)).tolist() == [2, 2, 2]


def test_a_training_batch_has_the_shapes_and_types_of_the_model_input(uninterrupted):
    shapes = {name: values.shape for name, values in uninterrupted[0].items()}
    dtypes = {name: values.dtype for name, values in uninterrupted[0].items()}
    assert shapes == {
        "video": (4, 4, 4, 4, 3),
        "video_normalization": (4, 2, 3),
        "audio": (4, 30, 2, 1),
        "example_index": (4,),
    }
    assert dtypes == {
        "video": np.uint8,
        "video_normalization": np.float32,
        "audio": np.float32,
        "example_index": np.int64,
    }


def test_an_epoch_has_every_example_once_but_for_the_remainder(uninterrupted):
    for epoch in range(4):
        indices = order(uninterrupted[3 * epoch : 3 * epoch + 3])
        assert len(set(indices)) == 12
        assert set(indices) <= set(CONVERTED)


def test_each_epoch_leaves_out_other_examples(uninterrupted):
    left_out = {
        frozenset(CONVERTED)
        - frozenset(order(uninterrupted[3 * epoch : 3 * epoch + 3]))
        for epoch in range(4)
    }
    assert len(left_out) > 1


def test_without_a_remainder_every_epoch_has_every_example(two_epochs):
    assert sorted(order(two_epochs[:3])) == CONVERTED
    assert sorted(order(two_epochs[3:])) == CONVERTED


def starts(batches):
    """Each example's first frame."""
    return {
        int(one["example_index"]): frame_numbers(one)[0] for one in examples(batches)
    }


def test_epochs_differ_in_order_and_clips(two_epochs):
    assert order(two_epochs[:3]) != order(two_epochs[3:])
    assert starts(two_epochs[:3]) != starts(two_epochs[3:])


def test_another_seed_gives_another_order_and_other_clips(shards, two_epochs):
    other = training_batches(shards, 3, batch_size=5, seed=1)
    assert order(other) != order(two_epochs[:3])
    assert starts(other) != starts(two_epochs[:3])


@pytest.mark.parametrize(("epoch", "skipped"), [(0, 0), (1, 0), (1, 2)])
def test_a_run_resumed_at_a_batch_goes_on_as_the_uninterrupted_one(
    shards, uninterrupted, epoch, skipped
):
    first = 3 * epoch + skipped
    resumed = training_batches(
        shards,
        12 - first,
        augmentation=EVERYTHING,
        start=EpochPosition(epoch, skipped),
    )
    assert_same(resumed, uninterrupted[first:])


def test_examples_not_kept_never_appear(shards):
    keep = np.ones(NUM_ROWS, bool)
    keep[[2, 9, 15]] = False
    indices = order(training_batches(shards, 9, keep=keep))
    assert not {2, 9, 15} & set(indices)
    for epoch in range(3):
        assert len(set(indices[12 * epoch : 12 * epoch + 12])) == 12


def test_an_examples_clip_depends_on_seed_epoch_and_index_alone(shards):
    def of_three(paths, keep, shuffle_buffer):
        """Clips of examples 3, 8 and 14 in two epochs."""
        batches = training_batches(
            paths,
            2 * keep.sum(),
            augmentation=EVERYTHING,
            batch_size=1,
            keep=keep,
            shuffle_buffer=shuffle_buffer,
        )
        chosen = [
            one for one in examples(batches) if one["example_index"] in (3, 8, 14)
        ]
        return sorted(
            (
                one["example_index"],
                n // 3,
                one["video"].tobytes(),
                one["audio"].tobytes(),
            )
            for n, one in enumerate(chosen)
        )

    everyone, few = np.ones(NUM_ROWS, bool), np.zeros(NUM_ROWS, bool)
    everyone[5] = False
    few[[3, 8, 14]] = True
    clips_of_three = of_three(shards, everyone, shuffle_buffer=20)
    assert len(clips_of_three) == 6
    assert clips_of_three == of_three(shards[::-1], few, shuffle_buffer=1)


def test_crops_of_training_clips_vary_in_place_and_scale(shards, tmp_path):
    # Every pixel of a picture that says its place: x in red, y in green.
    y, x = np.mgrid[:100, :140]
    picture = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    jpeg = tf.io.encode_jpeg(picture, quality=100, chroma_downsampling=False).numpy()
    path = write_shard(
        tmp_path / "one", serialized_example(0, video_items=[jpeg] * NUM_FRAMES)
    )
    batches = training_batches(
        [path],
        60,
        batch_size=1,
        augmentation=PLAIN._replace(min_crop_share=0.25),
        clip=CLIP._replace(crop_size=20),
    )
    places = np.stack([batch["video"][0, 0] for batch in batches]).astype(float)
    left, right = places[:, 10, 0, 0], places[:, 10, -1, 0]
    top, bottom = places[:, 0, 10, 1], places[:, -1, 10, 1]
    # From 25 to 50 of 100 pixels; the outermost pixels' centres are 5% inside.
    widths, heights = (right - left) / 0.95, (bottom - top) / 0.95
    np.testing.assert_allclose(widths, heights, atol=3.5)
    assert 23 < widths.min() < 30 and 45 < widths.max() < 52
    assert left.min() < 15 and right.max() > 125
    assert top.min() < 15 and bottom.max() > 85


def test_evaluation_has_every_example_once_in_order_and_fills_up_the_last_batch(shards):
    batches = evaluation_batches(shards)
    assert order(batches) == [*CONVERTED, pipeline.PADDING_INDEX]
    assert not batches[-1]["video"][-1].any()
    assert not batches[-1]["audio"][-1].any()
    assert batches[-1]["start_secs"][-1] == 0


def test_the_clips_of_an_example_follow_each_other(shards):
    indices = order(evaluation_batches(shards, num_clips=3))
    # 45 clips: 11 batches of 4 and one clip.
    assert indices == [*np.repeat(CONVERTED, 3), -1, -1, -1]


def test_evaluation_leaves_out_what_is_not_to_keep(shards):
    keep = np.zeros(NUM_ROWS, bool)
    keep[[1, 8, 14]] = True
    assert order(evaluation_batches(shards, keep=keep)) == [1, 8, 14, -1]


def test_nothing_to_keep_gives_no_batches(shards):
    assert evaluation_batches(shards, keep=np.zeros(NUM_ROWS, bool)) == []


def test_all_evaluation_batches_have_one_static_shape(shards):
    source = ClipSource(shards, CLIP)
    batches = pipeline.evaluation_batches(source, batch_size=4, num_clips=2)
    assert batches.element_spec == {
        "video": tf.TensorSpec([4, 4, 4, 4, 3], tf.uint8),
        "video_normalization": tf.TensorSpec([4, 2, 3], tf.float32),
        "audio": tf.TensorSpec([4, 30, 2, 1], tf.float32),
        "example_index": tf.TensorSpec([4], tf.int64),
        "start_secs": tf.TensorSpec([4], tf.float64),
    }


def test_evaluation_clips_are_the_same_every_time(shards):
    batches = pipeline.evaluation_batches(ClipSource(shards, CLIP), batch_size=4)
    first, second = (list(batches.as_numpy_iterator()) for _ in range(2))
    assert_same(first, second)


def test_evaluation_says_when_each_clip_starts(shards):
    (first, *_) = evaluation_batches(shards[:1], num_clips=3, batch_size=6)
    np.testing.assert_allclose(first["start_secs"], [0, 1.6, 3.2, 0, 1.6, 3.2])


def test_dense_clips_are_cut_at_every_stride(shards):
    # 0.8 s of 4 s: starts 0, 1.5 and 3 s; 4.5 s is past the end.
    batches = evaluation_batches(shards[:1], stride_secs=1.5, num_clips=7)
    assert order(batches) == [*np.repeat(SHARDS[0], 3), -1, -1]
    dense = examples(batches)[:18]
    assert [float(one["start_secs"]) for one in dense] == [0.0, 1.5, 3.0] * 6
    for one in dense:
        first = round(one["start_secs"] * FRAME_RATE)
        assert frame_numbers(one).tolist() == [first, first + 2, first + 4, first + 6]
        check_together(one, CLIP)


def test_a_recording_shorter_than_a_clip_has_one_dense_clip(tmp_path):
    jpeg = tf.io.encode_jpeg(np.zeros((8, 12, 3), np.uint8)).numpy()
    short = serialized_example(3, video_items=[jpeg] * 3, end_us=7_300_000)
    path = write_shard(tmp_path / "one", short)
    (batch,) = evaluation_batches([path], stride_secs=0.1)
    assert batch["example_index"].tolist() == [3, -1, -1, -1]
    assert batch["start_secs"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("stride_secs", [0.0, -1.0, float("nan"), float("inf")])
def test_a_stride_that_leads_nowhere_is_refused(shards, stride_secs):
    with pytest.raises(ValueError, match=f"^stride_secs={stride_secs} must be posi"):
        pipeline.evaluation_batches(
            ClipSource(shards, CLIP), batch_size=4, stride_secs=stride_secs
        )


def test_an_hour_into_a_recording_of_29_97_frames_per_second_frames_are_exact(tmp_path):
    # Only the frames that belong to the two clips can be decoded: 3500 s on, that is
    # frame 104895. The rate as float32 would make it 104894.9977.
    jpegs = [b""] * 107_892
    for first in (0, 104_895):
        for number in range(first, first + 4):
            pixels = np.full((8, 12, 3), number - first, np.uint8)
            jpegs[number] = tf.io.encode_jpeg(6 * pixels, quality=100).numpy()
    hour = serialized_example(
        0, video_items=jpegs, end_us=7_000_000 + 3_600_000_000, frame_rate=29.97
    )
    batches = evaluation_batches(
        [write_shard(tmp_path / "one", hour)],
        clip=CLIP._replace(fps=29.97),
        batch_size=2,
        stride_secs=3500.0,
        modalities=["video"],
    )
    (batch,) = batches
    levels = batch["video"][:, :, 0, 0, 0]
    assert np.round(levels / 6).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_training_on_one_modality_sees_the_clips_that_both_would(
    shards, uninterrupted, modality
):
    alone = training_batches(shards, 12, augmentation=EVERYTHING, modalities=[modality])
    assert set(alone[0]) == {*KEYS[modality], "example_index"}
    assert_same(alone, uninterrupted)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_evaluating_one_modality_sees_the_clips_that_both_would(shards, modality):
    alone = evaluation_batches(shards, num_clips=2, modalities=[modality])
    assert set(alone[0]) == {*KEYS[modality], "example_index", "start_secs"}
    assert_same(alone, evaluation_batches(shards, num_clips=2))


def test_records_without_sound_give_video(tmp_path):
    path = write_shard(tmp_path / "one", serialized_example(5, audio_rows=None))
    (evaluated,) = evaluation_batches([path], batch_size=1, modalities=["video"])
    assert frame_numbers(examples([evaluated])[0]).tolist() == [16, 18, 20, 22]
    (trained,) = training_batches([path], 1, batch_size=1, modalities=["video"])
    assert np.diff(frame_numbers(examples([trained])[0])).tolist() == [2, 2, 2]


def test_frames_outside_the_clip_are_never_decoded(shards, tmp_path):
    def first_clip(paths):
        (batch,) = training_batches(paths, 1, batch_size=1, modalities=["video"])
        return batch

    whole = first_clip([write_shard(tmp_path / "whole", serialized_example(3))])
    seen = frame_numbers(examples([whole])[0])
    parsed = records.parse_example(serialized_example(3), num_filters=2)
    jpegs = [b"not a JPEG"] * NUM_FRAMES
    for number in seen:
        jpegs[number] = parsed["video_items"][number].numpy()
    damaged = serialized_example(3, video_items=jpegs)
    assert_same([first_clip([write_shard(tmp_path / "damaged", damaged)])], [whole])


def test_large_windows_are_decoded_at_a_part_of_their_size(tmp_path):
    # A slope: its halves have the means of 2 x 2 pixels, up to JPEG's losses.
    y, x = np.mgrid[:128, :160]
    slope = np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)
    jpeg = tf.io.encode_jpeg(slope, quality=100, chroma_downsampling=False).numpy()
    path = write_shard(
        tmp_path / "one", serialized_example(0, video_items=[jpeg] * NUM_FRAMES)
    )
    (batch,) = evaluation_batches(
        [path], batch_size=1, clip=CLIP._replace(crop_size=32, crop_share=0.5)
    )
    # The centre's 64 x 64 pixels begin at row 32 and column 48.
    rows, columns = batch["video"][0, 0, :, 0, 0], batch["video"][0, 0, 0, :, 1]
    np.testing.assert_allclose(rows, 32.5 + 2 * np.arange(32), atol=2)
    np.testing.assert_allclose(columns, 48.5 + 2 * np.arange(32), atol=2)


def picture_of_thirds(folder, pixels):
    """Records of one example whose frames are all the picture."""
    jpeg = tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False).numpy()
    return write_shard(
        folder / "one", serialized_example(0, video_items=[jpeg] * NUM_FRAMES)
    )


@pytest.mark.parametrize("along", ["width", "height"])
def test_three_crops_see_both_ends_and_the_middle_of_the_longer_side(tmp_path, along):
    # Thirds of 16 pixels with levels 40, 120 and 200.
    row = np.repeat([40, 120, 200], 16).astype(np.uint8)
    pixels = np.broadcast_to(row[None, :, None], [16, 48, 3])
    if along == "height":
        pixels = pixels.transpose(1, 0, 2)
    batches = evaluation_batches(
        [picture_of_thirds(tmp_path, pixels)],
        clip=CLIP._replace(crop_share=1.0),
        num_clips=2,
        num_crops=3,
        batch_size=6,
        modalities=["video"],
    )
    (batch,) = batches
    assert batch["example_index"].tolist() == [0] * 6
    # 0.8 s of 4 s: clips at 0 and 3.2 s, the crops of each one after the other.
    np.testing.assert_allclose(batch["start_secs"], [0, 0, 0, 3.2, 3.2, 3.2])
    levels = batch["video"].reshape(6, -1)
    assert (levels.max(axis=1) - levels.min(axis=1) <= 2).all()
    np.testing.assert_allclose(
        levels.mean(axis=1), [40, 120, 200, 40, 120, 200], atol=2
    )


def test_the_middle_one_of_three_crops_is_the_only_one_of_one(shards):
    one = evaluation_batches(
        shards, num_clips=2, batch_size=30, num_crops=1, modalities=["video"]
    )
    three = evaluation_batches(
        shards, num_clips=2, batch_size=90, num_crops=3, modalities=["video"]
    )
    assert_same([{key: rows[1::3] for key, rows in three[0].items()}], one)


def test_crops_of_dense_clips_follow_each_other(shards):
    (batch, *_) = evaluation_batches(
        shards, stride_secs=1.5, num_crops=3, batch_size=9, modalities=["video"]
    )
    assert batch["example_index"].tolist() == [0] * 9
    assert batch["start_secs"].tolist() == [0, 0, 0, 1.5, 1.5, 1.5, 3, 3, 3]


@pytest.mark.parametrize("num_crops", [0, 2, 5])
def test_other_numbers_of_crops_are_refused(shards, num_crops):
    with pytest.raises(ValueError, match=f"^num_crops={num_crops} must be one of 1, 3"):
        evaluation_batches(shards, num_crops=num_crops, modalities=["video"])


@pytest.mark.parametrize("modalities", [["audio"], ["video", "audio"]])
def test_crops_of_sound_are_refused(shards, modalities):
    with pytest.raises(ValueError, match="num_crops=3 .* sound has no crops"):
        evaluation_batches(shards, num_crops=3, modalities=modalities)


def test_frames_are_not_decoded_for_audio_alone(tmp_path):
    undecodable = serialized_example(5, video_items=[b"not a JPEG"] * NUM_FRAMES)
    path = write_shard(tmp_path / "one", undecodable)
    (evaluated,) = evaluation_batches([path], batch_size=1, modalities=["audio"])
    # Sound of 0.6 s around the centre of 4 s.
    assert mel_times(examples([evaluated])[0])[0] == pytest.approx(1.71)
    (trained,) = training_batches([path], 1, batch_size=1, modalities=["audio"])
    assert trained["example_index"].tolist() == [5]


@pytest.mark.parametrize("modalities", [[], ["video", "smell"]])
def test_modalities_that_do_not_exist_are_refused(shards, modalities):
    with pytest.raises(ValueError, match="one or more of video, audio"):
        evaluation_batches(shards, modalities=modalities)
    with pytest.raises(ValueError, match="one or more of video, audio"):
        training_batches(shards, 1, modalities=modalities)


def test_shards_of_which_nothing_is_kept_are_not_read(tiny_records, tmp_path):
    for file in (tiny_records / "train").iterdir():
        (tmp_path / file.name).symlink_to(file)
    opened = record_directory.open_directory(str(tmp_path))
    first, second, _ = opened.promised.rows
    os.remove(f"{second}.index")  # after the directory was looked at
    source = ClipSource([first, second], CLIP._replace(num_mels=40), ("video",))
    source = source._replace(promised=opened.promised)
    keep = np.arange(24) < 8
    batches = pipeline.evaluation_batches(source, batch_size=8, keep=keep)
    assert [batch["example_index"].numpy().tolist() for batch in batches] == [
        list(range(8))
    ]
    with pytest.raises(tf.errors.OpError, match="index cannot be read"):
        list(pipeline.evaluation_batches(source, batch_size=8))
