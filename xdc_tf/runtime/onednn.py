"""oneDNN, the library behind TensorFlow's fast operations on x86 CPUs.

TensorFlow uses it unasked only on CPUs with AVX-512 or AMX. Others are faster with it,
too (docs/training_speed.md).
"""

import os
import platform

_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def ask_for() -> None:
    """Has TensorFlow use it, unless the environment says; call it before its import."""
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault(_VARIABLE, "1")


def is_used() -> bool:
    """Whether TensorFlow uses it in this process, as far as it tells."""
    try:
        # There is no public way to ask.
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return False
    return bool(_pywrap_util_port.IsMklEnabled())
