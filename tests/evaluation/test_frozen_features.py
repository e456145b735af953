"""Features of splits: by hand, in the examples' order, once per video, on devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import synthetic
from xdc_tf.data import dataset_info, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.evaluation import encoder_sources, frozen_features
from xdc_tf.evaluation.frozen_features import ExtractionSettings
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split
from xdc_tf.features import extraction
from xdc_tf.runtime import workdir
from xdc_tf.training import configuration

MEAN = ExtractionSettings(["audio"], num_clips=1, average=True)


@pytest.fixture
def passes(monkeypatch):
    """The number of videos of each pass over records that follows."""
    made = []
    evaluation_batches = pipeline.evaluation_batches

    def counted(clip_source, *, keep, **options):
        made.append(int(keep.sum()))
        return evaluation_batches(clip_source, keep=keep, **options)

    monkeypatch.setattr(pipeline, "evaluation_batches", counted)
    return made


def _every_third(records: LabelledRecords, remainder: int) -> np.ndarray:
    return np.arange(len(records.labels)) % 3 == remainder


def _folds(records: LabelledRecords) -> list[Split]:
    return [
        Split(
            str(number),
            train=records.part(~_every_third(records, number)),
            test=records.part(_every_third(records, number)),
        )
        for number in range(3)
    ]


def _scratch(info, seed=0):
    config = synthetic.get_config()
    config.clip.num_frames = 4
    config.clip.crop_size = 16
    config.clip.audio_secs = 0.5
    config.video_encoder.width = config.audio_encoder.width = 0.0625
    config.training.batch_size = 8
    config.seed = seed
    return encoder_sources.scratch_source(config.to_dict(), info)


def test_clip_features_are_those_of_the_encoder_by_hand(source, split, tiny_run):
    features_of = frozen_features.make_features_of(
        source, ExtractionSettings(["audio"], num_clips=2, batch_size=8)
    )
    found = features_of(split.test)["audio"]
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), "audio"))
    batches = pipeline.evaluation_batches(
        ClipSource(
            dataset_info.shard_paths(split.test.directory, split.test.info),
            configuration.clip(source.run.config, source.run.info),
            ["audio"],
        ),
        batch_size=2,
        num_clips=2,
    )
    # Two clips per video and per batch, in the order of examples.csv.
    expected = np.array([encoder(batch["audio"]).numpy() for batch in batches])
    assert found.shape == expected.shape == (12, 2, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_average_is_the_mean_over_the_clips(source, split):
    of_clips = ExtractionSettings(["audio"], num_clips=3, batch_size=8)
    clips, means = (
        frozen_features.make_features_of(source, of_clips._replace(average=average))(
            split.test
        )["audio"]
        for average in (False, True)
    )
    assert means.shape == (12, 32)
    np.testing.assert_allclose(means, clips.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_rows_follow_the_order_of_the_examples(source, split):
    features_of = frozen_features.make_features_of(
        source, ExtractionSettings(["audio"], num_clips=1)
    )
    backwards = split.test.part(np.arange(12)[::-1])
    np.testing.assert_allclose(
        features_of(backwards)["audio"][::-1],
        features_of(split.test)["audio"],
        rtol=1e-5,
        atol=1e-6,
    )


def test_folds_of_a_directory_are_extracted_once(source, split, passes):
    folds = _folds(split.train)
    found = list(frozen_features.of_splits(source, folds, MEAN))
    assert passes == [24]
    (whole,) = frozen_features.of_splits(source, [split], MEAN)
    rows = whole.train["audio"]
    for number, fold in enumerate(found):
        chosen = _every_third(split.train, number)
        np.testing.assert_array_equal(fold.train["audio"], rows[~chosen])
        np.testing.assert_array_equal(fold.test["audio"], rows[chosen])


def test_videos_that_no_split_has_are_not_extracted(source, split, passes):
    fold = _folds(split.train)[0]._replace(test=split.test.part(np.arange(12) < 5))
    (found,) = frozen_features.of_splits(source, [fold], MEAN)
    assert passes == [16, 5]
    assert len(found.train["audio"]) == 16 and len(found.test["audio"]) == 5


def test_initial_encoders_are_extracted_in_the_same_pass(source, split, passes):
    (found,) = frozen_features.of_splits(
        source, [split], MEAN._replace(with_initial=True)
    )
    assert passes == [24, 12]
    initial = encoder_sources.open_source(source.run.directory, initial=True)
    (expected,) = frozen_features.of_splits(initial, [split], MEAN)
    np.testing.assert_allclose(
        found.test["initial_audio"], expected.test["audio"], rtol=1e-5, atol=1e-6
    )
    assert np.abs(found.test["audio"] - expected.test["audio"]).max() > 1e-3


def test_random_encoders_get_the_statistics_of_each_splits_training_videos(
    split, passes, monkeypatch
):
    seen = []
    refresh_batch_norm = extraction.refresh_batch_norm

    def watched(encoders, modalities, batches, *, strategy):
        batches = list(batches)
        seen.append([batch["example_index"].numpy() for batch in batches])
        refresh_batch_norm(encoders, modalities, batches, strategy=strategy)

    monkeypatch.setattr(extraction, "refresh_batch_norm", watched)
    folds = _folds(split.train)[:2]
    found = list(frozen_features.of_splits(_scratch(split.train.info), folds, MEAN))
    assert passes == [24, 24]
    for batches, fold in zip(seen, folds, strict=True):
        assert [len(batch) for batch in batches] == [8, 8]
        own = set(fold.train.examples.example_indices.tolist())
        assert set(np.concatenate(batches).tolist()) == own
    # With the statistics that it was built with, features would be nearly zero.
    assert found[0].test["audio"].std() > 1e-3


@pytest.mark.slow
def test_random_encoders_differ_by_seed_alone(split):
    one, again, other = (
        next(
            frozen_features.of_splits(_scratch(split.train.info, seed), [split], MEAN)
        ).test["audio"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(one, again, rtol=1e-4, atol=1e-5)
    assert np.abs(one - other).max() > 1e-2


def test_two_devices_give_the_features_of_one(source, split, two_devices):
    found = [
        frozen_features.make_features_of(
            source,
            ExtractionSettings(["video", "audio"], num_clips=2, batch_size=6),
            strategy=strategy,
        )(split.test)
        for strategy in (tf.distribute.get_strategy(), two_devices)
    ]
    for stream in ("video", "audio"):
        np.testing.assert_allclose(
            found[0][stream], found[1][stream], rtol=1e-4, atol=1e-5
        )


def test_a_batch_that_the_devices_cannot_share_is_an_error(source, two_devices):
    with pytest.raises(ValueError, match="batch_size=3 must be a multiple of the 2"):
        frozen_features.make_features_of(
            source,
            ExtractionSettings(["audio"], num_clips=1, batch_size=3),
            strategy=two_devices,
        )


@pytest.mark.parametrize("streams", [[], ["audio", "touch"]])
def test_streams_that_are_not_there_are_an_error(source, streams):
    with pytest.raises(ValueError, match="no streams are given|'touch'. are none of"):
        frozen_features.make_features_of(
            source, ExtractionSettings(streams, num_clips=1)
        )


def test_features_that_are_not_finite_are_an_error_that_names_the_video(
    source, split, monkeypatch
):
    make_extract_clips = extraction.make_extract_clips

    def overflowing(*arguments, **options):
        extract_clips = make_extract_clips(*arguments, **options)

        def extract(batches):
            for clips in extract_clips(batches):
                clips.streams["audio"][5:, 3] = np.inf
                yield clips

        return extract

    monkeypatch.setattr(extraction, "make_extract_clips", overflowing)
    features_of = frozen_features.make_features_of(
        source, ExtractionSettings(["audio"], num_clips=2)
    )
    # The sixth clip is one of the third video's two.
    video = split.test.examples.video_ids[2]
    with pytest.raises(FloatingPointError, match=f"audio .* first for {video}; use"):
        features_of(split.test)


def test_an_example_without_a_record_is_an_error(source, split):
    missing = split.test.examples._replace(
        example_indices=split.test.examples.example_indices + 12
    )
    info = split.test.info._replace(num_rows=24)
    records = split.test._replace(examples=missing, info=info)
    features_of = frozen_features.make_features_of(
        source, ExtractionSettings(["audio"], num_clips=1)
    )
    with pytest.raises(ValueError, match="12 of 12 examples were not in .*convert"):
        features_of(records)
