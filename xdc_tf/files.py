"""Text files, local or remote, written whole or not at all; checksums of files."""

import contextlib
import hashlib
import os
from collections.abc import Iterator

_BLOCK_BYTES = 1 << 20


def write_text(path: str, text: str) -> None:
    """Writes a file under a temporary name and renames it when complete.

    A local file is on disk when this returns.

    Raises:
      OSError: if a local file cannot be written; names the path.
    """
    temporary = path + ".tmp"
    if "://" in path:
        gfile = _remote_files(path)
        with gfile.GFile(temporary, "w") as file:
            file.write(text)
        gfile.rename(temporary, path, overwrite=True)
        return
    with placing(path, temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)


@contextlib.contextmanager
def placing(path: str, temporary: str) -> Iterator[str]:
    """Gives a file its name when it is complete and on disk.

    Args:
      path: the name.
      temporary: where it is written, on the same file system; removed on an error.

    Raises:
      OSError: if it cannot be written; names the path.
    """
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(path) or ".")
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        # An error in writing, unlike one in opening, names no file.
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), path) from error


def sync(path: str) -> None:
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
    """
    if "://" in path:
        gfile = _remote_files(path)
        if not gfile.exists(path):
            raise FileNotFoundError(path)
        with gfile.GFile(path, "r") as file:
            return file.read()
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def _remote_files(path: str):
    """TensorFlow's file operations, imported only for paths such as s3://..."""
    import tensorflow as tf

    from xdc_tf import compat

    compat.enable_remote_paths(path)
    return tf.io.gfile


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
