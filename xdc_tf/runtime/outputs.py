"""Places that a command writes to at its end, tried before it begins."""

import errno
import os
import tempfile

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
