"""What a power cut could leave of a directory, at every moment of some work.

A disk keeps its own order. Until a file was synced it may hold anything; until its
directory was synced, a name may stand for whatever it stood for since the last time,
or for nothing. So every moment has several possible outcomes:

    with power_cut.recorded(directory) as moments:
        write(directory)
    for moment in moments:
        assert None not in moment.contents["important.json"]

Seen is what this process does by the functions of `os`, `shutil` and `tf.io.gfile`.
"""

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import tensorflow as tf

_CALLS = (
    *((os, name) for name in ("fsync", "replace", "rename", "remove", "unlink")),
    (os, "rmdir"),
    *((tf.io.gfile, name) for name in ("rename", "remove")),
)


class Torn:
    """The content of a file of which any part may be missing."""


TORN = Torn()


class Moment(NamedTuple):
    """What could be there if the power was cut.

    Attributes:
      event: what is about to be done, or was done.
      contents: by path in the directory, each content that a file could have: bytes,
        TORN, or None if it could be absent. Paths that never were are not listed.
    """

    event: str
    contents: dict[str, set[bytes | Torn | None]]


@contextlib.contextmanager
def recorded(directory) -> Iterator[list[Moment]]:
    """Records the moments around each change; what is there before is on disk."""
    disk = _Disk(os.fspath(directory))
    moments = [disk.moment("before")]

    def watched(function, name, *arguments, **options):
        event = f"{name} {' '.join(str(argument) for argument in arguments)}"
        moments.append(disk.moment(f"before {event}"))
        result = function(*arguments, **options)
        if name == "fsync":
            disk.sync(*arguments)
        moments.append(disk.moment(f"after {event}"))
        return result

    with contextlib.ExitStack() as stack:
        for module, name in _CALLS:
            call = functools.partial(watched, getattr(module, name), name)
            stack.enter_context(mock.patch.object(module, name, call))
        yield moments
    moments.append(disk.moment("at the end"))


class _Folder:
    """Names in a directory: inodes on disk, now, and all since it was synced."""

    def __init__(self, durable: dict[str, int]):
        self.durable = self.now = durable
        self.since: dict[str, set[int | None]] = {}

    def update(self, now: dict[str, int]) -> None:
        for name in self.now.keys() | now.keys():
            if self.now.get(name) != now.get(name):
                self.since.setdefault(name, set()).add(now.get(name))
        self.now = now

    def sync(self) -> None:
        self.durable, self.since = self.now, {}

    def possible(self) -> dict[str, set[int | None]]:
        return {
            name: {self.durable.get(name)} | self.since.get(name, set())
            for name in self.durable.keys() | self.since.keys()
        }


class _Disk:
    def __init__(self, root: str):
        self._root = root
        self._folders: dict[int, _Folder] = {}
        self._contents: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._look(root, all_is_durable=True)
        self._synced = dict(self._contents)

    def _look(self, path: str, *, all_is_durable: bool = False) -> int:
        inode = os.stat(path).st_ino
        names = {}
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                names[entry.name] = self._look(
                    entry.path, all_is_durable=all_is_durable
                )
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            names[entry.name] = entry.stat().st_ino
            with open(entry.path, "rb") as file:
                self._contents[names[entry.name]] = file.read()
        if inode not in self._folders:
            self._folders[inode] = _Folder(names if all_is_durable else {})
        self._folders[inode].update(names)
        return inode

    def sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            if status.st_ino in self._folders:
                self._folders[status.st_ino].sync()
        elif status.st_ino in self._contents:
            self._synced[status.st_ino] = self._contents[status.st_ino]

    def moment(self, event: str) -> Moment:
        contents: dict[str, set] = {}
        self._collect(self._look(self._root), "", True, contents)
        return Moment(event, contents)

    def _collect(
        self, folder: int, prefix: str, is_certain: bool, contents: dict[str, set]
    ) -> None:
        for name, inodes in self._folders[folder].possible().items():
            path = prefix + name
            certain = is_certain and len(inodes) == 1
            for inode in inodes:
                if inode in self._folders:
                    self._collect(inode, f"{path}/", certain, contents)
                    continue
                possible = contents.setdefault(path, set())
                if not is_certain or inode is None:
                    possible.add(None)
                if inode is not None:
                    content = self._contents[inode]
                    whole = self._synced.get(inode) == content
                    possible.add(content if whole else TORN)
