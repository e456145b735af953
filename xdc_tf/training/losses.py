"""What a batch costs: its features, its labels, and the loss of each head."""

from collections.abc import Mapping

import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.models.two_stream import TwoStream
from xdc_tf.training import supervision


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


def labels_of(
    label_tables: Mapping[str, tf.Variable], index: tf.Tensor
) -> dict[str, tf.Tensor]:
    """For each label source the labels [b] int64 of a batch, -1 for none.

    Args:
      label_tables: for each label source [num_rows] int32, -1 for no label.
      index: [b] int64, example_index; -1 for padding.
    """
    labels = {}
    for source, table in label_tables.items():
        # int64: TensorFlow has most operations on int32 on the host, where a GPU would
        # have to wait for them.
        gathered = tf.cast(tf.gather(table, tf.maximum(index, 0)), tf.int64)
        labels[source] = tf.where(index >= 0, gathered, -1)
    return labels


def head_losses(
    model: TwoStream,
    method: supervision.Method,
    labels: Mapping[str, tf.Tensor],
    encoded: ExampleFeatures,
) -> dict[str, dict[str, tf.Tensor]]:
    """Sums over a batch, for each head.

    Args:
      model: encoders and heads.
      method: which head learns from which labels.
      labels: of labels_of.
      encoded: the batch's features.

    Returns:
      For each head name three scalars: "loss", the summed cross-entropy of the
      examples that have a label; "correct", how many of them the head gets right;
      "labelled", how many they are. An example without a label adds nothing.
    """
    sums = {}
    for stream, sources in method.supervision.items():
        features = encoded.streams[stream]
        for source in sources:
            name = supervision.head_name(stream, source)
            known = labels[source] >= 0
            logits = model.heads[name](features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.maximum(labels[source], 0), logits=logits
            )
            best = tf.argmax(logits, axis=-1)
            sums[name] = {
                "loss": tf.reduce_sum(tf.where(known, losses, 0.0)),
                "correct": _count(known & (best == labels[source])),
                "labelled": _count(known),
            }
    return sums


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.float32))
