"""Text files, local or remote, written whole or not at all; checksums of files."""

import hashlib
import os

_BLOCK_BYTES = 1 << 20


def write_text(path: str, text: str, *, sync: bool = False) -> None:
    """Writes a file under a temporary name and renames it when complete.

    Args:
      path: local or remote.
      text: of the file.
      sync: return when a local file is on disk, so that it outlives a power cut.
    """
    temporary = path + ".tmp"
    if "://" in path:
        gfile = _remote_files(path)
        with gfile.GFile(temporary, "w") as file:
            file.write(text)
        gfile.rename(temporary, path, overwrite=True)
    else:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        put(temporary, path) if sync else os.replace(temporary, path)


def put(temporary: str, path: str) -> None:
    """Gives a complete file its name, after its contents are on disk."""
    sync_path(temporary)
    os.replace(temporary, path)
    sync_path(os.path.dirname(path) or ".")


def sync_path(path: str) -> None:
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
