"""What runs in worker processes, and the pool that runs it.

Nothing here imports TensorFlow: a worker needs PyAV and NumPy only.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection as mp_connection
from typing import Any, NamedTuple

import numpy as np

from data_prep.manifest import ManifestRow
from data_prep.media import MediaError, read_media
from xdc_tf.data.dataset_info import MODALITIES
from xdc_tf.data.log_mel import LogMelSettings, log_mel

# Reasons for refusal beside those of data_prep.media.
TIMEOUT = "timeout"
CRASHED = "crashed"
UNEXPECTED_ERROR = "unexpected_error"

# Results may wait for the turn of an earlier task, this many per worker.
_WAITING_PER_WORKER = 4


class ConversionSettings(NamedTuple):
    """Everything that decides what is stored for a row.

    `log_mel` and `store_waveform` are for conversions with audio among `modalities`.
    """

    fps: float = 30.0
    short_side: int = 256
    jpeg_quality: int = 90
    min_secs: float = 0.5
    max_secs: float = 300.0
    store_waveform: bool = False
    log_mel: LogMelSettings = LogMelSettings()
    modalities: tuple[str, ...] = MODALITIES


class ConvertedRow(NamedTuple):
    """What is stored for a row of the manifest."""

    frames_jpeg: list[bytes]
    height: int
    width: int
    log_mel: np.ndarray | None  # [L, M] float32; None without audio
    waveform: np.ndarray | None  # [samples] float32; None unless it is to be stored


class Outcome(NamedTuple):
    """What became of a task: a result, or the reason and detail of its failure."""

    result: Any = None
    reason: str = ""
    detail: str = ""


def convert_row(row: ManifestRow, settings: ConversionSettings) -> Outcome:
    """Decodes one row of the manifest.

    Returns:
        An Outcome with a ConvertedRow, or with why the file cannot be used.
    """
    try:
        media = read_media(
            row.file,
            start_secs=row.start_secs,
            end_secs=row.end_secs,
            fps=settings.fps,
            short_side=settings.short_side,
            jpeg_quality=settings.jpeg_quality,
            sample_rate_hz=settings.log_mel.sample_rate_hz,
            modalities=settings.modalities,
            min_secs=settings.min_secs,
            max_secs=settings.max_secs,
        )
    except MediaError as error:
        return Outcome(reason=error.reason, detail=error.detail)
    waveform = media.waveform
    return Outcome(
        ConvertedRow(
            frames_jpeg=media.frames_jpeg,
            height=media.height,
            width=media.width,
            log_mel=None if waveform is None else log_mel(waveform, settings.log_mel),
            waveform=waveform if settings.store_waveform else None,
        )
    )


def map_in_processes(
    function: Callable[[Any], Outcome],
    tasks: Sequence[Any],
    *,
    num_workers: int,
    timeout_secs: float,
) -> Iterator[Outcome]:
    """Applies a function to tasks in worker processes, results in order of the tasks.

    A task that raises, kills its process, or takes longer than timeout_secs costs that
    task alone: its outcome says so, and a fresh process takes over.

    Args:
        function: importable by name, or a functools.partial of such.
        tasks: arguments.
        num_workers: processes.
        timeout_secs: wall-clock limit of a task.

    Yields:
        The outcome of each task.
    """
    workers: list[_Worker] = []
    finished: dict[int, Outcome] = {}
    next_task = next_result = 0
    try:
        while next_result < len(tasks):
            window_end = next_result + _WAITING_PER_WORKER * num_workers
            while next_task < min(len(tasks), window_end):
                worker = _idle_worker(workers, function, num_workers)
                if worker is None:
                    break
                worker.start(next_task, tasks[next_task], timeout_secs)
                next_task += 1
            busy = [worker for worker in workers if worker.task is not None]
            first_deadline = min(worker.deadline for worker in busy)
            ready = mp_connection.wait(
                [worker.connection for worker in busy],
                timeout=max(0.0, first_deadline - time.monotonic()),
            )
            for worker in busy:
                task = worker.task
                if worker.connection in ready:
                    finished[task] = worker.receive()
                elif time.monotonic() >= worker.deadline:
                    worker.stop()
                    finished[task] = Outcome(
                        reason=TIMEOUT, detail=f"not done after {timeout_secs:g} s"
                    )
            workers = [worker for worker in workers if not worker.stopped]
            while next_result in finished:
                yield finished.pop(next_result)
                next_result += 1
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that answers one task at a time."""

    def __init__(self, function: Callable[[Any], Outcome]):
        # A fresh interpreter: forking a process that runs TensorFlow's threads hangs.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(function, theirs), daemon=True
        )
        self.process.start()
        # With only the child holding its end, its death reads as end of file.
        theirs.close()
        self.task: int | None = None
        self.deadline = 0.0
        self.stopped = False

    def start(self, task: int, argument: Any, timeout_secs: float) -> None:
        self.task = task
        self.deadline = time.monotonic() + timeout_secs
        try:
            self.connection.send(argument)
        except OSError:
            pass  # it died just now: receive() finds the end of file and says so

    def receive(self) -> Outcome:
        self.task = None
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            outcome = Outcome(
                reason=CRASHED, detail=f"process ended with {self.process.exitcode}"
            )
        if outcome.reason in (CRASHED, UNEXPECTED_ERROR):
            self.process.join(timeout=5)  # it is printing its traceback
            self.stop()
        return outcome

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.stopped = True


def _idle_worker(
    workers: list[_Worker], function: Callable[[Any], Outcome], num_workers: int
) -> _Worker | None:
    """A worker without a task, started if there may be one more; None if all work."""
    for worker in [worker for worker in workers if worker.task is None]:
        if worker.process.is_alive():
            return worker
        worker.stop()  # killed from outside while it waited
        workers.remove(worker)
    if len(workers) >= num_workers:
        return None
    workers.append(_Worker(function))
    return workers[-1]


def _serve(function: Callable[[Any], Outcome], connection) -> None:
    """Answers tasks until the other end closes."""
    # An interrupt from the terminal is for the main process, which then stops this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            argument = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = function(argument)
        except Exception as error:
            # It costs this task alone. What state it left is unknown, so the process
            # ends, with the traceback on the terminal, and a fresh one takes over.
            detail = f"{type(error).__name__}: {error}"
            connection.send(Outcome(reason=UNEXPECTED_ERROR, detail=detail))
            raise
        try:
            connection.send(outcome)
        except OSError:  # the main process is gone
            return
