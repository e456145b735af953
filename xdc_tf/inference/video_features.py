"""Features of new videos' clips: evenly spread, or dense windows, one row each."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf

from data_prep.conversion import QUARANTINE_FILE
from data_prep.conversion_settings import ConversionSettings
from xdc_tf.data import example_tables, payloads
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.features.extraction import make_extract, make_extract_clips
from xdc_tf.inference import feature_files, new_videos
from xdc_tf.inference.feature_files import FeatureRows
from xdc_tf.inference.new_videos import QUARANTINE_COLUMNS, Records, Row, VideoFiles
from xdc_tf.inference.parts import (
    Conversion,
    Part,
    Sampling,
    clip_features,
    conversion_settings,
    mean_features,
    parts,
)
from xdc_tf.runtime import compat, files, typed_settings, workdir
from xdc_tf.training import trained_run
from xdc_tf.training.trained_run import TrainedRun


class Extracted(NamedTuple):
    """What `extract_features` wrote.

    Attributes:
      rows: all rows of the videos.
      num_features: rows of features.
      widths: D of each stream.
    """

    rows: list[Row]
    num_features: int
    widths: dict[str, int]


def extract_features(
    run_dir: str,
    videos_path: str,
    out_dir: str,
    *,
    format_name: str,
    sampling: Sampling,
    conversion: Conversion,
    average: bool = False,
    streams: Sequence[str] = (),
) -> Extracted:
    """Writes a directory of features, whole or not at all.

    Beside the features (see feature_files.writer) it holds quarantine.csv, the rows
    that could not be used, and features.json, what made the features, with the SHA-256
    of every file. All times are those of the original files; a clip's are those of its
    frames.

    Args:
      run_dir: work directory of a run, or of imported weights.
      videos_path: see new_videos.open_videos.
      out_dir: the directory to make.
      format_name: see feature_files.writer.
      sampling: which clips of each row.
      conversion: of video files.
      average: one row of features per row of the videos, the mean over its clips.
      streams: which of the run's encoders; none for all.

    Raises:
      FileExistsError: if out_dir exists.
      FileNotFoundError: without videos or a run.
      ValueError: on streams that the run has not, and see new_videos.open_videos,
        parts.parts and feature_files.writer.
      FloatingPointError: on features that are not finite.
    """
    run = _with_streams(trained_run.open_run(run_dir), streams)
    videos = new_videos.open_videos(videos_path, run)
    encoders = trained_run.load_encoders(run)
    widths = {stream: encoder.output_shape[-1] for stream, encoder in encoders.items()}
    features_of = _make_features_of(encoders, run, average=average)
    rows: list[Row] = []
    num_features = 0
    with files.new_directory(out_dir) as directory:
        with feature_files.writer(format_name, directory, widths) as append:
            for part in parts(
                videos,
                run,
                sampling=sampling,
                conversion=conversion,
                scratch_dir=directory,
            ):
                for feature_rows in features_of(part):
                    append(feature_rows)
                    num_features += len(feature_rows.paths)
                rows += part.rows
        _write_quarantine(directory, rows)
        made_with = {
            "videos": videos_path,
            "conversion": _conversion_card(videos, run, conversion),
            "format": format_name,
            "num_clips": sampling.num_clips if sampling.stride_secs is None else None,
            "stride_secs": sampling.stride_secs,
            "average": average,
        }
        extracted = Extracted(rows, num_features, widths)
        _write_card(directory, _encoders_card(run, widths) | made_with, extracted)
    return extracted


def _write_quarantine(directory: str, rows: Sequence[Row]) -> None:
    """Writes the rows that could not be used."""
    refused = [row for row in rows if row.reason]
    example_tables.write_csv(
        os.path.join(directory, QUARANTINE_FILE),
        QUARANTINE_COLUMNS,
        ([getattr(row, name) for name in QUARANTINE_COLUMNS] for row in refused),
    )


def _write_card(
    directory: str, made_with: Mapping[str, Any], extracted: Extracted
) -> None:
    """Writes features.json; the other files of the directory are complete."""
    num_refused = sum(bool(row.reason) for row in extracted.rows)
    card = {
        **made_with,
        "num_rows": extracted.num_features,
        "num_videos": len(extracted.rows) - num_refused,
        "num_quarantined": num_refused,
        "versions": compat.versions(),
        "sha256": feature_files.checksums(directory),
    }
    text = json.dumps(card, indent=2) + "\n"
    files.write_text(os.path.join(directory, feature_files.CARD_FILE), text)


def _with_streams(run: TrainedRun, streams: Sequence[str]) -> TrainedRun:
    """The run, with the encoders of these streams only; of all if none is named."""
    unknown = [stream for stream in streams if stream not in run.streams]
    if unknown:
        raise ValueError(
            f"streams={','.join(unknown)}: {run.directory} has encoders for "
            f"{', '.join(run.streams)}."
        )
    chosen = streams or run.streams
    return run._replace(
        streams={name: seen for name, seen in run.streams.items() if name in chosen}
    )


def _make_features_of(
    encoders: dict[str, keras.Model], run: TrainedRun, *, average: bool
) -> Callable[[Part], Iterator[FeatureRows]]:
    """The function from a part to rows of features, traced at its first use."""
    strategy = tf.distribute.get_strategy()
    if average:
        extract = make_extract(encoders, run.streams, strategy=strategy)

        def means(part: Part) -> Iterator[FeatureRows]:
            features = mean_features(extract, part)
            usable = np.array([not row.reason for row in part.rows])
            chosen = [row for row in part.rows if not row.reason]
            yield FeatureRows(
                paths=[row.path for row in chosen],
                video_ids=[row.video_id for row in chosen],
                start_secs=[row.start_secs for row in chosen],
                end_secs=[cast(float, row.end_secs) for row in chosen],
                streams={name: values[usable] for name, values in features.items()},
            )

        return means

    extract_clips = make_extract_clips(encoders, run.streams, strategy=strategy)

    def clips_of(part: Part) -> Iterator[FeatureRows]:
        for clips in clip_features(extract_clips, part):
            chosen = [part.rows[index] for index in clips.example_index]
            starts = [
                row.start_secs + start
                for row, start in zip(chosen, clips.start_secs.tolist(), strict=True)
            ]
            # A row shorter than a clip repeats within it.
            ends = [
                min(start + run.clip.duration_secs, row.end_secs)
                for row, start in zip(chosen, starts, strict=True)
            ]
            yield FeatureRows(
                paths=[row.path for row in chosen],
                video_ids=[row.video_id for row in chosen],
                start_secs=[round(start, 6) for start in starts],
                end_secs=[round(end, 6) for end in ends],
                streams=clips.streams,
            )

    return clips_of


def _encoders_card(run: TrainedRun, widths: dict[str, int]) -> dict[str, Any]:
    """The run and the encoders that made the features."""
    return {
        "workdir": run.directory,
        "method": run.config.method,
        "streams": {
            stream: {
                "modality": modality,
                "width": widths[stream],
                "encoder_sha256": files.sha256(
                    workdir.encoder_file(run.directory, stream)
                ),
            }
            for stream, modality in run.streams.items()
        },
        "clip": typed_settings.to_mapping(run.config.clip)
        | {"duration_secs": run.clip.duration_secs},
        **run.audio.describe(),
    }


def _conversion_card(
    videos: VideoFiles | Records, run: TrainedRun, conversion: Conversion
) -> dict[str, Any]:
    """Settings by which the videos became frames."""
    settings: DatasetInfo | ConversionSettings = (
        videos.info
        if isinstance(videos, Records)
        else conversion_settings(run, conversion)
    )
    names = ("fps", "short_side", "jpeg_quality", "min_secs", "max_secs")
    card = {name: getattr(settings, name) for name in names}
    if settings.payloads:
        card["payloads"] = payloads.to_mappings(settings.payloads)
    return card
