"""Manifest rows -> shards of records, a quarantine report and dataset_info.json.

Shard k holds the usable ones of rows [k * rows_per_shard, (k + 1) * rows_per_shard), in
their order, so that its bytes depend neither on the number of workers nor on who
finished first. Files appear under their final name when complete, dataset_info.json
last of all.
"""

import collections
import functools
import math
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_prep.manifest import Manifest, ManifestRow, read_manifest
from data_prep.workers import (
    ConversionSettings,
    ConvertedRow,
    Outcome,
    convert_row,
    map_in_processes,
)
from xdc_tf.data import dataset_info, log_mel, record_index, records
from xdc_tf.data.dataset_info import (
    AUDIO,
    MODALITIES,
    VIDEO,
    DatasetInfo,
    ExampleRow,
    ShardInfo,
    order_modalities,
)

QUARANTINE_FILE = "quarantine.csv"
_QUARANTINE_COLUMNS = ("path", "start_secs", "reason", "detail")
_CONVERTIBLE = ((VIDEO,), MODALITIES)


class _Moments(NamedTuple):
    """Running sums over all log-mel values."""

    count: int = 0
    total: float = 0.0
    total_squares: float = 0.0


def convert_manifest(
    manifest_path: str,
    out_dir: str,
    *,
    settings: ConversionSettings,
    num_workers: int,
    rows_per_shard: int = 64,
    timeout_secs: float = 300.0,
) -> DatasetInfo:
    """Converts the videos of a manifest, and prints a summary.

    Args:
        manifest_path: CSV file, see data_prep.manifest.
        out_dir: directory of the records, local or remote (s3://...). If it is complete
            and of the same manifest and settings, nothing is done; what an unfinished
            conversion left in it is replaced.
        settings: what to store.
        num_workers: processes that decode.
        rows_per_shard: manifest rows per file of records.
        timeout_secs: wall-clock limit per row.

    Returns:
        What dataset_info.json says.

    Raises:
        FileNotFoundError: no such manifest.
        ValueError: bad settings or manifest, out_dir complete with others, or no row
            usable.
    """
    _validate(settings, num_workers, rows_per_shard, timeout_secs)
    manifest = read_manifest(manifest_path)
    if "://" in out_dir:
        from xdc_tf import compat

        compat.enable_remote_paths(out_dir)
    promised = _promised_info(manifest, settings, rows_per_shard)
    if tf.io.gfile.exists(os.path.join(out_dir, dataset_info.INFO_FILE)):
        info = dataset_info.read_dataset_info(out_dir)
        _check_same_conversion(out_dir, info, promised)
        for path in dataset_info.shard_paths(out_dir, info):
            if not tf.io.gfile.exists(path + record_index.SUFFIX):
                record_index.index_shard(path)
        print(f"{out_dir} is complete: {info.num_examples} examples. Nothing to do.")
        return info
    tf.io.gfile.makedirs(out_dir)
    _remove_leftovers(out_dir)

    outcomes = map_in_processes(
        functools.partial(convert_row, settings=settings),
        manifest.rows,
        num_workers=num_workers,
        timeout_secs=timeout_secs,
    )
    examples: list[ExampleRow] = []
    quarantine: list[tuple[ManifestRow, Outcome]] = []
    shards: list[ShardInfo] = []
    moments = _Moments()
    num_shards = math.ceil(len(manifest.rows) / rows_per_shard)
    with tqdm(total=len(manifest.rows), unit="video", disable=None) as progress:
        for shard_index in range(num_shards):
            first = shard_index * rows_per_shard
            rows = manifest.rows[first : first + rows_per_shard]
            file = f"records-{shard_index:05d}-of-{num_shards:05d}.tfrecord"
            path = os.path.join(out_dir, file)
            num_before = len(examples)
            with record_index.ShardWriter(path) as writer:
                # rows first: at their end, zip must not have taken another outcome.
                for row, outcome in zip(rows, outcomes, strict=False):
                    if outcome.result is None:
                        quarantine.append((row, outcome))
                    else:
                        label = _label_index(row, manifest)
                        writer.write(_encode(row, label, outcome.result, settings.fps))
                        examples.append(
                            _example_row(row, file, outcome.result, settings.fps)
                        )
                        if outcome.result.log_mel is not None:
                            moments = _add(moments, outcome.result.log_mel)
                    progress.update()
            shards.append(ShardInfo(file, len(examples) - num_before))
    if len(examples) + len(quarantine) != len(manifest.rows):
        raise RuntimeError(
            f"{len(examples)} converted and {len(quarantine)} quarantined rows do not "
            f"make the {len(manifest.rows)} rows of {manifest_path}."
        )
    _write_quarantine(out_dir, quarantine)
    if not examples:
        raise ValueError(
            f"none of the {len(manifest.rows)} rows of {manifest_path} could be used "
            f"({_count_reasons(quarantine)}); "
            f"see {os.path.join(out_dir, QUARANTINE_FILE)}."
        )
    mean, std = _mean_and_std(moments)
    info = promised._replace(
        num_examples=len(examples),
        num_quarantined=len(quarantine),
        log_mel_mean=mean,
        log_mel_std=std,
        shards=tuple(shards),
    )
    dataset_info.write_examples(out_dir, examples)
    dataset_info.write_dataset_info(out_dir, info)
    print(
        f"{len(examples)} of {len(manifest.rows)} rows converted into {len(shards)} "
        f"shards in {out_dir}; {len(quarantine)} quarantined"
        + (
            f" ({_count_reasons(quarantine)}), see {QUARANTINE_FILE}."
            if quarantine
            else "."
        )
    )
    return info


def _validate(
    settings: ConversionSettings,
    num_workers: int,
    rows_per_shard: int,
    timeout_secs: float,
) -> None:
    modalities = order_modalities(settings.modalities)
    if modalities not in _CONVERTIBLE:
        raise ValueError(
            f"modalities={','.join(modalities)} cannot be converted; choose "
            f"{' or '.join(','.join(names) for names in _CONVERTIBLE)}."
        )
    if settings.store_waveform and AUDIO not in modalities:
        raise ValueError(
            f"store_waveform needs sound, and modalities={','.join(modalities)} leaves "
            "it out; add audio to modalities or drop store_waveform."
        )
    log_mel.validate(settings.log_mel)
    positive = {
        "fps": settings.fps,
        "short_side": settings.short_side,
        "max_secs": settings.max_secs,
        "num_workers": num_workers,
        "rows_per_shard": rows_per_shard,
        "timeout_secs": timeout_secs,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
    if not 1 <= settings.jpeg_quality <= 95:
        raise ValueError(
            f"jpeg_quality must be from 1 to 95, got {settings.jpeg_quality}."
        )
    if not 0 <= settings.min_secs <= settings.max_secs:
        raise ValueError(
            f"need 0 <= min_secs <= max_secs, got min_secs={settings.min_secs}, "
            f"max_secs={settings.max_secs}."
        )


def _promised_info(
    manifest: Manifest, settings: ConversionSettings, rows_per_shard: int
) -> DatasetInfo:
    """What is known before converting; the results are still zero."""
    return DatasetInfo(
        manifest_sha256=manifest.sha256,
        num_rows=len(manifest.rows),
        num_examples=0,
        num_quarantined=0,
        fps=settings.fps,
        short_side=settings.short_side,
        jpeg_quality=settings.jpeg_quality,
        min_secs=settings.min_secs,
        max_secs=settings.max_secs,
        has_waveform=settings.store_waveform,
        rows_per_shard=rows_per_shard,
        log_mel=settings.log_mel,
        log_mel_mean=0.0,
        log_mel_std=0.0,
        label_names=manifest.label_names,
        shards=(),
        modalities=order_modalities(settings.modalities),
    )


def _check_same_conversion(
    out_dir: str, info: DatasetInfo, promised: DatasetInfo
) -> None:
    results = ("num_examples", "num_quarantined", "log_mel_mean", "log_mel_std")
    differing = [
        f"{key}: {was} there, {asked} asked for"
        for key, was, asked in zip(info._fields, info, promised, strict=True)
        if key not in (*results, "shards") and was != asked
    ]
    if differing:
        raise ValueError(
            f"{out_dir} is a complete conversion of another manifest or with other "
            f"settings ({'; '.join(differing)}); choose another --out or delete it."
        )


def _remove_leftovers(out_dir: str) -> None:
    """Deletes shards of an unfinished conversion, of which there may have been more."""
    for path in tf.io.gfile.glob(os.path.join(out_dir, "records-*-of-*.tfrecord*")):
        tf.io.gfile.remove(path)


def _label_index(row: ManifestRow, manifest: Manifest) -> int:
    return manifest.label_names.index(row.label) if row.label else records.NO_LABEL


def _encode(row: ManifestRow, label: int, converted: ConvertedRow, fps: float) -> bytes:
    end_secs = row.start_secs + len(converted.frames_jpeg) / fps
    return records.encode_example(
        example_index=row.example_index,
        data_path=row.path,
        video_id=row.video_id,
        frames_jpeg=converted.frames_jpeg,
        log_mel=converted.log_mel,
        start_us=round(row.start_secs * 1e6),
        end_us=round(end_secs * 1e6),
        frame_rate=fps,
        height=converted.height,
        width=converted.width,
        label=label,
        label_text=row.label,
        waveform=converted.waveform,
    )


def _example_row(
    row: ManifestRow, file: str, converted: ConvertedRow, fps: float
) -> ExampleRow:
    return ExampleRow(
        example_index=row.example_index,
        video_id=row.video_id,
        label=row.label,
        shard=file,
        start_secs=round(row.start_secs, 6),
        end_secs=round(row.start_secs + len(converted.frames_jpeg) / fps, 6),
    )


def _add(moments: _Moments, values: np.ndarray) -> _Moments:
    return _Moments(
        count=moments.count + values.size,
        total=moments.total + float(values.sum(dtype=np.float64)),
        total_squares=moments.total_squares
        + float(np.square(values, dtype=np.float64).sum()),
    )


def _mean_and_std(moments: _Moments) -> tuple[float, float]:
    """0 and 1, which change nothing, if there were no values."""
    if not moments.count:
        return 0.0, 1.0
    mean = moments.total / moments.count
    variance = moments.total_squares / moments.count - mean * mean
    return mean, math.sqrt(max(variance, 0.0))


def _write_quarantine(
    out_dir: str, quarantine: list[tuple[ManifestRow, Outcome]]
) -> None:
    dataset_info.write_csv(
        os.path.join(out_dir, QUARANTINE_FILE),
        _QUARANTINE_COLUMNS,
        (
            (row.path, row.start_secs, outcome.reason, outcome.detail)
            for row, outcome in quarantine
        ),
    )


def _count_reasons(quarantine: list[tuple[ManifestRow, Outcome]]) -> str:
    counts = collections.Counter(outcome.reason for _, outcome in quarantine)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
