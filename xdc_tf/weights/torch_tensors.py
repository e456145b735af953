"""What names in PyTorch's pickles stand for: storages, and tensors that view them."""

import math
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.weights import known_globals

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
    size, stride = map(known_globals.whole_numbers, (size, stride))
    (offset,) = known_globals.whole_numbers((offset,))
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
    return known_globals.whole_numbers(sizes)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, (int, type(None))):
        raise ValueError("refuses a device that is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


TABLE = {
    **known_globals.CONTAINERS,
    **known_globals.ARRAYS,
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
