"""Audio encoders: ResNets (He et al., CVPR 2016) over log-mel spectrograms.

One input channel. The default has no max-pooling in its stem, which at 40 filters would
leave too few rows for the later stages: a 100 x 40 spectrogram ends as 7 x 3.
"""

from typing import NamedTuple

import keras

from xdc_tf.models.layers import (
    BLOCKS_PER_STAGE,
    LayerMaker,
    LayerSettings,
    check_resnet,
)


class Architecture(NamedTuple):
    """A row of ARCHITECTURES.

    Attributes:
      batch_norm_epsilon: added to the variance.
      stem_blocks: blocks of 32 channels after a plain 3 x 3 convolution to 16, the
        first of stride 2, in place of a 7 x 7 convolution of stride 2 to 64.
      stem_pool: 3 x 3 max-pooling with stride 2 after the stem.
      first_stage_stride: of stage 1; the other stages halve.
      pool: what makes features of the last stage, "mean" or "max".
    """

    batch_norm_epsilon: float = 1e-5
    stem_blocks: int = 0
    stem_pool: bool = False
    first_stage_stride: int = 1
    pool: str = "mean"


ARCHITECTURES = {
    "resnet": Architecture(),
    # torchvision's ResNet with one input channel.
    "resnet_torchvision": Architecture(stem_pool=True),
    # The audio network of VMZ, the code base that XDC's authors built on.
    "resnet_vmz": Architecture(
        batch_norm_epsilon=1e-3, stem_blocks=3, first_stage_stride=2, pool="max"
    ),
}


def build(
    architecture: str = "resnet",
    *,
    depth: int = 18,
    width: float = 1.0,
    settings: LayerSettings | None = None,
    name: str = "audio_encoder",
) -> keras.Model:
    """Builds the encoder.

    Args:
      architecture: a key of ARCHITECTURES.
      depth: 4, 10, 18 or 34; as usual it counts the classifier too, and no stem blocks.
      width: multiplies the 64, 128, 256, 512 channels of the four stages.
      settings: what all layers share; LayerSettings() by default.
      name: name of the Keras model.

    Returns:
      A model from normalised log-mel [B, frames, mels, 1] float32, any number of frames
      and mels, to features [B, 512 * width] float32.

    Raises:
      ValueError: on an unknown architecture or depth, or a width that leaves a stage
        without channels.
    """
    planes = check_resnet(
        "audio", architecture, depth, width, among=ARCHITECTURES, least_planes=4
    )
    form = ARCHITECTURES[architecture]
    make = LayerMaker(
        settings or LayerSettings(), batch_norm_epsilon=form.batch_norm_epsilon
    )

    log_mel = keras.Input((None, None, 1), name="audio")
    x = _stem(make, form, log_mel, planes)
    strides = (form.first_stage_stride, 2, 2, 2)
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE[depth], start=1):
        for number in range(1, num_blocks + 1):
            x = _block(
                make,
                x,
                planes * 2 ** (stage - 1),
                strides[stage - 1] if number == 1 else 1,
                f"stage{stage}_block{number}",
            )
    return keras.Model(log_mel, make.features(x, pool=form.pool), name=name)


def _stem(make: LayerMaker, form: Architecture, x, planes: int):
    if form.stem_blocks:
        x = _conv(make, x, planes // 4, 3, 1, "stem_conv", use_bias=True)
        for number in range(1, form.stem_blocks + 1):
            stride = 2 if number == 1 else 1
            x = _block(make, x, planes // 2, stride, f"stem_block{number}")
    else:
        x = _conv(make, x, planes, 7, 2, "stem_conv")
        x = make.relu(make.norm(x, name="stem_norm"), name="stem_relu")
    return make.max_pool(x, name="stem_pool") if form.stem_pool else x


def _block(make: LayerMaker, x, planes: int, stride: int, name: str):
    y = _conv(make, x, planes, 3, stride, f"{name}_conv1")
    y = make.relu(make.norm(y, name=f"{name}_norm1"), name=f"{name}_relu1")
    y = _conv(make, y, planes, 3, 1, f"{name}_conv2")
    y = make.norm(y, name=f"{name}_norm2")
    if stride > 1 or x.shape[-1] != planes:
        x = _conv(make, x, planes, 1, stride, f"{name}_shortcut")
        x = make.norm(x, name=f"{name}_shortcut_norm")
    return make.relu(make.add(x, y, name=f"{name}_add"), name=f"{name}_relu2")


def _conv(
    make: LayerMaker,
    x,
    planes: int,
    size: int,
    stride: int,
    name: str,
    use_bias: bool = False,
):
    """Convolution with a square kernel."""
    return make.conv(
        x,
        planes,
        kernel_size=(size, size),
        strides=(stride, stride),
        name=name,
        use_bias=use_bias,
    )
