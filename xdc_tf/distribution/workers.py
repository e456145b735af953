"""How the processes of a run divide the data set, exchange values, and miss each other.

All processes call these functions, in the same order. A run of one process calls them
too, and they do next to nothing then.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from xdc_tf.data.dataset_info import NO_LABEL, DatasetInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.kmeans import rows
from xdc_tf.runtime import compat

_EXCHANGED_ROWS = 1 << 22  # labels at a time, so that no second table is made

EXIT_CODE = os.EX_TEMPFAIL  # 75: schedulers may start the run again
_CHECK_SECS = 2.0  # between two looks for lost workers

Result = TypeVar("Result")


class LocalData(NamedTuple):
    """The part of the data set that this process reads.

    Attributes:
      number: of the process, from 0; the first is the chief, which writes the work
        directory.
      num_processes: how many there are.
      files: names of the record files that this process reads, in the data set's
        order.
      rows: [n] int64, ascending: the example_index of each row of its features. A
        single process has all of the manifest's rows, others those of their examples.
    """

    number: int
    num_processes: int
    files: tuple[str, ...]
    rows: np.ndarray


def place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if strategy.num_replicas_in_sync == 1:
        return 0, 1
    return rows.place_among_processes(strategy)


def local_data(
    info: DatasetInfo, examples: Examples, strategy: tf.distribute.Strategy
) -> LocalData:
    """This process's part of the data set: whole files, about as many examples each.

    Raises:
      ValueError: if there are fewer files than processes.
    """
    number, count = place(strategy)
    names = [shard.file for shard in info.shards]
    if count == 1:
        return LocalData(number, count, tuple(names), np.arange(info.num_rows))
    if len(names) < count:
        raise ValueError(
            f"The records have {len(names)} files for {count} workers, and every "
            "worker needs at least one; convert with a lower --rows_per_shard or use "
            "fewer workers."
        )
    files, rows = local_rows(info, examples, number=number, num_processes=count)
    return LocalData(number, count, files, rows)


def local_rows(
    info: DatasetInfo, examples: Examples, *, number: int, num_processes: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """The files and the rows of LocalData of one of several processes."""
    sizes = [shard.num_examples for shard in info.shards]
    dealt = deal(sizes, num_processes)[number]
    files = tuple(info.shards[shard].file for shard in dealt)
    is_local = np.isin(examples.shard_numbers, dealt)
    return files, np.sort(examples.example_indices[is_local])


def deal(sizes: Sequence[int], num_hands: int) -> list[list[int]]:
    """Deals numbered things so that the sums of their sizes are about the same.

    The largest first, always to the hand with the least.

    Returns:
      The numbers in each hand, ascending; no hand is empty if there are enough.
    """
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    sums = [(0, 0, hand) for hand in range(num_hands)]  # size, things, whose
    for number in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        total, things, hand = min(sums)
        hands[hand].append(number)
        sums[hand] = total + sizes[number], things + 1, hand
    return [sorted(hand) for hand in hands]


def gathered(
    strategy: tf.distribute.Strategy, value: np.ndarray | np.generic | float
) -> np.ndarray:
    """[count, ...] arrays of all processes, all of the same shape."""
    number, count = place(strategy)
    local = np.asarray(value)
    every = np.zeros([count, *local.shape], local.dtype)
    every[number] = local
    return rows.sum_over_processes(strategy if count > 1 else None, every)


def any_process(strategy: tf.distribute.Strategy, flag: bool | np.bool_) -> bool:
    """Whether it is so in one process at least."""
    return bool(gathered(strategy, np.int64(flag)).any())


def on_chief(
    strategy: tf.distribute.Strategy, function: Callable[[], Result]
) -> Result | None:
    """What a function returns on the chief, while the others wait for its end.

    The function itself must meet no other process. Others get None.

    Raises:
      ValueError: on the others, if it raised an exception on the chief.
    """
    number, count = place(strategy)
    if count == 1:
        return function()
    result = error = None
    if number == 0:
        try:
            result = function()
        except Exception as raised:
            error = raised
    failed = any_process(strategy, error is not None)
    if error is not None:
        raise error
    if failed:
        raise ValueError("Worker 0 has stopped; its own message says why.")
    return result


def text_of_chief(strategy: tf.distribute.Strategy, read: Callable[[], str]) -> str:
    """What `read` returns on the chief, on all processes.

    A file that the chief has just written may still be the one before on others: file
    systems over a network keep what they have read for a while.
    """
    if place(strategy)[1] == 1:
        return read()
    text = on_chief(strategy, read) or ""
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    length = int(gathered(strategy, np.int64(len(codes)))[0])
    padded = np.zeros(length, np.int32)
    padded[: len(codes)] = codes
    every = gathered(strategy, padded)
    return every[0].astype(np.uint8).tobytes().decode()


def check_same(
    strategy: tf.distribute.Strategy, values: Sequence[int], what: str
) -> None:
    """Checks that all processes have the same numbers.

    Raises:
      ValueError: on all of them if not; names the first that differs from the chief.
    """
    every = gathered(strategy, np.asarray(values, np.int64))
    differs = np.flatnonzero((every != every[0]).any(axis=1))
    if differs.size:
        raise ValueError(
            f"Worker {differs[0]} found {what} {every[differs[0]].tolist()} and worker "
            f"0 {every[0].tolist()}; give all workers the same --workdir on a file "
            "system that they share, and start them again."
        )


def labels_of_all(
    strategy: tf.distribute.Strategy,
    local: LocalData,
    labels: np.ndarray,
    num_rows: int,
) -> np.ndarray:
    """[num_rows] int32 by example_index, from what each process has labelled.

    Args:
      strategy: of the run.
      local: what this process reads.
      labels: [len(local.rows)] int32 of its rows.
      num_rows: of the manifest; rows of no process get -1.
    """
    if local.num_processes == 1:
        return labels
    every = np.empty(num_rows, np.int32)
    for start in range(0, num_rows, _EXCHANGED_ROWS):
        stop = min(start + _EXCHANGED_ROWS, num_rows)
        first, last = np.searchsorted(local.rows, [start, stop])
        # No two processes have the same row, so that a sum is an exchange.
        part = np.zeros(stop - start, np.int32)
        part[local.rows[first:last] - start] = labels[first:last] - NO_LABEL
        every[start:stop] = rows.sum_over_processes(strategy, part)
    every += NO_LABEL
    return every


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
