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
import time

import numpy as np
from absl import app, flags, logging

_NUM_ROWS = flags.DEFINE_integer("num_rows", 100_000, "N.")
_WIDTH = flags.DEFINE_integer("width", 512, "d.")
_NUM_CLUSTERS = flags.DEFINE_integer("num_clusters", 256, "k.")
_NUM_ITERATIONS = flags.DEFINE_integer("num_iterations", 20, "Of every engine.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed fits of every engine.")
_ENGINES = flags.DEFINE_list(
    "engines",
    ["ceiling", "faiss", "mixed", "float32", "replicas", "scikit-learn"],
    "What to run, in this order.",
)
_FAISS_PYTHON = flags.DEFINE_string(
    "faiss_python", sys.executable, "A Python that has faiss-cpu."
)
_SCALE = flags.DEFINE_bool("scale", False, "Measure the growth with N instead.")
_SCALE_ROWS = flags.DEFINE_list(
    "scale_rows", ["100000", "400000", "1600000", "6400000"], "N of --scale."
)
_DIRECTORY = flags.DEFINE_string("dir", "", "For the rows; empty: a temporary one.")
_RUN = flags.DEFINE_string("run", "", "Used by this program for its own processes.")

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


def time_engine(engine: str, path: str) -> dict:
    """Runs one engine in this process; seconds of its fits and what came out."""
    if engine == "ceiling":
        return _ceiling()
    run = {"faiss": _faiss, "scikit-learn": _scikit_learn}.get(engine, _ours)
    return run(engine, path)


def _ceiling() -> dict:
    """The fastest of several large products, GFLOP/s by type."""
    import tensorflow as tf

    found = {}
    for name in ("float32", "bfloat16"):
        matrix = tf.cast(tf.random.normal([4096, 4096]), name)
        product = tf.function(lambda a: tf.reduce_sum(tf.matmul(a, a)[:1]))
        product(matrix)
        secs = []
        for _ in range(10):
            start = time.perf_counter()
            product(matrix).numpy()
            secs.append(time.perf_counter() - start)
        found[name] = 2 * 4096**3 / min(secs) / 1e9
    return found


def _faiss(_, path):
    import faiss

    rows = np.load(path)
    secs = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        engine = faiss.Kmeans(
            rows.shape[1],
            _NUM_CLUSTERS.value,
            niter=_NUM_ITERATIONS.value,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        engine.train(rows)
        secs.append(time.perf_counter() - start)
    distances, _ = engine.index.search(rows, 1)
    return {"secs": secs, "inertia": float(distances.sum(dtype=np.float64))}


def _scikit_learn(_, path):
    from sklearn.cluster import KMeans

    rows = np.load(path)
    start = time.perf_counter()
    found = KMeans(
        _NUM_CLUSTERS.value,
        init="random",
        n_init=1,
        max_iter=_NUM_ITERATIONS.value,
        tol=0,
        algorithm="lloyd",
        random_state=0,
    ).fit(rows)
    return {"secs": [time.perf_counter() - start], "inertia": float(found.inertia_)}


def _ours(engine, path):
    import tensorflow as tf

    strategy = None
    if engine == "replicas":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    from xdc_tf.clustering import kmeans

    rows = np.load(path)
    precision = "mixed" if engine == "mixed" else "float32"

    def fit(num_iterations, **options):
        start = time.perf_counter()
        result = kmeans.fit(
            rows,
            num_clusters=_NUM_CLUSTERS.value,
            num_iterations=num_iterations,
            seed=0,
            normalize=False,
            precision=precision,
            **options,
        )
        return time.perf_counter() - start, result

    fit(_NUM_ITERATIONS.value, strategy=strategy)
    timed = [
        fit(_NUM_ITERATIONS.value, strategy=strategy) for _ in range(_REPEATS.value)
    ]
    result = timed[-1][1]
    found = {"secs": [secs for secs, _ in timed], "inertia": result.inertia}
    found["iterations"] = len(result.inertia_history)
    if engine == "replicas":
        alone = fit(_NUM_ITERATIONS.value)[1]
        found["same_labels"] = float(np.mean(alone.labels == result.labels))
    else:
        found |= _parts(kmeans, precision, rows, result)
    return found


def _parts(kmeans, precision, rows, result):
    """Seconds of the initialisation, and GFLOP/s of the distances alone."""
    import tensorflow as tf

    from xdc_tf.clustering import seeding
    from xdc_tf.clustering.rows import Products, as_factors

    k = _NUM_CLUSTERS.value
    size = kmeans.sample_rows(len(rows), k)
    sample = tf.constant(rows[:size])
    start_from = tf.function(lambda seed: seeding.plus_plus(sample, seed, k))
    products = Products(kmeans.product_dtype(precision), tf.constant(1.0))
    block_rows = kmeans.block_rows(k)
    columns = as_factors(tf.transpose(tf.constant(result.centroids)), products)
    factors = as_factors(tf.constant(rows), products)
    num_blocks = len(rows) // block_rows

    @tf.function(autograph=False)
    def distances():
        def step(number, total):
            own = factors[number * block_rows : (number + 1) * block_rows]
            scores = tf.matmul(own, columns)
            return number + 1, total + tf.cast(scores[0, 0], tf.float32)

        return tf.while_loop(
            lambda number, _: number < num_blocks,
            step,
            (0, 0.0),
            parallel_iterations=2,
        )[1]

    def seconds(function, *arguments):
        function(*arguments)
        secs = []
        for _ in range(5):
            start = time.perf_counter()
            tf.nest.map_structure(lambda value: value.numpy(), function(*arguments))
            secs.append(time.perf_counter() - start)
        return float(np.median(secs))

    flops = 2.0 * num_blocks * block_rows * rows.shape[1] * k
    return {
        "initialisation_secs": seconds(start_from, tf.constant([0, 0], tf.int64)),
        "distance_gflops": flops / seconds(distances) / 1e9,
    }


def _scale_one(path: str) -> dict:
    """Fits the rows of a file with two numbers of iterations."""
    from xdc_tf.clustering import kmeans, row_files

    secs = []
    for num_iterations in (1, 1, 1 + _NUM_ITERATIONS.value):
        rows = row_files.open_rows(path)
        start = time.perf_counter()
        result = kmeans.fit(
            rows,
            num_clusters=_NUM_CLUSTERS.value,
            num_iterations=num_iterations,
            seed=0,
            precision="mixed",
        )
        secs.append(time.perf_counter() - start)
    done = len(result.inertia_history)
    return {
        "secs_per_iteration": (secs[2] - secs[1]) / (done - 1),
        "inertia_per_row": result.inertia / len(rows),
        "peak_gib": _peak_gib(),
    }


def _peak_gib() -> float:
    """Of this program alone; what getrusage says includes the process it came from."""
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**20


def compare(directory: str) -> None:
    """Prints time and inertia of all engines on the same rows."""
    path = os.path.join(directory, "rows.npy")
    make_rows(path, num_rows=_NUM_ROWS.value, width=_WIDTH.value, dtype=np.dtype("<f4"))
    print(
        f"{_NUM_ROWS.value} x {_WIDTH.value} float32, k = {_NUM_CLUSTERS.value}, "
        f"{_NUM_ITERATIONS.value} iterations, median of {_REPEATS.value}"
    )
    found = {}
    for engine in _ENGINES.value:
        found[engine] = one = _in_a_process(engine, path)
        if engine == "ceiling":
            print(
                "ceiling of matrix products: "
                + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in one.items())
            )
            continue
        secs = float(np.median(one["secs"]))
        line = f"{engine:13s} {secs:8.2f} s  inertia {one['inertia']:.1f}"
        if "faiss" in found and engine != "faiss":
            other = found["faiss"]
            line += (
                f"  {secs / np.median(other['secs']):.2f} of faiss's time, "
                f"{one['inertia'] / other['inertia']:.5f} of its inertia"
            )
        if "distance_gflops" in one:
            line += f"  initialisation {one['initialisation_secs'] / secs:.1%}"
            rate = one["distance_gflops"]
            line += f"  distances {rate:.0f} GFLOP/s"
            if "ceiling" in found:
                name = "float32" if engine == "float32" else "bfloat16"
                line += f", {rate / found['ceiling'][name]:.0%} of the ceiling"
        if "same_labels" in one:
            line += f"  same labels as one device: {one['same_labels']:.4%}"
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
        one = _in_a_process("scale", path)
        line = (
            f"N = {num_rows:9,d}  {one['secs_per_iteration']:8.3f} s an iteration  "
            f"peak memory {one['peak_gib']:.2f} GiB  "
            f"inertia a row {one['inertia_per_row']:.4f}"
        )
        if before:
            exponent = np.log(one["secs_per_iteration"] / before[1]) / np.log(
                num_rows / before[0]
            )
            line += f"  exponent {exponent:.3f}"
        before = (num_rows, one["secs_per_iteration"])
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
        found = _scale_one(path) if engine == "scale" else time_engine(engine, path)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=_DIRECTORY.value or None) as directory:
        (scale if _SCALE.value else compare)(directory)


if __name__ == "__main__":
    app.run(main)
