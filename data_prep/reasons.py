"""Why a row is quarantined: the fixed list of reasons, and the error that has one."""

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
UNEXPECTED_ERROR = "unexpected_error"

REASONS = (
    *(CANNOT_OPEN, NO_VIDEO, NO_AUDIO, SILENT_AUDIO, TOO_SHORT, TOO_LONG, TOO_LARGE),
    *(LENGTH_MISMATCH, DECODE_ERROR, TIMEOUT, OUT_OF_MEMORY, CRASHED, UNEXPECTED_ERROR),
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
