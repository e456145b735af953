import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from clip_settings import clip_of
from scipy import special

from xdc_tf.export import model_files
from xdc_tf.models import (
    encoder_files,
    encoder_table,
    layers,
    token_layers,
    token_positions,
    transformer,
)
from xdc_tf.models.layers import LayerSettings
from xdc_tf.models.transformer import SpectrogramSettings, TubeletSettings
from xdc_tf.runtime import compat

VIDEO = TubeletSettings("vit", "Ti", 2, 2, 8, "joint", "mean", 0, 0, 0.0)
AUDIO = SpectrogramSettings("ast", "Ti", 2, 16, 10, "class", 2, 0, 0.0)
SHAPES = {"vit": (4, 16, 24, 3), "ast": (50, 40, 1)}
FORMS = {
    "joint": VIDEO,
    "joint with class token and registers": VIDEO._replace(
        pool="class", class_tokens=1, register_tokens=3
    ),
    "divided": VIDEO._replace(attention="divided"),
    "divided with class token and registers": VIDEO._replace(
        attention="divided", pool="class", class_tokens=1, register_tokens=2
    ),
    "mean then norm": VIDEO._replace(pool="mean_then_norm", register_tokens=1),
    "audio": AUDIO,
}


def build(settings, shape=None, **layer_settings):
    """An encoder in which every weight matters."""
    encoder = transformer.build(
        settings,
        LayerSettings(**layer_settings),
        "encoder",
        shape or SHAPES[settings.architecture],
    )
    random = np.random.default_rng(0)
    encoder.set_weights(
        [
            weight + random.normal(scale=0.1, size=weight.shape).astype(np.float32)
            for weight in encoder.get_weights()
        ]
    )
    return encoder


@functools.cache
def encoder_of(form):
    """That of `build`, for tests that leave it as it is."""
    return build(FORMS[form])


def clips_of(settings, shape=None, number=2):
    shape = shape or SHAPES[settings.architecture]
    return np.random.default_rng(1).normal(size=(number, *shape)).astype(np.float32)


def weights_of(encoder, name):
    return [value.astype(np.float64) for value in encoder.get_layer(name).get_weights()]


def norm(x, gamma, beta):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * gamma + beta


def gelu(x):
    return x * (1 + special.erf(x / np.sqrt(2))) / 2


def attend(x, query, bq, key, bk, value, bv, output, bo):
    """Self-attention over the axis before the last, of any number of axes before."""
    q, k, v = (
        np.einsum("...nd,dhe->...hne", x, kernel) + bias[:, None]
        for kernel, bias in ((query, bq), (key, bk), (value, bv))
    )
    scores = np.einsum("...hne,...hme->...hnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    sums = np.einsum("...hnm,...hme->...hne", weights, v)
    return np.einsum("...hne,hed->...nd", sums, output) + bo


def in_numpy(encoder, settings, clips):
    """The network in float64, from its definition and the encoder's weights."""

    def weights(name):
        return weights_of(encoder, name)

    clips = clips.astype(np.float64)
    kernel, bias = weights("patches")
    width = kernel.shape[-1]
    if settings.architecture == "vit":
        b, t, h, w, _ = clips.shape
        size, p = settings.tubelet, settings.patch
        parts = clips.reshape(b, t // size, size, h // p, p, w // p, p, 3)
        tokens = np.einsum("btihjwkc,ijkcd->bthwd", parts, kernel) + bias
        x = tokens.reshape(b, t // size, -1, width)
    else:
        (b, frames, filters, _), p, step = clips.shape, settings.patch, settings.stride
        rows = range(0, frames - p + 1, step)
        columns = range(0, filters - p + 1, step)
        x = np.stack(
            [
                np.einsum("bijc,ijcd->bd", clips[:, i : i + p, j : j + p], kernel)
                for i in rows
                for j in columns
            ],
            axis=1,
        )
        x = (x + bias)[:, None]
    divided = getattr(settings, "attention", "joint") == "divided"
    if not divided:
        x = x.reshape(b, 1, -1, width)
    extra = settings.class_tokens + settings.register_tokens
    x = np.concatenate([np.zeros((b, x.shape[1], extra, width)), x], axis=2)
    scale, positions = weights("positions")
    x = x * scale + positions
    for number in range(1, settings.depth + 1):
        name = f"block{number}"
        if divided:
            y = norm(x, *weights(f"{name}_time_norm")).swapaxes(1, 2)
            x = x + attend(y, *weights(f"{name}_time_attention")).swapaxes(1, 2)
            y = norm(x, *weights(f"{name}_space_norm"))
            x = x + attend(y, *weights(f"{name}_space_attention"))
        else:
            y = norm(x, *weights(f"{name}_norm"))
            x = x + attend(y, *weights(f"{name}_attention"))
        y = norm(x, *weights(f"{name}_mlp_norm"))
        into, into_bias = weights(f"{name}_mlp_hidden")
        out, out_bias = weights(f"{name}_mlp_output")
        x = x + gelu(y @ into + into_bias) @ out + out_bias
    final = weights(f"block{settings.depth}_final_norm")
    if settings.pool == "class":
        return norm(x[:, :, : settings.class_tokens], *final).mean((1, 2))
    if settings.pool == "mean":
        return norm(x, *final)[:, :, extra:].mean((1, 2))
    return norm(x[:, :, extra:].mean((1, 2)), *final)


@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_of_the_definition_in_numpy(form):
    settings = FORMS[form]
    encoder, clips = encoder_of(form), clips_of(settings)
    features = encoder(clips, training=False).numpy()
    expected = in_numpy(encoder, settings, clips)
    assert features.shape == (2, transformer.num_features(settings))
    np.testing.assert_allclose(features, expected, atol=2e-4 * np.abs(expected).max())


def test_every_kernel_starts_from_draws_of_its_own_that_follow_from_the_seed():
    first, again, other = (
        transformer.build(VIDEO, LayerSettings(seed=seed), "e", SHAPES["vit"])
        for seed in (1, 1, 2)
    )
    kernels = [
        value
        for layer in first.layers
        for value in layer.get_weights()
        if value.ndim > 1 and np.any(value)
    ]
    # patches, positions; per block four of attention and two of the MLP.
    assert len(kernels) == 2 + 2 * 6
    for kernel in kernels:
        assert 0.015 < kernel.std() < 0.02
        assert np.abs(kernel).max() <= 0.04
    assert len({kernel.ravel()[:8].tobytes() for kernel in kernels}) == len(kernels)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(
        first.get_layer("patches").kernel, other.get_layer("patches").kernel
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_least_number_of_parameters_is_close_below_their_number(form):
    settings = FORMS[form]._replace(depth=4)
    shape = SHAPES[settings.architecture]
    encoder = transformer.build(settings, LayerSettings(), "e", shape)
    least = transformer.least_parameters(settings)
    assert 0.9 * encoder.count_params() < least <= encoder.count_params()


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_with_weights_has_a_stage_and_the_last_norm_the_highest(form):
    encoder = encoder_of(form)
    stages = {
        layer.name: transformer.stage(layer.name)
        for layer in encoder.layers
        if layer.weights
    }
    assert set(stages.values()) == {0, 1, 2}
    assert stages["patches"] == stages["positions"] == 0
    assert stages["block2_final_norm"] == 2
    rates = encoder_table.stage_rates(transformer.stage, encoder, 0.5)
    by_name = dict(
        zip((id(v) for v in encoder.trainable_variables), rates, strict=True)
    )
    for layer in encoder.layers:
        for variable in layer.trainable_variables:
            assert by_name[id(variable)] == 0.5 ** (2 - stages[layer.name])


def test_a_layer_of_no_block_is_rejected():
    with pytest.raises(ValueError, match="'stem_norm' is of no block"):
        transformer.stage("stem_norm")


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (VIDEO, (5, 16, 16, 3), "tubelet=2 does not divide config.clip.num_frames=5"),
        (VIDEO, (1, 16, 16, 3), "tubelet=2 does not divide config.clip.num_frames=1"),
        (VIDEO, (4, 20, 20, 3), "patch=8 does not divide config.clip.crop_size=20"),
        (AUDIO, (12, 40, 1), "patch=16 is larger than the log-mel of a clip, 12"),
        (AUDIO, (50, 8, 1), "50 frames of 8 filters; lower it, or raise"),
        (VIDEO._replace(pool="class"), SHAPES["vit"], "pool=class needs config.video_"),
        (
            AUDIO._replace(class_tokens=0),
            SHAPES["ast"],
            "needs config.audio_encoder.cl",
        ),
    ],
)
def test_clips_that_do_not_fit_are_rejected_by_the_key(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        transformer.build(settings, LayerSettings(), "e", shape)


@pytest.mark.parametrize("form", FORMS)
def test_a_folded_copy_computes_the_same_from_variables_of_its_own(form):
    settings = FORMS[form]
    encoder, clips = build(settings), clips_of(settings)
    copy = layers.fold(encoder)
    expected = encoder(clips, training=False).numpy()
    np.testing.assert_allclose(copy(clips, training=False), expected, atol=1e-5)
    encoder.set_weights([np.zeros_like(value) for value in encoder.get_weights()])
    np.testing.assert_allclose(copy(clips, training=False), expected, atol=1e-5)
    assert not copy.trainable_variables


@pytest.mark.parametrize("form", FORMS)
def test_training_layers_compute_the_features_and_gradients_of_kerass(form):
    settings = FORMS[form]
    encoder, clips = encoder_of(form), clips_of(settings)
    fast = build(settings, fast=True)
    fast.set_weights(encoder.get_weights())
    kinds = {type(layer) for layer in fast.layers}
    assert {token_layers.SelfAttention, token_layers.ScaleAndShift} <= kinds

    def gradients(model):
        with tf.GradientTape() as tape:
            features = model(clips, training=True)
            loss = tf.reduce_sum(tf.square(features))
        return features, tape.gradient(loss, model.trainable_variables)

    (features, found), (expected_features, expected) = map(gradients, (fast, encoder))
    np.testing.assert_allclose(features, expected_features, rtol=1e-4, atol=1e-4)
    # Those of biases of keys are zero but for rounding.
    largest = max(float(tf.reduce_max(tf.abs(value))) for value in expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * largest)


@pytest.mark.parametrize("form", FORMS)
def test_keras_alone_opens_the_file_and_this_reader_takes_its_weights(form, tmp_path):
    settings = FORMS[form]._replace(drop_path=0.2)
    shape = SHAPES["ast"] if form == "audio" else (4, 16, 16, 3)
    encoder, clips = build(settings, shape, weight_decay=0.1), clips_of(settings, shape)
    path = str(tmp_path / "e.keras")
    encoder_files.save_encoder(encoder, path)
    expected = encoder(clips, training=False)
    opened = keras.models.load_model(path)
    np.testing.assert_allclose(opened(clips, training=False), expected, atol=1e-5)
    modules = {type(layer).__module__.partition(".")[0] for layer in opened.layers}
    assert modules == {"keras"}
    read = encoder_files.load_encoder(
        path, settings, LayerSettings(), name="e", clip=clip_of(shape)
    )
    np.testing.assert_allclose(read(clips, training=False), expected, atol=1e-5)


def test_weight_decay_is_a_penalty_on_all_kernels():
    encoder = build(VIDEO, weight_decay=0.5)
    kernels = [
        weight
        for layer in encoder.layers
        for weight in layer.get_weights()
        if layer.name != "positions"
        and (weight.ndim >= 3 or (weight.ndim == 2 and "mlp" in layer.name))
    ]
    expected = sum(0.25 * np.square(kernel).sum() for kernel in kernels)
    assert len(kernels) == 1 + 2 * 6
    assert float(tf.add_n(encoder.losses)) == pytest.approx(expected, rel=1e-5)


def test_drop_path_leaves_out_whole_branches_of_some_examples_as_the_seed_says():
    layer = token_layers.DropPath(0.25, (None, 1, 1), name="drop")
    rows = tf.ones([4000, 2, 3])

    def draw(*seed):
        with token_layers.random_seed(tf.constant(seed, tf.int64)):
            return layer(rows, training=True).numpy()

    first = draw(1, 2)
    assert {*np.unique(first)} == {0.0, np.float32(1 / 0.75)}
    assert (first == first[:, :1, :1]).all()
    assert np.mean(first[:, 0, 0] > 0) == pytest.approx(0.75, abs=0.03)
    np.testing.assert_array_equal(draw(1, 2), first)
    assert (draw(1, 3) != first).any() and (draw(2, 2) != first).any()
    np.testing.assert_array_equal(layer(rows, training=False), rows)
    with pytest.raises(RuntimeError, match="drop draws in training"):
        layer(rows, training=True)


def test_the_probability_to_drop_a_branch_rises_linearly_over_the_blocks():
    settings = VIDEO._replace(depth=3, drop_path=0.2)
    for fast, kind in ((True, token_layers.DropPath), (False, keras.layers.Dropout)):
        encoder = transformer.build(
            settings, LayerSettings(fast=fast), "e", SHAPES["vit"]
        )
        rates = {
            layer.name: layer.rate
            for layer in encoder.layers
            if layer.name.endswith("_drop")
        }
        assert rates == {
            "block2_drop": 0.1,
            "block2_mlp_drop": 0.1,
            "block3_drop": 0.2,
            "block3_mlp_drop": 0.2,
        }
        assert isinstance(encoder.get_layer("block2_drop"), kind)


@pytest.mark.parametrize("form", ["joint with class token and registers", "divided"])
def test_weights_fit_clips_of_another_shape_and_those_of_the_same_are_unchanged(form):
    settings = FORMS[form]
    encoder = build(settings)
    same = build(settings, seed=5)
    encoder_table.copy_weights(settings, encoder, same)
    for a, b in zip(encoder.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    larger = build(settings, shape=(8, 32, 24, 3))
    encoder_table.copy_weights(settings, encoder, larger)
    features = larger(clips_of(settings, (8, 32, 24, 3)), training=False)
    assert np.isfinite(features).all()
    # A clip that is everywhere the same: so are the features if positions are.
    for model in (encoder, larger):
        layer = model.get_layer("positions")
        scale, positions = layer.get_weights()
        layer.set_weights([scale, np.zeros_like(positions)])
    small, large = (
        model(np.full((1, *shape), 0.3, np.float32), training=False)
        for model, shape in ((encoder, SHAPES["vit"]), (larger, (8, 32, 24, 3)))
    )
    if "class" not in form:  # registers and class tokens count by how many there are
        np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-4)


def test_resized_positions_keep_what_is_linear_in_time_and_place():
    t, y, x = np.meshgrid(*(np.arange(size) + 0.5 for size in (4, 6, 8)), indexing="ij")
    patches = np.stack([t / 4, y / 6, x / 8], axis=-1).astype(np.float32)
    extra = np.arange(6, dtype=np.float32).reshape(2, 3)
    positions = np.concatenate([extra, patches.reshape(-1, 3)])
    resized = token_positions.resize(positions, (4, 6, 8), (8, 12, 16))
    np.testing.assert_array_equal(resized[:2], extra)
    grid = resized[2:].reshape(8, 12, 16, 3)
    t, y, x = np.meshgrid(
        *(np.arange(size) + 0.5 for size in (8, 12, 16)), indexing="ij"
    )
    expected = np.stack([t / 8, y / 12, x / 16], axis=-1)
    inner = (slice(2, -2), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(grid[inner], expected[inner], atol=0.01)
    back = token_positions.resize(resized, (8, 12, 16), (4, 6, 8))
    np.testing.assert_allclose(back, positions, atol=0.05)


def test_resized_positions_of_divided_attention_keep_their_extra_tokens_in_each_time():
    positions = np.random.default_rng(0).normal(size=(2, 1 + 6, 5)).astype(np.float32)
    resized = token_positions.resize(positions, (2, 2, 3), (4, 2, 3))
    assert resized.shape == (4, 7, 5)
    np.testing.assert_allclose(resized[0], positions[0], atol=1e-6)
    np.testing.assert_allclose(resized[-1], positions[-1], atol=1e-6)
    expected = 0.75 * positions[0] + 0.25 * positions[1]
    np.testing.assert_allclose(resized[1], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_features_close_to_those_of_float32(dtype):
    encoder, clips = build(VIDEO), clips_of(VIDEO)
    mixed = build(VIDEO, dtype=dtype, fast=True)
    mixed.set_weights(encoder.get_weights())
    features = mixed(clips, training=False)
    assert tf.as_dtype(features.dtype) == tf.float32
    np.testing.assert_allclose(features, encoder(clips, training=False), atol=0.1)


def test_an_encoder_has_no_statistics_to_average_or_undo():
    encoder = build(VIDEO._replace(drop_path=0.3), fast=True)
    assert compat.tf_variables(encoder.non_trainable_weights) == []


@pytest.mark.parametrize(
    "form",
    [
        "divided with class token and registers",
        pytest.param("audio", marks=pytest.mark.slow),
    ],
)
def test_exports_for_other_runtimes_compute_the_features(form, tmp_path):
    settings = FORMS[form]
    encoder, path = encoder_of(form), str(tmp_path / "encoder.")
    model_files.save_tflite(encoder, path + "tflite")
    interpreter = tf.lite.Interpreter(path + "tflite")
    entry = interpreter.get_input_details()[0]
    clips = clips_of(settings, number=3)
    interpreter.resize_tensor_input(entry["index"], clips.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], clips)
    interpreter.invoke()
    features = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = encoder(clips, training=False)
    np.testing.assert_allclose(features, expected, atol=1e-3)
    onnxruntime = pytest.importorskip("onnxruntime")
    model_files.save_onnx(encoder, path + "onnx")
    session = onnxruntime.InferenceSession(
        path + "onnx", providers=["CPUExecutionProvider"]
    )
    (features,) = session.run(["features"], {"inputs": clips})
    np.testing.assert_allclose(features, expected, atol=1e-3)
