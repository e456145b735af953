"""New videos: a folder of files, a manifest, or a directory of records, and their rows.

All three come down to rows: segments of files, each with a name and times, and those
that cannot be used with a reason.
"""

import collections
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.datasets.media_files import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from data_prep.manifest import ManifestRow, read_manifest
from xdc_tf.data import dataset_info, example_tables, record_directory
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import QUARANTINE_FILE, Examples, Promised, RefusedRow
from xdc_tf.data.payloads import AUDIO
from xdc_tf.training.trained_run import TrainedRun

QUARANTINE_COLUMNS = RefusedRow._fields
_SEGMENT = re.compile(r"#t=[\d.]+(,[\d.]+)?$")  # how a segment's video_id ends
# What breaks the lines of a report, and what stands for bytes that are not UTF-8.
_BAD_NAME = re.compile("[\0\r\n\ud800-\udfff]")


class Row(NamedTuple):
    """A row of a manifest, or a file of a folder.

    Attributes:
      path: as the manifest names it; in a folder, relative to it.
      video_id: the path, with the segment if it is one; empty for a quarantined row of
        a directory of records, which does not hold it.
      start_secs: where it starts in its file.
      end_secs: where it ends in its file; None for a quarantined row that was asked for
        to its file's end.
      reason: why it is quarantined; empty if it is not.
      detail: more about that.
    """

    path: str
    video_id: str
    start_secs: float
    end_secs: float | None
    reason: str = ""
    detail: str = ""


class VideoFiles(NamedTuple):
    """Files that are still to be converted.

    Attributes:
      rows: of the manifest, or one per file of the folder, sorted.
      num_others: files of the folder without a video's suffix, and links to folders,
        which are not followed.
    """

    rows: Sequence[ManifestRow]
    num_others: int = 0


class Records(NamedTuple):
    """A directory of records.

    Attributes:
      directory: local or remote.
      info: its dataset_info.json.
      rows: one entry per row of its manifest.
      promised: what its shards must hold.
    """

    directory: str
    info: DatasetInfo
    rows: list[Row]
    promised: Promised


def open_videos(path: str, run: TrainedRun) -> VideoFiles | Records:
    """Opens a folder, a manifest or a directory of records, and checks it.

    Args:
      path: a folder, searched to its depths for VIDEO_SUFFIXES, or for a run of audio
        alone for AUDIO_SUFFIXES too; a manifest (see data_prep.manifest); or a
        directory of records, local or remote.
      run: whose encoders are to see the videos.

    Raises:
      FileNotFoundError: if the path does not exist.
      ValueError: on a folder without videos, a bad manifest, names that no report can
        hold, or records that lack something or have another log-mel setting.
    """
    if "://" in path or os.path.exists(os.path.join(path, dataset_info.INFO_FILE)):
        return _open_records(path, run)
    if os.path.isdir(path):
        alone = run.modalities == (AUDIO,)
        suffixes = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES) if alone else VIDEO_SUFFIXES
        videos = _list_folder(path, suffixes)
    elif not os.path.exists(path):
        raise FileNotFoundError(
            f"--videos={path} does not exist; give a folder of video files, a manifest "
            "(CSV with the column path) or a directory of records."
        )
    elif path.lower().endswith(VIDEO_SUFFIXES):
        raise ValueError(
            f"--videos={path} is one video file; give its folder, or a manifest (CSV "
            "with the column path) that names it."
        )
    else:
        videos = VideoFiles(read_manifest(path).rows)
    for row in videos.rows:
        if _BAD_NAME.search(row.file):
            raise ValueError(
                f"--videos={path}: the name {row.file!r} holds a line break or bytes "
                "that are not UTF-8; rename the file."
            )
    return videos


def describe_usable(rows: Sequence[Row]) -> str:
    """How many rows could be used: "7 of 9 videos (quarantined: 2 no_audio)"."""
    counts = collections.Counter(row.reason for row in rows if row.reason)
    text = f"{len(rows) - counts.total()} of {len(rows)} videos"
    if counts:
        reasons = (f"{count} {reason}" for reason, count in counts.most_common())
        text += f" (quarantined: {', '.join(reasons)})"
    return text


def read_rows(directory: str, examples: Examples | None) -> list[Row]:
    """Rows of a directory of records; the quarantined ones fill the holes in order.

    Args:
      directory: whose quarantine report is read.
      examples: the directory's; None if none of its rows could be used.

    Raises:
      FileNotFoundError: without a quarantine report.
      ValueError: if the report is damaged or does not fit the examples.
    """
    refused = [
        Row(
            path=row.path,
            video_id="",
            start_secs=row.start_secs,
            end_secs=None,
            reason=row.reason or "unknown",
            detail=row.detail,
        )
        for row in example_tables.read_refused(directory)
    ]
    usable = {}
    if examples is not None:
        for index, video_id, start_secs, end_secs in zip(
            examples.example_indices.tolist(),
            examples.video_ids,
            examples.start_secs.tolist(),
            examples.end_secs.tolist(),
            strict=True,
        ):
            path_of_row = _SEGMENT.sub("", video_id)
            usable[index] = Row(path_of_row, video_id, start_secs, end_secs)
    num_rows = len(refused) + len(usable)
    path = os.path.join(directory, QUARANTINE_FILE)
    if any(not 0 <= index < num_rows for index in usable):
        raise ValueError(
            f"{path} has {len(refused)} rows, which do not fill the holes in the "
            f"numbers of {example_tables.EXAMPLES_FILE} beside it; convert again."
        )
    in_order = iter(refused)
    return [usable.get(index) or next(in_order) for index in range(num_rows)]


def _list_folder(folder: str, suffixes: tuple[str, ...]) -> VideoFiles:
    def stop(error: OSError):
        raise error

    paths, num_others = [], 0
    for directory, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(f"{directory}/{name}")]
        media = [name for name in names if name.lower().endswith(suffixes)]
        num_others += len(links) + len(names) - len(media)
        paths += [
            os.path.relpath(os.path.join(directory, name), folder) for name in media
        ]
    if not paths:
        raise ValueError(
            f"--videos={folder} holds {num_others} files and none with a video's "
            f"suffix ({' '.join(suffixes)}); name the videos in a manifest."
        )
    rows = [
        ManifestRow(
            example_index=index,
            path=path,
            file=os.path.join(os.path.abspath(folder), path),
            video_id=path,
            start_secs=0.0,
            end_secs=None,
            label="",
        )
        for index, path in enumerate(sorted(paths))
    ]
    return VideoFiles(rows, num_others)


def _open_records(directory: str, run: TrainedRun) -> Records:
    opened = record_directory.open_directory(directory)
    info = opened.info
    dataset_info.check_modalities(info, run.modalities, directory)
    if AUDIO in run.modalities:
        rate_hz = run.config.log_mel.sample_rate_hz
        dataset_info.check_audio(info, run.audio, rate_hz, directory)
    rows = read_rows(directory, opened.examples)
    return Records(directory, info, rows, opened.promised)
