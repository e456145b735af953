"""Rows -> one shard of records with its index, and a report of what became of them.

A shard is the unit of a conversion: whoever makes it, a pool of processes here or a
machine elsewhere, it has the same bytes. Its report is written when the shard and its
index have their names, so a shard with a report is complete.
"""

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.answers import Outcome
from data_prep.conversion_settings import ConversionSettings
from data_prep.manifest import ManifestRow
from data_prep.rows import ConvertedRow, answer_form, convert_rows, group_rows
from data_prep.worker_processes import PoolSettings, map_groups
from xdc_tf.data import label_texts, payloads, record_index, records, shard_writing
from xdc_tf.data.example_tables import ExampleRow, RefusedRow
from xdc_tf.data.label_texts import LabelNumbers
from xdc_tf.runtime import compat, files

PROGRESS_DIR = "progress"
PLAN_FILE = "plan.json"  # in it
_NONE_REFUSED: Mapping[int, Outcome] = {}


class Shard(NamedTuple):
    """A shard to be made: rows [number * rows_per_shard, ...) of the conversion."""

    number: int
    num_shards: int
    rows: Sequence[ManifestRow]

    @property
    def file(self) -> str:
        """Its name in the directory."""
        return f"records-{self.number:05d}-of-{self.num_shards:05d}.tfrecord"


class Work(NamedTuple):
    """What is done with each row of a conversion, and with what.

    Attributes:
      settings: what to store.
      label_numbers: of the rows' labels.
      pool: processes that decode, of each task where an engine has tasks, and the
        limits of a row.
    """

    settings: ConversionSettings
    label_numbers: LabelNumbers
    pool: PoolSettings


class TruncatedRow(NamedTuple):
    """A line of truncated.csv, of a row kept in part; field names are its columns."""

    example_index: int
    path: str
    start_secs: float
    detail: str


class Moments(NamedTuple):
    """Sums over the values of rows of audio."""

    count: int = 0
    total: float = 0.0
    total_squares: float = 0.0


class ShardReport(NamedTuple):
    """What became of a shard's rows.

    Attributes:
      file: name of the shard.
      num_bytes: of the shard and of its index.
      examples: lines of examples.csv.
      refused: lines of quarantine.csv.
      truncated: lines of truncated.csv.
      moments: of the values of rows of audio.
    """

    file: str
    num_bytes: tuple[int, int]
    examples: list[ExampleRow]
    refused: list[RefusedRow]
    truncated: list[TruncatedRow]
    moments: Moments


def cut_into_shards(rows: Sequence[ManifestRow], rows_per_shard: int) -> list[Shard]:
    """All shards of a conversion, in order."""
    num_shards = math.ceil(len(rows) / rows_per_shard)
    return [
        Shard(k, num_shards, rows[k * rows_per_shard : (k + 1) * rows_per_shard])
        for k in range(num_shards)
    ]


def convert_shards(
    shards: Sequence[Shard],
    out_dir: str,
    *,
    work: Work,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    refused: Mapping[int, Outcome] = _NONE_REFUSED,
) -> None:
    """Makes shards, their indices and their reports.

    Args:
      shards: what to make.
      out_dir: directory of the records, local or remote; PROGRESS_DIR in it exists.
      work: what is done with their rows.
      on_outcome: called with each row's outcome.
      refused: outcomes of rows that are not decoded, by example_index.
    """
    compat.enable_remote_paths(out_dir)
    every_outcome = map_groups(
        functools.partial(convert_rows, settings=work.settings),
        (
            group
            for shard in shards
            for group in group_rows(
                [row for row in shard.rows if row.example_index not in refused]
            )
        ),
        form=answer_form(work.settings),
        pool=work.pool,
    )
    # Closed at once: an error that is kept keeps its frames, and the processes.
    with contextlib.closing(every_outcome) as outcomes:
        for shard in shards:
            pairs = _pair(shard.rows, outcomes, refused)
            report = _write_shard(shard, pairs, out_dir, work, on_outcome)
            if len(report.examples) + len(report.refused) != len(shard.rows):
                raise RuntimeError(
                    f"{shard.file}: {len(report.examples)} converted and "
                    f"{len(report.refused)} quarantined rows of {len(shard.rows)}."
                )
            write_report(out_dir, shard, report)


def _pair(
    rows: Sequence[ManifestRow],
    outcomes: Iterator[Outcome],
    refused: Mapping[int, Outcome],
) -> Iterator[tuple[ManifestRow, Outcome]]:
    """Each row with its outcome; fewer if there are not as many."""
    for row in rows:
        outcome = refused.get(row.example_index) or next(outcomes, None)
        if outcome is None:
            return
        yield row, outcome


def _write_shard(
    shard: Shard,
    pairs: Iterable[tuple[ManifestRow, Outcome]],
    out_dir: str,
    work: Work,
    on_outcome: Callable[[Outcome], None],
) -> ShardReport:
    path = os.path.join(out_dir, shard.file)
    report = ShardReport(shard.file, (0, 0), [], [], [], Moments())
    with shard_writing.ShardWriter(path, payloads.keys(work.settings)) as writer:
        for row, outcome in pairs:
            converted = outcome.result
            if converted is None:
                report.refused.append(
                    RefusedRow(row.path, row.start_secs, outcome.reason, outcome.detail)
                )
            else:
                writer.write(_encode(row, converted, work))
                report.examples.append(
                    ExampleRow(
                        example_index=row.example_index,
                        video_id=row.video_id,
                        label=row.label,
                        shard=shard.file,
                        start_secs=round(row.start_secs, 6),
                        end_secs=round(row.start_secs + converted.duration_secs, 6),
                    )
                )
                if converted.truncated:
                    report.truncated.append(
                        TruncatedRow(
                            row.example_index,
                            row.path,
                            row.start_secs,
                            converted.truncated,
                        )
                    )
                if converted.audio_rows is not None:
                    moments = add(report.moments, _moments(converted.audio_rows))
                    report = report._replace(moments=moments)
            on_outcome(outcome)
    return report._replace(num_bytes=sizes(path))


def _encode(row: ManifestRow, converted: ConvertedRow, work: Work) -> bytes:
    settings, label_numbers = work.settings, work.label_numbers
    return records.encode_example(
        records.Example(
            example_index=row.example_index,
            data_path=row.path,
            video_id=row.video_id,
            video_items=converted.video_items,
            audio_rows=converted.audio_rows,
            start_us=round(row.start_secs * 1e6),
            end_us=round((row.start_secs + converted.duration_secs) * 1e6),
            frame_rate=settings.fps,
            height=converted.height,
            width=converted.width,
            labels=label_numbers.numbers(row.label),
            label_texts=label_texts.split(row.label, several=label_numbers.several),
            waveform=converted.waveform,
            keys=payloads.keys(settings),
        )
    )


def _moments(values: np.ndarray) -> Moments:
    return Moments(
        values.size,
        float(values.sum(dtype=np.float64)),
        float(np.square(values, dtype=np.float64).sum()),
    )


def add(left: Moments, right: Moments) -> Moments:
    """Sums over both."""
    return Moments(*(a + b for a, b in zip(left, right, strict=True)))


def sizes(path: str) -> tuple[int, int]:
    """Bytes of a shard and of its index; -1 where there is none."""
    names = path, path + record_index.SUFFIX
    return tuple(
        tf.io.gfile.stat(name).length if tf.io.gfile.exists(name) else -1
        for name in names
    )


def _report_path(out_dir: str, shard: Shard) -> str:
    return os.path.join(out_dir, PROGRESS_DIR, shard.file + ".json")


def write_report(out_dir: str, shard: Shard, report: ShardReport) -> None:
    """Says that a shard and its index are complete."""
    # JSON keeps floats to the last bit.
    files.write_text(_report_path(out_dir, shard), json.dumps(report._asdict()))


def remove_reports(out_dir: str, shards: Sequence[Shard]) -> None:
    """Removes the reports of shards that are to be made anew, where there are any."""
    for shard in shards:
        path = _report_path(out_dir, shard)
        if tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
    if shards and "://" not in out_dir:
        files.sync(os.path.join(out_dir, PROGRESS_DIR))


def read_report(out_dir: str, shard: Shard) -> ShardReport | None:
    """The report of a shard that is complete; None if it is still to be made."""
    try:
        values = json.loads(files.read_text(_report_path(out_dir, shard)))
        report = ShardReport(
            file=values["file"],
            num_bytes=tuple(values["num_bytes"]),
            examples=[ExampleRow(*row) for row in values["examples"]],
            refused=[RefusedRow(*row) for row in values["refused"]],
            truncated=[TruncatedRow(*row) for row in values["truncated"]],
            moments=Moments(*values["moments"]),
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        return None  # damaged: what it is of is made anew
    # Of another shard, or of one that was lost or changed since.
    whole = report.file == shard.file and report.num_bytes == sizes(
        os.path.join(out_dir, shard.file)
    )
    return report if whole else None
