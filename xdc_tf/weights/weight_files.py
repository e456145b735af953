"""Files of weights of whatever kind, and their tensors by name."""

import os
from typing import Any

import numpy as np

from xdc_tf.runtime import files
from xdc_tf.weights import pickled_values, pickles, safetensors_files, torch_files

_HEAD_LENGTH = 512
_LEGACY_MAGIC = torch_files.LEGACY_MAGIC.to_bytes(10, "little")
# What a file may be instead, by how it begins -> what to do about it.
_OTHER_KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch its file by git lfs pull",
    b"<": "a page of HTML or XML; download the file itself",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"\x89HDF": "an HDF5 file, which is not read; give PyTorch's or Caffe2's",
}
MAX_BYTES = 1 << 34
MAX_VALUES = 1_000_000
MAX_NAME_LENGTH = 300
MAX_DEPTH = 32


def read(path: str, *, with_torch: bool = False) -> Any:
    """Reads weights of PyTorch, Caffe2 or safetensors, recognised by their content.

    Args:
      path: the file; its name does not matter.
      with_torch: let PyTorch read its files; Caffe2's are read as always.

    Returns:
      As `torch_files.read` or `read_caffe2` do.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no regular file, of another kind, damaged, larger than
        MAX_BYTES, or not to be trusted.
      ImportError: with `with_torch`, if PyTorch is needed and not installed.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory; give the file of weights itself.")
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist; check the path of the weights."
        )
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD_LENGTH)
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} has {size} bytes, more than the {MAX_BYTES} that are read; save "
            "the network's state_dict() alone."
        )
    if head.startswith(torch_files.ZIP_START) or _LEGACY_MAGIC in head[:32]:
        return torch_files.read(path, with_torch=with_torch)
    if safetensors_files.starts(head, size):
        return safetensors_files.read(path)
    if head.startswith((b"\x80", b"(", b"}")):
        return read_caffe2(path)
    raise ValueError(f"{path} is {_kind(head)}.")


def read_caffe2(path: str) -> dict[str, np.ndarray]:
    """Reads weights of Caffe2 as they were released.

    That is a pickle of {"blobs": {name: array}}, or of {name: array}.

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
        table = pickled_values.CONTAINERS | pickled_values.ARRAYS
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


def flatten_tensors(value: Any) -> dict[str, np.ndarray]:
    """Tensors in nested dictionaries, by their dotted names.

    Args:
      value: as `read` returns it: {"model": {"a": tensor}} gives {"model.a": tensor}.

    Returns:
      Name -> tensor, in the order of the dictionaries. Other values are left out,
      lists and tuples with all that they hold.

    Raises:
      ValueError: if two tensors get one name, or the dictionaries are nested without
        sense: deeper than 32, into names of more than 300 characters, or to more than a
        million values.
    """
    tensors: dict[str, np.ndarray] = {}
    num_values = 0
    waiting = [("", value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        if isinstance(item, np.ndarray):
            if name in tensors:
                raise ValueError(
                    f"two tensors have the name {name!r}; rename one in the file."
                )
            tensors[name] = item
        elif isinstance(item, dict):
            num_values += len(item)
            if depth == MAX_DEPTH or num_values > MAX_VALUES:
                raise ValueError(
                    f"the weights' dictionaries are nested deeper than {MAX_DEPTH}, or "
                    f"give more than {MAX_VALUES} values; save the state_dict() alone."
                )
            inner = [
                (_joined(name, key), part, depth + 1)
                for key, part in item.items()
                if isinstance(part, (dict, np.ndarray))
            ]
            waiting += reversed(inner)
    return tensors


def _joined(prefix: str, key: Any) -> str:
    name = f"{prefix}.{key}" if prefix else str(key)
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"a tensor's name has {len(name)} characters, {name[:80]!r}...; names have "
            f"at most {MAX_NAME_LENGTH}, rename it in the file."
        )
    return name


def _kind(head: bytes) -> str:
    """What a file is that is not read, and what to do about it."""
    if not head:
        return "empty; fetch it again"
    for start, kind in _OTHER_KINDS.items():
        if head.lstrip().startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return (
            "a tar archive, as PyTorch wrote before 0.4; load it with PyTorch and save "
            "it again"
        )
    if head[8:9] == b"{":
        return "a safetensors file that was cut within its header; fetch it again"
    return (
        f"neither PyTorch's, Caffe2's nor one of safetensors: it begins with "
        f"{head[:16]!r}; give a file of weights that one of them wrote"
    )
