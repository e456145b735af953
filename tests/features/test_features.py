import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import dataset_info, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.features import extraction
from xdc_tf.models import audio_resnet
from xdc_tf.training import configuration

ONE_DEVICE = tf.distribute.OneDeviceStrategy("CPU:0")


def mean_encoder():
    """An encoder whose feature is the mean of its input."""
    inputs = keras.Input((None, None, 1))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


def distributed(strategy, batches):
    """Batches, each (indices, values), of 2 x 2 inputs filled with a value each."""
    indices = np.array([indices for indices, _ in batches], np.int64)
    values = np.array([values for _, values in batches], np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(
        {
            "audio": np.tile(values[..., None, None, None], (1, 1, 2, 2, 1)),
            "example_index": indices,
            "start_secs": np.where(indices < 0, 0.0, values.astype(np.float64) / 10),
        }
    )
    return distribute(strategy, dataset)


def distribute(strategy, dataset):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return strategy.experimental_distribute_dataset(dataset.with_options(options))


def extract_means(batches, *, num_rows, strategy=ONE_DEVICE):
    with strategy.scope():
        encoder = mean_encoder()
    extract = extraction.make_extract(
        {"audio": encoder}, {"audio": "audio"}, strategy=strategy
    )
    extracted = extract(distributed(strategy, batches), num_rows=num_rows)
    assert extracted.streams["audio"].shape == (num_rows, 1)
    assert extracted.streams["audio"].dtype == np.float32
    return extracted.streams["audio"][:, 0].tolist(), extracted.present.tolist()


def test_rows_are_filled_by_index_in_whatever_order_examples_come():
    batches = [([4, 0], [40.0, 1.0]), ([2, 3], [20.0, 30.0])]
    rows, present = extract_means(batches, num_rows=6)
    assert rows == [1.0, 0.0, 20.0, 30.0, 40.0, 0.0]
    assert present == [True, False, True, True, True, False]


def test_a_row_is_the_mean_over_the_examples_clips_in_one_batch_or_several():
    batches = [([0, 0, 1], [1.0, 2.0, 5.0]), ([1, 1, 2], [7.0, 9.0, 3.0])]
    rows, _ = extract_means(batches, num_rows=3)
    assert rows == [1.5, 7.0, 3.0]


def clips_of(index, values):
    index = np.array(index, np.int64)
    rows = np.array(values, np.float32)[:, None]
    return extraction.ClipFeatures(index, np.zeros(len(index)), {"audio": rows})


def test_averages_come_when_a_batch_ends_that_splits_no_example():
    batches = iter(
        [
            clips_of([4, 4, 0], [1.0, 3.0, 5.0]),
            clips_of([0, 2, 2], [7.0, 1.0, 1.0]),
            clips_of([], []),
            clips_of([3, 1, 1], [8.0, 2.0, 3.0]),
        ]
    )
    groups = list(extraction.average_clips(batches))
    assert [group.example_index.tolist() for group in groups] == [[4, 0, 2], [3, 1]]
    first, second = (group.streams["audio"] for group in groups)
    assert first.dtype == np.float32
    assert first[:, 0].tolist() == [2.0, 6.0, 1.0]
    assert second[:, 0].tolist() == [8.0, 2.5]


def test_padding_is_ignored():
    batches = [([1, -1], [5.0, 99.0]), ([-1, -1], [99.0, 99.0])]
    rows, present = extract_means(batches, num_rows=3)
    assert rows == [0.0, 5.0, 0.0]
    assert present == [False, True, False]


def test_two_devices_fill_the_same_rows(two_devices):
    batches = [([4, 0, 2, 2], [40.0, 1.0, 20.0, 22.0]), ([3, -1, -1, -1], [30.0] * 4)]
    rows, present = extract_means(batches, num_rows=5, strategy=two_devices)
    assert rows == [1.0, 0.0, 21.0, 30.0, 40.0]
    assert present == [True, False, True, True, True]


def clip_features(batches, strategy):
    with strategy.scope():
        encoder = mean_encoder()
    extract_clips = extraction.make_extract_clips(
        {"one": encoder, "other": encoder},
        {"one": "audio", "other": "audio"},
        strategy=strategy,
    )
    return list(extract_clips(distributed(strategy, batches)))


def test_clips_come_batch_by_batch_in_order_without_padding():
    batches = [([4, 0], [40.0, 1.0]), ([4, -1], [44.0, 99.0])]
    first, second = clip_features(batches, ONE_DEVICE)
    assert first.example_index.tolist() == [4, 0]
    assert first.start_secs.tolist() == [4.0, 0.1]
    assert first.streams["one"].tolist() == [[40.0], [1.0]]
    assert second.example_index.tolist() == [4]
    assert second.start_secs.tolist() == [4.4]
    assert second.streams["other"].tolist() == [[44.0]]


def test_clips_of_two_devices_come_in_the_order_of_the_batch(two_devices):
    batches = [([4, 0, 2, -1], [40.0, 1.0, 20.0, 99.0])]
    (clips,) = clip_features(batches, two_devices)
    assert clips.example_index.tolist() == [4, 0, 2]
    assert clips.start_secs.tolist() == [4.0, 0.1, 2.0]
    assert clips.streams["one"].tolist() == [[40.0], [1.0], [20.0]]


def test_clip_features_have_the_types_that_they_state():
    (clips,) = clip_features([([4, -1], [40.0, 1.0])], ONE_DEVICE)
    assert clips.example_index.dtype == np.int64
    assert clips.start_secs.dtype == np.float64
    assert clips.streams["one"].dtype == np.float32


def test_dense_features_of_real_records_are_those_of_their_clips(
    tiny_records, tiny_config
):
    folder = str(tiny_records / "test")
    info = dataset_info.read_dataset_info(folder)
    batches = pipeline.evaluation_batches(
        ClipSource(
            dataset_info.shard_paths(folder, info),
            configuration.clip(configuration.from_mapping(tiny_config), info),
            ["audio"],
        ),
        batch_size=10,
        stride_secs=0.25,
    )
    encoders, modalities = {"audio": mean_encoder()}, {"audio": "audio"}
    extract_clips = extraction.make_extract_clips(
        encoders, modalities, strategy=ONE_DEVICE
    )
    extracted = list(extract_clips(batches))
    # Half a second of 1.5 s every quarter: 5 clips of each of 12 videos.
    index = np.concatenate([clips.example_index for clips in extracted])
    starts = np.concatenate([clips.start_secs for clips in extracted])
    rows = np.concatenate([clips.streams["audio"] for clips in extracted])
    assert index.tolist() == np.repeat(np.arange(12), 5).tolist()
    assert starts.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0] * 12
    by_hand = np.concatenate([batch["audio"].numpy() for batch in batches])[:60]
    np.testing.assert_allclose(rows[:, 0], by_hand.mean(axis=(1, 2, 3)), atol=1e-5)


def video_batches():
    """One batch of two clips of 2 x 2 x 2 pixels, of levels 51 and 102 of 255."""
    normalization = tf.constant([[1 / 25.5] * 3, [-1.0] * 3])
    levels = np.array([51, 102], np.uint8).reshape(2, 1, 1, 1, 1)
    return tf.data.Dataset.from_tensors(
        {
            "video": np.broadcast_to(levels, (2, 2, 2, 2, 3)),
            "video_normalization": tf.stack([normalization, normalization]),
            "example_index": np.array([0, 1], np.int64),
            "start_secs": np.zeros(2),
        }
    )


def test_encoders_see_frames_normalised():
    inputs = keras.Input((None, None, None, 3))
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling3D()(inputs))
    extract = extraction.make_extract(
        {"video": encoder}, {"video": "video"}, strategy=ONE_DEVICE
    )
    rows = extract(video_batches(), num_rows=2).streams["video"]
    np.testing.assert_allclose(rows, [[1, 1, 1], [3, 3, 3]], rtol=1e-6)


def test_batch_norm_is_refreshed_by_frames_that_are_normalised():
    encoder = keras.Sequential(
        [keras.Input((2, 2, 2, 3)), keras.layers.BatchNormalization(momentum=0.9)]
    )
    extraction.refresh_batch_norm(
        {"video": encoder}, {"video": "video"}, video_batches(), strategy=ONE_DEVICE
    )
    mean = encoder.layers[-1].moving_mean.numpy()
    np.testing.assert_allclose(mean, [2, 2, 2], rtol=1e-5)


def test_another_pass_starts_from_zero():
    extract = extraction.make_extract(
        {"audio": mean_encoder()}, {"audio": "audio"}, strategy=ONE_DEVICE
    )
    batches = distributed(ONE_DEVICE, [([0, 1], [1.0, 2.0])])
    for _ in range(2):
        rows = extract(batches, num_rows=2).streams["audio"][:, 0]
        assert rows.tolist() == [1.0, 2.0]


@pytest.fixture
def real_batches(tiny_records, tiny_config):
    """Two clips of each of 24 videos in batches of 10."""
    folder = str(tiny_records / "train")
    info = dataset_info.read_dataset_info(folder)
    return pipeline.evaluation_batches(
        ClipSource(
            dataset_info.shard_paths(folder, info),
            configuration.clip(configuration.from_mapping(tiny_config), info),
        ),
        batch_size=10,
        num_clips=2,
    )


def test_real_records_give_the_same_features_on_one_and_two_devices(
    real_batches, two_devices
):
    def extract_from(strategy):
        with strategy.scope():
            encoder = audio_resnet.build(depth=10, width=1 / 16)
        encoders, modalities = {"stream": encoder}, {"stream": "audio"}
        extract = extraction.make_extract(encoders, modalities, strategy=strategy)
        extracted = extract(distribute(strategy, real_batches), num_rows=26)
        return encoder, extracted

    encoder, of_one = extract_from(ONE_DEVICE)
    _, of_two = extract_from(two_devices)
    assert of_one.present.tolist() == [True] * 24 + [False] * 2
    np.testing.assert_array_equal(of_one.present, of_two.present)
    np.testing.assert_allclose(
        of_one.streams["stream"], of_two.streams["stream"], rtol=1e-4, atol=1e-5
    )
    # The first five videos' clips follow each other in the first batch.
    first = next(iter(real_batches))
    by_hand = encoder(first["audio"], training=False).numpy().reshape(5, 2, -1).mean(1)
    np.testing.assert_allclose(
        of_one.streams["stream"][:5], by_hand, rtol=1e-4, atol=1e-5
    )


def noise(seed=0):
    """Four batches of four noisy inputs of mean 2 and deviation 3."""
    audio = np.random.default_rng(seed).normal(2, 3, (4, 4, 12, 8, 1))
    return tf.data.Dataset.from_tensor_slices(
        {"audio": audio.astype(np.float32), "example_index": np.zeros((4, 4), int)}
    )


def test_refreshing_batch_norm_moves_statistics_and_no_weights():
    encoder = audio_resnet.build(depth=10, width=1 / 16)
    weights = [v.numpy().copy() for v in encoder.trainable_variables]
    statistics = [v.numpy().copy() for v in encoder.non_trainable_variables]
    extraction.refresh_batch_norm(
        {"audio": encoder}, {"audio": "audio"}, noise(), strategy=ONE_DEVICE
    )
    for old, variable in zip(weights, encoder.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    for old, variable in zip(statistics, encoder.non_trainable_variables, strict=True):
        assert not np.array_equal(variable.numpy(), old)


def test_refreshed_statistics_are_running_means_over_the_batches_alone():
    encoder = keras.Sequential(
        [keras.Input((12, 8, 1)), keras.layers.BatchNormalization(momentum=0.9)]
    )
    extraction.refresh_batch_norm(
        {"audio": encoder}, {"audio": "audio"}, noise(), strategy=ONE_DEVICE
    )
    means = [batch["audio"].mean() for batch in noise().as_numpy_iterator()]
    ages = np.arange(len(means))[::-1]
    mean = np.average(means, weights=0.9**ages)
    found = float(encoder.layers[-1].moving_mean.numpy()[0])
    assert found == pytest.approx(mean, rel=1e-5)


def test_after_refreshing_an_examples_features_do_not_depend_on_its_device(two_devices):
    with two_devices.scope():
        inputs = keras.Input((12, 8, 1))
        x = keras.layers.BatchNormalization()(inputs)
        encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    encoders, modalities = {"audio": encoder}, {"audio": "audio"}
    # Twice as loud on the second device.
    louder = noise().map(
        lambda batch: (
            batch
            | {"audio": batch["audio"] * tf.reshape([1.0, 1.0, 2.0, 2.0], [4, 1, 1, 1])}
        )
    )
    extraction.refresh_batch_norm(
        encoders, modalities, distribute(two_devices, louder), strategy=two_devices
    )
    extract = extraction.make_extract(encoders, modalities, strategy=two_devices)
    # The same input under index 0 on the first and under 1 on the second device.
    audio = np.random.default_rng(1).normal(size=(1, 1, 12, 8, 1)).astype(np.float32)
    twice = tf.data.Dataset.from_tensor_slices(
        {
            "audio": np.repeat(audio, 2, axis=1),
            "example_index": np.array([[0, 1]]),
            "start_secs": np.zeros((1, 2)),
        }
    )
    rows = extract(distribute(two_devices, twice), num_rows=2).streams["audio"]
    assert rows.any()
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5)
