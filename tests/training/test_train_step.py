from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from prepared_runs import ONE_DEVICE, make_run, make_step

from xdc_tf.data import clips, pipeline
from xdc_tf.features import extraction
from xdc_tf.runtime import compat
from xdc_tf.training import losses, monitoring, train_step
from xdc_tf.training.batches import evaluation_batches, training_batches


def weights(run):
    return [variable.numpy() for variable in run.state.model.trainable_variables]


def test_two_devices_have_the_losses_of_one_for_five_steps(
    tiny_config, tiny_records, tmp_path, two_devices
):
    # Batch norm sees the whole batch on both; alone, each device would see its half. It
    # enlarges what rounding makes different, the more the fewer values it is over.
    tiny_config["synchronized_batch_norm"] = True
    tiny_config["training"]["batch_size"] = 16
    tiny_config["clip"] |= {"crop_size": 32, "audio_secs": 1.0}
    losses = []
    for name, strategy in {"one": ONE_DEVICE, "two": two_devices}.items():
        run = make_run(tiny_config, tiny_records, tmp_path / name, strategy)
        compat.set_learning_rate(run.state.optimizer, 0.005)
        step, batches = make_step(run), training_batches(run)
        means = [monitoring.head_means([step(next(batches)).sums]) for _ in range(5)]
        losses.append([[one["loss"] for one in heads.values()] for heads in means])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_step_that_xla_compiles_is_the_step_of_one_that_it_does_not(
    tiny_config, tiny_records, tmp_path
):
    tiny_config["method"] = "same_audio"  # its networks are compiled soonest
    tiny_config["training"]["batch_size"] = 16
    after = {}
    for part in ("nothing", "jit_compile", "compiled_update"):
        run = make_run(tiny_config, tiny_records, tmp_path / part)
        compat.set_learning_rate(run.state.optimizer, 0.05)
        compiled = {part: True} if part != "nothing" else {}
        result = make_step(run, **compiled)(next(training_batches(run)))
        assert bool(result.finite)
        losses = [float(sums["loss"]) for sums in result.sums.values()]
        after[part] = (losses, weights(run))
    for losses, compiled in (after["jit_compile"], after["compiled_update"]):
        np.testing.assert_allclose(losses, after["nothing"][0], rtol=1e-4)
        for weight, usual in zip(compiled, after["nothing"][1], strict=True):
            np.testing.assert_allclose(weight, usual, rtol=1e-3, atol=1e-4)


def without_batch_norm(run):
    """The run with batch norm by its moving statistics, whatever the batch."""
    for encoder in run.state.model.encoders.values():
        for layer in encoder.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    return run


@pytest.fixture(scope="module")
def step_of_the_whole_batch(new_tiny_config, tiny_records, tmp_path_factory):
    """Configuration, run and result of a step without batch norm."""
    config = new_tiny_config() | {"method": "same_audio"}
    config["optimizer"]["weight_decay"] = 0.1
    workdir = tmp_path_factory.mktemp("whole")
    run = without_batch_norm(make_run(config, tiny_records, workdir))
    return (
        config,
        run,
        make_step(run, returns_features=True)(next(training_batches(run))),
    )


@pytest.mark.parametrize("num_devices", [1, 2])
def test_gradients_of_parts_make_the_step_of_the_whole_batch(
    num_devices, step_of_the_whole_batch, tiny_records, tmp_path, two_devices
):
    config, whole, expected = step_of_the_whole_batch
    training = config["training"] | {"accumulate_steps": 2}
    run = without_batch_norm(
        make_run(
            config | {"training": training},
            tiny_records,
            tmp_path,
            ONE_DEVICE if num_devices == 1 else two_devices,
        )
    )
    result = make_step(run, returns_features=True)(next(training_batches(run)))
    means = monitoring.head_means([result.sums])
    for head, values in monitoring.head_means([expected.sums]).items():
        assert means[head] == pytest.approx(values, rel=1e-5)
    for of_parts, of_whole in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_allclose(of_parts, of_whole, rtol=1e-4, atol=1e-6)
    found = extraction.examples_on_host(run.strategy, result.encoded)
    wanted = extraction.examples_on_host(ONE_DEVICE, expected.encoded)
    np.testing.assert_array_equal(found.example_index, wanted.example_index)
    for stream, rows in wanted.streams.items():
        np.testing.assert_allclose(found.streams[stream], rows, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_parts_on_two_devices_share_their_batch_norm_statistics(
    tiny_config, tiny_records, tmp_path, two_devices
):
    tiny_config |= {"method": "same_audio", "synchronized_batch_norm": True}
    tiny_config["training"]["accumulate_steps"] = 2
    one = make_run(tiny_config, tiny_records, tmp_path / "one")
    batch = next(training_batches(one))
    # The first part of two devices has their first examples, 0 and 2 of the batch.
    order = [0, 2, 1, 3]
    expected = make_step(one)(
        {name: tf.gather(rows, order) for name, rows in batch.items()}
    )
    two = make_run(tiny_config, tiny_records, tmp_path / "two", two_devices)
    found = monitoring.head_means([make_step(two)(next(training_batches(two))).sums])
    for head, means in monitoring.head_means([expected.sums]).items():
        assert found[head]["loss"] == pytest.approx(means["loss"], rel=1e-5)
    # Batch norm over as few values as two enlarges what rounding makes different.
    for of_one, of_two in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(of_two, of_one, atol=1e-3)


def test_a_batch_that_parts_do_not_divide_is_an_error(
    tiny_config, tiny_records, tmp_path
):
    tiny_config["training"]["accumulate_steps"] = 3
    with pytest.raises(ValueError, match="batch_size=4 .* training.accumulate_steps=3"):
        make_run(tiny_config, tiny_records, tmp_path)


@pytest.mark.slow
def test_repeated_steps_on_one_batch_learn_its_labels_from_the_loss_log_k(
    tiny_config, tiny_records, tmp_path
):
    run = make_run(tiny_config, tiny_records, tmp_path)
    step, batch = make_step(run), next(training_batches(run))
    means = monitoring.head_means([step(batch).sums])
    for head in ("video_from_audio", "audio_from_video"):
        # Heads start at N(0, 0.01), so that all four clusters are nearly as likely.
        assert means[head]["loss"] == pytest.approx(np.log(4), abs=0.05)
    for _ in range(14):
        means = monitoring.head_means([step(batch).sums])
    assert all(values["loss"] < 0.5 for values in means.values())
    assert all(values["accuracy"] == 1.0 for values in means.values())


def test_examples_without_a_label_and_padding_add_nothing(
    tiny_config, tiny_records, tmp_path
):
    run = make_run(tiny_config, tiny_records, tmp_path)
    for table in run.state.label_tables.values():
        table.assign(np.where(np.arange(24) == 3, 1, -1))
    batch = next(training_batches(run))
    batch = {**batch, "example_index": tf.constant([3, 5, pipeline.PADDING_INDEX, 3])}
    encoded = losses.encode(run.state.model, run.method, batch, training=False)
    labels = losses.labels_of(run.state.label_tables, batch["example_index"])
    sums = losses.head_losses(run.state.model, run.method, labels, encoded)
    for head in sums.values():
        assert float(head["labelled"]) == 2
        assert float(head["loss"]) == pytest.approx(2 * np.log(4), rel=0.1)


class DecayedStep(NamedTuple):
    before: np.ndarray
    after: np.ndarray
    result: train_step.StepResult


@pytest.fixture(scope="module")
def decayed_step(new_tiny_config, tiny_records, tmp_path_factory):
    """A head's kernel before and after a step without labels, and its result."""
    config = new_tiny_config() | {"method": "same_audio"}
    config["optimizer"]["weight_decay"] = 0.5
    run = make_run(config, tiny_records, tmp_path_factory.mktemp("decayed"))
    for table in run.state.label_tables.values():
        table.assign(np.full(24, -1))
    kernel = run.state.model.heads["audio_from_audio2"].kernel
    before = kernel.numpy()
    result = make_step(run)(next(training_batches(run)))
    return DecayedStep(before, kernel.numpy(), result)


def test_weight_decay_adds_the_squared_kernels_to_the_gradient(decayed_step):
    # Without labels the penalty w/2 * k^2 is the whole loss: k <- k - 0.1 * 0.5 * k.
    np.testing.assert_allclose(
        decayed_step.after, 0.95 * decayed_step.before, rtol=1e-5
    )


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_with_float32_weights(
    precision, tiny_config, tiny_records, tmp_path
):
    # Not of video: on a CPU, TensorFlow's bfloat16 filter gradients of narrow 3-d
    # convolutions hold NaN at times.
    tiny_config |= {"method": "same_audio", "precision": precision}
    run = make_run(tiny_config, tiny_records, tmp_path)
    step, batch = make_step(run), next(training_batches(run))
    first = monitoring.head_means([step(batch).sums])
    compat.set_learning_rate(run.state.optimizer, 0.02)
    for _ in range(8):
        last = monitoring.head_means([step(batch).sums])
    assert {variable.dtype for variable in weights(run)} == {np.dtype("float32")}
    for head in ("audio_from_audio2", "audio2_from_audio"):
        assert last[head]["loss"] < first[head]["loss"]


class HarvestedStep(NamedTuple):
    batch: dict[str, tf.Tensor]
    expected: dict[str, np.ndarray]  # the features of its clips
    result: train_step.StepResult


@pytest.fixture(scope="module")
def harvested_step(new_tiny_config, tiny_records, tmp_path_factory):
    """A step of two streams of video."""
    config = new_tiny_config() | {"method": "same_video"}
    run = make_run(config, tiny_records, tmp_path_factory.mktemp("harvested"))
    batch = next(training_batches(run))
    frames = clips.encoder_input(batch, "video")
    expected = {
        stream: encoder(frames, training=True).numpy()
        for stream, encoder in run.state.model.encoders.items()
    }
    return HarvestedStep(batch, expected, make_step(run, returns_features=True)(batch))


def test_a_step_returns_the_features_that_it_trained_on_by_example(harvested_step):
    batch, expected, result = harvested_step
    found = extraction.examples_on_host(ONE_DEVICE, result.encoded)
    assert found.example_index.tolist() == batch["example_index"].numpy().tolist()
    assert set(found.streams) == set(expected) == {"video", "video2"}
    for stream, rows in expected.items():
        assert found.streams[stream].dtype == np.float32
        np.testing.assert_allclose(found.streams[stream], rows, rtol=1e-4, atol=1e-5)


def test_two_streams_of_video_are_trained_without_sound(harvested_step):
    assert bool(harvested_step.result.finite)
    assert set(harvested_step.result.sums) == {"video_from_video2", "video2_from_video"}
    assert "audio" not in harvested_step.batch


def test_two_devices_return_the_features_of_all_examples_in_order(
    tiny_config, tiny_records, tmp_path, two_devices
):
    run = make_run(
        tiny_config | {"method": "same_audio"}, tiny_records, tmp_path, two_devices
    )
    step = train_step.make_evaluation_step(
        run.state.model,
        run.method,
        run.state.label_tables,
        strategy=two_devices,
        returns_features=True,
    )
    batch = next(iter(evaluation_batches(run)))
    found = extraction.examples_on_host(two_devices, step(batch).encoded)
    assert found.example_index.tolist() == list(range(8))
    audio = tf.concat(two_devices.experimental_local_results(batch["audio"]), axis=0)
    for stream, encoder in run.state.model.encoders.items():
        np.testing.assert_allclose(
            found.streams[stream],
            encoder(audio, training=False).numpy(),
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_step_returns_no_features_unasked(decayed_step):
    assert decayed_step.result.encoded is None


@pytest.mark.parametrize(("name", "rate"), [("lars", 10.0), ("lamb", 0.1)])
def test_optimizers_of_large_batches_learn(
    name, rate, tiny_config, tiny_records, tmp_path
):
    tiny_config["method"] = "same_audio"
    tiny_config["optimizer"]["name"] = name
    run = make_run(tiny_config, tiny_records, tmp_path)
    compat.set_learning_rate(run.state.optimizer, rate)
    step, batch = make_step(run), next(training_batches(run))
    first = monitoring.head_means([step(batch).sums])
    for _ in range(5):
        last = monitoring.head_means([step(batch).sums])
    for head in first:
        assert last[head]["loss"] < first[head]["loss"]


def test_encoders_see_frames_normalised(tiny_config, tiny_records, tmp_path):
    run = make_run(tiny_config, tiny_records, tmp_path)
    batch = next(training_batches(run))
    assert batch["video"].dtype == tf.uint8
    found = losses.encode(run.state.model, run.method, batch, training=False)
    frames = batch["video"].numpy() / 255.0
    normalised = (frames - clips.VIDEO_MEAN) / clips.VIDEO_STD
    expected = run.state.model.encoders["video"](normalised.astype(np.float32))
    np.testing.assert_allclose(found.streams["video"], expected, rtol=1e-4, atol=1e-5)
