"""What the processor of this machine can do."""

import functools
import re

_CPUINFO = "/proc/cpuinfo"
# Of x86: Intel's and AMD's vectors, and Intel's tiles; of ARM.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def has_bfloat16(cpuinfo: str = _CPUINFO) -> bool:
    """Whether it multiplies bfloat16 by instructions of its own.

    Without them libraries convert, and matrix products take longer than in float32.

    Args:
      cpuinfo: path of Linux's description of the processors; where there is none, such
        as on macOS, the answer is no.
    """
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.M)
    except OSError:
        return False
    # A program may move to any of them.
    return bool(lines) and all(_BFLOAT16_FLAGS & set(line.split()) for line in lines)
