"""Manifests and media on object stores, through fsspec; local ones as they are.

Nothing here imports TensorFlow, whose own file systems read and write the records.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from data_prep.reasons import CANNOT_OPEN, IO_ERROR, TOO_LARGE, MediaError, is_transient
from xdc_tf.runtime import files

# Scheme -> what pip installs for it.
_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hdfs": "pyarrow",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BLOCK_BYTES = 1 << 20


def is_remote(path: str) -> bool:
    """Whether a path names a file system, as in s3://bucket/file."""
    return _SCHEME.match(path) is not None


def read_bytes(path: str, *, limit_bytes: int) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: there is none.
      OSError: it cannot be read.
      ValueError: it is no regular file, or a larger one; or of a file system that
        cannot be reached from here.
    """
    with _open(path) as file:
        # Not all of a huge one is read to find out.
        is_huge = not is_remote(path) and os.fstat(file.fileno()).st_size > limit_bytes
        content = b"" if is_huge else file.read(limit_bytes + 1)
    if is_huge or len(content) > limit_bytes:
        raise ValueError(
            f"{path} has more than {limit_bytes >> 20} MiB, the limit; split it."
        )
    return content


def exists(path: str) -> bool:
    """Whether there is something of that name.

    Raises:
      ValueError: a file system that cannot be reached from here.
    """
    if not is_remote(path):
        return os.path.exists(path)
    system, name = _file_system(path)
    return system.isfile(name)


@contextlib.contextmanager
def local_copy(path: str, *, limit_bytes: int) -> Iterator[str]:
    """A local path with the content: of a remote file a copy, while the block lasts.

    Args:
      path: local or remote.
      limit_bytes: of a copy.

    Raises:
      MediaError: cannot_open, too_large, or io_error if the storage, or the place for
        the copy, failed.
    """
    if not is_remote(path):
        yield path
        return
    # Formats that only the suffix identifies keep theirs.
    suffix = re.sub(r"[^.\w]", "", os.path.splitext(path)[1])
    with tempfile.NamedTemporaryFile(prefix="media-", suffix=suffix) as copy:
        # Libraries of many file systems have many errors.
        try:
            with _open(path) as file:
                while block := file.read(_BLOCK_BYTES):
                    copy.write(block)
                    if copy.tell() > limit_bytes:
                        raise MediaError(
                            TOO_LARGE,
                            f"more than {limit_bytes / 2**20:g} MiB, the limit",
                        )
                copy.flush()
        except MediaError:
            raise
        except MemoryError:
            raise
        except (ValueError, ImportError) as error:
            raise MediaError(CANNOT_OPEN, str(error)) from error
        except Exception as error:
            lasting = isinstance(error, OSError) and not is_transient(error)
            raise MediaError(
                CANNOT_OPEN if lasting else IO_ERROR,
                f"{type(error).__name__}: {error}" if str(error) else path,
            ) from error
        yield copy.name


def _open(path: str):
    if not is_remote(path):
        return files.open_regular(path)
    system, name = _file_system(path)
    # Blocks of the library's own, which reads ahead.
    return system.open(name, "rb")


def _file_system(path: str):
    """fsspec's file system of a path, and the path's name in it."""
    scheme = path.partition("://")[0].lower()
    if scheme not in _PACKAGES:
        raise ValueError(
            f"{path}: unknown file system {scheme!r}; use a local path or one of "
            f"{', '.join(known + '://' for known in _PACKAGES)}."
        )
    try:
        import fsspec

        options = {}
        endpoint = os.environ.get("S3_ENDPOINT")
        if scheme == "s3" and endpoint:
            # The variable that TensorFlow's own file system goes by.
            if "://" not in endpoint:
                endpoint = f"https://{endpoint}"
            options["endpoint_url"] = endpoint
        return fsspec.core.url_to_fs(path, **options)
    except ImportError as error:
        raise ValueError(
            f"{path}: {scheme}:// needs pip install fsspec {_PACKAGES[scheme]}."
        ) from error
