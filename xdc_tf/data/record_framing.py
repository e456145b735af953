"""TFRecord files record by record, with what is wrong with each: reading goes on.

TensorFlow's reader stops at the first wrong checksum and does not say where it was; and
it believes a length of terabytes, if only its checksum is right, and ends the process.
A record is its length (8 bytes, little-endian), the length's checksum (4), the data and
the data's checksum (4).
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import google_crc32c
import tensorflow as tf

from xdc_tf.runtime import files

HEADER_BYTES, FOOTER_BYTES = 12, 4
_MASK_DELTA = 0xA282EAD8
# Of a message of protocol buffers; a sparse file may claim any size.
_MAX_RECORD_BYTES = (1 << 31) - 1


class FramedRecord(NamedTuple):
    """A record as it lies in its file.

    Attributes:
        position: of its data's first byte in the file.
        num_bytes: that reading it took.
        data: None if something is wrong with it.
        fault: what is wrong, or "".
        is_end: it is the last that can be read; where the next one begins is unknown.
    """

    position: int
    num_bytes: int
    data: bytes | None
    fault: str = ""
    is_end: bool = False


def read_records(path: str) -> Iterator[FramedRecord]:
    """Reads a file of records, local or remote, one record in memory at a time.

    A file that cannot be read, from its beginning or from somewhere on, ends with a
    FramedRecord that says so.
    """
    first = file_bytes = 0
    try:
        with _opened(path) as (file, file_bytes):
            while first < file_bytes:
                framed = _read_framed(file, first, file_bytes - first)
                yield framed
                if framed.is_end:
                    return
                first += framed.num_bytes
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = " ".join((getattr(error, "message", None) or str(error)).split())
        fault = f"cannot be read: {reason}"
        yield FramedRecord(first, file_bytes - first, None, fault, is_end=True)


def read_record(path: str, number: int) -> bytes:
    """Reads the record with this number, from 0; those before it are passed over.

    Raises:
        ValueError: there is no such record, or something is wrong with it.
        OSError, tf.errors.OpError: the file cannot be read.
    """
    with _opened(path) as (file, file_bytes):
        first = 0
        for current in range(number):
            if first >= file_bytes:
                break
            length, fault = _read_length(file, file_bytes - first)
            if fault:
                raise ValueError(f"{path}, record {current}: {fault}.")
            first += HEADER_BYTES + length + FOOTER_BYTES
            file.seek(first)
        if first >= file_bytes:
            raise ValueError(
                f"{path} has no record {number}; --verify tells what is wrong with it."
            )
        framed = _read_framed(file, first, file_bytes - first)
    if framed.data is None:
        raise ValueError(f"{path}, record {number}: {framed.fault}.")
    return framed.data


def size(path: str) -> int:
    """Bytes of a file, local or remote.

    Raises:
        OSError, tf.errors.OpError: there is none, or it cannot be looked at.
    """
    if "://" in path:
        return tf.io.gfile.stat(path).length
    return os.stat(path).st_size


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecords store it: rotated, so that it may be data itself."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, int]]:
    """A file to read, and its size; of a local path a regular one alone."""
    if "://" in path:
        file_bytes = size(path)
        with tf.io.gfile.GFile(path, "rb") as file:
            yield file, file_bytes
        return
    with files.open_regular(path) as file:
        yield file, os.fstat(file.fileno()).st_size


def _read_framed(file: Any, first: int, left: int) -> FramedRecord:
    """The record that begins at byte `first`, where `left` bytes of the file are."""
    position = first + HEADER_BYTES
    length, fault = _read_length(file, left)
    if fault:
        return FramedRecord(position, left, None, fault, is_end=True)
    data = file.read(length)
    stored = int.from_bytes(file.read(FOOTER_BYTES), "little")
    num_bytes = HEADER_BYTES + length + FOOTER_BYTES
    if masked_crc32c(data) != stored:
        fault = f"the checksum of its {length} bytes is wrong"
        return FramedRecord(position, num_bytes, None, fault)
    return FramedRecord(position, num_bytes, data)


def _read_length(file: Any, left: int) -> tuple[int, str]:
    """A record's length, where `left` bytes of the file are left; or what is wrong."""
    if left < HEADER_BYTES:
        return 0, f"cut off: {left} bytes, fewer than a record's header"
    header = file.read(HEADER_BYTES)
    length = int.from_bytes(header[:8], "little")
    if masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        return 0, "the checksum of its length is wrong"
    needed = HEADER_BYTES + length + FOOTER_BYTES
    if needed > left:
        return 0, f"cut off: {left} of its {needed} bytes are there"
    if length > _MAX_RECORD_BYTES:
        return 0, f"{length} bytes, more than a record can have"
    return length, ""
