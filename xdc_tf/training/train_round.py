"""One round's training on its labels, with what watches over it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import keras

from xdc_tf.distribution import workers
from xdc_tf.features.feature_store import FeatureStore
from xdc_tf.models import two_stream
from xdc_tf.runtime import compat
from xdc_tf.runtime.signals import Stop
from xdc_tf.training import run_features, saved_encoders, schedules, settings
from xdc_tf.training.batches import batches_per_pass, training_batches
from xdc_tf.training.nonfinite_guard import NonFiniteGuard
from xdc_tf.training.run import Run


class RoundContext(NamedTuple):
    """What every round does, traced once, and what it does it with."""

    train: Callable
    evaluate: Callable
    extract_clips: Callable
    store: FeatureStore | None
    collector: run_features.FeatureCollector
    training_batches: Iterator | None  # None: balanced, anew in every round
    held_out_batches: Iterable
    portable_encoders: Mapping[str, keras.Model]  # receive weights to be saved


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
    schedule = settings.schedule(config)
    already_done = int(progress.step) - int(progress.round_first_step)
    collector.start_round(round_index)
    if _out_of_patience(run):
        return
    batches = context.training_batches
    if batches is None:
        batches = training_batches(run, balanced=True)
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
        saved_encoders.save_best(run, context.portable_encoders)
    else:
        run.state.progress.stale_epochs.assign_add(1)
    run.monitor.start_timer(step)
