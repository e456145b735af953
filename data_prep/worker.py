"""One worker process: the end that gives it tasks, and what runs in the process.

Nothing here imports TensorFlow: a worker is as large as the function that it runs.
"""

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import threadpoolctl

from data_prep import answers
from data_prep.answers import Form, Outcome
from data_prep.reasons import (
    CRASHED,
    IO_ERROR,
    KILLED,
    OUT_OF_MEMORY,
    TIMEOUT,
    UNEXPECTED_ERROR,
    is_transient,
)
from xdc_tf.runtime import signals

# A process that closed its connection has so long to end by itself.
_ENDING_SECS = 5.0
# What a process sends before its first answer.
_BEGINNING = b"\1"
_STARTING_SECS = 60.0  # for an interpreter and its imports, on a busy machine
_TEMPORARY_PREFIX = "xdc-worker-"
# Signals that a process gets for what it does itself.
_SIGNALS_OF_CRASHES = frozenset(
    {
        *(signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
        *(signal.SIGTRAP, signal.SIGSYS),
    }
)


class Limits(NamedTuple):
    """What an item may take of a worker: wall-clock time, and memory for data."""

    timeout_secs: float = 300.0
    memory_mib: float = 2048.0


class Task(NamedTuple):
    """Items for one call of the function.

    Attributes:
      first: number of the first item; the others follow it.
      items: of one group.
      is_last_try: whether it is one item that is tried again, while no other is.
    """

    first: int
    items: Sequence[Any]
    is_last_try: bool = False


class Ended(NamedTuple):
    """An item's outcome, and what others are to do of the task.

    Attributes:
      item: the task of this item alone.
      outcome: what became of it.
      rest: the task's other items, if this worker does not go on with them.
    """

    item: Task
    outcome: Outcome
    rest: Task | None = None


class Worker:
    """A process that works on one task at a time.

    Attributes:
      socket: where its answers come from.
      task: what is left of it, the item that is processed first; None without one.
      deadline: of the task's first item, by time.monotonic().
      stopped: whether it has ended, or was made to.
    """

    def __init__(
        self,
        function: Callable,
        form: Form,
        limits: Limits,
        directories: dict[str, int],
    ):
        """Starts the process.

        Args:
          function: see worker_processes.map_groups.
          form: the same.
          limits: of an item.
          directories: the temporary directories of workers, with the open file that
            has each locked; gets this one's, and loses it when the worker stops.
        """
        # A fresh interpreter: forking a process that runs TensorFlow's threads hangs.
        context = multiprocessing.get_context("spawn")
        self.socket, theirs = socket.socketpair()
        # Nor does one that reads no tasks stop what sends them.
        self.socket.settimeout(limits.timeout_secs)
        # A process that is killed leaves its temporary files.
        self._directories = directories
        self._temporary_dir = _make_temporary_dir(directories)
        self.process = context.Process(
            target=_serve,
            args=(function, form, theirs, limits.memory_mib, self._temporary_dir),
            daemon=True,
        )
        self.process.start()
        # With only the child holding its end, its death reads as end of file.
        theirs.close()
        # What it sends, it has had in its memory.
        self._answers = answers.Receiver(form, int(limits.memory_mib * 2**20))
        self.task: Task | None = None
        self.deadline = 0.0
        self.stopped = False
        self._has_begun = False
        self._timeout_secs = limits.timeout_secs

    def start(self, task: Task) -> None:
        """Gives the worker a task; it has none."""
        self.task = task
        self.allow_more_time()
        try:
            self.socket.sendall(pickle.dumps((task.first, task.items)))
        except OSError:
            pass  # it died just now: receive() finds the end of file and says so

    def allow_more_time(self) -> None:
        """Counts the item's time from now on, or from when the process has begun."""
        starting_secs = 0.0 if self._has_begun else _STARTING_SECS
        self.deadline = time.monotonic() + starting_secs + self._timeout_secs

    def receive(self) -> Ended | None:
        """Takes what has arrived of an item's outcome; None if more is to come."""
        try:
            if not self._has_begun:
                self._has_begun = self.socket.recv(1) == _BEGINNING
                if not self._has_begun:
                    raise EOFError
                self.allow_more_time()
                return None
            answer = self._answers.receive(self.socket)
            if answer is None:
                return None
            number, outcome = answer
            if number != self.task.first:
                raise ValueError(f"answers item {number}, was at {self.task.first}")
        except (EOFError, OSError):
            return self._fail(*self._how_it_ended())
        except ValueError as error:
            detail = f"its answer is not of the declared form: {error}"
            return self._fail(CRASHED, detail)
        if outcome.reason in (OUT_OF_MEMORY, IO_ERROR, UNEXPECTED_ERROR):
            self.process.join(_ENDING_SECS)  # it may be printing its traceback
            return self._fail(outcome.reason, outcome.detail)
        item, self.task = _first(self.task), _rest(self.task)
        self.allow_more_time()
        return Ended(item, outcome)

    def _how_it_ended(self) -> tuple[str, str]:
        self.process.join(_ENDING_SECS)
        code = self.process.exitcode
        if not self._has_begun:  # not for the item, which it never saw
            return KILLED, f"process ended with {code} before it began"
        if code is None:
            return CRASHED, "process closed its connection"
        if code < 0 and -code not in _SIGNALS_OF_CRASHES:
            return KILLED, f"process ended from outside by signal {-code}"
        return CRASHED, f"process ended with {code}"

    def time_out(self) -> Ended:
        """Like receive, for one that takes too long."""
        return self._fail(TIMEOUT, f"not done after {self._timeout_secs:g} s")

    def _fail(self, reason: str, detail: str) -> Ended:
        task = self.task
        self.stop()
        return Ended(_first(task), Outcome(reason=reason, detail=detail), _rest(task))

    def stop(self) -> None:
        """Ends the process and removes its temporary files."""
        self.process.kill()
        self.process.join()
        self.socket.close()
        remove_directory(self._temporary_dir, self._directories)
        self.task, self.stopped = None, True


def _first(task: Task) -> Task:
    return task._replace(items=task.items[:1])


def _rest(task: Task) -> Task | None:
    if len(task.items) == 1:
        return None
    return Task(task.first + 1, task.items[1:])


def _make_temporary_dir(directories: dict[str, int]) -> str:
    """Makes a directory, and adds the open file that has it locked.

    Wherever a signal ends this, the directory is unlocked or among the others.
    """
    while True:
        path = tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX)
        # Before it is locked, another process may take it for abandoned.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            directories[path] = descriptor
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.path.isdir(path):
                return path
            remove_directory(path, directories)


def remove_directory(path: str, directories: dict[str, int]) -> None:
    """Removes a worker's directory, if it is there, and takes it from the others."""
    shutil.rmtree(path, ignore_errors=True)
    descriptor = directories.pop(path, None)
    if descriptor is not None:
        os.close(descriptor)


def remove_abandoned() -> None:
    """Removes directories of workers whose main process was killed, with them."""
    with os.scandir(tempfile.gettempdir()) as entries:
        directories = [
            entry.path
            for entry in entries
            if entry.name.startswith(_TEMPORARY_PREFIX)
            and entry.is_dir(follow_symlinks=False)
        ]
    for path in directories:
        with contextlib.suppress(OSError):  # it is locked, or gone
            if os.lstat(path).st_uid != os.getuid():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _serve(
    function: Callable,
    form: Form,
    connection: socket.socket,
    memory_mib: float,
    temporary_dir: str,
) -> None:
    """Answers tasks until the other end closes."""
    # An interrupt from the terminal, or a signal from a scheduler to all processes, is
    # for the main one, which then stops this.
    for number in (signal.SIGINT, *signals.SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    tempfile.tempdir = temporary_dir
    threading.Thread(
        target=_end_with_the_main_process, args=(temporary_dir,), daemon=True
    ).start()
    _, hardest = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(memory_mib * 2**20)
    if hardest != resource.RLIM_INFINITY:
        limit = min(limit, hardest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # The processes are the parallelism. A matrix product's threads spin while they wait
    # for each other; those of several processes on the same cores do so for seconds.
    threadpoolctl.threadpool_limits(1)
    _send(connection, _BEGINNING)
    tasks = connection.makefile("rb")
    while True:
        try:
            item, items = pickle.load(tasks)
        except (EOFError, OSError, pickle.UnpicklingError):
            return
        try:
            for outcome in function(items):
                _send(connection, answers.encode(item, outcome, form))
                if outcome.reason in (OUT_OF_MEMORY, IO_ERROR):
                    return  # what state that left is unknown: a fresh process goes on
                item += 1
        except MemoryError:
            detail = f"more than {memory_mib:g} MiB"
            failure = Outcome(reason=OUT_OF_MEMORY, detail=detail)
            _send(connection, answers.encode(item, failure, form))
            return
        except Exception as error:
            # It costs this item alone; the traceback is for the terminal.
            reason = IO_ERROR if is_transient(error) else UNEXPECTED_ERROR
            failure = Outcome(reason=reason, detail=f"{type(error).__name__}: {error}")
            _send(connection, answers.encode(item, failure, form))
            if reason == IO_ERROR:
                return
            raise


def _send(connection: socket.socket, answer: bytes) -> None:
    try:
        connection.sendall(answer)
    except OSError:
        sys.exit()  # the main process is gone


def _end_with_the_main_process(temporary_dir: str) -> None:
    """Also of a worker that is decoding."""
    multiprocessing.parent_process().join()
    shutil.rmtree(temporary_dir, ignore_errors=True)
    os._exit(1)
