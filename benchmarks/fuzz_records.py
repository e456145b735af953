"""Forged records, indices and their tables: refused, or read as they are.

    python -m benchmarks.fuzz_records --out=DIR

A directory of records is changed as a stranger could change it, with checksums and
sizes that fit: bits and fields of records, of index entries, values of
dataset_info.json, cells and rows of examples.csv; files cut at borders of records,
records twice, in another place or with a length of terabytes. Then it is opened, all
its clips are read, and an epoch for training. Each attempt must end in one line of
error, or give the clips that there were. What else may be read:

- clips of a record that was itself changed, where it is still a record: its checksums
  say that it should be so;
- clips of a recording whose start or end was moved by a microsecond, which is what
  rounding may do;
- what stands in one table alone, as labels and names of videos do.

Attempts run in processes of their own, since a crash is what is looked for; they have a
time limit and a limit of memory. Mutations follow from --seed. Exits with 1 if any of
this does not hold. Targets are rows of TARGETS.
"""

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fuzz_runs import mutate_bytes, mutate_json

_TIMEOUT_SECS = 60.0
_MEMORY_MIB = 1024
_NUM_VIDEOS, _ROWS_PER_SHARD = 12, 4
_HUGE = (0, 1, -1, 7, 2**31, 2**40, 2**62, -(2**62), 2**63 - 1)
_TEXTS = (
    *("", "0", "-1", "12", "1e9", "nan", "inf", "-inf", "x", "9" * 400, "1_0", "../x"),
    *('"', "\x00", "a\nb", "x" * 200_000, "=1+1", "1.5", "0x1", " 1", "\ud7ff"),
)

# Of read_all in this process.
_DATA_SETS: dict = {}

Forge = Callable[[Path, np.random.Generator], Collection[int]]


class Answer(NamedTuple):
    """What came of reading a directory.

    Attributes:
      clips: by example_index the digests of its clips.
      error: one line, or "".
      traceback: of what a command would not report in one line, or "".
    """

    clips: dict[int, str]
    error: str = ""
    traceback: str = ""


def make_records(folder: Path) -> None:
    """Converts a few videos of the embedded benchmark, one of them refused."""
    from data_prep import conversion, conversion_settings, synthetic
    from data_prep.worker_processes import PoolSettings

    manifest = synthetic.make_benchmark(
        str(folder / "videos"),
        num_videos=_NUM_VIDEOS,
        seed=0,
        duration_secs=1.0,
        size=32,
    )
    (folder / "videos" / "videos" / "seed0_000005.mp4").write_bytes(b"")
    conversion.convert_manifest(
        manifest,
        str(folder / "records"),
        settings=conversion_settings.ConversionSettings(fps=8.0, short_side=32),
        pool=PoolSettings(2),
        rows_per_shard=_ROWS_PER_SHARD,
    )


def read_all(directory: str) -> dict[int, str]:
    """Opens a directory and reads every clip, and an epoch of random ones."""
    from xdc_tf.data import dataset_info, pipeline, record_directory
    from xdc_tf.data.augment import Augmentation
    from xdc_tf.data.clip_reading import ClipSource
    from xdc_tf.data.clips import ClipSettings

    opened = record_directory.open_directory(directory)
    dataset_info.check_modalities(opened.info, ("video", "audio"), directory)
    if opened.info.log_mel.num_filters != 40 or opened.info.log_mel.hop_ms != 20.0:
        # As settings.check_log_mel does, which needs a run's configuration.
        raise ValueError(f"{directory} has another log-mel than the run.")
    # The data sets of a form are made once, which takes a second; what they check
    # records against is that of the present directory.
    promised, paths = opened.promised, tuple(opened.promised.rows)
    form = promised._replace(rows=None), paths, opened.info.num_rows
    if form not in _DATA_SETS:
        rows: dict = {}
        clip = ClipSettings(
            num_frames=2,
            fps=4.0,
            crop_size=16,
            crop_share=0.875,
            audio_secs=0.4,
            mel_hop_secs=0.02,
            num_mels=40,
            log_mel_mean=0.0,
            log_mel_std=1.0,
        )
        source = ClipSource(paths, clip, promised=promised._replace(rows=rows))
        evaluation = pipeline.evaluation_batches(source, batch_size=4, num_clips=2)
        training = pipeline.training_batches(
            source,
            batch_size=4,
            augmentation=Augmentation(),
            keep=np.ones(opened.info.num_rows, bool),
            seed=0,
            shuffle_buffer=4,
        )
        _DATA_SETS[form] = evaluation, training, rows
    evaluation, training, rows = _DATA_SETS[form]
    rows.update(promised.rows)
    clips: dict[int, list[str]] = {}
    for batch in evaluation.as_numpy_iterator():
        for number, index in enumerate(batch["example_index"].tolist()):
            if index != pipeline.PADDING_INDEX:
                clip = hashlib.sha256(batch["video"][number].tobytes())
                clip.update(batch["audio"][number].tobytes())
                clips.setdefault(index, []).append(clip.hexdigest())
    for _, _ in zip(range(len(clips) // 4), training, strict=False):
        pass
    return {index: " ".join(of_index) for index, of_index in clips.items()}


def _serve(connection: Connection) -> None:
    """A process that reads directories until there are no more."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from xdc_tf.runtime import program

    program.quiet_tensorflow()
    connection.send(_answer(connection.recv()))  # the first one loads all there is
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    limit = used + (_MEMORY_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while directory := connection.recv():
        connection.send(_answer(directory))


def _answer(directory: str) -> Answer:
    import traceback

    from xdc_tf.runtime import program

    try:
        return Answer(read_all(directory))
    except program.USER_ERRORS as error:
        return Answer({}, str(error))
    except Exception as error:
        message = program.tensorflow_user_error(error)
        if message is not None:
            return Answer({}, message)
        return Answer({}, "", traceback.format_exc()[-600:])


class Reader:
    """Reads directories in a process, which is started anew when it has ended."""

    def __init__(self, valid: str):
        """Args:
        valid: a directory to begin with, which is read when a process starts.
        """
        self._valid = valid
        self._process = None

    @property
    def pid(self) -> int | None:
        """Of the process, if it is there."""
        return None if self._process is None else self._process.pid

    def read(self, directory: str) -> Answer:
        """What came of it; a crash or a time limit is a traceback."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
            self._ask(self._valid, 10 * _TIMEOUT_SECS)
        return self._ask(directory, _TIMEOUT_SECS)

    def _ask(self, directory: str, timeout_secs: float) -> Answer:
        try:
            self._connection.send(directory)
            if self._connection.poll(timeout_secs):
                return self._connection.recv()
            reason = f"took more than {timeout_secs:g} s"
        except (EOFError, OSError):
            self._process.join(10)
            reason = f"ended the process with {self._process.exitcode}"
        self.close()
        return Answer({}, "", reason)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


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
    return sorted(folder.glob("*.tfrecord"))[rng.integers(_NUM_VIDEOS // 4)]


def forge_records(folder: Path, rng: np.random.Generator) -> Collection[int]:
    """Changes a shard, and its index with it or not."""
    from xdc_tf.data import record_index, shard_writing

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
            shard_writing.index_shard(str(shard))
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
    frames, rows = lists[records.FRAMES].feature, lists[records.LOG_MEL].feature
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
            jpeg = frames[first].bytes_list.value[0]
            place = jpeg.index(b"\xff\xc0") + 5
            jpeg = jpeg[:place] + size + jpeg[place + 4 :]
            frames[first].bytes_list.value[0] = jpeg
        case 2:
            jpeg = frames[first].bytes_list.value[0]
            frames[first].bytes_list.value[0] = jpeg[: rng.integers(len(jpeg))]
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


def fault(answer: Answer, expected: dict[int, str], changed: Collection[int]) -> str:
    """What is wrong with an answer; "" if nothing is.

    Args:
      answer: to a changed directory.
      expected: the clips before the change.
      changed: example_index of those whose own records were changed.
    """
    if answer.traceback:
        return answer.traceback
    if answer.error:
        is_line = "\n" not in answer.error and len(answer.error) < 2000
        return "" if is_line else f"an error of other form: {answer.error[:500]!a}"
    if set(answer.clips) != set(expected):
        missing = sorted(set(expected) ^ set(answer.clips))
        return f"read without a word, but for the examples {missing}"
    others = [
        index
        for index, clip in expected.items()
        if answer.clips[index] != clip and index not in changed
    ]
    return f"other clips of {others} were read without a word" if others else ""


def fuzz(
    folder: str,
    *,
    targets: Collection[str],
    num: int,
    seed: int,
    tell: Callable[[str], Any] = print,
) -> list[str]:
    """Reads so many changed directories of each target; returns what was wrong.

    Args:
      folder: empty, to work in.
      targets: of TARGETS.
      num: changed directories of each.
      seed: of all changes.
      tell: called with a line about each fault and each target.
    """
    work = Path(folder)
    make_records(work)
    valid, damaged = work / "records", work / "damaged"
    reader = Reader(str(valid))
    expected = reader.read(str(valid))
    if len(expected.clips) != _NUM_VIDEOS - 1:
        raise RuntimeError(f"the records cannot be read before any change: {expected}")
    faults = []
    try:
        for target in targets:
            rng = np.random.default_rng([seed, *target.encode()])
            num_refused = num_faults = 0
            for number in range(num):
                shutil.rmtree(damaged, ignore_errors=True)
                shutil.copytree(valid, damaged)
                changed = TARGETS[target](damaged, rng)
                answer = reader.read(str(damaged))
                num_refused += bool(answer.error)
                found = fault(answer, expected.clips, changed)
                if found:
                    num_faults += 1
                    faults.append(f"{target}, mutation {number}: {found}")
                    tell(f"fault: {faults[-1]}")
            tell(
                f"{target}: {num} mutations, {num_refused} refused, "
                f"{num - num_refused - num_faults} read as they were, "
                f"{num_faults} faults"
            )
    finally:
        reader.close()
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="a new directory to work in")
    parser.add_argument("--num", type=int, default=2000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    arguments = parser.parse_args()
    os.makedirs(arguments.out)
    faults = fuzz(
        arguments.out,
        targets=arguments.target or TARGETS,
        num=arguments.num,
        seed=arguments.seed,
        tell=lambda line: print(line, flush=True),
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
