"""Leaving when a scheduler asks for it: SIGTERM, or SIGUSR1 as Slurm sends it.

Every command listens (program.run). Imports no TensorFlow.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

EXIT_CODE = os.EX_TEMPFAIL  # 75: the same command goes on, so run it again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# What a compiled loop gets before the process ends without it.
GRACE_SECS = 10.0


class Stopped(BaseException):
    """Raised where work stops for a signal; its text names the signal.

    No Exception, so that nothing takes it for a failure that it can handle.
    """


class Stop:
    """Whether a signal has asked the process to leave.

    Of itself a signal raises Stopped in the main thread; if that does not end the
    process within GRACE_SECS, as in a compiled loop, it is ended. Within `deferred`
    it is only noted. A second signal ends the process at once. Whatever is ended like
    this must be able to go on after it, as it must after SIGKILL.
    """

    def __init__(self) -> None:
        self._signal: str | None = None
        self._deferring = False
        self._deadline: threading.Timer | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self._signal is not None:
            raise Stopped(self._signal)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Work that looks at `requested` itself; followed by a `check`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.check()

    def _received(self, number: int) -> None:
        """In a thread of its own: Python's handlers wait for compiled loops."""
        if self._signal is not None:
            os._exit(EXIT_CODE)
        self._signal = signal.Signals(number).name
        if self._deferring:
            message = (
                f"{self._signal}: saving after this step; once more leaves at once."
            )
            os.write(2, f"{message}\n".encode())
        else:
            self._deadline = threading.Timer(GRACE_SECS, os._exit, [EXIT_CODE])
            self._deadline.daemon = True
            self._deadline.start()


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Listens to SIGNALS; for the main thread of a command.

    Within another one it takes that one's place until it is left.
    """
    stop = Stop()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def listen():
        while received := os.read(read_end, 1):
            if received[0] in SIGNALS:
                stop._received(received[0])

    def handle(number, frame):
        if not stop._deferring:
            raise Stopped(signal.Signals(number).name)

    handlers = {number: signal.signal(number, handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, daemon=True, name="signals")
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write_end)
        thread.join()
        os.close(read_end)
        if stop._deadline is not None:
            stop._deadline.cancel()
