"""What a label table costs: time, memory and disk, by the number of examples.

    python -m benchmarks.label_tables --num_examples=65000000

draws random labels and, in one process, writes their table, reads and verifies it and
loads it into a variable, then compares what a gather of 1024 labels takes with a
training step of configs/synthetic.py that is labelled by that variable. Prints tables
in Markdown. Of 65 million examples the files take 2.4 GB, in --dir until the end.
"""

import argparse
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.pretraining_step import make_step
from xdc_tf.configs import synthetic
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays, compat
from xdc_tf.training import configuration

_NUM_CLUSTERS = 256
_NUM_GATHERED = 1024


def peak_mib() -> float:
    """The most memory that this process has held so far, all its libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(what: str, action: Callable[[], Any]) -> Any:
    """Prints a row of the table and returns what the action returns."""
    start = time.perf_counter()
    result = action()
    secs = time.perf_counter() - start
    print(f"| {what} | {secs:.1f} | {peak_mib():.0f} |", flush=True)
    return result


def draw_labels(num_examples: int) -> np.ndarray:
    """[num_examples] int32 from -1 to _NUM_CLUSTERS - 1."""
    rng = np.random.default_rng(0)
    return rng.integers(-1, _NUM_CLUSTERS, num_examples, dtype=np.int32)


def write_table(directory: str, labels: np.ndarray) -> None:
    """Writes a table of one clustering with 512-dimensional centroids."""
    rng = np.random.default_rng(1)
    clustering = Clustering(
        labels=labels,
        centroids=rng.standard_normal((_NUM_CLUSTERS, 512), np.float32),
        sizes=sum(
            np.bincount(block + 1, minlength=_NUM_CLUSTERS + 1)[1:]
            for block in arrays.blocks(labels)
        ),
        inertia=1.0,
    )
    label_tables.write(
        directory,
        clusterings={"audio": clustering},
        video_ids=(f"videos/{number:08d}.mp4" for number in range(len(labels))),
        settings={},
    )


def load_table(labels: np.ndarray) -> tf.Variable:
    """A variable of the labels."""
    variable = tf.Variable(
        tf.fill(labels.shape, label_tables.NO_LABEL), trainable=False
    )
    arrays.fill_variable(variable, labels, strategy=tf.distribute.get_strategy())
    return variable


def checksum_of_variable(variable: tf.Variable) -> int:
    """That of the labels' bytes, by the gather that training steps use."""
    checksum, num_rows = 0, variable.shape[0]
    for start in range(0, num_rows, arrays.BLOCK_ROWS):
        rows = tf.range(start, min(start + arrays.BLOCK_ROWS, num_rows))
        checksum = zlib.crc32(tf.gather(variable, rows).numpy(), checksum)
    return checksum


def gather_secs(variable: tf.Variable, *, num_gathers: int = 1000) -> float:
    """Mean seconds of a gather of _NUM_GATHERED random labels in a `tf.function`."""
    rng = np.random.default_rng(2)
    rows = rng.integers(0, variable.shape[0], (num_gathers, _NUM_GATHERED))

    @tf.function
    def gather(rows):
        total = tf.constant(0)
        for some in rows:
            total += tf.reduce_sum(tf.gather(variable, some))
        return total

    rows = tf.constant(rows, tf.int32)
    gather(rows[:2])  # traces it
    start = time.perf_counter()
    gather(rows).numpy()
    return (time.perf_counter() - start) / num_gathers


def step_secs(variable: tf.Variable, *, num_steps: int = 10) -> float:
    """Median seconds of an XDC training step of configs/synthetic.py.

    Its clips are random, and the variable labels both of its heads.
    """
    recipe = synthetic.get_config()
    recipe.kmeans.num_clusters = _NUM_CLUSTERS
    take_step = make_step(configuration.from_mapping(recipe.to_dict()), variable)
    times = []
    for _ in range(num_steps + 2):
        start = time.perf_counter()
        take_step()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_examples", type=int, default=65_000_000)
    parser.add_argument("--dir", help="where the files are made; a temporary one")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in compat.versions().items()))
    print(f"\n{arguments.num_examples:,} examples\n")
    print("| | seconds | peak RSS so far, MiB |\n|---|--:|--:|")
    print(f"| TensorFlow and the project imported | | {peak_mib():.0f} |")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as parent:
        directory = os.path.join(parent, "round_000")
        labels = timed(
            "random labels drawn", lambda: draw_labels(arguments.num_examples)
        )
        checksum = zlib.crc32(labels)
        timed("written", lambda: write_table(directory, labels))
        del labels
        table = timed("read and verified", lambda: label_tables.read(directory))
        labels = table.clusterings["audio"].labels
        variable = timed("loaded to a variable", lambda: load_table(labels))
        if checksum_of_variable(variable) != checksum:
            raise RuntimeError("the variable holds other labels than were written.")
        print("\n| file | MB |\n|---|--:|")
        for name in sorted(os.listdir(directory)):
            size = os.path.getsize(os.path.join(directory, name))
            print(f"| {name} | {size / 1e6:.1f} |")
    step, gather = step_secs(variable), gather_secs(variable)
    print(
        f"\nA gather of {_NUM_GATHERED} labels takes {1e6 * gather:.0f} us, "
        f"{gather / step:.3%} of a training step of configs/synthetic.py "
        f"({1e3 * step:.0f} ms); peak RSS with such steps {peak_mib():.0f} MiB."
    )


if __name__ == "__main__":
    main()
