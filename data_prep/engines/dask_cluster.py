"""The engine of a Dask cluster: each shard is a task, made anew when it is lost."""

import collections
import contextlib
import functools
import itertools
import logging
import os
import pickle
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from data_prep.answers import Form, Outcome
from data_prep.engines import attempts, dask_tasks, worker_checks
from data_prep.engines.local_pool import OnRows
from data_prep.reasons import KILLED
from data_prep.shards import Shard, Work
from data_prep.worker_processes import PoolSettings

LOCAL = "local"
# The resource by which workers say what memory they have for tasks, in bytes.
MEMORY = "MEMORY"
# Of a worker itself, beside the processes that decode.
_TASK_MIB = 512.0
_TASKS_PER_THREAD = 2  # so that none waits for the next one
_GROUPS_PER_TASK = 16
# On exceptions such as a full disk, which the next worker may not have.
_RETRIES = 2
_POLL_SECS = 0.05
_ASKING_SECS = 5.0  # from one question what workers there are to the next
_CONNECT_SECS = 10.0
# How long a scheduler that is gone, or a worker where there is none, is waited for.
_PATIENCE_SECS = 600.0
_NOTICE_SECS = 20.0


class DaskCluster:
    """The engine of a Dask cluster; a context.

    Args:
      address: of its scheduler, such as tcp://host:8786; path of the JSON file that
        `dask scheduler --scheduler-file` writes; or LOCAL for one on this machine.
      num_workers: of a LOCAL one.
      patience_secs: how long a scheduler or workers that are gone are waited for.

    Raises:
      ValueError: Dask is not installed, or no scheduler answers.
    """

    def __init__(
        self,
        address: str,
        *,
        num_workers: int = 1,
        patience_secs: float = _PATIENCE_SECS,
    ):
        self._address = address
        self._num_workers = num_workers
        self._patience_secs = patience_secs
        self._ending = contextlib.ExitStack()
        self._client: Any = None

    def __enter__(self) -> "DaskCluster":
        try:
            import distributed
        except ImportError as error:
            raise ValueError(
                f"--dask={self._address} needs Dask ({error}); "
                "pip install -r requirements-dask.txt."
            ) from error
        # Below that it is news to those who run clusters.
        logging.getLogger("distributed").setLevel(logging.ERROR)
        self._target = self._address
        if self._address == LOCAL:
            memory_bytes = distributed.system.MEMORY_LIMIT // self._num_workers
            cluster = distributed.LocalCluster(
                n_workers=self._num_workers,
                threads_per_worker=1,
                memory_limit=memory_bytes,
                resources={MEMORY: memory_bytes},
                dashboard_address=None,
                silence_logs=logging.ERROR,
            )
            self._target = self._ending.enter_context(cluster).scheduler_address
        try:
            self._client = self._connect()
        except OSError as error:
            self._ending.close()
            raise ValueError(
                f"--dask={self._address}: no Dask scheduler answers there ({error}); "
                "start one with `dask scheduler`, and workers with `dask worker`."
            ) from error
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(Exception):  # it may be gone
            self._client.close(timeout=5)
        self._ending.close()

    def _connect(self) -> Any:
        import distributed

        key = "address"
        if self._target.endswith(".json") and "://" not in self._target:
            key = "scheduler_file"
            if not os.path.exists(self._target):
                raise FileNotFoundError(f"{self._target} is not there")
        return distributed.Client(
            **{key: self._target}, timeout=_CONNECT_SECS, set_as_default=False
        )

    def convert_shards(
        self,
        shards: Sequence[Shard],
        out_dir: str,
        *,
        work: Work,
        on_rows: OnRows,
    ) -> None:
        """See Engine.

        Raises:
          OSError: a file cannot be written.
          ValueError: workers of other software or files; none at all; a shard whose
            workers die whatever is left out of it.
        """
        if not shards:
            return
        out_dir = worker_checks.absolute(out_dir)
        origin = attempts.make_origin(out_dir, shards)
        self._check_workers(origin)
        make = functools.partial(
            attempts.make,
            out_dir=out_dir,
            origin=origin,
            work=work,
        )
        # Each row that kills its worker is found at the cost of a few of them.
        num_losses = max(len(shard.rows) for shard in shards) + 4
        unseen: list[Shard] = []
        with contextlib.closing(
            self._results(make, shards, work.pool, num_losses=num_losses)
        ) as results:
            for shard, result in results:
                if result is dask_tasks.LOST:
                    raise ValueError(
                        f"{shard.file}: its workers died {num_losses} times in a row; "
                        "see their logs. What is done is kept."
                    )
                if report := attempts.place(out_dir, shard):
                    on_rows(len(shard.rows), len(report.refused))
                else:
                    unseen.append(shard)
        for shard, report in attempts.place_all(out_dir, unseen):
            on_rows(len(shard.rows), len(report.refused))

    def map_groups(
        self,
        function: Callable[[Sequence[Any]], Iterator[Outcome]],
        groups: Iterable[Sequence[Any]],
        *,
        form: Form,
        pool: PoolSettings,
        files: Sequence[str] = (),
    ) -> Generator[Outcome, None, None]:
        """See Engine. A group that its workers die of costs its items."""
        origin = worker_checks.Origin(worker_checks.software(), seen=files)
        self._check_workers(origin)
        run_here = functools.partial(
            dask_tasks.map_here, function=function, form=form, pool=pool, origin=origin
        )
        every = iter(groups)
        tasks = iter(lambda: list(itertools.islice(every, _GROUPS_PER_TASK)), [])
        results = self._results(run_here, tasks, pool, in_order=True)
        with contextlib.closing(results):
            for task, result in results:
                if result is not dask_tasks.LOST:
                    yield from result
                    continue
                alone = self._results(
                    run_here,
                    [[group] for group in task],
                    pool,
                    in_order=True,
                )
                for (group,), outcomes in alone:
                    if outcomes is dask_tasks.LOST:
                        detail = "its workers died each time"
                        yield from [Outcome(reason=KILLED, detail=detail)] * len(group)
                    else:
                        yield from outcomes

    def _check_workers(self, origin: worker_checks.Origin) -> None:
        """Checks those that are there; each task checks its own once more."""
        self._num_threads()
        answers: dict[str, Any] = {}
        with contextlib.suppress(OSError):  # the scheduler died just now, or a worker
            answers = self._client.run(
                dask_tasks.portable_call(),
                pickle.dumps((worker_checks.check_worker, (origin,))),
                on_error="return",
            )
        for answer in answers.values():
            if isinstance(answer, (worker_checks.WorkerError, ImportError)):
                dask_tasks.raise_error(answer)

    def _num_threads(self) -> int:
        """Of all workers; waits for the first one."""
        begun = time.monotonic()
        notice_secs = _NOTICE_SECS
        while True:
            with contextlib.suppress(OSError):  # the scheduler is gone: see _results
                if num_threads := sum(self._client.nthreads().values()):
                    return num_threads
            waited_secs = time.monotonic() - begun
            if waited_secs > self._patience_secs:
                raise ValueError(
                    f"--dask={self._address}: no worker for {waited_secs:.0f} s; start "
                    f"some with `dask worker`. What is done is kept."
                )
            if waited_secs > notice_secs:
                print(f"waiting for workers at {self._address}", file=sys.stderr)
                notice_secs *= 2
            if self._client.status != "running":
                return 1
            time.sleep(0.2)

    def _resources(self, pool: PoolSettings) -> dict[str, float]:
        """The memory of a task, if all workers say what they have."""
        workers: Any = ()
        with contextlib.suppress(OSError):  # as above
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers or any(MEMORY not in w.get("resources", {}) for w in workers):
            return {}
        limit_mib = _TASK_MIB + pool.num_workers * pool.limits.memory_mib
        most = max(worker["resources"][MEMORY] for worker in workers)
        # One that none can fulfil would wait for ever.
        return {MEMORY: min(limit_mib * 2**20, most)}

    def _results(
        self,
        function: Callable,
        items: Iterable[Any],
        pool: PoolSettings,
        *,
        num_losses: int = 1,
        in_order: bool = False,
    ) -> Generator[tuple[Any, Any], None, None]:
        """Runs a task for each item, as many at a time as keep the workers busy.

        Args:
          function: of an item.
          items: taken as they are needed.
          pool: of each task.
          num_losses: how often a task whose workers die is given up and begun again.
          in_order: whether results wait for the turn of their item.

        Yields:
          Each item, and its result or dask_tasks.LOST.

        Raises:
          Exception: what the function raised.
          ValueError: no scheduler any more, or no workers.
        """
        from distributed.scheduler import KilledWorker

        waiting: collections.deque[tuple[int, Any]] = collections.deque()
        upcoming = enumerate(items)
        running: dict[Any, tuple[int, Any]] = {}
        done: dict[int, tuple[Any, Any]] = {}
        losses: collections.Counter[int] = collections.Counter()
        next_turn = 0
        num_threads, resources, asked_at = 0, {}, -float("inf")
        try:
            while True:
                if self._client.status != "running":
                    waiting.extend(running.values())
                    running.clear()
                    self._reconnect()
                    asked_at = -float("inf")
                if time.monotonic() - asked_at > _ASKING_SECS:
                    num_threads = self._num_threads()
                    resources = self._resources(pool)
                    asked_at = time.monotonic()
                while len(running) + len(done) < _TASKS_PER_THREAD * num_threads:
                    entry = waiting.popleft() if waiting else next(upcoming, None)
                    if entry is None:
                        break
                    running[self._submit(function, entry[1], resources)] = entry
                if not running and not done:
                    return
                ended = [future for future in running if future.status != "pending"]
                if not ended:
                    time.sleep(_POLL_SECS)
                for future in ended:
                    number, item = running.pop(future)
                    result = dask_tasks.outcome(future, KilledWorker)
                    is_again = result is dask_tasks.FORGOTTEN
                    if result is dask_tasks.LOST:
                        losses[number] += 1
                        is_again = losses[number] < num_losses
                    if is_again:
                        waiting.append((number, item))
                    else:
                        done[number] = item, result
                if not in_order:
                    while done:
                        yield done.popitem()[1]
                while next_turn in done:
                    yield done.pop(next_turn)
                    next_turn += 1
        finally:
            if running:
                with contextlib.suppress(Exception):  # it may be gone
                    self._client.cancel(list(running))

    def _submit(self, function: Callable, item: Any, resources: dict) -> Any:
        return self._client.submit(
            dask_tasks.portable_call(),
            pickle.dumps((function, (item,))),
            key=f"xdc-{secrets.token_hex(8)}",
            retries=_RETRIES,
            resources=resources or None,
            pure=False,
        )

    def _reconnect(self) -> None:
        print(f"lost the scheduler at {self._address}; waiting for it", file=sys.stderr)
        with contextlib.suppress(Exception):
            self._client.close(timeout=1)
        ends_at = time.monotonic() + self._patience_secs
        while True:
            try:
                self._client = self._connect()
                return
            except OSError as error:
                if time.monotonic() > ends_at:
                    raise ValueError(
                        f"--dask={self._address}: the scheduler is gone ({error}). "
                        "What is done is kept; the same command goes on."
                    ) from error
                time.sleep(1.0)
