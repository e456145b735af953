"""The engines that the k-means benchmark times, each in a process of its own.

Nothing but NumPy is imported before an engine runs, so that faiss may live in an
environment without TensorFlow.
"""

import time
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    """Size of the problem that every engine fits.

    Attributes:
      num_clusters: k.
      num_iterations: of a fit.
      repeats: timed fits.
    """

    num_clusters: int
    num_iterations: int
    repeats: int


def time_engine(engine: str, path: str, size: Size) -> dict:
    """Runs one engine in this process; seconds of its fits and what came out."""
    if engine == "ceiling":
        return _ceiling()
    run = {"faiss": _faiss, "scikit-learn": _scikit_learn}.get(engine, _ours)
    return run(engine, path, size)


def _ceiling() -> dict:
    """The fastest of several large products, GFLOP/s by type."""
    import tensorflow as tf

    gflops = {}
    for name in ("float32", "bfloat16"):
        matrix = tf.cast(tf.random.normal([4096, 4096]), name)
        product = tf.function(lambda a: tf.reduce_sum(tf.matmul(a, a)[:1]))
        product(matrix)
        secs = []
        for _ in range(10):
            start = time.perf_counter()
            product(matrix).numpy()
            secs.append(time.perf_counter() - start)
        gflops[name] = 2 * 4096**3 / min(secs) / 1e9
    return gflops


def _faiss(_, path, size):
    import faiss

    rows = np.load(path)
    secs = []
    for _ in range(size.repeats):
        start = time.perf_counter()
        engine = faiss.Kmeans(
            rows.shape[1],
            size.num_clusters,
            niter=size.num_iterations,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        engine.train(rows)
        secs.append(time.perf_counter() - start)
    distances, _ = engine.index.search(rows, 1)
    return {"secs": secs, "inertia": float(distances.sum(dtype=np.float64))}


def _scikit_learn(_, path, size):
    from sklearn.cluster import KMeans

    rows = np.load(path)
    start = time.perf_counter()
    fitted = KMeans(
        size.num_clusters,
        init="random",
        n_init=1,
        max_iter=size.num_iterations,
        tol=0,
        algorithm="lloyd",
        random_state=0,
    ).fit(rows)
    return {"secs": [time.perf_counter() - start], "inertia": float(fitted.inertia_)}


def _ours(engine, path, size):
    import tensorflow as tf

    strategy = None
    if engine == "replicas":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    from xdc_tf.kmeans import kmeans

    rows = np.load(path)
    precision = "mixed" if engine == "mixed" else "float32"

    def fit(num_iterations, **options):
        start = time.perf_counter()
        result = kmeans.fit(
            rows,
            num_clusters=size.num_clusters,
            num_iterations=num_iterations,
            seed=0,
            normalize=False,
            precision=precision,
            **options,
        )
        return time.perf_counter() - start, result

    fit(size.num_iterations, strategy=strategy)
    timed = [fit(size.num_iterations, strategy=strategy) for _ in range(size.repeats)]
    result = timed[-1][1]
    figures = {"secs": [secs for secs, _ in timed], "inertia": result.inertia}
    figures["iterations"] = len(result.inertia_history)
    if engine == "replicas":
        alone = fit(size.num_iterations)[1]
        figures["same_labels"] = float(np.mean(alone.labels == result.labels))
    else:
        figures |= _parts(precision, rows, result, size)
    return figures


def _parts(precision, rows, result, size):
    """Seconds of the initialisation, and GFLOP/s of the distances alone."""
    import tensorflow as tf

    from xdc_tf.kmeans import fit_settings, lloyd
    from xdc_tf.kmeans.distances import MatmulFormat, as_factors

    k = size.num_clusters
    sample = tf.constant(rows[: fit_settings.sample_rows(len(rows), k)])
    start_from = tf.function(lambda seed: lloyd.plus_plus(sample, seed, k))
    on_gpu = fit_settings.works_on_gpu(None, None)
    dtype = fit_settings.matmul_dtype(precision, on_gpu=on_gpu)
    matmul_format = MatmulFormat(dtype, tf.constant(1.0))
    block_rows = fit_settings.block_rows(k)
    columns = as_factors(tf.transpose(tf.constant(result.centroids)), matmul_format)
    factors = as_factors(tf.constant(rows), matmul_format)
    num_blocks = len(rows) // block_rows

    @tf.function(autograph=False)
    def distances():
        def step(number, total):
            rows_of_block = factors[number * block_rows : (number + 1) * block_rows]
            scores = tf.matmul(rows_of_block, columns)
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


def time_growth(path: str, size: Size) -> dict:
    """Seconds an iteration, from fits of a file's rows with two numbers of them."""
    from xdc_tf.kmeans import kmeans, matrices

    secs = []
    for num_iterations in (1, 1, 1 + size.num_iterations):
        rows = matrices.open_rows(path)
        start = time.perf_counter()
        result = kmeans.fit(
            rows,
            num_clusters=size.num_clusters,
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
    """Peak memory of this program; getrusage's includes the process it came from."""
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**20
