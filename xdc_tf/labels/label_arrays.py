"""Labels of many examples in blocks, so that no second copy of them is made."""

import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

BLOCK_ROWS = 1 << 16


def blocks(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of labels [0, BLOCK_ROWS), of as many after them, and so on.

    Pages of a mapped file count as the process's memory once they are touched, and
    would add up to the whole file; those of a read-only map are given back.
    """
    give_back = isinstance(labels.base, mmap.mmap) and not labels.flags.writeable
    for start in range(0, len(labels), BLOCK_ROWS):
        yield np.array(labels[start : start + BLOCK_ROWS])
        if give_back:
            labels.base.madvise(mmap.MADV_DONTNEED)


def first_outside(labels: np.ndarray, allowed: range) -> int | None:
    """The first example whose label is not in a range of step 1, or None."""
    start = 0
    for block in blocks(labels):
        outside = (block < allowed.start) | (block >= allowed.stop)
        if outside.any():
            return start + int(np.argmax(outside))
        start += len(block)
    return None


def write(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Writes [num_rows] integers that fit int32 as an .npy file of int32."""
    header = {"descr": "<i4", "fortran_order": False, "shape": labels.shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks(labels):
            file.write(block.astype("<i4"))


def load(
    variable: "tf.Variable", labels: np.ndarray, *, strategy: "tf.distribute.Strategy"
) -> None:
    """Fills a variable with labels, in place, on every device of this process.

    `variable.assign(labels)` would hold three copies of them at a time.

    Args:
      variable: [num_rows] int32, made in the scope of the strategy.
      labels: [num_rows] integers that fit int32, such as those of a table.
      strategy: the devices.

    Raises:
      ValueError: the variable has another shape than the labels.
    """
    import tensorflow as tf  # Tables are written and read without it.

    if tuple(variable.shape) != labels.shape:
        raise ValueError(
            f"labels of shape {labels.shape} do not fill a variable of shape "
            f"{tuple(variable.shape)}; load labels of the same records."
        )
    copies = strategy.experimental_local_results(variable)
    start = 0
    for block in blocks(labels):
        rows = tf.range(start, start + len(block))
        for copy in copies:
            # copy[start:stop].assign() would read all of the variable every time.
            copy.scatter_update(tf.IndexedSlices(block.astype(np.int32), rows))
        start += len(block)
