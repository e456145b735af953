"""Worker processes on loopback, forked from one that has imported TensorFlow."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from forked_commands import CONTEXT


def run_workers(
    directory: Path, target: Callable, arguments: Sequence[tuple]
) -> list[subprocess.CompletedProcess]:
    """Calls target(*arguments), in a worker of one cluster for each; all to their ends.

    Args:
      directory: gets what the workers print.
      target: a function of a module that is not a test's.
      arguments: of each worker.
    """
    workers = [f"127.0.0.1:{port}" for port in _free_ports(len(arguments))]
    variables = [
        {
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": number},
                }
            )
        }
        for number in range(len(arguments))
    ]
    return _run_all(directory, target, arguments, variables)


def run_alone(
    directory: Path, target: Callable, *arguments: object
) -> subprocess.CompletedProcess:
    """Calls target(*arguments) in a process that is no worker of a cluster."""
    (completed,) = _run_all(directory, target, [arguments], [{}])
    return completed


def _free_ports(number: int) -> list[int]:
    # All at a time, so that they differ.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _run_all(
    directory: Path,
    target: Callable,
    arguments: Sequence[tuple],
    variables: Sequence[dict[str, str]],
) -> list[subprocess.CompletedProcess]:
    outputs, processes = [], []
    for number, own in enumerate(arguments):
        paths = [directory / f"{name}{number}.txt" for name in ("stdout", "stderr")]
        for path in paths:
            path.write_text("")
        process = CONTEXT.Process(
            target=_call, args=(paths, variables[number], target, own)
        )
        process.start()
        outputs.append(paths)
        processes.append(process)
    for process in processes:
        process.join()
    return [
        subprocess.CompletedProcess(
            own, process.exitcode, *(path.read_text() for path in paths)
        )
        for own, process, paths in zip(arguments, processes, outputs, strict=True)
    ]


def _call(
    paths: list[Path], variables: dict[str, str], target: Callable, arguments: tuple
) -> None:
    for descriptor, path in enumerate(paths, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(variables)
    target(*arguments)
