"""Transformer encoders: patches of clips or of log-mel as tokens, pre-norm blocks.

A ViT (Dosovitskiy et al., ICLR 2021) over tubelets of frames, as in ViViT (Arnab et
al., ICCV 2021), or over patches of a spectrogram, as in AST (Gong et al., Interspeech
2021). All layers are stock Keras ones:

- Positions are the bias of an elementwise EinsumDense, one row for each token. Class
  and register tokens are rows of zeros before it, so that its bias is all they are.
- Stochastic depth is Dropout with one draw for each example.

A transformer is built for clips of one shape. Weights of another shape are taken over
by `copy_weights`, which resizes the positions.
"""

import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.models import token_layers, token_positions
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime.typed_settings import TEXT, Choice, Number, Whole


class Size(NamedTuple):
    """Features of a token, and attention heads, of 64 features each."""

    width: int
    num_heads: int


# As of DeiT (Touvron et al., ICML 2021); each has 12 blocks there.
SIZES = {"Ti": Size(192, 3), "S": Size(384, 6), "B": Size(768, 12)}
# Attention over all tokens, or first over those of one place, then of one time
# (Bertasius et al., ICML 2021).
JOINT, DIVIDED = "joint", "divided"
# Features: mean of the normalised patch tokens; norm of the mean of the patch tokens;
# mean of the normalised class tokens.
MEAN, MEAN_THEN_NORM, CLASS = "mean", "mean_then_norm", "class"

_STAGE = re.compile(r"patches|positions|block([0-9]+)_")
_BLOCK_END = re.compile(r"block[0-9]+_mlp_add$")
_EPSILON = 1e-6
_INITIAL_STDDEV = 0.02
_MLP_RATIO = 4


class TubeletSettings(NamedTuple):
    """A video transformer.

    Attributes:
      architecture: "vit".
      size: key of SIZES.
      depth: number of blocks.
      tubelet: frames of a patch.
      patch: side of a patch in pixels.
      attention: JOINT or DIVIDED.
      pool: MEAN, MEAN_THEN_NORM or CLASS.
      class_tokens: learned tokens whose outputs may be the features; with DIVIDED so
        many for each time.
      register_tokens: learned tokens whose outputs are dropped (Darcet et al., ICLR
        2024).
      drop_path: probability that training leaves out a branch of the last block for an
        example; it rises linearly from 0 at the first.
    """

    architecture: Annotated[str, TEXT]
    size: Annotated[str, Choice(tuple(SIZES))]
    depth: Annotated[int, Whole(1, 64)]
    tubelet: Annotated[int, Whole(1, 64)]
    patch: Annotated[int, Whole(1, 256)]
    attention: Annotated[str, Choice((JOINT, DIVIDED))]
    pool: Annotated[str, Choice((MEAN, MEAN_THEN_NORM, CLASS))]
    class_tokens: Annotated[int, Whole(0, 8)]
    register_tokens: Annotated[int, Whole(0, 64)]
    drop_path: Annotated[float, Number(0, 1, below=True)]


class SpectrogramSettings(NamedTuple):
    """An audio transformer; see TubeletSettings.

    Attributes:
      patch: side of a patch in log-mel frames and in filters.
      stride: from patch to patch; below `patch` they overlap, as in AST. What is left
        at the end of the frames or filters is not seen.
    """

    architecture: Annotated[str, TEXT]
    size: Annotated[str, Choice(tuple(SIZES))]
    depth: Annotated[int, Whole(1, 64)]
    patch: Annotated[int, Whole(1, 256)]
    stride: Annotated[int, Whole(1, 256)]
    pool: Annotated[str, Choice((MEAN, MEAN_THEN_NORM, CLASS))]
    class_tokens: Annotated[int, Whole(0, 8)]
    register_tokens: Annotated[int, Whole(0, 64)]
    drop_path: Annotated[float, Number(0, 1, below=True)]


Settings = TubeletSettings | SpectrogramSettings


def check(settings: Settings, clip_shape: Sequence[int]) -> None:
    """Checks settings against each other and against clips.

    Args:
      settings: of the encoder.
      clip_shape: [T, H, W, 3] or [frames, filters, 1].

    Raises:
      ValueError: on clips that are no whole number of tubelets or patches, a
        spectrogram smaller than a patch, or features of class tokens that are not
        there; names the key.
    """
    if isinstance(settings, TubeletSettings):
        num_frames, side = clip_shape[0], clip_shape[2]
        for key, value, of, size in (
            ("tubelet", settings.tubelet, "num_frames", num_frames),
            ("patch", settings.patch, "crop_size", side),
        ):
            if size % value:
                raise ValueError(
                    f"config.video_encoder.{key}={value} does not divide "
                    f"config.clip.{of}={size}; change one of them."
                )
        key = "config.video_encoder"
    else:
        frames, filters = clip_shape[:2]
        if min(frames, filters) < settings.patch:
            raise ValueError(
                f"config.audio_encoder.patch={settings.patch} is larger than the "
                f"log-mel of a clip, {frames} frames of {filters} filters; lower it, "
                "or raise config.clip.audio_secs or config.log_mel.num_filters."
            )
        key = "config.audio_encoder"
    if settings.pool == CLASS and not settings.class_tokens:
        raise ValueError(
            f"{key}.pool={CLASS} needs {key}.class_tokens of 1 or more; it is 0."
        )


def build(
    settings: Settings, layers: LayerSettings, name: str, clip_shape: Sequence[int]
) -> keras.Model:
    """Builds an encoder for clips of one shape.

    Args:
      settings: of the encoder.
      layers: what all layers share.
      name: of the Keras model.
      clip_shape: [T, H, W, 3] or [frames, filters, 1].

    Returns:
      A model from normalised clips [B, *clip_shape] float32 to features [B, D] float32.

    Raises:
      ValueError: see `check`.
    """
    check(settings, clip_shape)
    make = _Layers(settings, layers)
    clips = keras.Input(tuple(clip_shape), name=_modality(settings))
    x = make.tokens(clips)
    for number in range(1, settings.depth + 1):
        x = make.block(x, number)
    model = keras.Model(clips, make.features(x), name=name)
    _initialize(model, layers.seed)
    return model


def num_features(settings: Settings) -> int:
    """How many features the encoder gives."""
    return SIZES[settings.size].width


def least_parameters(settings: Settings) -> int:
    """Those of the kernels of all blocks."""
    attentions = 2 if _is_divided(settings) else 1
    kernels = 4 * attentions + 2 * _MLP_RATIO
    return settings.depth * kernels * SIZES[settings.size].width ** 2


def stage(layer_name: str) -> int:
    """0 for patches and positions, else the number of the block."""
    match = _STAGE.match(layer_name)
    if not match:
        raise ValueError(f"layer {layer_name!r} is of no block of a transformer.")
    return int(match[1] or 0)


def block_ends(encoder: keras.Model) -> list[str]:
    """Names of the layers whose outputs go from block to block, in order.

    The first is that of the positions, before the first block; [] of an encoder that is
    no transformer.
    """
    names = [layer.name for layer in encoder.layers if _BLOCK_END.match(layer.name)]
    return ["positions", *names] if names else []


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Gives a transformer the weights of one for clips of another shape, in place.

    Positions are resized, bicubic in space, or in time and frequency, and linear in
    the frames' time.

    Args:
      source: made by `build` with the settings of `target`.
      target: whose weights are set.
    """
    for layer in target.layers:
        weights = source.get_layer(layer.name).get_weights()
        if layer.name == "positions":
            scale, positions = weights
            grids = (_grid(source), _grid(target))
            weights = [scale, token_positions.resize(positions, *grids)]
        layer.set_weights(weights)


def _grid(model: keras.Model) -> tuple[int, ...]:
    return tuple(model.get_layer("patches").output.shape[1:-1])


def _modality(settings: Settings) -> str:
    return "video" if isinstance(settings, TubeletSettings) else "audio"


def _is_divided(settings: Settings) -> bool:
    return getattr(settings, "attention", JOINT) == DIVIDED


class _Layers:
    """Makes the parts of a transformer."""

    def __init__(self, settings: Settings, layers: LayerSettings):
        self._settings = settings
        self._layers = layers
        self._size = SIZES[settings.size]

    def tokens(self, clips):
        """[B, T, H, W, 3] -> [B, n, D], or [B, T, n, D] for divided attention."""
        settings, width = self._settings, self._size.width
        if isinstance(settings, TubeletSettings):
            conv, sides = (
                keras.layers.Conv3D,
                (settings.tubelet,) + (settings.patch,) * 2,
            )
            strides: tuple[int, ...] = sides
        else:
            conv, sides = keras.layers.Conv2D, (settings.patch,) * 2
            strides = (settings.stride,) * 2
        x = conv(width, sides, strides, **self._kernels("patches"))(clips)
        time, *place = x.shape[1:-1]
        num_extra = settings.class_tokens + settings.register_tokens
        if _is_divided(settings):
            shape = [time, place[0] * place[1], width]
            pads, axes = ((0, 0), (num_extra, 0)), "tnd"
            pad: type = keras.layers.ZeroPadding2D
        else:
            shape = [time * int(np.prod(place)), width]
            pads, axes = (num_extra, 0), "nd"
            pad = keras.layers.ZeroPadding1D
        x = keras.layers.Reshape(shape, **self._named("tokens"))(x)
        if num_extra:
            x = pad(pads, **self._named("extra_tokens"))(x)
        layer = (
            token_layers.ScaleAndShift
            if self._layers.fast
            else keras.layers.EinsumDense
        )
        return layer(
            f"b{axes},d->b{axes}",
            output_shape=x.shape[1:],
            bias_axes=axes,
            kernel_initializer="ones",
            bias_initializer=_initializer(),
            **self._named("positions"),
        )(x)

    def block(self, x, number: int):
        """Attention and an MLP, each added to what it reads."""
        name = f"block{number}"
        if _is_divided(self._settings):
            x = self._attention(x, 1, number, f"{name}_time")
            x = self._attention(x, 2, number, f"{name}_space")
        else:
            x = self._attention(x, 1, number, name)
        y = self._norm(x, f"{name}_mlp_norm")
        hidden = _MLP_RATIO * self._size.width
        dense = token_layers.Dense if self._layers.fast else keras.layers.Dense
        y = dense(
            hidden,
            activation=token_layers.gelu if self._layers.fast else "gelu",
            **self._kernels(f"{name}_mlp_hidden"),
        )(y)
        y = dense(self._size.width, **self._kernels(f"{name}_mlp_output"))(y)
        return self._add(x, y, number, f"{name}_mlp")

    def _attention(self, x, axis: int, number: int, name: str):
        y = self._norm(x, f"{name}_norm")
        attention = (
            token_layers.SelfAttention
            if self._layers.fast
            else keras.layers.MultiHeadAttention
        )
        y = attention(
            self._size.num_heads,
            self._size.width // self._size.num_heads,
            attention_axes=(axis,),
            **self._kernels(f"{name}_attention"),
        )(y, y)
        return self._add(x, y, number, name)

    def _add(self, x, y, number: int, name: str):
        depth = self._settings.depth
        rate = self._settings.drop_path * (number - 1) / max(1, depth - 1)
        if rate:
            shape = (None,) + (1,) * (len(y.shape) - 1)
            drop = token_layers.DropPath if self._layers.fast else keras.layers.Dropout
            y = drop(rate, noise_shape=shape, **self._named(f"{name}_drop"))(y)
        return keras.layers.Add(**self._named(f"{name}_add"))([x, y])

    def _norm(self, x, name: str):
        return keras.layers.LayerNormalization(epsilon=_EPSILON, **self._named(name))(x)

    def features(self, x):
        """Of the last block's tokens."""
        settings = self._settings
        num_class = settings.class_tokens
        num_extra = num_class + settings.register_tokens
        norm = f"block{settings.depth}_final_norm"
        if settings.pool != MEAN_THEN_NORM:
            x = self._norm(x, norm)
        kept = (
            (0, x.shape[-2] - num_class) if settings.pool == CLASS else (num_extra, 0)
        )
        is_4d = len(x.shape) == 4
        if any(kept):
            crop = keras.layers.Cropping2D if is_4d else keras.layers.Cropping1D
            sides = ((0, 0), kept) if is_4d else kept
            x = crop(sides, **self._named("pooled_tokens"))(x)
        pool = (
            keras.layers.GlobalAveragePooling2D
            if is_4d
            else keras.layers.GlobalAveragePooling1D
        )
        if settings.pool != MEAN_THEN_NORM:
            return pool(dtype="float32", name="features")(x)
        x = pool(dtype="float32", name="mean")(x)
        return keras.layers.LayerNormalization(
            epsilon=_EPSILON, dtype="float32", name=norm
        )(x)

    def _named(self, name: str) -> dict:
        return {"dtype": self._layers.dtype, "name": name}

    def _kernels(self, name: str) -> dict:
        decay = self._layers.weight_decay
        return self._named(name) | {
            "kernel_initializer": _initializer(),
            "kernel_regularizer": keras.regularizers.L2(decay / 2) if decay else None,
        }


def _initializer():
    return keras.initializers.TruncatedNormal(stddev=_INITIAL_STDDEV)


def _initialize(model: keras.Model, seed: int) -> None:
    """Draws the kernels and positions from a normal distribution cut at two deviations.

    Not by Keras's initializers: one with a seed would give the queries, keys and values
    of a layer the same kernel.
    """
    drawn = [weight for layer in model.layers for weight in _drawn_weights(layer)]
    for number, weight in enumerate(drawn):
        weight.assign(
            tf.random.stateless_truncated_normal(
                weight.shape, seed=[seed, number], stddev=_INITIAL_STDDEV
            )
        )


def _drawn_weights(layer: keras.layers.Layer) -> list:
    if isinstance(layer, keras.layers.MultiHeadAttention):
        # Biases have two axes, heads and features of each.
        return [weight for weight in layer.weights if len(weight.shape) == 3]
    if layer.name == "positions":
        return [layer.bias]
    return [layer.kernel] if hasattr(layer, "kernel") else []
