"""What a Dask task is: how it travels, what it runs, and what becomes of it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from data_prep import worker_processes
from data_prep.answers import Form, Outcome
from data_prep.engines.worker_checks import Origin, WorkerError, check_worker
from data_prep.worker_processes import PoolSettings

# What may become of a task beside a result: its workers died one after the other; or it
# was forgotten, and is to be submitted once more.
LOST = object()
FORGOTTEN = object()


def outcome(future: Any, killed_worker: type[Exception]) -> Any:
    """A task's result, LOST or FORGOTTEN.

    Raises:
      Exception: what the task raised.
    """
    error = None
    # Its worker or the scheduler may be lost before the result is here.
    with contextlib.suppress(OSError, asyncio.CancelledError):
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            error = future.exception()
    if error is None:
        return FORGOTTEN
    if isinstance(error, killed_worker):
        return LOST
    raise_error(error)


def raise_error(error: Exception) -> NoReturn:
    """Raises what a worker raised."""
    if isinstance(error, ImportError):
        raise WorkerError(
            f"a worker lacks what it needs ({error}); install this project there, with "
            "its requirements and Dask."
        ) from error
    raise error


def portable_call() -> Callable[[bytes], Any]:
    """A function that a worker can have without this project.

    It is sent as its code, for it cannot be imported by a name. A worker that cannot
    load a task otherwise ends.
    """

    def call(pickled: bytes) -> Any:
        import multiprocessing
        import pickle
        import socket

        try:
            function, arguments = pickle.loads(pickled)
        except ImportError as error:
            raise ImportError(f"{error}, on {socket.gethostname()}") from None
        # Dask's nannies make their workers daemons, which may have no children lest
        # those outlive them. Ours end by themselves when their parent does.
        process: Any = multiprocessing.current_process()
        process._config["daemon"] = False
        return function(*arguments)

    return call


def map_here(
    groups: Sequence[Sequence[Any]],
    *,
    function: Callable[[Sequence[Any]], Iterator[Outcome]],
    form: Form,
    pool: PoolSettings,
    origin: Origin,
) -> list[Outcome]:
    check_worker(origin)
    outcomes = worker_processes.map_groups(function, groups, form=form, pool=pool)
    with contextlib.closing(outcomes):
        return list(outcomes)
