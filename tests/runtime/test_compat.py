"""Optimizers and remote paths: one behaviour on both TensorFlow generations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.runtime import compat

_STRATEGIES = {}  # by number of replicas


@pytest.fixture(autouse=True)
def _fill_strategies(two_devices):
    _STRATEGIES.setdefault(1, tf.distribute.MirroredStrategy(["CPU:0"]))
    _STRATEGIES.setdefault(2, two_devices)


def _strategy(num_replicas):
    return _STRATEGIES[num_replicas]


def _dense(name):
    return keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name)


def _model_and_optimizer(strategy, make_optimizer):
    """Two weights "first" and "second" of shape [2, 1], all ones."""
    with strategy.scope():
        inputs = keras.Input([2])
        outputs = _dense("first")(inputs) + _dense("second")(inputs)
        model = keras.Model(inputs, outputs)
        optimizer = make_optimizer()
        optimizer.build(model.trainable_variables)
    compat.set_learning_rate(optimizer, 0.1)
    return model, optimizer


def _step_fn(strategy, model, optimizer):
    """A step on the sum of outputs, whose gradients are the batch's column sums."""

    @tf.function
    def step(inputs):
        def replica_step(inputs):
            with tf.GradientTape() as tape:
                loss = compat.scale_loss(optimizer, tf.reduce_sum(model(inputs)))
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            compat.apply_gradients(
                optimizer, list(zip(gradients, variables, strict=True))
            )

        strategy.run(replica_step, args=(inputs,))

    return step


def _first_weight(model):
    return model.get_layer("first").get_weights()[0][:, 0]


ROW = tf.constant([[1.0, 2.0]])


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_two_sgd_steps_with_momentum_give_the_values_worked_out_by_hand(num_replicas):
    strategy = _strategy(num_replicas)
    model, optimizer = _model_and_optimizer(strategy, lambda: compat.sgd(0.5))
    step = _step_fn(strategy, model, optimizer)
    # Summed gradient g = n * [1, 2]; w = 1 - 0.1 g - (0.1 g + 0.5 * 0.1 g).
    step(ROW)
    step(ROW)
    gradient = num_replicas * np.array([1.0, 2.0])
    np.testing.assert_allclose(_first_weight(model), 1 - 0.25 * gradient, rtol=1e-6)


def _slot_optimizer():
    """w = w - rate * (g + the g of the step before), with a count beside it."""

    def update(weight, gradient, slots, rate, is_kernel):
        assert is_kernel == (weight.shape.rank > 1)
        change = gradient + slots["last"]
        new = {"last": gradient, "count": slots["count"] + 1.0}
        return weight - rate * change, new

    return compat.SlotOptimizer(
        update, slots=("last",), scalar_slots=("count",), name="own"
    )


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_two_steps_of_a_slot_optimizer_give_the_values_worked_out_by_hand(
    num_replicas,
):
    strategy = _strategy(num_replicas)
    model, optimizer = _model_and_optimizer(strategy, _slot_optimizer)
    step = _step_fn(strategy, model, optimizer)
    step(ROW)
    step(ROW)
    gradient = num_replicas * np.array([1.0, 2.0])
    np.testing.assert_allclose(_first_weight(model), 1 - 0.3 * gradient, rtol=1e-6)
    counts = [
        slot.numpy()
        for slot in compat.optimizer_variables(optimizer)
        if not slot.shape.rank
    ]
    assert counts == [2.0, 2.0]


@pytest.mark.parametrize(
    "make_optimizer, shapes",
    [
        (lambda: compat.sgd(0.5), [(2, 1)] * 2),
        (_slot_optimizer, [(), (), (2, 1), (2, 1)]),
    ],
)
def test_optimizer_variables_are_the_slots_alone(make_optimizer, shapes):
    _, optimizer = _model_and_optimizer(_strategy(1), make_optimizer)
    slots = compat.optimizer_variables(optimizer)
    assert sorted(tuple(slot.shape) for slot in slots) == shapes


def test_slots_reset_to_zero_give_a_fresh_optimizers_step():
    strategy = _strategy(2)
    model, optimizer = _model_and_optimizer(strategy, lambda: compat.sgd(0.5))
    step = _step_fn(strategy, model, optimizer)
    step(ROW)
    for slot in compat.optimizer_variables(optimizer):
        slot.assign(tf.zeros_like(slot))
    before = _first_weight(model)
    step(ROW)
    np.testing.assert_allclose(_first_weight(model) - before, [-0.2, -0.4], rtol=1e-5)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: compat.sgd(0.5),
        _slot_optimizer,
        lambda: compat.loss_scaled(compat.sgd(0.5)),
    ],
)
def test_the_learning_rate_is_set_by_a_tensor_inside_a_function(make_optimizer):
    strategy = _strategy(2)
    model, optimizer = _model_and_optimizer(strategy, make_optimizer)

    @tf.function
    def set_rate(value):
        compat.set_learning_rate(optimizer, value)

    set_rate(tf.constant(0.0))
    _step_fn(strategy, model, optimizer)(ROW)
    np.testing.assert_array_equal(_first_weight(model), [1.0, 1.0])


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_a_loss_scaled_step_is_the_unscaled_one(num_replicas):
    strategy = _strategy(num_replicas)
    model, optimizer = _model_and_optimizer(
        strategy, lambda: compat.loss_scaled(compat.sgd(0.5))
    )
    _step_fn(strategy, model, optimizer)(ROW)
    expected = 1 - 0.1 * num_replicas * np.array([1.0, 2.0])
    np.testing.assert_allclose(_first_weight(model), expected, rtol=1e-6)


def test_a_loss_scaled_step_that_is_not_finite_changes_nothing_and_halves_the_scale():
    strategy = _strategy(2)
    model, optimizer = _model_and_optimizer(
        strategy, lambda: compat.loss_scaled(compat.sgd(0.5))
    )
    scale_before = float(compat.scale_loss(optimizer, tf.constant(1.0)))
    _step_fn(strategy, model, optimizer)(tf.constant([[np.inf, 0.0]]))
    np.testing.assert_array_equal(_first_weight(model), [1.0, 1.0])
    scale = float(compat.scale_loss(optimizer, tf.constant(1.0)))
    assert scale == scale_before / 2


def test_the_slots_of_a_loss_scaled_optimizer_are_those_of_the_one_inside():
    _, optimizer = _model_and_optimizer(
        _strategy(1), lambda: compat.loss_scaled(compat.sgd(0.5))
    )
    assert len(compat.optimizer_variables(optimizer)) == 2


def test_local_and_google_storage_paths_need_nothing():
    for path in ("records", "/data/records", "file:///data", "gs://bucket/records"):
        compat.enable_remote_paths(path)


def test_an_unknown_file_system_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown file system 'ftp'.*s3://"):
        compat.enable_remote_paths("ftp://host/records")


@pytest.mark.skipif(not compat.KERAS_3, reason="tensorflow-io reads these paths")
def test_without_tensorflow_io_a_remote_path_says_how_to_get_it():
    with pytest.raises(ValueError, match="tensorflow-io.*Python 3.10 or 3.11.*mount"):
        compat.enable_remote_paths("s3://bucket/records")


def test_tf_variables_of_a_model_can_be_tracked_by_tensorflow():
    model, _ = _model_and_optimizer(_strategy(1), lambda: compat.sgd(0.5))
    module = tf.Module()
    module.variables_of_model = compat.tf_variables(model.trainable_variables)
    assert len(module.trainable_variables) == 2
