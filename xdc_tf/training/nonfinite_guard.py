"""The non-finite guard: checks a run's steps, and collects what they returned."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.runtime import compat
from xdc_tf.training.monitoring import HeadSums
from xdc_tf.training.run import Run
from xdc_tf.training.run_features import FeatureCollector
from xdc_tf.training.train_step import StepResult

_MAX_VIDEO_IDS = 8


class _Step(NamedTuple):
    result: StepResult
    example_index: tf.Tensor  # distributed
    number: int


class NonFiniteGuard:
    """The steps of one round's training.

    A step is checked when the next one has been started, so that a device is not kept
    waiting; the step itself has left everything as it was if it was not finite.
    """

    def __init__(self, run: Run, collector: FeatureCollector, *, round_index: int):
        """Has no steps yet; `collector` gets the features of those that are finite."""
        self._run = run
        self._collector = collector
        self._round_index = round_index
        self._newest: _Step | None = None
        self._sums: list[HeadSums] = []

    def add(self, result: StepResult, *, example_index: tf.Tensor, step: int) -> None:
        """Takes a step's result and checks the step before.

        Args:
          result: of train_step.
          example_index: of the step's batch.
          step: its number.

        Raises:
          FloatingPointError: if the step before was one too many that was not finite;
            names round, step and examples.
          OSError: if the disk fails, of collected features.
        """
        self._check_newest()
        self._newest = _Step(result, example_index, step)
        self._collector.add(result.encoded, round_index=self._round_index, step=step)

    def settle(self) -> list[HeadSums]:
        """Checks the newest step too; the sums of all finite steps since the last call.

        Raises:
          FloatingPointError: see add.
        """
        self._check_newest()
        sums, self._sums = self._sums, []
        return sums

    def check_weights(self, *, step: int) -> None:
        """Raises FloatingPointError if a weight is not finite, before it is saved.

        Gradients that are finite can be too large all the same.
        """
        for variable in compat.tf_variables(self._run.state.model.trainable_variables):
            if not tf.reduce_all(tf.math.is_finite(variable)):
                raise FloatingPointError(
                    f"Weights are not finite in round {self._round_index + 1} after "
                    f"step {step} ({variable.name}); the last checkpoint is intact. "
                    "Lower config.optimizer.learning_rate or raise warmup_steps, and "
                    "restart."
                )

    def _check_newest(self) -> None:
        newest, self._newest = self._newest, None
        if newest is None:
            return
        if bool(newest.result.finite):
            self._sums.append(newest.result.sums)
            return
        self._collector.forget_last()
        skipped = self._run.state.progress.skipped
        allowed = self._run.config.training.skip_nonfinite
        description = self._describe(newest)
        if int(skipped) >= allowed:
            raise FloatingPointError(
                f"{description} No weight was changed, and the last checkpoint is "
                "intact. Lower config.optimizer.learning_rate or raise warmup_steps; "
                "if these examples are at fault, raise config.training.skip_nonfinite="
                f"{allowed} to leave so many steps out."
            )
        skipped.assign_add(1)
        self._run.monitor.skipped(
            int(skipped),
            step=newest.number,
            description=f"{description} It is left out, as number {int(skipped)} of "
            f"the {allowed} that config.training.skip_nonfinite allows.",
        )

    def _describe(self, step: _Step) -> str:
        parts = self._run.strategy.experimental_local_results(step.example_index)
        index = np.concatenate([part.numpy() for part in parts])
        losses = {
            head: float(sums["loss"] / sums["labelled"])
            for head, sums in step.result.sums.items()
        }
        return (
            f"A loss or gradient is not finite in round {self._round_index + 1}, step "
            f"{step.number}: losses {losses} of the examples {index.tolist()}"
            f"{self._video_ids(index)}."
        )

    def _video_ids(self, index: np.ndarray) -> str:
        examples = self._run.records.examples
        if len(index) > _MAX_VIDEO_IDS:
            return ""
        video_ids = [
            examples.video_ids[position]
            for example in index
            for position in np.flatnonzero(examples.example_indices == example)
        ]
        return f" ({', '.join(video_ids)})"
