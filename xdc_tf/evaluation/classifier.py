"""Encoders with one linear head on their features: rates, an update, scores."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation import target_types
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.target_types import TargetType
from xdc_tf.features import extraction
from xdc_tf.features.extraction import ClipFeatures
from xdc_tf.models import encoder_table, recomputation, token_layers, two_stream
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.two_stream import TwoStream
from xdc_tf.runtime import compat
from xdc_tf.training import optimizers

HEAD = "classifier"
# In the rows of predict that have no example; no probability is negative.
NO_EXAMPLE = -1.0
_SCORES = "scores"


class Part(NamedTuple):
    """An encoder of a classifier.

    Attributes:
      encoder: the model.
      modality: what it sees.
      architecture: its form.
    """

    encoder: keras.Model
    modality: str
    architecture: EncoderSettings


class Classifier(NamedTuple):
    """Encoders and the head on their features side by side, in a strategy's scope.

    Attributes:
      parts: by stream, with training's layers.
      head: from the features to logits.
      target: what is learnt of an example.
    """

    parts: dict[str, Part]
    head: keras.layers.Dense
    target: TargetType

    @property
    def encoders(self) -> dict[str, keras.Model]:
        """By stream."""
        return {stream: part.encoder for stream, part in self.parts.items()}

    @property
    def stream_modalities(self) -> dict[str, str]:
        """What each encoder sees, by stream."""
        return {stream: part.modality for stream, part in self.parts.items()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the encoders see, each once."""
        return tuple(dict.fromkeys(self.stream_modalities.values()))

    def weights(self) -> list[list[np.ndarray]]:
        """Of the encoders, statistics included, and of the head."""
        return [part.get_weights() for part in self._layers()]

    def set_weights(self, weights: list[list[np.ndarray]]) -> None:
        """Sets what `weights` returned."""
        for part, arrays in zip(self._layers(), weights, strict=True):
            part.set_weights(arrays)

    def _layers(self) -> list[keras.layers.Layer]:
        return [*self.encoders.values(), self.head]


def build(
    parts: dict[str, Part],
    *,
    clip: ClipSettings,
    num_classes: int,
    target: TargetType = target_types.MULTICLASS,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Classifier:
    """A classifier with encoders' weights and a new head from N(0, 0.01).

    Args:
      parts: by stream, as encoder_sources.load_encoder gives encoders for the clip;
        they stay as they are.
      clip: that they see.
      num_classes: outputs of the head.
      target: what is learnt of an example.
      settings: of the layers.
      strategy: where the classifier lives.
    """
    layers = settings.layers()
    encoders = {}
    with strategy.scope():
        for stream, part in parts.items():
            name = f"{stream}_encoder"
            encoders[stream] = encoder_table.build(
                part.architecture, layers, name, clip
            )
            encoders[stream].set_weights(part.encoder.get_weights())
        width = sum(encoder.output_shape[-1] for encoder in encoders.values())
        head = two_stream.make_head(
            num_classes, width, weight_decay=layers.weight_decay, name=HEAD
        )
        two_stream.reset_heads(TwoStream({}, {HEAD: head}), seed=layers.seed)
    trained = {
        stream: part._replace(encoder=encoders[stream])
        for stream, part in parts.items()
    }
    return Classifier(trained, head, target)


def trained_variables(classifier: Classifier, *, frozen: bool) -> list[tf.Variable]:
    """What training updates: the head's variables, then the encoder's."""
    parts = [classifier.head]
    if not frozen:
        parts += classifier.encoders.values()
    return [variable for part in parts for variable in part.trainable_variables]


def multipliers(
    classifier: Classifier, settings: FinetuneSettings, *, epoch: int
) -> np.ndarray:
    """Learning rates of trained_variables by that of the head, in an epoch.

    The top stage of an encoder has encoder_learning_rate, each one below layer_decay
    times that of the one above, and the stem is the lowest; in the first head_epochs
    all of them have 0.

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
    for part in classifier.parts.values():
        stage = encoder_table.ENCODERS[part.architecture.architecture].stage
        by_stage = encoder_table.stage_rates(stage, part.encoder, settings.layer_decay)
        rates += [top * rate for rate in by_stage]
    return np.array(rates, np.float32)


def make_train_step(
    classifier: Classifier,
    label_table: tf.Variable,
    optimizer: keras.optimizers.Optimizer,
    *,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> Callable[[dict, tf.Tensor], tf.Tensor]:
    """The function train_step(batch, step), traced once.

    It updates on a distributed batch; dropout follows from the int64 scalar. Returns
    [2] float32 from before the update: summed loss and number of hits.

    Args:
      classifier: what is trained.
      label_table: [num_rows, L] int32 by example_index, the labels of each example and
        -1 behind them.
      optimizer: of make_optimizer.
      settings: of the training.
      strategy: where all of these live.
    """
    head, target = classifier.head, classifier.target
    variables = trained_variables(classifier, frozen=settings.frozen)
    tf_variables = compat.tf_variables(variables)
    penalized = [] if settings.frozen else [*classifier.encoders.values()]
    penalized.append(head)

    encoders = {
        stream: recomputation.recomputing(encoder)
        if settings.gradient_checkpointing and recomputation.is_possible(encoder)
        else encoder
        for stream, encoder in classifier.encoders.items()
    }

    def encode(batch, seed):
        features = []
        for number, (stream, part) in enumerate(classifier.parts.items()):
            if number:  # no two encoders drop the same
                seed = tf.random.experimental.stateless_fold_in(seed, number)
            with token_layers.random_seed(seed):
                features.append(
                    encoders[stream](
                        clips.encoder_input(batch, part.modality),
                        training=not settings.frozen,
                    )
                )
        return tf.concat(features, axis=-1) if len(features) > 1 else features[0]

    def replica_step(batch, step):
        context = tf.distribute.get_replica_context()
        labels = tf.gather(label_table, batch["example_index"])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf_variables)
            seed = _seed_on_replica(step, settings)
            features = encode(batch, seed)
            if settings.dropout:
                features = drop(features, seed, settings.dropout)
            logits = head(features)
            losses = target.losses(labels, logits)
            loss = tf.reduce_sum(losses) / settings.batch_size
            penalties = [penalty for part in penalized for penalty in part.losses]
            if penalties:
                # Gradients are summed over the replicas.
                loss += tf.add_n(penalties) / context.num_replicas_in_sync
            scaled_loss = compat.scale_loss(optimizer, loss)
        gradients = tape.gradient(scaled_loss, tf_variables)
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        compat.apply_gradients(optimizer, zip(gradients, variables, strict=True))
        hits = target_types.hits(labels, logits)
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
    classifier: Classifier,
    rate_multipliers: tf.Variable,
    settings: FinetuneSettings,
    strategy: tf.distribute.Strategy,
) -> keras.optimizers.Optimizer:
    """The optimizer of trained_variables; SGD's weight decay is in the layers.

    Args:
      classifier: what is trained.
      rate_multipliers: [number of trained variables] float32; see multipliers.
      settings: of the training.
      strategy: where all of these live.
    """
    with strategy.scope():
        return optimizers.make(
            settings.name,
            trained_variables(classifier, frozen=settings.frozen),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            rates=rate_multipliers,
            scale_loss=settings.precision == "mixed_float16",
        )


def make_predict(
    classifier: Classifier, strategy: tf.distribute.Strategy
) -> Callable[..., np.ndarray]:
    """The function predict(batches, *, num_rows), traced at its first use.

    Over a distributed data set of data.pipeline.evaluation_batches it gives
    [num_rows, K] float32 by example_index: the mean over an example's clips of their
    probabilities; rows without an example are NO_EXAMPLE.
    """
    extract_clips = extraction.make_extract_clips(
        classifier.encoders, classifier.stream_modalities, strategy=strategy
    )

    def score(batches: Iterable[ClipFeatures]) -> Iterator[ClipFeatures]:
        kernel, bias = classifier.head.get_weights()
        for clips_of_batch in batches:
            features = np.concatenate([*clips_of_batch.streams.values()], axis=1)
            logits = features.astype(np.float32) @ kernel + bias
            scores = classifier.target.probabilities(tf.constant(logits)).numpy()
            yield clips_of_batch._replace(streams={_SCORES: scores})

    def predict(batches: Iterable[dict], *, num_rows: int) -> np.ndarray:
        rows = np.full([num_rows, classifier.head.units], NO_EXAMPLE, np.float32)
        for examples in extraction.average_clips(score(extract_clips(batches))):
            rows[examples.example_index] = examples.streams[_SCORES]
        return rows

    return predict
