"""Memory and time of training steps with and without gradient checkpointing.

    python -m benchmarks.checkpointing [--batch_size=8] [--size=S] [--crop_size=112]

XDC with configs/transformers.py on random clips. Each way runs in a process of its own,
which prints its peak of resident memory above that before the first step, as the kernel
counts it, and the median processor seconds of a step.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import resource
import time

import numpy as np
from absl import app, flags

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Clips of a step.")
_SIZE = flags.DEFINE_string("size", "S", "Of the transformers: Ti, S or B.")
_CROP_SIZE = flags.DEFINE_integer("crop_size", 112, "Pixels, a multiple of 16.")
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps, after two.")


def _measure(recomputes, batch_size, size, crop_size, num_steps):
    """Peak bytes above those before, and median seconds."""
    from benchmarks.pretraining_step import make_step
    from configs import transformers
    from xdc_tf.training import configuration

    recipe = transformers.get_config()
    recipe.clip.crop_size = crop_size
    for encoder in (recipe.video_encoder, recipe.audio_encoder):
        encoder.size = size
    recipe.training.batch_size = batch_size
    config = configuration.from_mapping(recipe.to_dict())
    training = dataclasses.replace(config.training, gradient_checkpointing=recomputes)
    config = dataclasses.replace(config, training=training)
    take_step, secs = make_step(config), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(num_steps + 2):
        start = time.process_time()
        take_step()
        secs.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * (after - before), float(np.median(secs[2:]))


def main(_) -> None:
    """Prints a line for each way, and their ratios."""
    spawn = multiprocessing.get_context("spawn")
    settings = (
        _BATCH_SIZE.value,
        _SIZE.value,
        _CROP_SIZE.value,
        _STEPS.value,
    )
    found = []
    for recomputes in (False, True):
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            peak, secs = pool.submit(_measure, recomputes, *settings).result()
        found.append((peak, secs))
        print(
            f"gradient_checkpointing={recomputes}: {peak / 2**20:.0f} MiB more than "
            f"before the first step, {secs:.2f} s of processor time a step",
            flush=True,
        )
    (plain, plain_secs), (again, again_secs) = found
    print(f"memory {again / plain:.2f}, time {again_secs / plain_secs:.2f}")


if __name__ == "__main__":
    app.run(main)
