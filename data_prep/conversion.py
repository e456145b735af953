"""A manifest -> a directory of records.

Shards are made by an engine: a pool of processes here, an Apache Beam runner or a Dask
cluster. Then their reports become examples.csv, quarantine.csv and, last of all,
dataset_info.json, each on disk before the next. What an interrupted conversion has
finished is kept: PROGRESS_DIR says what it is. It stays while rows are refused for what
may have been the machine's fault (TRANSIENT_REASONS): the next call makes their shards
anew.
"""

import collections
import contextlib
import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tqdm import tqdm

from data_prep import conversion_settings, output_directory, segments
from data_prep import shards as shard_files
from data_prep.conversion_settings import ConversionSettings
from data_prep.engines import attempts
from data_prep.engines.local_pool import LOCAL_POOL, Engine, OnRows
from data_prep.engines.worker_checks import WorkerError
from data_prep.manifest import Manifest, ManifestRow, read_manifest
from data_prep.segments import Segmentation
from data_prep.shards import (
    PROGRESS_DIR,
    RefusedRow,
    Shard,
    ShardReport,
    TruncatedRow,
    Work,
)
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo, order_modalities
from xdc_tf.data.example_tables import QUARANTINE_FILE
from xdc_tf.data.label_texts import LabelNumbers
from xdc_tf.runtime import compat, files

TRUNCATED_FILE = "truncated.csv"

_WHOLE_ROWS = Segmentation()

_CUTS_FILE = "segments.csv"
# Seconds between lines of progress where there is no terminal.
_LINE_SECS = 60.0


def convert_manifest(
    manifest_path: str,
    out_dir: str,
    *,
    settings: ConversionSettings,
    pool: PoolSettings,
    rows_per_shard: int = 64,
    segmentation: Segmentation = _WHOLE_ROWS,
    labels: str | None = None,
    engine: Engine = LOCAL_POOL,
) -> DatasetInfo:
    """Converts the videos of a manifest, and prints a summary.

    Args:
      manifest_path: CSV file, see data_prep.manifest; local or remote.
      out_dir: directory of the records, local or remote (s3://...); one process at a
        time writes to a local one. If it is complete and of the same manifest and
        settings, what it promises is checked, lost indices are made anew, and rows
        that were refused for TRANSIENT_REASONS are tried again; what an unfinished
        conversion has finished is kept.
      settings: what to store.
      pool: processes that decode, of each task of a Beam runner or a Dask cluster; and
        the limits of a row, or of a file whose length is looked at.
      rows_per_shard: rows per file of records.
      segmentation: how to cut the manifest's rows.
      labels: file of label names, see manifest.read_manifest.
      engine: where media are decoded.

    Returns:
      What dataset_info.json says.

    Raises:
      FileNotFoundError: no such manifest.
      BlockingIOError: another process is writing to out_dir.
      OSError: a file cannot be written.
      ValueError: bad settings or manifest, out_dir of others or damaged, or no row
        usable.
    """
    _validate(settings, segmentation, pool, rows_per_shard)
    manifest = read_manifest(manifest_path, labels=labels)
    compat.enable_remote_paths(out_dir)
    promised = _promised_info(manifest, settings, segmentation, rows_per_shard)
    info = output_directory.read_complete(out_dir, promised)
    if info is not None and not output_directory.is_to_be_changed(out_dir, info):
        return output_directory.report_complete(out_dir, info)
    output_directory.make(out_dir)
    with output_directory.lock(out_dir):
        info = _repair(out_dir, promised)
        if info is not None:
            return info
        output_directory.write_plan(out_dir, promised)
        rows = _cut(manifest, out_dir, settings, segmentation, pool, engine)
        promised = promised._replace(num_rows=len(rows))
        shards = _convert(rows, out_dir, promised, settings, pool, engine)
        return _finish(manifest_path, out_dir, promised, shards)


def _repair(out_dir: str, promised: DatasetInfo) -> DatasetInfo | None:
    """Makes what a complete directory has lost; None if shards are to be made."""
    info = output_directory.read_complete(out_dir, promised)
    if info is None:
        return None
    output_directory.remake_indices(out_dir, info)
    if output_directory.is_to_be_tried_again(out_dir, promised):
        # Before any shard changes.
        output_directory.remove(os.path.join(out_dir, dataset_info.INFO_FILE))
        return None
    output_directory.remove_progress(out_dir)
    return output_directory.report_complete(out_dir, info)


def _convert(
    rows: Sequence[ManifestRow],
    out_dir: str,
    promised: DatasetInfo,
    settings: ConversionSettings,
    pool: PoolSettings,
    engine: Engine,
) -> list[Shard]:
    """Makes what is missing, and what may turn out better than last time."""
    shards = shard_files.cut_into_shards(rows, promised.rows_per_shard)
    with contextlib.suppress(WorkerError):  # what it is of is made anew
        for _ in attempts.place_finished(out_dir, shards):
            pass
    missing, num_done, num_refused = [], 0, 0
    for shard in shards:
        report = shard_files.read_report(out_dir, shard)
        if report is None or output_directory.transient_rows(report.refused):
            missing.append(shard)
        else:
            num_done += len(report.examples) + len(report.refused)
            num_refused += len(report.refused)
    shard_files.remove_reports(out_dir, missing)
    label_numbers = LabelNumbers(
        {name: number for number, name in enumerate(promised.label_names)},
        promised.several_labels,
    )
    with _Progress(len(rows), "video", num_done, num_refused) as on_rows:
        engine.convert_shards(
            missing,
            out_dir,
            work=Work(settings, label_numbers, pool),
            on_rows=on_rows,
        )
    return shards


def _finished(out_dir: str, shards: Sequence[Shard]) -> Iterator[ShardReport]:
    """The reports of shards that are all made, one in memory at a time."""
    for shard in shards:
        report = shard_files.read_report(out_dir, shard)
        if report is None:
            raise RuntimeError(f"{out_dir}: the engine left {shard.file} unmade.")
        yield report


def _validate(
    settings: ConversionSettings,
    segmentation: Segmentation,
    pool: PoolSettings,
    rows_per_shard: int,
) -> None:
    conversion_settings.validate(settings)
    segments.validate(segmentation, settings.min_secs, settings.max_secs)
    positive = {
        "num_workers": pool.num_workers,
        "rows_per_shard": rows_per_shard,
        "timeout_secs": pool.limits.timeout_secs,
        "worker_memory_mib": pool.limits.memory_mib,
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
        payloads=settings.payloads,
        several_labels=manifest.several_labels,
    )


def _cut(
    manifest: Manifest,
    out_dir: str,
    settings: ConversionSettings,
    segmentation: Segmentation,
    pool: PoolSettings,
    engine: Engine,
) -> Sequence[ManifestRow]:
    """The rows to convert: the manifest's, or their segments, the same every time."""
    if segmentation.segment_secs is None:
        return manifest.rows
    path = os.path.join(out_dir, PROGRESS_DIR, _CUTS_FILE)
    if not tf.io.gfile.exists(path):
        cuts = []
        every_cut = segments.cut_rows(
            manifest.rows,
            segmentation,
            min_secs=settings.min_secs,
            max_file_mib=settings.max_file_mib,
            pool=pool,
            map_groups=functools.partial(
                engine.map_groups, files=[row.file for row in manifest.rows[:1]]
            ),
        )
        with (
            _Progress(len(manifest.rows), "file") as on_rows,
            contextlib.closing(every_cut),
        ):
            for cut in every_cut:
                cuts.append(cut)
                on_rows(1, 0)
        files.write_text(path, segments.write_cuts(cuts))
    try:
        return segments.read_cuts(files.read_text(path), manifest.rows)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not list segments of the manifest's rows ({error}); remove "
            f"{os.path.dirname(path)} and call the same command again."
        ) from error


def _finish(
    manifest_path: str,
    out_dir: str,
    promised: DatasetInfo,
    shards: Sequence[Shard],
) -> DatasetInfo:
    """Writes what a complete directory has, of all reports, and prints a summary."""
    refused: list[RefusedRow] = []
    truncated: list[TruncatedRow] = []
    infos, moments = [], shard_files.Moments()
    for report in _finished(out_dir, shards):
        refused += report.refused
        truncated += report.truncated
        infos.append(ShardInfo(report.file, len(report.examples), *report.num_bytes))
        moments = shard_files.add(moments, report.moments)
    num_examples = sum(info.num_examples for info in infos)
    if num_examples + len(refused) != promised.num_rows:
        raise RuntimeError(
            f"{num_examples} converted and {len(refused)} quarantined rows do not "
            f"make the {promised.num_rows} rows of {manifest_path}."
        )
    quarantine = os.path.join(out_dir, QUARANTINE_FILE)
    example_tables.write_csv(quarantine, RefusedRow._fields, refused)
    if promised.limits["keep_truncated"]:
        path = os.path.join(out_dir, TRUNCATED_FILE)
        example_tables.write_csv(path, TruncatedRow._fields, truncated)
    if not num_examples:
        output_directory.remove_progress(out_dir)  # nothing of it is worth keeping
        raise ValueError(
            f"none of the {promised.num_rows} rows of {manifest_path} could be used "
            f"({count_reasons(refused)}); see {quarantine}."
        )
    mean, std = _mean_and_std(moments)
    info = promised._replace(
        num_examples=num_examples,
        num_quarantined=len(refused),
        log_mel_mean=mean,
        log_mel_std=std,
        shards=tuple(infos),
    )
    # Read again: all rows of a million videos would take most of a GiB.
    example_tables.write_examples(
        out_dir,
        (row for report in _finished(out_dir, shards) for row in report.examples),
    )
    dataset_info.write_dataset_info(out_dir, info)
    transient = output_directory.transient_rows(refused)
    if not transient:
        output_directory.remove_progress(out_dir)
    print(
        f"{num_examples} of {num_examples + len(refused)} rows converted into "
        f"{len(info.shards)} shards in {out_dir}; {len(refused)} quarantined"
        + (f" ({count_reasons(refused)}), see {QUARANTINE_FILE}" if refused else "")
        + (f"; {len(truncated)} truncated, see {TRUNCATED_FILE}" if truncated else "")
        + (
            f"; the same command tries {count_reasons(transient)} again"
            if transient
            else ""
        )
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


def count_reasons(refused: Sequence[RefusedRow]) -> str:
    """How many rows each reason has cost: "2 no_audio, 1 timeout"."""
    counts = collections.Counter(row.reason for row in refused)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


class _Progress:
    """A bar with rate, time left and number of refusals; lines without a terminal.

    As a context, it gives an OnRows.

    Args:
      total: rows.
      unit: what a row is called.
      num_done: of them, which are there already.
      num_refused: of these, which were refused.
    """

    def __init__(self, total: int, unit: str, num_done: int = 0, num_refused: int = 0):
        interval_secs = 0.2 if sys.stderr.isatty() else _LINE_SECS
        self._bar = tqdm(
            total=total,
            unit=unit,
            initial=num_done,
            mininterval=interval_secs,
            delay=0 if sys.stderr.isatty() else interval_secs,
        )
        self._num_refused = num_refused

    def __enter__(self) -> OnRows:
        self._bar.set_postfix(quarantined=self._num_refused, refresh=False)
        return self._count

    def _count(self, num_rows: int, num_refused: int) -> None:
        if num_refused:
            self._num_refused += num_refused
            self._bar.set_postfix(quarantined=self._num_refused, refresh=False)
        self._bar.update(num_rows)

    def __exit__(self, *_) -> None:
        self._bar.close()
