"""A profile of some steps of a run, to be read in TensorBoard."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


def check_steps(steps: Sequence[int]) -> tuple[int, int]:
    """The first and the last step to profile, from config.profile_steps.

    Raises:
      ValueError: if they are no such pair.
    """
    first, last = steps if len(steps) == 2 else (-1, -1)
    if not (first == last == 0 or 1 <= first <= last):
        raise ValueError(
            f"config.profile_steps={tuple(steps)} must be the first and the last step "
            "of the run to profile, from 1, such as 100,120; 0,0: none."
        )
    return first, last


class Profiler:
    """Profiles the steps from a first to a last one, of those that this process does.

    A profile is a directory of its own under LOG_DIR/plugins/profile.
    """

    def __init__(self, log_dir: str, steps: tuple[int, int]):
        """Starts nothing yet; `steps` are as check_steps gives them."""
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
