"""The encoders against what PyTorch computes with the same weights on the same input.

tests/parity/NAME.npz and NAME.keys.json were written by benchmarks.torch_references;
weights and input follow from a rule, and so are not stored.
"""

import functools
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import reference_rule
from xdc_tf.models import audio_resnet, video_resnet
from xdc_tf.models.layers import LayerSettings
from xdc_tf.weights import layouts

PARITY = pathlib.Path(__file__).parent.parent / "parity"
MODELS = {
    "xdc_r2plus1d_18": (video_resnet.build, "r2plus1d", 18),
    "xdc_r2plus1d_34": (video_resnet.build, "r2plus1d", 34),
    "torchvision_r2plus1d_18": (video_resnet.build, "r2plus1d_torchvision", 18),
    "torchvision_r3d_18": (video_resnet.build, "r3d", 18),
    "torchvision_mc3_18": (video_resnet.build, "mc3", 18),
    "avid_r2plus1d_18": (video_resnet.build, "r2plus1d_avid", 18),
    "torchvision_resnet_18": (audio_resnet.build, "resnet_torchvision", 18),
    "vmz_resnet_18": (audio_resnet.build, "resnet_vmz", 18),
}
# Trainable parameters without classifier; all but VMZ's audio network's follow from the
# reference's state dict too.
PARAMETERS = {
    "xdc_r2plus1d_18": 33_165_639,
    "xdc_r2plus1d_34": 63_491_975,
    "torchvision_r2plus1d_18": 31_300_125,
    "torchvision_r3d_18": 33_166_272,
    "torchvision_mc3_18": 11_490_240,
    "avid_r2plus1d_18": 15_379_136,
    "torchvision_resnet_18": 11_170_240,
    "vmz_resnet_18": 11_202_528,
}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def marked_but_for(unmarked, names, *marks):
    """Names for all tests; what Keras does of them is of the unmarked ones too."""
    return [
        name if name in unmarked else pytest.param(name, marks=marks) for name in names
    ]


# One of each kind of layers; xdc_r2plus1d_34 has more of those of 18.
EVERY = marked_but_for(
    [name for name in MODELS if name != "xdc_r2plus1d_34"], MODELS, pytest.mark.once
)


@functools.cache
def shapes(name):
    return json.loads((PARITY / f"{name}.keys.json").read_text())


@functools.lru_cache(maxsize=1)
def reference(name):
    with np.load(PARITY / f"{name}.npz") as arrays:
        return dict(arrays)


# Tests come network by network (the scope of their names), and these hold one each.
@functools.lru_cache(maxsize=1)
def with_reference_weights(name, dtype="float32"):
    """The encoder and its variables by their names in PyTorch."""
    build, architecture, depth = MODELS[name]
    encoder = build(architecture, depth=depth, settings=LayerSettings(dtype=dtype))
    variables = layouts.weights(encoder, layouts.torch_layout(encoder))
    tensors = reference_rule.weights(shapes(name))
    for key, weight in variables.items():
        weight.assign(tensors[key])
    head = keras.layers.Dense(400)
    head.build((None, 512))
    head.set_weights([tensors["fc.weight"].T, tensors["fc.bias"]])
    return encoder, head, variables


@pytest.fixture(scope="module", autouse=True)
def nothing_is_held():
    yield
    for cached in (with_reference_weights, activations, one_step):
        cached.cache_clear()


def inputs_of(encoder, part=lambda drawn: drawn):
    audio = len(encoder.inputs[0].shape) == 4
    drawn = reference_rule.spectrograms() if audio else reference_rule.clips()
    return np.moveaxis(part(drawn), 1, -1)


@functools.lru_cache(maxsize=1)
def activations(name):
    """Of our encoder in evaluation mode, channels first."""
    encoder, head, _ = with_reference_weights(name)
    layers = {
        f"layer{stage}": f"stage{stage}_block{number}_relu2"
        for stage, number in enumerate(BLOCKS[MODELS[name][2]], start=1)
    }
    stems = "stem_block3_relu2", "stem_pool", "stem_relu"
    present = {layer.name for layer in encoder.layers}
    layers["stem"] = next(stem for stem in stems if stem in present)
    outputs = {key: encoder.get_layer(layer).output for key, layer in layers.items()}
    outputs |= {"features": encoder.output, "logits": head(encoder.output)}
    found = keras.Model(encoder.input, outputs)(inputs_of(encoder), training=False)
    return {key: np.moveaxis(np.asarray(v), -1, 1) for key, v in found.items()}


def assert_close(found, expected):
    """Within 1e-4 of the tensor's largest value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", EVERY, scope="module")
def test_every_tensor_of_the_reference_has_its_variable(name):
    encoder, _, variables = with_reference_weights(name)
    expected = {
        key: tuple(shape)
        for key, shape in shapes(name).items()
        if not key.startswith("fc.") and not key.endswith(layouts.COUNTER)
    }
    assert {key: weight.shape for key, weight in variables.items()} == expected
    assert len(variables) == len(encoder.variables)


@pytest.mark.parametrize("name", EVERY, scope="module")
def test_the_number_of_parameters_is_the_stated_one(name):
    encoder, _, _ = with_reference_weights(name)
    sizes = [int(np.prod(variable.shape)) for variable in encoder.trainable_variables]
    assert sum(sizes) == PARAMETERS[name]


@pytest.mark.parametrize("name", EVERY, scope="module")
@pytest.mark.parametrize("stage", ["stem", "layer1", "layer2", "layer3", "layer4"])
def test_every_stage_computes_what_the_reference_does(name, stage):
    found, expected = activations(name)[stage], reference(name)
    assert found.shape == tuple(expected[f"{stage}_shape"])
    mean = found.mean(axis=tuple(range(2, found.ndim)))
    assert_close(mean, expected[f"{stage}_mean"])
    corner = (slice(None), slice(8), *[slice(2)] * (found.ndim - 4), slice(3), slice(3))
    assert_close(found[corner], expected[f"{stage}_corner"])


@pytest.mark.parametrize("name", EVERY, scope="module")
@pytest.mark.parametrize("output", ["features", "logits"])
def test_features_and_logits_are_the_references(name, output):
    assert_close(activations(name)[output], reference(name)[output])


@functools.lru_cache(maxsize=1)
def one_step(name):
    """Loss, gradients and moved statistics of our encoder in training mode.

    In float64, as the reference: many batch norms over two clips make the rounding of
    float32 visible in gradients.
    """
    encoder, head, variables = with_reference_weights(name, "float64")
    with tf.GradientTape() as tape:
        logits = head(encoder(inputs_of(encoder, reference_rule.part), training=True))
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                list(reference_rule.LABELS), logits
            )
        )
    trained = {
        key: weight
        for key, weight in variables.items()
        if not key.endswith(("running_mean", "running_var"))
    }
    gradients = tape.gradient(loss, [weight.variable for weight in trained.values()])
    gradients = {
        key: np.transpose(gradient, weight.axes)
        for (key, weight), gradient in zip(trained.items(), gradients, strict=True)
    }
    means = {
        key: weight.value()
        for key, weight in variables.items()
        if key.endswith("running_mean")
    }
    return float(loss), gradients, means


# The others take long, or have 3-d max-pooling, which TensorFlow lacks in float64.
IN_FLOAT64 = [
    "xdc_r2plus1d_18",
    "torchvision_r2plus1d_18",
    "torchvision_mc3_18",
    "torchvision_resnet_18",
    "vmz_resnet_18",
]
STEPS = marked_but_for(
    ["xdc_r2plus1d_18", "vmz_resnet_18"], IN_FLOAT64, pytest.mark.once, pytest.mark.slow
)


@pytest.mark.parametrize("name", STEPS, scope="module")
def test_the_loss_in_training_mode_is_the_references(name):
    assert one_step(name)[0] == pytest.approx(float(reference(name)["loss"]), rel=1e-4)


@pytest.mark.parametrize("name", STEPS, scope="module")
def test_the_gradient_of_one_step_is_the_references(name):
    expected = reference(name)
    for key, gradient in one_step(name)[1].items():
        length = float(expected[f"gradient_length/{key}"])
        assert np.linalg.norm(gradient) == pytest.approx(length, rel=1e-4), key
        start = gradient.flatten()[:8]
        np.testing.assert_allclose(
            start, expected[f"gradient_start/{key}"], atol=1e-4 * length, err_msg=key
        )


@pytest.mark.parametrize("name", STEPS, scope="module")
def test_a_training_step_moves_the_means_of_batch_norm_as_the_reference_does(name):
    for key, mean in one_step(name)[2].items():
        assert_close(mean.flatten()[:8], reference(name)[f"updated/{key}"])
