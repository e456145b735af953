"""Where a shard's records hold their frames and log-mel rows: clips are read alone.

A record of 10 s has 5 MB, a clip of 8 frames needs 140 kB of it. So beside a shard
NAME lies NAME.index, TFRecords as well, one for each record and in the same order: a
vector of little-endian int64,

    example_index, start_us, end_us, bytes of the shard, log-mel position, bytes per
    log-mel row, log-mel rows, frames' positions [T], frames' lengths [T]

Positions count from the shard's first byte. The last bytes of a log-mel row are its
values, float32.
"""

import bisect
import contextlib
import functools
import os
import secrets
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from xdc_tf.data import record_framing, records
from xdc_tf.data.dataset_info import AUDIO, VIDEO
from xdc_tf.data.example_tables import Promised, ShardRows
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.record_framing import FOOTER_BYTES, HEADER_BYTES
from xdc_tf.runtime import files

SUFFIX = ".index"

_NUM_SCALARS = 7  # of an entry's vector
# Of an index, which is in memory while its shard is read; 64 films of 300 s take 9 MB.
_MAX_INDEX_BYTES = 1 << 30
# Start and end are whole microseconds, rounded on two ways.
_TIME_SLACK_US = 1.5
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
    """Writes a shard and its index; they get their names when both are on disk.

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
        with _errors_naming(self._path):
            self._writer = tf.io.TFRecordWriter(self._temporary)
        return self

    def write(self, serialized: bytes) -> None:
        """Appends a record.

        Raises:
          ValueError: if this is not what records.encode_example makes.
          OSError: if it cannot be written; names the shard. Leaving the context too.
        """
        self._entries.append(locate(serialized, self._num_bytes + HEADER_BYTES))
        with _errors_naming(self._path):
            self._writer.write(serialized)
        self._num_bytes += HEADER_BYTES + len(serialized) + FOOTER_BYTES

    def __exit__(self, error_type, *_):
        try:
            with _errors_naming(self._path):
                self._writer.close()
            if error_type is None:
                _write_index(self._path, self._entries, self._num_bytes)
                _place(self._temporary, self._path)
        except OSError:
            if error_type is None:
                raise
        finally:
            if tf.io.gfile.exists(self._temporary):
                tf.io.gfile.remove(self._temporary)


@contextlib.contextmanager
def _errors_naming(path: str) -> Iterator[None]:
    """Has TensorFlow's errors in writing, such as those of a full disk, name a file."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message}") from error


def _place(temporary: str, path: str) -> None:
    """Gives a file its name; a local one and its name are on disk on return."""
    if "://" in path:
        with _errors_naming(path):
            tf.io.gfile.rename(temporary, path, overwrite=True)
        return
    files.sync(temporary)
    os.replace(temporary, path)
    files.sync(os.path.dirname(path) or ".")


def temporary_name(path: str) -> str:
    """A name beside a file for what is not complete yet, like no other."""
    return f"{path}.{secrets.token_hex(4)}.tmp"


def index_shard(path: str) -> None:
    """Makes a shard's index anew, reading all of the shard.

    Raises:
      ValueError: if a record is cut off, its checksum is wrong, or it is none of
        data.records; names the file and the record.
    """
    entries: list[Entry] = []
    num_bytes = 0
    for number, framed in enumerate(record_framing.read_records(path)):
        if framed.data is None:
            raise ValueError(f"{path}, record {number}: {framed.fault}; convert again.")
        try:
            entries.append(locate(framed.data, framed.position))
        except ValueError as error:
            raise ValueError(f"{path}, record {number}: {error}") from error
        num_bytes += framed.num_bytes
    _write_index(path, entries, num_bytes)


def _write_index(path: str, entries: list[Entry], num_bytes: int) -> None:
    temporary = temporary_name(path + SUFFIX)
    try:
        with _errors_naming(path + SUFFIX), tf.io.TFRecordWriter(temporary) as writer:
            for entry in entries:
                parts = entry._replace(shard_bytes=num_bytes)
                vector = np.concatenate([np.ravel(part) for part in parts])
                writer.write(vector.astype("<i8").tobytes())
        _place(temporary, path + SUFFIX)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)


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
    """An index's record as an entry of tensors; read_index has checked it."""
    vector = tf.io.decode_raw(serialized, tf.int64)
    # Not by the shape [2, -1], which nothing, of sound alone, does not have.
    num_frames = (tf.size(vector) - _NUM_SCALARS) // 2
    positions, sizes = tf.split(vector[_NUM_SCALARS:], [num_frames, num_frames])
    return Entry(*tf.unstack(vector[:_NUM_SCALARS], _NUM_SCALARS), positions, sizes)


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
    return Entry(*scalars, vector[_NUM_SCALARS:end], vector[end:])


def read_index(
    path: str,
    *,
    modalities: Collection[str] = (),
    num_mels: int | None = None,
    promised: Promised | None = None,
) -> list[tuple[bytes, Entry]]:
    """Reads and checks the index of a shard, which may be a stranger's.

    What passes is safe to use: times, sizes and positions are those of records that
    follow each other in the shard, and whatever is asked for is there.

    Args:
      path: the shard's, local or remote.
      modalities: that every record must hold.
      num_mels: values of a log-mel row; None if it is not known.
      promised: what the shard must hold; None if nothing is known of it.

    Returns:
      Each record of the index, as it is and as an entry.

    Raises:
      ValueError: names the file, the record and what is wrong with it.
    """
    name = path + SUFFIX
    try:
        index_bytes, shard_bytes = record_framing.size(name), record_framing.size(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise ValueError(
            f"{name} cannot be read: {reason}; bring it back, or convert again."
        ) from error
    if index_bytes > _MAX_INDEX_BYTES:
        raise ValueError(
            f"{name} has {index_bytes} bytes, and the limit is {_MAX_INDEX_BYTES}; "
            "convert again with a lower --rows_per_shard."
        )
    rows = None if promised is None else promised.rows[path]
    found = []
    last_index, first_byte = -1, 0
    for number, framed in enumerate(record_framing.read_records(name)):
        try:
            if framed.data is None:
                raise ValueError(framed.fault)
            entry = entry_of(framed.data)
            if entry.shard_bytes == shard_bytes:
                _check_order(entry, number, last_index, rows)
                _check_times(entry, number, rows)
                first_byte = _check_places(entry, first_byte, num_mels)
                _check_contents(entry, modalities, promised)
        except ValueError as error:
            raise ValueError(
                f"{name}, record {number}: {error}; remove {name} and call the same "
                "data_prep.convert again, which makes it anew, or convert to another "
                "directory."
            ) from error
        if entry.shard_bytes != shard_bytes:
            raise ValueError(_of_another_size(path, shard_bytes, entry.shard_bytes))
        last_index = entry.example_index
        found.append((framed.data, entry))
    if rows is not None and len(found) != len(rows.example_indices):
        raise ValueError(
            f"{name} has {len(found)} records, and examples.csv beside it says "
            f"{len(rows.example_indices)}; remove it and call the same "
            "data_prep.convert again, which makes it anew."
        )
    return found


def _check_order(
    entry: Entry, number: int, last_index: int, rows: ShardRows | None
) -> None:
    index = entry.example_index
    if index <= last_index:
        raise ValueError(f"example_index {index} comes after {last_index}")
    if rows is None:
        return
    if number >= len(rows.example_indices):
        raise ValueError(
            f"example_index {index} is one more than the {number} records that "
            "examples.csv says"
        )
    if index != rows.example_indices[number]:
        raise ValueError(
            f"example_index {index} is here, and by examples.csv "
            f"{rows.example_indices[number]}"
        )


def _check_times(entry: Entry, number: int, rows: ShardRows | None) -> None:
    if not 0 <= entry.start_us < entry.end_us:
        raise ValueError(f"from {entry.start_us} to {entry.end_us} microseconds")
    if rows is None:
        return
    for name in ("start", "end"):
        time_us = getattr(entry, f"{name}_us")
        secs = float(getattr(rows, f"{name}_secs")[number])
        if not abs(time_us - 1e6 * secs) <= _TIME_SLACK_US:
            raise ValueError(
                f"{name} is {time_us} microseconds, and by examples.csv {secs} s"
            )


def _check_places(entry: Entry, first_byte: int, num_mels: int | None) -> int:
    """Checks where a record's parts lie.

    Args:
      entry: of the record.
      first_byte: where it may begin.
      num_mels: values of a log-mel row, if known.

    Returns:
      Where the next record may begin.
    """
    begins, ends = [], []
    sizes, limit = entry.frame_bytes, entry.shard_bytes
    if len(sizes):
        begin = int(entry.frame_positions[0])
        # In floats, where no sum is too large.
        if not (0 <= begin <= limit and sizes.min() >= 0) or not (
            begin + sizes.sum(dtype=np.float64) <= limit
        ):
            raise ValueError("frames lie outside of the shard")
        if not np.array_equal(
            np.diff(entry.frame_positions), sizes[:-1] + _framing_bytes(sizes[1:])
        ):
            raise ValueError("frames do not follow each other")
        begins.append(begin)
        ends.append(int(entry.frame_positions[-1] + sizes[-1]))
    num_rows, row_bytes = entry.num_log_mel_rows, entry.log_mel_row_bytes
    if num_rows:
        if not (0 < num_rows <= limit and 0 < row_bytes <= limit) or not (
            0 <= entry.log_mel_position <= limit
        ):
            raise ValueError(
                f"{num_rows} log-mel rows of {row_bytes} bytes at byte "
                f"{entry.log_mel_position} do not fit into the shard"
            )
        if num_mels is not None and row_bytes != log_mel_row_bytes(num_rows, num_mels):
            raise ValueError(
                f"{num_rows} log-mel rows of {row_bytes} bytes, and {num_mels} values "
                f"take {log_mel_row_bytes(num_rows, num_mels)}"
            )
        begins.append(entry.log_mel_position)
        ends.append(entry.log_mel_position + num_rows * row_bytes)
    elif (entry.log_mel_position, row_bytes) != (0, 0):
        raise ValueError("a place of log-mel without rows")
    begins, ends = sorted(begins), sorted(ends)
    # Two parts do not overlap if they begin and end in the same order, one by one.
    if any(begin < end for begin, end in zip(begins[1:], ends, strict=False)):
        raise ValueError("log-mel and frames overlap")
    if not begins:
        return first_byte
    if not first_byte + HEADER_BYTES <= begins[0] <= ends[-1] <= limit - FOOTER_BYTES:
        raise ValueError(
            f"its parts lie from byte {begins[0]} to {ends[-1]}, outside of bytes "
            f"{first_byte + HEADER_BYTES} to {limit - FOOTER_BYTES}"
        )
    return ends[-1] + FOOTER_BYTES


def _check_contents(
    entry: Entry, modalities: Collection[str], promised: Promised | None
) -> None:
    secs = (entry.end_us - entry.start_us) / 1e6
    num_frames, num_rows = len(entry.frame_bytes), entry.num_log_mel_rows
    if VIDEO in modalities:
        if not num_frames:
            raise ValueError("no frames")
        if promised and not abs(num_frames - secs * promised.fps) <= 0.5:
            raise ValueError(
                f"{num_frames} frames for {secs:.6f} s at {promised.fps} per second"
            )
    if AUDIO in modalities:
        if not num_rows:
            raise ValueError("no log-mel rows")
        if promised and num_rows not in _log_mel_lengths(secs, promised.log_mel):
            raise ValueError(
                f"{num_rows} log-mel rows for {secs:.6f} s, one every "
                f"{promised.log_mel.hop_ms} ms"
            )


@functools.lru_cache
def _log_mel_lengths(secs: float, settings: LogMelSettings) -> set[int]:
    """Rows of a recording so long: one number, or two where rounding decides."""
    slack_secs = 2 * _TIME_SLACK_US / 1e6
    return {
        round((secs + slack) * settings.sample_rate_hz) // settings.hop_samples
        for slack in (-slack_secs, 0.0, slack_secs)
    }


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


def _framing_bytes(sizes: np.ndarray) -> np.ndarray:
    """_num_framing_bytes of [N] int64."""
    steps = np.searchsorted(_FRAMING_STEPS, sizes, side="right")
    return _FEWEST_FRAMING_BYTES + steps


@functools.cache
def before_log_mel_row(num_mels: int) -> bytes:
    """What lies before the values of a log-mel row: three tags and lengths."""
    num_bytes, before = 4 * num_mels, b""
    # FloatList.value, Feature.float_list and FeatureList.feature.
    for tag in (b"\x0a", b"\x12", b"\x0a"):
        before = tag + _encode_varint(num_bytes + len(before)) + before
    return before


def log_mel_row_bytes(num_rows: int, num_mels: int) -> int:
    """From one row to the next; a single one has its values alone."""
    return 4 * num_mels + (num_rows > 1) * len(before_log_mel_row(num_mels))


def read_file(
    name: str, positions: np.ndarray, sizes: np.ndarray, file_bytes: int
) -> list[bytes]:
    """Parts of a file; what lies between them is not read.

    TensorFlow's own operations read files from their beginning.

    Args:
      name: local or remote path.
      positions: [K] int64, of first bytes.
      sizes: [K] int64.
      file_bytes: size of the whole file.

    Raises:
      ValueError: if the file cannot be read or has another size.
    """
    try:
        read = _read_remote if "://" in name else _read_local
        size, pieces = read(name, zip(positions.tolist(), sizes.tolist(), strict=True))
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if size != file_bytes or [len(piece) for piece in pieces] != sizes.tolist():
        raise ValueError(_of_another_size(name, size, int(file_bytes)))
    return pieces


def _of_another_size(name: str, size: int, file_bytes: int) -> str:
    return (
        f"{name} has {size} bytes and not the {file_bytes} that {name}{SUFFIX} was "
        "made for; bring back the file that belongs to it, or convert again."
    )


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
