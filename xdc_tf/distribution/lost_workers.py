"""Exits with a single message when another worker of the run is lost."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import tensorflow as tf

from xdc_tf.runtime import compat

EXIT_CODE = os.EX_TEMPFAIL  # 75: schedulers may start the run again
_CHECK_SECS = 2.0


@contextlib.contextmanager
def exit_on_loss(num_workers: int) -> Iterator[None]:
    """Ends this process with EXIT_CODE as soon as another worker is lost.

    TensorFlow's workers send heartbeats to the first one, and one that is silent for
    about ten seconds counts as lost. A collective operation that waits for it then
    fails; a thread checks for processes that are in none. A worker that lives and does
    not reach a collective operation is detected by the time-out of
    devices.make_strategy.

    Nothing is saved: as after SIGKILL, the run goes on from its last checkpoint.

    Args:
      num_workers: of the run; with 1 nothing is checked.
    """
    if num_workers == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(
        target=_check_heartbeats, args=(num_workers, done), daemon=True
    ).start()
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
    ) as error:
        _exit(_reason(error))
    finally:
        done.set()


def _check_heartbeats(num_workers: int, done: threading.Event) -> None:
    reason = None
    while not done.wait(_CHECK_SECS):
        before, reason = reason, compat.lost_worker(num_workers)
        # Twice: at the end of a run, the first worker may be gone a little earlier.
        if before and reason and not done.is_set():
            _exit(reason)


def _reason(error: tf.errors.OpError) -> str:
    lines = [line.strip() for line in error.message.splitlines()]
    specific = [line for line in lines if "ollective" in line or "task:" in line]
    return (specific or lines or [type(error).__name__])[-1]


def _exit(reason: str) -> None:
    """At once: an orderly exit would wait for the lost worker again."""
    message = (
        f"error: another worker is lost or does not answer ({reason}); start all "
        "workers again, and the run goes on from its last checkpoint.\n"
    )
    sys.stdout.flush()
    os.write(2, message.encode())
    os._exit(EXIT_CODE)
