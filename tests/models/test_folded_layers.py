import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.models import audio_resnet, layers, video_resnet
from xdc_tf.models.layers import LayerSettings

BUILD = {"video": video_resnet.build, "audio": audio_resnet.build}
INPUT_SHAPE = {"video": (2, 4, 24, 24, 3), "audio": (2, 30, 40, 1)}
ARCHITECTURES = [
    (modality, architecture)
    for modality, table in (
        ("video", video_resnet.ARCHITECTURES),
        ("audio", audio_resnet.ARCHITECTURES),
    )
    for architecture in table
]
# Depth 10: one block per stage, four sums.
NORMS_AFTER_SUMS = {"r2plus1d_avid": 4}


def build(modality, architecture, **settings):
    return BUILD[modality](
        architecture, depth=10, width=1 / 8, settings=LayerSettings(**settings)
    )


def batch_norms(model):
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def randomize(encoder, seed):
    """Batch norms as training may leave them, and kernels and biases of their own."""
    rng = np.random.default_rng(seed)
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.gamma.assign(rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size))
            layer.beta.assign(rng.normal(size=size))
            layer.moving_mean.assign(rng.normal(size=size))
            layer.moving_variance.assign(rng.uniform(0.1, 3.0, size))
        else:
            weights = layer.get_weights()
            layer.set_weights([w + rng.normal(0, 0.05, w.shape) for w in weights])


def inputs_of(modality, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=INPUT_SHAPE[modality]).astype(np.float32)


@functools.cache
def randomized_and_folded(modality, architecture):
    """An encoder, and its folded one."""
    encoder = build(modality, architecture)
    randomize(encoder, seed=1)
    return encoder, layers.fold(encoder)


def assert_close(found, wanted, tolerance=1e-4):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(("modality", "architecture"), ARCHITECTURES)
def test_a_folded_encoder_computes_what_the_encoder_does_in_evaluation_mode(
    modality, architecture
):
    encoder, folded = randomized_and_folded(modality, architecture)
    inputs = inputs_of(modality)
    assert_close(folded(inputs), encoder(inputs, training=False))
    # It has no training mode.
    np.testing.assert_array_equal(folded(inputs, training=True), folded(inputs))


@pytest.mark.parametrize(("modality", "architecture"), ARCHITECTURES)
def test_only_batch_norms_after_sums_remain(modality, architecture):
    _, folded = randomized_and_folded(modality, architecture)
    assert len(batch_norms(folded)) == NORMS_AFTER_SUMS.get(architecture, 0)
    assert folded.trainable_variables == []


def test_a_kernel_is_scaled_and_the_bias_shifted_as_by_hand():
    image = keras.Input((1, 1, 1))
    conv = keras.layers.Conv2D(1, 1, name="conv")
    norm = keras.layers.BatchNormalization(epsilon=1.0, name="norm")
    encoder = keras.Model(image, norm(conv(image)))
    conv.set_weights([np.full((1, 1, 1, 1), 5.0), np.array([7.0])])
    gamma, beta, mean, variance = ([value] for value in (4.0, 10.0, 1.0, 3.0))
    norm.set_weights([np.array(x) for x in (gamma, beta, mean, variance)])
    kernel, bias = layers.fold(encoder).get_layer("conv").get_weights()
    # 4 / sqrt(3 + 1) = 2 times the kernel, and 10 + 2 * (7 - 1).
    assert kernel.ravel().tolist() == [10.0]
    assert bias.tolist() == [22.0]


def test_a_batch_norm_without_scale_and_center_is_folded_too():
    image = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 3, name="conv")(image)
    x = keras.layers.BatchNormalization(scale=False, center=False, name="norm")(x)
    encoder = keras.Model(image, x)
    encoder.get_layer("norm").set_weights([np.arange(1.0, 4.0), np.arange(2.0, 5.0)])
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    assert_close(layers.fold(encoder)(inputs), encoder(inputs, training=False))


def test_batch_norms_that_are_no_scale_of_a_convolution_stay():
    image = keras.Input((4, 4, 2))
    x = keras.layers.BatchNormalization()(image)
    x = keras.layers.Conv2D(2, 1, activation="relu")(x)
    x = shared = keras.layers.Conv2D(2, 1)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([keras.layers.BatchNormalization()(x), shared])
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    randomize(encoder, seed=2)
    folded = layers.fold(encoder)
    assert len(batch_norms(folded)) == 3
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    assert_close(folded(inputs), encoder(inputs, training=False))


@pytest.mark.parametrize(
    ("modality", "architecture"), [("video", "r2plus1d_avid"), ("audio", "resnet_vmz")]
)
def test_a_copy_follows_changed_weights_without_being_traced_again(
    modality, architecture
):
    encoder = build(modality, architecture)
    folded = layers.fold(encoder)
    num_traces = []

    @tf.function
    def compute(inputs):
        num_traces.append(1)
        return folded(inputs, training=False)

    inputs = tf.constant(inputs_of(modality))
    for seed in (1, 2):
        randomize(encoder, seed)
        layers.copy_folded(encoder, folded)
        assert_close(compute(inputs), encoder(inputs, training=False))
    assert len(num_traces) == 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    ("modality", "architecture"), [("video", "r2plus1d"), ("audio", "resnet")]
)
def test_a_folded_encoder_keeps_the_compute_type(modality, architecture, policy):
    exact, _ = randomized_and_folded(modality, architecture)
    encoder = build(modality, architecture, dtype=policy)
    encoder.set_weights(exact.get_weights())
    folded = layers.fold(encoder)
    compute_dtype = policy.removeprefix("mixed_")
    assert {
        layer.compute_dtype
        for layer in folded.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv3D)
    } == {compute_dtype}
    assert {tf.as_dtype(v.dtype) for v in folded.variables} == {tf.float32}
    inputs = inputs_of(modality)
    assert_close(folded(inputs), exact(inputs, training=False), tolerance=0.05)


def test_on_two_devices_both_compute_with_the_folded_weights(two_devices):
    with two_devices.scope():
        encoder = build("audio", "resnet", synchronized_batch_norm=True)
        folded = layers.fold(encoder)
    randomize(encoder, seed=3)
    layers.copy_folded(encoder, folded)
    inputs = tf.constant(inputs_of("audio"))

    @tf.function
    def compute():
        return two_devices.run(folded, args=(inputs,))

    wanted = encoder(inputs, training=False)
    for found in two_devices.experimental_local_results(compute()):
        assert_close(found, wanted)
