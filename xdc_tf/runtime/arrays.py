"""Arrays of .npy and .npz files that anybody may have written.

Nothing in a file is taken on trust: what its header declares is compared with the
file's length before memory is taken for it, objects are not unpickled, archives are
not unpacked beyond their own length, and whatever is wrong is a ValueError of one line
that names the file.

Labels of many examples are read and written in blocks.
"""

import ast
import io
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from xdc_tf.runtime import files

if TYPE_CHECKING:
    import tensorflow as tf

BLOCK_ROWS = 1 << 16  # of labels, at a time
# What zipfile raises on damaged archives.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
_MAGIC = b"\x93NUMPY"
_LENGTH_FORMATS = {b"\1\0": "<H", b"\2\0": "<I"}  # of the header, by format version
_MAX_HEADER_BYTES = 4096
_MAX_DIMENSIONS = 8
# Bool, integers and floating point of the usual sizes, in NumPy's notation.
_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_HEADER_KEYS = {"descr", "fortran_order", "shape"}
_REMEDY = "restore it from a copy or write it again."


class Form(NamedTuple):
    """What an array must be.

    Attributes:
      dtype: such as "float32".
      shape: for each dimension its length, or a name that stands for the same length
        in all arrays of the file.
      required: False if the file may lack the array.
    """

    dtype: str
    shape: tuple[int | str, ...]
    required: bool = True


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    num_bytes: int  # of the header itself

    @property
    def end(self) -> int:
        """Length in bytes of header and numbers."""
        return self.num_bytes + math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: str | os.PathLike) -> np.memmap:
    """Maps an array of numbers of a local .npy file, read-only.

    Returns:
      The array, of a dtype of NumPy's kinds b, i, u or f in this machine's byte order.

    Raises:
      FileNotFoundError: if there is no file.
      ValueError: if it is no regular file, no .npy file of numbers, or not as long as
        its header says.
    """
    path = os.fspath(path)
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header = _read_header(file)
            _check_size(header, size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {_REMEDY}") from error
        array = np.memmap(
            file,
            header.dtype,
            mode="r",
            offset=header.num_bytes,
            shape=header.shape,
            order=header.order,
        )
    array.filename = os.path.abspath(path)  # not known of an open file
    return array


def read_npz(
    path: str | os.PathLike, expected: Mapping[str, Form] | None = None
) -> dict[str, np.ndarray]:
    """Reads the arrays of numbers in a local .npz file, as numpy.savez writes it.

    Takes memory of at most twice the file's length.

    Args:
      path: the file.
      expected: forms by name; arrays of other names are not read. None for all arrays
        of whatever form.

    Returns:
      Arrays by name, all numbers in them finite.

    Raises:
      FileNotFoundError: if there is no file.
      ValueError: if it is no regular file, damaged, compressed, or its arrays are not
        of the expected forms.
    """
    path = os.fspath(path)
    arrays = {}
    with files.open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, os.fstat(file.fileno()).st_size)
                for name, member in members.items():
                    if expected is None or name in expected:
                        content = archive.read(member)
                        arrays[name] = _array(content, f"array {name[:80]!a}")
        except ZIP_ERRORS as error:
            raise ValueError(
                f"{path} is no archive of arrays, or is damaged "
                f"({type(error).__name__}: {error}); {_REMEDY}"
            ) from error
    _check_forms(arrays, expected or {}, path)
    return arrays


def blocks(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of labels [0, BLOCK_ROWS), of as many after them, and so on.

    No second copy of all of them is made. Pages of a mapped file count as the process's
    memory once they are touched, and would add up to the whole file; those of a
    read-only map are given back.
    """
    for start in range(0, len(labels), BLOCK_ROWS):
        yield np.array(labels[start : start + BLOCK_ROWS])
        give_back(labels)


def give_back(array: np.ndarray) -> None:
    """Gives back the pages of a read-only map that were touched; see `blocks`."""
    mapped: Any = array.base
    if isinstance(mapped, mmap.mmap) and not array.flags.writeable:
        mapped.madvise(mmap.MADV_DONTNEED)


def first_outside(labels: np.ndarray, allowed: range) -> int | None:
    """The first example whose label is not in a range of step 1, or None."""
    start = 0
    for block in blocks(labels):
        outside = (block < allowed.start) | (block >= allowed.stop)
        if outside.any():
            return start + int(np.argmax(outside))
        start += len(block)
    return None


def write_labels(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Writes [num_rows] integers that fit int32 as an .npy file of int32."""
    header = {"descr": "<i4", "fortran_order": False, "shape": labels.shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks(labels):
            file.write(block.astype("<i4").tobytes())


def write_npy(
    path: str | os.PathLike,
    parts: Iterable[np.ndarray],
    *,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> None:
    """Writes an .npy file, whole or not at all, part by part.

    By writing and not through a map, whose process a full disk ends by a signal.

    Args:
      path: local.
      parts: of the array, one after the other along its first dimension.
      shape: of the array.
      dtype: of the numbers, as which the parts are written.

    Raises:
      OSError: if it cannot be written; names the path.
      ValueError: the parts have another number of rows.
    """
    dtype = np.dtype(dtype)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    num_rows = 0
    with files.placing(os.fspath(path)) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.astype(dtype).tobytes())
            num_rows += len(part)
        if num_rows != shape[0]:
            raise ValueError(f"{path}: {num_rows} rows for an array of shape {shape}")


def fill_variable(
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


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members that are arrays, by name; of an archive in a file of `size` bytes."""
    members = {}
    declared = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"array {name[:80]!a} is compressed; use numpy.savez")
        declared += member.file_size
        if name in members or declared > size:
            raise ValueError(f"array {name[:80]!a} is there twice, or longer than all")
        members[name] = member
    return members


def _array(content: bytes, what: str) -> np.ndarray:
    try:
        header = _read_header(io.BytesIO(content))
        _check_size(header, len(content))
        numbers = np.frombuffer(content, header.dtype, offset=header.num_bytes)
        array = numbers.reshape(header.shape, order=header.order).copy()
        if not np.isfinite(array).all():
            raise ValueError("holds numbers that are not finite")
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return array


def _read_header(file: IO[bytes]) -> _Header:
    """Reads a .npy file up to its numbers; ValueErrors lack their subject."""
    start = file.read(len(_MAGIC) + 2)
    length_format = _LENGTH_FORMATS.get(start[len(_MAGIC) :])
    if not start.startswith(_MAGIC) or length_format is None:
        raise ValueError("no .npy array of numbers, as numpy.save writes it")
    field = file.read(struct.calcsize(length_format))
    length = int.from_bytes(field, "little")
    text = file.read(min(length, _MAX_HEADER_BYTES))
    if len(text) != length:
        raise ValueError(
            f"has {len(text)} bytes of a header of {length}: cut short or damaged"
        )
    try:
        values = ast.literal_eval(text.decode("ascii").strip())
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError("has a damaged header") from error
    if not isinstance(values, dict) or set(values) != _HEADER_KEYS:
        raise ValueError("has a header without dtype, order and shape")
    dtype, shape = values["descr"], values["shape"]
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"holds {str(dtype)[:80]!a}, and not plain numbers")
    dtype = np.dtype(dtype)
    if not dtype.isnative:
        raise ValueError(f"holds {dtype}, which is not in this machine's byte order")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in shape)
        or type(values["fortran_order"]) is not bool
    ):
        raise ValueError(f"declares the shape {str(shape)[:80]!a}")
    order: Literal["C", "F"] = "F" if values["fortran_order"] else "C"
    return _Header(dtype, shape, order, len(start) + len(field) + length)


def _check_size(header: _Header, size: int) -> None:
    if size != header.end:
        raise ValueError(
            f"has {size} bytes where its header declares {header.dtype} "
            f"{str(header.shape)[:80]}, which ends at {str(header.end)[:40]}: cut "
            "short or damaged"
        )


def _check_forms(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Form], path: str
) -> None:
    lengths: dict[str, int] = {}
    for name, form in expected.items():
        array = arrays.get(name)
        if array is None:
            if form.required:
                raise ValueError(f"{path} holds no array {name!r}; {_REMEDY}")
            continue
        fits = array.dtype == form.dtype and array.ndim == len(form.shape)
        for length, known in zip(array.shape, form.shape, strict=False):
            if isinstance(known, str):
                known = lengths.setdefault(known, length)
            fits = fits and length == known
        if not fits:
            shape = tuple(
                lengths.get(known, known) if isinstance(known, str) else known
                for known in form.shape
            )
            raise ValueError(
                f"{path}: {name!r} is {array.dtype} {array.shape} where {form.dtype} "
                f"{shape} is expected; {_REMEDY}"
            )
