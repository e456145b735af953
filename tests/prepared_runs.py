"""Runs that are made ready on tiny_records, and their training steps."""

import numpy as np
import tensorflow as tf

from xdc_tf.runtime import compat
from xdc_tf.training import train_step
from xdc_tf.training.pretrain import pretrain
from xdc_tf.training.run import prepare

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")


def pretrain_on(config, records, workdir, **options):
    """Pretrains on the training records of a directory, on one device."""
    pretrain(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=ONE_DEVICE,
        **options,
    )


def make_run(config, records, workdir, strategy=ONE_DEVICE):
    """A run at its start, of rate 0.1, with labels 0 to 3 that differ by source."""
    run = prepare(
        config,
        workdir=str(workdir),
        records_dir=str(records / "train"),
        strategy=strategy,
        allow_config_change=False,
    )
    compat.set_learning_rate(run.state.optimizer, 0.1)
    for number, table in enumerate(run.state.label_tables.values()):
        table.assign((np.arange(24) + number) % 4)
    return run


def make_step(run, **settings):
    """The run's training step, with other settings of train_step.StepSettings."""
    return train_step.make_train_step(
        run.state.model,
        run.method,
        run.state.label_tables,
        run.state.optimizer,
        strategy=run.strategy,
        settings=train_step.StepSettings(
            global_batch_size=run.config.training.batch_size,
            accumulate_steps=run.config.training.accumulate_steps,
            **settings,
        ),
    )
