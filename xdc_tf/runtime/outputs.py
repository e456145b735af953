"""Places that results are written to: tried before the work, and replaced whole."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xdc_tf.runtime import files

_TRIED_BYTES = 1 << 16  # more than a file system keeps beside its directories


def try_file(path: str) -> None:
    """Raises now what writing a file would raise after all of the work.

    Makes the file's folder.

    Args:
      path: of a file to be written; one that is there stays as it is. A remote one is
        not tried.

    Raises:
      OSError: if it cannot be written; names the path.
    """
    if "://" in path:
        return
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a directory; give the name of a file.")
    _try(os.path.dirname(os.path.abspath(path)), path)


def try_directory(path: str) -> None:
    """Raises now what writing into a directory would raise; makes the directory.

    Raises:
      OSError: if nothing can be written there; names the path.
    """
    _try(path, path)


def refuse_link(path: str) -> None:
    """Refuses a symbolic link where something is to be written.

    A work directory may be a stranger's, and what is written in it must stay there.

    Raises:
      ValueError: if it is one.
    """
    if os.path.islink(path):
        raise ValueError(
            f"{path} is a symbolic link, and what is written there must stay in its "
            "directory; replace the link by what it points to."
        )


def _try(folder: str, path: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:  # under the name of a folder
        reason = os.strerror(errno.ENOTDIR)
        raise NotADirectoryError(f"{path} cannot be written: {reason}.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(f"{path} cannot be written: {reason}.") from error


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
