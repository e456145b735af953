"""One update of all encoders and heads, on all devices of a strategy."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from xdc_tf import compat
from xdc_tf.clustering.features import ExampleFeatures
from xdc_tf.models.two_stream import TwoStream
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
            stream: model.encoders[stream](batch[modality], training=training)
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
            labels = tf.gather(label_tables[source], tf.maximum(index, 0))
            known = (labels >= 0) & (index >= 0)
            logits = model.heads[name](features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.maximum(labels, 0), logits=logits
            )
            best = tf.argmax(logits, axis=-1, output_type=tf.int32)
            sums[name] = {
                "loss": tf.reduce_sum(tf.where(known, losses, 0.0)),
                "correct": _count(known & (best == labels)),
                "labelled": _count(known),
            }
    return sums


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.float32))


def make_train_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    optimizer,
    *,
    strategy: tf.distribute.Strategy,
    global_batch_size: int,
    harvest: bool = False,
) -> Callable[[dict], StepResult]:
    """The function that takes a distributed batch and updates.

    The loss of each head is its summed cross-entropy over all devices divided by the
    global batch size, and the heads' losses are added up, or averaged over several
    clusterings of one source; so n devices take the same step as one. With `harvest`
    it returns the features that it computed on the way.
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
        before = [tf.identity(statistic) for statistic in statistics]
        with tf.GradientTape() as tape:
            encoded = encode(model, method, batch, training=True)
            sums = head_losses(model, method, label_tables, encoded)
            losses = [one["loss"] * weights[head] for head, one in sums.items()]
            loss = tf.add_n(losses) / global_batch_size
            if model.penalties:
                # Every device adds its share, since gradients are summed over them.
                loss += tf.add_n(model.penalties) / context.num_replicas_in_sync
            scaled_loss = compat.scale_loss(optimizer, loss)
        gradients = tape.gradient(scaled_loss, variables)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return sums, encoded if harvest else None, gradients, before

    def replica_update(gradients):
        compat.apply_gradients(optimizer, zip(gradients, variables, strict=True))

    def replica_undo(before):
        for statistic, value in zip(statistics, before, strict=True):
            statistic.assign(value)

    @tf.function
    def train_step(batch):
        sums, encoded, gradients, before = strategy.run(
            replica_gradients, args=(batch,)
        )
        sums = _sum_over_devices(strategy, sums)
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

    @tf.function
    def evaluation_step(batch):
        sums, encoded = strategy.run(replica_step, args=(batch,))
        return StepResult(_sum_over_devices(strategy, sums), encoded)

    return evaluation_step


def _sum_over_devices(strategy, sums):
    return tf.nest.map_structure(
        lambda value: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None),
        sums,
    )
