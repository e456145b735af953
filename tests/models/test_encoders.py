import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.models import audio_resnet, video_resnet
from xdc_tf.models.layers import LayerMaker, LayerSettings

WIDTH = 1 / 16
BUILD = {"video": video_resnet.build, "audio": audio_resnet.build}
INPUT_SHAPE = {"video": (2, 4, 20, 24, 3), "audio": (2, 30, 40, 1)}


@functools.cache
def build(modality, depth=10, name="encoder", **settings):
    """An encoder that tests share: they leave its weights as they are."""
    return BUILD[modality](
        depth=depth, width=WIDTH, settings=LayerSettings(**settings), name=name
    )


def inputs_of(modality, shape=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape or INPUT_SHAPE[modality]).astype(np.float32)


def convolutions(encoder):
    kinds = (keras.layers.Conv2D, keras.layers.Conv3D)
    return [layer for layer in encoder.layers if isinstance(layer, kinds)]


@pytest.mark.parametrize(
    ("modality", "depth", "count"),
    [
        # Stem, two per block and three shortcuts; video convolutions are pairs but for
        # the shortcuts.
        ("video", 4, 2 * (1 + 2 * 1)),
        ("video", 10, 2 * (1 + 2 * 4) + 3),
        ("video", 18, 2 * (1 + 2 * 8) + 3),
        ("video", 34, 2 * (1 + 2 * 16) + 3),
        ("audio", 4, 1 + 2 * 1),
        ("audio", 10, 1 + 2 * 4 + 3),
        ("audio", 18, 1 + 2 * 8 + 3),
    ],
)
def test_depth_counts_convolutions(modality, depth, count):
    assert len(convolutions(build(modality, depth))) == count


@pytest.mark.parametrize(
    ("modality", "shapes"),
    [
        ("video", [(1, 1, 8, 8, 3), (2, 3, 17, 30, 3), (1, 8, 32, 32, 3)]),
        ("audio", [(1, 5, 8, 1), (2, 50, 40, 1), (1, 101, 64, 1)]),
    ],
)
def test_clips_of_any_size_give_32_features_at_a_sixteenth_of_the_width(
    modality, shapes
):
    encoder = build(modality)
    for shape in shapes:
        features = encoder(inputs_of(modality, shape), training=False)
        assert features.shape == (shape[0], 32)
        assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("modality", "stage4"), [("video", (1, 1, 3, 3)), ("audio", (1, 4, 5))]
)
def test_stages_two_to_four_halve_and_the_stem_does_not_pool(modality, stage4):
    # 8 x 48 x 48 and 50 x 80: the stem halves space only, stages 2 to 4 all axes.
    size = {"video": (1, 8, 48, 48, 3), "audio": (1, 50, 80, 1)}[modality]
    encoder = build(modality)
    last = encoder.get_layer("stage4_block1_relu2").output
    maps = keras.Model(encoder.input, last)(inputs_of(modality, size))
    assert tuple(maps.shape) == (*stage4, 32)


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        (
            "video",
            [
                "stem_spatial",
                "stem_mid_norm",
                "stem_temporal",
                "stem_norm",
                "stage1_block1_conv1_spatial",
                "stage1_block1_conv1_mid_norm",
                "stage1_block1_conv1_temporal",
                "stage1_block1_norm1",
                "stage2_block1_shortcut",
                "stage2_block1_shortcut_norm",
                "stage4_block2_conv2_temporal",
                "stage4_block2_norm2",
                "features",
            ],
        ),
        (
            "audio",
            [
                "stem_conv",
                "stem_norm",
                "stage1_block1_conv1",
                "stage2_block1_shortcut",
                "stage4_block2_conv2",
                "stage4_block2_norm2",
                "features",
            ],
        ),
    ],
)
def test_layers_are_named_by_their_place(modality, names):
    encoder = build(modality, 18)
    for name in names:
        assert encoder.get_layer(name).name == name


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_features_and_weights_are_float32_under_every_policy(modality, policy):
    encoder = build(modality, dtype=policy)
    compute_dtype = policy.removeprefix("mixed_")
    assert all(layer.compute_dtype == compute_dtype for layer in convolutions(encoder))
    assert tf.as_dtype(encoder.output.dtype) == tf.float32
    assert {tf.as_dtype(v.dtype) for v in encoder.variables} == {tf.float32}


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_mixed_precision_computes_nearly_the_same_features(modality):
    inputs = inputs_of(modality)
    exact, mixed = (
        np.asarray(build(modality, dtype=policy)(inputs, training=False))
        for policy in ("float32", "mixed_bfloat16")
    )
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_initial_weights_follow_from_the_seed(modality):
    one, other = (build(modality, seed=seed) for seed in (3, 4))
    same = build(modality, seed=3, name="another")
    for layer, same_layer, other_layer in zip(
        *map(convolutions, (one, same, other)), strict=True
    ):
        kernel = layer.kernel.numpy()
        np.testing.assert_array_equal(kernel, same_layer.kernel.numpy())
        assert not np.array_equal(kernel, other_layer.kernel.numpy())


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_layers_of_one_shape_start_with_different_weights(modality):
    kernels = [layer.kernel.numpy() for layer in convolutions(build(modality, 18))]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


def test_kernels_have_the_deviation_of_he_et_al():
    layer = video_resnet.build().get_layer("stage4_block2_conv1_spatial")
    kernel = layer.kernel.numpy()
    # sqrt(2 / (3 * 3 * 512 inputs))
    assert kernel.std() == pytest.approx(np.sqrt(2 / 4608), rel=0.01)
    assert kernel.mean() == pytest.approx(0.0, abs=1e-4)


def test_strided_convolutions_are_padded_alike_on_both_sides():
    image = keras.Input((4, 4, 1))
    make = LayerMaker(LayerSettings(), batch_norm_epsilon=1e-3)
    sums = make.conv(image, 1, kernel_size=(3, 3), strides=(2, 2), name="conv")
    model = keras.Model(image, sums)
    model.get_layer("conv").set_weights([np.ones((3, 3, 1, 1))])
    # Ones under a 3 x 3 window: the first one hangs over two edges, the last over none.
    found = np.asarray(model(np.ones((1, 4, 4, 1), np.float32)))
    assert found[0, :, :, 0].tolist() == [[4, 6], [6, 9]]


def test_weight_decay_is_half_the_squared_norm_of_all_kernels():
    encoder = build("audio", weight_decay=0.1)
    squares = sum(
        np.sum(np.square(layer.kernel.numpy().astype(np.float64)))
        for layer in convolutions(encoder)
    )
    assert float(tf.add_n(encoder.losses)) == pytest.approx(0.05 * squares, rel=1e-5)


def test_batch_norm_takes_its_settings():
    encoder = build("video", batch_norm_momentum=0.7)
    norms = [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == len(convolutions(encoder))
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-3, 0.7)}


@pytest.mark.parametrize(
    ("modality", "arguments", "message"),
    [
        ("video", {"depth": 50}, r"video_encoder\.depth=50 .*4, 10, 18, 34"),
        ("video", {"width": 0.01}, r"video_encoder\.width=0\.01"),
        ("video", {"architecture": "c3d"}, r"video_encoder\.architecture='c3d' .*mc3"),
        ("audio", {"depth": 50}, r"audio_encoder\.depth=50 .*4, 10, 18, 34"),
        ("audio", {"architecture": "vgg"}, r"audio_encoder\.architecture='vgg' .*vmz"),
        ("audio", {"width": 0.01}, r"audio_encoder\.width=0\.01"),
    ],
)
def test_an_impossible_architecture_is_refused_by_its_key(modality, arguments, message):
    with pytest.raises(ValueError, match=message):
        BUILD[modality](**arguments)
