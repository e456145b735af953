"""A manifest -> a directory of records.

Shards are made by a pool of processes here, or by an Apache Beam runner; then their
reports become examples.csv, quarantine.csv and, last of all, dataset_info.json. What an
interrupted conversion has finished is kept: PROGRESS_DIR says what it is.
"""

import collections
import json
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from data_prep import conversion_settings, progress_bar, segments
from data_prep import shards as shard_files
from data_prep.answers import Outcome
from data_prep.conversion_settings import ConversionSettings
from data_prep.manifest import Manifest, ManifestRow, read_manifest
from data_prep.segments import Segmentation
from data_prep.shards import PROGRESS_DIR, RefusedRow, ShardReport, TruncatedRow
from data_prep.workers import Limits
from xdc_tf import compat, files
from xdc_tf.data import dataset_info, record_index
from xdc_tf.data.dataset_info import (
    QUARANTINE_FILE,
    DatasetInfo,
    ShardInfo,
    order_modalities,
)

TRUNCATED_FILE = "truncated.csv"

_LIMITS = Limits()
_WHOLE_ROWS = Segmentation()

_PLAN_FILE = "plan.json"
_CUTS_FILE = "segments.csv"


class BeamRunner(NamedTuple):
    """An Apache Beam runner, and options of Beam's own, as NAME=VALUE or NAME."""

    name: str
    options: Sequence[str] = ()


def convert_manifest(
    manifest_path: str,
    out_dir: str,
    *,
    settings: ConversionSettings,
    num_workers: int,
    rows_per_shard: int = 64,
    limits: Limits = _LIMITS,
    segmentation: Segmentation = _WHOLE_ROWS,
    labels: str | None = None,
    beam: BeamRunner | None = None,
) -> DatasetInfo:
    """Converts the videos of a manifest, and prints a summary.

    Args:
      manifest_path: CSV file, see data_prep.manifest; local or remote.
      out_dir: directory of the records, local or remote (s3://...). If it is complete
        and of the same manifest and settings, nothing is done; what an unfinished
        conversion has finished is kept.
      settings: what to store.
      num_workers: processes that decode; with Beam, of each of its workers.
      rows_per_shard: rows per file of records.
      limits: of a row, or of a file whose length is looked at.
      segmentation: how to cut the manifest's rows.
      labels: file of label names, see manifest.read_manifest.
      beam: where to make the shards; None for this machine.

    Returns:
      What dataset_info.json says.

    Raises:
      FileNotFoundError: no such manifest.
      ValueError: bad settings or manifest, out_dir of others, or no row usable.
    """
    _validate(settings, segmentation, num_workers, rows_per_shard, limits)
    manifest = read_manifest(manifest_path, labels=labels)
    compat.enable_remote_paths(out_dir)
    promised = _promised_info(manifest, settings, segmentation, rows_per_shard)
    if tf.io.gfile.exists(os.path.join(out_dir, dataset_info.INFO_FILE)):
        return _leave_alone(out_dir, promised)
    _plan(out_dir, promised)
    rows = _cut(manifest, out_dir, settings, segmentation, num_workers, limits)
    promised = promised._replace(num_rows=len(rows))
    shards = shard_files.cut_into_shards(rows, rows_per_shard)
    done = [report for report in shard_files.read_reports(out_dir, shards) if report]
    have = {report.file for report in done}
    missing = [shard for shard in shards if shard.file not in have]
    arguments = {
        "settings": settings,
        "label_indices": {name: k for k, name in enumerate(manifest.label_names)},
        "num_workers": num_workers,
        "limits": limits,
    }
    if beam is not None:
        from data_prep import beam_pipeline

        beam_pipeline.convert_shards(
            missing, out_dir, runner=beam.name, options=beam.options, **arguments
        )
    else:
        with progress_bar.Progress(len(rows), "video", done) as tell:
            shard_files.convert_shards(missing, out_dir, tell=tell, **arguments)
    reports = shard_files.read_reports(out_dir, shards)
    unmade = [s.file for s, report in zip(shards, reports, strict=True) if not report]
    if unmade:
        raise RuntimeError(f"{out_dir}: the runner left {unmade[:5]} unmade.")
    return _finish(manifest_path, out_dir, promised, reports)


def _validate(
    settings: ConversionSettings,
    segmentation: Segmentation,
    num_workers: int,
    rows_per_shard: int,
    limits: Limits,
) -> None:
    conversion_settings.validate(settings)
    segments.validate(segmentation, settings.min_secs, settings.max_secs)
    positive = {
        "num_workers": num_workers,
        "rows_per_shard": rows_per_shard,
        "timeout_secs": limits.timeout_secs,
        "worker_memory_mib": limits.memory_mib,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def _promised_info(
    manifest: Manifest,
    settings: ConversionSettings,
    segmentation: Segmentation,
    rows_per_shard: int,
) -> DatasetInfo:
    """What is known before converting; the results are still zero."""
    names = (
        *("keep_truncated", "max_length_ratio", "max_file_mib", "max_megapixels"),
        "max_frames",
    )
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
        segment_secs=segmentation.segment_secs,
        max_segments=segmentation.max_segments,
        limits={name: getattr(settings, name) for name in names},
    )


def _leave_alone(out_dir: str, promised: DatasetInfo) -> DatasetInfo:
    """What a complete directory says, if it is the one asked for."""
    info = dataset_info.read_dataset_info(out_dir)
    results = {"num_rows", "num_examples", "num_quarantined", "shards"}
    results |= {"log_mel_mean", "log_mel_std"}
    if not info.limits:  # of an earlier program, which did not tell
        results.add("limits")
    differing = [
        f"{key}: {was} there, {asked} asked for"
        for key, was, asked in zip(info._fields, info, promised, strict=True)
        if key not in results and was != asked
    ]
    if differing:
        raise ValueError(
            f"{out_dir} is a complete conversion of another manifest or with other "
            f"settings ({'; '.join(differing)}); choose another --out or delete it."
        )
    for path in dataset_info.shard_paths(out_dir, info):
        if not tf.io.gfile.exists(path + record_index.SUFFIX):
            record_index.index_shard(path)
    _remove_progress(out_dir)
    print(f"{out_dir} is complete: {info.num_examples} examples. Nothing to do.")
    return info


def _plan(out_dir: str, promised: DatasetInfo) -> None:
    """Notes down what the directory will be of, or checks that it is of the same.

    Raises:
      ValueError: it is the beginning of another conversion.
    """
    progress = os.path.join(out_dir, PROGRESS_DIR)
    path = os.path.join(progress, _PLAN_FILE)
    wanted = dataset_info.to_json(promised)
    if tf.io.gfile.exists(path):
        found = json.loads(files.read_text(path))
        # As JSON has it: lists for tuples.
        wanted = json.loads(json.dumps(wanted))
        differing = [
            f"{key}: {found.get(key)} there, {value} asked for"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if differing:
            raise ValueError(
                f"{out_dir} is the beginning of a conversion of another manifest or "
                f"with other settings ({'; '.join(differing)}); choose another --out "
                "or delete it."
            )
        return
    tf.io.gfile.makedirs(progress)
    files.write_text(path, json.dumps(wanted, indent=2) + "\n")


def _cut(
    manifest: Manifest,
    out_dir: str,
    settings: ConversionSettings,
    segmentation: Segmentation,
    num_workers: int,
    limits: Limits,
) -> Sequence[ManifestRow]:
    """The rows to convert: the manifest's, or their segments, the same every time."""
    if segmentation.segment_secs is None:
        return manifest.rows
    path = os.path.join(out_dir, PROGRESS_DIR, _CUTS_FILE)
    if not tf.io.gfile.exists(path):
        cuts = []
        with progress_bar.Progress(len(manifest.rows), "file", ()) as tell:
            for cut in segments.cut_rows(
                manifest.rows,
                segmentation,
                min_secs=settings.min_secs,
                max_file_mib=settings.max_file_mib,
                num_workers=num_workers,
                limits=limits,
            ):
                cuts.append(cut)
                tell(Outcome(cut))
        files.write_text(path, segments.write_cuts(cuts))
    return segments.read_cuts(files.read_text(path), manifest.rows)


def _finish(
    manifest_path: str,
    out_dir: str,
    promised: DatasetInfo,
    reports: Sequence[ShardReport],
) -> DatasetInfo:
    """Puts the reports together, writes what a complete directory has, and tells."""
    examples = [row for report in reports for row in report.examples]
    refused = [row for report in reports for row in report.refused]
    truncated = [row for report in reports for row in report.truncated]
    if len(examples) + len(refused) != promised.num_rows:
        raise RuntimeError(
            f"{len(examples)} converted and {len(refused)} quarantined rows do not "
            f"make the {promised.num_rows} rows of {manifest_path}."
        )
    quarantine = os.path.join(out_dir, QUARANTINE_FILE)
    dataset_info.write_csv(quarantine, RefusedRow._fields, refused)
    if promised.limits["keep_truncated"]:
        path = os.path.join(out_dir, TRUNCATED_FILE)
        dataset_info.write_csv(path, TruncatedRow._fields, truncated)
    if not examples:
        _remove_progress(out_dir)  # nothing of it is worth keeping
        raise ValueError(
            f"none of the {promised.num_rows} rows of {manifest_path} could be used "
            f"({count_reasons(refused)}); see {quarantine}."
        )
    moments = shard_files.Moments()
    for report in reports:
        moments = shard_files.add(moments, report.moments)
    mean, std = _mean_and_std(moments)
    info = promised._replace(
        num_examples=len(examples),
        num_quarantined=len(refused),
        log_mel_mean=mean,
        log_mel_std=std,
        shards=tuple(
            ShardInfo(report.file, len(report.examples)) for report in reports
        ),
    )
    dataset_info.write_examples(out_dir, examples)
    dataset_info.write_dataset_info(out_dir, info)
    _remove_progress(out_dir)
    print(
        f"{len(examples)} of {len(examples) + len(refused)} rows converted into "
        f"{len(info.shards)} shards in {out_dir}; {len(refused)} quarantined"
        + (f" ({count_reasons(refused)}), see {QUARANTINE_FILE}" if refused else "")
        + (f"; {len(truncated)} truncated, see {TRUNCATED_FILE}" if truncated else "")
        + "."
    )
    return info


def _mean_and_std(moments: shard_files.Moments) -> tuple[float, float]:
    """0 and 1, which change nothing, if there were no values."""
    if not moments.count:
        return 0.0, 1.0
    mean = moments.total / moments.count
    variance = moments.total_squares / moments.count - mean * mean
    return mean, math.sqrt(max(variance, 0.0))


def _remove_progress(out_dir: str) -> None:
    """Removes what only an unfinished conversion needs."""
    for name in tf.io.gfile.listdir(out_dir):
        if name.startswith("records-") and name.endswith(".tmp"):
            tf.io.gfile.remove(os.path.join(out_dir, name))
    progress = os.path.join(out_dir, PROGRESS_DIR)
    if tf.io.gfile.exists(progress):
        tf.io.gfile.rmtree(progress)


def count_reasons(refused: Sequence[RefusedRow]) -> str:
    """How many rows each reason has cost: "2 no_audio, 1 timeout"."""
    counts = collections.Counter(row.reason for row in refused)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
