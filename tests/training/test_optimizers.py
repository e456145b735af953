import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.runtime import compat
from xdc_tf.training import optimizers
from xdc_tf.training.schedules import Schedule, learning_rate

KERNEL = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)  # of length 5
BIAS = np.array([1.0, -2.0], np.float32)
GRADIENTS = {
    "kernel": np.array([[0.6, 0.0], [0.0, -0.8]], np.float32),  # of length 1
    "bias": np.array([0.5, 0.25], np.float32),
}


def variables():
    return [tf.Variable(KERNEL), tf.Variable(BIAS)]


def make(name, weights, **changes):
    settings = {
        "momentum": 0.5,
        "weight_decay": 0.1,
        "trust_coefficient": 0.01,
        "scale_loss": False,
    }
    optimizer = optimizers.make(name, weights, **(settings | changes))
    compat.set_learning_rate(optimizer, 0.2)
    return optimizer


def step(optimizer, weights, scale=1.0):
    gradients = [tf.constant(scale * value) for value in GRADIENTS.values()]

    @tf.function
    def apply():
        compat.apply_gradients(optimizer, zip(gradients, weights, strict=True))

    apply()
    return [weight.numpy() for weight in weights]


def test_lars_scales_a_kernels_step_by_lengths_and_leaves_a_bias_as_sgd_has_it():
    weights = variables()
    kernel, bias = step(make("lars", weights), weights)
    # 0.01 * 5 / (1 + 0.1 * 5) = 1 / 30
    moved = 0.2 / 30 * (GRADIENTS["kernel"] + 0.1 * KERNEL)
    np.testing.assert_allclose(kernel, KERNEL - moved, rtol=1e-6)
    np.testing.assert_allclose(bias, BIAS - 0.2 * GRADIENTS["bias"], rtol=1e-6)


def test_the_second_step_of_lars_keeps_a_part_of_the_first():
    weights = variables()
    optimizer = make("lars", weights, weight_decay=0.0)
    first, _ = step(optimizer, weights)
    second, bias = step(optimizer, weights)
    # Lengths: of the gradient 1, of the weight before the second step as it was.
    velocity = 0.2 * 0.01 * 5 * GRADIENTS["kernel"]
    np.testing.assert_allclose(first, KERNEL - velocity, rtol=1e-6)
    velocity = 0.5 * velocity + 0.2 * 0.01 * np.linalg.norm(first) * GRADIENTS["kernel"]
    np.testing.assert_allclose(second, first - velocity, rtol=1e-6)
    np.testing.assert_allclose(bias, BIAS - 0.2 * 2.5 * GRADIENTS["bias"], rtol=1e-6)


def lamb_in_numpy(weight, gradients, *, decay, scaled):
    """The update of the paper in float64, with the rate 0.2."""
    weight = weight.astype(np.float64)
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for age, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * np.square(gradient)
        change = mean / (1 - 0.9**age) / (np.sqrt(square / (1 - 0.999**age)) + 1e-6)
        if scaled:
            change += decay * weight
            change *= np.linalg.norm(weight) / np.linalg.norm(change)
        weight = weight - 0.2 * change
    return weight


def test_three_steps_of_lamb_are_those_of_the_paper():
    weights = variables()
    optimizer = make("lamb", weights)
    scales = (1.0, -0.5, 2.0)
    for scale in scales:
        kernel, bias = step(optimizer, weights, scale)
    for found, start, name, scaled in (
        (kernel, KERNEL, "kernel", True),
        (bias, BIAS, "bias", False),
    ):
        gradients = [scale * GRADIENTS[name].astype(np.float64) for scale in scales]
        expected = lamb_in_numpy(start, gradients, decay=0.1, scaled=scaled)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_decay_of_lamb_lies_within_the_trust_ratio():
    weights = variables()
    kernel, _ = step(make("lamb", weights, weight_decay=1e6), weights)
    # All of the change is decay then, scaled to the weight's own length: w - 0.2 w.
    np.testing.assert_allclose(kernel, 0.8 * KERNEL, rtol=1e-4, atol=1e-4)


def test_steps_of_adamw_are_those_of_keras_and_leave_biases_undecayed():
    weights, others = variables(), variables()
    optimizer = make("adamw", weights)
    keras_optimizer = keras.optimizers.AdamW(
        0.2, weight_decay=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-8
    )
    keras_optimizer.exclude_from_weight_decay(var_list=[others[1]])
    for scale in (1.0, -0.5, 2.0):
        found = step(optimizer, weights, scale)
        gradients = [tf.constant(scale * value) for value in GRADIENTS.values()]
        keras_optimizer.apply_gradients(zip(gradients, others, strict=True))
        for array, variable in zip(found, others, strict=True):
            np.testing.assert_allclose(array, variable.numpy(), rtol=1e-4)


def test_a_bias_of_two_axes_is_neither_decayed_nor_scaled():
    attention = keras.layers.MultiHeadAttention(2, 3)
    rows = tf.random.stateless_normal([1, 4, 5], [0, 0])
    attention(rows, rows)
    weights = attention.trainable_variables
    before = [weight.numpy() for weight in weights]
    optimizer = make("adamw", weights)
    zeros = [tf.zeros(weight.shape) for weight in weights]
    compat.apply_gradients(optimizer, zip(zeros, weights, strict=True))
    assert [array.ndim for array in before] == [3, 2] * 3 + [3, 1]
    for weight, old in zip(weights, before, strict=True):
        decay = 1 - 0.2 * 0.1 if old.ndim == 3 else 1.0
        np.testing.assert_allclose(weight.numpy(), decay * old, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
def test_a_weights_rate_multiplies_the_learning_rate(name):
    weights, others = variables(), variables()
    moved = step(make(name, weights, rates=[0.5, 0.0]), weights)
    slower = make(name, others)
    compat.set_learning_rate(slower, 0.1)
    kernel, _ = step(slower, others)
    np.testing.assert_allclose(moved[0], kernel, rtol=1e-6)
    np.testing.assert_array_equal(moved[1], BIAS)


def test_sgd_with_rates_of_one_takes_the_steps_of_keras():
    weights, others = variables(), variables()
    own, of_keras = make("sgd", weights, rates=[1.0, 1.0]), make("sgd", others)
    for scale in (1.0, -0.5, 2.0):
        for found, expected in zip(
            step(own, weights, scale), step(of_keras, others, scale), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lars", "lamb"])
def test_a_weight_of_zero_moves_all_the_same(name):
    weights = [tf.Variable(np.zeros([2, 2], np.float32)), tf.Variable(BIAS)]
    kernel, _ = step(make(name, weights), weights)
    assert np.isfinite(kernel).all() and np.abs(kernel).sum() > 0


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
def test_cleared_slots_give_the_first_step_of_a_new_optimizer(name):
    weights = variables()
    optimizer = make(name, weights)
    first = step(optimizer, weights)
    step(optimizer, weights, 3.0)
    optimizers.clear_slots(optimizer)
    for weight, start in zip(weights, (KERNEL, BIAS), strict=True):
        weight.assign(start)
    for again, once in zip(step(optimizer, weights), first, strict=True):
        np.testing.assert_allclose(again, once, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lars", "lamb"])
def test_slots_are_restored_from_a_checkpoint(name, tmp_path):
    weights = variables()
    optimizer = make(name, weights)
    step(optimizer, weights)
    path = tf.train.Checkpoint(weights=weights, optimizer=optimizer).save(
        str(tmp_path / "ckpt")
    )
    expected = step(optimizer, weights)
    others = variables()
    other = make(name, others)
    status = tf.train.Checkpoint(weights=others, optimizer=other).restore(path)
    status.assert_existing_objects_matched()
    for found, wanted in zip(step(other, others), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["adamw", "lars", "lamb"])
def test_loss_scaling_leaves_the_step_as_it_is(name):
    plain, scaled = variables(), variables()
    expected = step(make(name, plain), plain)
    optimizer = make(name, scaled, scale_loss=True)
    factor = float(compat.scale_loss(optimizer, tf.constant(1.0)))
    for found, wanted in zip(step(optimizer, scaled, factor), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lars", "lamb"])
def test_two_replicas_with_summed_gradients_take_the_step_of_one(name, two_devices):
    weights = variables()
    expected = step(make(name, weights), weights)
    with two_devices.scope():
        mirrored = variables()
        optimizer = make(name, mirrored)

    @tf.function
    def apply():
        def replica_step():
            compat.apply_gradients(
                optimizer,
                zip(map(tf.constant, GRADIENTS.values()), mirrored, strict=True),
            )

        two_devices.run(replica_step)

    apply()
    for variable, wanted in zip(mirrored, expected, strict=True):
        for copy in two_devices.experimental_local_results(variable):
            np.testing.assert_allclose(copy.numpy(), wanted, rtol=1e-6)


def rates(schedule, num_steps):
    return [learning_rate(schedule, step, num_steps) for step in range(num_steps)]


def test_warm_up_grows_linearly_to_the_peak():
    schedule = Schedule("constant", peak=0.4, warmup_steps=4)
    assert rates(schedule, 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rates(Schedule("constant", 0.4, 0), 3) == [0.4] * 3
    assert rates(Schedule("cosine", 0.4, 0), 3)[0] == 0.4


def test_cosine_falls_from_the_peak_after_warm_up_towards_zero():
    # After two steps of warm-up: 1/2 (1 + cos) at 0, 1/4, 1/2 and 3/4 of pi.
    wanted = [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]
    assert rates(Schedule("cosine", 1.0, 2), 6) == pytest.approx(wanted, abs=1e-6)


def test_cosine_stays_at_zero_past_the_end():
    assert learning_rate(Schedule("cosine", 1.0, 2), 9, 6) == pytest.approx(0.0)


def test_steps_multiply_by_the_factor_at_each_share_of_the_round():
    schedule = Schedule("steps", 1.0, 0, decay_shares=(0.5, 0.75), decay_factor=0.1)
    wanted = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert rates(schedule, 8) == pytest.approx(wanted)


def test_steps_warm_up_too():
    schedule = Schedule("steps", 1.0, 2, decay_shares=(0.5,), decay_factor=0.1)
    assert rates(schedule, 4) == pytest.approx([0.5, 1.0, 0.1, 0.1])


def test_a_round_shorter_than_its_warm_up_stays_below_the_peak():
    assert rates(Schedule("cosine", 1.0, 4), 2) == pytest.approx([0.25, 0.5])
