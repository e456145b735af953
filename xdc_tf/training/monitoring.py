"""What a run tells: progress lines on the terminal; curves, profiles in TensorBoard."""

import collections
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.labels import health
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.training import charts

HeadSums = Mapping[str, Mapping[str, tf.Tensor]]
# Measures of clusterings that are worth the terminal's room.
_SHOWN = (
    "inertia",
    "effective_clusters",
    "largest_share",
    "empty_clusters",
    "churn",
    "nmi_",
)


def head_means(sums: list[HeadSums]) -> dict[str, dict[str, float]]:
    """Head sums of several batches -> "loss" and "accuracy" per labelled example.

    Args:
      sums: what train_step returns.

    Returns:
      For each head its mean loss and accuracy; NaN where no example had a label.
      Nothing without a batch.
    """
    means = {}
    for head in sums[0] if sums else ():
        total = {
            key: float(np.sum([float(step_sums[head][key]) for step_sums in sums]))
            for key in ("loss", "correct", "labelled")
        }
        count = total["labelled"] or float("nan")
        means[head] = {
            "loss": total["loss"] / count,
            "accuracy": total["correct"] / count,
        }
    return means


class Monitor:
    """Writes TensorBoard events and progress lines of one run."""

    def __init__(
        self,
        log_dir: str | None,
        *,
        num_rounds: int,
        batch_size: int,
        profile_steps: tuple[int, int] = (0, 0),
    ):
        """Reports to `log_dir`; only one process of a run has one."""
        self.profiler = Profiler(log_dir or "", profile_steps if log_dir else (0, 0))
        self._log_dir = log_dir
        self._writer = (
            tf.summary.create_noop_writer()
            if log_dir is None
            else tf.summary.create_file_writer(log_dir)
        )
        self._described: set[str] = set()
        self._num_rounds = num_rounds
        self._batch_size = batch_size
        self._last = (time.monotonic(), 0)
        self._waited_secs = 0.0  # for batches, since then
        # Of a step, lately; one that traces or is held up tells nothing of the others.
        self._step_secs: collections.deque[float] = collections.deque(maxlen=20)

    def start_timer(self, step: int) -> None:
        """Counts clips per second from now on; time spent elsewhere stays out."""
        self._last = (time.monotonic(), step)
        self._waited_secs = 0.0

    def timed(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches, with the time that the steps wait for them counted."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self._waited_secs += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def training(
        self,
        sums: list[HeadSums],
        *,
        round_index: int,
        step: int,
        step_in_round: int,
        steps_in_round: int,
        learning_rate: float,
    ) -> dict[str, dict[str, float]]:
        """Reports the batches since the last report.

        Args:
          sums: of each step's heads, as train_step returns them.
          round_index: from 0.
          step: of the run, from 1.
          step_in_round: from 1.
          steps_in_round: how many the round has.
          learning_rate: of the last step.

        Returns:
          head_means of the batches.
        """
        means = head_means(sums)
        now, (before, step_before) = time.monotonic(), self._last
        secs = max(now - before, 1e-9)
        rate, waited = (step - step_before) / secs, self._waited_secs / secs
        self._step_secs.append(1 / max(rate, 1e-9))
        self.start_timer(step)
        with self._events(step=step):
            self._scalar("training/learning_rate", learning_rate)
            self._scalar("training/clips_per_sec", rate * self._batch_size)
            self._scalar("training/input_wait_share", waited)
            self._head_scalars("training", means)
        losses = {head: values["loss"] for head, values in means.items()}
        rounds_after = self._num_rounds - round_index - 1
        steps_left = steps_in_round - step_in_round + rounds_after * steps_in_round
        print(
            f"round {round_index + 1}/{self._num_rounds}  "
            f"step {step_in_round}/{steps_in_round}  "
            f"{rate * self._batch_size:.1f} clips/s  input wait {waited:.0%}  "
            + "  ".join(f"{head} {loss:.3f}" for head, loss in losses.items())
            + f"  {_duration(steps_left * statistics.median(self._step_secs))} of "
            "training left",
            flush=True,
        )
        return means

    def held_out(self, sums: list[HeadSums], *, round_index: int, step: int) -> float:
        """Reports an epoch's end; returns the heads' mean held-out loss, added up.

        Raises:
          FloatingPointError: on a loss that is not finite; names round and step.
        """
        means = head_means(sums)
        losses = [
            float(head["loss"]) for step_sums in sums for head in step_sums.values()
        ]
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"The held-out loss is not finite in round {round_index + 1} after "
                f"step {step}; the last checkpoint is intact. Lower "
                "config.optimizer.learning_rate or raise warmup_steps, and restart."
            )
        with self._events(step=step):
            self._head_scalars("held_out", means)
        total = sum(values["loss"] for values in means.values())
        print(
            f"round {round_index + 1}/{self._num_rounds}  held-out  "
            + "  ".join(
                f"{head} loss {values['loss']:.3f} accuracy {values['accuracy']:.3f}"
                for head, values in means.items()
            ),
            flush=True,
        )
        return total

    def _head_scalars(self, group, means):
        for head, values in means.items():
            for key, value in values.items():
                self._scalar(f"{group}/{head}/{key}", value)

    def skipped(self, count: int, *, step: int, description: str) -> None:
        """Reports a step that was left out, as the count-th of the run."""
        with self._events(step=step):
            self._scalar("training/skipped_steps", count)
        print(f"warning: {description}", file=sys.stderr, flush=True)

    def clusterings(
        self, clusterings: Mapping[str, Clustering], health_report: Mapping[str, Any]
    ) -> None:
        """Reports a round's clusterings: curves of all measures, a line of some.

        A collapse is also reported on standard error.

        Args:
          clusterings: by name.
          health_report: of health.build_report; its round is the step of these curves.
        """
        scalars = dict(health_report["between"])
        measured = health_report.get("criteria", {})
        for name, measures in health_report["clusterings"].items():
            scalars |= {f"{name}/{key}": value for key, value in measures.items()}
            scalars[f"{name}/collapsed"] = float(name in health_report["collapses"])
        with self._events(step=health_report["round"]):
            for name, value in scalars.items():
                self._scalar(f"clusters/{name}", value)
            for name, value in measured.items():
                self._scalar(f"criteria/{name}", value)
            for name, clustering in clusterings.items():
                sizes = f"clusters/{name}/sizes"
                tf.summary.histogram(
                    sizes, clustering.sizes, description=self._description(sizes)
                )
            self._writer.flush()
        finished = health_report["round"] == self._num_rounds
        when = (
            "end"
            if finished
            else f"round {health_report['round'] + 1}/{self._num_rounds}"
        )
        shown = {
            name: value
            for name, value in scalars.items()
            if health.is_first_head(name.split("/")[0])
            and name.split("/")[-1].startswith(_SHOWN)
        }
        print(
            f"{when}  clusters  "
            + "  ".join(f"{name} {value:.4g}" for name, value in shown.items()),
            flush=True,
        )
        if measured:
            print(
                f"{when}  criteria  "
                + "  ".join(f"{name} {value:.3g}" for name, value in measured.items()),
                flush=True,
            )
        if health_report["collapses"]:
            print(
                f"warning: {health.describe_collapses(health_report)}",
                file=sys.stderr,
                flush=True,
            )

    def warn(self, message: str) -> None:
        """Reports what is no error, on standard error."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def start(self, texts: Mapping[str, str], *, step: int) -> None:
        """Writes which charts come first, and what the run is.

        Args:
          texts: Markdown by the name of the summary.
          step: from which on they hold.
        """
        with self._events(step=step):
            tf.summary.experimental.write_raw_pb(charts.layout())
            for name, text in texts.items():
                tf.summary.text(name, text, description=self._description(name))
            self._writer.flush()

    def pictures(self, pictures: Mapping[str, np.ndarray], *, step: int) -> None:
        """Writes pictures [H, W, 3] uint8 by the name of the summary."""
        with self._events(step=step):
            for name, picture in pictures.items():
                tf.summary.image(
                    name, picture[None], description=self._description(name)
                )
            self._writer.flush()

    def sounds(
        self, name: str, waveforms: np.ndarray, *, sample_rate_hz: int, step: int
    ) -> None:
        """Writes waveforms [N, samples] float32 in [-1, 1] as one summary."""
        with self._events(step=step):
            tf.summary.audio(
                name,
                waveforms[..., None],
                sample_rate_hz,
                max_outputs=len(waveforms),
                description=self._description(name),
            )
            self._writer.flush()

    def _scalar(self, name: str, value: Any) -> None:
        tf.summary.scalar(name, value, description=self._description(name))

    def _description(self, name: str) -> str | None:
        """How to read a summary, for its first event; TensorBoard keeps that one's.

        In each event it would be most of the file.
        """
        if name in self._described:
            return None
        self._described.add(name)
        return charts.describe(name)

    @contextlib.contextmanager
    def _events(self, *, step: int) -> Iterator[None]:
        """Writes summaries; raises OSError if that fails."""
        try:
            with self._writer.as_default(step=step):
                yield
        except tf.errors.OpError as error:
            raise OSError(f"{self._log_dir} cannot be written: {error}") from error

    def close(self) -> None:
        """Writes what is buffered; curves that cannot be written are no error here."""
        try:
            self.profiler.close()
            self._writer.close()
        except tf.errors.OpError as error:
            message = f"{self._log_dir} cannot be written: {error}"
            print(f"warning: {message}", file=sys.stderr, flush=True)


def _duration(secs: float) -> str:
    minutes, secs = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}"


class Profiler:
    """Profiles the steps from a first to a last one, of those that this process does.

    A profile is a directory of its own under LOG_DIR/plugins/profile.
    """

    def __init__(self, log_dir: str, steps: tuple[int, int]):
        """Starts nothing yet; `steps` are as config.profile_steps has them."""
        self._log_dir = log_dir
        self._first, self._last = steps
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step of the run, by its number from 1."""
        if not self._first <= number <= self._last:
            yield
            return
        if not self._running:
            tf.profiler.experimental.start(self._log_dir)
            self._running = True
        try:
            with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
                yield
        finally:
            if number == self._last:
                self.close()

    def close(self) -> None:
        """Writes a profile whose last step has not come."""
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
