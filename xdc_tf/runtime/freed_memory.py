"""Memory that the allocator keeps, instead of handing it back with every tensor.

The C library maps each large tensor anew and unmaps it when it is freed, so that every
page of every activation is touched for the first time in every step. On a CPU that is
a part of a training step's time (`python -m benchmarks.train_step --return_memory`).
"""

import ctypes

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def keep() -> bool:
    """Makes this process reuse freed memory; call it before tensors are made.

    One arena serves all threads, so that what one has freed another can take. The
    process is then as large as it was at its largest.

    Returns:
      Whether the C library knows how; others than glibc do not, and nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    return all([mallopt(name, value) for name, value in settings])
