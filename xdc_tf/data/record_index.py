"""Indices of shards: of a recording that lies in a shard, a clip alone is read.

A record of 10 s has 5 MB, a clip of 8 frames needs 140 kB of it. So beside a shard
NAME lies NAME.index, TFRecords as well, one for each record and in the same order: the
vectors that data.record_layout describes.
"""

import hashlib
import math
import os
from collections.abc import Collection, Sequence

import numpy as np
import tensorflow as tf

from xdc_tf.data import record_framing, record_layout
from xdc_tf.data.example_tables import Promised, ShardRows
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.data.record_framing import FOOTER_BYTES, HEADER_BYTES
from xdc_tf.data.record_layout import Entry

SUFFIX = ".index"
# Of an index, which is in memory while its shard is read; 64 films of 300 s take 9 MB.
_MAX_INDEX_BYTES = 1 << 30
# Start and end are whole microseconds, rounded on two ways.
_TIME_SLACK_US = 1.5


def read_index(
    path: str,
    *,
    modalities: Collection[str] = (),
    row_length: int | None = None,
    promised: Promised | None = None,
) -> list[tuple[bytes, Entry]]:
    """Reads and checks the index of a shard, which may be a stranger's.

    What passes is safe to use: times, sizes and positions are those of records that
    follow each other in the shard, and whatever is asked for is there.

    Args:
      path: the shard's, local or remote.
      modalities: that every record must hold.
      row_length: values of a row of audio; None if it is not known.
      promised: what the shard must hold; None if nothing is known of it.

    Returns:
      Each record of the index, as it is and as an entry.

    Raises:
      ValueError: names the file, the record and what is wrong with it.
    """
    name, shard_bytes = path + SUFFIX, _checked_size(path)
    rows = None if promised is None else promised.rows[path]
    entries = []
    last_index, first_byte = -1, 0
    for number, framed in enumerate(record_framing.read_records(name)):
        try:
            if framed.data is None:
                raise ValueError(framed.fault)
            entry = record_layout.entry_of(framed.data)
            if entry.shard_bytes == shard_bytes:
                _check_order(entry, number, last_index, rows)
                _check_times(entry, number, rows)
                first_byte = _check_places(entry, first_byte, row_length)
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
        entries.append((framed.data, entry))
    if rows is not None and len(entries) != len(rows.example_indices):
        raise ValueError(
            f"{name} has {len(entries)} records, and examples.csv beside it says "
            f"{len(rows.example_indices)}; remove it and call the same "
            "data_prep.convert again, which makes it anew."
        )
    return entries


def _checked_size(path: str) -> int:
    """Bytes of a shard, whose index is there and small enough to be read."""
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
    return shard_bytes


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


def _check_places(entry: Entry, first_byte: int, row_length: int | None) -> int:
    """Checks where a record's parts lie.

    Args:
      entry: of the record.
      first_byte: where it may begin.
      row_length: values of a row of audio, if known.

    Returns:
      Where the next record may begin.
    """
    begins, ends = [], []
    sizes, limit = entry.item_bytes, entry.shard_bytes
    if len(sizes):
        begin = int(entry.item_positions[0])
        # In floats, where no sum is too large.
        if not (0 <= begin <= limit and sizes.min() >= 0) or not (
            begin + sizes.sum(dtype=np.float64) <= limit
        ):
            raise ValueError("items lie outside of the shard")
        places, following = entry.item_positions, sizes[1:]
        steps = sizes[:-1] + record_layout.framing_bytes(following)
        if not (places[1:] - places[:-1] == steps).all():
            raise ValueError("items do not follow each other")
        begins.append(begin)
        ends.append(int(entry.item_positions[-1] + sizes[-1]))
    num_rows, row_bytes = entry.num_rows, entry.row_bytes
    if num_rows:
        if not (0 < num_rows <= limit and 0 < row_bytes <= limit) or not (
            0 <= entry.rows_position <= limit
        ):
            raise ValueError(
                f"{num_rows} rows of {row_bytes} bytes at byte "
                f"{entry.rows_position} do not fit into the shard"
            )
        if row_length is not None and row_bytes != record_layout.audio_row_bytes(
            num_rows, row_length
        ):
            raise ValueError(
                f"{num_rows} rows of {row_bytes} bytes, and {row_length} values "
                f"take {record_layout.audio_row_bytes(num_rows, row_length)}"
            )
        begins.append(entry.rows_position)
        ends.append(entry.rows_position + num_rows * row_bytes)
    elif (entry.rows_position, row_bytes) != (0, 0):
        raise ValueError("a place of rows without rows")
    begins, ends = sorted(begins), sorted(ends)
    # Two parts do not overlap if they begin and end in the same order, one by one.
    if any(begin < end for begin, end in zip(begins[1:], ends, strict=False)):
        raise ValueError("rows and items overlap")
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
    num_items, num_rows = len(entry.item_bytes), entry.num_rows
    if VIDEO in modalities:
        if not num_items:
            raise ValueError("no items of video")
        if promised and num_items not in _item_counts(secs, promised):
            raise ValueError(
                f"{num_items} items of {promised.payloads[VIDEO].title} for {secs:.6f} "
                f"s at {promised.fps} frames per second"
            )
    if AUDIO in modalities:
        if not num_rows:
            raise ValueError("no rows of audio")
        if promised and num_rows not in _row_counts(secs, promised):
            raise ValueError(
                f"{num_rows} rows of {promised.payloads[AUDIO].title} for {secs:.6f} s "
                f"at {promised.sample_rate_hz} samples per second"
            )


def _item_counts(secs: float, promised: Promised) -> set[int]:
    """Items of a recording so long: one number, or two where rounding decides."""
    payload = promised.payloads[VIDEO]
    frames_per_item = payload.row.frames_per_item(payload.settings)
    num_frames = secs * promised.fps
    return {
        math.ceil(rounded / frames_per_item)
        for rounded in (math.ceil(num_frames - 0.5), math.floor(num_frames + 0.5))
    }


def _row_counts(secs: float, promised: Promised) -> set[int]:
    """The same of rows of audio."""
    payload = promised.payloads[AUDIO]
    hop_samples = payload.row.hop_samples(payload.settings)
    slack_secs = 2 * _TIME_SLACK_US / 1e6
    return {
        round((secs + slack) * promised.sample_rate_hz) // hop_samples
        for slack in (-slack_secs, 0.0, slack_secs)
    }


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


def content_hashes(
    shards: Sequence[str],
    example_indices: np.ndarray,
    promised: Promised | None = None,
) -> np.ndarray:
    """A hash of each example's content, whatever its name.

    The sizes of all its items of video, which the index of a shard has, identify a
    video as surely as a hash of its bytes, unless they are all the same, as those of a
    black picture are. Such a video, and audio alone, is identified by its rows of
    audio, which are read.

    Args:
      shards: paths of the files of records.
      example_indices: [N] int, of the examples to hash, each once.
      promised: what the directory says of the shards, if that is known.

    Returns:
      [N] uint64, the first 8 bytes of SHA-256: two of a million different contents are
      the same once in 37 million times.

    Raises:
      ValueError: on files that cannot be read, or that lack an example.
    """
    order = np.argsort(example_indices)
    ascending = example_indices[order]
    hashes = np.zeros(len(order), np.uint64)
    found = np.zeros(len(order), bool)
    for path in shards:
        entries = [entry for _, entry in read_index(path, promised=promised)]
        indices = np.array([entry.example_index for entry in entries], np.int64)
        places = np.searchsorted(ascending, indices)
        for entry, place in zip(entries, places.tolist(), strict=True):
            if place < len(order) and ascending[place] == entry.example_index:
                hashes[order[place]] = _content_hash(path, entry)
                found[order[place]] = True
    if not found.all():
        raise ValueError(
            f"example_index {example_indices[~found][0]} is in none of the "
            f"{len(shards)} files of records; convert again."
        )
    return hashes


def _content_hash(path: str, entry: Entry) -> int:
    sizes = np.asarray(entry.item_bytes)
    digest = hashlib.sha256(sizes.tobytes())
    if not (sizes[1:] != sizes[:-1]).any() and entry.num_rows > 0:
        (rows,) = read_file(
            path,
            np.array([entry.rows_position]),
            np.array([entry.row_bytes * entry.num_rows]),
            int(entry.shard_bytes),
        )
        digest.update(rows)
    return int.from_bytes(digest.digest()[:8], "little")
