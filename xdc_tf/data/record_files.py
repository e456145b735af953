"""Local files of records, read where a clip needs them.

Of 10 s at 30 frames per second and 5 MB, a clip of 8 frames needs 140 kB. TFRecord's
own reader copies all of a record, and parsing copies all of its frames once more, which
takes longer than decoding 8 of them. Here the frames of a record are passed over by the
lengths that precede them, and those of the clip are read when they are known. What is
read is checked for its place and form, but not by the record's checksum, which is one
of all its bytes.

A TFRecord file is a sequence of records: length (uint64), checksum of the length, data,
checksum of the data. The data is a serialized SequenceExample, of which this needs that
fields are a tag and a length, each a varint, and so many bytes:

    SequenceExample {1: context, 2: FeatureLists {1: {1: key, 2: FeatureList
        {1: Feature {1: BytesList {1: JPEG image}}, 1: Feature ...}}, ...}}
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

_HEADER, _FOOTER = 12, 4  # bytes around a record's data
_ONE, _TWO = 0x0A, 0x12  # tags of fields 1 and 2 that have a length


class Record(NamedTuple):
    """A record without its frames.

    Attributes:
      rest: a serialized SequenceExample of the context and what else was wanted.
      frames: [N, 2] int64: offset in the file and bytes of each frame's Feature.
    """

    rest: bytes
    frames: np.ndarray


def record_spans(path: str) -> np.ndarray:
    """[R, 2] int64: offset and bytes of the data of each of a file's records.

    Raises:
      ValueError: if the file cannot be read or ends within a record.
    """
    spans, position = [], 0
    with _opened(path) as file:
        size = os.fstat(file).st_size
        while position < size:
            header = os.pread(file, 8, position)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            spans.append((position + _HEADER, length))
            position += _HEADER + length + _FOOTER
            if position > size:
                raise _damaged(path, f"it ends within record {len(spans)}")
    return np.array(spans, np.int64).reshape(-1, 2)


def read_record(
    path: str, span: np.ndarray, *, frames_key: str, other_keys: Collection[str]
) -> Record:
    """Reads a record but for its frames.

    Args:
      path: the file.
      span: one of record_spans.
      frames_key: of the feature list whose steps are only located.
      other_keys: of the feature lists to read.

    Raises:
      ValueError: if the file cannot be read, or the record is of another form.
    """
    start, length = map(int, span)
    # Maps begin at whole pages.
    first = start - start % mmap.ALLOCATIONGRANULARITY
    wanted = {key.encode() for key in other_keys}
    rest, frames = [], []
    with _opened(path) as file:
        try:
            data = mmap.mmap(
                file, start + length - first, offset=first, access=mmap.ACCESS_READ
            )
        except ValueError as error:
            raise _damaged(path, f"{error}, byte {start + length}") from error
        with data:
            try:
                for tag, begin, end in _fields(data, start - first, len(data)):
                    if tag == _ONE:
                        rest.append(_field(_ONE, data[begin:end]))
                    if tag != _TWO:
                        continue
                    for _, *entry in _fields(data, begin, end):
                        key, steps = _map_entry(data, *entry)
                        if key == frames_key.encode():
                            frames += _steps(data, *steps)
                        elif key in wanted:
                            one = _field(_ONE, data[slice(*entry)])
                            rest.append(_field(_TWO, one))
            except (IndexError, ValueError) as error:
                raise _damaged(path, f"record at byte {start}: {error}") from error
    located = np.array(frames, np.int64).reshape(-1, 2) + [first, 0]
    return Record(b"".join(rest), located)


def read_frames(path: str, frames: np.ndarray) -> list[bytes]:
    """The JPEG images at some rows of Record.frames.

    Raises:
      ValueError: if the file cannot be read, or holds something else there.
    """
    images = []
    with _opened(path) as file:
        for start, length in frames.tolist():
            data = os.pread(file, length, start)
            try:
                # Feature, BytesList, image.
                begin, end = 0, len(data)
                for _ in range(2):
                    ((tag, begin, end),) = _fields(data, begin, end)
                    if tag != _ONE:
                        raise ValueError("a frame is not a list of one image")
            except (IndexError, ValueError) as error:
                raise _damaged(path, f"frame at byte {start}: {error}") from error
            images.append(data[begin:end])
    return images


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; put the records back, or convert again."
        ) from error
    try:
        yield file
    finally:
        os.close(file)


def _damaged(path: str, detail: str) -> ValueError:
    return ValueError(f"{path} is damaged ({detail}); convert its videos again.")


def _varint(data, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = data[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"no length at byte {position}")


def _fields(data, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields tag, start and end of the fields of a message, which all have a length."""
    while position < end:
        tag = data[position]
        length, begin = _varint(data, position + 1)
        position = begin + length
        if tag & 0x87 != 2 or position > end:
            raise ValueError(f"no field of a SequenceExample at byte {begin}")
        yield tag, begin, position


def _map_entry(data, position: int, end: int) -> tuple[bytes, tuple[int, int]]:
    """Key of a feature list, and where its value begins and ends."""
    key, value = b"", (end, end)
    for tag, begin, stop in _fields(data, position, end):
        if tag == _ONE:
            key = data[begin:stop]
        elif tag == _TWO:
            value = begin, stop
    return key, value


def _steps(data, position: int, end: int) -> list[tuple[int, int]]:
    """Offsets and lengths of the Features of a FeatureList."""
    steps = []
    while position < end:
        # As in _fields, written out for the lengths that images have: hundreds of
        # steps per clip are passed over.
        tag, low, middle, high = data[position : position + 4].ljust(4, b"\0")
        if low > 0x7F and middle > 0x7F and high < 0x80:
            length, begin = low & 0x7F | (middle & 0x7F) << 7 | high << 14, position + 4
        else:
            length, begin = _varint(data, position + 1)
        position = begin + length
        if tag != _ONE or position > end:
            raise ValueError(f"no step of a feature list at byte {begin}")
        steps.append((begin, length))
    return steps


def _field(tag: int, content: bytes) -> bytes:
    """A field of a message, serialized."""
    length, number = bytearray(), len(content)
    while number > 0x7F:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    length.append(number)
    return bytes([tag]) + bytes(length) + content
