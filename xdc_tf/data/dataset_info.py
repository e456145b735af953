"""What a directory of records says about itself, in dataset_info.json and its tables.

dataset_info.json is written last, so a directory that has one is complete. All of it
may be a stranger's and is checked where it is read.
"""

import csv
import io
import json
import math
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data import info_checks
from xdc_tf.data.info_checks import shown
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime import files

INFO_FILE = "dataset_info.json"
EXAMPLES_FILE = "examples.csv"
QUARANTINE_FILE = "quarantine.csv"
FORMAT_VERSION = 1

VIDEO, AUDIO = "video", "audio"
# All that a record can hold, in the order in which they are listed.
MODALITIES: tuple[str, ...] = (VIDEO, AUDIO)
# Of an example without a label, true or of a cluster.
NO_LABEL = -1


_MAX_SECS = 1e9
# Of a file's name, or an address: all have the longest one's place in memory.
_MAX_ID_CHARS = 8192

# Keys that files of earlier programs lack, and what they mean there.
_SINCE_VERSION_1: dict[str, Any] = {
    "modalities": list(MODALITIES),
    "segment_secs": None,
    "max_segments": None,
    "limits": {},
}


class ShardInfo(NamedTuple):
    """One file of records; field names are keys of dataset_info.json.

    Attributes:
        file: its name inside the directory.
        num_examples: its records.
        num_bytes: its size; None in a directory of an earlier version.
        index_bytes: size of its index; None as well.
    """

    file: str
    num_examples: int
    num_bytes: int | None = None
    index_bytes: int | None = None


class DatasetInfo(NamedTuple):
    """Content of dataset_info.json; field names are its keys.

    `num_rows` counts the manifest's rows, of which `num_examples` were converted and
    `num_quarantined` refused. `log_mel_mean` and `log_mel_std` are over all log-mel
    values of all examples. `label_names` is sorted; labels are indices into it.
    `modalities` is what the records hold, in the order of MODALITIES; without audio
    `log_mel` says nothing, the mean is 0 and the deviation 1. Rows are those of the
    manifest, or with `segment_secs` their segments, of which each has up to
    `max_segments`. `limits` is what else decided which rows were refused, by name.
    """

    manifest_sha256: str
    num_rows: int
    num_examples: int
    num_quarantined: int
    fps: float
    short_side: int
    jpeg_quality: int
    min_secs: float
    max_secs: float
    has_waveform: bool
    rows_per_shard: int
    log_mel: LogMelSettings
    log_mel_mean: float
    log_mel_std: float
    label_names: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    modalities: tuple[str, ...] = MODALITIES
    segment_secs: float | None = None
    max_segments: int | None = None
    limits: Mapping[str, float] = types.MappingProxyType({})
    format_version: int = FORMAT_VERSION


class ExampleRow(NamedTuple):
    """One line of examples.csv; field names are its columns."""

    example_index: int
    video_id: str
    label: str  # text, empty when there is none
    shard: str
    start_secs: float
    end_secs: float


class RefusedRow(NamedTuple):
    """A line of quarantine.csv; field names are its columns."""

    path: str
    start_secs: float
    reason: str
    detail: str


class Examples(NamedTuple):
    """The columns of examples.csv, one entry per converted example, in file order."""

    example_indices: np.ndarray  # [N] int64
    video_ids: np.ndarray  # [N] str
    labels: np.ndarray  # [N] int64 into label_names, -1 for none
    shards: np.ndarray  # [N] str
    start_secs: np.ndarray  # [N] float64
    end_secs: np.ndarray  # [N] float64


def order_modalities(names: Iterable[str]) -> tuple[str, ...]:
    """The modalities named, each once, in the order of MODALITIES.

    Raises:
        ValueError: one is unknown, or none is named.
    """
    names = list(names)
    if not names or any(name not in MODALITIES for name in names):
        raise ValueError(
            f"modalities={names} must be one or more of {', '.join(MODALITIES)}."
        )
    return tuple(name for name in MODALITIES if name in names)


def check_modalities(info: DatasetInfo, wanted: Iterable[str], directory: str) -> None:
    """Checks that records hold what is wanted of them, sound that differs included.

    Args:
        info: what the records say about themselves.
        wanted: names of modalities.
        directory: the records' directory, for the message.

    Raises:
        ValueError: the records lack one of them, a name is unknown, or all log-mel
            values are the same.
    """
    wanted = order_modalities(wanted)
    missing = [name for name in wanted if name not in info.modalities]
    if missing:
        needed = order_modalities((*wanted, *info.modalities))
        raise ValueError(
            f"{directory} holds {' and '.join(info.modalities)} but no "
            f"{' and '.join(missing)}, which is needed; convert its manifest with "
            f"--modalities={','.join(needed)} to another directory, or use "
            f"{' and '.join(info.modalities)} alone."
        )
    if AUDIO in wanted and not info.log_mel_std > 0:
        raise ValueError(
            f"{directory} has log_mel_std={info.log_mel_std} in {INFO_FILE}: all of "
            "its sound is alike, as silence is, and there is nothing to learn from it; "
            "convert other files, or use video alone."
        )


def read_dataset_info(records_dir: str) -> DatasetInfo:
    """Reads dataset_info.json of a directory of records, and checks what it says.

    A file of an earlier program is of records that hold both modalities and of rows
    that are not cut.

    Raises:
        FileNotFoundError: the directory has none: no records, or an unfinished
            conversion.
        ValueError: it cannot be read, is of another format version, or says what
            cannot be.
    """
    info = parse_dataset_info(records_dir)
    path = os.path.join(records_dir, INFO_FILE)
    info_checks.raise_first(path, info_checks.contradictions(info))
    return info


def parse_dataset_info(records_dir: str) -> DatasetInfo:
    """Like read_dataset_info, but each value is checked alone.

    Raises:
        FileNotFoundError, ValueError: see read_dataset_info.
    """
    path = os.path.join(records_dir, INFO_FILE)
    try:
        values = json.loads(files.read_text(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist: {records_dir} holds no finished conversion; "
            "make one with python -m data_prep.convert."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); convert again.") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {shown(version)}, this program reads "
            f"{FORMAT_VERSION}; convert again."
        )
    values = _SINCE_VERSION_1 | values
    differing = set(values) ^ set(DatasetInfo._fields)
    if differing:
        shown_keys = ", ".join(sorted(map(shown, differing))[:20])
        raise ValueError(f"{path} lacks or adds the keys {shown_keys}; convert again.")
    try:
        modalities = order_modalities(values["modalities"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: modalities={shown(values['modalities'])} must be one "
            f"or more of {', '.join(MODALITIES)}. Convert again."
        ) from error
    info_checks.raise_first(
        path,
        info_checks.value_faults(values, records_dir, has_audio=AUDIO in modalities),
    )
    return DatasetInfo(
        **values
        | {
            "modalities": modalities,
            "log_mel": LogMelSettings(**values["log_mel"]),
            "label_names": tuple(values["label_names"]),
            "shards": tuple(ShardInfo(**shard) for shard in values["shards"]),
        }
    )


def write_dataset_info(records_dir: str, info: DatasetInfo) -> None:
    """Writes dataset_info.json, whole or not at all."""
    text = json.dumps(to_json(info), indent=2, ensure_ascii=False) + "\n"
    files.write_text(os.path.join(records_dir, INFO_FILE), text)


def to_json(info: DatasetInfo) -> dict:
    """What dataset_info.json holds, of types that JSON has."""
    return info._asdict() | {
        "log_mel": info.log_mel._asdict(),
        "limits": dict(info.limits),
        # Without what is not known, as an earlier version wrote it.
        "shards": [
            {key: value for key, value in shard._asdict().items() if value is not None}
            for shard in info.shards
        ],
    }


def differences(before: DatasetInfo, now: DatasetInfo) -> list[str]:
    """The keys in which two descriptions of records differ, with both values.

    What either side does not say, being of an earlier program, is not compared.
    """
    was, values = _flat(before), _flat(now)
    return [
        f"{key} {was[key]!r} there, {value!r} now"
        for key, value in values.items()
        if key in was and was[key] != value
    ]


def _flat(info: DatasetInfo) -> dict[str, object]:
    """What dataset_info.json says, with a key for each single value."""
    values = to_json(info)
    shards = dict(enumerate(values.pop("shards")))
    flat = {"number of shards": len(shards)}
    parts = {key: values.pop(key) for key in ("log_mel", "limits")}
    parts |= {f"shards[{number}]": shard for number, shard in shards.items()}
    for name, part in parts.items():
        flat |= {f"{name}.{key}": value for key, value in part.items()}
    return values | flat


def read_examples(records_dir: str, info: DatasetInfo | None = None) -> Examples:
    """Reads examples.csv of a complete directory of records.

    Args:
        records_dir: local or remote.
        info: its read_dataset_info, if that is known already.

    Raises:
        FileNotFoundError: the directory holds no finished conversion.
        ValueError: dataset_info.json or examples.csv cannot be read, or they do not
            agree.
    """
    info = info or read_dataset_info(records_dir)
    path = os.path.join(records_dir, EXAMPLES_FILE)
    label_of_name = {name: label for label, name in enumerate(info.label_names)}
    label_of_name[""] = -1
    number_of_shard = {shard.file: k for k, shard in enumerate(info.shards)}
    columns: tuple[list[Any], ...] = tuple([] for _ in Examples._fields)
    ids: set[str] = set()
    last_index = -1
    for line, values in read_csv(path, ExampleRow._fields):
        try:
            row = _example_row(values)
            _check_row(row, info, last_index, label_of_name, number_of_shard)
            # Segments of rows that overlap may have one name.
            if row.video_id in ids and info.segment_secs is None:
                raise ValueError(f"video_id {shown(row.video_id)} is there twice")
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; convert again.") from error
        last_index = row.example_index
        ids.add(row.video_id)
        entry = (*row[:2], label_of_name[row.label], *row[3:])
        for column, value in zip(columns, entry, strict=True):  # of the same order
            column.append(value)
    counts = np.bincount(
        np.array([number_of_shard[name] for name in columns[3]], np.int64),
        minlength=len(info.shards),
    )
    for shard, count in zip(info.shards, counts.tolist(), strict=True):
        if count != shard.num_examples:
            raise ValueError(
                f"{path} has {count} rows of {shard.file}, and {INFO_FILE} says "
                f"{shard.num_examples}; convert again."
            )
    kinds = np.int64, np.str_, np.int64, np.str_, np.float64, np.float64
    return Examples(*map(np.array, columns, kinds))


def _example_row(values: list[str]) -> ExampleRow:
    """Raises ValueError on a text that is no number."""
    index, video_id, label, shard, start_secs, end_secs = values
    return ExampleRow(
        example_index=_whole_number("example_index", index),
        video_id=video_id,
        label=label,
        shard=shard,
        start_secs=_secs("start_secs", start_secs),
        end_secs=_secs("end_secs", end_secs),
    )


def _check_row(
    row: ExampleRow,
    info: DatasetInfo,
    last_index: int,
    labels: Mapping[str, int],
    shards: Mapping[str, int],
) -> None:
    """Raises ValueError if a row is none of the directory, or out of its place."""
    index = row.example_index
    if index >= info.num_rows:
        raise ValueError(
            f"example_index {index} is none of the {info.num_rows} rows of {INFO_FILE}"
        )
    if index <= last_index:
        raise ValueError(f"example_index {index} comes after {last_index}")
    if not 0 < len(row.video_id) <= _MAX_ID_CHARS:
        raise ValueError(
            f"a video_id of {len(row.video_id)} characters, which must be 1 to "
            f"{_MAX_ID_CHARS}"
        )
    if row.label not in labels:
        raise ValueError(
            f"label {shown(row.label)} is none of label_names of {INFO_FILE}"
        )
    if row.shard not in shards:
        raise ValueError(f"shard {shown(row.shard)} is none of {INFO_FILE}")
    if index // info.rows_per_shard != shards[row.shard]:
        expected = info.shards[index // info.rows_per_shard].file
        raise ValueError(
            f"example_index {index} is in shard {row.shard}, and should be in "
            f"{expected}"
        )
    if not row.start_secs < row.end_secs:
        raise ValueError(
            f"example_index {index} is from {row.start_secs} to {row.end_secs} s"
        )


def read_refused(records_dir: str) -> list[RefusedRow]:
    """Reads quarantine.csv of a directory of records.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    path = os.path.join(records_dir, QUARANTINE_FILE)
    rows = []
    for line, (name, start_secs, reason, detail) in read_csv(path, RefusedRow._fields):
        try:
            start = _secs("start_secs", start_secs)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; convert again.") from error
        rows.append(RefusedRow(name, start, reason, detail))
    return rows


def read_csv(path: str, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The number of the line and the texts of each row of a table with a header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other columns, or a row more or fewer values than these.
    """
    reader = csv.reader(io.StringIO(files.read_text(path), newline=""), strict=True)
    try:
        header = tuple(next(reader, ()))
        if header != columns:
            raise ValueError(
                f"{path} has columns {','.join(header)[:200]!r}, expected "
                f"{','.join(columns)!r}; convert again."
            )
        for values in reader:
            if not values:  # an empty line
                continue
            if len(values) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(values)} values, expected "
                    f"{len(columns)}; convert again."
                )
            yield reader.line_num, values
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; convert again."
        ) from error


def _whole_number(name: str, text: str) -> int:
    # int() would take "1_0", " 1" and digits of all scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError(f"{name} {text[:40]!r} is no row's number")
    return int(text)


def _secs(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _MAX_SECS:
        raise ValueError(f"{name} {text[:40]!r} is no time in seconds")
    return value


def write_examples(records_dir: str, rows: Iterable[ExampleRow]) -> None:
    """Writes examples.csv, whole or not at all."""
    write_csv(os.path.join(records_dir, EXAMPLES_FILE), ExampleRow._fields, rows)


class ShardRows(NamedTuple):
    """What examples.csv says of a shard: [N] each, by ascending example_index."""

    example_indices: np.ndarray
    start_secs: np.ndarray
    end_secs: np.ndarray


class Promised(NamedTuple):
    """What a directory says of its shards; they are checked against it when read.

    Attributes:
        fps: frames per second.
        short_side: pixels of every frame's shorter side.
        log_mel: of the records that have sound.
        rows: by the shard's path.
    """

    fps: float
    short_side: int
    log_mel: LogMelSettings
    rows: Mapping[str, ShardRows]


def promised(records_dir: str, info: DatasetInfo, examples: Examples) -> Promised:
    """What the shards of a directory must hold.

    Args:
        records_dir: local or remote.
        info: its read_dataset_info.
        examples: its read_examples, all of them.
    """
    ends = np.cumsum([shard.num_examples for shard in info.shards])
    columns = examples.example_indices, examples.start_secs, examples.end_secs
    # The rows of examples.csv are in the shards' order.
    parts = zip(*(np.split(column, ends[:-1]) for column in columns), strict=True)
    return Promised(
        fps=info.fps,
        short_side=info.short_side,
        log_mel=info.log_mel,
        rows={
            path: ShardRows(*part)
            for path, part in zip(shard_paths(records_dir, info), parts, strict=True)
        },
    )


class _Lines(list):
    """Lines that a csv.writer writes, ended by a line feed alone."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def write_csv(path: str, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes a CSV file with a header, whole or not at all."""
    # Python quotes a carriage return if lines end with one, which it takes for a line.
    writer = csv.writer(lines := _Lines(), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write_text(path, "".join(lines))


def shard_paths(records_dir: str, info: DatasetInfo) -> list[str]:
    """Paths of all files of records, in order."""
    return [os.path.join(records_dir, shard.file) for shard in info.shards]
