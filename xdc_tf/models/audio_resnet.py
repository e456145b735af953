"""ResNet (He et al., CVPR 2016) over log-mel spectrograms: the audio encoder.

One input channel. Without the stem's max-pooling, which at 40 filters would leave too
few rows for the later stages: a 100 x 40 spectrogram ends as 7 x 3.
"""

import keras

from xdc_tf.models.layers import LayerMaker, LayerSettings

BLOCKS_PER_STAGE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}


def build(
    depth: int = 18,
    *,
    width: float = 1.0,
    settings: LayerSettings | None = None,
    name: str = "audio_encoder",
) -> keras.Model:
    """Builds the encoder.

    Args:
      depth: 10 or 18; as usual it counts the classifier too.
      width: multiplies the 64, 128, 256, 512 channels of the four stages.
      settings: what all layers share; LayerSettings() by default.
      name: name of the Keras model.

    Returns:
      A model from normalised log-mel [B, frames, mels, 1] float32, any number of frames
      and mels, to features [B, 512 * width] float32.

    Raises:
      ValueError: on an unknown depth or a width that leaves a stage without channels.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(
            f"audio_encoder.depth={depth} is not one of {sorted(BLOCKS_PER_STAGE)}."
        )
    if int(64 * width) < 1:
        raise ValueError(f"audio_encoder.width={width} leaves no channels.")
    make = LayerMaker(settings or LayerSettings())

    def conv(x, planes, size, stride, name):
        return make.conv(
            x, planes, kernel_size=(size,) * 2, strides=(stride,) * 2, name=name
        )

    def block(x, planes, stride, name):
        y = conv(x, planes, 3, stride, f"{name}_conv1")
        y = make.relu(make.norm(y, name=f"{name}_norm1"), name=f"{name}_relu1")
        y = conv(y, planes, 3, 1, f"{name}_conv2")
        y = make.norm(y, name=f"{name}_norm2")
        if stride > 1 or x.shape[-1] != planes:
            x = conv(x, planes, 1, stride, f"{name}_shortcut")
            x = make.norm(x, name=f"{name}_shortcut_norm")
        return make.relu(make.add(x, y, name=f"{name}_add"), name=f"{name}_relu2")

    planes = int(64 * width)
    log_mel = keras.Input((None, None, 1), name="audio")
    x = conv(log_mel, planes, 7, 2, "stem_conv")
    x = make.relu(make.norm(x, name="stem_norm"), name="stem_relu")
    for stage, num_blocks in enumerate(BLOCKS_PER_STAGE[depth], start=1):
        for number in range(1, num_blocks + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            x = block(
                x, planes * 2 ** (stage - 1), stride, f"stage{stage}_block{number}"
            )
    return keras.Model(log_mel, make.features(x), name=name)
