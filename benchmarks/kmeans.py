"""k-means next to faiss and scikit-learn, and its growth with the number of rows.

    python -m benchmarks.kmeans                  100,000 x 512, k = 256
    python -m benchmarks.kmeans --num_rows=400000 --num_clusters=1024
    python -m benchmarks.kmeans --scale          100,000 to 6,400,000 rows from files

Each engine runs in a process of its own, one after the other, with all cores and the
same rows; the first repeat of ours, which traces, is left out. faiss is looked for in
the Python of --faiss_python, so that it need not share an environment with TensorFlow.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import kmeans_engines

_NUM_ROWS = flags.DEFINE_integer("num_rows", 100_000, "Number of rows, N.")
_WIDTH = flags.DEFINE_integer("width", 512, "d.")
_NUM_CLUSTERS = flags.DEFINE_integer("num_clusters", 256, "k.")
_NUM_ITERATIONS = flags.DEFINE_integer(
    "num_iterations", 20, "Iterations of every engine."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed fits of every engine.")
_ENGINES = flags.DEFINE_list(
    "engines",
    ["ceiling", "faiss", "mixed", "float32", "replicas", "scikit-learn"],
    "Engines to run, in this order.",
)
_FAISS_PYTHON = flags.DEFINE_string(
    "faiss_python", sys.executable, "A Python that has faiss-cpu."
)
_SCALE = flags.DEFINE_bool("scale", False, "Measure the growth with N instead.")
_SCALE_ROWS = flags.DEFINE_list(
    "scale_rows",
    ["100000", "400000", "1600000", "6400000"],
    "Numbers of rows of --scale.",
)
_DIRECTORY = flags.DEFINE_string(
    "dir", "", "Directory for the rows; empty: a temporary one."
)
_RUN = flags.DEFINE_string("run", "", "Used by this program for its subprocesses.")

# A fixed core type and cache size slow NumPy, scikit-learn and faiss down.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_BLOCK = 100_000


def make_rows(path: str, *, num_rows: int, width: int, dtype: str) -> None:
    """Writes [num_rows, width] rows of length one, around 2,048 random directions."""
    centres = np.random.default_rng(0).standard_normal((2048, width), np.float32)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (num_rows, width),
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_rows, _BLOCK):
            rng = np.random.default_rng([1, start])
            count = min(_BLOCK, num_rows - start)
            block = 0.6 * centres[rng.integers(0, len(centres), count)]
            block += rng.standard_normal((count, width), np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            file.write(block.astype(dtype).data)
        file.flush()
        # What is still on its way to the disk would slow the first fits down.
        os.fsync(file.fileno())


def compare(directory: str) -> None:
    """Prints time and inertia of all engines on the same rows."""
    path = os.path.join(directory, "rows.npy")
    make_rows(path, num_rows=_NUM_ROWS.value, width=_WIDTH.value, dtype=np.dtype("<f4"))
    print(
        f"{_NUM_ROWS.value} x {_WIDTH.value} float32, k = {_NUM_CLUSTERS.value}, "
        f"{_NUM_ITERATIONS.value} iterations, median of {_REPEATS.value}"
    )
    figures_of = {}
    for engine in _ENGINES.value:
        figures_of[engine] = figures = _in_a_process(engine, path)
        if engine == "ceiling":
            print(
                "ceiling of matrix products: "
                + ", ".join(
                    f"{name} {rate:.0f} GFLOP/s" for name, rate in figures.items()
                )
            )
            continue
        secs = float(np.median(figures["secs"]))
        line = f"{engine:13s} {secs:8.2f} s  inertia {figures['inertia']:.1f}"
        if "faiss" in figures_of and engine != "faiss":
            other = figures_of["faiss"]
            line += (
                f"  {secs / np.median(other['secs']):.2f} of faiss's time, "
                f"{figures['inertia'] / other['inertia']:.5f} of its inertia"
            )
        if "distance_gflops" in figures:
            line += f"  initialisation {figures['initialisation_secs'] / secs:.1%}"
            rate = figures["distance_gflops"]
            line += f"  distances {rate:.0f} GFLOP/s"
            if "ceiling" in figures_of:
                name = "float32" if engine == "float32" else "bfloat16"
                line += f", {rate / figures_of['ceiling'][name]:.0%} of the ceiling"
        if "same_labels" in figures:
            line += f"  same labels as one device: {figures['same_labels']:.4%}"
        print(line, flush=True)


def scale(directory: str) -> None:
    """Prints time per iteration and peak memory for growing files of rows."""
    print(
        f"d = {_WIDTH.value}, float16 in files, k = {_NUM_CLUSTERS.value}, mixed, "
        f"{_NUM_ITERATIONS.value} iterations"
    )
    before = None
    for num_rows in map(int, _SCALE_ROWS.value):
        path = os.path.join(directory, "rows.npy")
        make_rows(path, num_rows=num_rows, width=_WIDTH.value, dtype=np.dtype("<f2"))
        figures = _in_a_process("scale", path)
        line = (
            f"N = {num_rows:9,d}  {figures['secs_per_iteration']:8.3f} s an iteration  "
            f"peak memory {figures['peak_gib']:.2f} GiB  "
            f"inertia a row {figures['inertia_per_row']:.4f}"
        )
        if before:
            exponent = np.log(figures["secs_per_iteration"] / before[1]) / np.log(
                num_rows / before[0]
            )
            line += f"  exponent {exponent:.3f}"
        before = (num_rows, figures["secs_per_iteration"])
        print(line, flush=True)
        os.remove(path)


def _in_a_process(engine: str, path: str) -> dict:
    environment = {name: v for name, v in os.environ.items() if name not in _UNSET}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    python = _FAISS_PYTHON.value if engine == "faiss" else sys.executable
    done = subprocess.run(
        [
            python,
            "-m",
            "benchmarks.kmeans",
            f"--run={engine}:{path}",
            f"--num_clusters={_NUM_CLUSTERS.value}",
            f"--num_iterations={_NUM_ITERATIONS.value}",
            f"--repeats={_REPEATS.value}",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(_) -> None:
    """Runs what the flags ask for."""
    logging.set_verbosity(logging.WARNING)
    if _RUN.value:
        engine, path = _RUN.value.split(":", 1)
        size = kmeans_engines.Size(
            _NUM_CLUSTERS.value, _NUM_ITERATIONS.value, _REPEATS.value
        )
        figures = (
            kmeans_engines.time_growth(path, size)
            if engine == "scale"
            else kmeans_engines.time_engine(engine, path, size)
        )
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory(dir=_DIRECTORY.value or None) as directory:
        (scale if _SCALE.value else compare)(directory)


if __name__ == "__main__":
    app.run(main)
