"""An encoder with one linear head: its learning rates, one update, its scores."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.features import extraction
from xdc_tf.features.extraction import ClipFeatures
from xdc_tf.models import encoder_table, fast_layers, two_stream
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.two_stream import HeadSettings
from xdc_tf.runtime import compat
from xdc_tf.training import optimizers

HEAD = "classifier"
_SCORES = "scores"


class Classifier(NamedTuple):
    """An encoder and its head, in a strategy's scope.

    Attributes:
      encoder: with training's layers.
      head: from its features to logits.
      modality: what the encoder sees.
      stage: number of the stage of a layer of the encoder, by its name.
    """

    encoder: keras.Model
    head: keras.layers.Dense
    modality: str
    stage: Callable[[str], int]

    def weights(self) -> list[list[np.ndarray]]:
        """Of the encoder, statistics included, and of the head."""
        return [self.encoder.get_weights(), self.head.get_weights()]

    def set_weights(self, weights: list[list[np.ndarray]]) -> None:
        """Sets what `weights` returned."""
        for part, arrays in zip((self.encoder, self.head), weights, strict=True):
            part.set_weights(arrays)


def build(
    encoder: keras.Model,
    *,
    modality: str,
    architecture: EncoderSettings,
    clip: ClipSettings,
    num_classes: int,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Classifier:
    """A classifier with an encoder's weights and a new head from N(0, 0.01).

    Args:
      encoder: as encoder_sources.load_encoder gives it for the clip; stays as it is.
      modality: what it sees.
      architecture: its form.
      clip: that it sees.
      num_classes: outputs of the head.
      settings: of the layers.
      strategy: where the classifier lives.
    """
    with strategy.scope():
        model = two_stream.build(
            {modality: modality},
            architectures={modality: architecture},
            clip=clip,
            layers=settings.layers(),
            heads={HEAD: HeadSettings(modality, num_classes)},
        )
    stage = encoder_table.ENCODERS[architecture.architecture].stage
    classifier = Classifier(
        model.encoders[modality], model.heads[HEAD], modality, stage
    )
    classifier.encoder.set_weights(encoder.get_weights())
    return classifier


def trained_variables(classifier: Classifier, *, frozen: bool) -> list[tf.Variable]:
    """What training updates: the head's variables, then the encoder's."""
    parts = [classifier.head] if frozen else [classifier.head, classifier.encoder]
    return [variable for part in parts for variable in part.trainable_variables]


def multipliers(
    classifier: Classifier, settings: FinetuneSettings, *, epoch: int
) -> np.ndarray:
    """Learning rates of trained_variables by that of the head, in an epoch.

    For SGD with momentum a gradient times m is a learning rate times m. The top stage
    has encoder_learning_rate, each one below layer_decay times that of the one above,
    and the stem is the lowest; in the first head_epochs all of them have 0.

    Args:
      classifier: whose variables.
      settings: of the training.
      epoch: from 0.

    Returns:
      [number of variables] float32.
    """
    rates = [1.0] * len(classifier.head.trainable_variables)
    if settings.frozen:
        return np.array(rates, np.float32)
    top = settings.encoder_learning_rate / settings.head_learning_rate
    if epoch < settings.head_epochs:
        top = 0.0
    by_stage = encoder_table.stage_rates(
        classifier.stage, classifier.encoder, settings.layer_decay
    )
    return np.array(rates + [top * rate for rate in by_stage], np.float32)


def make_train_step(
    classifier: Classifier,
    label_table: tf.Variable,
    rate_multipliers: tf.Variable,
    optimizer: keras.optimizers.Optimizer,
    *,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Callable[[dict, tf.Tensor], tf.Tensor]:
    """The function train_step(batch, step), traced once.

    It updates on a distributed batch; dropout follows from the int64 scalar. Returns
    [2] float32 from before the update: summed cross-entropy and number of hits.

    Args:
      classifier: what is trained.
      label_table: [num_rows] int32 by example_index.
      rate_multipliers: [number of trained variables] float32; see multipliers.
      optimizer: SGD, made with trained_variables.
      settings: of the training.
      strategy: where all of these live.
    """
    encoder, head, modality, _ = classifier
    variables = trained_variables(classifier, frozen=settings.frozen)
    tf_variables = compat.tf_variables(variables)
    penalized = [head] if settings.frozen else [encoder, head]

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        labels = tf.gather(label_table, batch["example_index"])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf_variables)
            seed = _seed_on_replica(step, settings)
            with fast_layers.random_seed(seed):
                features = encoder(
                    clips.encoder_input(batch, modality), training=not settings.frozen
                )
            if settings.dropout:
                features = drop(features, seed, settings.dropout)
            logits = head(features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses) / settings.batch_size
            penalties = [penalty for part in penalized for penalty in part.losses]
            if penalties:
                # Gradients are summed over the replicas.
                loss += tf.add_n(penalties) / context.num_replicas_in_sync
            scaled_loss = compat.scale_loss(optimizer, loss)
        gradients = tape.gradient(scaled_loss, tf_variables)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        pairs = zip(gradients, tf.unstack(rate_multipliers), strict=True)
        changes = [gradient * multiplier for gradient, multiplier in pairs]
        compat.apply_gradients(optimizer, zip(changes, variables, strict=True))
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)
        hits = tf.cast(best == labels, tf.float32)
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(hits)])

    @tf.function(autograph=False)
    def train_step(batch, step):
        sums = strategy.run(replica_step, args=(batch, step))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


def _seed_on_replica(step: tf.Tensor, settings: FinetuneSettings) -> tf.Tensor:
    """Of dropout, by the step and the replica that this is traced in."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.random.experimental.stateless_fold_in(
        tf.stack([tf.constant(settings.seed, tf.int64), step]),
        tf.cast(replica, tf.int64),
    )


def drop(values: tf.Tensor, seed: tf.Tensor, rate: float) -> tf.Tensor:
    """Dropout: a random fraction `rate` becomes zero, the others x / (1 - rate)."""
    kept = tf.random.stateless_uniform(tf.shape(values), seed) >= rate
    return tf.where(kept, values / (1.0 - rate), 0.0)


def make_optimizer(
    classifier: Classifier, settings: FinetuneSettings, strategy: tf.distribute.Strategy
) -> keras.optimizers.Optimizer:
    """SGD for trained_variables; the weight decay is in the layers."""
    with strategy.scope():
        return optimizers.make(
            "sgd",
            trained_variables(classifier, frozen=settings.frozen),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            scale_loss=settings.precision == "mixed_float16",
        )


def make_predict(
    classifier: Classifier, strategy: tf.distribute.Strategy
) -> Callable[..., np.ndarray]:
    """The function predict(batches, *, num_rows), traced at its first use.

    Over a distributed data set of data.pipeline.evaluation_batches it gives
    [num_rows, K] float32 by example_index: the mean over an example's clips of their
    softmax; rows without an example are zero.
    """

    def scores(inputs, training):
        return tf.nn.softmax(
            classifier.head(classifier.encoder(inputs, training=training))
        )

    # make_extract_clips needs an encoder only to be callable.
    extract_clips = extraction.make_extract_clips(
        {_SCORES: scores}, {_SCORES: classifier.modality}, strategy=strategy
    )

    def predict(batches: Iterable[dict], *, num_rows: int) -> np.ndarray:
        rows = np.zeros([num_rows, classifier.head.units], np.float32)
        clip_scores: Iterable[ClipFeatures] = extract_clips(batches)
        for examples in extraction.average_clips(clip_scores):
            rows[examples.example_index] = examples.streams[_SCORES]
        return rows

    return predict
