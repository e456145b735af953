"""The encoders of a method with their classification heads."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from xdc_tf.models import audio_resnet, video_resnet
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import compat

MODULES = {"video": video_resnet, "audio": audio_resnet}
MAX_WIDTH = 64.0


class EncoderSettings(NamedTuple):
    """An encoder's network: see video_resnet.build and audio_resnet.build."""

    architecture: str
    depth: int
    width: float


class HeadSettings(NamedTuple):
    """A classification head: the stream whose features it reads, and its classes."""

    stream: str
    num_outputs: int


class TwoStream(NamedTuple):
    """Encoders by stream name and heads by head name."""

    encoders: dict[str, keras.Model]
    heads: dict[str, keras.layers.Dense]

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """Of all encoders and heads, in a fixed order."""
        parts = [*self.encoders.values(), *self.heads.values()]
        return [variable for part in parts for variable in part.trainable_variables]

    @property
    def penalties(self) -> list[tf.Tensor]:
        """The regularisers' terms, scalars."""
        parts = [*self.encoders.values(), *self.heads.values()]
        return [penalty for part in parts for penalty in part.losses]


def encoder_settings(modality: str, values: Any) -> EncoderSettings:
    """The settings of a modality's encoder, from values of any origin.

    Args:
      modality: "video" or "audio".
      values: mapping of architecture, depth and width, as a configuration has it.

    Raises:
      ValueError: on other keys, types or values; names the key.
    """
    key = f"config.{modality}_encoder"
    if not isinstance(values, Mapping) or set(values) != set(EncoderSettings._fields):
        raise ValueError(
            f"{key}={values!r} must have the keys {', '.join(EncoderSettings._fields)}."
        )
    settings = EncoderSettings(**values)
    table = MODULES[modality]
    for name, choices in (
        ("architecture", sorted(table.ARCHITECTURES)),
        ("depth", sorted(table.BLOCKS_PER_STAGE)),
    ):
        value = getattr(settings, name)
        if isinstance(value, bool) or value not in choices:
            raise ValueError(
                f"{key}.{name}={value!r} must be one of {', '.join(map(str, choices))}."
            )
    width = settings.width
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if not is_number or not 0 < width <= MAX_WIDTH:
        raise ValueError(
            f"{key}.width={width!r} must be a number above 0 and up to {MAX_WIDTH:g}."
        )
    return settings


def num_features(settings: EncoderSettings) -> int:
    """How many features an encoder of such settings gives."""
    stages = len(video_resnet.BLOCKS_PER_STAGE[settings.depth])
    return int(64 * settings.width) * 2 ** (stages - 1)


def least_parameters(settings: EncoderSettings) -> int:
    """Fewer parameters than any encoder of such settings has, before it is built.

    A block has two convolutions with at least 3 x 3 x in x out parameters each.
    """
    blocks = video_resnet.BLOCKS_PER_STAGE[settings.depth]
    planes = [int(64 * settings.width) * 2**stage for stage in range(len(blocks))]
    return sum(
        9 * n * n * (2 * count - 1) for n, count in zip(planes, blocks, strict=True)
    )


def build_encoder(
    modality: str, settings: EncoderSettings, layers: LayerSettings, name: str
) -> keras.Model:
    """The encoder of a modality, "video" or "audio"."""
    build = MODULES[modality].build
    return build(**settings._asdict(), settings=layers, name=name)


def build(
    streams: dict[str, str],
    *,
    architectures: dict[str, EncoderSettings],
    layers: LayerSettings,
    heads: dict[str, HeadSettings],
) -> TwoStream:
    """Builds encoders and heads, in the current strategy scope.

    Args:
      streams: name of each encoder -> its modality.
      architectures: by modality.
      layers: what all layers share; each stream's seed is derived from layers.seed.
      heads: by name.
    """
    encoders = {
        stream: build_encoder(
            modality,
            architectures[modality],
            # A large prime, so that runs of neighbouring seeds share no encoder.
            layers._replace(seed=layers.seed + 7919 * number),
            f"{stream}_encoder",
        )
        for number, (stream, modality) in enumerate(streams.items())
    }
    decay = layers.weight_decay
    built_heads = {}
    for name, head in heads.items():
        built_heads[name] = keras.layers.Dense(
            head.num_outputs,
            kernel_regularizer=keras.regularizers.L2(decay / 2) if decay else None,
            dtype="float32",
            name=name,
        )
        built_heads[name].build((None, encoders[head.stream].output_shape[-1]))
    model = TwoStream(encoders, built_heads)
    reset_heads(model, seed=layers.seed)
    return model


def reset_heads(model: TwoStream, *, seed: int) -> None:
    """Gives all heads new weights from N(0, 0.01) and zero biases, in place.

    Cluster ids mean nothing from one clustering to the next, so a head that knows the
    old ones would start wrong (DeepCluster, section 3.3).
    """
    for number, head in enumerate(model.heads.values()):
        weights = tf.random.stateless_normal(
            head.kernel.shape, seed=[seed, number], stddev=0.01
        )
        head.kernel.assign(weights)
        head.bias.assign(tf.zeros(head.bias.shape))


def average_statistics(
    encoders: Iterable[keras.Model], strategy: tf.distribute.Strategy
) -> None:
    """Gives all replicas the mean of their batch-norm statistics, in place.

    Each replica updates its copy from its part of a batch. Until they are averaged an
    example's features depend on the replica that computes them. Replicas of other
    processes are averaged over too, so that all processes call it together. Call it
    outside of `strategy.run`; works inside a `tf.function`.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    statistics = [
        statistic
        for encoder in encoders
        for statistic in compat.tf_variables(encoder.non_trainable_variables)
    ]

    def local_statistics():
        return tf.concat(
            [tf.reshape(statistic, [-1]) for statistic in statistics], axis=0
        )

    # One reduction for all of them.
    means = strategy.reduce(
        tf.distribute.ReduceOp.MEAN, strategy.run(local_statistics), axis=None
    )
    sizes = [statistic.shape.num_elements() for statistic in statistics]
    for statistic, mean in zip(statistics, tf.split(means, sizes), strict=True):
        statistic.assign(tf.reshape(mean, statistic.shape))
