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

REASONS = {
    CANNOT_OPEN: "no such file, no access, or no format that FFmpeg knows",
    NO_VIDEO: "no video stream (a cover picture is none)",
    NO_AUDIO: "no audio stream",
    SILENT_AUDIO: "the sound is silent, or constant",
    TOO_SHORT: "less than --min_secs",
    TOO_LONG: "more than --max_secs",
    TOO_LARGE: "more than --max_file_mib, --max_megapixels or --max_frames",
    LENGTH_MISMATCH: "picture or sound --max_length_ratio times as long as the other",
    DECODE_ERROR: "damaged or truncated; --keep_truncated keeps what is before",
    TIMEOUT: "not done after --timeout_secs",
    OUT_OF_MEMORY: "the decoder wanted more than --worker_memory_mib",
    CRASHED: "the decoder ended its process",
    UNEXPECTED_ERROR: "an error that has no reason of its own; please report it",
}


class MediaError(Exception):
    """A file, or a segment of it, that cannot be used.

    Attributes:
      reason: a key of REASONS.
      detail: what exactly, for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
