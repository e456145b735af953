"""What a directory of records says about itself: dataset_info.json and examples.csv.

dataset_info.json is written last, so a directory that has one is complete.
"""

import csv
import io
import json
import os
import types
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from xdc_tf import files
from xdc_tf.data.log_mel import LogMelSettings

INFO_FILE = "dataset_info.json"
EXAMPLES_FILE = "examples.csv"
FORMAT_VERSION = 1

VIDEO, AUDIO = "video", "audio"
# All that a record can hold, in the order in which they are listed.
MODALITIES: tuple[str, ...] = (VIDEO, AUDIO)


# Keys that files of earlier programs lack, and what they mean there.
_SINCE_VERSION_1 = {
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
    """Checks that records hold what is wanted of them.

    Args:
        info: what the records say about themselves.
        wanted: names of modalities.
        directory: the records' directory, for the message.

    Raises:
        ValueError: the records lack one of them, or a name is unknown.
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


def read_dataset_info(records_dir: str) -> DatasetInfo:
    """Reads dataset_info.json of a directory of records.

    A file of an earlier program is of records that hold both modalities and of rows
    that are not cut.

    Raises:
        FileNotFoundError: the directory has none: no records, or an unfinished
            conversion.
        ValueError: it cannot be read, or is of another format version.
    """
    path = os.path.join(records_dir, INFO_FILE)
    try:
        values = json.loads(files.read_text(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist: {records_dir} holds no finished conversion; "
            "make one with python -m data_prep.convert."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); convert again.") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version!r}, this program reads "
            f"{FORMAT_VERSION}; convert again."
        )
    values = _SINCE_VERSION_1 | values
    differing = set(values) ^ set(DatasetInfo._fields)
    if differing:
        raise ValueError(
            f"{path} lacks or adds the keys {sorted(differing)}; convert again."
        )
    try:
        modalities = order_modalities(values["modalities"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error} Convert again.") from error
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


def read_examples(records_dir: str) -> Examples:
    """Reads examples.csv of a complete directory of records.

    Raises:
        FileNotFoundError: the directory holds no finished conversion.
        ValueError: dataset_info.json or examples.csv cannot be read.
    """
    info = read_dataset_info(records_dir)
    path = os.path.join(records_dir, EXAMPLES_FILE)
    reader = csv.DictReader(io.StringIO(files.read_text(path), newline=""))
    rows = list(reader)
    columns = tuple(reader.fieldnames or ())
    if columns != ExampleRow._fields or len(rows) != info.num_examples:
        raise ValueError(
            f"{path} has columns {columns} and {len(rows)} rows, expected "
            f"{ExampleRow._fields} and {info.num_examples}; convert again."
        )
    label_of_name = {name: label for label, name in enumerate(info.label_names)}
    label_of_name[""] = -1
    return Examples(
        example_indices=np.array([int(r["example_index"]) for r in rows], np.int64),
        video_ids=np.array([r["video_id"] for r in rows], np.str_),
        labels=np.array([label_of_name[r["label"]] for r in rows], np.int64),
        shards=np.array([r["shard"] for r in rows], np.str_),
        start_secs=np.array([float(r["start_secs"]) for r in rows], np.float64),
        end_secs=np.array([float(r["end_secs"]) for r in rows], np.float64),
    )


def write_examples(records_dir: str, rows: Iterable[ExampleRow]) -> None:
    """Writes examples.csv, whole or not at all."""
    write_csv(os.path.join(records_dir, EXAMPLES_FILE), ExampleRow._fields, rows)


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
