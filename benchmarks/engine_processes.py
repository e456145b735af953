"""Clusters for conversions as processes on this machine: Dask's and Apache Beam's.

As on a cluster, a process that ends is started again, and workers begin in directories
of their own: what they need must have been installed for them, here by PYTHONPATH.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STARTING_SECS = 120.0


class Supervised:
    """A process that is started again whenever it ends, until stop().

    Args:
      command: its arguments.
      directory: where it works, with its output in log.txt; made for it.
      variables: of its environment, beside this process's.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        variables: Mapping[str, str] | None = None,
    ):
        os.makedirs(directory, exist_ok=True)
        self._command = command
        self._directory = directory
        self._variables = variables or {}
        self._is_stopping = False
        self._lock = threading.Lock()
        self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    def log(self) -> str:
        """What it has written, over all its lives."""
        with open(os.path.join(self._directory, "log.txt"), errors="replace") as file:
            return file.read()

    def _start(self) -> None:
        with open(os.path.join(self._directory, "log.txt"), "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": ROOT, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _keep(self) -> None:
        while True:
            self._process.wait()
            time.sleep(0.5)
            with self._lock:
                if self._is_stopping:
                    return
                self._start()

    def stop(self) -> None:
        """Kills it with its children."""
        with self._lock:
            self._is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._thread.join()


class DaskProcesses:
    """A scheduler, and workers of a thread each, every one with its nanny.

    Args:
      directory: for their files.
      num_workers: to begin with.
      worker_flags: of `dask worker`.
      variables: of the workers' environment.
    """

    def __init__(
        self,
        directory: str,
        *,
        num_workers: int = 2,
        worker_flags: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        # Hanging workers are given up after that; five minutes by default.
        timing = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s"}
        program = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
        host, port = self.address.removeprefix("tcp://").split(":")
        self.scheduler = Supervised(
            [*program, f"--host={host}", f"--port={port}", "--no-dashboard"],
            os.path.join(directory, "scheduler"),
            timing,
        )
        program = [sys.executable, "-m", "distributed.cli.dask_worker", self.address]
        self.workers = [
            Supervised(
                [
                    *(*program, "--nthreads=1", "--no-dashboard", "--host=127.0.0.1"),
                    *(f"--name={number}", "--local-directory=.", *worker_flags),
                ],
                os.path.join(directory, f"worker{number}"),
                variables,
            )
            for number in range(num_workers)
        ]

    def __enter__(self) -> "DaskProcesses":
        return self

    def __exit__(self, *_) -> None:
        for process in (*self.workers, self.scheduler):
            process.stop()

    def worker_pid(self, number: int) -> int | None:
        """The process that runs tasks, below its nanny; None while there is none."""
        for child in children(self.workers[number].pid):
            if "spawn_main" in command_line(child):
                return child
        return None


class BeamProcesses(NamedTuple):
    """A job service and a pool of external workers.

    Attributes:
      flags: of `convert`.
      pool: that starts workers, each a process below it.
    """

    flags: list[str]
    pool: Supervised


@contextlib.contextmanager
def beam_processes(
    directory: str, *, variables: Mapping[str, str] | None = None
) -> Iterator[BeamProcesses]:
    """Starts both.

    Args:
      directory: for their files.
      variables: of the workers' environment.
    """
    port_file = os.path.join(directory, "port")
    pool_port = free_port()
    # The pool starts workers by the name python.
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    service = Supervised(
        [
            *(sys.executable, "-m"),
            "apache_beam.runners.portability.local_job_service_main",
            f"--port_file={port_file}",
        ],
        os.path.join(directory, "service"),
    )
    pool = Supervised(
        [
            *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
            f"--service_port={pool_port}",
        ],
        os.path.join(directory, "pool"),
        {"PATH": path, **(variables or {})},
    )
    try:
        wait_until(lambda: os.path.exists(port_file) and os.path.getsize(port_file))
        with open(port_file) as file:
            port = file.read()
        yield BeamProcesses(
            [
                "--runner=PortableRunner",
                f"--beam_option=job_endpoint=127.0.0.1:{port}",
                "--beam_option=environment_type=EXTERNAL",
                f"--beam_option=environment_config=127.0.0.1:{pool_port}",
            ],
            pool,
        )
    finally:
        pool.stop()
        service.stop()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Any, secs: float = _STARTING_SECS) -> None:
    """Returns when a condition holds.

    Raises:
      TimeoutError: it does not.
    """
    ends_at = time.monotonic() + secs
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {secs:g} s")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes whose parent a process is."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rsplit(")", 1)[1].split()[1]) == pid:
                        found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """Its children, and theirs."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def command_line(pid: int) -> str:
    """Arguments of a process; "" of one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def has_open(pid: int, path: str) -> bool:
    """Whether a process has a file open."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") == path:
                    return True
    return False
