"""The video network among a file's tensors, found by real names and shapes."""

import functools
import json
import pathlib

import numpy as np
import pytest

from xdc_tf.weights import layouts

pytestmark = pytest.mark.once

PARITY = pathlib.Path(__file__).parent.parent / "parity"
XDC, TORCHVISION = "xdc_r2plus1d_18", "torchvision_r2plus1d_18"


def zeros(shapes, prefix=""):
    """Tensors of the shapes that take no memory."""
    zero = np.float32(0)
    return {prefix + key: np.broadcast_to(zero, shape) for key, shape in shapes.items()}


@functools.cache
def shapes_of(name):
    return json.loads((PARITY / f"{name}.keys.json").read_text())


@pytest.mark.parametrize(
    "name, layout, architecture, depth",
    [
        (XDC, "torchvision_split", "r2plus1d", 18),
        ("xdc_r2plus1d_34", "torchvision_split", "r2plus1d", 34),
        (TORCHVISION, "torchvision_split", "r2plus1d_torchvision", 18),
        ("torchvision_r3d_18", "torchvision_whole", "r3d", 18),
        ("torchvision_mc3_18", "torchvision_whole", "mc3", 18),
        ("avid_r2plus1d_18", "avid", "r2plus1d_avid", 18),
    ],
)
def test_a_real_network_is_found(name, layout, architecture, depth):
    found = layouts.find_network(zeros(shapes_of(name)), "a.pth")
    assert found == (layout, "", architecture, depth, 1.0)


CHECKPOINTS = {
    "in DataParallel": (XDC, "module.", {}),
    "SeLaVi": (
        TORCHVISION,
        "model.module.video_network.base.",
        {
            "model.module.audio_network.base.conv1.weight": (64, 1, 7, 7),
            "model.module.audio_network.base.layer1.0.conv1.weight": (64, 64, 3, 3),
            "model.module.mlp_v0.block_forward.2.weight": (512, 512),
            "optimizer.state.0.momentum_buffer": (45, 3, 1, 7, 7),
        },
    ),
    "GDT": (
        TORCHVISION,
        "model.video_network.base.",
        {
            "model.audio_network.base.conv1.weight": (64, 1, 7, 7),
            "model.mlp_v.block_forward.2.weight": (512, 512),
        },
    ),
    "AVID-CMA": (
        "avid_r2plus1d_18",
        "model.module.video_model.",
        {
            "model.module.audio_model.conv1.0.weight": (64, 1, 7, 7),
            "model.module.video_proj.projection.0.weight": (512, 512),
            "train_criterion.nce_average.view1_mem": (1000, 128),
        },
    ),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_network_is_found_inside_of_a_checkpoint(checkpoint):
    name, prefix, others = CHECKPOINTS[checkpoint]
    bare = layouts.find_network(zeros(shapes_of(name)), "a.pth")
    found = layouts.find_network(
        zeros(shapes_of(name), prefix) | zeros(others), "a.pth"
    )
    assert found == bare._replace(prefix=prefix)


@pytest.fixture
def two_networks():
    return zeros(shapes_of(TORCHVISION), "student.") | zeros(shapes_of(XDC))


def test_of_two_networks_one_must_be_chosen(two_networks):
    with pytest.raises(ValueError, match="under 'student.', ''; choose one by --pref"):
        layouts.find_network(two_networks, "a.pth")


@pytest.mark.parametrize(
    "prefix, architecture", [("student.", "r2plus1d_torchvision"), ("", "r2plus1d")]
)
def test_a_network_is_chosen_by_its_prefix(prefix, architecture, two_networks):
    found = layouts.find_network(two_networks, "a.pth", prefix=prefix)
    assert (found.prefix, found.architecture) == (prefix, architecture)


def test_an_unknown_prefix_is_an_error_that_tells_the_known_ones(two_networks):
    with pytest.raises(ValueError, match="under --prefix=student, but under 'student."):
        layouts.find_network(two_networks, "a.pth", prefix="student")


def test_a_width_follows_from_the_stem():
    shapes = dict(shapes_of(XDC)) | {"stem.3.weight": (32, 22, 3, 1, 1)}
    assert layouts.find_network(zeros(shapes), "a.pth").width == 0.5


STEM, KERNEL = (64, 3, 3, 7, 7), (64, 64, 1, 1, 1)
STRANGE = {
    "no tensors": ({}, "a.pth holds no video encoder .* its 0 tensors are none"),
    "a 2-d network": (
        {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3)},
        "its 2 tensors are 'conv1.weight', 'layer1.0.conv1.weight'. Tensors inside",
    ),
    "a stem alone": ({"stem.0.weight": STEM}, "holds no video encoder"),
    "bottlenecks": (
        {
            "stem.0.weight": STEM,
            "layer1.0.conv1.0.weight": KERNEL,
            "layer1.0.conv2.0.0.weight": KERNEL,
            "layer1.0.conv3.0.weight": KERNEL,
        },
        r"of \(1,\) blocks per stage with bottlenecks; known are .* \[4, 10, 18, 34\]",
    ),
    "Caffe2's bottlenecks": (
        {
            "conv1_w": STEM,
            "comp_0_conv_1_w": KERNEL,
            "comp_0_conv_2_middle_w": KERNEL,
            "comp_0_conv_3_w": KERNEL,
        },
        "with bottlenecks",
    ),
    "another depth": (
        {
            "stem.0.weight": STEM,
            "layer1.0.conv1.0.weight": KERNEL,
            "layer1.1.conv1.0.weight": KERNEL,
            "layer2.0.conv1.0.weight": KERNEL,
        },
        r"of \(2, 1\) blocks per stage; known",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_network_of_another_kind_is_refused(case):
    shapes, told = STRANGE[case]
    with pytest.raises(ValueError, match=told):
        layouts.find_network(zeros(shapes), "a.pth")


def test_a_stem_that_asks_for_a_giant_network_is_refused():
    shapes = dict(shapes_of(XDC)) | {"stem.3.weight": (100_000, 1, 1, 1, 1)}
    with pytest.raises(ValueError, match="'stem.3.weight' gives 100000 channels"):
        layouts.find_network(zeros(shapes), "a.pth")


def test_a_scalar_in_a_kernels_place_is_left_to_be_refused_by_its_shape():
    shapes = dict(shapes_of(XDC)) | {"layer2.0.conv2.0.0.weight": ()}
    assert layouts.find_network(zeros(shapes), "a.pth").architecture == "r2plus1d"
