"""A pretraining that is killed at a chosen place."""

import os
import signal

import tensorflow as tf


def main(config, workdir, records_dir, deadly_batch, deadly_save):
    """Pretrains until the process is killed.

    Args:
      config: of the run.
      workdir: of the run.
      records_dir: of the run.
      deadly_batch: the batch of a pass over the data set after which it is, or None.
      deadly_save: the checkpoint before which it is, all else being on disk; or None.
    """
    from xdc_tf.features import extraction, feature_store
    from xdc_tf.training.checkpoints import Checkpoints
    from xdc_tf.training.pretrain import pretrain

    feature_store.COMMIT_SECS = 0
    average, save = extraction.average_clips, Checkpoints.save
    saves = []

    def deadly_average(batches):
        def counted():
            for number, clips in enumerate(batches, 1):
                yield clips
                if number == deadly_batch:
                    os.kill(os.getpid(), signal.SIGKILL)

        return average(counted())

    def deadly_checkpoint(self, **arguments):
        saves.append(self)
        if len(saves) == deadly_save:
            self.wait()
            arguments["first"]()
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, **arguments)

    extraction.average_clips, Checkpoints.save = deadly_average, deadly_checkpoint
    pretrain(
        config,
        workdir=workdir,
        records_dir=records_dir,
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
