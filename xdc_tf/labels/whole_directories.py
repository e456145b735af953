"""Directories of files that are replaced whole, and known by their SHA-256."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from xdc_tf.runtime import files


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new directory to fill, which then takes the name; removed on an error.

    A directory with files in it cannot be replaced in one step, so the former one is
    renamed first; until the new one has its name, `existing` finds it there. All files
    are on disk by then. Hidden siblings that a killed process leaves are removed by the
    next. One process replaces a directory at a time.

    Args:
      directory: the name; its parents are made if missing.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial, previous = _sibling(directory, "partial"), _sibling(directory, "previous")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            files.sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(directory, previous)
    os.rename(partial, directory)
    files.sync(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def existing(directory: Path) -> Path | None:
    """The directory, or the former one if a process was killed while replacing it."""
    for path in (directory, _sibling(directory, "previous")):
        if path.is_dir():
            return path
    return None


def _sibling(directory: Path, kind: str) -> Path:
    return directory.parent / f".{directory.name}.{kind}"
