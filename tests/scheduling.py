"""Keeps the processes of the tests from real-time priority.

SVT-AV1, by which films are made, gives the thread that opens it and its own the highest
real-time priority where root runs it, and whatever is started afterwards inherits it:
a browser that waits in a loop then leaves nothing of a core to what it waits for.
"""

import ctypes
import os
import sys

_CAP_SYS_NICE = 23
_CAPABILITY_VERSION = 0x20080522  # of two words for each set
_PR_CAPBSET_DROP = 24


def refuse_real_time() -> None:
    """Gives up the right to it, also for programs that are started; Linux's root."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (
        ctypes.c_uint32 * 6
    )()  # effective, permitted and inheritable, low words first
    if libc.capget(header, sets) == 0:
        for place in range(3):
            sets[place] &= ~(1 << _CAP_SYS_NICE)
        libc.capset(header, sets)
