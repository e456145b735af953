"""The engine of an Apache Beam runner: each shard is an element of a pipeline."""

import functools
import json
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from data_prep import worker_processes
from data_prep.answers import Form, Outcome
from data_prep.conversion_settings import ConversionSettings
from data_prep.engines import attempts
from data_prep.engines.local_pool import OnRows
from data_prep.manifest import ManifestRow
from data_prep.shards import PROGRESS_DIR, Shard
from data_prep.worker_processes import PoolSettings
from xdc_tf.data.label_texts import LabelNumbers
from xdc_tf.runtime import compat, files


class BeamRunner(NamedTuple):
    """An Apache Beam runner, and options of Beam's own, as NAME=VALUE or NAME.

    A runner such as Flink's or Dataflow's tries an element again whose worker was lost;
    one that gives up is called again for what is not made yet.
    """

    name: str
    options: Sequence[str] = ()

    def convert_shards(
        self,
        shards: Sequence[Shard],
        out_dir: str,
        *,
        settings: ConversionSettings,
        label_numbers: LabelNumbers,
        pool: PoolSettings,
        on_rows: OnRows,
    ) -> None:
        """See Engine.

        Raises:
          ValueError: Beam is not installed, or the pipeline fails; with Beam's reason.
        """
        if not shards:
            return
        out_dir = attempts.absolute(out_dir)
        # A pipeline of a million rows would be more than a service takes.
        for shard in shards:
            rows = [row._asdict() for row in shard.rows]
            files.write_text(_rows_path(out_dir, shard), json.dumps(rows))
        make = functools.partial(
            _make,
            out_dir=out_dir,
            origin=attempts.make_origin(out_dir, shards),
            settings=settings,
            label_numbers=label_numbers,
            pool=pool,
        )
        waiting = list(shards)
        while waiting:
            num_lost = sum(attempts.num_lost(out_dir, shard) for shard in waiting)
            failure = self._run(make, waiting)
            left = []
            for shard in waiting:
                report = attempts.place(out_dir, shard)
                if report is None:
                    left.append(shard)
                else:
                    on_rows(len(shard.rows), len(report.refused))
            if failure is None:
                return  # what is left is missed by whoever called this
            # A row whose workers are lost is left out in the end; see attempts.
            if sum(attempts.num_lost(out_dir, shard) for shard in left) <= num_lost:
                raise ValueError(
                    f"--runner={self.name} failed with {len(left)} of {len(shards)} "
                    f"shards to go: {_cause(failure)}"
                ) from failure
            waiting = left

    def _run(self, make: Callable, shards: Sequence[Shard]) -> Exception | None:
        """Runs a pipeline to its end; its failure, if it is one of the workers."""
        # Beam warns of services that nobody asked for.
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise ValueError(
                f"--runner={self.name} needs Apache Beam ({error}); "
                "pip install -r requirements-beam.txt."
            ) from error
        beam_flags = [f"--runner={self.name}", *(f"--{o}" for o in self.options)]
        if self.name == "DirectRunner":
            # Else Beam fetches a program from the web; there are no triggers.
            beam_flags.append("--allow_unsafe_triggers")
        names = [(shard.number, shard.num_shards) for shard in shards]
        try:
            with apache_beam.Pipeline(options=PipelineOptions(beam_flags)) as pipeline:
                _ = (
                    pipeline
                    | "Shards" >> apache_beam.Create(names)
                    | "Spread" >> apache_beam.Reshuffle()
                    | "Convert" >> apache_beam.Map(make)
                )
        except Exception as error:
            if attempts.WorkerError.__name__ in str(error):
                raise attempts.WorkerError(_cause(error)) from error
            return error
        return None

    def map_groups(
        self,
        function: Callable[[Sequence[Any]], Iterator[Outcome]],
        groups: Iterable[Sequence[Any]],
        *,
        form: Form,
        pool: PoolSettings,
        files: Sequence[str] = (),
    ) -> Generator[Outcome, None, None]:
        """Not by the runner, but here; see Engine."""
        del files
        return worker_processes.map_groups(function, groups, form=form, pool=pool)


def _make(name: tuple[int, int], *, out_dir: str, **arguments: Any) -> None:
    compat.enable_remote_paths(out_dir)
    shard = Shard(*name, rows=())
    rows = json.loads(files.read_text(_rows_path(out_dir, shard)))
    shard = shard._replace(rows=[ManifestRow(**row) for row in rows])
    attempts.make(shard, out_dir, **arguments)


def _rows_path(out_dir: str, shard: Shard) -> str:
    return os.path.join(out_dir, PROGRESS_DIR, shard.file + ".rows.json")


def _cause(error: Exception) -> str:
    """What a worker raised, of Beam's report, which has its traceback many times."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if attempts.WorkerError.__name__ in line]
    line = (told or lines or [type(error).__name__])[-1 if not told else 0]
    return line.removeprefix(
        f"{attempts.__name__}.{attempts.WorkerError.__name__}: "
    ).removesuffix("\\n")
