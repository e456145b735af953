import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.models import audio_resnet, fast_layers, layers, video_resnet
from xdc_tf.models.fast_layers import MATMUL, PLANAR, SPATIAL
from xdc_tf.models.layers import LayerSettings

SPATIAL_KERNEL, TEMPORAL_KERNEL, POINT = (1, 3, 3), (3, 1, 1), (1, 1, 1)


def random(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def correlation(clips, kernel, strides):
    """By the definition, in float64."""
    clips, kernel = (np.asarray(one, np.float64) for one in (clips, kernel))
    pads = [(size // 2, size // 2) for size in kernel.shape[:3]]
    padded = np.pad(clips, [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, kernel.shape[:3], axis=(1, 2, 3)
    )
    t, h, w = strides
    return np.einsum("bxyzcthw,thwcd->bxyzd", windows[:, ::t, ::h, ::w], kernel)


@pytest.mark.parametrize("form", [PLANAR, SPATIAL, MATMUL])
@pytest.mark.parametrize(
    ("size", "strides"),
    [
        (SPATIAL_KERNEL, (1, 1, 1)),
        (SPATIAL_KERNEL, (1, 2, 2)),
        ((1, 7, 7), (1, 2, 2)),
        (TEMPORAL_KERNEL, (1, 1, 1)),
        (TEMPORAL_KERNEL, (2, 1, 1)),
        (POINT, (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("side", [6, 7])
def test_every_form_is_the_convolution_padded_by_half_a_kernel(
    form, size, strides, side
):
    clips, kernel = random(2, 5, side, side, 3), random(*size, 3, 4, seed=1)
    found = fast_layers.convolve(clips, kernel, strides, form)
    np.testing.assert_allclose(found, correlation(clips, kernel, strides), atol=1e-4)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        (SPATIAL_KERNEL, (1, 1, 1)),
        (SPATIAL_KERNEL, (1, 2, 2)),
        (TEMPORAL_KERNEL, (1, 1, 1)),
        (TEMPORAL_KERNEL, (2, 1, 1)),
        (POINT, (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("form", [PLANAR, MATMUL])
@pytest.mark.parametrize("side", [6, 7])
def test_gradients_are_those_of_the_3d_convolution(size, strides, form, side):
    clips, kernel = random(2, 5, side, side, 3), random(*size, 3, 4, seed=1)

    @tf.function(autograph=False)
    def gradients(form):
        with tf.GradientTape() as tape:
            tape.watch([clips, kernel])
            output = fast_layers.convolve(clips, kernel, strides, form)
            loss = tf.reduce_sum(output * random(*output.shape, seed=2))
        return tape.gradient(loss, [clips, kernel])

    for one, other in zip(gradients(form), gradients(SPATIAL), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_kernel_longer_than_the_clip_has_gradients_where_it_reaches():
    clips, kernel = random(3, 1, 4, 4, 2), random(*TEMPORAL_KERNEL, 2, 5, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        outputs = {
            form: fast_layers.convolve(clips, kernel, (1, 1, 1), form)
            for form in (MATMUL, SPATIAL)
        }
    found, expected = (tape.gradient(one, kernel) for one in outputs.values())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_whole_kernel_has_no_planar_form():
    with pytest.raises(ValueError, match="3 x 3 x 3 has no 2-d form"):
        fast_layers.convolve(
            random(1, 3, 3, 3, 1),
            random(3, 3, 3, 1, 1),
            (1, 1, 1),
            PLANAR,
        )


def encoders(build, architecture, dtype="float32"):
    """Keras's and the fast one, with equal weights."""
    pair = [
        build(
            architecture,
            depth=10,
            width=0.25,
            settings=LayerSettings(fast=fast, dtype=dtype, seed=3),
        )
        for fast in (False, True)
    ]
    pair[1].set_weights(pair[0].get_weights())
    return pair


CASES = [
    (video_resnet.build, "r2plus1d", (8, 4, 32, 32, 3)),
    (video_resnet.build, "mc3", (8, 4, 32, 32, 3)),
    (audio_resnet.build, "resnet", (8, 50, 40, 1)),
]


@pytest.mark.parametrize(("build", "architecture", "shape"), CASES)
def test_an_encoder_of_fast_layers_computes_and_learns_what_keras_s_does(
    build, architecture, shape
):
    clips, results = random(*shape), []
    for encoder in encoders(build, architecture):

        @tf.function(autograph=False)
        def step(encoder=encoder):
            with tf.GradientTape() as tape:
                features = encoder(clips, training=True)
                loss = tf.reduce_sum(tf.nn.softmax(features) * features)
            return features, tape.gradient(loss, encoder.trainable_variables)

        features, gradients = step()
        results.append((features, gradients, encoder(clips, training=False)))
    (wanted, wanted_gradients, wanted_after), (found, gradients, after) = results
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=2e-2)
    np.testing.assert_allclose(after, wanted_after, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_folded_encoder_of_fast_layers_computes_what_it_does(dtype):
    encoder = encoders(video_resnet.build, "r2plus1d", dtype)[1]
    clips = random(2, 4, 16, 16, 3)
    folded = layers.fold(encoder)
    assert len(folded.layers) < len(encoder.layers)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(
        folded(clips, training=False),
        encoder(clips, training=False),
        rtol=tolerance,
        atol=tolerance,
    )


def test_moving_statistics_take_mean_and_unbiased_variance_of_the_batch():
    layer = fast_layers.BatchNormalization(momentum=0.75)
    rows = random(2, 3, 4, 4, 2)
    layer(rows, training=True)
    flat = rows.numpy().reshape(-1, 2)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * flat.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        layer.moving_variance, 0.75 + 0.25 * flat.var(0, ddof=1), rtol=1e-4
    )


def test_a_frozen_layer_normalises_by_its_moving_statistics():
    layer = fast_layers.BatchNormalization(epsilon=0.0)
    rows = random(2, 3, 4, 4, 2)
    layer(rows, training=False)
    layer.trainable = False
    np.testing.assert_allclose(layer(rows, training=True), rows, rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [0, 0])


def test_float64_is_left_to_keras():
    layer = fast_layers.BatchNormalization(dtype="float64")
    rows = tf.cast(random(2, 3, 4, 4, 2), tf.float64)
    assert layer(rows, training=True).dtype == tf.float64


@pytest.mark.parametrize("layer", [fast_layers.Conv2D, fast_layers.Conv3D])
def test_a_convolution_adds_its_bias(layer):
    rank = {fast_layers.Conv2D: 2, fast_layers.Conv3D: 3}[layer]
    made = layer(2, 3, padding="same", kernel_initializer="zeros")
    rows = random(1, *[4] * rank, 3)
    made(rows)
    made.bias.assign([1.0, 2.0])
    assert np.unique(made(rows).numpy()).tolist() == [1.0, 2.0]
    assert isinstance(made, keras.layers.Layer)
