"""Where a shard's records hold their frames and log-mel rows: clips are read alone.

A record of 10 s has 5 MB, a clip of 8 frames needs 140 kB of it. So beside a shard
NAME lies NAME.index, TFRecords as well, one for each record and in the same order: a
vector of little-endian int64,

    example_index, start_us, end_us, bytes of the shard, log-mel position, bytes per
    log-mel row, log-mel rows, frames' positions [T], frames' lengths [T]

Positions count from the shard's first byte. The last bytes of a log-mel row are its
values, float32.
"""

import os
import secrets
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from xdc_tf.data import records
from xdc_tf.data.untuned import untuned

SUFFIX = ".index"

# A TFRecord: its length (8 bytes), that one's checksum (4), the record, its checksum.
_BEFORE_RECORD, _AFTER_RECORD = 12, 4
_TIMES = records.EXAMPLE_INDEX, records.START_TIMESTAMP, records.END_TIMESTAMP


class Entry(NamedTuple):
    """What the index says of a record: int64 tensors or numbers, positions in bytes.

    Attributes:
      example_index: row number in the manifest.
      start_us: start of the segment in its file, microseconds.
      end_us: its end.
      shard_bytes: size of the shard.
      log_mel_position: where the first row begins; 0 without log-mel.
      log_mel_row_bytes: from the beginning of one row to the next.
      num_log_mel_rows: L.
      frame_positions: [T], where the JPEG images begin.
      frame_bytes: [T], their sizes.
    """

    example_index: tf.Tensor | int
    start_us: tf.Tensor | int
    end_us: tf.Tensor | int
    shard_bytes: tf.Tensor | int
    log_mel_position: tf.Tensor | int
    log_mel_row_bytes: tf.Tensor | int
    num_log_mel_rows: tf.Tensor | int
    frame_positions: tf.Tensor | np.ndarray
    frame_bytes: tf.Tensor | np.ndarray


class ShardWriter:
    """Writes a shard and its index; they get their names when both are complete.

    Whoever else writes the same ones at the same time does not disturb.

    with ShardWriter(path) as writer:
        writer.write(records.encode_example(...))
    """

    def __init__(self, path: str):
        self._path = path
        self._temporary = temporary_name(path)
        self._entries: list[Entry] = []
        self._num_bytes = 0

    def __enter__(self):
        self._writer = tf.io.TFRecordWriter(self._temporary)
        return self

    def write(self, serialized: bytes) -> None:
        """Appends a record.

        Raises:
          ValueError: if this is not what records.encode_example makes.
        """
        self._entries.append(locate(serialized, self._num_bytes + _BEFORE_RECORD))
        self._writer.write(serialized)
        self._num_bytes += _BEFORE_RECORD + len(serialized) + _AFTER_RECORD

    def __exit__(self, error_type, *_):
        self._writer.close()
        if error_type is None:
            _write_index(self._path, self._entries, self._num_bytes)
            tf.io.gfile.rename(self._temporary, self._path, overwrite=True)
        else:
            tf.io.gfile.remove(self._temporary)


def temporary_name(path: str) -> str:
    """A name beside a file for what is not complete yet, like no other."""
    return f"{path}.{secrets.token_hex(4)}.tmp"


def index_shard(path: str) -> None:
    """Makes a shard's index anew, reading all of the shard.

    Raises:
      ValueError: if it holds what is not a record of data.records.
      tf.errors.DataLossError: if a record is cut off or its checksum is wrong.
    """
    entries: list[Entry] = []
    num_bytes = 0
    for serialized in untuned(tf.data.TFRecordDataset(path)).as_numpy_iterator():
        try:
            entries.append(locate(serialized, num_bytes + _BEFORE_RECORD))
        except ValueError as error:
            raise ValueError(f"{path}, record {len(entries)}: {error}") from error
        num_bytes += _BEFORE_RECORD + len(serialized) + _AFTER_RECORD
    _write_index(path, entries, num_bytes)


def _write_index(path: str, entries: list[Entry], num_bytes: int) -> None:
    temporary = temporary_name(path + SUFFIX)
    with tf.io.TFRecordWriter(temporary) as writer:
        for entry in entries:
            parts = entry._replace(shard_bytes=num_bytes)
            vector = np.concatenate([np.ravel(part) for part in parts])
            writer.write(vector.astype("<i8").tobytes())
    tf.io.gfile.rename(temporary, path + SUFFIX, overwrite=True)


def locate(serialized: bytes, position: int = 0) -> Entry:
    """Finds the frames and log-mel rows of a serialized record.

    Args:
      serialized: as records.encode_example makes it.
      position: where its first byte is in the shard.

    Returns:
      Its entry, with shard_bytes 0.

    Raises:
      ValueError: if it is not such a record.
    """
    try:
        context, lists = _outline(serialized)
        frames = _values(serialized, lists.get(records.FRAMES, (0, 0)))
        rows = _values(serialized, lists.get(records.LOG_MEL, (0, 0)))
        times = [context.feature[key].int64_list.value[0] for key in _TIMES]
        row_bytes = _row_bytes(rows)
    except (ValueError, KeyError, IndexError, DecodeError) as error:
        raise ValueError(
            f"{len(serialized)} bytes are not a record of data.records: {error}"
        ) from error
    return Entry(
        *times,
        shard_bytes=0,
        log_mel_position=position + rows[0, 1] - row_bytes if len(rows) else 0,
        log_mel_row_bytes=row_bytes,
        num_log_mel_rows=len(rows),
        frame_positions=position + frames[:, 0],
        frame_bytes=frames[:, 1] - frames[:, 0],
    )


def _row_bytes(rows: np.ndarray) -> int:
    """The distance of rows' ends [L, 2], which all have in common."""
    found = np.unique(np.diff(rows[:, 1]))
    if len(found) > 1:
        raise ValueError(f"log-mel rows of different sizes, {found} bytes")
    return int(found[0] if len(found) else np.sum(rows[:, 1] - rows[:, 0]))


def _outline(serialized: bytes) -> tuple[tf.train.Features, dict]:
    """A tf.train.SequenceExample's context, and where each of its lists lies."""
    context = tf.train.Features()
    lists = {}
    for number, first, end in _fields(serialized, 0, len(serialized)):
        if number == 1:  # SequenceExample.context
            context.MergeFromString(serialized[first:end])
            continue
        # SequenceExample.feature_lists: a map, whose entries are of a key and a list.
        for _, *entry in _fields(serialized, first, end):
            (_, *key), (_, *steps) = sorted(_fields(serialized, *entry))
            lists[serialized[slice(*key)].decode()] = steps
    return context, lists


def _values(serialized: bytes, steps: tuple[int, int]) -> np.ndarray:
    """[N, 2] int64: first byte and end of the value of each step of a list."""
    places = []
    for _, first, end in _fields(serialized, *steps):
        for _ in ("Feature", "BytesList or FloatList"):  # each of one field
            ((_, first, end),) = _fields(serialized, first, end)
        places.append((first, end))
    return np.array(places, np.int64).reshape(-1, 2)


def _fields(data: bytes, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field of a protocol buffer's message.

    Raises:
      ValueError: if a field is not of bytes, or ends elsewhere than the message.
    """
    while first < end:
        tag, first = _varint(data, first)
        if tag & 7 != 2:
            raise ValueError(f"a field of wire type {tag & 7} at byte {first}")
        length, first = _varint(data, first)
        if length > end - first:
            raise ValueError(f"{length} bytes at byte {first} of {end}")
        yield tag >> 3, first, first + length
        first += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the byte after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"an endless number before byte {position}")


def parse_entry(serialized: tf.Tensor) -> Entry:
    """An index's record as an entry of tensors."""
    vector = tf.io.decode_raw(serialized, tf.int64)
    num_scalars = len(Entry._fields) - 2
    # Not by the shape [2, -1], which nothing, of sound alone, does not have.
    num_frames = (tf.size(vector) - num_scalars) // 2
    positions, sizes = tf.split(vector[num_scalars:], [num_frames, num_frames])
    return Entry(*tf.unstack(vector[:num_scalars], num_scalars), positions, sizes)


def read_pieces(
    path: tf.Tensor, positions: tf.Tensor, sizes: tf.Tensor, file_bytes: tf.Tensor
) -> tf.Tensor:
    """Parts of a file, also within tf.data; what lies between them is not read.

    TensorFlow's own operations read files from their beginning.

    Args:
      path: scalar string, local or remote.
      positions: [K] int64, of first bytes.
      sizes: [K] int64.
      file_bytes: int64 scalar, size of the whole file.

    Returns:
      [K] string.

    Raises:
      ValueError: if the file cannot be read or has another size; within tf.data an
        OpError that says so.
    """
    pieces = tf.numpy_function(
        _read_pieces, [path, positions, sizes, file_bytes], tf.string, stateful=False
    )
    return tf.ensure_shape(pieces, positions.shape)


def _read_pieces(
    path: bytes, positions: np.ndarray, sizes: np.ndarray, file_bytes: np.ndarray
) -> np.ndarray:
    name = path.decode()
    try:
        read = _read_remote if "://" in name else _read_local
        size, pieces = read(name, zip(positions.tolist(), sizes.tolist(), strict=True))
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if size != file_bytes or [len(piece) for piece in pieces] != sizes.tolist():
        raise ValueError(
            f"{name} has {size} bytes and not the {file_bytes} that {name}{SUFFIX} was "
            "made for; bring back the file that belongs to it, or convert again."
        )
    return np.array(pieces, object)


def _read_local(path, places) -> tuple[int, list[bytes]]:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(file).st_size, [
            os.pread(file, size, position) for position, size in places
        ]
    finally:
        os.close(file)


def _read_remote(path, places) -> tuple[int, list[bytes]]:
    with tf.io.gfile.GFile(path, "rb") as file:
        pieces = []
        for position, size in places:
            file.seek(position)
            pieces.append(file.read(size))
        return file.size(), pieces
