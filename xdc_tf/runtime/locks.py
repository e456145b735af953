"""Files that one process has at a time, for as long as it lives."""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def locked_file(path: str) -> Iterator[None]:
    """A file under a name that one process has at a time, new or left by a dead one."""
    while True:
        # Not through a link that somebody has put there.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _is_named(descriptor: int, path: str) -> bool:
    """Whether an open file still has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


class Lock:
    """A file that is locked for as long as its process lives or until `release`.

    Attributes:
      is_held: False where the file system has no locks; a warning has said so.
    """

    def __init__(self, path: str, *, held: str, remove: bool = False):
        """Takes the lock, at once or not at all.

        Args:
          path: of the lock file; not followed if it is a link.
          held: what is locked, for messages.
          remove: remove the file on release.

        Raises:
          BlockingIOError: if another process has it; names its host and process.
          OSError: if the file cannot be written.
        """
        self._path, self._remove = path, remove
        self.is_held = True
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o666), "r+", encoding="utf-8")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._file.read(200).strip() or "another process"
                self._file.close()
                raise BlockingIOError(
                    f"{held} is in use by {holder}; wait for that one, end it, or "
                    "choose another place."
                ) from None
            except OSError as error:
                self.is_held = False
                print(
                    f"warning: {path} cannot be locked here ({error}); see to it "
                    f"yourself that nothing else uses {held}.",
                    file=sys.stderr,
                    flush=True,
                )
            if _is_named(self._file.fileno(), path):
                break
            self._file.close()  # it was removed by the one that had it
        with contextlib.suppress(OSError):  # a full disk: the lock holds without it
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def release(self) -> None:
        """Lets others have it."""
        with contextlib.suppress(OSError, ValueError):
            if self._remove and self.is_held and not self._file.closed:
                os.remove(self._path)
            self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.release()
