"""One update of all encoders and heads, on all devices of a strategy."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.models import recomputation, token_layers
from xdc_tf.models.two_stream import TwoStream
from xdc_tf.runtime import compat
from xdc_tf.training import losses, supervision


class StepResult(NamedTuple):
    """What a step over a batch gives.

    Attributes:
      sums: of losses.head_losses, over all devices.
      encoded: the features that the heads read, distributed, with example_index -1 for
        padding (features.examples_on_host takes it); None if not asked for.
      finite: bool scalar, whether an update was wanted: if a loss or gradient is not
        finite, weights, optimizer and statistics are as before the step. With loss
        scaling True as long as a lower scale may help. None in evaluation.
    """

    sums: dict[str, dict[str, tf.Tensor]]
    encoded: ExampleFeatures | None
    finite: tf.Tensor | None = None


class StepSettings(NamedTuple):
    """How a training step goes over its batch.

    Attributes:
      global_batch_size: clips of all devices, for one update.
      accumulate_steps: equal parts that each device computes its batch in, one after
        the other, their gradients added up: the same step, but for batch norm, which
        sees a part at a time.
      recomputes: gradient checkpointing of the encoders that allow it, see
        models.recomputation.
      returns_features: whether the result has the features computed on the way.
      jit_compile: whether XLA compiles the whole step, which needs a strategy of one
        device.
      compiled_update: whether XLA compiles the update of the weights, on one device:
        TensorFlow starts five operations for each of them, most of which are small.
      clip_norm: most length of all gradients together; 0: any.
      seed: of what the encoders draw in training.
    """

    global_batch_size: int
    accumulate_steps: int = 1
    recomputes: bool = False
    returns_features: bool = False
    jit_compile: bool = False
    compiled_update: bool = False
    clip_norm: float = 0.0
    seed: int = 0


class _Step(NamedTuple):
    """What the functions of a training step work on."""

    model: TwoStream
    method: supervision.Method
    optimizer: Any
    strategy: tf.distribute.Strategy
    settings: StepSettings
    # The model, or one whose encoders compute their blocks again.
    encoding: TwoStream

    @property
    def statistics(self) -> list[tf.Variable]:
        """Of batch norm, which moves them on the way forward."""
        return [
            statistic
            for encoder in self.model.encoders.values()
            for statistic in compat.tf_variables(encoder.non_trainable_weights)
        ]


class _Gradients(NamedTuple):
    """What one replica computes from its part of the batch."""

    sums: dict[str, dict[str, tf.Tensor]]
    streams: dict[str, tf.Tensor]  # the features that the heads read, if returned
    gradients: list[tf.Tensor]


def make_train_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    optimizer,
    *,
    strategy: tf.distribute.Strategy,
    settings: StepSettings,
) -> Callable[[dict], StepResult]:
    """The function that takes a distributed batch and updates.

    The loss of each head is its summed cross-entropy over all devices divided by the
    global batch size, and the heads' losses are added up, or averaged over several
    clusterings of one source; so n devices take the same step as one.

    Args:
      model: encoders and heads.
      method: which head learns from which labels.
      label_tables: for each label source [num_rows] int32, -1 for no label.
      optimizer: by optimizers.make, of the model's variables.
      strategy: of the model's variables.
      settings: how the step goes over its batch.
    """
    encoding = _recomputing(model) if settings.recomputes else model
    step = _Step(model, method, optimizer, strategy, settings, encoding)

    def look_up(index):
        return losses.labels_of(label_tables, index)

    def update(batch, labels):
        statistics = strategy.run(lambda: list(map(tf.identity, step.statistics)))
        computed = _batch_gradients(step, batch, labels)
        gradients = strategy.run(_sum_over_replicas, args=(computed.gradients,))
        sums = _sum_over_devices(strategy, computed.sums)
        finite = _update_if_finite(step, gradients, sums, statistics)
        encoded = None
        if settings.returns_features:
            encoded = strategy.run(_replica_features, args=(batch, computed.streams))
        return StepResult(sums, encoded, finite)

    if settings.jit_compile:
        update = tf.function(update, autograph=False, jit_compile=True)

    @tf.function(autograph=False)
    def train_step(batch):
        # The tables are on the host, which XLA's programs for a GPU cannot read.
        return update(batch, strategy.run(look_up, args=(batch["example_index"],)))

    return train_step


def _recomputing(model: TwoStream) -> TwoStream:
    """The model with encoders to be called in training, not to be asked for weights."""
    encoders: dict[str, Any] = {
        stream: recomputation.recomputing(encoder)
        if recomputation.is_possible(encoder)
        else encoder
        for stream, encoder in model.encoders.items()
    }
    return model._replace(encoders=encoders)


def _batch_gradients(step: _Step, batch, labels) -> _Gradients:
    """Of all replicas, each over its whole batch, part by part."""
    num_parts = step.settings.accumulate_steps

    def run(function, *args):
        return step.strategy.run(functools.partial(function, step), args=args)

    if num_parts == 1:
        return run(_part_gradients, batch, labels)
    # Outside of the replicas: they cannot meet in a loop of their own, as they do for
    # synchronised batch norm.
    _, total = tf.while_loop(
        lambda number, _: number < num_parts,
        lambda number, before: (
            number + 1,
            run(_add_part, batch, labels, number, before),
        ),
        (0, run(_zero_gradients, batch)),
        parallel_iterations=1,
    )
    return total


def _part_gradients(step: _Step, batch, labels) -> _Gradients:
    """In one replica: the losses and gradients of a part of its batch."""
    settings = step.settings
    weights = supervision.head_weights(step.method)
    context = tf.distribute.get_replica_context()
    with tf.GradientTape() as tape:
        with token_layers.random_seed(_random_seed(step, batch)):
            encoded = losses.encode(step.encoding, step.method, batch, training=True)
        sums = losses.head_losses(step.model, step.method, labels, encoded)
        parts = [head_sums["loss"] * weights[head] for head, head_sums in sums.items()]
        loss = tf.add_n(parts) / settings.global_batch_size
        penalties = step.model.penalties
        if penalties:
            # Every part adds its fraction, since gradients are summed over them.
            num_parts = context.num_replicas_in_sync * settings.accumulate_steps
            loss += tf.add_n(penalties) / num_parts
        scaled_loss = compat.scale_loss(step.optimizer, loss)
    gradients = tape.gradient(scaled_loss, step.model.trainable_variables)
    streams = encoded.streams if settings.returns_features else {}
    return _Gradients(sums, streams, gradients)


def _random_seed(step: _Step, batch) -> tf.Tensor:
    """[2] int64 that differs between steps, and between replicas and parts of one."""
    place = tf.range(1, tf.size(batch["example_index"], tf.int64) + 1)
    of_examples = tf.reduce_sum(batch["example_index"] * place)
    return tf.stack(
        [step.settings.seed + compat.step_count(step.optimizer), of_examples]
    )


def _zero_gradients(step: _Step, batch) -> _Gradients:
    """In one replica: what its parts are added to."""
    num_parts = step.settings.accumulate_steps
    part_size = batch["example_index"].shape[0] // num_parts
    return _Gradients(
        {
            head: {key: tf.zeros([]) for key in ("loss", "correct", "labelled")}
            for head in supervision.head_weights(step.method)
        },
        {
            stream: tf.zeros([num_parts, part_size, encoder.output_shape[-1]])
            for stream, encoder in step.model.encoders.items()
            if step.settings.returns_features
        },
        [
            tf.zeros(variable.shape, variable.dtype)
            for variable in step.model.trainable_variables
        ],
    )


def _add_part(step: _Step, batch, labels, number, before: _Gradients) -> _Gradients:
    """In one replica: adds the part of a number to those before."""
    num_parts = step.settings.accumulate_steps
    part, part_labels = (
        {
            name: tf.reshape(rows, [num_parts, -1, *rows.shape[1:]])[number]
            for name, rows in whole.items()
        }
        for whole in (batch, labels)
    )
    added = _part_gradients(step, part, part_labels)
    return _Gradients(
        tf.nest.map_structure(tf.add, before.sums, added.sums),
        {
            stream: tf.tensor_scatter_nd_update(rows, [[number]], [added_rows])
            for (stream, rows), added_rows in zip(
                before.streams.items(), added.streams.values(), strict=True
            )
        },
        [a + b for a, b in zip(before.gradients, added.gradients, strict=True)],
    )


def _sum_over_replicas(gradients):
    """In one replica: the gradients of the whole batch, the same in all of them."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def _update_if_finite(step: _Step, gradients, sums, statistics) -> tf.Tensor:
    """Updates the weights, or undoes what the step has moved; the non-finite guard.

    Args:
      step: whose weights are updated.
      gradients: by replica, summed over all of them.
      sums: of losses.head_losses, over all devices.
      statistics: by replica, those of batch norm before the step.

    Returns:
      See StepResult.finite.
    """
    strategy, optimizer = step.strategy, step.optimizer

    scale = compat.loss_scale(optimizer)

    def update(replica_gradients):
        if step.settings.clip_norm:
            most = step.settings.clip_norm * (1.0 if scale is None else scale)
            replica_gradients, _ = tf.clip_by_global_norm(replica_gradients, most)
        pairs = zip(replica_gradients, step.model.trainable_variables, strict=True)
        compat.apply_gradients(optimizer, pairs)

    if step.settings.compiled_update:
        update = tf.function(update, autograph=False, jit_compile=True)

    def undo(values):
        for statistic, value in zip(step.statistics, values, strict=True):
            statistic.assign(value)

    # The same in all replicas, so those of one are looked at.
    finite_gradients = _all_finite(
        [strategy.experimental_local_results(value)[0] for value in gradients]
    )
    finite = _all_finite([head_sums["loss"] for head_sums in sums.values()])
    if scale is None:
        finite &= finite_gradients
        tf.cond(
            finite,
            lambda: _run(strategy, update, gradients),
            lambda: _run(strategy, undo, statistics),
        )
    else:
        # The optimizer itself leaves out the update, and lowers the scale.
        finite &= finite_gradients | (scale > 1.0)
        strategy.run(update, args=(gradients,))
        tf.cond(
            finite_gradients, lambda: True, lambda: _run(strategy, undo, statistics)
        )
    return finite


def _replica_features(batch, parts) -> ExampleFeatures:
    """In one replica: the features of its parts, one after the other."""
    streams = {
        stream: tf.reshape(rows, [-1, rows.shape[-1]]) for stream, rows in parts.items()
    }
    return ExampleFeatures(batch["example_index"], streams)


def _run(strategy, function, argument):
    """Runs for its effect, as a branch of tf.cond."""
    strategy.run(function, args=(argument,))
    return True


def _all_finite(tensors):
    # Of all at once: a network's gradients are a hundred tensors, most of them small.
    numbers = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
    return tf.reduce_all(tf.math.is_finite(numbers))


def make_evaluation_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    *,
    strategy: tf.distribute.Strategy,
    returns_features: bool = False,
) -> Callable[[dict], StepResult]:
    """The function from a distributed batch to its result, in evaluation mode.

    Args: see make_train_step, whose step changes the weights that this one uses.
    """

    def replica_step(batch):
        encoded = losses.encode(model, method, batch, training=False)
        labels = losses.labels_of(label_tables, batch["example_index"])
        sums = losses.head_losses(model, method, labels, encoded)
        return sums, encoded if returns_features else None

    @tf.function(autograph=False)
    def evaluation_step(batch):
        sums, encoded = strategy.run(replica_step, args=(batch,))
        return StepResult(_sum_over_devices(strategy, sums), encoded)

    return evaluation_step


def _sum_over_devices(strategy, sums):
    """The same structure of scalars, added up in one reduction."""
    stacked = strategy.run(lambda *scalars: tf.stack(scalars), tf.nest.flatten(sums))
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, stacked, axis=None)
    return tf.nest.pack_sequence_as(sums, tf.unstack(total))
