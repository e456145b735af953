"""Pretrains encoders by cross-modal deep clustering."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator

from absl import flags

from xdc_tf.cli import recipe_flags
from xdc_tf.runtime import program, signals, tuning

_CONFIG = recipe_flags.DEFINE_recipe(
    "config",
    None,
    "Configuration of the run. --config.KEY=VALUE changes a key, such as "
    "--config.method=sdc|mdc|cdc|xdc|same_video|same_audio|supervised.",
)
flags.mark_flag_as_required("config")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run. If it holds one of this configuration, that goes on from "
    "its last checkpoint.",
    required=True,
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Directory of records by data_prep.convert.", required=True
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices",
    0,
    "Number of GPUs to use; 0 means all. Without a GPU: logical devices of the CPU.",
)
_WORKER_TIMEOUT_SECS = flags.DEFINE_float(
    "worker_timeout_secs",
    7200,
    "With several workers (TF_CONFIG): stop with exit code 75 if one lets the others "
    "wait for longer where they meet; 0: never. Set it above the slowest one's lag in "
    "extracting features. A worker that has died is noticed within seconds.",
    lower_bound=0,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on in a work directory of another configuration, which this one replaces.",
)


def main(argv):
    del argv
    config = _CONFIG.value.to_dict()  # first: says at once that its file is missing
    tuning.keep_freed_memory()
    with signals.listening() as stop:
        from xdc_tf.distribution import devices, workers
        from xdc_tf.training.pretrain import pretrain

        strategy = devices.make_strategy(
            _NUM_DEVICES.value, worker_timeout_secs=_WORKER_TIMEOUT_SECS.value
        )
        number, num_workers = workers.place(strategy)
        with workers.exit_on_loss(num_workers), _only_of_chief(number):
            pretrain(
                config,
                workdir=_WORKDIR.value,
                records_dir=_RECORDS.value,
                strategy=strategy,
                allow_config_change=_ALLOW_CONFIG_CHANGE.value,
                stop=stop,
                command=shlex.join(["xdc-tf", "pretrain", *sys.argv[1:]]),
            )


@contextlib.contextmanager
def _only_of_chief(number: int) -> Iterator[None]:
    """Prints the progress of the chief alone; errors of all workers are printed."""
    if number == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def run():
    recipe_flags.find_neighbours()
    program.run(main)


if __name__ == "__main__":
    run()
