"""One worker of a pretraining: tells its weights at the end, may be killed before."""

import os
import signal
import sys

import numpy as np


def main(deadly_step, weights_file, *arguments):
    """Does what `python -m xdc_tf.cli.pretrain ARGUMENTS...` does.

    Args:
      deadly_step: the step, counted from 1, that the process is killed in; or 0.
      weights_file: gets the values of all variables of the model at the end.
      arguments: of the command.
    """
    from xdc_tf.training import pretrain as module
    from xdc_tf.training import train_step

    make, models, calls = train_step.make_train_step, [], []

    def make_watched(model, *args, **kwargs):
        models.append(model)
        step = make(model, *args, **kwargs)

        def watched(batch):
            calls.append(batch)
            if len(calls) == deadly_step:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(batch)

        return watched

    train_step.make_train_step = make_watched
    pretrain = module.pretrain

    def pretrain_and_tell(*args, **kwargs):
        pretrain(*args, **kwargs)
        variables = [
            variable
            for part in (*models[0].encoders.values(), *models[0].heads.values())
            for variable in part.get_weights()
        ]
        np.savez(weights_file, *variables)

    module.pretrain = pretrain_and_tell
    from xdc_tf.cli import pretrain as cli

    sys.argv = ["xdc_tf.cli.pretrain", *arguments]
    cli.run()
