"""The engine of an Apache Beam runner: each shard is an element of a pipeline."""

import contextlib
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.engines import attempts, worker_checks
from data_prep.engines.local_pool import LocalPool, OnRows
from data_prep.engines.worker_checks import WorkerError
from data_prep.manifest import ManifestRow
from data_prep.remote_files import is_remote
from data_prep.shards import PROGRESS_DIR, Shard, Work
from xdc_tf.runtime import compat, files

# From one look at what the workers have done to the next.
_POLL_SECS, _REMOTE_POLL_SECS = 1.0, 20.0
# A pipeline none of whose attempts that were begun gives a sign so long has lost them.
_SILENT_SECS = 60.0


class BeamRunner(LocalPool):
    """An Apache Beam runner, and options of Beam's own, as NAME=VALUE or NAME.

    Shards are made by the runner, groups of items mapped in the pool of this machine.
    A runner such as Flink's or Dataflow's tries an element again whose worker was lost;
    one that gives up is called again for what is not made yet.
    """

    def __init__(self, name: str, options: Sequence[str] = ()):
        self.name = name
        self.options = options

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
          ValueError: Beam is not installed, or the pipeline fails; with Beam's reason.
        """
        if not shards:
            return
        out_dir = worker_checks.absolute(out_dir)
        # A pipeline of a million rows would be more than a service takes.
        for shard in shards:
            rows = [row._asdict() for row in shard.rows]
            files.write_text(_rows_path(out_dir, shard), json.dumps(rows))
        make = functools.partial(
            _make,
            out_dir=out_dir,
            origin=attempts.make_origin(out_dir, shards),
            work=work,
        )
        waiting = {shard.file: shard for shard in shards}

        def place() -> None:
            for shard, report in attempts.place_finished(out_dir, [*waiting.values()]):
                del waiting[shard.file]
                on_rows(len(shard.rows), len(report.refused))

        while waiting:
            num_lost = len(attempts.beats(out_dir, [*waiting.values()]))
            failure = self._run(make, [*waiting.values()], out_dir, place)
            if failure is None:
                left = attempts.place_all(out_dir, [*waiting.values()])
                for shard, report in left:
                    on_rows(len(shard.rows), len(report.refused))
                return  # what is not there is missed by whoever called this
            place()
            # A row whose workers are lost is left out in the end; see attempts.
            if len(attempts.beats(out_dir, [*waiting.values()])) <= num_lost:
                raise ValueError(
                    f"--runner={self.name} failed with {len(waiting)} of {len(shards)} "
                    f"shards to go: {_cause(failure)}"
                ) from failure

    def _run(
        self,
        make: Callable,
        shards: Sequence[Shard],
        out_dir: str,
        place: Callable[[], None],
    ) -> Exception | None:
        """Runs a pipeline to its end, or until its workers are silent.

        Returns:
          Its failure, if it is one of the workers.
        """
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
        pipeline = apache_beam.Pipeline(options=PipelineOptions(beam_flags))
        _ = (
            pipeline
            | "Shards" >> apache_beam.Create([(s.number, s.num_shards) for s in shards])
            | "Spread" >> apache_beam.Reshuffle()
            | "Convert" >> apache_beam.Map(make)
        )
        failures: list[Exception] = []
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(pipeline.run())
                results[0].wait_until_finish()
            except Exception as error:
                failures.append(error)

        # Some runners wait for ever for a worker that is lost.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        poll_secs = _REMOTE_POLL_SECS if is_remote(out_dir) else _POLL_SECS
        seen: dict[str, str] = {}
        seen_at = time.monotonic()
        while thread.is_alive():
            thread.join(poll_secs)
            place()
            beats = attempts.beats(out_dir, shards)
            if beats != seen or not beats:
                seen, seen_at = beats, time.monotonic()
            elif time.monotonic() - seen_at > _SILENT_SECS:
                with contextlib.suppress(Exception):
                    results[0].cancel()
                return TimeoutError(f"no sign of its workers for {_SILENT_SECS:g} s")
        for failure in failures:
            if f"{WorkerError.__name__}: " in str(failure):
                raise WorkerError(_cause(failure)) from failure
            return failure
        return None


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
    name = f"{WorkerError.__module__}.{WorkerError.__name__}: "
    raised = [line for line in lines if line.startswith(name)]
    if raised:
        return raised[0].removeprefix(name)
    return lines[-1] if lines else type(error).__name__
