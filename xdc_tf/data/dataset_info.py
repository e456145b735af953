"""What a directory of records says about itself, in dataset_info.json.

dataset_info.json is written last, so a directory that has one is complete. All of it
may be a stranger's and is checked where it is read.
"""

import json
import os
import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from xdc_tf.data import info_checks, payloads
from xdc_tf.data.info_checks import shown
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import AUDIO, MODALITIES, Stored
from xdc_tf.runtime import files, typed_settings

INFO_FILE = "dataset_info.json"
FORMAT_VERSION = 1
# Of an example without a label, true or of a cluster.
NO_LABEL = -1
# Keys that files of earlier programs lack, and what they mean there.
_SINCE_VERSION_1: dict[str, Any] = {
    "modalities": list(MODALITIES),
    "segment_secs": None,
    "max_segments": None,
    "limits": {},
    "payloads": {},
    "several_labels": False,
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
    `payloads` are those that are not JPEG images or the log-mel, see payloads.stored;
    `several_labels` is whether an example may have several. Without any, and where it
    is false, the file lacks the key, as files of earlier programs do.
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
    payloads: tuple[Stored, ...] = ()
    several_labels: bool = False
    format_version: int = FORMAT_VERSION


def order_modalities(names: Iterable[str]) -> tuple[str, ...]:
    """The modalities of these names, each once, in the order of MODALITIES.

    Raises:
        ValueError: one is unknown, or none is named.
    """
    names = list(names)
    if not names or any(name not in MODALITIES for name in names):
        raise ValueError(
            f"modalities={names} must be one or more of {', '.join(MODALITIES)}."
        )
    return tuple(name for name in MODALITIES if name in names)


def check_modalities(
    info: DatasetInfo, modalities: Iterable[str], directory: str
) -> None:
    """Checks that records hold some modalities, and audio that is not all alike.

    Args:
        info: what the records say about themselves.
        modalities: names of those that must be there.
        directory: the records' directory, for the message.

    Raises:
        ValueError: the records lack one of them, a name is unknown, or all log-mel
            values are the same.
    """
    modalities = order_modalities(modalities)
    missing = [name for name in modalities if name not in info.modalities]
    if missing:
        needed = order_modalities((*modalities, *info.modalities))
        raise ValueError(
            f"{directory} holds {' and '.join(info.modalities)} but no "
            f"{' and '.join(missing)}, which is needed; convert its manifest with "
            f"--modalities={','.join(needed)} to another directory, or use "
            f"{' and '.join(info.modalities)} alone."
        )
    if AUDIO in modalities and not info.log_mel_std > 0:
        raise ValueError(
            f"{directory} has log_mel_std={info.log_mel_std} in {INFO_FILE}: all of "
            "its sound is alike, as silence is, and there is nothing to learn from it; "
            "convert other files, or use video alone."
        )


def check_audio(
    info: DatasetInfo, audio: Stored, sample_rate_hz: int, directory: str
) -> None:
    """Checks that records, if they hold audio, hold what a run's encoders take.

    Args:
        info: what the records say about themselves.
        audio: the payload that the run's configuration, or its records, have.
        sample_rate_hz: of the run.
        directory: the records' directory, for the message.

    Raises:
        ValueError: names each setting that differs.
    """
    if AUDIO not in info.modalities:
        return
    stored = payloads.stored(info, AUDIO)
    if stored.name != audio.name:
        raise ValueError(
            f"{directory} holds {stored.title}, and the audio encoder takes "
            f"{audio.title}. Convert again with the run's payload, or use another run."
        )
    there = typed_settings.to_mapping(stored.settings)
    there["sample_rate_hz"] = info.log_mel.sample_rate_hz
    here = typed_settings.to_mapping(audio.settings)
    here["sample_rate_hz"] = sample_rate_hz
    differing = [
        f"{key} ({there[key]} in the records, {value} in the config)"
        for key, value in here.items()
        if there[key] != value
    ]
    if differing:
        raise ValueError(
            f"{directory} was converted with another {audio.title} setting than "
            f"config.log_mel: {', '.join(differing)}. Convert again with the config's, "
            "or set config.log_mel to the records'."
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
    try:
        others = payloads.from_mappings(values["payloads"])
    except ValueError as error:
        raise ValueError(f"{path}: {error} Convert again.") from error
    return DatasetInfo(
        **values
        | {
            "modalities": modalities,
            "payloads": others,
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
    values = info._asdict()
    others = payloads.to_mappings(values.pop("payloads"))
    several = values.pop("several_labels")
    return (
        values
        | ({"payloads": others} if others else {})
        | ({"several_labels": True} if several else {})
        | {
            "log_mel": info.log_mel._asdict(),
            "limits": dict(info.limits),
            # Without what is not known, as an earlier version wrote it.
            "shards": [
                {
                    key: value
                    for key, value in shard._asdict().items()
                    if value is not None
                }
                for shard in info.shards
            ],
        }
    )


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
    flat["payloads"] = values.pop("payloads", {})
    flat["several_labels"] = values.pop("several_labels", False)
    parts = {key: values.pop(key) for key in ("log_mel", "limits")}
    parts |= {f"shards[{number}]": shard for number, shard in shards.items()}
    for name, part in parts.items():
        flat |= {f"{name}.{key}": value for key, value in part.items()}
    return values | flat


def shard_paths(records_dir: str, info: DatasetInfo) -> list[str]:
    """Paths of all files of records, in order."""
    return [os.path.join(records_dir, shard.file) for shard in info.shards]
