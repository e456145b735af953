"""PyTorch's files of tensors, read and written without PyTorch.

Both of its formats are read: the zip archive, and the pickles with raw storages behind
them that PyTorch wrote up to version 1.5.
"""

import contextlib
import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import IO, Any

import numpy as np

from xdc_tf.runtime import arrays, files
from xdc_tf.weights import pickled_values, pickles
from xdc_tf.weights.pickled_values import StorageId

ZIP_START = b"PK\x03\x04"
# How PyTorch's older files begin: a pickle of this number, one of the version, one of
# what the machine was like.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

_DTYPES_TO_WRITE = ("float16", "float32", "float64", "int32", "int64", "bool")
_ALIGNMENT = 64
_ZIP_HEADER_LENGTH = 30


def read(path: str, *, with_torch: bool = False) -> Any:
    """Reads what torch.save wrote.

    Args:
      path: a file in the zip or in the older format.
      with_torch: let PyTorch read it, by torch.load with weights_only.

    Returns:
      Dictionaries, lists, tuples, sets and scalars, with NumPy arrays for tensors and
      text for dtypes and devices. Arrays are read-only and may share memory; bfloat16
      becomes float32. A container may hold itself.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no regular file, damaged, was not written by torch.save, or
        holds other things than tensors, arrays and plain containers.
      ImportError: with `with_torch`, if PyTorch is not installed.
    """
    if with_torch:
        return _read_with_torch(path)
    with files.open_regular(path) as file:
        start = file.read(len(ZIP_START))
        file.seek(0)
        return (_read_zip if start == ZIP_START else _read_legacy)(path, file)


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that torch.load opens, also with weights_only, as an OrderedDict.

    The file has its name only when it is complete. Equal tensors give equal bytes.

    Args:
      path: of the new file; an older one is replaced.
      tensors: name -> float16, float32, float64, int32, int64 or bool.

    Raises:
      ValueError: if a tensor has another dtype.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _DTYPES_TO_WRITE:
            raise ValueError(
                f"tensor {name!r} is of dtype {tensor.dtype}, which is not written; "
                f"convert it to one of {', '.join(_DTYPES_TO_WRITE)}."
            )
    with files.placing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add_entry(archive, "data.pkl", _state_dict_pickle(tensors))
        _add_entry(archive, "byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            little_endian = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            _add_entry(archive, f"data/{key}", little_endian.tobytes())
        _add_entry(archive, "version", b"3\n")


def _add_entry(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds an entry without a date whose content lies at a multiple of 64 bytes."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    # An extra field of 4 bytes and padding, as PyTorch fills the gap.
    assert archive.fp is not None  # it is open
    end = archive.fp.tell() + _ZIP_HEADER_LENGTH + len(entry.filename) + 4
    padding = -end % _ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(entry, content)


def _state_dict_pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of an OrderedDict of contiguous tensors, with protocol 2.

    Written by hand, since Python's pickler must import what it names.
    """
    empty_dict = _global("collections", "OrderedDict") + b")R"
    parts = [b"\x80\x02", empty_dict, b"("]
    for key, (name, tensor) in enumerate(tensors.items()):
        storage = pickled_values.STORAGE_CLASSES[tensor.dtype.name]
        shape = tensor.shape
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        parts += [
            _text(name),
            _global("torch._utils", "_rebuild_tensor_v2"),
            b"(",
            *(b"(", _text("storage"), _global("torch", storage)),
            *(_text(str(key)), _text("cpu"), _integer(tensor.size), b"tQ"),
            _integer(0),  # offset
            *(b"(", *map(_integer, shape), b"t"),
            *(b"(", *map(_integer, strides), b"t"),
            b"\x89",  # requires_grad=False
            empty_dict,  # backward_hooks
            b"tR",
        ]
    return b"".join([*parts, b"u."])


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + number.to_bytes(4, "little")
    return b"\x8a\x08" + number.to_bytes(8, "little")


def _read_zip(path: str, file: IO[bytes]) -> Any:
    with _zip_errors(path):
        archive = zipfile.ZipFile(file)
    names = _checked_names(path, archive, os.fstat(file.fileno()).st_size)
    roots = [
        name.removesuffix("/data.pkl")
        for name in names
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(roots) != 1:
        raise ValueError(
            f"{path} is a zip archive without one NAME/data.pkl, so not PyTorch's; "
            "give a file that torch.save wrote."
        )
    root = roots[0]

    def content(name: str) -> bytes:
        if f"{root}/{name}" not in names:
            raise ValueError(f"the archive has no entry {ascii(name)[:200]}")
        with _zip_errors(path):
            return archive.read(f"{root}/{name}")

    if f"{root}/byteorder" in names and content("byteorder") != b"little":
        raise ValueError(_BIG_ENDIAN.format(path))
    storages: dict[str, tuple[StorageId, np.ndarray]] = {}

    def load(persistent_id: Any) -> np.ndarray:
        storage = pickled_values.storage_id(persistent_id)
        if storage.key not in storages:
            raw = content(f"data/{storage.key}")
            storages[storage.key] = storage, pickled_values.decode(raw, storage.dtype)
        known, values = storages[storage.key]
        if storage != known or storage.part or storage.num_elements != values.size:
            raise ValueError(
                f"storage {ascii(storage.key)[:40]} is not the {storage.num_elements} "
                f"elements of {storage.dtype} that a tensor takes it for"
            )
        return values

    return pickles.read(
        BytesIO(content("data.pkl")),
        pickled_values.TABLE,
        name=f"{path} ({root}/data.pkl)",
        persistent=load,
    )


@contextlib.contextmanager
def _zip_errors(path: str) -> Iterator[None]:
    try:
        yield
    except arrays.ZIP_ERRORS as error:
        raise ValueError(
            f"{path} is a damaged zip archive ({type(error).__name__}: {error}); fetch "
            "it again."
        ) from error


def _checked_names(
    path: str, archive: zipfile.ZipFile, file_size: int
) -> frozenset[str]:
    """Names of an archive's entries, if they lie in the file as PyTorch leaves them."""
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise ValueError(
            f"{path} is a TorchScript program; save the module's state_dict() with "
            "torch.save and give that."
        )
    names: set[str] = set()
    for entry in archive.infolist():
        name = entry.filename
        if name in names or ".." in name.split("/") or name.startswith("/"):
            raise ValueError(
                f"{path}: refuses the entry {ascii(name)[:200]}, whose name leads "
                "elsewhere or occurs twice; PyTorch writes no such archive."
            )
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
        ):
            raise ValueError(
                f"{path}: refuses the compressed entry {ascii(name)[:200]}; PyTorch "
                "does not compress, give the file as torch.save wrote it."
            )
        names.add(name)
    declared = sum(entry.file_size for entry in archive.infolist())
    if declared > file_size:
        raise ValueError(
            f"{path}: its entries declare {declared} bytes, more than the {file_size} "
            "of the file; fetch it again."
        )
    return frozenset(names)


_BIG_ENDIAN = (
    "{} was not written on a little-endian machine; load it with PyTorch and save it "
    "on one."
)


def _read_legacy(path: str, file: IO[bytes]) -> Any:
    magic, version, system = (pickles.read(file, {}, name=path) for _ in range(3))
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION or type(system) is not dict:
        raise ValueError(
            f"{path} was not written by torch.save, or by an unknown version of it; "
            "load it with PyTorch and save it again."
        )
    if system.get("little_endian") is not True:
        raise ValueError(_BIG_ENDIAN.format(path))
    storages: dict[str, tuple[StorageId, np.ndarray]] = {}
    bytes_left = os.fstat(file.fileno()).st_size

    def load(persistent_id: Any) -> np.ndarray:
        """An array of the right size; the values follow behind the pickles."""
        nonlocal bytes_left
        storage = pickled_values.storage_id(persistent_id)
        whole = storage._replace(part=None)
        if storage.key not in storages:
            bytes_left -= pickled_values.num_bytes(whole)
            if bytes_left < 0:
                raise ValueError("storages are declared larger than the file")
            dtype = pickled_values.decode(b"", whole.dtype).dtype
            storages[storage.key] = whole, np.empty(whole.num_elements, dtype)
        known, values = storages[storage.key]
        if whole != known:
            raise ValueError(
                f"storage {ascii(storage.key)[:40]} is declared in two ways"
            )
        if storage.part is None:
            return values
        offset, size = storage.part
        return pickled_values.view(values, offset, (size,), (1,))

    value = pickles.read(file, pickled_values.TABLE, name=path, persistent=load)
    keys = pickles.read(file, {}, name=path)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise ValueError(f"{path}: its list of storages is damaged; fetch it again.")
    if sorted(keys) != sorted(storages):
        raise ValueError(
            f"{path}: lists other storages than its tensors use; fetch it again."
        )
    for key in keys:
        declared, values = storages[key]
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(pickled_values.num_bytes(declared))
        if count != values.size or len(raw) != pickled_values.num_bytes(declared):
            raise ValueError(
                f"{path}: storage {ascii(key)[:40]} should have {values.size} elements "
                f"of {declared.dtype}, but says {count} and has {len(raw)} bytes; "
                "fetch the file again."
            )
        values[...] = pickled_values.decode(raw, declared.dtype)
    return value


def _read_with_torch(path: str) -> Any:
    """Reads a file with torch.load(weights_only=True), on the CPU.

    Returns:
      As `read` does.

    Raises:
      FileNotFoundError: if there is no such file.
      ImportError: if PyTorch is not installed.
      ValueError: if PyTorch refuses the file, or a tensor has no counterpart in NumPy.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} was to be read with PyTorch, which is not installed; install it "
            "or use this project's own reader."
        ) from error
    try:
        with files.open_regular(path) as file:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        return _converted(loaded, torch, {})
    except FileNotFoundError:
        raise
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Its advice around the reason is to trust the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].split("\n")[0]
        raise ValueError(f"{path}: PyTorch does not read it: {reason}") from error


def _converted(value: Any, torch: Any, done: dict[int, Any]) -> Any:
    """A value with arrays for tensors, and text for PyTorch's other things.

    Args:
      value: of torch.load.
      torch: the module.
      done: id of each container met so far -> its conversion, since containers can be
        shared.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        array = tensor.numpy()
        array.flags.writeable = False
        return array
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        converted: Any = done.setdefault(id(value), {})
        for key, item in value.items():
            converted[key] = _converted(item, torch, done)
        return converted
    if isinstance(value, list):
        converted = done.setdefault(id(value), [])
        converted.extend(_converted(item, torch, done) for item in value)
        return converted
    if isinstance(value, tuple):
        converted = tuple(_converted(item, torch, done) for item in value)
        return done.setdefault(id(value), converted)
    return value
