"""What two finished runs differ in, array by array."""

import collections
import contextlib
import csv
import fnmatch
import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any


def fingerprints(workdir: str) -> dict[str, str]:
    """SHA-256 of each array that a finished run and its export consist of, by name."""
    import h5py
    import numpy as np
    import tensorflow as tf

    def arrays_of(path: str) -> Iterator[tuple[str, Any]]:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as whole, whole.open("model.weights.h5") as file:
                items = []
                with h5py.File(file, "r") as weights:
                    weights.visititems(
                        lambda name, item: (
                            items.append((name, item[()]))
                            if isinstance(item, h5py.Dataset)
                            else None
                        )
                    )
            yield from items
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

    digests = {}
    for folder, _, names in os.walk(workdir):
        for name in names:
            path = os.path.join(folder, name)
            for array, value in arrays_of(path):
                digest = hashlib.sha256(f"{value.dtype} {value.shape}".encode())
                digest.update(np.ascontiguousarray(value).tobytes())
                key = f"{os.path.relpath(path, workdir)} {array}".strip()
                digests[key] = digest.hexdigest()
    return digests


def differences(actual: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The names of what is different, or in one of the two alone."""
    names = sorted(actual.keys() | expected.keys())
    return [name for name in names if actual.get(name) != expected.get(name)]


def file_fingerprints(directory: str) -> dict[str, str]:
    """SHA-256 of what each file below a directory holds, by its path in it.

    The same for results that differ only in what _VARYING removes. TensorBoard's files
    of a folder, whose names tell times, are counted as one of different events.
    """
    contents, events = {}, collections.defaultdict(set)
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                data = file.read()
            if fnmatch.fnmatch(name, "events.out.tfevents.*"):
                events[os.path.join(folder, "events")].update(_events(data))
                continue
            for pattern, remove in _VARYING.items():
                if fnmatch.fnmatch(name, pattern):
                    # What is not whole is taken as it is.
                    with contextlib.suppress(ValueError, zipfile.BadZipFile):
                        data = remove(data)
                    break
            contents[path] = data
    contents |= {path: repr(sorted(values)).encode() for path, values in events.items()}
    return {
        os.path.relpath(path, directory): hashlib.sha256(data).hexdigest()
        for path, data in contents.items()
    }


def _events(data: bytes) -> Iterator[bytes]:
    """The whole events of a TensorBoard file, without their time."""
    from tensorboard.compat.proto import event_pb2

    while len(data) > 12:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        if event.HasField("summary"):
            event.ClearField("wall_time")
            yield event.SerializeToString(deterministic=True)
        data = data[12 + length + 4 :]


def _without_times(data: bytes) -> bytes:
    """JSON without how long things took and when that was."""

    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in _TIMES}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(json.loads(data))).encode()


def _without_time_columns(data: bytes) -> bytes:
    """CSV without columns of times; of lines that then are the same, the first."""
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    kept = [number for number, name in enumerate(header) if name not in _TIMES]
    lines = dict.fromkeys(tuple(row[number] for number in kept) for row in rows)
    return repr([[header[number] for number in kept], *lines]).encode()


def _without_date(data: bytes) -> bytes:
    """A .keras file's members without the date in its metadata.json."""
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        members = {name: whole.read(name) for name in sorted(whole.namelist())}
    metadata = json.loads(members.pop("metadata.json"))
    del metadata["date_saved"]
    return repr((metadata, members)).encode()


_TIMES = ("time", "secs")
# What is not the same from run to run, by the file's name.
_VARYING: dict[str, Callable[[bytes], bytes]] = {
    "*.json": _without_times,
    "*.csv": _without_time_columns,
    "*.keras": _without_date,
}
