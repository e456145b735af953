"""A pool of processes in which a failure costs one item: a crash, a hang, a leak.

Nothing here imports TensorFlow: a worker is as large as the function that it runs.
"""

import collections
import multiprocessing
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection as mp_connection
from typing import Any, NamedTuple

import threadpoolctl

from data_prep.reasons import CRASHED, OUT_OF_MEMORY, TIMEOUT, UNEXPECTED_ERROR

# Outcomes may wait for the turn of an earlier one, this many per worker.
_WAITING_PER_WORKER = 8


class Outcome(NamedTuple):
    """What became of an item: a result, or the reason and detail of its failure."""

    result: Any = None
    reason: str = ""
    detail: str = ""


class Limits(NamedTuple):
    """What an item may take of a worker: wall-clock time, and memory for data."""

    timeout_secs: float = 300.0
    memory_mib: float = 2048.0


class _Task(NamedTuple):
    """Items for one call of the function, numbered from `first`."""

    first: int
    items: Sequence[Any]


def map_groups(
    function: Callable[[Sequence[Any]], Iterator[Outcome]],
    groups: Iterable[Sequence[Any]],
    *,
    num_workers: int,
    limits: Limits,
) -> Iterator[Outcome]:
    """Applies a function to groups of items in worker processes, outcomes in order.

    An item whose processing raises, kills its process, or exceeds a limit costs that
    item alone: its outcome says so, and a fresh process takes the rest of its group.

    Args:
      function: from a group to an outcome for each of its items, in order; importable
        by name, or a functools.partial of such.
      groups: sequences of items.
      num_workers: processes.
      limits: of an item.

    Yields:
      The outcome of each item.
    """
    waiting = _number(groups)
    again: collections.deque[_Task] = collections.deque()  # rests of groups
    workers: list[_Worker] = []
    finished: dict[int, Outcome] = {}
    next_item, upcoming = 0, next(waiting, None)
    try:
        while True:
            end_of_window = next_item + _WAITING_PER_WORKER * num_workers
            while again or (upcoming and upcoming.first < end_of_window):
                worker = _idle_worker(workers, function, num_workers, limits)
                if worker is None:
                    break
                if again:
                    worker.start(again.popleft())
                else:
                    worker.start(upcoming)
                    upcoming = next(waiting, None)
            # One that is far ahead waits in its pipe.
            heard = [w for w in workers if w.task and w.task.first < end_of_window]
            if not heard:
                return  # the first item's worker is always heard
            for worker in workers:
                if worker.task and worker not in heard:
                    worker.allow_more_time()
            earliest = min(worker.deadline for worker in heard)
            ready = mp_connection.wait(
                [worker.connection for worker in heard],
                timeout=max(0.0, earliest - time.monotonic()),
            )
            for worker in heard:
                if worker.connection in ready:
                    outcome, item, rest = worker.receive()
                elif time.monotonic() >= worker.deadline:
                    outcome, item, rest = worker.time_out()
                else:
                    continue
                finished[item] = outcome
                if rest:
                    again.append(rest)
            workers = [worker for worker in workers if not worker.stopped]
            while next_item in finished:
                yield finished.pop(next_item)
                next_item += 1
    finally:
        for worker in workers:
            worker.stop()


def _number(groups: Iterable[Sequence[Any]]) -> Iterator[_Task]:
    first = 0
    for items in groups:
        if items:
            yield _Task(first, items)
            first += len(items)


class _Worker:
    """A process that works on one task at a time.

    Attributes:
      task: what is left of it, the item in work first; None without one.
    """

    def __init__(self, function: Callable, limits: Limits):
        # A fresh interpreter: forking a process that runs TensorFlow's threads hangs.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # A process that is killed leaves its temporary files.
        self._temporary_dir = tempfile.mkdtemp(prefix="worker-")
        self.process = context.Process(
            target=_serve,
            args=(function, theirs, limits.memory_mib, self._temporary_dir),
            daemon=True,
        )
        self.process.start()
        # With only the child holding its end, its death reads as end of file.
        theirs.close()
        self.task: _Task | None = None
        self.deadline = 0.0
        self.stopped = False
        self._timeout_secs = limits.timeout_secs

    def start(self, task: _Task) -> None:
        self.task = task
        self.allow_more_time()
        try:
            self.connection.send(task.items)
        except OSError:
            pass  # it died just now: receive() finds the end of file and says so

    def allow_more_time(self) -> None:
        self.deadline = time.monotonic() + self._timeout_secs

    def receive(self) -> tuple[Outcome, int, _Task | None]:
        """The outcome of an item, its number, and what others are to do of the task."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return self._fail(CRASHED, f"process ended with {self.process.exitcode}")
        if outcome.reason in (OUT_OF_MEMORY, UNEXPECTED_ERROR):
            self.process.join(timeout=5)  # it may be printing its traceback
            return self._fail(outcome.reason, outcome.detail)
        item, self.task = self.task.first, _rest(self.task)
        self.allow_more_time()
        return outcome, item, None

    def time_out(self) -> tuple[Outcome, int, _Task | None]:
        """Like receive, for one that takes too long."""
        return self._fail(TIMEOUT, f"not done after {self._timeout_secs:g} s")

    def _fail(self, reason: str, detail: str) -> tuple[Outcome, int, _Task | None]:
        task = self.task
        self.stop()
        return Outcome(reason=reason, detail=detail), task.first, _rest(task)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self._temporary_dir, ignore_errors=True)
        self.task, self.stopped = None, True


def _rest(task: _Task) -> _Task | None:
    if len(task.items) == 1:
        return None
    return _Task(task.first + 1, task.items[1:])


def _idle_worker(
    workers: list[_Worker], function: Callable, num_workers: int, limits: Limits
) -> _Worker | None:
    """A worker without a task, started if there may be one more; None if all work."""
    for worker in [worker for worker in workers if worker.task is None]:
        if worker.process.is_alive():
            return worker
        worker.stop()  # killed from outside while it waited
        workers.remove(worker)
    if len(workers) >= num_workers:
        return None
    workers.append(_Worker(function, limits))
    return workers[-1]


def _serve(
    function: Callable, connection, memory_mib: float, temporary_dir: str
) -> None:
    """Answers tasks until the other end closes."""
    # An interrupt from the terminal is for the main process, which then stops this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = temporary_dir
    _, hardest = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(memory_mib * 2**20)
    if hardest != resource.RLIM_INFINITY:
        limit = min(limit, hardest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # The processes are the parallelism. A matrix product's threads spin while they wait
    # for each other; those of several processes on the same cores do so for seconds.
    threadpoolctl.threadpool_limits(1)
    while True:
        try:
            items = connection.recv()
        except (EOFError, OSError):
            return
        try:
            for outcome in function(items):
                connection.send(outcome)
                if outcome.reason == OUT_OF_MEMORY:
                    return  # what state that left is unknown: a fresh process goes on
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionError):
                return  # the main process is gone
            _confess(connection, error)
            raise
        except MemoryError:
            connection.send(
                Outcome(reason=OUT_OF_MEMORY, detail=f"more than {memory_mib:g} MiB")
            )
            return
        except Exception as error:
            # It costs this item alone; the traceback is for the terminal.
            _confess(connection, error)
            raise


def _confess(connection, error: Exception) -> None:
    detail = f"{type(error).__name__}: {error}"
    connection.send(Outcome(reason=UNEXPECTED_ERROR, detail=detail))
