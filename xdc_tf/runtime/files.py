"""Files and directories that are written whole or not at all; names and checksums.

What is written gets its name when all of it is on disk. Until then it has a hidden name
beside, which is locked, so that a second writer of the same name waits (files) or is
refused (directories), and what a killed process has left is known and removed.
"""

import codecs
import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from xdc_tf.runtime.locks import Lock, locked_file

# What TensorFlow takes for a pattern where it looks for the files of variables.
PATTERN = re.compile(r"[*?\[\]\\]")
_BLOCK_BYTES = 1 << 20
_MAX_NAME_BYTES = 255


def member_path(directory: str, name: str) -> str:
    """Path of a file in a directory whose name was read from some other file.

    The one way from a name in a file to a path, since such a name is a stranger's.

    Args:
      directory: local or remote.
      name: the file's name in it, without a folder.

    Raises:
      ValueError: if the name is none, or could lead out of the directory.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or len(name.encode(errors="surrogatepass")) > _MAX_NAME_BYTES
    ):
        raise ValueError(
            f"{name!a} is not the name of a file in {directory}; a name has no folder "
            "in it and no control characters."
        )
    return os.path.join(directory, name)


def open_regular(path: str | os.PathLike) -> IO[bytes]:
    """Opens a regular file to be read; a pipe or a device would never end.

    Raises:
      OSError: if it cannot be opened.
      ValueError: if it is something else.
    """
    # Without waiting for a pipe's other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ValueError(f"{os.fspath(path)} is {kind}; give a regular file.")
    return open(descriptor, "rb")


def check_no_links(directory: str) -> None:
    """Refuses a directory with symbolic links in it, through which writes would leave.

    Raises:
      ValueError: names the first link. The directory itself may be one.
    """
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                raise ValueError(
                    f"{path} is a symbolic link, and what is written in {directory} "
                    "must stay there; replace the link by what it points to."
                )


def write_text(path: str, text: str | Iterable[str]) -> None:
    """Writes a file whole or not at all.

    A local file is on disk when this returns.

    Args:
      path: local or remote.
      text: of the file, or its parts, which are written as they come.

    Raises:
      OSError: if a local file cannot be written; names the path.
    """
    parts = [text] if isinstance(text, str) else text
    if "://" in path:
        gfile = _remote_files(path)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        with gfile.GFile(temporary, "w") as file:
            for part in parts:
                file.write(part)
        gfile.rename(temporary, path, overwrite=True)
        return
    with placing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.writelines(parts)


@contextlib.contextmanager
def placing(path: str) -> Iterator[str]:
    """Gives a file its name when it is complete and on disk.

    A second process that writes the same file waits for the first one.

    Args:
      path: the name; replaced if it exists.

    Yields:
      A hidden name beside with the same ending, where the file is to be written;
      removed on an error.

    Raises:
      OSError: if it cannot be written; names the path.
    """
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    temporary = os.path.join(folder, f".{stem}.partial{ending}")
    try:
        with locked_file(temporary):
            try:
                yield temporary
                sync(temporary)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(temporary)
                raise
        sync(folder or ".")
    except OSError as error:
        # An error in writing, unlike one in opening, names no file.
        if error.filename is not None and error.filename != temporary:
            raise
        raise OSError(error.errno, error.strerror or str(error), path) from error


@contextlib.contextmanager
def new_directory(path: str) -> Iterator[str]:
    """A directory to be filled, which gets its name when all in it is on disk.

    Args:
      path: the name, local and free; its parents are made if missing.

    Yields:
      The path of a hidden directory beside; removed on an error.

    Raises:
      BlockingIOError: if another process is making the same one.
      FileExistsError: if there is something of that name.
      ValueError: on a remote path.
    """
    with scratch_directory(path) as directory:
        yield directory
        place_directory(directory, path)


def place_directory(directory: str, path: str) -> None:
    """Gives a scratch_directory its name when all in it is on disk.

    Raises:
      FileExistsError: if there is something of that name.
    """
    for folder, _, names in os.walk(directory):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)
    check_free(path)
    os.rename(directory, path)
    sync(os.path.dirname(directory))


@contextlib.contextmanager
def scratch_directory(
    path: str, *, is_remainder: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    """A hidden directory beside what is to be made at `path`; removed at the end.

    Args:
      path: see new_directory.
      is_remainder: whether a directory of that name is what a killed process has left;
        it is removed then.

    Raises:
      BlockingIOError, FileExistsError, ValueError: see new_directory.
    """
    if "://" in path:
        raise ValueError(f"{path} must be a local path; copy what it gets from there.")
    if not is_remainder():
        check_free(path)
    parent, name = os.path.split(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    with Lock(_lock_path(path), held=path, remove=True) as lock:
        if lock.is_held and is_remainder():
            shutil.rmtree(path)
        check_free(path)
        scratch = os.path.join(parent, f".{name}.")
        if lock.is_held:
            for left in glob.glob(glob.escape(scratch) + "*.partial"):
                shutil.rmtree(left, ignore_errors=True)
        directory = f"{scratch}{secrets.token_hex(8)}.partial"
        os.mkdir(directory)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def check_free(path: str) -> None:
    """Refuses what exists; a lock that was left beside it is removed.

    Raises:
      FileExistsError: if there is something of that name.
    """
    if not os.path.lexists(path):
        return
    if os.path.lexists(_lock_path(path)):
        # Of a process that was killed when all was done; or at work, and then kept.
        with contextlib.suppress(OSError):
            Lock(_lock_path(path), held=path, remove=True).release()
    raise FileExistsError(f"{path} exists; remove it or choose another place.")


def _lock_path(path: str) -> str:
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(parent, f".{name}.lock")


def sync(path: str | os.PathLike) -> None:
    """Returns when a file's contents, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: str) -> str:
    """Reads a file.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not a regular file, or not UTF-8.
    """
    return "".join(read_lines(path))


def read_lines(path: str) -> Iterator[str]:
    """Reads a file, some whole lines at a time; the last may have no line feed.

    Raises:
      FileNotFoundError, ValueError: see read_text; while iterating.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    try:
        for block in _read_blocks(path):
            lines, feed, after = decoder.decode(block).rpartition("\n")
            if feed:
                yield rest + lines + feed
                rest = after
            else:
                rest += after
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}).") from error
    if rest:
        yield rest


def _read_blocks(path: str) -> Iterator[bytes]:
    if "://" not in path:
        with open_regular(path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    gfile = _remote_files(path)
    if not gfile.exists(path):
        raise FileNotFoundError(path)
    with gfile.GFile(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _remote_files(path: str):
    """TensorFlow's file operations, imported only for paths such as s3://..."""
    import tensorflow as tf

    from xdc_tf.runtime import compat

    compat.enable_remote_paths(path)
    return tf.io.gfile


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a regular file, read in blocks.

    Raises:
      OSError, ValueError: see open_regular.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
