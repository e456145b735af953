"""Counted operations, parameters and activation bytes of encoders."""

import keras
import pytest

from xdc_tf.models import audio_resnet, layers, video_resnet
from xdc_tf.models.layers import LayerSettings
from xdc_tf.planning import operations

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def r2plus1d():
    return video_resnet.build("r2plus1d", depth=18)


def test_r2plus1d_18_has_the_parameters_of_its_authors(r2plus1d):
    # XDC's form without its classifier.
    work = operations.count(r2plus1d, (8, 112, 112, 3))
    assert work.num_trainable == 33_165_639
    assert work.width == 512


def _flops_of_r2plus1d_18_by_hand():
    """Two per multiplication and addition, of the paper's table 1 for 8 x 112 x 112."""

    def split(places, in_planes, out_planes, out_places):
        mid = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        return 2 * mid * (9 * in_planes * places + 3 * out_planes * out_places)

    total = 2 * 8 * 56 * 56 * (45 * 3 * 49 + 64 * 45 * 3)
    planes, frames, side = 64, 8, 56
    total += 4 * split(frames * side**2, 64, 64, frames * side**2)
    for _ in range(3):
        side //= 2
        # The spatial half comes first, and only the temporal one halves time.
        total += split(frames * side**2, planes, 2 * planes, frames // 2 * side**2)
        total += 2 * frames // 2 * side**2 * planes * 2 * planes  # shortcut
        planes, frames = 2 * planes, frames // 2
        total += 3 * split(frames * side**2, planes, planes, frames * side**2)
    return total


def test_operations_of_r2plus1d_18_are_those_of_its_table(r2plus1d):
    work = operations.count(r2plus1d, (8, 112, 112, 3))
    assert work.flops == _flops_of_r2plus1d_18_by_hand()
    assert work.flops / 1e9 == pytest.approx(41.5, abs=0.05)


@pytest.mark.parametrize(
    "architecture, giga_multiplications",
    [("r2plus1d_torchvision", 40.52), ("r3d", 40.70), ("mc3", 43.34)],
)
def test_operations_are_those_that_torchvision_states(
    architecture, giga_multiplications
):
    # Its model pages, for clips of 16 x 112 x 112, with a classifier of 0.0002.
    encoder = video_resnet.build(architecture, depth=18)
    work = operations.count(encoder, (16, 112, 112, 3))
    assert work.flops / 2e9 == pytest.approx(giga_multiplications, abs=0.006)


def test_folding_keeps_the_operations_and_moves_fewer_bytes(r2plus1d):
    work = operations.count(r2plus1d, (8, 112, 112, 3))
    folded = operations.count(layers.fold(r2plus1d), (8, 112, 112, 3))
    assert folded.flops == work.flops

    def moved(encoder):
        return sum(layer.inference_bytes for layer in encoder.layers)

    assert moved(folded) < 0.8 * moved(work)


def test_sixteen_bits_halve_what_is_kept_of_a_clip():
    kept = [
        operations.count(
            audio_resnet.build(depth=10, settings=LayerSettings(dtype=dtype)),
            (100, 40, 1),
        ).kept_bytes
        for dtype in ("float32", "mixed_bfloat16")
    ]
    assert kept[1] == kept[0] / 2


def _tiny_net():
    """4 x 4 x 1 -> convolution 3 x 3 to 2 -> norm -> ReLU -> mean."""
    clip = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", use_bias=False, name="conv")(clip)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    return keras.Model(clip, keras.layers.GlobalAveragePooling2D(name="mean")(x))


def test_a_tiny_net_by_hand():
    work = operations.count(_tiny_net(), (4, 4, 1))
    conv, norm, relu, mean = work.layers
    clip, maps, features = 4 * 16, 4 * 32, 4 * 2
    assert work.flops == conv.flops == 2 * 9 * 32
    assert conv.kernel_bytes == 4 * 9 * 2
    assert conv.forward_bytes == clip + maps
    assert conv.backward_bytes == 2 * clip + 2 * maps
    assert norm.inference_bytes == 2 * maps
    assert norm.forward_bytes == 3 * maps
    assert norm.backward_bytes == 5 * maps
    assert relu.backward_bytes == 3 * maps
    assert mean.forward_bytes == maps + features
    # Kernel; scale, shift and two statistics for each channel.
    assert work.num_parameters == 18 + 8
    assert work.num_trainable == 18 + 4


def test_kept_activations_of_a_tiny_net_by_hand():
    work = operations.count(_tiny_net(), (4, 4, 1))
    clip, maps = 4 * 16, 4 * 32
    # The convolution keeps the clip, the norm its input, the ReLU its output.
    assert work.kept_bytes == clip + 2 * maps
    # In the ReLU's backward pass: all of these, its gradient and that of its input.
    assert work.peak_bytes == clip + 2 * maps + 2 * maps
    assert work.inference_peak_bytes == 2 * maps


def test_a_tensor_that_two_layers_keep_counts_once():
    clip = keras.Input((2, 2, 1))
    x = keras.layers.ReLU()(clip)
    y = keras.layers.Conv2D(1, 1)(x)
    z = keras.layers.Conv2D(1, 1)(x)
    encoder = keras.Model(clip, keras.layers.Add()([y, z]))
    assert operations.count(encoder, (2, 2, 1)).kept_bytes == 4 * 4


def test_a_clip_of_another_rank_is_refused(r2plus1d):
    with pytest.raises(ValueError, match="leave out the batch"):
        operations.count(r2plus1d, (4, 8, 112, 112, 3))
