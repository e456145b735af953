"""Whether dataset_info.json, which may be a stranger's, says what can be true."""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from xdc_tf.data import log_mel
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime.files import member_path

if TYPE_CHECKING:
    from xdc_tf.data.dataset_info import DatasetInfo

_MAX_COUNT = 1 << 40
_MAX_SECS = 1e12
_MAX_JPEG_SIDE = 65500  # of the format


class _Range(NamedTuple):
    """The numbers that a key may have: in [low, high], or above low."""

    kind: type  # int, or float for both
    low: float
    high: float
    is_open: bool = False
    is_optional: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        low = f"above {self.low:g}" if self.is_open else f"from {self.low:g}"
        optional = ", or null" if self.is_optional else ""
        return f"{kind} {low} to {self.high:g}{optional}"

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.is_optional
        # In Python, a bool is an int as well.
        if type(value) not in (int, self.kind):
            return False
        above = value > self.low if self.is_open else value >= self.low
        return above and value <= self.high


_COUNT = _Range(int, 0, _MAX_COUNT)
_AT_LEAST_1 = _Range(int, 1, _MAX_COUNT)
_SECS = _Range(float, 0, _MAX_SECS)
_NUMBERS = {
    "num_rows": _COUNT,
    "num_examples": _COUNT,
    "num_quarantined": _COUNT,
    "fps": _Range(float, 0, 1e6, is_open=True),
    "short_side": _Range(int, 1, _MAX_JPEG_SIDE),
    "jpeg_quality": _Range(int, 1, 100),
    "min_secs": _SECS,
    "max_secs": _SECS,
    "rows_per_shard": _AT_LEAST_1,
    "log_mel_mean": _Range(float, -1e6, 1e6),
    "log_mel_std": _Range(float, 0, 1e6),
    "segment_secs": _Range(float, 0, _MAX_SECS, is_open=True, is_optional=True),
    "max_segments": _AT_LEAST_1._replace(is_optional=True),
}
_SHARD_NUMBERS = {
    "num_examples": _COUNT,
    "num_bytes": _COUNT._replace(is_optional=True),
    "index_bytes": _COUNT._replace(is_optional=True),
}


def value_faults(
    values: Mapping[str, Any], directory: str, *, has_audio: bool
) -> Iterator[str]:
    """What is no value of its key, each with the key and the value.

    Args:
        values: of the keys of dataset_info.json, all of which are there.
        directory: of the records, for messages.
        has_audio: whether log_mel says something.
    """
    yield from _number_faults(values, _NUMBERS)
    digest = values["manifest_sha256"]
    if not isinstance(digest, str):
        yield f"manifest_sha256={shown(digest)} must be a text"
    for key in ("has_waveform", "several_labels"):
        if not isinstance(values[key], bool):
            yield f"{key}={shown(values[key])} must be true or false"
    names = values["label_names"]
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name for name in names
    ):
        yield f"label_names={shown(names)} must be a list of texts"
    elif len(set(names)) != len(names):
        ((name, _),) = collections.Counter(names).most_common(1)
        yield f"label_names has {shown(name)} twice"
    limits = values["limits"]
    if not isinstance(limits, dict) or not all(
        type(limit) in (bool, int, float) and limit >= 0 for limit in limits.values()
    ):
        yield f"limits={shown(limits)} must be numbers by name"
    yield from _log_mel_faults(values["log_mel"], has_audio=has_audio)
    yield from _shard_faults(values["shards"], directory)


def _number_faults(
    values: Mapping[str, Any], ranges: Mapping[str, _Range]
) -> Iterator[str]:
    for key, numbers in ranges.items():
        if not numbers.holds(values.get(key)):
            yield f"{key}={shown(values.get(key))} must be {numbers}"


def _log_mel_faults(values: Any, *, has_audio: bool) -> Iterator[str]:
    if not isinstance(values, dict) or set(values) != set(LogMelSettings._fields):
        yield f"log_mel={shown(values)} must have {', '.join(LogMelSettings._fields)}"
        return
    for key, default in LogMelSettings()._asdict().items():
        kinds = (int,) if isinstance(default, int) else (int, float)
        if type(values[key]) not in kinds:
            yield f"log_mel.{key}={shown(values[key])} must be a number"
            return
    if has_audio:
        try:
            log_mel.validate(LogMelSettings(**values))
        except ValueError as error:
            yield f"log_mel: {error}"


def _shard_faults(shards: Any, directory: str) -> Iterator[str]:
    if not isinstance(shards, list):
        yield f"shards={shown(shards)} must be a list"
        return
    for number, shard in enumerate(shards):
        where = f"shards[{number}]"
        if not isinstance(shard, dict) or not (
            {"file", "num_examples"} <= set(shard) <= {"file", *_SHARD_NUMBERS}
        ):
            yield f"{where}={shown(shard)} must have file and num_examples"
            return
        try:
            member_path(directory, shard["file"])
        except ValueError as error:
            yield f"{where}: {error}"
            return
        for fault in _number_faults(shard, _SHARD_NUMBERS):
            yield f"{where}.{fault}"
            return


def contradictions(info: "DatasetInfo") -> Iterator[str]:
    """What cannot all be true of values that each could be."""
    if info.num_rows != info.num_examples + info.num_quarantined:
        yield (
            f"num_rows={info.num_rows} is not num_examples={info.num_examples} + "
            f"num_quarantined={info.num_quarantined}"
        )
    in_shards = sum(shard.num_examples for shard in info.shards)
    if in_shards != info.num_examples:
        yield f"the shards have {in_shards} examples, num_examples={info.num_examples}"
    if len(info.shards) != math.ceil(info.num_rows / info.rows_per_shard):
        yield (
            f"{len(info.shards)} shards do not hold num_rows={info.num_rows} with "
            f"rows_per_shard={info.rows_per_shard}"
        )
    for shard in info.shards:
        if shard.num_examples > info.rows_per_shard:
            yield (
                f"{shard.file} has num_examples={shard.num_examples}, more than "
                f"rows_per_shard={info.rows_per_shard}"
            )
            break
    names = [shard.file for shard in info.shards]
    if len(set(names)) != len(names):
        yield "a shard is listed twice"
    if not info.min_secs <= info.max_secs:
        yield f"min_secs={info.min_secs} is above max_secs={info.max_secs}"


def raise_first(path: str, faults: Iterator[str]) -> None:
    """Raises the first of the faults of a file, if there is one.

    Raises:
        ValueError: names the file and what is wrong.
    """
    fault = next(faults, None)
    if fault is not None:
        raise ValueError(f"{path}: {fault.rstrip('.')}; convert again.")


def shown(value: Any) -> str:
    """A value for a message, which must stay a short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
