"""Names and shapes of encoders' weights in other projects' files."""

import functools
import json
import pathlib

import numpy as np
import pytest

from xdc_tf.models import audio_resnet, video_resnet
from xdc_tf.weights import layouts

PARITY = pathlib.Path(__file__).parent.parent / "parity"
TORCH, CAFFE2 = "torch", "caffe2"
# Layer and variable -> name in a file, by hand.
SPLIT = {
    ("stem_spatial", "kernel"): "stem.0.weight",
    ("stem_mid_norm", "gamma"): "stem.1.weight",
    ("stem_temporal", "kernel"): "stem.3.weight",
    ("stem_norm", "moving_variance"): "stem.4.running_var",
    ("stage1_block1_conv1_spatial", "kernel"): "layer1.0.conv1.0.0.weight",
    ("stage1_block2_conv1_mid_norm", "beta"): "layer1.1.conv1.0.1.bias",
    ("stage3_block1_conv2_temporal", "kernel"): "layer3.0.conv2.0.3.weight",
    ("stage4_block2_norm1", "moving_mean"): "layer4.1.conv1.1.running_mean",
    ("stage4_block2_norm2", "gamma"): "layer4.1.conv2.1.weight",
    ("stage2_block1_shortcut", "kernel"): "layer2.0.downsample.0.weight",
    ("stage2_block1_shortcut_norm", "beta"): "layer2.0.downsample.1.bias",
}
WHOLE = {
    ("stem", "kernel"): "stem.0.weight",
    ("stem_norm", "beta"): "stem.1.bias",
    ("stage2_block1_conv2", "kernel"): "layer2.0.conv2.0.weight",
    ("stage2_block1_norm2", "gamma"): "layer2.0.conv2.1.weight",
    (
        "stage3_block1_shortcut_norm",
        "moving_mean",
    ): "layer3.0.downsample.1.running_mean",
}
AVID = {
    ("stem", "kernel"): "conv1.0.weight",
    ("stem_norm", "gamma"): "conv1.1.weight",
    ("stage1_block1_conv1_spatial", "kernel"): "conv2x.0.spt_conv1.weight",
    ("stage1_block1_conv1_mid_norm", "gamma"): "conv2x.0.spt_bn1.weight",
    ("stage1_block2_conv2_temporal", "kernel"): "conv2x.1.tmp_conv2.weight",
    ("stage4_block1_norm1", "beta"): "conv5x.0.tmp_bn1.bias",
    ("stage4_block1_norm2", "beta"): "conv5x.0.out_bn.bias",
    ("stage4_block1_shortcut", "kernel"): "conv5x.0.res_conv.weight",
}
BLOBS = {
    ("stem_spatial", "kernel"): "conv1_middle_w",
    ("stem_mid_norm", "gamma"): "conv1_middle_spatbn_relu_s",
    ("stem_temporal", "kernel"): "conv1_w",
    ("stem_norm", "moving_mean"): "conv1_spatbn_relu_rm",
    ("stage1_block1_conv1_spatial", "kernel"): "comp_0_conv_1_middle_w",
    ("stage1_block2_conv1_mid_norm", "beta"): "comp_1_spatbn_1_middle_b",
    ("stage2_block1_conv2_temporal", "kernel"): "comp_2_conv_2_w",
    ("stage2_block1_shortcut", "kernel"): "shortcut_projection_2_w",
    ("stage3_block1_shortcut_norm", "moving_variance"): (
        "shortcut_projection_4_spatbn_riv"
    ),
    ("stage4_block2_norm2", "moving_variance"): "comp_7_spatbn_2_riv",
}
AUDIO = {
    ("stem_conv", "kernel"): "conv1.weight",
    ("stem_norm", "gamma"): "bn1.weight",
    ("stage1_block2_conv2", "kernel"): "layer1.1.conv2.weight",
    ("stage4_block1_norm1", "moving_variance"): "layer4.0.bn1.running_var",
    ("stage4_block1_shortcut", "kernel"): "layer4.0.downsample.0.weight",
}
VMZ_AUDIO = {
    ("stem_conv", "kernel"): "conv1.weight",
    ("stem_conv", "bias"): "conv1.bias",
    ("stem_block1_shortcut_norm", "gamma"): "layer0.0.downsample.1.weight",
    ("stem_block3_conv2", "kernel"): "layer0.2.conv2.weight",
    ("stage1_block1_norm2", "beta"): "layer1.0.bn2.bias",
}
BY_HAND = [
    *[("r2plus1d", TORCH, *pair) for pair in SPLIT.items()],
    ("r2plus1d_torchvision", TORCH, *next(iter(SPLIT.items()))),
    *[("r3d", TORCH, *pair) for pair in WHOLE.items()],
    *[("mc3", TORCH, *pair) for pair in WHOLE.items()],
    *[("r2plus1d_avid", TORCH, *pair) for pair in AVID.items()],
    *[("r2plus1d", CAFFE2, *pair) for pair in BLOBS.items()],
    *[("resnet_torchvision", TORCH, *pair) for pair in AUDIO.items()],
    *[("resnet_vmz", TORCH, *pair) for pair in VMZ_AUDIO.items()],
]
# Reference -> the same network, as small as it can be.
REFERENCES = {
    "xdc_r2plus1d_18": ("r2plus1d", 18),
    "xdc_r2plus1d_34": ("r2plus1d", 34),
    "torchvision_r2plus1d_18": ("r2plus1d_torchvision", 18),
    "torchvision_r3d_18": ("r3d", 18),
    "torchvision_mc3_18": ("mc3", 18),
    "avid_r2plus1d_18": ("r2plus1d_avid", 18),
    "torchvision_resnet_18": ("resnet_torchvision", 18),
    "vmz_resnet_18": ("resnet_vmz", 18),
}


@functools.cache
def tiny(architecture, depth=18):
    build = audio_resnet.build if "resnet" in architecture else video_resnet.build
    return build(architecture, depth=depth, width=0.0625)


def weights_of(encoder, caffe2):
    layout = layouts.LAYOUTS["caffe2"] if caffe2 else layouts.torch_layout(encoder)
    return layouts.weights(encoder, layout)


@pytest.mark.parametrize("architecture, kind, ours, theirs", BY_HAND)
def test_a_variable_has_the_name_that_the_project_gives_it(
    architecture, kind, ours, theirs
):
    encoder = tiny(architecture)
    layer, variable = ours
    found = weights_of(encoder, kind == CAFFE2)[theirs].variable
    assert found is getattr(encoder.get_layer(layer), variable)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_state_dict_has_the_names_of_the_real_network(name):
    real = json.loads((PARITY / f"{name}.keys.json").read_text())
    own = layouts.state_dict(tiny(*REFERENCES[name]))
    assert own.keys() == real.keys() - {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("architecture", ["r2plus1d", "r2plus1d_avid", "resnet_vmz"])
def test_every_variable_has_one_name(architecture):
    encoder = tiny(architecture)
    named = [weight.variable for weight in weights_of(encoder, False).values()]
    assert {id(variable) for variable in named} == set(map(id, encoder.variables))
    assert len(named) == len(encoder.variables)


def test_a_kernel_has_its_outputs_and_inputs_in_front():
    encoder = tiny("r3d")
    own = np.asarray(encoder.get_layer("stem").kernel)  # [3, 7, 7, 3, 4]
    found = layouts.state_dict(encoder)["stem.0.weight"]
    assert found.shape == (4, 3, 3, 7, 7)
    assert found[3, 2, 0, 4, 6] == own[0, 4, 6, 2, 3]


def test_a_kernel_of_an_audio_network_too():
    encoder = tiny("resnet_torchvision")
    own = np.asarray(encoder.get_layer("stage1_block1_conv1").kernel)
    found = layouts.state_dict(encoder)["layer1.0.conv1.weight"]
    assert found[1, 2, 0, 1] == own[0, 1, 2, 1]


@pytest.mark.parametrize("architecture", ["r2plus1d_avid", "resnet_vmz"])
def test_what_is_assigned_comes_out_again(architecture):
    encoder = tiny(architecture)
    rng = np.random.default_rng(0)
    for weight in weights_of(encoder, False).values():
        value = rng.normal(size=weight.shape).astype(np.float32)
        weight.assign(value)
        np.testing.assert_array_equal(weight.value(), value)


def test_a_state_dict_holds_float32_arrays_in_c_order():
    for name, tensor in layouts.state_dict(tiny("r2plus1d")).items():
        counter = name.endswith("num_batches_tracked")
        assert tensor.dtype == (np.int64 if counter else np.float32)
        assert tensor.flags.c_contiguous


def test_every_batch_norm_has_a_counter_at_zero():
    own = layouts.state_dict(tiny("r3d"))
    counters = [name for name in own if name.endswith(".num_batches_tracked")]
    # Stem, two in each of eight blocks, and three on shortcuts.
    assert len(counters) == 20
    assert all(own[name] == 0 and own[name].shape == () for name in counters)
    assert "stem.1.num_batches_tracked" in counters
