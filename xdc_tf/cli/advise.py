"""Looks at records without labels, tries settings on them and writes the best.

    xdc-tf advise --records=records --budget_minutes=30 --out=advice

writes advice/config.py, to be given to pretrain as --config, and advice/advice.md with
its reasons. Interrupted, the same command goes on.
"""

import os

from absl import flags

from xdc_tf.cli import recipe_flags
from xdc_tf.runtime import locks, outputs, program

_CONFIG = recipe_flags.DEFINE_recipe(
    "config", None, "Configuration that trials start from; default: base."
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Directory of records by data_prep.convert.", required=True
)
_OUT = flags.DEFINE_string("out", "advice", "Directory for the trials and the advice.")
_BUDGET_MINUTES = flags.DEFINE_float(
    "budget_minutes", 30.0, "Time for all trials together.", lower_bound=0.1
)


def main(argv):
    del argv
    given = _CONFIG.value
    from xdc_tf.configs import base
    from xdc_tf.experiments import advice

    config = (given or base.get_config()).to_dict()

    outputs.try_directory(_OUT.value)
    lock = os.path.join(_OUT.value, ".advise.lock")
    with locks.Lock(lock, held=_OUT.value, remove=True):
        text = advice.advise(
            config,
            records=_RECORDS.value,
            out_dir=_OUT.value,
            budget_secs=60 * _BUDGET_MINUTES.value,
        )
    print(text)


def run():
    program.run(main)


if __name__ == "__main__":
    run()
