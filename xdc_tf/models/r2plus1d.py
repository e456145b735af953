"""R(2+1)D video encoder (Tran et al., CVPR 2018), in the form XDC's authors train.

Every 3-d convolution is a spatial (1, 3, 3) and a temporal (3, 1, 1) one with batch
norm and ReLU between. No pooling in the stem; stages 2 to 4 halve time and space.
"""

import keras

from xdc_tf.models.layers import LayerMaker, LayerSettings

BLOCKS_PER_STAGE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def mid_planes(in_planes: int, out_planes: int) -> int:
    """Channels between the two halves of a (2+1)D convolution.

    Chosen so that the pair has as many parameters as the 3x3x3 convolution it stands
    for: floor(3*3*3*in*out / (3*3*in + 3*out)) (R(2+1)D paper, section 3.5).
    """
    return (27 * in_planes * out_planes) // (9 * in_planes + 3 * out_planes)


def build(
    depth: int = 18,
    *,
    width: float = 1.0,
    settings: LayerSettings | None = None,
    name: str = "video_encoder",
) -> keras.Model:
    """Builds the encoder.

    Args:
      depth: 10, 18 or 34; as usual it counts a pair as one and the classifier too.
      width: multiplies the 64, 128, 256, 512 channels of the four stages.
      settings: what all layers share; LayerSettings() by default.
      name: name of the Keras model.

    Returns:
      A model from normalised clips [B, T, H, W, 3] float32, any T, H, W, to features
      [B, 512 * width] float32: the mean over time and space of the last stage.

    Raises:
      ValueError: on an unknown depth or a width that leaves a stage without channels.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(
            f"video_encoder.depth={depth} is not one of {sorted(BLOCKS_PER_STAGE)}."
        )
    if int(64 * width) < 2:
        raise ValueError(f"video_encoder.width={width} leaves fewer than 2 channels.")
    make = LayerMaker(settings or LayerSettings())

    def conv2plus1d(x, planes, stride, name):
        mid = mid_planes(x.shape[-1], planes)
        x = make.conv(
            x,
            mid,
            kernel_size=(1, 3, 3),
            strides=(1, stride, stride),
            name=f"{name}_spatial",
        )
        x = make.relu(make.norm(x, name=f"{name}_mid_norm"), name=f"{name}_mid_relu")
        return make.conv(
            x,
            planes,
            kernel_size=(3, 1, 1),
            strides=(stride, 1, 1),
            name=f"{name}_temporal",
        )

    def block(x, planes, stride, name):
        y = conv2plus1d(x, planes, stride, f"{name}_conv1")
        y = make.relu(make.norm(y, name=f"{name}_norm1"), name=f"{name}_relu1")
        y = conv2plus1d(y, planes, 1, f"{name}_conv2")
        y = make.norm(y, name=f"{name}_norm2")
        if stride > 1 or x.shape[-1] != planes:
            x = make.conv(
                x,
                planes,
                kernel_size=(1, 1, 1),
                strides=(stride,) * 3,
                name=f"{name}_shortcut",
            )
            x = make.norm(x, name=f"{name}_shortcut_norm")
        return make.relu(make.add(x, y, name=f"{name}_add"), name=f"{name}_relu2")

    planes = int(64 * width)
    clips = keras.Input((None, None, None, 3), name="video")
    x = make.conv(
        clips,
        max(1, int(45 * width)),
        kernel_size=(1, 7, 7),
        strides=(1, 2, 2),
        name="stem_spatial",
    )
    x = make.relu(make.norm(x, name="stem_mid_norm"), name="stem_mid_relu")
    x = make.conv(
        x, planes, kernel_size=(3, 1, 1), strides=(1, 1, 1), name="stem_temporal"
    )
    x = make.relu(make.norm(x, name="stem_norm"), name="stem_relu")
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE[depth], start=1):
        for number in range(1, num_blocks + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            x = block(
                x, planes * 2 ** (stage - 1), stride, f"stage{stage}_block{number}"
            )
    return keras.Model(clips, make.features(x), name=name)
