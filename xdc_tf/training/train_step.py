"""One update of all encoders and heads, on all devices of a strategy."""

from collections.abc import Callable

import tensorflow as tf

from xdc_tf import compat
from xdc_tf.models.two_stream import TwoStream
from xdc_tf.training import supervision


def head_losses(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    batch: dict[str, tf.Tensor],
    *,
    training: bool,
) -> dict[str, dict[str, tf.Tensor]]:
    """Sums over a batch, for each head.

    Args:
      model: encoders and heads.
      method: which head learns from which labels.
      label_tables: for each label source [num_rows] int32, -1 for no label.
      batch: as data.pipeline yields it; example_index -1 is padding.
      training: mode of the encoders.

    Returns:
      For each head name three scalars: "loss", the summed cross-entropy of the
      examples that have a label; "correct", how many of them the head gets right;
      "labelled", how many they are. An example without a label adds nothing.
    """
    sums = {}
    index = batch["example_index"]
    for stream, sources in method.supervision.items():
        features = model.encoders[stream](
            batch[method.streams[stream]], training=training
        )
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
) -> Callable:
    """The function that takes a distributed batch, updates, and returns head sums.

    The loss of each head is its summed cross-entropy over all devices divided by the
    global batch size, and the heads' losses are added up; so n devices take the same
    step as one.
    """
    variables = model.trainable_variables

    def replica_step(batch):
        context = tf.distribute.get_replica_context()
        with tf.GradientTape() as tape:
            sums = head_losses(model, method, label_tables, batch, training=True)
            loss = tf.add_n([one["loss"] for one in sums.values()]) / global_batch_size
            if model.penalties:
                # Every device adds its share, since gradients are summed over them.
                loss += tf.add_n(model.penalties) / context.num_replicas_in_sync
            scaled_loss = compat.scale_loss(optimizer, loss)
        gradients = tape.gradient(scaled_loss, variables)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        compat.apply_gradients(optimizer, zip(gradients, variables, strict=True))
        return sums

    @tf.function
    def train_step(batch):
        sums = strategy.run(replica_step, args=(batch,))
        return _sum_over_devices(strategy, sums)

    return train_step


def make_evaluation_step(
    model: TwoStream,
    method: supervision.Method,
    label_tables: dict[str, tf.Variable],
    *,
    strategy: tf.distribute.Strategy,
) -> Callable:
    """The function from a distributed batch to head sums, in evaluation mode."""

    def replica_step(batch):
        return head_losses(model, method, label_tables, batch, training=False)

    @tf.function
    def evaluation_step(batch):
        sums = strategy.run(replica_step, args=(batch,))
        return _sum_over_devices(strategy, sums)

    return evaluation_step


def _sum_over_devices(strategy, sums):
    return tf.nest.map_structure(
        lambda value: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None),
        sums,
    )
