"""Processor time of a training step of each row of reproduce's table of encoders.

    TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 python -m benchmarks.encoder_steps

The rows' configurations at --scale on random clips, one thread, median of --steps. What
the other rows take by the first is what the table's equal time is reckoned by
(reproduction_tables.py).
"""

import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from xdc_tf.data import clips
from xdc_tf.experiments import reproduction
from xdc_tf.experiments.reproduction_tables import SCALES
from xdc_tf.models import two_stream
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.models.two_stream import HeadSettings
from xdc_tf.training import configuration, optimizers, supervision, train_step

_SCALE = flags.DEFINE_enum("scale", "medium", list(SCALES), "Scale of the rows.")
_STEPS = flags.DEFINE_integer("steps", 15, "Timed steps, after four.")


def step_secs(config: configuration.Config, *, num_steps: int) -> float:
    """Median processor seconds of a training step."""
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
        {
            source: tf.Variable(np.arange(size, dtype=np.int32) % num_labels)
            for source in supervision.label_sources(method)
        },
        optimizer,
        strategy=tf.distribute.get_strategy(),
        settings=train_step.StepSettings(size, clip_norm=config.optimizer.clip_norm),
    )
    batch = {
        modality: tf.random.stateless_normal(
            [size, *MODALITIES[modality].clip_shape(clip)], [0, 0]
        )
        for modality in supervision.modalities(method)
    }
    batch |= {
        "example_index": tf.range(size, dtype=tf.int64),
        clips.VIDEO_NORMALIZATION: tf.repeat(
            clips.video_normalization(clip)[tf.newaxis], size, axis=0
        ),
    }
    secs = []
    for _ in range(num_steps + 4):
        start = time.process_time()
        tf.nest.map_structure(lambda value: value.numpy(), step(batch).sums)
        secs.append(time.process_time() - start)
    return float(np.median(secs[4:]))


def main(_) -> None:
    """Prints a line for each row."""
    tasks = reproduction.make_tasks(
        "encoders",
        scale=SCALES[_SCALE.value],
        seeds=[0],
        methods=[],
        data_dir="",
        out_dir="",
        kind="shapes",
        rows=[],
    )
    first = None
    for task in tasks:
        config = configuration.from_mapping(reproduction.make_config(task))
        secs = step_secs(config, num_steps=_STEPS.value)
        first = first or secs
        print(
            f"{task.variant.row}: {1e3 * secs:.0f} ms, {secs / first:.2f}", flush=True
        )


if __name__ == "__main__":
    app.run(main)
