"""A pool of processes in which a failure costs one item: a crash, a hang, a leak.

What may not be the item's fault is tried once more, while no other item is processed.
"""

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import connection as mp_connection
from typing import Any, NamedTuple

from data_prep.answers import Form, Outcome
from data_prep.reasons import TRIED_AGAIN_REASONS
from data_prep.worker import (
    Limits,
    Task,
    Worker,
    remove_abandoned,
    remove_directory,
)

# Outcomes may wait for the turn of an earlier one, this many per worker.
_WAITING_PER_WORKER = 8


class PoolSettings(NamedTuple):
    """Processes that work on items, and what an item may take of one."""

    num_workers: int
    limits: Limits = Limits()


def map_groups(
    function: Callable[[Sequence[Any]], Iterator[Outcome]],
    groups: Iterable[Sequence[Any]],
    *,
    form: Form,
    pool: PoolSettings,
) -> Generator[Outcome, None, None]:
    """Applies a function to groups of items in worker processes, outcomes in order.

    An item whose processing raises, kills its process, or exceeds a limit costs that
    item alone: its outcome says so, and a fresh process takes the rest of its group.
    For one of TRIED_AGAIN_REASONS it is tried once more, with no other item in work.

    Args:
      function: from a group to an outcome for each of its items, in order; importable
        by name, or a functools.partial of such.
      groups: sequences of items.
      form: how its results are sent.
      pool: processes, and the limits of an item.

    Yields:
      The outcome of each item.
    """
    remove_abandoned()
    start_worker = functools.partial(Worker, function, form, pool.limits)
    running = _Pool(groups, start_worker, pool.num_workers)
    try:
        while True:
            running.start_tasks()
            heard = running.heard_workers()
            if not heard:
                return  # the first item's worker is always heard
            running.receive(heard)
            before = time.monotonic()
            yield from running.take_in_order()
            running.extend_deadlines(time.monotonic() - before)
    finally:
        with contextlib.ExitStack() as ending:
            # A killed process may have been ending still when this one began.
            ending.callback(remove_abandoned)
            ending.callback(running.stop)
            running.stop()  # and once more if a signal ends it


class _Pool:
    """Workers, tasks that wait for a worker, and outcomes that wait for their turn."""

    def __init__(
        self,
        groups: Iterable[Sequence[Any]],
        start_worker: Callable[[dict[str, int]], Worker],
        num_workers: int,
    ):
        self._start_worker = start_worker
        self._num_workers = num_workers
        self._tasks = _number(groups)
        self._next_task = next(self._tasks, None)
        self._rests: collections.deque[Task] = collections.deque()  # of groups
        self._last_tries: collections.deque[Task] = collections.deque()
        self._workers: list[Worker] = []
        self._directories: dict[str, int] = {}  # temporary ones of the workers
        self._outcomes: dict[int, Outcome] = {}
        self._next_item = 0  # whose outcome is given next

    def start_tasks(self) -> None:
        """Gives idle workers what there is to do; a last try only if all are idle."""
        tasks = [worker.task for worker in self._workers if worker.task]
        if self._last_tries:
            if not tasks and (idle := self._idle_worker()):
                idle.start(self._last_tries.popleft())
            return
        if any(task.is_last_try for task in tasks):
            return
        while self._has_task_now() and (idle := self._idle_worker()):
            idle.start(self._take_task())

    def _has_task_now(self) -> bool:
        return bool(self._rests) or (
            self._next_task is not None
            and self._next_task.first < self._end_of_window()
        )

    def _take_task(self) -> Task:
        """The rest of a group, or else the next group; there is one."""
        if self._rests or self._next_task is None:
            return self._rests.popleft()
        task, self._next_task = self._next_task, next(self._tasks, None)
        return task

    def _end_of_window(self) -> int:
        """Items from here on wait until earlier ones have their turn."""
        return self._next_item + _WAITING_PER_WORKER * self._num_workers

    def _idle_worker(self) -> Worker | None:
        """A worker without a task, started if there may be one more; or None."""
        for idle in [worker for worker in self._workers if worker.task is None]:
            if idle.process.is_alive():
                return idle
            idle.stop()  # killed from outside while it waited
            self._workers.remove(idle)
        if len(self._workers) >= self._num_workers:
            return None
        self._workers.append(self._start_worker(self._directories))
        return self._workers[-1]

    def heard_workers(self) -> list[Worker]:
        """Workers whose answers are to be read.

        One that is far ahead waits, unless some item is to be processed alone. Its
        time does not count.
        """
        heard = []
        for worker in self._workers:
            if worker.task is None:
                continue
            is_near = worker.task.first < self._end_of_window()
            if self._last_tries or worker.task.is_last_try or is_near:
                heard.append(worker)
            else:
                worker.allow_more_time()
        return heard

    def receive(self, heard: Sequence[Worker]) -> None:
        """Waits until a worker answers or is out of time, and takes the outcomes."""
        earliest = min(worker.deadline for worker in heard)
        ready = mp_connection.wait(
            [worker.socket for worker in heard],
            timeout=max(0.0, earliest - time.monotonic()),
        )
        for worker in heard:
            ended = None
            if worker.socket in ready:
                ended = worker.receive()
            elif time.monotonic() >= worker.deadline:
                ended = worker.time_out()
            if ended is None:
                continue
            item, outcome, rest = ended
            if outcome.reason in TRIED_AGAIN_REASONS and not item.is_last_try:
                self._last_tries.append(item._replace(is_last_try=True))
            else:
                self._outcomes[item.first] = outcome
            if rest:
                self._rests.append(rest)
        self._workers = [worker for worker in self._workers if not worker.stopped]

    def take_in_order(self) -> Iterator[Outcome]:
        """The outcomes whose turn it is."""
        while self._next_item in self._outcomes:
            yield self._outcomes.pop(self._next_item)
            self._next_item += 1

    def extend_deadlines(self, secs: float) -> None:
        """Does not count a time in which nobody listened."""
        for worker in self._workers:
            worker.deadline += secs

    def stop(self) -> None:
        """Ends all processes; may be called again."""
        for worker in self._workers:
            worker.stop()
        # Of a worker that a signal kept from being one: it has no task, and ends.
        for path in list(self._directories):
            remove_directory(path, self._directories)


def _number(groups: Iterable[Sequence[Any]]) -> Iterator[Task]:
    first = 0
    for items in groups:
        if items:
            yield Task(first, items)
            first += len(items)
