"""One round's training on its labels: its steps, their guard, and what is saved of it.

The non-finite guard checks a round's steps, and collects what they returned. Encoders
and heads are saved as files, for other programs.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.distribution import workers
from xdc_tf.features.feature_store import FeatureStore
from xdc_tf.models import encoder_files, two_stream
from xdc_tf.runtime import compat, files, outputs
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.runtime.signals import Stop
from xdc_tf.training import configuration, run_features, schedules, supervision
from xdc_tf.training.batches import batches_per_pass, training_batches
from xdc_tf.training.monitoring import HeadSums
from xdc_tf.training.round_pictures import RoundPictures
from xdc_tf.training.run import Run
from xdc_tf.training.run_features import FeatureCollector
from xdc_tf.training.train_step import StepResult

_MAX_VIDEO_IDS = 8


class RoundContext(NamedTuple):
    """What every round does, traced once, and what it does it with."""

    train: Callable
    evaluate: Callable
    extract_clips: Callable
    store: FeatureStore | None  # None: the method clusters nothing
    collector: run_features.FeatureCollector
    training_batches: Iterator | None  # None: balanced, anew in every round
    held_out_batches: Iterable
    portable_encoders: Mapping[str, keras.Model]  # receive weights to be saved
    pictures: RoundPictures


def train_round(
    run: Run, context: RoundContext, round_index: int, *, stop: Stop
) -> None:
    """Trains on the round's labels until its epochs are over or patience runs out.

    Args:
      run: where it stands; of its round, the first steps may be done.
      context: what all rounds use.
      round_index: from 0.
      stop: checked after each step: if it is requested, the run is saved there.

    Raises:
      Stopped: after that.
      FloatingPointError: on a step that is not finite and is not to be skipped.
      OSError: if the disk fails.
    """
    config, progress, collector = run.config, run.state.progress, context.collector
    steps_per_epoch = _steps_per_epoch(run)
    num_steps = steps_per_epoch * config.training.epochs_per_round
    schedule = configuration.schedule(config)
    already_done = int(progress.step) - int(progress.round_first_step)
    collector.start_round(round_index)
    if _out_of_patience(run):
        return
    batches = _batches_of_round(run, context)
    guard = NonFiniteGuard(run, collector, round_index=round_index)
    steps_to_do = range(already_done + 1, num_steps + 1)
    run.monitor.start_timer(int(progress.step))
    # The steps first: zip takes no batch that would be lost when they are over.
    for done, batch in zip(steps_to_do, run.monitor.timed(batches), strict=False):
        step = int(progress.step) + 1
        rate = schedules.learning_rate(schedule, done - 1, num_steps)
        compat.set_learning_rate(run.state.optimizer, rate)
        with run.monitor.profiler.step(step):
            result = context.train(batch)
        progress.step.assign(step)
        guard.add(result, example_index=batch["example_index"], step=step)
        end_of_epoch = done % steps_per_epoch == 0
        # All processes save together, whichever has been asked to leave.
        leaving = workers.any_process(run.strategy, stop.requested)
        save_now = leaving or step % config.checkpoint_every_steps == 0
        if step % config.log_every_steps == 0 or end_of_epoch or save_now:
            run.monitor.training(
                guard.settle(),
                round_index=round_index,
                step=step,
                step_in_round=done,
                steps_in_round=num_steps,
                learning_rate=rate,
            )
        if end_of_epoch or save_now:
            _average_statistics(run)
        if end_of_epoch and run.records.held_out.any():
            measure_held_out(run, context, round_index)
        if save_now:
            guard.check_weights(step=step)
            run.checkpoints.save(first=collector.prepare_commit(), wait=leaving)
            stop.check()
        if _out_of_patience(run):
            return


def _batches_of_round(run: Run, context: RoundContext) -> Iterator:
    if context.training_batches is None:
        return training_batches(run, balanced=True)
    return context.training_batches


def _average_statistics(run: Run) -> None:
    two_stream.average_statistics(run.state.model.encoders.values(), run.strategy)


def _steps_per_epoch(run: Run) -> int:
    most = run.config.training.max_steps_per_epoch
    return min(batches_per_pass(run), most) if most else batches_per_pass(run)


def _out_of_patience(run: Run) -> bool:
    return 0 < run.config.training.patience <= run.state.progress.stale_epochs


def measure_held_out(run: Run, context: RoundContext, round_index: int) -> None:
    """Measures the loss on the held-out examples; saves the encoders if it is lowest.

    Otherwise it counts an epoch without progress.

    Raises:
      FloatingPointError: on a loss that is not finite.
      OSError: if the disk fails.
    """
    collector, step = context.collector, int(run.state.progress.step)
    sums = []
    for batch in context.held_out_batches:
        result = context.evaluate(batch)
        sums.append(result.sums)
        collector.add(result.encoded, round_index=round_index, step=step)
    loss = run.monitor.held_out(sums, round_index=round_index, step=step)
    if loss < run.state.progress.best_loss:
        run.state.progress.best_loss.assign(loss)
        run.state.progress.stale_epochs.assign(0)
        save_best(run, context.portable_encoders)
    else:
        run.state.progress.stale_epochs.assign_add(1)
    run.monitor.start_timer(step)


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


def save_initial(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes the encoders that the run starts from.

    Args:
      run: whose encoders; all processes call this.
      portable_encoders: by stream, float32 ones that receive the weights.

    Raises:
      OSError: if the disk fails, here and in all functions of this module.
    """
    _take_weights(run, portable_encoders)
    workers.on_chief(
        run.strategy,
        lambda: _write_encoders(portable_encoders, run.workdir, initial=True),
    )


def save_finished_round(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes encoders and heads after a round, the run's result so far."""
    best_loss = float(run.state.progress.best_loss)
    card = {
        "rounds": int(run.state.progress.round_index) + 1,
        "steps": int(run.state.progress.step),
        "held_out_loss": best_loss if np.isfinite(best_loss) else None,
    }
    _take_weights(run, portable_encoders)
    workers.on_chief(
        run.strategy,
        lambda: _write_with_heads(run, portable_encoders, run.workdir, card=card),
    )


def save_best(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes encoders and heads of the round's lowest held-out loss so far, as one."""
    card = {
        "round": int(run.state.progress.round_index),  # whose labels the heads know
        "steps": int(run.state.progress.step),
        "held_out_loss": float(run.state.progress.best_loss),
    }

    def write() -> None:
        with outputs.replacing(Path(run.workdir, run_directory.BEST_DIR)) as partial:
            _write_with_heads(run, portable_encoders, str(partial), card=card)

    _take_weights(run, portable_encoders)
    workers.on_chief(run.strategy, write)


def _take_weights(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    for stream, encoder in portable_encoders.items():
        # Statistics of batch norm are read from all processes together.
        encoder.set_weights(run.state.model.encoders[stream].get_weights())


def _write_encoders(
    portable_encoders: Mapping[str, keras.Model],
    directory: str,
    *,
    initial: bool = False,
) -> None:
    """As .keras files that open without this project."""
    for stream, encoder in portable_encoders.items():
        encoder_files.save_encoder(
            encoder, run_directory.encoder_file(directory, stream, initial=initial)
        )


def _write_with_heads(
    run: Run,
    portable_encoders: Mapping[str, keras.Model],
    directory: str,
    *,
    card: Mapping[str, Any],
) -> None:
    """Encoders, heads and what is card of them: rounds, steps, loss."""
    _write_encoders(portable_encoders, directory)
    for stream, sources in run.method.supervision.items():
        layers = {
            source: run.state.model.heads[supervision.head_name(stream, source)]
            for source in sources
        }
        heads = {
            source: encoder_files.Head(layer.kernel.numpy(), layer.bias.numpy())
            for source, layer in layers.items()
        }
        encoder_files.save_heads(heads, run_directory.heads_file(directory, stream))
    path = os.path.join(directory, run_directory.ENCODERS_FILE)
    files.write_text(path, json.dumps(card) + "\n")
