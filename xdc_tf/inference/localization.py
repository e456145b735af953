"""Dense features for temporal action localisation: an array per video and stream.

The layout is what ActionFormer's loader of THUMOS14 and its relatives read:

    STREAM/NAME.npy    [T, D] float32, a row per window
    times/NAME.npy     [T, 3] float64, each window's start, end and centre in seconds
    features.json      what a loader needs to know, and what made the features
    quarantine.csv     rows that could not be used

NAME is the video's file name without its suffix, and a segment's ends with
"#t=start,end"; annotations are looked up by it, so no two videos may share one. A
video's windows start at 0, 1, 2, ... strides from its start. Row i is then centred at

    (i * feat_stride + num_frames / 2) / fps

seconds, which is where these loaders place it. As `fps` counts frames of the encoder's
clips and not of the files, it must replace the annotations' own: it is ActionFormer's
`default_fps`. `feat_stride` is a whole number only if the stride is one of such frames;
ActionFormer takes any, other tools may not. Times in times/ are those of the original
file, also of a segment: annotations of it must be moved by its `start_secs`.
"""

import collections
import csv
import itertools
import json
import operator
import os
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from data_prep.conversion import QUARANTINE_FILE
from data_prep.manifest import ManifestRow
from xdc_tf.data.clips import ClipSettings
from xdc_tf.inference import feature_files, new_videos, video_features
from xdc_tf.inference.new_videos import Row
from xdc_tf.inference.parts import Conversion, Sampling
from xdc_tf.inference.video_features import Extracted
from xdc_tf.runtime import files, json_files
from xdc_tf.runtime.arrays import open_npy
from xdc_tf.training import trained_run

TIMES_DIR = "times"
_FLAT_DIR = "all"  # features of all videos, before they are cut


class Localized(NamedTuple):
    """What `extract_windows` wrote.

    Attributes:
      rows: all rows of the videos.
      num_features: by NAME, T of each usable video, in order.
      widths: D of each stream.
    """

    rows: list[Row]
    num_features: dict[str, int]
    widths: dict[str, int]


def extract_windows(
    run_dir: str,
    videos_path: str,
    out_dir: str,
    *,
    stride_secs: float,
    conversion: Conversion,
    streams: Sequence[str] = (),
    batch_size: int | None = None,
) -> Localized:
    """Writes a directory of features in the layout above, whole or not at all.

    While it is made, the features take their space twice.

    Args:
      run_dir: work directory of a run, or of imported weights.
      videos_path: see new_videos.open_videos.
      out_dir: the directory to make.
      stride_secs: from one window's start to the next's; n / fps for n frames. A
        video shorter than a window has one.
      conversion: of video files.
      streams: which of the run's encoders; none for all.
      batch_size: clips per batch; None: as the run's features were extracted.

    Raises:
      FileExistsError: if out_dir exists.
      FileNotFoundError: without videos or a run.
      ValueError: if two videos would have the same NAME, and see
        video_features.extract_features.
      FloatingPointError: on features that are not finite.
    """
    run = trained_run.open_run(run_dir)
    # Before hours of extraction. That is what reports unknown streams.
    if set(streams) <= set(run.streams):
        chosen = {name: run.streams[name] for name in streams or run.streams}
        videos = new_videos.open_videos(videos_path, run._replace(streams=chosen))
        _check_names(videos.rows)
    with files.new_directory(out_dir) as directory:
        flat_dir = os.path.join(directory, _FLAT_DIR)
        extracted = video_features.extract_features(
            run_dir,
            videos_path,
            flat_dir,
            format_name="npy",
            sampling=Sampling(stride_secs=stride_secs, batch_size=batch_size),
            conversion=conversion,
            streams=streams,
        )
        database = _cut(flat_dir, directory, extracted)
        flat_card = os.path.join(flat_dir, feature_files.CARD_FILE)
        card = _card(json_files.read_object(flat_card), run.clip, stride_secs, database)
        os.rename(
            os.path.join(flat_dir, QUARANTINE_FILE),
            os.path.join(directory, QUARANTINE_FILE),
        )
        shutil.rmtree(flat_dir)
        card["sha256"] = feature_files.checksums(directory)
        text = json.dumps(card, indent=2) + "\n"
        files.write_text(os.path.join(directory, feature_files.CARD_FILE), text)
    lengths = {name: entry["num_features"] for name, entry in database.items()}
    return Localized(extracted.rows, lengths, extracted.widths)


def _card(
    flat_card: dict[str, Any],
    clip: ClipSettings,
    stride_secs: float,
    database: dict[str, Any],
) -> dict[str, Any]:
    """The contents of features.json, but for the checksums.

    Args:
      flat_card: of the features before they were cut.
      clip: of the encoders.
      stride_secs: from one window's start to the next's.
      database: by NAME what is known of a video.
    """
    of_other_layouts = ("num_clips", "average")
    return {
        **{key: flat_card[key] for key in flat_card if key not in of_other_layouts},
        "format": "localization",
        "fps": clip.fps,
        "feat_stride": _whole(stride_secs * clip.fps),
        "num_frames": clip.num_frames,
        "downsample_rate": 1,
        "file_prefix": "",
        "file_ext": ".npy",
        "window_secs": clip.duration_secs,
        "database": database,
    }


def _name(row: Row | ManifestRow) -> str:
    """A video's NAME."""
    stem, _ = os.path.splitext(os.path.basename(row.path))
    return stem + row.video_id.removeprefix(row.path)


def _check_names(rows: Sequence[Row | ManifestRow]) -> None:
    rows_of = collections.defaultdict(list)
    for row in rows:
        if row.video_id:  # not known of records' quarantined rows, which have no file
            rows_of[_name(row)].append(row.video_id)
    for name, video_ids in rows_of.items():
        if len(video_ids) > 1:
            raise ValueError(
                f"{video_ids[0]} and {video_ids[1]} would both be {name}.npy; rename "
                "one, or extract them into different directories."
            )


def _cut(flat_dir: str, directory: str, extracted: Extracted) -> dict[str, Any]:
    """Writes each video's arrays; returns by NAME its entry in features.json."""
    for folder in (*extracted.widths, TIMES_DIR):
        os.mkdir(os.path.join(directory, folder))
    if not extracted.num_features:
        return {}
    arrays = {
        stream: open_npy(os.path.join(flat_dir, f"{stream}.npy"))
        for stream in extracted.widths
    }
    row_of = {row.video_id: row for row in extracted.rows if not row.reason}
    database = {}
    first = 0
    path = os.path.join(flat_dir, feature_files.CLIPS_FILE)
    with open(path, encoding="utf-8", newline="") as file:
        for video_id, clips in itertools.groupby(
            csv.DictReader(file), operator.itemgetter("video_id")
        ):
            starts, ends = np.array(
                [(float(clip["start_secs"]), float(clip["end_secs"])) for clip in clips]
            ).T
            row = row_of[video_id]
            name = _name(row)
            end = first + len(starts)
            for stream, array in arrays.items():
                _save(directory, stream, name, array[first:end])
            times = np.stack([starts, ends, (starts + ends) / 2], axis=1)
            _save(directory, TIMES_DIR, name, times)
            database[name] = {
                "file": f"{name}.npy",
                "path": row.path,
                "start_secs": row.start_secs,
                "duration": round(cast(float, row.end_secs) - row.start_secs, 6),
                "num_features": len(starts),
            }
            first = end
    return database


def _save(directory: str, folder: str, name: str, array: np.ndarray) -> None:
    np.save(os.path.join(directory, folder, f"{name}.npy"), array)


def _whole(frames: float) -> float | int:
    """The whole number, where rounding of seconds is all that is between."""
    nearest = round(frames)
    return nearest if abs(frames - nearest) < 1e-6 else frames
