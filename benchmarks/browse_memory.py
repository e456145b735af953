"""Memory and time that `xdc-tf browse` takes for many examples.

    python -m benchmarks.browse_memory --run=demo_run/run --examples=1000000

Writes records of a second, whose four frames look the same in all, random labels of
three rounds and random features (5 GB for a million, in --dir until the end),
takes the configuration of a run, and makes pages of them by the command. Prints its
time, its own peak of memory, and the largest sum over it and the processes that decode.
"""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks import process_memory
from xdc_tf.data import dataset_info, example_tables, records
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.shard_writing import ShardWriter
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import FeatureStore, RowState
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import workdir as run_directory

RUN = flags.DEFINE_string("run", None, "Run whose configuration is used.")
EXAMPLES = flags.DEFINE_integer("examples", 1_000_000, "Number of examples.")
_CLUSTERS = flags.DEFINE_integer("clusters", 256, "Number of clusters.")
_PER_CLUSTER = flags.DEFINE_integer("examples_per_cluster", 3, "Clips of each.")
_MAP_EXAMPLES = flags.DEFINE_integer("map_examples", 10_000, "Points of each map.")
WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes that decode.")
DIR = flags.DEFINE_string("dir", None, "Where the files lie; default: $TMPDIR.")
# What xdc-tf browse does; of the settings, it has no flag for map_examples.
_MAKE_PAGES = """
import json, sys
from xdc_tf.browse import pages
*places, settings = sys.argv[1:]
pages.make_pages(*places, settings=pages.BrowseSettings(**json.loads(settings)))
"""
_ROWS_PER_SHARD = 10_000
_SECS = 1.0
_NUM_FRAMES = 4
_WIDTH = 128  # of features
_NUM_ROUNDS = 2
_STREAMS = ("video", "audio")
_ENCODERS = {stream: "0" * 64 for stream in _STREAMS}


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory(dir=DIR.value) as temporary:
        folder = pathlib.Path(temporary)
        write_records(folder / "records", EXAMPLES.value)
        write_run(folder / "run", EXAMPLES.value)
        settings = {
            "examples_per_cluster": _PER_CLUSTER.value,
            "map_examples": _MAP_EXAMPLES.value,
            "num_workers": WORKERS.value,
        }
        places = [str(folder / name) for name in ("run", "records", "page")]
        command = [sys.executable, "-c", _MAKE_PAGES, *places, json.dumps(settings)]
        print("made; now the pages", flush=True)
        begin = time.perf_counter()
        own_mib, sum_mib = measured(command)
        secs = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in (folder / "page").rglob("*.*"))
        print(
            f"{EXAMPLES.value} examples, {_CLUSTERS.value} clusters: {secs:.0f} s, "
            f"{own_mib:.0f} MiB, {sum_mib:.0f} MiB with the processes that decode; "
            f"pages of {size / 1e6:.0f} MB"
        )


def write_records(directory: pathlib.Path, num_examples: int) -> None:
    """Writes a directory of records that differ in names and in bytes after a frame."""
    directory.mkdir()
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(picture, "jpeg")
    frames = [picture.getvalue() + bytes(number) for number in range(32)]
    num_shards = -(-num_examples // _ROWS_PER_SHARD)
    shards, examples = [], []
    for shard in range(num_shards):
        name = f"records-{shard:05d}-of-{num_shards:05d}.tfrecord"
        path = directory / name
        first = shard * _ROWS_PER_SHARD
        numbers = range(first, min(first + _ROWS_PER_SHARD, num_examples))
        with ShardWriter(str(path)) as writer:
            for number in numbers:
                video_id = f"folder_{number % 1000:03d}/video_{number:09d}.mp4"
                example = records.Example(
                    example_index=number,
                    data_path=video_id,
                    video_id=video_id,
                    start_us=0,
                    end_us=round(_SECS * 1e6),
                    video_items=[
                        frames[number >> 5 * place & 31] for place in range(_NUM_FRAMES)
                    ],
                    frame_rate=4.0,
                    height=16,
                    width=16,
                    labels=[number % 20],
                    label_texts=[f"class_{number % 20:02d}"],
                )
                writer.write(records.encode_example(example))
                examples.append(
                    ExampleRow(
                        number, video_id, example.label_texts[0], name, 0.0, _SECS
                    )
                )
        index = path.with_name(f"{name}.index")
        sizes = path.stat().st_size, index.stat().st_size
        shards.append(ShardInfo(name, len(numbers), *sizes))
    write_tables(directory, examples)
    info = DatasetInfo(
        manifest_sha256="0" * 64,
        num_rows=num_examples,
        num_examples=num_examples,
        num_quarantined=0,
        fps=4.0,
        short_side=16,
        jpeg_quality=75,
        min_secs=0.1,
        max_secs=300.0,
        has_waveform=False,
        rows_per_shard=_ROWS_PER_SHARD,
        log_mel=LogMelSettings(),
        log_mel_mean=0.0,
        log_mel_std=1.0,
        label_names=[f"class_{number:02d}" for number in range(20)],
        shards=shards,
        modalities=["video"],
    )
    dataset_info.write_dataset_info(str(directory), info)


def write_tables(directory: pathlib.Path, rows: Sequence[ExampleRow]) -> None:
    """Writes the tables of a directory of records that refused nothing."""
    example_tables.write_examples(str(directory), rows)
    example_tables.write_csv(
        str(directory / example_tables.QUARANTINE_FILE),
        example_tables.RefusedRow._fields,
        [],
    )


def write_run(directory: pathlib.Path, num_examples: int) -> None:
    """Writes a run of random labels and features."""
    directory.mkdir()
    shutil.copy(pathlib.Path(RUN.value) / "config.json", directory)
    shutil.copytree(pathlib.Path(RUN.value) / "records", directory / "records")
    random = np.random.default_rng(1)
    for round_index in range(_NUM_ROUNDS + 1):
        label_tables.write(
            run_directory.round_dir(str(directory), round_index),
            clusterings={
                source: Clustering(
                    labels=random.integers(
                        _CLUSTERS.value, size=num_examples, dtype=np.int32
                    ),
                    centroids=random.normal(size=(_CLUSTERS.value, _WIDTH)).astype(
                        np.float32
                    ),
                    sizes=np.full(_CLUSTERS.value, num_examples // _CLUSTERS.value),
                    inertia=0.0,
                )
                for source in _STREAMS
            },
            video_ids=(
                f"folder_{number % 1000:03d}/video_{number:09d}.mp4"
                for number in range(num_examples)
            ),
            settings={"encoders_sha256": _ENCODERS},
        )
    store = FeatureStore(
        run_directory.features_dir(str(directory), worker=0, num_workers=1),
        num_rows=num_examples,
        widths={stream: _WIDTH for stream in _STREAMS},
        dtype="float32",
        made_with={},
    )
    store.keep_only(harvested_in=None, extracted_by=_ENCODERS)
    for first in range(0, num_examples, _ROWS_PER_SHARD):
        indices = np.arange(first, min(first + _ROWS_PER_SHARD, num_examples))
        rows = {
            stream: random.normal(size=(len(indices), _WIDTH)).astype(np.float32)
            for stream in _STREAMS
        }
        store.write(ExampleFeatures(indices, rows), RowState.EXTRACTED)
    store.commit()


def measured(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its peak of memory, and that with its processes, in MiB.

    Raises:
      subprocess.CalledProcessError: it fails.
    """
    own = largest = 0.0
    process = subprocess.Popen(command)
    while process.poll() is None:
        running = list(process_memory.processes_of(process.pid))
        own = max(own, *(each.peak_mib for each in running[:1]), 0)
        largest = max(largest, sum(each.mib for each in running))
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return own, largest


if __name__ == "__main__":
    flags.mark_flag_as_required("run")
    app.run(main)
