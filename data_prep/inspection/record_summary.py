"""What a directory of records holds, from its tables and the sizes of its files."""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from data_prep.inspection import record_tables
from xdc_tf.data import dataset_info, payloads, record_index
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.runtime import escaping

_FLOAT_BYTES = 4
_MAX_LABELS = 20
_MAX_NAME_CHARS = 40
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def describe(records_dir: str, info: DatasetInfo, examples: Examples) -> list[str]:
    """Lines of counts, durations, labels and storage; no shard is opened.

    Args:
        records_dir: local or remote (s3://...).
        info: its record_tables.read_info.
        examples: its example_tables.read_examples.

    Raises:
        FileNotFoundError: quarantine.csv or truncated.csv is missing.
        ValueError: one of them cannot be read.
    """
    reasons = collections.Counter(record_tables.read_quarantine_reasons(records_dir))
    reasons_text = ", ".join(
        f"{count} {escaping.terminal(reason)}"
        for reason, count in reasons.most_common()
    )
    kept = ""
    if info.limits.get("keep_truncated"):
        num_truncated = record_tables.count_truncated(records_dir)
        kept = f"; {num_truncated} of the converted ones truncated"
    return [
        f"{records_dir}: {' and '.join(info.modalities)}"
        + (", with waveforms" if info.has_waveform else ""),
        f"rows         {info.num_rows}: {info.num_examples} converted, "
        f"{info.num_quarantined} quarantined"
        + (f" ({reasons_text})" if reasons else "")
        + kept,
        *_durations(examples.end_secs - examples.start_secs),
        *_storage(records_dir, info, examples),
        *_labels(info.label_names, examples.label_sets),
    ]


def _durations(secs: np.ndarray) -> Iterator[str]:
    if secs.size:
        yield (
            f"duration     {secs.sum() / 3600:.2f} hours; shortest {secs.min():.2f} s, "
            f"median {np.median(secs):.2f} s, longest {secs.max():.2f} s"
        )


def _storage(records_dir: str, info: DatasetInfo, examples: Examples) -> Iterator[str]:
    """Sizes of shards and their indices, and what of them a video takes on average."""
    paths = dataset_info.shard_paths(records_dir, info)
    sizes = _sizes(paths)
    index_sizes = _sizes([path + record_index.SUFFIX for path in paths])
    values = list(sizes.values()) or [0]
    yield (
        f"shards       {len(sizes)} of {_size(sum(values))}; smallest "
        f"{_size(min(values))}, median {_size(float(np.median(values)))}, largest "
        f"{_size(max(values))}; indices {_size(sum(index_sizes.values()))}"
    )
    for what, present in (("shards", sizes), ("indices", index_sizes)):
        if len(present) < len(paths):
            num_missing = len(paths) - len(present)
            yield f"MISSING      {num_missing} {what}; --verify names them"
    if not len(examples.shard_numbers) or len(sizes) < len(paths):
        return
    yield from _storage_per_video(info, examples, sum(values))


def _storage_per_video(
    info: DatasetInfo, examples: Examples, total_bytes: int
) -> Iterator[str]:
    """Averages; what is neither rows of audio nor waveform is the frames'."""
    num_videos = len(examples.shard_numbers)
    secs = examples.end_secs - examples.start_secs
    parts, rest = [], total_bytes / num_videos
    if AUDIO in info.modalities:
        audio = payloads.stored(info, AUDIO)
        samples = np.round(secs * info.log_mel.sample_rate_hz)
        rows = np.floor(samples / audio.row.hop_samples(audio.settings)).mean()
        row_length = audio.row.row_length(audio.settings)
        num_bytes = rows * row_length * _FLOAT_BYTES
        rest -= num_bytes
        parts.append(f"{audio.title} {rows:.0f} x {row_length}, {_size(num_bytes)}")
        if info.has_waveform:
            num_bytes = samples.mean() * _FLOAT_BYTES
            rest -= num_bytes
            parts.append(f"waveform {_size(num_bytes)}")
    if VIDEO in info.modalities:
        num_frames = np.round(secs * info.fps).mean()
        video = payloads.stored(info, VIDEO)
        kind = "" if video.name in payloads.FIRST else f" as {video.title}"
        parts.insert(
            0,
            f"{num_frames:.0f} frames{kind}, {_size(rest)} "
            f"({_size(rest / max(num_frames, 1.0))} each)",
        )
    yield f"per video    {_size(total_bytes / num_videos)}: {'; '.join(parts)}"


def _labels(names: Sequence[str], label_sets: np.ndarray) -> Iterator[str]:
    """The most frequent ones; those of quarantined rows alone have no example."""
    counts = np.bincount(label_sets[label_sets >= 0], minlength=len(names))
    nums_labels = np.sum(label_sets >= 0, axis=1)
    num_without = int(np.sum(nums_labels == 0))
    unlabelled = f"; {num_without} examples have none" if num_without else ""
    has_several = nums_labels.max(initial=0) > 1
    several = f"; {nums_labels.mean():.2f} per example" if has_several else ""
    yield f"labels       {len(names)}{unlabelled}{several}"
    by_count = np.argsort(-counts, kind="stable")
    shown = by_count[:_MAX_LABELS]
    width = len(str(counts.max(initial=0)))
    for label in shown:
        name = escaping.terminal(names[label], max_chars=_MAX_NAME_CHARS)
        yield f"  {counts[label]:>{width}}  {name}"
    if len(by_count) > len(shown):
        num_more = int(counts[by_count[_MAX_LABELS:]].sum())
        yield f"  and {len(by_count) - len(shown)} more with {num_more} examples"


def _sizes(paths: Sequence[str]) -> Mapping[str, int]:
    """Bytes of those files that exist."""
    return {
        path: tf.io.gfile.stat(path).length
        for path in paths
        if tf.io.gfile.exists(path)
    }


def _size(num_bytes: float) -> str:
    """Three digits and a decimal unit."""
    power = 0
    if num_bytes >= 1:
        power = min(int(math.log10(num_bytes) / 3), len(_UNITS) - 1)
    return f"{num_bytes / 1000**power:.3g} {_UNITS[power]}"
