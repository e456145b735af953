"""What an engine is, and the one of this machine: a pool of processes."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from data_prep import shards as shard_files
from data_prep import worker_processes
from data_prep.answers import Form, Outcome
from data_prep.shards import Shard, Work
from data_prep.worker_processes import PoolSettings

# Called with a number of rows that are done, and how many of them were refused.
OnRows = Callable[[int, int], None]


class Engine(Protocol):
    """Where media are decoded. Whichever it is, the records have the same bytes."""

    def convert_shards(
        self,
        shards: Sequence[Shard],
        out_dir: str,
        *,
        work: Work,
        on_rows: OnRows,
    ) -> None:
        """Makes shards, their indices and their reports; returns when all are made.

        Args:
          shards: what to make.
          out_dir: directory of the records, with the plan of the conversion in it; all
            of the engine's workers see it and the media.
          work: what is done with their rows.
          on_rows: see OnRows.

        Raises:
          OSError: a file cannot be written.
          ValueError: the engine is not there, or its workers cannot do it; says why.
        """

    def map_groups(
        self,
        function: Callable[[Sequence[Any]], Iterator[Outcome]],
        groups: Iterable[Sequence[Any]],
        *,
        form: Form,
        pool: PoolSettings,
        files: Sequence[str] = (),
    ) -> Generator[Outcome, None, None]:
        """As worker_processes.map_groups; all workers must see `files`."""


class LocalPool:
    """The engine of this machine."""

    def convert_shards(
        self,
        shards: Sequence[Shard],
        out_dir: str,
        *,
        work: Work,
        on_rows: OnRows,
    ) -> None:
        """See Engine."""
        shard_files.convert_shards(
            shards,
            out_dir,
            work=work,
            on_outcome=lambda outcome: on_rows(1, int(outcome.result is None)),
        )

    def map_groups(
        self,
        function: Callable[[Sequence[Any]], Iterator[Outcome]],
        groups: Iterable[Sequence[Any]],
        *,
        form: Form,
        pool: PoolSettings,
        files: Sequence[str] = (),
    ) -> Generator[Outcome, None, None]:
        """See Engine."""
        del files
        return worker_processes.map_groups(function, groups, form=form, pool=pool)


LOCAL_POOL = LocalPool()
