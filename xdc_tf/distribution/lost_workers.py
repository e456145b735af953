"""Leaving with one message when another worker of the run is lost or does not come."""

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
def leaving(num_workers: int) -> Iterator[None]:
    """Ends this process with EXIT_CODE as soon as another worker is lost.

    TensorFlow's workers send heartbeats to the first one, and one that is silent for
    about ten seconds counts as lost. Whoever waits for it then gets an error; a thread
    looks after those who do not wait for anybody. A worker that lives and does not come
    is found by the time-out of devices.make_strategy.

    Nothing is saved: as after SIGKILL, the run goes on from its last checkpoint.

    Args:
      num_workers: of the run; with one nothing is done.
    """
    if num_workers == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(num_workers, done), daemon=True).start()
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
    ) as error:
        _leave(_reason(error))
    finally:
        done.set()


def _watch(num_workers: int, done: threading.Event) -> None:
    reason = None
    while not done.wait(_CHECK_SECS):
        before, reason = reason, compat.lost_worker(num_workers)
        # Twice: at the end of a run, the first worker may be gone a little earlier.
        if before and reason and not done.is_set():
            _leave(reason)


def _reason(error: tf.errors.OpError) -> str:
    lines = [line.strip() for line in error.message.splitlines()]
    telling = [line for line in lines if "ollective" in line or "task:" in line]
    return (telling or lines or [type(error).__name__])[-1]


def _leave(reason: str) -> None:
    """At once: leaving in order would wait for the lost worker again."""
    told = (
        f"error: another worker is lost or does not answer ({reason}); start all "
        "workers again, and the run goes on from its last checkpoint.\n"
    )
    sys.stdout.flush()
    os.write(2, told.encode())
    os._exit(EXIT_CODE)
