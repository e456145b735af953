"""The encoders of a method with their classification heads."""

from collections.abc import Container, Iterable
from typing import NamedTuple

import keras
import tensorflow as tf

from xdc_tf.data.clips import ClipSettings
from xdc_tf.models import encoder_table
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import compat


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


def build(
    streams: dict[str, str],
    *,
    architectures: dict[str, EncoderSettings],
    clip: ClipSettings,
    layers: LayerSettings,
    heads: dict[str, HeadSettings],
) -> TwoStream:
    """Builds encoders and heads, in the current strategy scope.

    Args:
      streams: name of each encoder -> its modality.
      architectures: by modality.
      clip: that the encoders see.
      layers: what all layers share; each stream's seed is derived from layers.seed.
      heads: by name.
    """
    encoders = {
        stream: encoder_table.build(
            architectures[modality],
            # A large prime, so that runs of neighbouring seeds share no encoder.
            layers._replace(seed=layers.seed + 7919 * number),
            f"{stream}_encoder",
            clip,
        )
        for number, (stream, modality) in enumerate(streams.items())
    }
    built_heads = {
        name: make_head(
            head.num_outputs,
            encoders[head.stream].output_shape[-1],
            weight_decay=layers.weight_decay,
            name=name,
        )
        for name, head in heads.items()
    }
    model = TwoStream(encoders, built_heads)
    reset_heads(model, seed=layers.seed)
    return model


def make_head(
    num_outputs: int, num_inputs: int, *, weight_decay: float, name: str
) -> keras.layers.Dense:
    """A classification head in float32; reset_heads gives it its weights."""
    head = keras.layers.Dense(
        num_outputs,
        kernel_regularizer=keras.regularizers.L2(weight_decay / 2)
        if weight_decay
        else None,
        dtype="float32",
        name=name,
    )
    head.build((None, num_inputs))
    return head


def stage_rates(
    model: TwoStream,
    streams: dict[str, str],
    architectures: dict[str, EncoderSettings],
    decay: float,
) -> list[float]:
    """For each trainable variable its learning rate by that of the heads.

    Args:
      model: by `build`.
      streams: name of each encoder -> its modality.
      architectures: by modality.
      decay: rate of a stage of an encoder by that of the one above; the top stage and
        the heads have 1.
    """
    rates = []
    for stream, encoder in model.encoders.items():
        row = encoder_table.ENCODERS[architectures[streams[stream]].architecture]
        rates += encoder_table.stage_rates(row.stage, encoder, decay)
    return rates + [1.0] * (len(model.trainable_variables) - len(rates))


def reset_heads(model: TwoStream, *, seed: int, kept: Container[str] = ()) -> None:
    """Gives heads new weights from N(0, 0.01) and zero biases, in place.

    Cluster ids mean nothing from one clustering to the next, so a head that knows the
    old ones would start wrong (DeepCluster, section 3.3).

    Args:
      model: encoders and heads.
      seed: of the weights.
      kept: names of the heads that stay as they are.
    """
    for number, (name, head) in enumerate(model.heads.items()):
        if name in kept:
            continue
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
        for statistic in compat.tf_variables(encoder.non_trainable_weights)
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
