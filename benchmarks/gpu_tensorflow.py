"""This project's side of the GPU benchmark; run by benchmarks.gpu."""

import os
import tempfile
import time

import numpy as np
import tensorflow as tf

from benchmarks import gpu_checks, gpu_kmeans, gpu_records, gpu_training
from benchmarks.gpu_training import DEVICE
from xdc_tf.runtime import compat


def ceilings(side: int) -> dict[str, float]:
    """TFLOP/s of square products by type, GB/s of copies on and to the device."""
    rates = {}
    for name in ("bfloat16", "float16", "tf32", "float32"):
        with gpu_training.tf32(name == "tf32"), tf.device(DEVICE):
            matrix = tf.random.normal([side, side])
            if name != "tf32":
                matrix = tf.cast(matrix, name)
            product = tf.function(lambda a: tf.matmul(a, a))
            wait(product(matrix))
            secs = gpu_records.median_secs(
                lambda matrix=matrix, product=product: product(matrix), wait, steps=10
            )
        rates[name] = 2 * side**3 / secs / 1e12
    with tf.device(DEVICE):
        vector = tf.random.normal([side * side])
        add = tf.function(lambda a: a + 1.0)
        wait(add(vector))
        secs = gpu_records.median_secs(lambda: add(vector), wait, steps=10)
    rates["copy_gb_per_sec"] = 8 * side**2 / secs / 1e9
    numbers = np.zeros([side, side], np.float32)

    def send():
        with tf.device(DEVICE):
            return tf.constant(numbers) + 0.0

    wait(send())
    secs = gpu_records.median_secs(send, wait, steps=2)
    return rates | {"to_device_gb_per_sec": 4 * side**2 / secs / 1e9}


def wait(value: tf.Tensor) -> None:
    """Until the device has computed a tensor: fetches one number of it."""
    tf.reshape(value, [-1])[0].numpy()


def train(
    streams: dict,
    batch_size: int,
    precision: str,
    steps: int,
    jit_compile: bool = False,
    compiled_update: bool = False,
    deterministic: bool = False,
) -> dict[str, float]:
    """Training steps, clips/s.

    Args:
      streams: for "video" and "audio", or one of them: network and shape of a clip, see
        gpu_training.Stream.
      batch_size: clips.
      precision: "float32", "tf32", "float16" or "bfloat16".
      steps: of a timed run.
      jit_compile: the step by XLA.
      compiled_update: the update of the weights by XLA.
      deterministic: sums in one order, for the rest of the process.
    """
    if deterministic:
        tf.keras.utils.set_random_seed(0)
        tf.config.experimental.enable_op_determinism()
    with gpu_training.tf32(precision == "tf32"):
        training = gpu_training.make(
            streams,
            batch_size,
            precision,
            jit_compile=jit_compile,
            compiled_update=compiled_update,
        )

        def finish(result):
            return tf.nest.map_structure(lambda value: value.numpy(), result.sums)

        start = time.perf_counter()
        for _ in range(3):
            finish(training.train(training.batch))
        figures = {"first_steps_secs": time.perf_counter() - start}
        reset_peak()
        secs = gpu_records.median_secs(
            lambda: training.train(training.batch), finish, steps=steps
        )
        figures["finite"] = bool(training.train(training.batch).finite)
    return figures | {
        "train_clips_per_sec": batch_size / secs,
        "tflops": 3 * batch_size * training.flops / secs / 1e12,
        **peak(),
    }


def extract(
    streams: dict, batch_size: int, precision: str, batches: int
) -> dict[str, float]:
    """Folded forward passes and the fetching of features, clips/s; see `train`."""
    with gpu_training.tf32(precision == "tf32"):
        training = gpu_training.make(streams, batch_size, precision)
        starts = {"start_secs": tf.zeros([batch_size], tf.float64)}
        batch = training.batch | starts
        list(training.extract_clips([batch] * 2))
        reset_peak()
        secs = gpu_records.median_secs(
            lambda: list(training.extract_clips([batch] * batches)),
            lambda clips: None,
            steps=1,
        )
    rate = batch_size * batches / secs
    flops = rate * training.flops / 1e12
    return {"forward_clips_per_sec": rate, "tflops": flops, **peak()}


def kmeans(
    directory: str,
    rows: dict,
    num_clusters: int,
    num_iterations: int,
    precision: str,
    copies: int = 0,
    whole: bool = False,
    block_scores: int = 0,
) -> dict[str, float]:
    """Seconds of an iteration, from fits of two lengths; inertia.

    Args:
      directory: of the rows' file.
      rows: arguments of make_rows.
      num_clusters: k; the first rows are the initial centroids.
      num_iterations: timed.
      precision: of kmeans.fit.
      copies: read the file so many times in every pass, as if it were so much larger; 0
        for rows on the device.
      whole: also a fit as a run has it, with k-means++.
      block_scores: of a block on a GPU; 0 for the usual number.
    """
    from xdc_tf.kmeans import kmeans as engine
    from xdc_tf.kmeans import matrices

    path = gpu_records.make_rows(directory, **rows)
    values = np.load(path, mmap_mode="r")
    if copies:
        given = [matrices.open_rows(path)] * copies
    else:
        with tf.device(DEVICE):
            given = tf.cast(tf.constant(np.asarray(values)), tf.float32)
    initial = np.asarray(values[:num_clusters], np.float32)

    def fit(iterations, **options):
        start = time.perf_counter()
        with gpu_training.blocks(block_scores):
            result = engine.fit(
                given,
                num_clusters=num_clusters,
                num_iterations=iterations,
                seed=0,
                normalize=False,
                precision=precision,
                **options,
            )
        return time.perf_counter() - start, result

    first = fit(1, initial_centroids=initial)[0]
    single_secs, _ = fit(1, initial_centroids=initial)
    reset_peak()
    secs, result = fit(1 + num_iterations, initial_centroids=initial)
    done = len(result.inertia_history) - 1
    figures = {
        "first_fit_secs": first,
        "fit_of_1_secs": single_secs,
        "secs_per_iteration": (secs - single_secs) / max(1, done),
        "inertia": result.inertia,
        "reseeded": result.num_reseeded,
    }
    if copies:
        gigabytes = copies * os.path.getsize(path) / 1e9
        figures["gb_per_sec"] = gigabytes / figures["secs_per_iteration"]
    if whole:
        fit(1)
        figures["whole_fit_secs"], result = fit(num_iterations)
        figures["whole_fit_inertia"] = result.inertia
    return figures | peak()


def pipeline(directory: str, num_videos: int, num_clips: int) -> dict[str, float]:
    """Clips/s that all cores decode from records: 8 frames, crops of 112 pixels."""
    import itertools

    from benchmarks import pipeline as input_pipeline

    start = time.perf_counter()
    records = input_pipeline.make_records(directory, num_videos)
    rates = {
        "cores": os.cpu_count(),
        "making_records_secs": time.perf_counter() - start,
    }
    for engine in (input_pipeline.ENGINES[0], input_pipeline.ENGINES[2]):
        batches = input_pipeline.make_batches(engine, records, 3 * num_clips)
        size = next(batches)
        size = len(size["example_index"] if isinstance(size, dict) else size)
        start = time.perf_counter()
        taken = sum(1 for _ in itertools.islice(batches, max(1, num_clips // size)))
        secs = time.perf_counter() - start
        rates[f"{engine.name}_clips_per_sec"] = taken * size / secs
    return rates


def profile(
    streams: dict, batch_size: int, precision: str, steps: int
) -> dict[str, float]:
    """Steps on batches that come from the host: clips/s, and a profile of them."""
    with gpu_training.tf32(True), tempfile.TemporaryDirectory() as log:
        training = gpu_training.make(streams, batch_size, precision)
        batches = iter(gpu_training.from_host(training))

        def run(number):
            before = None
            start = time.perf_counter()
            for _ in range(number):
                result = training.train(next(batches))
                if before is not None:
                    before.finite.numpy()  # as training checks the step before
                before = result
            before.finite.numpy()
            return time.perf_counter() - start

        run(3)
        figures = {"clips_per_sec": batch_size * steps / run(steps)}
        try:
            tf.profiler.experimental.start(log)
            run(steps)
            tf.profiler.experimental.stop()
            return figures | gpu_training.read_profile(log, steps)
        except Exception as error:  # without the libraries that profiles need
            return figures | {"profile": f"{type(error).__name__}: {error}"}


def reset_peak() -> None:
    """Forgets the most memory taken so far, on a GPU."""
    if "GPU" in DEVICE:
        tf.config.experimental.reset_memory_stats("GPU:0")


def peak() -> dict[str, float]:
    """The most memory of a GPU that tensors took."""
    if "GPU" not in DEVICE:
        return {}
    peak_bytes = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return {"peak_gib": peak_bytes / 2**30}


def versions() -> dict[str, str]:
    """Versions of the libraries, and the device."""
    built = tf.sysconfig.get_build_info()
    cuda = {
        key: str(built[key])
        for key in ("cuda_version", "cudnn_version")
        if key in built
    }
    return {
        **compat.versions(),
        **cuda,
        "device": DEVICE,
        "cores": str(os.cpu_count()),
        "tf32": str(tf.config.experimental.tensor_float_32_execution_enabled()),
    }


if __name__ == "__main__":
    functions = (ceilings, train, extract, kmeans, pipeline, profile)
    functions += (gpu_kmeans.kmeans_parts,)
    gpu_records.run_all(
        {function.__name__: function for function in (*functions, *gpu_checks.CHECKS)},
        versions(),
    )
