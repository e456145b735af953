"""Directories of records, forged: changed, with checksums and sizes that fit.

A forger changes a directory in place and returns the example_index of the examples
whose records it has itself changed. Forgers are rows of TARGETS.
"""

import csv
import io
import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from benchmarks.fuzz_runs import mutate_bytes, mutate_json

_HUGE = (0, 1, -1, 7, 2**31, 2**40, 2**62, -(2**62), 2**63 - 1)
_TEXTS = (
    *("", "0", "-1", "12", "1e9", "nan", "inf", "-inf", "x", "9" * 400, "1_0", "../x"),
    *('"', "\x00", "a\nb", "x" * 200_000, "=1+1", "1.5", "0x1", " 1", "\ud7ff"),
)

Forge = Callable[[Path, np.random.Generator], Collection[int]]


def framed(data: bytes, length: int | None = None) -> bytes:
    """A record as it lies in a file; its header may state another length."""
    from xdc_tf.data.record_framing import masked_crc32c

    header = (len(data) if length is None else length).to_bytes(8, "little")
    sums = (masked_crc32c(part).to_bytes(4, "little") for part in (header, data))
    return b"".join((header, next(sums), data, next(sums)))


def _contents(path: Path) -> list[bytes]:
    from xdc_tf.data.record_framing import read_records

    return [record.data for record in read_records(str(path))]


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    flipped = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 5)):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def _rearrange(records: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Records left out, twice, or in another order; the files' framing as it was."""
    first, second = rng.integers(0, len(records), 2)
    records = list(records)
    match rng.integers(5):
        case 0:
            return records[: int(rng.integers(len(records)))]
        case 1:
            records.insert(int(second), records[first])
        case 2:
            del records[first]
        case 3:
            records[first], records[second] = records[second], records[first]
        case 4:
            records[first] = records[second]
    return records


def _write(path: Path, records: list[bytes], rng: np.random.Generator) -> None:
    """Writes records; one header in eight states another length."""
    lengths = [None] * len(records)
    if records and rng.integers(8) == 0:
        lengths[rng.integers(len(records))] = int(abs(rng.choice(_HUGE)))
    path.write_bytes(b"".join(map(framed, records, lengths)))


def _state_sizes(folder: Path, rng: np.random.Generator) -> None:
    """Makes dataset_info.json say the present sizes, or none, or what it said."""
    if (kind := rng.integers(8)) == 0:
        return
    path = folder / "dataset_info.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for shard in values["shards"]:
        shard.pop("num_bytes"), shard.pop("index_bytes")
        if kind % 2:
            file = folder / shard["file"]
            shard["num_bytes"] = file.stat().st_size
            shard["index_bytes"] = Path(f"{file}.index").stat().st_size
    path.write_text(json.dumps(values), encoding="utf-8")


def _any_shard(folder: Path, rng: np.random.Generator) -> Path:
    shards = sorted(folder.glob("*.tfrecord"))
    return shards[rng.integers(len(shards))]


def forge_records(folder: Path, rng: np.random.Generator) -> Collection[int]:
    """Changes a shard, and its index with it or not."""
    from xdc_tf.data import dataset_info, payloads, record_index, shard_writing

    keys = payloads.keys(dataset_info.read_dataset_info(str(folder)))
    shard = _any_shard(folder, rng)
    records = _contents(shard)
    entries = [entry for _, entry in record_index.read_index(str(shard))]
    number = int(rng.integers(len(records)))
    changed = {entries[number].example_index}
    kind = rng.integers(8)
    if kind < 4:
        change = _flip_bits if kind < 2 else _change_fields
        records[number] = change(records[number], rng)
        _write(shard, records, rng)
    elif kind < 6:
        _write(shard, _rearrange(records, rng), rng)
    else:
        shard.write_bytes(mutate_bytes(shard.read_bytes(), rng))
        changed = {entry.example_index for entry in entries}
    if rng.integers(2):
        try:
            shard_writing.index_shard(str(shard), keys)
        except ValueError:
            pass  # no records: the index stays as it is
    _state_sizes(folder, rng)
    return changed


def _change_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """A record with another number, image or row somewhere."""
    import tensorflow as tf

    from xdc_tf.data import records

    message = tf.train.SequenceExample.FromString(data)
    lists = message.feature_lists.feature_list
    (frames_key,) = (name for name in lists if name.startswith("image/"))
    frames, rows = lists[frames_key].feature, lists[records.LOG_MEL].feature
    first, second = rng.integers(0, len(frames), 2)
    match rng.integers(8):
        case 0:
            key = rng.choice(sorted(message.context.feature))
            values = message.context.feature[key]
            numbers = values.int64_list.value or values.float_list.value
            if numbers:
                numbers[0] = int(rng.choice(_HUGE[:5]))
            else:
                values.bytes_list.value[0] = rng.choice(_TEXTS[:10]).encode()
        case 1:
            size = rng.integers(0, 65536, 2).astype(">u2").tobytes()
            item = frames[first].bytes_list.value[0]
            # Where the size stands: of a segment of H.264, or of a JPEG image.
            place = 4 if item[:4] == b"H264" else item.index(b"\xff\xc0") + 5
            item = item[:place] + size + item[place + 4 :]
            frames[first].bytes_list.value[0] = item
        case 2:
            item = frames[first].bytes_list.value[0]
            frames[first].bytes_list.value[0] = item[: rng.integers(len(item))]
        case 3:
            del frames[first]
        case 4:
            frames[first].CopyFrom(frames[second])
        case 5:
            value = rng.choice([np.nan, np.inf, -np.inf, 1e30, 0.0])
            for row in rows:
                row.float_list.value[int(first)] = value
        case 6:
            del rows[int(rng.integers(len(rows))) :]
        case 7:
            rows[int(first)].float_list.value.pop()
    return message.SerializeToString(deterministic=True)


def forge_index(folder: Path, rng: np.random.Generator) -> Collection[int]:
    """Changes the index of a shard: bits, numbers, records."""
    index = Path(f"{_any_shard(folder, rng)}.index")
    records = _contents(index)
    number = int(rng.integers(len(records)))
    before = np.frombuffer(records[number], "<i8")
    kind = rng.integers(8)
    if kind == 0:
        records[number] = _flip_bits(records[number], rng)
    elif kind < 5:
        vector = np.frombuffer(records[number], "<i8").copy()
        other = np.frombuffer(records[rng.integers(len(records))], "<i8")
        place = rng.integers(len(vector)) if rng.integers(2) else rng.integers(7)
        match rng.integers(5):
            case 0:
                vector[place] = rng.choice(_HUGE)
            case 1:
                vector[place] += rng.choice([-1000, -8, -4, -1, 1, 4, 8, 1000])
            case 2:
                vector[place] = vector[rng.integers(len(vector))]
            case 3:
                vector[place] = other[min(place, len(other) - 1)]
            case 4:
                vector = np.delete(vector, rng.integers(0, len(vector), 2))
        records[number] = vector.tobytes()
    elif kind < 7:
        records = _rearrange(records, rng)
    _write(index, records, rng)
    if kind == 7:
        index.write_bytes(mutate_bytes(index.read_bytes(), rng))
    _state_sizes(folder, rng)
    if kind < 5 and len(records[number]) == before.nbytes:
        moved = np.abs(np.frombuffer(records[number], "<i8") - before)
        if moved[1:3].max() == moved.max() == 1:
            return {int(before[0])}
    return ()


def forge_info(folder: Path, rng: np.random.Generator) -> Collection[int]:
    """Changes dataset_info.json: bytes, values, keys."""
    path = folder / "dataset_info.json"
    if rng.integers(4) == 0:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    else:
        values = mutate_json(json.loads(path.read_text(encoding="utf-8")), rng)
        path.write_text(json.dumps(values), encoding="utf-8")
    return ()


def forge_examples(folder: Path, rng: np.random.Generator) -> Collection[int]:
    """Changes examples.csv: bytes, cells, rows."""
    path = folder / "examples.csv"
    kind = rng.integers(8)
    if kind == 0:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
        return ()
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    first, second = rng.integers(0, len(rows), 2)
    column = rng.integers(len(rows[0]))
    match kind:
        case 1:
            rows[first], rows[second] = rows[second], rows[first]
        case 2:
            rows.insert(int(first), rows[second])
        case 3:
            del rows[first]
        case 4:
            rows[first][column] = rows[second][column]
        case 5:
            rows[first] = rows[first][:column]
        case _:
            rows[first][column] = str(rng.choice(_TEXTS))
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return ()


TARGETS: dict[str, Forge] = {
    "records": forge_records,
    "indices": forge_index,
    "dataset_info.json": forge_info,
    "examples.csv": forge_examples,
}
