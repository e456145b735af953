"""Files of safetensors: tensors by name, with nothing in them that could run."""

from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from xdc_tf.runtime import files

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_BFLOAT16 = "BF16"


def starts(head: bytes, size: int) -> bool:
    """Whether a file of that beginning and size in bytes may be one of safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read(path: str) -> dict[str, np.ndarray]:
    """Reads all tensors; bfloat16 ones become float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if its header does not describe its bytes, or a tensor is of another
        type.
    """
    with files.open_regular(path) as file:
        content = file.read()
    try:
        entries = deserialize(content)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no valid safetensors file ({error}); fetch it again."
        ) from error
    return {name: _array(entry, name, path) for name, entry in entries}


def _array(entry: dict[str, Any], name: str, path: str) -> np.ndarray:
    kind = entry["dtype"]
    if kind == _BFLOAT16:
        # The upper half of a float32's bits.
        wide = np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(entry["shape"])
    if kind not in _DTYPES:
        raise ValueError(
            f"{path}: {name!a} is of type {kind}, and read are "
            f"{', '.join([_BFLOAT16, *_DTYPES])}; save it as one of these."
        )
    values: np.ndarray = np.frombuffer(entry["data"], dtype=_DTYPES[kind])
    return values.reshape(entry["shape"])
