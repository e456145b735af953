"""This checkout next to another one: training steps, k-means and the input pipeline.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.side_by_side --other=/tmp/before --records=DIR

runs the engines of `benchmarks.train_step`, `benchmarks.kmeans` and
`benchmarks.pipeline` in processes of both checkouts by turns, so that a slow minute
counts for both, and prints the best of each: on a shared machine the least disturbed.
A ratio above 1 says that this checkout is faster.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from benchmarks import kmeans as kmeans_benchmark

_OTHER = flags.DEFINE_string("other", None, "The other checkout.", required=True)
_RECORDS = flags.DEFINE_string(
    "records", None, "Directory for the pipeline's videos and records.", required=True
)
_TURNS = flags.DEFINE_integer("turns", 5, "Runs in each checkout; the best counts.")
_SIZE = (50_000, 256)  # of the rows of k-means


def _run(checkout: str, *arguments: str) -> str:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout


def train_step(checkout: str, modality: str, precision: str) -> dict[str, float]:
    """Clips per second of a training step and of a forward pass."""
    output = _run(
        checkout,
        "benchmarks.train_step",
        f"--modality={modality}",
        f"--run=ours:{precision}",
        "--steps=3",
        "--batch_size=8",
    )
    figures = json.loads(output.splitlines()[-1])
    return {
        f"{modality} {precision} {key}, clips/s": figures[key]
        for key in ("training", "forward")
    }


def kmeans(checkout: str, engine: str, path: str) -> dict[str, float]:
    """Fits per minute."""
    output = _run(
        checkout,
        "benchmarks.kmeans",
        f"--run={engine}:{path}",
        "--num_clusters=256",
        "--num_iterations=10",
        "--repeats=3",
    )
    secs = min(json.loads(output.splitlines()[-1])["secs"])
    return {f"k-means {engine}, fits a minute": 60 / secs}


def pipeline(checkout: str, directory: str) -> dict[str, float]:
    """Clips per second of each kind of batches."""
    output = _run(
        checkout,
        "benchmarks.pipeline",
        f"--out={directory}",
        "--num_clips=800",
        "--repeats=3",
    )
    rows = re.findall(r"^\| ([^|]+) \| +(\d+) \| (\d+) \|", output, re.M)
    return {
        f"pipeline {name}, crop {crop}, clips/s": float(rate)
        for name, crop, rate in rows
    }


def main(_) -> None:
    """Prints a row for each measurement."""
    checkouts = {"other": os.path.abspath(_OTHER.value), "this": os.getcwd()}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        num_rows, width = _SIZE
        kmeans_benchmark.make_rows(
            path, num_rows=num_rows, width=width, dtype=np.dtype("<f4")
        )
        measurements = [
            lambda checkout: train_step(checkout, "video", "float32"),
            lambda checkout: train_step(checkout, "audio", "float32"),
            lambda checkout: kmeans(checkout, "float32", path),
            lambda checkout: kmeans(checkout, "mixed", path),
            lambda checkout: pipeline(checkout, os.path.abspath(_RECORDS.value)),
        ]
        print("| | other | this | ratio |\n|---|--:|--:|--:|", flush=True)
        for measure in measurements:
            best: dict[str, dict[str, float]] = {}
            for _ in range(_TURNS.value):
                for name, checkout in checkouts.items():
                    for key, value in measure(checkout).items():
                        figures = best.setdefault(key, {})
                        figures[name] = max(value, figures.get(name, 0.0))
            for key, figures in best.items():
                other, this = figures["other"], figures["this"]
                print(
                    f"| {key} | {other:.3g} | {this:.3g} | {this / other:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
