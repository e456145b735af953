"""The shards of a conversion as an Apache Beam pipeline, one element each."""

import functools
import json
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from data_prep import shards as shard_files
from data_prep.conversion_settings import ConversionSettings
from data_prep.manifest import ManifestRow
from data_prep.shards import PROGRESS_DIR, Shard
from data_prep.worker_processes import PoolSettings
from xdc_tf.data.label_texts import LabelNumbers
from xdc_tf.runtime import compat, files


class _Arguments(NamedTuple):
    """Those of shards.convert_shards that are the same for every element."""

    out_dir: str
    settings: ConversionSettings
    label_numbers: LabelNumbers
    pool: PoolSettings


def convert_shards(
    shards: Sequence[Shard],
    out_dir: str,
    *,
    runner: str,
    options: Sequence[str],
    settings: ConversionSettings,
    label_numbers: LabelNumbers,
    pool: PoolSettings,
) -> None:
    """Makes shards by a Beam runner, and waits for it.

    Args:
      shards: what to make.
      out_dir: directory of the records, which all of the runner's workers see; so with
        the media.
      runner: name of a Beam runner.
      options: of Beam's own, as NAME=VALUE or NAME.
      settings: what to store.
      label_numbers: of the rows' labels.
      pool: decoding processes of each of the runner's workers, and the limits of a
        row.

    Raises:
      ValueError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError(
            f"--runner={runner} needs Apache Beam ({error}); "
            "pip install -r requirements-beam.txt."
        ) from error
    # A pipeline of a million rows would be more than a service takes.
    for shard in shards:
        rows = [row._asdict() for row in shard.rows]
        files.write_text(_rows_path(out_dir, shard), json.dumps(rows))
    names = [(shard.number, shard.num_shards) for shard in shards]
    arguments = _Arguments(out_dir, settings, label_numbers, pool)
    convert = functools.partial(_convert, arguments=arguments)
    beam_flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
    if runner == "DirectRunner":
        # Else Beam fetches a program from the web; there are no triggers.
        beam_flags.append("--allow_unsafe_triggers")
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with apache_beam.Pipeline(options=PipelineOptions(beam_flags)) as pipeline:
        _ = (
            pipeline
            | "Shards" >> apache_beam.Create(names)
            | "Spread" >> apache_beam.Reshuffle()
            | "Convert" >> apache_beam.Map(convert)
        )


def _convert(name: tuple[int, int], arguments: _Arguments) -> None:
    compat.enable_remote_paths(arguments.out_dir)
    shard = Shard(*name, rows=())
    rows = json.loads(files.read_text(_rows_path(arguments.out_dir, shard)))
    shard_files.convert_shards(
        [shard._replace(rows=[ManifestRow(**row) for row in rows])],
        **arguments._asdict(),
    )


def _rows_path(out_dir: str, shard: Shard) -> str:
    return os.path.join(out_dir, PROGRESS_DIR, shard.file + ".rows.json")
