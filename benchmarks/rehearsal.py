"""What a run of ten million examples takes beside decoding and encoders.

    python -m benchmarks.rehearsal --out=DIR --sizes=100000,1000000,10000000

makes directories of records whose tables, shards and indices say so many examples, in
shards of 1,000 that are all one file, and goes through a run on them by the functions
that the commands call: opening, shuffling and the first batches, the store of features
and the statistics of the first clustering, both drawn at random in place of extracted,
clustering from files, health, label tables, training steps, checkpoints, going on, and
an evaluation's splits.

Printed are the seconds and the peak memory of each step, that of its process with
TensorFlow and this project in it, and by which power of the number of examples they
grow between the last two sizes. A step's peak is of the process then, not of the step
alone.

Ten million take 12 GB on disk.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.made_up_records import FPS, ROWS_PER_SHARD, SECS, make_records
from xdc_tf.configs import synthetic
from xdc_tf.evaluation import labelled_records
from xdc_tf.features import row_arrays
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import RowState
from xdc_tf.labels import health, label_makers, label_tables, pseudo_labels
from xdc_tf.runtime import signals
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import (
    batches,
    first_features,
    pretrain,
    round_criteria,
    round_labels,
    run_features,
    trained_run,
)
from xdc_tf.training.run import Run, prepare

_NUM_CLUSTERS = 1000
_NUM_STEPS = 4
_BLOCK_ROWS = 4096


def _config(num_examples: int) -> dict[str, Any]:
    config = synthetic.get_config()
    config.num_rounds = 2
    config.clip.num_frames, config.clip.fps = 2, FPS
    config.clip.crop_size, config.clip.audio_secs = 16, SECS
    config.kmeans.num_clusters = _NUM_CLUSTERS
    config.kmeans.num_restarts, config.kmeans.num_iterations = 1, 5
    config.kmeans.memory_gib = 0.01  # from files at all sizes
    config.features.batch_norm_batches = 2
    config.training.batch_size = 64
    config.training.epochs_per_round = 1
    config.training.max_steps_per_epoch = _NUM_STEPS
    config.training.held_out_share = 1000 / num_examples
    return config.to_dict()


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """Prints as a line of JSON what the block takes."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak begins anew
    began = time.perf_counter()
    yield
    secs = time.perf_counter() - began
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    gib = int(peak.split()[1]) / 2**20
    print(json.dumps({"step": name, "secs": secs, "gib": gib}), flush=True)


def _measured(module: Any, function: str, name: str) -> None:
    """Has a function of a module print what it takes, each time that it is called."""
    plain: Callable = getattr(module, function)

    @functools.wraps(plain)
    def measured(*arguments, **options):
        with _step(name):
            return plain(*arguments, **options)

    setattr(module, function, measured)


def _random_statistics(run: Run, encoders, directory: str, *, clip=None):
    """In place of first_features._extracted: no clip is decoded."""
    del clip
    widths = {"video": 128, "audio": 52}
    num_rows = len(run.records.local.rows)
    found = {}
    for stream in encoders:
        path, shape = (
            os.path.join(directory, f"{stream}.npy"),
            (num_rows, widths[stream]),
        )
        row_arrays.make_zeros(path, shape, np.dtype(np.float32))
        found[stream] = row_arrays.RowFile(path, shape, np.dtype(np.float32))
    for examples in _random_groups(num_rows, widths):
        for stream, values in examples.streams.items():
            found[stream].write(examples.example_index, values)
    return found, np.ones(num_rows, bool)


def _prepare(directory: str, workdir: str, num_examples: int) -> Run:
    return prepare(
        _config(num_examples),
        workdir=workdir,
        records_dir=directory,
        strategy=tf.distribute.get_strategy(),
        allow_config_change=False,
    )


def _random_groups(num_examples: int, widths: dict[str, int]):
    rng = np.random.default_rng(0)
    centers = {name: rng.normal(size=(1000, n)) for name, n in widths.items()}
    for first in range(0, num_examples, _BLOCK_ROWS):
        index = np.arange(first, min(first + _BLOCK_ROWS, num_examples))
        yield ExampleFeatures(
            index,
            {
                name: (
                    centers[name][rng.integers(1000, size=len(index))]
                    + rng.normal(size=(len(index), width))
                ).astype(np.float32)
                for name, width in widths.items()
            },
        )


def go_through_run(directory: str, workdir: str, num_examples: int) -> None:
    """A run's first round."""
    with _step("records opened, run made"):
        run = _prepare(directory, workdir, num_examples)
    with contextlib.closing(run.monitor), run.checkpoints:
        with _step("disk for features"):
            context = pretrain.make_round_context(run)
        with _step("first batch of an epoch"):
            next(iter(context.training_batches))
        with _step("encoders and checkpoint saved"):
            pretrain.save_initial_encoders(run, context)
            run.checkpoints.save(wait=True)
        widths = {
            stream: encoder.output_shape[-1]
            for stream, encoder in run.state.model.encoders.items()
        }
        with _step("features written"):
            context.store.keep_only(
                harvested_in=None,
                extracted_by=run_features.clustered_encoders(run, 0),
            )
            for examples in _random_groups(num_examples, widths):
                context.store.write(examples, RowState.EXTRACTED)
            context.store.commit()
        for module, function, name in (
            (run_features, "to_cluster", "features read and checked"),
            (first_features, "_standardize", "statistics standardized"),
            (pseudo_labels, "cluster", "k-means of both, 5 iterations"),
            (health, "build_report", "health"),
            (round_criteria, "measure", "criteria"),
            (label_tables, "write", "label tables written"),
            (round_labels, "load", "labels loaded"),
            (pretrain, "start_training", "checkpoint"),
        ):
            _measured(module, function, name)
        first_features._extracted = _random_statistics
        label_makers.LABEL_MAKERS["kmeans"] = label_makers.LabelMaker(
            pseudo_labels.cluster
        )
        pretrain.start_round(run, context, 0)
        with _step(f"training, {_NUM_STEPS} steps"):
            pretrain.train_round(run, context, 0, stop=signals.Stop())
        with _step("draws of balanced clusters"):
            batches.expected_draws(
                {n: table.numpy() for n, table in run.state.label_tables.items()},
                run.records.trained,
            )
        pretrain.finish_round(run, context, 0)
        with _step("health against the round before"):
            table = label_tables.read(run_directory.round_dir(workdir, 0))
            moved = {
                name: clustering._replace(labels=np.roll(clustering.labels, 1))
                for name, clustering in table.clusterings.items()
            }
            health.build_report.__wrapped__(
                moved,
                previous=lambda name: table.clusterings[name].labels,
                true_labels=run.records.true_labels,
                settings=run.config.health,
                round_index=1,
            )


def go_on(directory: str, workdir: str, num_examples: int) -> None:
    """The start of a process that goes on with the run."""
    with _step("going on: run made again"):
        run = _prepare(directory, workdir, num_examples)
    with contextlib.closing(run.monitor), run.checkpoints:
        with _step("going on: checkpoint restored"):
            if run.checkpoints.restore() is None:
                raise RuntimeError(f"{workdir} has no checkpoint")
        with _step("going on: label tables read"):
            label_tables.read(run_directory.round_dir(workdir, 0))


def split(directory: str, workdir: str, num_examples: int) -> None:
    """The splits of an evaluation, a tenth of the examples being for tests."""
    test_dir = f"{directory}_test"
    run = trained_run.open_run(workdir)
    with _step("splits of an evaluation"):
        splits = labelled_records.open_splits(
            [directory],
            [test_dir],
            run=run,
            modalities=run.modalities,
            allow_overlap=True,
        )
        assert splits[0].train.examples.num_examples == num_examples


def _sizes(text: str) -> list[int]:
    return [int(size) // ROWS_PER_SHARD * ROWS_PER_SHARD for size in text.split(",")]


def _power(first: float, last: float, ratio: float) -> str:
    """By which power of the size a value grows; small ones are of something else."""
    return f"{math.log(last / first) / math.log(ratio):.2f}" if first > 0 else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="directory for records and runs")
    parser.add_argument("--sizes", type=_sizes, default=_sizes("100000,1000000"))
    parser.add_argument("--part", help="of one size, in a process of its own")
    arguments = parser.parse_args()
    parts = {"run": go_through_run, "go_on": go_on, "split": split}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for size in arguments.sizes:
        directory = os.path.join(arguments.out, f"records_{size}")
        workdir = os.path.join(arguments.out, f"run_{size}")
        if arguments.part:
            with _step("TensorFlow and project imported"):
                pass
            parts[arguments.part](directory, workdir, size)
            return
        make_records(directory, size, "videos")
        make_records(
            f"{directory}_test",
            max(size // 10, ROWS_PER_SHARD),
            "test_videos",
        )
        shutil.rmtree(workdir, ignore_errors=True)
        for part in parts:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.rehearsal"),
                    f"--out={arguments.out}",
                    f"--sizes={size}",
                    f"--part={part}",
                ],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for line in done.stdout.splitlines():
                if line.startswith("{"):
                    values = json.loads(line)
                    print(size, values, file=sys.stderr, flush=True)
                    by_size = found.setdefault(values.pop("step"), {})
                    before = by_size.get(size, {"secs": 0.0, "gib": 0.0})
                    by_size[size] = {  # of a step that is done for each stream
                        "secs": before["secs"] + values["secs"],
                        "gib": max(before["gib"], values["gib"]),
                    }
        shutil.rmtree(workdir)
    sizes = arguments.sizes
    print(
        "| | "
        + " | ".join(f"{size:,}: s | GiB" for size in sizes)
        + (" | s grow by | GiB grow by |" if len(sizes) > 1 else " |")
    )
    print("|---" + "|--:" * (2 * len(sizes) + 2 * (len(sizes) > 1)) + "|")
    for step, by_size in found.items():
        cells = [f"{by_size[n]['secs']:.1f} | {by_size[n]['gib']:.2f}" for n in sizes]
        if len(sizes) > 1:
            before, last = by_size[sizes[-2]], by_size[sizes[-1]]
            ratio = sizes[-1] / sizes[-2]
            cells += [_power(before[k], last[k], ratio) for k in ("secs", "gib")]
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
