"""What two finished runs differ in, array by array."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from typing import Any


def fingerprints(workdir: str) -> dict[str, str]:
    """SHA-256 of each array that a finished run and its export consist of, by name."""
    import h5py
    import numpy as np
    import tensorflow as tf

    def arrays_of(path: str) -> Iterator[tuple[str, Any]]:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as whole, whole.open("model.weights.h5") as file:
                found = []
                with h5py.File(file, "r") as weights:
                    weights.visititems(
                        lambda name, item: (
                            found.append((name, item[()]))
                            if isinstance(item, h5py.Dataset)
                            else None
                        )
                    )
            yield from found
        elif path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as arrays:
                yield from arrays.items()
        elif path.endswith(".npy"):
            yield "", np.load(path, allow_pickle=False)
        elif path.endswith(".csv"):
            with open(path, "rb") as file:
                yield "", np.frombuffer(file.read(), np.uint8)
        elif path.endswith(".index"):
            reader = tf.train.load_checkpoint(path.removesuffix(".index"))
            for name in reader.get_variable_to_shape_map():
                if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
                    yield name, np.asarray(reader.get_tensor(name))

    found = {}
    for folder, _, names in os.walk(workdir):
        for name in names:
            path = os.path.join(folder, name)
            for array, value in arrays_of(path):
                digest = hashlib.sha256(f"{value.dtype} {value.shape}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
                key = f"{os.path.relpath(path, workdir)} {array}".strip()
                found[key] = digest.hexdigest()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The names of what is different, or in one of the two alone."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]
