"""Runs a command line: one clear line for a user's mistake, and the right exit code.

Imports no TensorFlow, so that `--help` answers at once.
"""

import atexit
import contextlib
import errno
import importlib.abc
import importlib.util
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import app, flags
from absl import logging as absl_logging

from xdc_tf.runtime import escaping, signals, tuning

_MAX_ERROR_CHARS = 2000  # values in messages may be a stranger's, and of any length
# What bad input raises: wrong values, a loss that is not finite, missing files, ...
USER_ERRORS = (ValueError, FloatingPointError, OSError)
# What a configuration file or a --config.KEY=VALUE raises while flags are parsed.
_CONFIG_ERRORS = (AttributeError, KeyError, TypeError, SyntaxError, ImportError)

# TensorFlow's errors about a full disk, whose classes are others' too.
_NO_ROOM = re.compile(
    f".*?(?:{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EDQUOT)}"
    f"|{os.strerror(errno.EFBIG)})"
)

# What TensorFlow writes while it starts, whatever TF_CPP_MIN_LOG_LEVEL says. That CUDA
# cannot be initialised is worth saying where there is a driver for it.
_START_UP_NOISE = re.compile(
    r"WARNING: All log messages before absl::InitializeLog"
    r"|I\d{4} \d\d:\d\d:\d"
    r"|.*Unable to register cu(DNN|FFT|BLAS) factory"
    + ("" if os.path.exists("/proc/driver/nvidia") else r"|.*failed call to cuInit")
)


def run(
    main: Callable[[list[str]], int | None], *, takes_arguments: bool = False
) -> None:
    """Parses the flags, runs `main` and leaves with an exit code; never returns.

    TensorFlow, if `main` imports it, is quiet, uses oneDNN and takes no more of a GPU's
    memory than it needs.

    0 for success and for `--help`; 1 for a mistake in flags or input, reported in one
    `error: ...` line; 130 for Ctrl-C; 75 after SIGTERM or SIGUSR1 (see signals). Any
    other exception is a bug and shows its traceback. The flag `--debug` shows the
    traceback of mistakes too, and the messages of TensorFlow that are otherwise
    silenced. What Python prints has its control characters escaped, see
    escaping.TerminalStream.

    Args:
      main: takes sys.argv[:1] and what is no flag; returns None or an exit code.
      takes_arguments: whether anything may be there that is no flag.
    """
    code = 1
    # Before TensorFlow's, so that it comes after them.
    atexit.register(lambda: _leave_at_once(code))
    if "debug" not in flags.FLAGS:
        flags.DEFINE_bool("debug", False, "Show tracebacks and TensorFlow's messages.")
    _describe_in_help(main)
    tuning.ask_for_onednn()
    tuning.prepare_gpus()
    with (
        contextlib.redirect_stdout(escaping.TerminalStream(sys.stdout)),
        # Progress bars go back to the beginning of their line.
        contextlib.redirect_stderr(escaping.TerminalStream(sys.stderr, kept="\n\t\r")),
    ):
        status = _exit_code(main, takes_arguments=takes_arguments)
    code = status if isinstance(status, int) else int(status is not None)
    sys.exit(code)


def _exit_code(
    main: Callable[[list[str]], int | None], *, takes_arguments: bool
) -> int | str | None:
    """Runs `main`; reports whatever stops it."""
    try:
        with signals.listening():
            app.run(
                lambda argv: _guarded(main, argv, takes_arguments=takes_arguments),
                flags_parser=_parse_flags,
            )
    except SystemExit as done:
        return done.code
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except signals.Stopped as stopped:
        print_error(f"stopped by {stopped}; the same command goes on")
        return signals.EXIT_CODE
    except Exception:
        traceback.print_exc()
    return 1


def quiet_tensorflow() -> None:
    """Keeps TensorFlow's start-up messages off the terminal; call it before its import.

    `run` has done so. Worker processes that import TensorFlow call it themselves.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # It narrates through the logger of absl's programs too.
    absl_logging.get_absl_logger().addFilter(_is_not_narration)
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietImport())


def _is_not_narration(record: logging.LogRecord) -> bool:
    is_tensorflows = f"{os.sep}tensorflow{os.sep}" in record.pathname
    return record.levelno >= logging.WARNING or not is_tensorflows


def _parse_flags(argv: list[str]) -> list[str]:
    if "--debug" not in argv:
        quiet_tensorflow()  # recipes import what has their keys
    try:
        return flags.FLAGS(argv)
    except SystemExit:
        # Only the help flags leave from here, and absl has them leave with 1.
        raise SystemExit(0) from None
    except (flags.Error, *_CONFIG_ERRORS, *USER_ERRORS) as error:
        if "--debug" in argv:
            raise
        cause = "" if isinstance(error, flags.Error) else "in the configuration: "
        if isinstance(error, AttributeError | KeyError):
            cause += "no such key: "
        print_error(f"{cause}{_message_line(error)} (--help lists the flags)")
        raise SystemExit(1) from None


def _guarded(
    main: Callable[[list[str]], int | None], argv: list[str], *, takes_arguments: bool
) -> int | None:
    if flags.FLAGS.debug:
        return main(argv)
    if len(argv) > 1 and not takes_arguments:
        print_error(f"unexpected arguments {argv[1:]} (--help lists the flags)")
        return 1
    try:
        return main(argv)
    except USER_ERRORS as error:
        print_error(_message_line(error))
    except Exception as error:
        message = tensorflow_user_error(error)
        if message is None:
            raise
        print_error(message)
    return 1


def tensorflow_user_error(error: Exception) -> str | None:
    """The line to report if TensorFlow met a user's mistake or bad file, else None."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    # MESSAGE of "{{graph node}} Error in ... iterator: NAME: MESSAGE [Op:NAME]" and
    # whether a Python traceback follows, as from a function inside a data set.
    message, *python_traceback = error.message.split("\nTraceback", 1)
    message = re.sub(r"^(\{\{.*?\}\} )?(Error in .*? iterator: \S+ )?", "", message)
    message = " ".join(re.sub(r"\[Op:.*", "", message, flags=re.DOTALL).split())
    errors = tensorflow.errors
    files = errors.NotFoundError, errors.PermissionDeniedError, errors.DataLossError
    if python_traceback and message.startswith("ValueError: "):
        return message.removeprefix("ValueError: ")
    if no_room := _NO_ROOM.match(message):
        return no_room[0]
    if "JPEG" in message:
        reason = message.partition(" [[")[0]
        return (
            f"a frame of the records cannot be decoded ({reason}); python -m "
            "data_prep.inspect --verify names it."
        )
    return message if isinstance(error, files) else None


def _message_line(error: Exception) -> str:
    # str() of a KeyError, and of what wraps one, would put its message in quotes.
    while isinstance(error, AttributeError | KeyError) and error.args:
        error = error.args[0]
    return " ".join(str(error).split()) or type(error).__name__


def print_error(message: str) -> None:
    """Prints `error: MESSAGE` to stderr: cut to a readable length, without controls."""
    shown = escaping.terminal(message, max_chars=_MAX_ERROR_CHARS)
    print(f"error: {shown}", file=sys.stderr)


def _describe_in_help(main: Callable[[list[str]], int | None]) -> None:
    """Makes `--help` show main's flags and module when a console script runs it."""
    script = sys.argv[0]
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        flags.FLAGS.register_key_flag_for_module(script, flag)
    flags.FLAGS.register_key_flag_for_module(script, flags.FLAGS["debug"])
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__


def _leave_at_once(code: int) -> None:
    """Ends the process, past TensorFlow's destructors if it is loaded.

    They wait for the threads of data sets: those on several devices (TensorFlow 2.21)
    go on to their data set's end, which one for training has not, and what calls Python
    waits for an interpreter that is gone. tensorflow-io's file systems abort the
    process ("pure virtual method called").
    """
    if "tensorflow" not in sys.modules:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _QuietImport(importlib.abc.MetaPathFinder):
    """Imports TensorFlow as usual, once, under `_without_start_up_noise`."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module):
                with _without_start_up_noise():
                    execute(module)
                    # Looks for GPUs, which has messages of its own, now.
                    module.config.list_physical_devices()

            spec.loader.exec_module = execute_quietly
        return spec


@contextlib.contextmanager
def _without_start_up_noise() -> Iterator[None]:
    """Filters file descriptor 2, to which C++ writes, through a child process.

    A process of its own passes everything else on even if TensorFlow aborts, as it does
    with a reason on a processor that lacks its instructions.
    """
    sys.stderr.flush()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, *signals.SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as lines:
            for line in lines:
                if not _START_UP_NOISE.match(line.decode(errors="replace")):
                    os.write(2, line)
        os._exit(0)
    os.close(read_end)
    terminal = os.dup(2)
    os.dup2(write_end, 2)
    os.close(write_end)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        os.waitpid(child, 0)
