"""Where a run stands, and its checkpoints."""

import enum
import os
import tempfile
from typing import NamedTuple

import tensorflow as tf

from xdc_tf import workdir as work
from xdc_tf.models.two_stream import TwoStream


class Phase(enum.IntEnum):
    """What a round does next."""

    CLUSTER = 0
    TRAIN = 1


class Progress(NamedTuple):
    """A run's position, as variables that a checkpoint holds.

    The position in the training data follows from `step`.
    """

    round_index: tf.Variable  # int64, from 0
    phase: tf.Variable  # int64, a Phase
    step: tf.Variable  # int64, updates since the start of the run
    round_first_step: tf.Variable  # int64, `step` when the round's training began
    best_loss: tf.Variable  # float64, the round's lowest held-out loss
    stale_epochs: tf.Variable  # int64, epochs since then


def new_progress() -> Progress:
    """The position of a run that has not begun."""

    def variable(value, dtype):
        return tf.Variable(value, dtype=dtype, trainable=False)

    return Progress(
        round_index=variable(0, tf.int64),
        phase=variable(Phase.CLUSTER, tf.int64),
        step=variable(0, tf.int64),
        round_first_step=variable(0, tf.int64),
        best_loss=variable(float("inf"), tf.float64),
        stale_epochs=variable(0, tf.int64),
    )


class Checkpoints:
    """Saves and restores everything that a run changes."""

    def __init__(
        self,
        workdir: str,
        *,
        model: TwoStream,
        optimizer,
        label_tables: dict[str, tf.Variable],
        progress: Progress,
        writes: bool = True,
    ):
        """Takes what is to be saved.

        Args:
          workdir: of the run.
          model: its encoders and heads.
          optimizer: with all its variables built.
          label_tables: by label source.
          progress: where the run stands.
          writes: whether this process writes checkpoints; all processes of a run call
            `save`, since statistics of batch norm are read by all of them together.
        """
        self._progress = progress
        self._writes = writes
        checkpoint = tf.train.Checkpoint(
            encoders=dict(model.encoders),
            heads=dict(model.heads),
            optimizer=optimizer,
            label_tables=dict(label_tables),
            progress=progress._asdict(),
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, os.path.join(workdir, work.CHECKPOINTS_DIR), max_to_keep=2
        )

    def save(self) -> None:
        """Saves under the present step."""
        if self._writes:
            self._manager.save(checkpoint_number=self._number())
            return
        with tempfile.TemporaryDirectory() as directory:
            self._manager.checkpoint.write(os.path.join(directory, "ckpt"))

    def _number(self) -> int:
        # The step, with the phase behind it: a round's labels are saved before its
        # first update, at the same step as the end of the round before.
        step, phase = int(self._progress.step), int(self._progress.phase)
        return 2 * step + phase

    def restore(self) -> str | None:
        """Restores the latest checkpoint; returns its path, or None without one.

        Raises:
          ValueError: if it does not fit the model.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            return None
        try:
            status = self._manager.checkpoint.restore(path)
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"{path} does not fit the model of this configuration "
                f"({str(error).splitlines()[0]}); use another --workdir."
            ) from error
        return path
