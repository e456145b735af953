"""A training step of a configuration on random clips, for benchmarks."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.models import two_stream
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.models.two_stream import HeadSettings
from xdc_tf.training import configuration, optimizers, supervision, train_step


def make_step(
    config: configuration.Config, labels: tf.Variable | None = None
) -> Callable[[], None]:
    """A function that takes a training step of a configuration on random clips.

    Args:
      config: of the run.
      labels: [N] int32 by example_index, of all heads, of which a step has random ones;
        None for as many as a batch has.
    """
    method, clip = supervision.method(config.method), configuration.clip(config, None)
    num_labels, size = config.kmeans.num_clusters, config.training.batch_size
    model = two_stream.build(
        method.streams,
        architectures=configuration.architectures(config),
        clip=clip,
        layers=configuration.training_layers(config),
        heads={
            supervision.head_name(stream, source): HeadSettings(stream, num_labels)
            for stream, sources in method.supervision.items()
            for source in sources
        },
    )
    if labels is None:
        labels = tf.Variable(np.arange(size, dtype=np.int32) % num_labels)
    optimizer = optimizers.make(
        config.optimizer.name,
        model.trainable_variables,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        scale_loss=False,
    )
    step = train_step.make_train_step(
        model,
        method,
        dict.fromkeys(supervision.label_sources(method), labels),
        optimizer,
        strategy=tf.distribute.get_strategy(),
        settings=train_step.StepSettings(
            size,
            clip_norm=config.optimizer.clip_norm,
            recomputes=config.training.gradient_checkpointing,
        ),
    )
    batch = {
        modality: tf.random.stateless_normal(
            [size, *MODALITIES[modality].clip_shape(clip)], [0, 0]
        )
        for modality in supervision.modalities(method)
    }
    batch |= {
        "example_index": tf.constant(
            np.random.default_rng(3).integers(0, labels.shape[0], size), tf.int64
        ),
        clips.VIDEO_NORMALIZATION: tf.repeat(
            clips.video_normalization(clip)[tf.newaxis], size, axis=0
        ),
    }

    def take_step() -> None:
        tf.nest.map_structure(lambda value: value.numpy(), step(batch).sums)

    return take_step
