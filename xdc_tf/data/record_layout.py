"""Where a record holds its items of video and rows of audio, by its bytes.

A record is a serialized tf.train.SequenceExample (data.records). Its entry says where
in the shard each item and the rows lie. An index (data.record_index) holds
entries as vectors of little-endian int64,

    example_index, start_us, end_us, bytes of the shard, position of the first row of
    audio, bytes per row, rows, positions of the items of video [K], their lengths [K]

Positions count from the shard's first byte. The last bytes of a row are its values,
float32. What items and rows hold, the payload says (data.payloads): an item of JPEG is
a frame, a row of log-mel has a value for each filter.
"""

import bisect
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from xdc_tf.data import records
from xdc_tf.data.payloads import AUDIO, VIDEO

_NUM_SCALARS = 7  # of an entry's vector
_NUMBERS = records.EXAMPLE_INDEX, records.START_TIMESTAMP, records.END_TIMESTAMP


class Entry(NamedTuple):
    """What the index says of a record: int64 tensors or numbers, positions in bytes.

    Attributes:
      example_index: row number in the manifest.
      start_us: start of the segment in its file, microseconds.
      end_us: its end.
      shard_bytes: size of the shard.
      rows_position: where the first row begins; 0 without audio.
      row_bytes: from the beginning of one row to the next.
      num_rows: L.
      item_positions: [K], where the items of video begin.
      item_bytes: [K], their sizes.
    """

    example_index: tf.Tensor | int
    start_us: tf.Tensor | int
    end_us: tf.Tensor | int
    shard_bytes: tf.Tensor | int
    rows_position: tf.Tensor | int
    row_bytes: tf.Tensor | int
    num_rows: tf.Tensor | int
    item_positions: tf.Tensor | np.ndarray
    item_bytes: tf.Tensor | np.ndarray


def locate(
    serialized: bytes, position: int = 0, keys: Mapping[str, str] = records.KEYS
) -> Entry:
    """Finds the items and rows of a serialized record.

    Args:
      serialized: as records.encode_example makes it.
      position: where its first byte is in the shard.
      keys: of the items' and the rows' lists, by modality.

    Returns:
      Its entry, with shard_bytes 0.

    Raises:
      ValueError: if it is not such a record.
    """
    try:
        context, lists = _outline(serialized)
        items = _values(serialized, lists.get(keys[VIDEO], (0, 0)))
        rows = _values(serialized, lists.get(keys[AUDIO], (0, 0)))
        index, start_us, end_us = (
            context.feature[key].int64_list.value[0] for key in _NUMBERS
        )
        row_bytes = _row_bytes(rows)
    except (ValueError, KeyError, IndexError, DecodeError) as error:
        raise ValueError(
            f"{len(serialized)} bytes are not a record of data.records: {error}"
        ) from error
    return Entry(
        example_index=index,
        start_us=start_us,
        end_us=end_us,
        shard_bytes=0,
        rows_position=position + rows[0, 1] - row_bytes if len(rows) else 0,
        row_bytes=row_bytes,
        num_rows=len(rows),
        item_positions=position + items[:, 0],
        item_bytes=items[:, 1] - items[:, 0],
    )


def _row_bytes(rows: np.ndarray) -> int:
    """The distance of rows' ends [L, 2], which all have in common."""
    distances = np.unique(np.diff(rows[:, 1]))
    if len(distances) > 1:
        raise ValueError(f"rows of audio of different sizes, {distances} bytes")
    return int(distances[0] if len(distances) else np.sum(rows[:, 1] - rows[:, 0]))


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
    """An index's record as an entry of tensors; read_index has checked it."""
    vector = tf.io.decode_raw(serialized, tf.int64)
    # Not by the shape [2, -1], which an entry without items does not have.
    num_items = (tf.size(vector) - _NUM_SCALARS) // 2
    positions, sizes = tf.split(vector[_NUM_SCALARS:], [num_items, num_items])
    scalars = tf.unstack(vector[:_NUM_SCALARS], _NUM_SCALARS)
    return Entry._make([*scalars, positions, sizes])


def entry_of(serialized: bytes) -> Entry:
    """An index's record as an entry of numbers and arrays.

    Raises:
      ValueError: if its length is that of no entry.
    """
    num_numbers, left = divmod(len(serialized), 8)
    if left or num_numbers < _NUM_SCALARS or (num_numbers - _NUM_SCALARS) % 2:
        raise ValueError(f"{len(serialized)} bytes are no entry")
    vector = np.frombuffer(serialized, "<i8")
    end = _NUM_SCALARS + (num_numbers - _NUM_SCALARS) // 2
    scalars = vector[:_NUM_SCALARS].tolist()
    return Entry._make([*scalars, vector[_NUM_SCALARS:end], vector[end:]])


def serialize_entry(entry: Entry) -> bytes:
    """An entry of numbers and arrays as an index's record."""
    return np.concatenate([np.ravel(part) for part in entry]).astype("<i8").tobytes()


def _encode_varint(value: int) -> bytes:
    """A number of 7 bits a byte, the lowest first."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _num_framing_bytes(num_bytes: int) -> int:
    """Bytes before a value of a list that are of its step: tags and lengths."""
    total = 0
    for _ in ("BytesList or FloatList", "Feature", "FeatureList"):  # the inner first
        total += 1 + len(_encode_varint(num_bytes + total))
    return total


_FEWEST_FRAMING_BYTES = _num_framing_bytes(0)
# Sizes from which on there is one byte more.
_FRAMING_STEPS = np.array(
    [
        bisect.bisect_left(range(1 << 40), number, key=_num_framing_bytes)
        for number in range(_FEWEST_FRAMING_BYTES + 1, _num_framing_bytes(1 << 40) + 1)
    ]
)


def framing_bytes(sizes: np.ndarray) -> np.ndarray:
    """Bytes of tags and lengths before values of such sizes, [N] int64 both."""
    steps = np.searchsorted(_FRAMING_STEPS, sizes, side="right")
    return _FEWEST_FRAMING_BYTES + steps


@functools.cache
def before_audio_row(row_length: int) -> bytes:
    """What lies before the values of a row of audio: three tags and lengths."""
    num_bytes, before = 4 * row_length, b""
    # FloatList.value, Feature.float_list and FeatureList.feature.
    for tag in (b"\x0a", b"\x12", b"\x0a"):
        before = tag + _encode_varint(num_bytes + len(before)) + before
    return before


def audio_row_bytes(num_rows: int, row_length: int) -> int:
    """From one row to the next; a single one has its values alone."""
    return 4 * row_length + (num_rows > 1) * len(before_audio_row(row_length))
