"""What the names in a weight file's pickle stand for: containers, arrays, tensors.

Tables for `pickles.read`; nothing of the modules that are named runs.
"""

import math
from typing import Any, Literal, NamedTuple

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


# PyTorch's name of a dtype -> how its values lie in a file.
FILE_DTYPES = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "bfloat16": "<u2",
    "int8": "<i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "<u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "<u1",
    "complex64": "<c8",
    "complex128": "<c16",
}
# Class of a storage -> its dtype; the others of FILE_DTYPES lie in untyped storages.
STORAGE_DTYPES = {
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "BFloat16Storage": "bfloat16",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
STORAGE_CLASSES = {dtype: name for name, dtype in reversed(STORAGE_DTYPES.items())}


class StorageId(NamedTuple):
    """What a pickle says of a storage (its persistent id).

    Attributes:
      dtype: a key of FILE_DTYPES.
      key: its name in the file.
      num_elements: of the whole storage.
      part: offset and number of elements of the part that is meant, or None; old files
        only.
    """

    dtype: str
    key: str
    num_elements: int
    part: tuple[int, int] | None


def storage_id(persistent_id: Any) -> StorageId:
    """Checks a persistent id.

    Raises:
      ValueError: if it is not that of a storage of numbers.
    """
    match persistent_id:
        case ("storage", str(dtype), str(key), _, int(size), *rest) if (
            dtype in FILE_DTYPES and 0 <= size < 2**63
        ):
            match rest:
                case [] | [None]:
                    return StorageId(dtype, key, size, None)
                case [(str(), int(offset), int(part_size))]:
                    return StorageId(dtype, key, size, (offset, part_size))
    raise ValueError("refuses a persistent id that is not that of a storage of numbers")


def num_bytes(storage: StorageId) -> int:
    """Length of a whole storage in a file."""
    return storage.num_elements * np.dtype(FILE_DTYPES[storage.dtype]).itemsize


def decode(raw: bytes, dtype: str) -> np.ndarray:
    """A storage's bytes as its values, [number of elements]; bfloat16 as float32."""
    values = np.frombuffer(raw, FILE_DTYPES[dtype])
    if dtype == "bfloat16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values != 0 if dtype == "bool" else values


def view(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A read-only tensor on a storage's memory.

    Args:
      storage: [number of elements].
      offset: of the first element; counted in elements, as the strides are.
      size: the tensor's shape.
      stride: distance of neighbours along each axis.

    Raises:
      ValueError: if it would reach beyond the storage, or have more elements.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor is not made of a storage")
    size, stride = map(whole_numbers, (size, stride))
    (offset,) = whole_numbers((offset,))
    if len(size) != len(stride):
        raise ValueError(f"a tensor of size {size} has strides {stride}")
    num_elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if num_elements and (last >= storage.size or num_elements > storage.size):
        raise ValueError(
            f"a tensor of size {size}, strides {stride} and offset {offset} does not "
            f"fit its storage of {storage.size} elements"
        )
    itemsize = storage.itemsize
    tensor: np.ndarray = np.ndarray(
        size,
        storage.dtype,
        buffer=storage if num_elements else None,
        offset=offset * itemsize if num_elements else 0,
        strides=[step * itemsize for step in stride] if num_elements else None,
    )
    tensor.flags.writeable = False
    return tensor


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    backward_hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray:
    del requires_grad, backward_hooks
    if metadata:  # marks of negated or conjugated views
        raise ValueError("refuses a tensor with metadata; save a clone() of it")
    return view(storage, offset, size, stride)


def _rebuild_untyped_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    backward_hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    """A tensor of a dtype that has no class of storages, such as uint16."""
    if dtype not in ("uint16", "uint32", "uint64") or not isinstance(
        storage, np.ndarray
    ):
        raise ValueError("refuses an untyped storage for other than unsigned integers")
    typed = storage.view(FILE_DTYPES[dtype])
    return _rebuild_tensor(
        typed, offset, size, stride, requires_grad, backward_hooks, metadata
    )


def _rebuild_parameter(
    tensor: Any, requires_grad: Any = True, backward_hooks: Any = None
) -> Any:
    del requires_grad, backward_hooks
    return tensor


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return whole_numbers(sizes)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, (int, type(None))):
        raise ValueError("refuses a device that is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


TABLE = {
    **CONTAINERS,
    **ARRAYS,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_untyped_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": _device,
    # Names of dtypes stand for dtypes and for storages of them.
    **{f"torch.{dtype}": dtype for dtype in FILE_DTYPES},
    **{
        f"{module}.{storage}": dtype
        for module in ("torch", "torch.cuda", "torch.storage")
        for storage, dtype in STORAGE_DTYPES.items()
    },
}
