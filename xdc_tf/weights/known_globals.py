"""What the names in a weight file's pickle stand for: containers and NumPy's arrays.

Tables for `pickles.read`; nothing of the modules that are named runs.
"""

import math
from typing import Any, Literal

import numpy as np

from xdc_tf.weights import pickles

# Kinds of numbers as NumPy writes them; objects, text and records are left out.
_DTYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())


def whole_numbers(value: Any) -> tuple[int, ...]:
    """A shape, or strides, that a file declares.

    Raises:
      ValueError: if it is not a tuple of at most 32 whole numbers below 2**63.
    """
    if type(value) is not tuple or len(value) > 32:
        raise ValueError("a shape or strides are not a tuple of at most 32 numbers")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in value):
        raise ValueError("a shape or strides hold other things than whole numbers")
    return value


def _dictionary(items: Any = ()) -> pickles.Pending:
    """OrderedDict and Counter; what else they carry (`_metadata`) is dropped."""
    if not isinstance(items, (dict, list, tuple)):
        raise ValueError(f"refuses to make a dictionary of a {type(items).__name__}")
    pairs = items.items() if isinstance(items, dict) else items
    value = {pickles.checked_key(key): item for key, item in pairs}
    return pickles.Pending(lambda state: value, value=value)


def _default_dictionary(factory: Any = None) -> dict[Any, Any]:
    del factory
    return {}


def _namespace() -> pickles.Pending:
    """argparse.Namespace, as the dictionary of its attributes."""
    attributes: dict[Any, Any] = {}

    def finish(state: Any) -> dict[Any, Any]:
        if not isinstance(state, dict):
            raise ValueError(f"refuses a {type(state).__name__} as a namespace's state")
        attributes.update(state)
        return attributes

    return pickles.Pending(finish, value=attributes)


def _members(items: Any) -> list[Any]:
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"refuses to make a set of a {type(items).__name__}")
    return [pickles.checked_key(item) for item in items]


def _encoded(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes with the instructions of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("refuses to encode anything but text as Latin-1")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _dtype(name: Any, align: Any = False, copy: Any = False) -> pickles.Pending:
    del align, copy
    if not isinstance(name, str) or name not in _DTYPES:
        shown = ascii(name)[:40] if isinstance(name, str) else type(name).__name__
        raise ValueError(f"refuses an array of dtype {shown}; arrays hold numbers only")

    def finish(state: Any) -> np.dtype:
        match state:
            case (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                return np.dtype(name).newbyteorder(order)
        raise ValueError("refuses a dtype with fields; arrays hold numbers only")

    return pickles.Pending(finish, value=np.dtype(name))


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> pickles.Pending:
    """An array, all of which its state gives."""
    del kind, shape, typecode

    def finish(state: Any) -> np.ndarray:
        match state:
            case (1, shape, dtype, fortran, data):
                return _array(data, dtype, shape, order="F" if fortran else "C")
        raise ValueError("an array's state is not (1, shape, dtype, order, data)")

    return pickles.Pending(finish)


def _from_buffer(
    data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> np.ndarray:
    """An array as NumPy writes it with protocol 5."""
    if order == "K" and isinstance(axes, tuple):
        return _array(data, dtype, shape, order="C").transpose(axes)
    if order not in ("C", "F"):
        raise ValueError("an array's order is neither C nor F")
    return _array(data, dtype, shape, order=order)


def _scalar(dtype: Any, data: Any) -> bool | int | float | complex:
    return _array(data, dtype, (), order="C").item()


def _array(
    data: Any, dtype: Any, shape: Any, *, order: Literal["C", "F"]
) -> np.ndarray:
    """An array on a pickle's bytes, in this machine's byte order and read-only."""
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, np.dtype):
        raise ValueError("an array is made of other things than a dtype and bytes")
    if math.prod(whole_numbers(shape)) * dtype.itemsize != len(data):
        raise ValueError(
            f"an array of shape {shape} and dtype {dtype} comes with {len(data)} bytes"
        )
    if dtype == np.bool_:  # any other byte than 0 and 1 would be neither
        array = np.asarray(np.ndarray(shape, "u1", buffer=data, order=order) != 0)
    else:
        array = np.ndarray(shape, dtype, buffer=data, order=order)
        array = array.astype(dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array


CONTAINERS: dict[str, Any] = {
    "argparse.Namespace": _namespace,
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": _default_dictionary,
}
ARRAYS: dict[str, Any] = {
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    "numpy.ndarray": "numpy.ndarray",
}
for _module in ("__builtin__", "builtins"):
    CONTAINERS |= {
        f"{_module}.set": lambda items=(): set(_members(items)),
        f"{_module}.frozenset": lambda items=(): frozenset(_members(items)),
        f"{_module}.bytes": _no_bytes,
        # The factories of defaultdicts, which are not called.
        **{f"{_module}.{kind}": kind for kind in ("dict", "float", "int", "list")},
    }
for _module in ("numpy.core", "numpy._core"):
    ARRAYS |= {
        f"{_module}.multiarray._reconstruct": _reconstruct,
        f"{_module}.multiarray.scalar": _scalar,
        f"{_module}.numeric._frombuffer": _from_buffer,
    }
