"""Why a row is quarantined: the fixed list of reasons, and the error that has one."""

import errno

CANNOT_OPEN = "cannot_open"
NO_VIDEO = "no_video"
NO_AUDIO = "no_audio"
SILENT_AUDIO = "silent_audio"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
TOO_LARGE = "too_large"
LENGTH_MISMATCH = "length_mismatch"
DECODE_ERROR = "decode_error"
TIMEOUT = "timeout"
OUT_OF_MEMORY = "out_of_memory"
CRASHED = "crashed"
KILLED = "killed"
IO_ERROR = "io_error"
UNEXPECTED_ERROR = "unexpected_error"

REASONS = (
    *(CANNOT_OPEN, NO_VIDEO, NO_AUDIO, SILENT_AUDIO, TOO_SHORT, TOO_LONG, TOO_LARGE),
    *(LENGTH_MISMATCH, DECODE_ERROR, TIMEOUT, OUT_OF_MEMORY, CRASHED, KILLED, IO_ERROR),
    UNEXPECTED_ERROR,
)
# Of the machine and not of the file: another day, the row may be usable.
TRANSIENT_REASONS = frozenset({KILLED, IO_ERROR})
# What is tried once more at once; a timeout may come from what else was in work.
TRIED_AGAIN_REASONS = TRANSIENT_REASONS | {TIMEOUT}

# Errors of opening, reading or writing that are about the file itself. Object stores'
# libraries raise them without numbers.
_LASTING_ERRORS = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
_LASTING_NUMBERS = frozenset(
    {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO, errno.EILSEQ}
)


def is_transient(error: Exception) -> bool:
    """Whether the system or a storage failed, which says nothing of the file."""
    return (
        isinstance(error, OSError)
        and not isinstance(error, _LASTING_ERRORS)
        and error.errno not in _LASTING_NUMBERS
    )


class MediaError(Exception):
    """A file, or a segment of it, that cannot be used.

    Attributes:
      reason: one of REASONS.
      detail: what exactly, for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
