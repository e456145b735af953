"""One update of all encoders and heads, on all devices of a strategy."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.models.two_stream import TwoStream
from xdc_tf.runtime import compat
from xdc_tf.training import supervision


class StepResult(NamedTuple):
    """What a step over a batch gives.

    Attributes:
      sums: of head_losses, over all devices.
      encoded: the features that the heads read, distributed, with example_index -1 for
        padding (features.examples_on_host takes it); None if not asked for.
      finite: bool scalar, whether an update was wanted: if a loss or gradient is not
        finite, weights, optimizer and statistics are as before the step. With loss
        scaling True as long as a lower scale may help. None in evaluation.
    """

    sums: dict[str, dict[str, tf.Tensor]]
    encoded: ExampleFeatures | None
    finite: tf.Tensor | None = None


def encode(
    model: TwoStream,
    method: supervision.Method,
    batch: dict[str, tf.Tensor],
    *,
    training: bool,
) -> ExampleFeatures:
    """The features of a batch, as tensors.

    Args:
      model: encoders and heads.
      method: which encoder sees which modality.
      batch: as data.pipeline yields it.
      training: mode of the encoders.
    """
    return ExampleFeatures(
        batch["example_index"],
        {
            stream: model.encoders[stream](
                clips.encoder_input(batch, modality), training=training
            )
            for stream, modality in method.streams.items()
        },
    )


def head_losses(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    encoded: ExampleFeatures,
) -> dict[str, dict[str, tf.Tensor]]:
    """Sums over a batch, for each head.

    Args:
      model: encoders and heads.
      method: which head learns from which labels.
      label_tables: for each label source [num_rows] int32, -1 for no label.
      encoded: the batch's features; example_index -1 is padding.

    Returns:
      For each head name three scalars: "loss", the summed cross-entropy of the
      examples that have a label; "correct", how many of them the head gets right;
      "labelled", how many they are. An example without a label adds nothing.
    """
    sums = {}
    index = encoded.example_index
    for stream, sources in method.supervision.items():
        features = encoded.streams[stream]
        for source in sources:
            name = supervision.head_name(stream, source)
            # int64: TensorFlow has most operations on int32 on the host, where a GPU
            # would have to wait for them.
            labels = tf.gather(label_tables[source], tf.maximum(index, 0))
            labels = tf.cast(labels, tf.int64)
            known = (labels >= 0) & (index >= 0)
            logits = model.heads[name](features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.maximum(labels, 0), logits=logits
            )
            best = tf.argmax(logits, axis=-1)
            sums[name] = {
                "loss": tf.reduce_sum(tf.where(known, losses, 0.0)),
                "correct": _count(known & (best == labels)),
                "labelled": _count(known),
            }
    return sums


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.float32))


class _Gradients(NamedTuple):
    """What one replica computes from its part of the batch."""

    sums: dict[str, dict[str, tf.Tensor]]
    streams: dict[str, tf.Tensor]  # the features that the heads read; empty if unwanted
    gradients: list[tf.Tensor]


def make_train_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    optimizer,
    *,
    strategy: tf.distribute.Strategy,
    global_batch_size: int,
    accumulate_steps: int = 1,
    harvest: bool = False,
    jit_compile: bool = False,
) -> Callable[[dict], StepResult]:
    """The function that takes a distributed batch and updates.

    The loss of each head is its summed cross-entropy over all devices divided by the
    global batch size, and the heads' losses are added up, or averaged over several
    clusterings of one source; so n devices take the same step as one. Every device
    computes its batch in `accumulate_steps` equal parts, one after the other, and adds
    their gradients up: the same step, but for batch norm, which sees a part at a time.
    With `harvest` it returns the features that it computed on the way. With
    `jit_compile` XLA compiles the whole step, which needs a strategy of one device.
    """
    variables = model.trainable_variables
    weights = supervision.head_weights(method)
    # Batch norm moves them on the way forward, before the loss is known.
    statistics = [
        statistic
        for encoder in model.encoders.values()
        for statistic in compat.tf_variables(encoder.non_trainable_variables)
    ]

    def replica_gradients(batch):
        context = tf.distribute.get_replica_context()
        with tf.GradientTape() as tape:
            encoded = encode(model, method, batch, training=True)
            sums = head_losses(model, method, label_tables, encoded)
            losses = [one["loss"] * weights[head] for head, one in sums.items()]
            loss = tf.add_n(losses) / global_batch_size
            if model.penalties:
                # Every part adds its share, since gradients are summed over them.
                num_parts = context.num_replicas_in_sync * accumulate_steps
                loss += tf.add_n(model.penalties) / num_parts
            scaled_loss = compat.scale_loss(optimizer, loss)
        gradients = tape.gradient(scaled_loss, variables)
        return _Gradients(sums, encoded.streams if harvest else {}, gradients)

    def replica_zeros(batch):
        part_size = batch["example_index"].shape[0] // accumulate_steps
        return _Gradients(
            {
                head: {key: tf.zeros([]) for key in ("loss", "correct", "labelled")}
                for head in weights
            },
            {
                stream: tf.zeros([accumulate_steps, part_size, one.output_shape[-1]])
                for stream, one in model.encoders.items()
                if harvest
            },
            [tf.zeros(variable.shape, variable.dtype) for variable in variables],
        )

    def replica_add(batch, number, before):
        own = {
            name: tf.reshape(rows, [accumulate_steps, -1, *rows.shape[1:]])[number]
            for name, rows in batch.items()
        }
        added = replica_gradients(own)
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

    def all_gradients(batch):
        if accumulate_steps == 1:
            return strategy.run(replica_gradients, args=(batch,))
        # Outside of the replicas: they cannot meet in a loop of their own, as they do
        # for synchronised batch norm.
        _, found = tf.while_loop(
            lambda number, _: number < accumulate_steps,
            lambda number, before: (
                number + 1,
                strategy.run(replica_add, args=(batch, number, before)),
            ),
            (0, strategy.run(replica_zeros, args=(batch,))),
            parallel_iterations=1,
        )
        return found

    def replica_statistics():
        return [tf.identity(statistic) for statistic in statistics]

    def replica_total(gradients):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

    def replica_update(gradients):
        compat.apply_gradients(optimizer, zip(gradients, variables, strict=True))

    def replica_undo(before):
        for statistic, value in zip(statistics, before, strict=True):
            statistic.assign(value)

    def replica_encoded(batch, parts):
        streams = {
            stream: tf.reshape(rows, [-1, rows.shape[-1]])
            for stream, rows in parts.items()
        }
        return ExampleFeatures(batch["example_index"], streams)

    @tf.function(autograph=False, jit_compile=jit_compile or None)
    def train_step(batch):
        before = strategy.run(replica_statistics)
        found = all_gradients(batch)
        gradients = strategy.run(replica_total, args=(found.gradients,))
        sums = _sum_over_devices(strategy, found.sums)
        # Summed over the devices, gradients are the same on all of them.
        own = [strategy.experimental_local_results(one)[0] for one in gradients]
        finite_gradients = _all_finite(own)
        finite = _all_finite([one["loss"] for one in sums.values()])
        scale = compat.loss_scale(optimizer)
        if scale is None:
            finite &= finite_gradients
            tf.cond(
                finite,
                lambda: _run(strategy, replica_update, gradients),
                lambda: _run(strategy, replica_undo, before),
            )
        else:
            # The optimizer itself leaves out the update, and lowers the scale.
            finite &= finite_gradients | (scale > 1.0)
            strategy.run(replica_update, args=(gradients,))
            tf.cond(
                finite_gradients,
                lambda: True,
                lambda: _run(strategy, replica_undo, before),
            )
        encoded = None
        if harvest:
            encoded = strategy.run(replica_encoded, args=(batch, found.streams))
        return StepResult(sums, encoded, finite)

    return train_step


def _run(strategy, function, argument):
    """Runs for its effect, as a branch of tf.cond."""
    strategy.run(function, args=(argument,))
    return True


def _all_finite(tensors):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in tensors])


def make_evaluation_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    *,
    strategy: tf.distribute.Strategy,
    harvest: bool = False,
) -> Callable[[dict], StepResult]:
    """The function from a distributed batch to its result, in evaluation mode."""

    def replica_step(batch):
        encoded = encode(model, method, batch, training=False)
        sums = head_losses(model, method, label_tables, encoded)
        return sums, encoded if harvest else None

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
