"""A command in a separate process, stopped at a moment, on a separate disk.

Commands are forked from a process that has imported TensorFlow; see `preload`.
"""

import ctypes
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.writing_commands import Command

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CONTEXT = multiprocessing.get_context("forkserver")
_TIMEOUT_SECS = 300.0
_DISK_BYTES = 1 << 28
# Events of Python's audit hooks, beside "open".
_CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Of setns and mount in linux/sched.h.
_NEW_MOUNTS = 0x00020000
# In the directory of a command's logs.
_OUTPUT, _CHANGES = "output", "changes"


def preload(modules: Sequence[str]) -> None:
    """Has modules imported before commands are forked; call it before the first."""
    _CONTEXT.set_forkserver_preload(list(modules))


class Stop(NamedTuple):
    """When and by what a command is stopped.

    Attributes:
      number: the signal.
      secs: after its start; None for `change`.
      change: just before the nth change of files.
      whole_group: whether the processes that it has started get the signal too.
    """

    number: int
    secs: float | None
    change: int | None = None
    whole_group: bool = False


class Ended(NamedTuple):
    """The end of a command.

    Attributes:
      code: its exit code; -n by signal n.
      output: stdout and stderr together.
      secs: that it took.
      num_changes: of files.
      peak_bytes: that it took of its disk at most, as far as polling sees.
    """

    code: int
    output: str
    secs: float
    num_changes: int
    peak_bytes: int

    @property
    def errors(self) -> list[str]:
        """The lines that report an error."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]


class Disk(NamedTuple):
    """Where commands write.

    Attributes:
      root: of a file system of its own if `is_mounted`.
      is_mounted: else files are limited in size, where a full disk is asked for.
    """

    root: str
    is_mounted: bool

    @property
    def place(self) -> str:
        return os.path.join(self.root, "place")

    def used_bytes(self) -> int:
        status = os.statvfs(self.root)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def fill(self, free_bytes: int) -> None:
        """Fills it up to so many free bytes."""
        with open(os.path.join(self.root, "ballast"), "wb") as file:
            os.posix_fallocate(
                file.fileno(), 0, _DISK_BYTES - self.used_bytes() - free_bytes
            )

    def empty(self) -> None:
        """Undoes `fill`."""
        os.remove(os.path.join(self.root, "ballast"))

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.root], check=True)


def make_disk(root: str) -> Disk:
    """A small file system in memory, which this process and its children alone see."""
    os.mkdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    mounts = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", root],
    )
    mounted = libc.unshare(_NEW_MOUNTS) == 0 and all(
        subprocess.run(line, capture_output=True, check=False).returncode == 0
        for line in mounts
    )
    return Disk(root, mounted)


class Running:
    """A command in a process group of its own."""

    def __init__(
        self,
        command: Command,
        *,
        inputs: str,
        place: str,
        logs: str,
        stop: Stop | None = None,
        file_bytes: int | None = None,
    ):
        """Starts it.

        Args:
          command: the command.
          inputs: directory.
          place: directory.
          logs: a new directory for what it prints; temporary files are put beside it.
          stop: see Stop.
          file_bytes: the most that a file of it may have.
        """
        os.makedirs(logs)
        for name in (_OUTPUT, _CHANGES):
            with open(os.path.join(logs, name), "xb"):
                pass
        self._logs, self._stop = logs, stop
        self.started = time.monotonic()
        self.process = _CONTEXT.Process(
            target=_become, args=(command, inputs, place, logs, stop, file_bytes)
        )
        self.process.start()

    def wait(self, disk: Disk) -> Ended:
        """Returns when it has ended, and has been stopped if it was to be."""
        peak, stop, process = 0, self._stop, self.process
        before = disk.used_bytes()
        secs = None if stop is None else stop.secs
        while process.is_alive():
            now = time.monotonic() - self.started
            if now > _TIMEOUT_SECS:
                _send(process.pid, signal.SIGKILL, whole_group=True)
                raise RuntimeError(f"over {_TIMEOUT_SECS} s; see {self._logs}")
            if secs is not None and now >= secs:
                _send(process.pid, stop.number, whole_group=stop.whole_group)
                secs = None
            peak = max(peak, disk.used_bytes() - before)
            process.join(0.002 if secs is None else min(0.002, max(0, secs - now)))
        took = time.monotonic() - self.started
        with open(os.path.join(self._logs, _OUTPUT), errors="replace") as file:
            output = file.read()
        changes = os.path.getsize(os.path.join(self._logs, _CHANGES))
        peak = max(peak, disk.used_bytes() - before)
        return Ended(process.exitcode, output, took, changes, peak)

    def left(self) -> list[str]:
        """Processes that it has left, once they have had a moment to end."""
        deadline = time.monotonic() + 60
        while (left := _group(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return [f"process {pid} is left" for pid in left]


def _send(pid: int, number: int, *, whole_group: bool) -> None:
    try:
        (os.killpg if whole_group else os.kill)(pid, number)
    except ProcessLookupError:
        pass  # it has ended, or has no group yet


def _group(pid: int) -> list[int]:
    """The living processes of a group."""
    living = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(group) == pid and state != "Z":
            living.append(int(name))
    return living


def _become(
    command: Command,
    inputs: str,
    place: str,
    logs: str,
    stop: Stop | None,
    file_bytes: int | None,
) -> None:
    """Does what `python -m` does, in a process that was forked for it."""
    os.setsid()
    descriptors = [
        os.open(os.path.join(logs, name), os.O_WRONLY | os.O_APPEND)
        for name in (_OUTPUT, _CHANGES)
    ]
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[0], 2)
    temporary = _temporary_dir(logs)
    os.makedirs(temporary, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    os.chdir(ROOT)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if command.before is not None:
        command.before()
    _count_changes(place, descriptors[1], stop)
    module, *arguments = command.arguments(inputs, place)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _temporary_dir(logs: str) -> str:
    """Where the command with these logs, and those beside it, put temporary files."""
    return os.path.join(os.path.dirname(logs), "tmp")


def _count_changes(place: str, descriptor: int, stop: Stop | None) -> None:
    """Has each change of files in the place counted, and the process stopped at one."""
    pid, num_done = os.getpid(), 0

    def hear(event: str, arguments: tuple) -> None:
        nonlocal num_done
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITING:
                return
        elif event not in _CHANGING:
            return
        path = arguments[0]
        if not isinstance(path, str) or not path.startswith(place):
            return
        if os.getpid() != pid:
            return
        num_done += 1
        os.write(descriptor, b".")
        if stop is not None and num_done == stop.change:
            _send(pid, stop.number, whole_group=stop.whole_group)

    sys.addaudithook(hear)
