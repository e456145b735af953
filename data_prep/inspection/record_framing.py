"""TFRecord files record by record, with what is wrong with each: reading goes on.

TensorFlow's reader stops at the first wrong checksum and does not say where it was.
A record is its length (8 bytes, little-endian), the length's checksum (4), the data and
the data's checksum (4).
"""

from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import tensorflow as tf

from data_prep.inspection.printable import told

_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_MASK_DELTA = 0xA282EAD8


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
        file_bytes = tf.io.gfile.stat(path).length
        with tf.io.gfile.GFile(path, "rb") as file:
            while first < file_bytes:
                framed = _read_framed(file, first, file_bytes - first)
                yield framed
                if framed.is_end:
                    return
                first += framed.num_bytes
    except tf.errors.OpError as error:
        fault = f"cannot be read: {told(error)}"
        yield FramedRecord(first, file_bytes - first, None, fault, is_end=True)


def read_record(path: str, number: int) -> bytes:
    """Reads the record with this number, from 0; those before it are passed over.

    Raises:
        ValueError: there is no such record, or something is wrong with it.
        tf.errors.OpError: the file cannot be read.
    """
    file_bytes = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, "rb") as file:
        first = 0
        for current in range(number):
            if first >= file_bytes:
                break
            length, fault = _read_length(file, file_bytes - first)
            if fault:
                raise ValueError(f"{path}, record {current}: {fault}.")
            first += _HEADER_BYTES + length + _FOOTER_BYTES
            file.seek(first)
        if first >= file_bytes:
            raise ValueError(
                f"{path} has no record {number}; --verify tells what is wrong with it."
            )
        framed = _read_framed(file, first, file_bytes - first)
    if framed.data is None:
        raise ValueError(f"{path}, record {number}: {framed.fault}.")
    return framed.data


def _read_framed(file: tf.io.gfile.GFile, first: int, left: int) -> FramedRecord:
    """The record that begins at byte `first`, where `left` bytes of the file are."""
    position = first + _HEADER_BYTES
    length, fault = _read_length(file, left)
    if fault:
        return FramedRecord(position, left, None, fault, is_end=True)
    data = file.read(length)
    stored = int.from_bytes(file.read(_FOOTER_BYTES), "little")
    num_bytes = _HEADER_BYTES + length + _FOOTER_BYTES
    if masked_crc32c(data) != stored:
        fault = f"the checksum of its {length} bytes is wrong"
        return FramedRecord(position, num_bytes, None, fault)
    return FramedRecord(position, num_bytes, data)


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecords store it: rotated, so that it may be data itself."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _read_length(file: tf.io.gfile.GFile, left: int) -> tuple[int, str]:
    """A record's length, where `left` bytes of the file are left; or what is wrong."""
    if left < _HEADER_BYTES:
        return 0, f"cut off: {left} bytes, fewer than a record's header"
    header = file.read(_HEADER_BYTES)
    length = int.from_bytes(header[:8], "little")
    if masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        return 0, "the checksum of its length is wrong"
    needed = _HEADER_BYTES + length + _FOOTER_BYTES
    if needed > left:
        return 0, f"cut off: {left} of its {needed} bytes are there"
    return length, ""
