"""Memory of a process and of those that it has started, as Linux tells it."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple


class Process(NamedTuple):
    """A process that runs.

    Attributes:
      command: its command line.
      mib: resident memory now.
      peak_mib: the most so far.
    """

    command: str
    mib: float
    peak_mib: float


def processes_of(process_id: int) -> Iterator[Process]:
    """A process, those that it has started, and so on, as far as they run."""
    folder = pathlib.Path(f"/proc/{process_id}")
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        status = (folder / "status").read_text()
        children = [
            int(child)
            for path in folder.glob("task/*/children")
            for child in path.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return  # it has ended
    lines = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (
        int(lines.get(key, "0 kB").split()[0]) / 1024 for key in ("VmRSS", "VmHWM")
    )
    yield Process(command.decode(errors="replace"), now, peak)
    for child in children:
        yield from processes_of(child)
