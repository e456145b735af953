"""What makes TensorFlow faster: on a CPU oneDNN, memory that is kept, no autotuning; on
a GPU batch norm where channels lie last.

Importing this module imports no TensorFlow.
"""

import ctypes
import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

_ONEDNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def ask_for_onednn() -> None:
    """Has TensorFlow use oneDNN, unless the environment says; call before its import.

    oneDNN is the library behind TensorFlow's fast operations on x86 CPUs. TensorFlow
    uses it unasked only on CPUs with AVX-512 or AMX. Others are faster with it, too
    (docs/training_speed.md).
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault(_ONEDNN_VARIABLE, "1")


def prepare_gpus() -> None:
    """Settings of TensorFlow for GPUs, unless the environment has them; call this
    before TensorFlow's import.

    Of a GPU only the memory that is needed is taken, not nearly all at once: what else
    runs on it, such as another command, gets its part. Batch norm of 16 bits takes
    cuDNN's kernels for channels that lie last; without them TensorFlow transposes every
    activation forth and back (docs/gpu.md: 1.7 times as long a step). These kernels
    give NaN where sums overflow, as a training step notices.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", "1")


def uses_onednn() -> bool:
    """Whether TensorFlow uses oneDNN in this process; False if it cannot be asked."""
    try:
        # There is no public way to ask.
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return False
    return bool(_pywrap_util_port.IsMklEnabled())


def keep_freed_memory() -> bool:
    """Makes this process reuse freed memory; call it before tensors are made.

    The C library maps each large tensor anew and unmaps it when it is freed, so that
    every page of every activation is touched for the first time in every step. On a CPU
    that is a part of a training step's time (`python -m benchmarks.train_step
    --return_memory`). One arena serves all threads, so that what one has freed another
    can take. The process is then as large as it was at its largest.

    Returns:
      Whether the C library can; others than glibc cannot, and nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    return all([mallopt(name, value) for name, value in settings])


def without_autotuning(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """A data set whose iterators end at once.

    Autotuning has a thread that sleeps for up to a minute between its looks, longer the
    longer an iterator lives. Letting the iterator go wakes it, but often before it can
    see that it is to end, and is then waited for until its next look. All that it could
    tune here is set by hand.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
