"""Caffe2's weights as they were released: a pickle of NumPy arrays."""

import numpy as np

from xdc_tf.runtime import files
from xdc_tf.weights import known_globals, pickles


def read(path: str) -> dict[str, np.ndarray]:
    """Reads a pickle of {"blobs": {name: array}}, or of {name: array}.

    Args:
      path: a file written by Python 2 or 3, with NumPy of any version.

    Returns:
      Name -> read-only array. What is not an array is left out.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, holds other things than numbers, text and plain
        containers, or no arrays.
    """
    with files.open_regular(path) as file:
        table = known_globals.CONTAINERS | known_globals.ARRAYS
        value = pickles.read(file, table, name=path)
    blobs = value.get("blobs", value) if isinstance(value, dict) else None
    arrays = {
        name: blob
        for name, blob in (blobs.items() if isinstance(blobs, dict) else ())
        if isinstance(name, str) and isinstance(blob, np.ndarray)
    }
    if not arrays:
        raise ValueError(
            f"{path} is a pickle without arrays by name; give a .pkl file of Caffe2's "
            "blobs, or a file that torch.save wrote."
        )
    return arrays
