"""Video encoders: residual networks of 3-d convolutions, whole or split.

R(2+1)D, R3D and MC3 (Tran et al., CVPR 2018) differ in what stands for a 3x3x3
convolution in each stage. Stages 2 to 4 halve space, and time where their convolutions
reach over it.
"""

from typing import NamedTuple

import keras

from xdc_tf.models.layers import (
    BLOCKS_PER_STAGE,
    LayerMaker,
    LayerSettings,
    check_resnet,
)

# What stands for a 3x3x3 convolution.
SPLIT, WHOLE, SPATIAL = "split", "whole", "spatial"
# What decides how many channels lie between the halves of a split one.
EACH_CONV, FIRST_OF_BLOCK, AS_OUTPUT = "each_conv", "first_of_block", "as_output"


class Architecture(NamedTuple):
    """A row of ARCHITECTURES.

    Attributes:
      convs: of the stem and the four stages. SPLIT: (1, 3, 3), batch norm, ReLU,
        (3, 1, 1). WHOLE: (3, 3, 3). SPATIAL: (1, 3, 3). The stem has 7 for 3 in space.
      mid_planes: EACH_CONV: by the rule `mid_planes` for each convolution.
        FIRST_OF_BLOCK: a block's second convolution takes the number of its first.
        AS_OUTPUT: as many as come out.
      batch_norm_epsilon: added to the variance.
      stem_pool: 3 x 3 max-pooling of space after the stem.
      norm_after_sum: a block's last batch norm follows the sum of its branches, and the
        shortcut has none.
      pool: what makes features of the last stage, "mean" or "max".
    """

    convs: tuple[str, str, str, str, str]
    mid_planes: str = EACH_CONV
    batch_norm_epsilon: float = 1e-5
    stem_pool: bool = False
    norm_after_sum: bool = False
    pool: str = "mean"


ARCHITECTURES = {
    # As XDC's authors released it, and Facebook's Caffe2 models before.
    "r2plus1d": Architecture((SPLIT,) * 5, batch_norm_epsilon=1e-3),
    # As torchvision has it; the two differ by 1.9 million parameters at depth 18.
    "r2plus1d_torchvision": Architecture((SPLIT,) * 5, FIRST_OF_BLOCK),
    "r3d": Architecture((WHOLE,) * 5),
    "mc3": Architecture((WHOLE, WHOLE, SPATIAL, SPATIAL, SPATIAL)),
    # As AVID-CMA's authors have it (Morgado et al., CVPR 2021).
    "r2plus1d_avid": Architecture(
        (WHOLE, SPLIT, SPLIT, SPLIT, SPLIT),
        AS_OUTPUT,
        stem_pool=True,
        norm_after_sum=True,
        pool="max",
    ),
}


def mid_planes(in_planes: int, out_planes: int) -> int:
    """Channels between the two halves of a (2+1)D convolution.

    Chosen so that the pair has as many parameters as the 3x3x3 convolution it stands
    for: floor(3*3*3*in*out / (3*3*in + 3*out)) (R(2+1)D paper, section 3.5).
    """
    return (27 * in_planes * out_planes) // (9 * in_planes + 3 * out_planes)


def build(
    architecture: str = "r2plus1d",
    *,
    depth: int = 18,
    width: float = 1.0,
    settings: LayerSettings | None = None,
    name: str = "video_encoder",
) -> keras.Model:
    """Builds the encoder.

    Args:
      architecture: a key of ARCHITECTURES.
      depth: 4, 10, 18 or 34; as usual it counts a split convolution as one and the
        classifier too.
      width: multiplies the 64, 128, 256, 512 channels of the four stages.
      settings: what all layers share; LayerSettings() by default.
      name: name of the Keras model.

    Returns:
      A model from normalised clips [B, T, H, W, 3] float32, any T, H, W, to features
      [B, 512 * width] float32: the last stage pooled over time and space.

    Raises:
      ValueError: on an unknown architecture or depth, or a width that leaves a stage
        without channels.
    """
    planes = check_resnet(
        "video", architecture, depth, width, among=ARCHITECTURES, least_planes=2
    )
    form = ARCHITECTURES[architecture]
    make = LayerMaker(
        settings or LayerSettings(), batch_norm_epsilon=form.batch_norm_epsilon
    )

    clips = keras.Input((None, None, None, 3), name="video")
    x = _conv(
        make,
        form.convs[0],
        clips,
        planes,
        mid=max(1, int(45 * width)),
        strides=(1, 2),
        name="stem",
        size=7,
    )
    x = make.relu(make.norm(x, name="stem_norm"), name="stem_relu")
    if form.stem_pool:
        x = make.max_pool(x, name="stem_pool")
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE[depth], start=1):
        for number in range(1, num_blocks + 1):
            x = _block(
                make,
                form,
                form.convs[stage],
                x,
                planes * 2 ** (stage - 1),
                2 if stage > 1 and number == 1 else 1,
                f"stage{stage}_block{number}",
            )
    return keras.Model(clips, make.features(x, pool=form.pool), name=name)


def _block(
    make: LayerMaker,
    form: Architecture,
    kind: str,
    x,
    planes: int,
    stride: int,
    name: str,
):
    """A residual block; its first convolution has the stride, in time if it can."""
    strides = (1 if kind == SPATIAL else stride, stride)
    first_mid = mid_planes(x.shape[-1], planes)
    first_mid, second_mid = {
        EACH_CONV: (first_mid, mid_planes(planes, planes)),
        FIRST_OF_BLOCK: (first_mid, first_mid),
        AS_OUTPUT: (planes, planes),
    }[form.mid_planes]
    y = _conv(
        make, kind, x, planes, mid=first_mid, strides=strides, name=f"{name}_conv1"
    )
    y = make.relu(make.norm(y, name=f"{name}_norm1"), name=f"{name}_relu1")
    y = _conv(
        make, kind, y, planes, mid=second_mid, strides=(1, 1), name=f"{name}_conv2"
    )
    if not form.norm_after_sum:
        y = make.norm(y, name=f"{name}_norm2")
    if stride > 1 or x.shape[-1] != planes:
        x = make.conv(
            x,
            planes,
            kernel_size=(1, 1, 1),
            strides=(strides[0], stride, stride),
            name=f"{name}_shortcut",
        )
        if not form.norm_after_sum:
            x = make.norm(x, name=f"{name}_shortcut_norm")
    y = make.add(x, y, name=f"{name}_add")
    if form.norm_after_sum:
        y = make.norm(y, name=f"{name}_norm2")
    return make.relu(y, name=f"{name}_relu2")


def _conv(
    make: LayerMaker,
    kind: str,
    x,
    planes: int,
    *,
    mid: int,
    strides: tuple[int, int],
    name: str,
    size: int = 3,
):
    """What stands for a 3 x size x size convolution.

    Args:
      make: makes the layers.
      kind: SPLIT, WHOLE or SPATIAL.
      x: [B, T, H, W, C].
      planes: channels of the output.
      mid: channels between the two halves of SPLIT.
      strides: in time and in space.
      name: of the layer, or what the names of both halves begin with.
      size: of the kernel in space.
    """
    in_time, in_space = strides
    whole, spatial = (3, size, size), (1, size, size)
    if kind != SPLIT:
        return make.conv(
            x,
            planes,
            kernel_size=spatial if kind == SPATIAL else whole,
            strides=(1 if kind == SPATIAL else in_time, in_space, in_space),
            name=name,
        )
    x = make.conv(
        x,
        mid,
        kernel_size=spatial,
        strides=(1, in_space, in_space),
        name=f"{name}_spatial",
    )
    x = make.relu(make.norm(x, name=f"{name}_mid_norm"), name=f"{name}_mid_relu")
    return make.conv(
        x,
        planes,
        kernel_size=(3, 1, 1),
        strides=(in_time, 1, 1),
        name=f"{name}_temporal",
    )
