"""Processor time of a training step of each row of reproduce's table of encoders.

    TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 python -m benchmarks.encoder_steps

The rows' configurations at --scale on random clips, one thread, median of --steps. What
the other rows take by the first is what the table's equal time is reckoned by
(reproduction_tables.py).
"""

import time

import numpy as np
from absl import app, flags

from benchmarks.pretraining_step import make_step
from xdc_tf.experiments import reproduction
from xdc_tf.experiments.reproduction_tables import SCALES
from xdc_tf.training import configuration

_SCALE = flags.DEFINE_enum("scale", "medium", list(SCALES), "Scale of the rows.")
_STEPS = flags.DEFINE_integer("steps", 15, "Timed steps, after four.")


def step_secs(config: configuration.Config, *, num_steps: int) -> float:
    """Median processor seconds of a training step."""
    take_step, secs = make_step(config), []
    for _ in range(num_steps + 4):
        start = time.process_time()
        take_step()
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
