"""New videos -> batches for a run's encoders, a part of the rows at a time.

Files are converted as the run's records were, into a directory that holds one part;
so disk and memory stay bounded, however many videos there are.
"""

import contextlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.datasets.media_files import AUDIO_SUFFIXES
from data_prep.engines.local_pool import LOCAL_POOL, Engine
from data_prep.manifest import ManifestRow
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables, payloads, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.example_tables import EXAMPLES_FILE, QUARANTINE_FILE, Promised
from xdc_tf.data.payloads import AUDIO, MODALITIES, VIDEO
from xdc_tf.features.extraction import ClipFeatures
from xdc_tf.inference import new_videos
from xdc_tf.inference.new_videos import Records, Row, VideoFiles
from xdc_tf.training.trained_run import TrainedRun

MAX_CLIPS = 10_000  # of a row, evenly spread
MAX_WINDOWS = 1_000_000  # of a row, by a stride
# Of records that are there already, a part costs no disk.
_RECORD_ROWS_PER_PART = 4096
# Of files: enough shards for the tasks of a cluster.
_ROWS_PER_SHARD = 8


class Conversion(NamedTuple):
    """How files are converted, beside what the run's records prescribe.

    The defaults of time limits are for long videos at modest sizes: a worker holds all
    of a row's frames, and a record of more than 2 GB cannot be written.
    """

    num_workers: int
    rows_per_part: int = 256
    min_secs: float = 0.1
    max_secs: float = 600.0
    timeout_secs: float = 600.0
    engine: Engine = LOCAL_POOL


class Sampling(NamedTuple):
    """Which clips of a row; see pipeline.evaluation_batches."""

    num_clips: int = 1
    stride_secs: float | None = None
    batch_size: int | None = None  # None: as the run's features were extracted


class _PartRecords(NamedTuple):
    """Consecutive rows and their records.

    Attributes:
      rows: quarantined ones included.
      paths: files of records; none if all rows are quarantined.
      first_row: the example_index of the first row in the files.
      promised: what the shards of all parts must hold; None without records.
    """

    rows: list[Row]
    paths: list[str]
    first_row: int
    promised: Promised | None


class Part(NamedTuple):
    """Consecutive rows and their clips.

    Attributes:
      rows: quarantined ones included.
      batches: as of pipeline.evaluation_batches, but that example_index is a position
        in `rows`.
    """

    rows: list[Row]
    batches: Iterable[dict[str, tf.Tensor]]


def parts(
    videos: VideoFiles | Records,
    run: TrainedRun,
    *,
    sampling: Sampling,
    conversion: Conversion,
    scratch_dir: str,
) -> Iterator[Part]:
    """All rows in order; use up a part before asking for the next one.

    Prints how many other files a folder holds, and a line after each part.

    Args:
      videos: of new_videos.open_videos.
      run: whose encoders are to see the videos; its clip and modalities count.
      sampling: which clips.
      conversion: of files.
      scratch_dir: where the records of one part at a time are put.

    Raises:
      ValueError: on settings without meaning, or more clips per row than the limits.
    """
    if isinstance(videos, Records):
        fps = videos.info.fps
        longest_secs = max(
            (row.end_secs or 0.0) - row.start_secs for row in videos.rows
        )
        every_part = _parts_of_records(videos)
    else:
        sounds = all(row.file.lower().endswith(AUDIO_SUFFIXES) for row in videos.rows)
        converted = conversion_settings(run, conversion, sound_files=sounds)
        fps, longest_secs = converted.fps, conversion.max_secs
        every_part = _parts_of_files(videos, converted, conversion, scratch_dir)
    _check(sampling, conversion, fps=fps, longest_secs=longest_secs)
    if isinstance(videos, VideoFiles) and videos.num_others:
        print(f"other files and links to folders, left out: {videos.num_others}")
    num_done = num_quarantined = 0
    for records in every_part:
        yield Part(records.rows, _batches(records, run, sampling))
        num_done += len(records.rows)
        num_quarantined += sum(bool(row.reason) for row in records.rows)
        print(
            f"{num_done} of {len(videos.rows)} rows, {num_quarantined} quarantined",
            flush=True,
        )


def conversion_settings(
    run: TrainedRun, conversion: Conversion, *, sound_files: bool = False
) -> ConversionSettings:
    """Settings of the run's records, or else those that its clips need.

    An encoder of sound alone sees the clips that it would see beside the other one, by
    the picture's times; of sound files there is none.
    """
    clip, info = run.clip, run.info
    needs_video = run.modalities != (AUDIO,) or not sound_files
    modalities = (VIDEO,) if run.modalities == (VIDEO,) else MODALITIES
    of_clips = ConversionSettings(
        fps=clip.fps,
        short_side=round(clip.crop_size / clip.crop_share),
        min_secs=conversion.min_secs,
        max_secs=conversion.max_secs,
        log_mel=run.config.log_mel,
        payloads=() if run.audio.name in payloads.FIRST else (run.audio,),
        modalities=modalities if needs_video else (AUDIO,),
    )
    if info is None:
        return of_clips
    of_video = [row for row in info.payloads if row.row.modality == VIDEO]
    if VIDEO in of_clips.modalities:
        of_clips = of_clips._replace(payloads=(*of_video, *of_clips.payloads))
    return of_clips._replace(
        fps=info.fps, short_side=info.short_side, jpeg_quality=info.jpeg_quality
    )


def _check(
    sampling: Sampling, conversion: Conversion, *, fps: float, longest_secs: float
) -> None:
    limits = {
        "num_clips": (sampling.num_clips, MAX_CLIPS),
        "batch_size": (sampling.batch_size or 1, math.inf),
        "rows_per_part": (conversion.rows_per_part, math.inf),
    }
    for name, (value, most) in limits.items():
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value} must be from 1 to {most}.")
    stride = sampling.stride_secs
    if stride is None:
        return
    if not 0 < stride < math.inf:
        raise ValueError(f"stride_secs={stride} must be a positive number of seconds.")
    if stride * fps < 0.99:
        raise ValueError(
            f"stride_secs={stride} is less than one frame at {fps:g} frames per "
            f"second; with {1 / fps:.6f} a clip starts at every frame."
        )
    if longest_secs / stride > MAX_WINDOWS:
        raise ValueError(
            f"stride_secs={stride} allows {longest_secs / stride:.0f} clips of a video "
            f"of {longest_secs:g} s, and the limit is {MAX_WINDOWS}; take a longer "
            "stride or lower max_secs."
        )


def _parts_of_records(records: Records) -> Iterator[_PartRecords]:
    rows_per_shard = records.info.rows_per_shard
    paths = dataset_info.shard_paths(records.directory, records.info)
    step = max(1, _RECORD_ROWS_PER_PART // rows_per_shard)
    for first in range(0, len(paths), step):
        first_row, end_row = first * rows_per_shard, (first + step) * rows_per_shard
        yield _PartRecords(
            records.rows[first_row:end_row],
            paths[first : first + step],
            first_row,
            records.promised,
        )


def _parts_of_files(
    videos: VideoFiles,
    converted: ConversionSettings,
    conversion: Conversion,
    scratch_dir: str,
) -> Iterator[_PartRecords]:
    """Converts files; the records are there until the next part."""
    part_dir = os.path.join(scratch_dir, "part")
    for first in range(0, len(videos.rows), conversion.rows_per_part):
        rows = videos.rows[first : first + conversion.rows_per_part]
        os.makedirs(part_dir)
        try:
            yield _convert(rows, part_dir, converted, conversion)
        finally:
            shutil.rmtree(part_dir)


def _convert(
    rows: Sequence[ManifestRow],
    part_dir: str,
    converted: ConversionSettings,
    conversion: Conversion,
) -> _PartRecords:
    """Converts rows into a directory."""
    manifest = os.path.join(part_dir, "manifest.csv")
    records_dir = os.path.join(part_dir, "records")
    example_tables.write_csv(
        manifest,
        ("path", "start_secs", "end_secs"),
        ((row.file, row.start_secs, row.end_secs) for row in rows),
    )
    examples, paths, promised = None, [], None
    try:
        # The summary that it prints names directories that will be removed.
        with contextlib.redirect_stdout(io.StringIO()):
            info = convert_manifest(
                manifest,
                records_dir,
                settings=converted,
                pool=PoolSettings(
                    conversion.num_workers, Limits(timeout_secs=conversion.timeout_secs)
                ),
                rows_per_shard=_ROWS_PER_SHARD,
                engine=conversion.engine,
            )
    except ValueError:
        # Without a usable row there are reasons, but no records.
        if not os.path.exists(os.path.join(records_dir, QUARANTINE_FILE)):
            raise
    else:
        examples = example_tables.read_examples(records_dir, info)
        promised = example_tables.promised(records_dir, info, examples)
        paths = dataset_info.shard_paths(records_dir, info)
    outcomes = zip(rows, new_videos.read_rows(records_dir, examples), strict=True)
    converted_rows = [
        outcome._replace(
            path=row.path,
            video_id=row.video_id,
            end_secs=row.end_secs if outcome.reason else outcome.end_secs,
        )
        for row, outcome in outcomes
    ]
    return _PartRecords(converted_rows, paths, 0, promised)


def _batches(
    records: _PartRecords, run: TrainedRun, sampling: Sampling
) -> Iterable[dict[str, tf.Tensor]]:
    if not records.paths:
        return ()
    batches = pipeline.evaluation_batches(
        ClipSource(records.paths, run.clip, run.modalities, records.promised),
        batch_size=sampling.batch_size or run.batch_size,
        num_clips=sampling.num_clips,
        stride_secs=sampling.stride_secs,
    )

    def count_from_first_row(batch):
        index = batch["example_index"] - records.first_row
        # Padding; or a record that is out of place, which _check_complete finds.
        inside = (index >= 0) & (index < len(records.rows))
        padding = tf.constant(pipeline.PADDING_INDEX, tf.int64)
        return {**batch, "example_index": tf.where(inside, index, padding)}

    return batches.map(count_from_first_row)


def clip_features(extract_clips: Callable, part: Part) -> Iterator[ClipFeatures]:
    """The features of each clip of a part, in order, a batch at a time.

    Args:
      extract_clips: of features.extraction.make_extract_clips.
      part: of `parts`.

    Raises:
      ValueError: if the records do not hold the rows that they should.
      FloatingPointError: on features that are not finite.
    """
    present = np.zeros([len(part.rows)], bool)
    for clips in extract_clips(part.batches):
        present[clips.example_index] = True
        if any(part.rows[index].reason for index in clips.example_index):
            break  # no quarantined row has clips
        for stream, features in clips.streams.items():
            _check_finite(stream, features, [part.rows[i] for i in clips.example_index])
        yield clips
    _check_complete(part, present)


def mean_features(extract: Callable, part: Part) -> dict[str, np.ndarray]:
    """The mean over a row's clips: by stream [rows, D] float32, NaN if quarantined.

    Args:
      extract: of features.extraction.make_extract.
      part: of `parts`.

    Raises:
      ValueError: if the records do not hold the rows that they should.
      FloatingPointError: on features that are not finite.
    """
    features = extract(part.batches, num_rows=len(part.rows))
    _check_complete(part, features.present)
    for stream, rows in features.streams.items():
        _check_finite(stream, rows, part.rows)
        rows[~features.present] = np.nan
    return features.streams


def _check_complete(part: Part, present: np.ndarray) -> None:
    usable = np.array([not row.reason for row in part.rows], bool)
    wrong = np.flatnonzero(present != usable)
    if len(wrong):
        first = part.rows[wrong[0]]
        raise ValueError(
            f"{first.video_id or first.path} is the first of {len(wrong)} rows, of "
            f"{len(part.rows)}, for which the records do not hold what "
            f"{EXAMPLES_FILE} and {QUARANTINE_FILE} beside them say; convert again."
        )


def _check_finite(stream: str, features: np.ndarray, rows: Sequence[Row]) -> None:
    """Checks [rows, D] features."""
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        first = rows[int(np.argmin(finite))]
        raise FloatingPointError(
            f"the {stream} encoder gives features that are not finite, first for "
            f"{first.video_id}; use encoders of a run that did not diverge."
        )
