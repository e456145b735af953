"""A manifest -> a directory of records.

Shards are made by a pool of processes here, or by an Apache Beam runner; then their
reports become examples.csv, quarantine.csv and, last of all, dataset_info.json, each on
disk before the next. What an interrupted conversion has finished is kept: PROGRESS_DIR
says what it is. It stays while rows are refused for what may have been the machine's
fault (TRANSIENT_REASONS): the next call makes their shards anew.
"""

import collections
import contextlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import tensorflow as tf

from data_prep import conversion_settings, progress_bar, segments
from data_prep import shards as shard_files
from data_prep.answers import Outcome
from data_prep.conversion_settings import ConversionSettings
from data_prep.manifest import Manifest, ManifestRow, read_manifest
from data_prep.reasons import TRANSIENT_REASONS
from data_prep.segments import Segmentation
from data_prep.shards import PROGRESS_DIR, RefusedRow, ShardReport, TruncatedRow
from data_prep.worker import Limits
from xdc_tf.data import (
    dataset_info,
    example_tables,
    record_directory,
    record_index,
    shard_writing,
)
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo, order_modalities
from xdc_tf.data.example_tables import QUARANTINE_FILE
from xdc_tf.runtime import compat, files

TRUNCATED_FILE = "truncated.csv"

_LIMITS = Limits()
_WHOLE_ROWS = Segmentation()

_PLAN_FILE = "plan.json"
_CUTS_FILE = "segments.csv"
_LOCK_FILE = ".lock"
_WAY_OUT = (
    f"bring back the file that belongs to it, or remove {dataset_info.INFO_FILE} and "
    "call the same command again, which makes all shards anew"
)
# Looking at a remote file takes tens of milliseconds.
_FILES_AT_A_TIME = 16


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
      out_dir: directory of the records, local or remote (s3://...); one process at a
        time writes to a local one. If it is complete and of the same manifest and
        settings, what it promises is checked, lost indices are made anew, and rows
        that were refused for TRANSIENT_REASONS are tried again; what an unfinished
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
      BlockingIOError: another process is writing to out_dir.
      OSError: a file cannot be written.
      ValueError: bad settings or manifest, out_dir of others or damaged, or no row
        usable.
    """
    _validate(settings, segmentation, num_workers, rows_per_shard, limits)
    manifest = read_manifest(manifest_path, labels=labels)
    compat.enable_remote_paths(out_dir)
    promised = _promised_info(manifest, settings, segmentation, rows_per_shard)
    info = _complete_info(out_dir, promised)
    if info is not None and not _is_to_be_changed(out_dir, info):
        return _report_complete(out_dir, info)
    _make_directory(out_dir)
    with _lock(out_dir):
        info = _complete_info(out_dir, promised)
        if info is not None:
            _remake_indices(out_dir, info)
            if not _is_to_be_tried_again(out_dir, promised):
                _remove_progress(out_dir)
                return _report_complete(out_dir, info)
            # Before any shard changes.
            _remove(os.path.join(out_dir, dataset_info.INFO_FILE))
        return _convert(
            manifest,
            manifest_path,
            out_dir,
            promised,
            settings=settings,
            num_workers=num_workers,
            limits=limits,
            segmentation=segmentation,
            beam=beam,
        )


def _convert(
    manifest: Manifest,
    manifest_path: str,
    out_dir: str,
    promised: DatasetInfo,
    *,
    settings: ConversionSettings,
    num_workers: int,
    limits: Limits,
    segmentation: Segmentation,
    beam: BeamRunner | None,
) -> DatasetInfo:
    """Makes what is missing, and what may turn out better than last time."""
    _plan(out_dir, promised)
    rows = _cut(manifest, out_dir, settings, segmentation, num_workers, limits)
    promised = promised._replace(num_rows=len(rows))
    shards = shard_files.cut_into_shards(rows, promised.rows_per_shard)
    reports = shard_files.read_reports(out_dir, shards)
    done = [report for report in reports if report and not _transient([report])]
    have = {report.file for report in done}
    missing = [shard for shard in shards if shard.file not in have]
    shard_files.remove_reports(out_dir, missing)
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


def _complete_info(out_dir: str, promised: DatasetInfo) -> DatasetInfo | None:
    """What a complete directory says, if it is the one asked for; else None.

    Raises:
      ValueError: it is of another manifest or other settings.
    """
    if not tf.io.gfile.exists(os.path.join(out_dir, dataset_info.INFO_FILE)):
        return None
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
    return info


def _is_to_be_changed(out_dir: str, info: DatasetInfo) -> bool:
    """Whether indices of a complete directory are lost, or remains are there.

    Raises:
      ValueError: a shard is lost or of another size.
    """
    return bool(
        _wrong_indices(out_dir, info)
        or _remains(out_dir)
        or tf.io.gfile.exists(os.path.join(out_dir, PROGRESS_DIR))
        or tf.io.gfile.exists(os.path.join(out_dir, _LOCK_FILE))
    )


def _report_complete(out_dir: str, info: DatasetInfo) -> DatasetInfo:
    """Checks also the tables of a complete directory, and says that it is one."""
    record_directory.open_directory(out_dir)
    print(f"{out_dir} is complete: {info.num_examples} examples. Nothing to do.")
    return info


def _wrong_indices(out_dir: str, info: DatasetInfo) -> list[str]:
    """Shards whose index is lost or not as promised.

    Raises:
      ValueError: a shard itself is lost or of another size.
    """
    promised = None
    if any(shard.index_bytes is None for shard in info.shards):
        examples = example_tables.read_examples(out_dir)
        promised = example_tables.promised(out_dir, info, examples)
    paths = dataset_info.shard_paths(out_dir, info)
    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        sizes = list(pool.map(shard_files.sizes, paths))
    wrong = []
    for path, shard, (num_bytes, index_bytes) in zip(
        paths, info.shards, sizes, strict=True
    ):
        if num_bytes < 0 or shard.num_bytes not in (None, num_bytes):
            found = "is missing" if num_bytes < 0 else f"has {num_bytes} bytes"
            said = "" if shard.num_bytes is None else f" of {shard.num_bytes} bytes"
            raise ValueError(
                f"{path} {found}, and {dataset_info.INFO_FILE} beside it promises a "
                f"file{said}; {_WAY_OUT}."
            )
        if shard.index_bytes is not None:
            is_right = index_bytes == shard.index_bytes
        else:
            is_right = _is_index_of(path, promised)
        if not is_right:
            wrong.append(path)
    return wrong


def _is_index_of(path: str, promised: example_tables.Promised) -> bool:
    """Whether a shard of an earlier version has its index."""
    try:
        record_index.read_index(path, promised=promised)
    except ValueError:
        return False
    return True


def _remake_indices(out_dir: str, info: DatasetInfo) -> None:
    """Makes lost indices anew.

    Raises:
      ValueError: a shard is lost or damaged, or not the one that was made.
    """
    for path in _wrong_indices(out_dir, info):
        try:
            shard_writing.index_shard(path)
        except ValueError as error:
            raise ValueError(f"{error} Or {_WAY_OUT}.") from error
    wrong = _wrong_indices(out_dir, info)
    if wrong:
        raise ValueError(
            f"{wrong[0]} does not hold the records that {dataset_info.INFO_FILE} and "
            f"{example_tables.EXAMPLES_FILE} promise; {_WAY_OUT}."
        )


def _transient(reports: Sequence[ShardReport]) -> list[RefusedRow]:
    """Rows that may be usable another time."""
    return [
        row
        for report in reports
        for row in report.refused
        if row.reason in TRANSIENT_REASONS
    ]


def _is_to_be_tried_again(out_dir: str, promised: DatasetInfo) -> bool:
    """Whether a complete directory has rows for another try, and knows of the rest."""
    if _differences_from_plan(out_dir, promised) != []:
        return False
    refused = example_tables.read_refused(out_dir)
    return any(row.reason in TRANSIENT_REASONS for row in refused)


def _make_directory(out_dir: str) -> None:
    if "://" in out_dir:
        tf.io.gfile.makedirs(out_dir)
        return
    os.makedirs(out_dir, exist_ok=True)
    files.sync(os.path.dirname(os.path.abspath(out_dir)))


def _lock(out_dir: str) -> contextlib.AbstractContextManager:
    """Keeps other processes from writing to a local directory."""
    if "://" in out_dir:
        return contextlib.nullcontext()  # object stores have no locks
    path = os.path.join(out_dir, _LOCK_FILE)
    return files.Lock(path, held=out_dir, remove=True)


def _remove(path: str) -> None:
    """Removes a file; a local one is gone for good on return."""
    tf.io.gfile.remove(path)
    if "://" not in path:
        files.sync(os.path.dirname(path))


def _plan(out_dir: str, promised: DatasetInfo) -> None:
    """Notes down what the directory will be of, or checks that it is of the same.

    Raises:
      ValueError: it is the beginning of another conversion.
    """
    differing = _differences_from_plan(out_dir, promised)
    if differing:
        raise ValueError(
            f"{out_dir} is the beginning of a conversion of another manifest or "
            f"with other settings ({'; '.join(differing)}); choose another --out "
            "or delete it."
        )
    if differing is None:
        progress = os.path.join(out_dir, PROGRESS_DIR)
        tf.io.gfile.makedirs(progress)
        if "://" not in out_dir:
            files.sync(out_dir)
        text = json.dumps(dataset_info.to_json(promised), indent=2) + "\n"
        files.write_text(os.path.join(progress, _PLAN_FILE), text)


def _differences_from_plan(out_dir: str, promised: DatasetInfo) -> list[str] | None:
    """How an unfinished conversion differs from the one asked for; None without one."""
    path = os.path.join(out_dir, PROGRESS_DIR, _PLAN_FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        planned = json.loads(files.read_text(path))
    except ValueError:
        planned = None
    if not isinstance(planned, dict):
        return [f"{path} is no JSON object"]
    # As JSON has it: lists for tuples.
    asked_for = json.loads(json.dumps(dataset_info.to_json(promised)))
    return [
        f"{key}: {planned.get(key)} there, {value} asked for"
        for key, value in asked_for.items()
        if planned.get(key) != value
    ]


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
        every_cut = segments.cut_rows(
            manifest.rows,
            segmentation,
            min_secs=settings.min_secs,
            max_file_mib=settings.max_file_mib,
            num_workers=num_workers,
            limits=limits,
        )
        with (
            progress_bar.Progress(len(manifest.rows), "file", ()) as tell,
            contextlib.closing(every_cut),
        ):
            for cut in every_cut:
                cuts.append(cut)
                tell(Outcome(cut))
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
    example_tables.write_csv(quarantine, RefusedRow._fields, refused)
    if promised.limits["keep_truncated"]:
        path = os.path.join(out_dir, TRUNCATED_FILE)
        example_tables.write_csv(path, TruncatedRow._fields, truncated)
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
            ShardInfo(report.file, len(report.examples), *report.num_bytes)
            for report in reports
        ),
    )
    example_tables.write_examples(out_dir, examples)
    dataset_info.write_dataset_info(out_dir, info)
    transient = _transient(reports)
    if not transient:
        _remove_progress(out_dir)
    print(
        f"{len(examples)} of {len(examples) + len(refused)} rows converted into "
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


def _remove_progress(out_dir: str) -> None:
    """Removes what only an unfinished conversion needs."""
    for name in _remains(out_dir):
        tf.io.gfile.remove(os.path.join(out_dir, name))
    progress = os.path.join(out_dir, PROGRESS_DIR)
    if tf.io.gfile.exists(progress):
        tf.io.gfile.rmtree(progress)


def _remains(out_dir: str) -> list[str]:
    """Names of shards that were never complete."""
    return [
        name
        for name in tf.io.gfile.listdir(out_dir)
        if name.startswith("records-") and name.endswith(".tmp")
    ]


def count_reasons(refused: Sequence[RefusedRow]) -> str:
    """How many rows each reason has cost: "2 no_audio, 1 timeout"."""
    counts = collections.Counter(row.reason for row in refused)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
