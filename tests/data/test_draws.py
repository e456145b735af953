"""Examples drawn so often per epoch as wanted, on records whose sound tells its time.

Row m of the log-mel of example i holds m and i.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import pipeline, records, shard_writing
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.pipeline import EpochPosition

pytestmark = pytest.mark.once

NUM_ROWS = 9  # of the manifest; row 5 was never converted
SHARDS = ([0, 1, 2, 3], [4, 6, 7, 8])
CLIP = ClipSettings(
    num_frames=4,
    fps=5.0,
    crop_size=4,
    crop_share=0.5,
    audio_secs=0.6,
    mel_hop_secs=0.02,
    num_mels=2,
    log_mel_mean=0.0,
    log_mel_std=1.0,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draws")
    paths = []
    for number, indices in enumerate(SHARDS):
        paths.append(str(folder / f"{number}.tfrecord"))
        with shard_writing.ShardWriter(paths[-1]) as writer:
            for index in indices:
                writer.write(serialized_example(index))
    return paths


def serialized_example(index):
    rows = np.arange(200, dtype=np.float32)
    return records.encode_example(
        records.Example(
            example_index=index,
            data_path=f"{index}.mp4",
            video_id=f"{index}.mp4",
            video_items=[b"not decoded"] * 40,
            audio_rows=np.stack([rows, np.full_like(rows, index)], axis=1),
            start_us=0,
            end_us=4_000_000,
            frame_rate=10.0,
            height=8,
            width=12,
        )
    )


def rows_of(*pairs):
    """[NUM_ROWS] draws from (index, draws) pairs."""
    draws = np.zeros(NUM_ROWS)
    for index, value in pairs:
        draws[index] = value
    return draws


def drawn(shards, count, draws, *, batch_size=1, keep=None, **changed):
    """(index, first row) of the clips of `count` batches."""
    batches = pipeline.training_batches(
        ClipSource(shards, CLIP, ["audio"]),
        augmentation=Augmentation(flip=False),
        batch_size=batch_size,
        keep=np.arange(NUM_ROWS) != 5 if keep is None else keep,
        draws=draws,
        **{"seed": 0, "shuffle_buffer": 3} | changed,
    )
    found = []
    for batch in itertools.islice(batches.as_numpy_iterator(), count):
        index, first = batch["example_index"], batch["audio"][:, 0, 0, 0]
        np.testing.assert_array_equal(batch["audio"][:, 0, 1, 0], index)
        found += zip(index.tolist(), first.tolist(), strict=True)
    return found


def counts(found):
    return np.bincount([index for index, _ in found], minlength=NUM_ROWS)


def test_whole_draws_are_those_of_every_epoch(shards):
    draws = rows_of((0, 3), (2, 1), (7, 2))
    found = drawn(shards, 18, draws)
    for epoch in range(3):
        of_epoch = counts(found[6 * epoch : 6 * epoch + 6])
        np.testing.assert_array_equal(of_epoch, draws)


def test_clusters_of_one_and_of_three_examples_are_drawn_equally_often(shards):
    # Of 4 draws per epoch 2 each: 2 of the one, 2/3 of each of the three.
    found = drawn(shards, 4 * 60, rows_of((1, 2), (3, 2 / 3), (4, 2 / 3), (8, 2 / 3)))
    of_epochs = np.array([counts(found[n : n + 4]) for n in range(0, 240, 4)])
    assert (of_epochs[:, 1] == 2).all()
    assert (of_epochs[:, [3, 4, 8]].sum(axis=1) == 2).all()
    assert of_epochs.max(axis=0)[[3, 4, 8]].tolist() == [1, 1, 1]
    # 40 of 60 each; the offset of an epoch decides, so deviations are about 3.7.
    assert np.abs(of_epochs[:, [3, 4, 8]].sum(axis=0) - 40).max() < 12


def test_every_epoch_has_exactly_as_many_draws_as_their_sum(shards):
    draws = np.random.default_rng(0).uniform(0, 2, NUM_ROWS)
    draws[5] = 0
    draws *= 11 / draws.sum()
    found = drawn(shards, 8, draws, batch_size=11)
    for n in range(0, 88, 11):
        # A missing or surplus draw would shift all later epochs against their batches.
        assert (np.abs(counts(found[n : n + 11]) - draws) < 1).all()


def test_draws_of_one_example_are_different_clips_and_the_first_is_the_usual_one(
    shards,
):
    usual = dict(drawn(shards, 8, None))
    found = drawn(shards, 8, rows_of((2, 5), (6, 3)))
    for index, draws in ((2, 5), (6, 3)):
        starts = [first for other, first in found if other == index]
        assert len(set(starts)) == draws
        assert usual[index] in starts


def test_one_draw_each_is_an_epoch_without_draws_but_for_the_order(shards):
    found = drawn(shards, 8, (np.arange(NUM_ROWS) != 5).astype(float))
    assert sorted(found) == sorted(drawn(shards, 8, None))


def test_the_order_mixes_and_differs_by_epoch(shards):
    found = drawn(shards, 16, rows_of((0, 4), (6, 4)))
    first, second = ([index for index, _ in part] for part in (found[:8], found[8:]))
    assert sorted(first) == sorted(second) == [0] * 4 + [6] * 4
    assert first != sorted(first)
    assert first != second


@pytest.mark.parametrize(("epoch", "skipped"), [(0, 1), (1, 0), (1, 2)])
def test_draws_resumed_at_a_batch_go_on_as_the_uninterrupted_ones(
    shards, epoch, skipped
):
    # Three batches of two per epoch; one of the seven draws is left over.
    draws = rows_of((0, 2.5), (3, 0.25), (4, 3.25), (8, 1))
    uninterrupted = drawn(shards, 9, draws, batch_size=2)
    first = 3 * epoch + skipped
    resumed = drawn(
        shards,
        9 - first,
        draws,
        batch_size=2,
        start=EpochPosition(epoch, skipped),
    )
    assert resumed == uninterrupted[2 * first :]


@pytest.mark.parametrize(
    "draws",
    [
        rows_of((0, 1.5), (1, 1)),
        rows_of((0, 3), (1, -1)),
        rows_of((0, np.nan)),
        rows_of((0, np.inf)),
        rows_of((5, 1)),  # not kept
        rows_of(),
        np.ones(NUM_ROWS - 1),
    ],
)
def test_draws_that_do_not_fit_are_refused(shards, draws):
    with pytest.raises(ValueError, match="draws of shape .* do not fit keep"):
        drawn(shards, 1, draws)


def test_systematic_sampling_by_hand():
    # Running sums 0, 0.5, 0.5, 2, 3.
    ends = tf.constant([0.0, 0.5, 0.5, 2.0, 3.0], tf.float64)

    def num_draws(offset):
        offset = tf.constant(offset, tf.float64)
        return [
            int(pipeline._num_draws(ends, tf.constant(index, tf.int64), offset))
            for index in range(4)
        ]

    assert num_draws(0.0) == [0, 0, 2, 1]
    assert num_draws(0.75) == [1, 0, 1, 1]
    # 2 and 3 plus the number before 1 are 3 and 4 in float64.
    assert num_draws(np.nextafter(1.0, 0.0)) == [1, 0, 2, 0]
