"""The encoders, as one table: what each sees, its settings and what builds it.

A further encoder takes a module of its own and a row of ENCODERS. It is a functional
Keras model of one input and one output, channels last, in which each layer occurs once:
from a batch of clips, of any size or of that of the run, to [B, D] float32 features.
Everything else follows from the row and from the model's layers: configuration,
training, folding of batch norm, files, exports, plans and layer-wise learning rates.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, Protocol

import keras

from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.models import audio_resnet, transformer, video_resnet
from xdc_tf.models.layers import BLOCKS_PER_STAGE, LayerSettings
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import typed_settings
from xdc_tf.runtime.typed_settings import TEXT, Choice, Number

_RESNET_STAGE = re.compile(r"stem|stage([1-4])")


class EncoderSettings(Protocol):
    """Settings of any encoder: a NamedTuple whose fields are annotated with ranges."""

    @property
    def architecture(self) -> str:
        """Name of the encoder's row."""

    def _asdict(self) -> dict[str, Any]: ...


class Encoder(NamedTuple):
    """A row of ENCODERS.

    Attributes:
      modality: what the encoder sees: "video", clips [B, T, H, W, 3], or "audio",
        log-mel [B, frames, filters, 1]; both float32 and normalised.
      settings: NamedTuple class of the keys of config.MODALITY_encoder, `architecture`
        among them; see typed_settings.
      build: build(settings, layers, name, clip_shape) -> keras.Model, for clips of any
        size or of that shape, [T, H, W, 3] or [frames, filters, 1].
      num_features: num_features(settings) -> D.
      least_parameters: least_parameters(settings) -> a number that the encoder has no
        fewer parameters than, so that files are refused before it is built.
      stage: stage(layer name) -> 0 for the stem, ascending to the top: learning rates
        may fall from stage to stage in finetuning. It knows every layer with weights.
      check: check(settings, clip_shape) raises a ValueError that names the key where
        the encoder cannot be built of them.
      copy_weights: copy_weights(source, target) gives an encoder the weights of another
        one of the same settings, built for clips of the same shape or another one.
      recomputes: whether models.recomputation can train it.
    """

    modality: str
    settings: type
    build: Callable[[Any, LayerSettings, str, tuple[int, ...]], keras.Model]
    num_features: Callable[[Any], int]
    least_parameters: Callable[[Any], int]
    stage: Callable[[str], int]
    check: Callable[[Any, tuple[int, ...]], None] = lambda settings, clip_shape: None
    copy_weights: Callable[[keras.Model, keras.Model], None] = lambda source, target: (
        target.set_weights(source.get_weights())
    )
    recomputes: bool = False


class ResNetSettings(NamedTuple):
    """A residual network: see video_resnet.build and audio_resnet.build."""

    architecture: Annotated[str, TEXT]
    depth: Annotated[int, Choice(tuple(BLOCKS_PER_STAGE))]
    width: Annotated[float, Number(0, 64, above=True)]


def _resnet_features(settings: ResNetSettings) -> int:
    stages = len(BLOCKS_PER_STAGE[settings.depth])
    return int(64 * settings.width) * 2 ** (stages - 1)


def _resnet_least_parameters(settings: ResNetSettings) -> int:
    """A block has two convolutions with at least 3 x 3 x in x out parameters each."""
    blocks = BLOCKS_PER_STAGE[settings.depth]
    planes = [int(64 * settings.width) * 2**stage for stage in range(len(blocks))]
    return sum(
        9 * n * n * (2 * count - 1) for n, count in zip(planes, blocks, strict=True)
    )


def _resnet_stage(layer_name: str) -> int:
    match = _RESNET_STAGE.match(layer_name)
    if not match:
        raise ValueError(f"layer {layer_name!r} is of no stage of a residual network.")
    return int(match[1] or 0)


def _resnet(modality: str, build: Callable[..., keras.Model]) -> Encoder:
    return Encoder(
        modality,
        ResNetSettings,
        lambda settings, layers, name, clip_shape: build(
            **settings._asdict(), settings=layers, name=name
        ),
        _resnet_features,
        _resnet_least_parameters,
        _resnet_stage,
    )


def _transformer(modality: str, settings: type) -> Encoder:
    return Encoder(
        modality,
        settings,
        transformer.build,
        transformer.num_features,
        transformer.least_parameters,
        transformer.stage,
        transformer.check,
        transformer.copy_weights,
        recomputes=True,
    )


# By config.MODALITY_encoder.architecture.
ENCODERS = {
    name: _resnet(modality, module.build)
    for modality, module in ((VIDEO, video_resnet), (AUDIO, audio_resnet))
    for name in module.ARCHITECTURES
} | {
    "vit": _transformer(VIDEO, transformer.TubeletSettings),
    "ast": _transformer(AUDIO, transformer.SpectrogramSettings),
}


def settings_of(modality: str, values: Any) -> EncoderSettings:
    """The settings of a modality's encoder, from values of any origin.

    Args:
      modality: "video" or "audio".
      values: mapping, as a configuration has it.

    Raises:
      ValueError: on other keys, types or values; names the key.
    """
    key = f"config.{modality}_encoder"
    names = sorted(name for name, row in ENCODERS.items() if row.modality == modality)
    if not isinstance(values, Mapping) or "architecture" not in values:
        raise ValueError(f"{key}={values!r} must have the key architecture.")
    architecture = values["architecture"]
    choice = Choice(tuple(names))
    if not choice.fits(architecture):
        raise ValueError(f"{key}.architecture={architecture!r} must be {choice}.")
    kind = ENCODERS[architecture].settings
    settings: EncoderSettings = typed_settings.from_mapping(kind, values, key=key)
    typed_settings.check(settings, key=key)
    return settings


def build(
    settings: EncoderSettings, layers: LayerSettings, name: str, clip: ClipSettings
) -> keras.Model:
    """Builds an encoder.

    Args:
      settings: of its row's class.
      layers: what its layers share.
      name: of the model.
      clip: that it will see.

    Raises:
      ValueError: if it cannot be built for such clips; names the key.
    """
    row = ENCODERS[settings.architecture]
    return row.build(settings, layers, name, _clip_shape(settings, clip))


def check(settings: EncoderSettings, clip: ClipSettings) -> None:
    """Checks, before anything is built, that an encoder fits clips.

    Raises:
      ValueError: if it does not; names the key.
    """
    row = ENCODERS[settings.architecture]
    row.check(settings, _clip_shape(settings, clip))


def check_recomputes(encoders: Iterable[EncoderSettings]) -> None:
    """Checks that gradient checkpointing can be asked for.

    Raises:
      ValueError: none of the encoders can be trained so.
    """
    if not any(ENCODERS[encoder.architecture].recomputes for encoder in encoders):
        raise ValueError(
            "config.training.gradient_checkpointing=True is for transformers: batch "
            "norm would count a batch twice. Lower the batch, or the memory it takes "
            "(config.precision, config.training.accumulate_steps of pretraining)."
        )


def copy_weights(
    settings: EncoderSettings, source: keras.Model, target: keras.Model
) -> None:
    """Gives an encoder the weights of another one of the same settings, in place.

    Args:
      settings: of both.
      source: built for clips of the same size or another one.
      target: whose weights are set.
    """
    ENCODERS[settings.architecture].copy_weights(source, target)


def stage_rates(
    stage: Callable[[str], int], encoder: keras.Model, decay: float
) -> list[float]:
    """Learning rates that fall from the top stage to the stem.

    Args:
      stage: of the encoder's row.
      encoder: whose layers.
      decay: rate of a stage by that of the one above.

    Returns:
      For each of encoder.trainable_variables the rate by that of the top stage.
    """
    stages = {
        id(variable): stage(layer.name)
        for layer in encoder.layers
        for variable in layer.trainable_variables
    }
    top = max(stages.values())
    return [
        decay ** (top - stages[id(variable)])
        for variable in encoder.trainable_variables
    ]


def _clip_shape(settings: EncoderSettings, clip: ClipSettings) -> tuple[int, ...]:
    return MODALITIES[ENCODERS[settings.architecture].modality].clip_shape(clip)


def num_features(settings: EncoderSettings) -> int:
    """How many features an encoder of such settings gives."""
    return ENCODERS[settings.architecture].num_features(settings)


def least_parameters(settings: EncoderSettings) -> int:
    """Fewer parameters than any encoder of such settings has, before it is built."""
    return ENCODERS[settings.architecture].least_parameters(settings)
