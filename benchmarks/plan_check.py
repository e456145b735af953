"""The planner's predictions next to measurements on this machine.

    python -m benchmarks.plan_check
    python -m benchmarks.plan_check --precision=mixed_bfloat16 --cases=base

For each case a process of its own makes a run of a few drawn videos ready and
measures its parts: a training step, a batch of extraction, the k-means of a round, and
the peak memory of all that. It prints measured and predicted figures, their ratio, and
the fraction of the measured peak of matrix products at which they would be equal: with
those of the first case as xdc_tf.planning.times.CPU_EFFICIENCY, or as --efficiency
of xdc_tf.cli.plan, plans are for this machine and program. The other cases show how far
they hold for other encoders. Run it with nothing else at work.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

_CASES = flags.DEFINE_list("cases", ["base", "half", "synthetic"], "Cases to measure.")
_PRECISION = flags.DEFINE_string("precision", "float32", "config.precision.")
_KMEANS_PRECISION = flags.DEFINE_string(
    "kmeans_precision", "float32", "Precision of k-means."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 4, "Clips per batch of base; other cases have more."
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed steps and batches.")
_NUM_ROWS = flags.DEFINE_integer("num_rows", 60_000, "Rows of k-means.")
_RUN = flags.DEFINE_string("run", "", "Used by this program for its subprocesses.")

# A fixed core type and cache size slow NumPy down.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


# A configuration of configs/, how many times --batch_size, and what is different.
CASES = {
    "base": ("base", 1, {}),
    # Half as wide, less deep, longer and smaller clips: 16 x 80 x 80.
    "half": (
        "base",
        4,
        {
            "video_encoder": {"depth": 10, "width": 0.5},
            "audio_encoder": {"depth": 10, "width": 0.5},
            "clip": {"num_frames": 16, "crop_size": 80},
        },
    ),
    "synthetic": ("synthetic", 8, {}),
}


def make_records(directory: str) -> str:
    """Records of some drawn videos with sound; returns their directory."""
    from data_prep import conversion, conversion_settings, synthetic
    from data_prep.worker_processes import PoolSettings
    from xdc_tf.data.log_mel import LogMelSettings

    manifest = synthetic.make_benchmark(
        os.path.join(directory, "videos"),
        num_videos=40,
        seed=0,
        duration_secs=2.5,
        size=128,
    )
    records = os.path.join(directory, "records")
    conversion.convert_manifest(
        manifest,
        records,
        settings=conversion_settings.ConversionSettings(
            fps=8.0,
            short_side=128,
            jpeg_quality=90,
            min_secs=0.5,
            max_secs=60.0,
            store_waveform=False,
            log_mel=LogMelSettings(),
        ),
        pool=PoolSettings(2),
        rows_per_shard=20,
    )
    return records


def _config(case: str):
    """The configuration of a case."""
    from xdc_tf.training import configuration

    name, times, changes = CASES[case]
    config = importlib.import_module(f"xdc_tf.configs.{name}").get_config()
    config.update(changes)
    config.precision = _PRECISION.value
    config.training.batch_size = times * _BATCH_SIZE.value
    config.features.batch_size = times * _BATCH_SIZE.value
    config.training.shuffle_buffer = 16
    config.kmeans.num_clusters = 20
    config.kmeans.num_restarts = 1
    return configuration.from_mapping(config.to_dict())


def measure(case: str, records: str, directory: str) -> dict:
    """Measured seconds and bytes of a case's parts, and those predicted."""
    import tensorflow as tf

    from xdc_tf.planning import device_table

    device = device_table.find(device_table.THIS)
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    config = _config(case)
    memory_before = _memory("VmRSS")
    step_secs, extraction_secs, widths = _time_run(
        config, records, os.path.join(directory, case), strategy
    )
    peak_bytes = _memory("VmHWM") - memory_before
    kmeans = config.kmeans._replace(num_clusters=256, precision=_KMEANS_PRECISION.value)
    kmeans_secs = _time_kmeans(config.method, kmeans, widths, strategy)
    measured = {
        "training": step_secs,
        "extraction": extraction_secs,
        "kmeans": kmeans_secs,
        "memory": peak_bytes,
    }
    return {
        "measured": measured,
        **_predict(config, kmeans, device, measured),
        "device": {name: rate / 1e9 for name, rate in device.product_flops.items()}
        | {"memory, bytes": device.bytes_per_sec / 1e9},
    }


def _time_run(config, records, workdir, strategy):
    """Median seconds of a training step and of a batch of extraction; widths."""
    from xdc_tf.runtime import tuning
    from xdc_tf.training import batches, pretrain, run

    tuning.keep_freed_memory()  # as cli.pretrain does

    prepared = run.prepare(
        config,
        workdir=workdir,
        records_dir=records,
        strategy=strategy,
        allow_config_change=False,
    )
    rounds = pretrain.make_round_context(prepared)
    training_batches = batches.training_batches(prepared)
    steps = []
    for _ in range(1 + _REPEATS.value):  # the first one is traced
        batch = next(training_batches)
        start = time.perf_counter()
        rounds.train(batch).sums[next(iter(prepared.state.model.heads))]["loss"].numpy()
        steps.append(time.perf_counter() - start)
    # All at hand before the clock runs; a batch that is not full takes as long.
    whole = list(batches.evaluation_batches(prepared))[: _REPEATS.value]
    list(rounds.extract_clips(whole[:1]))
    start = time.perf_counter()
    list(rounds.extract_clips(whole))
    secs = (time.perf_counter() - start) / len(whole)
    widths = {s: e.output_shape[-1] for s, e in prepared.state.model.encoders.items()}
    return statistics.median(steps[1:]), secs, widths


def _time_kmeans(method, settings, widths, strategy) -> float:
    """Seconds of a round's k-means on random features, traced before."""
    import numpy as np

    from xdc_tf.features.extraction import Features
    from xdc_tf.labels import pseudo_labels
    from xdc_tf.training import supervision

    num_rows = _NUM_ROWS.value
    rng = np.random.default_rng(0)
    features = Features(
        {
            stream: rng.random((num_rows, width), np.float32)
            for stream, width in widths.items()
        },
        np.ones(num_rows, bool),
    )
    # One iteration traces what all of them run.
    for kmeans in (settings._replace(num_iterations=1), settings):
        start = time.perf_counter()
        pseudo_labels.cluster(
            features,
            supervision.clustered_sources(supervision.method(method)),
            fitted_rows=features.present,
            settings=kmeans,
            seed=0,
            strategy=strategy,
        )
        secs = time.perf_counter() - start
    return secs


def _predict(config, kmeans, device, measured) -> dict:
    """The planner's figures, and the efficiencies with which it would be right."""
    from xdc_tf.planning import needs, run_size, times

    cluster = times.Cluster(device, 1, 1, 1e12, 1e12)
    size = run_size.measure(config, num_videos=40, num_devices=1)
    clustered = size._replace(
        num_videos=_NUM_ROWS.value,
        kmeans=kmeans,
    )

    def predicted(efficiency):
        return {
            "training": times.step_secs(size, cluster, efficiency),
            "extraction": size.features_batch_size
            * times.clips_secs(size.folded.values(), size, cluster, efficiency),
            "kmeans": times.kmeans_secs(clustered, cluster, efficiency)[0],
        }

    def reached(part):
        low, high = 0.001, 4.0
        for _ in range(40):
            middle = (low + high) / 2
            slow = predicted(times.Efficiency(middle, middle, middle))[part]
            low, high = (middle, high) if slow > measured[part] else (low, middle)
        return (low + high) / 2

    secs = predicted(times.CPU_EFFICIENCY)
    memory = needs.memory(size, cluster)._replace(reserve=0)
    return {
        "predicted": secs | {"memory": memory.total_bytes},
        "reached": {part: reached(part) for part in secs},
    }


def _memory(key: str) -> int:
    """Bytes of this program: VmRSS now, VmHWM at most so far."""
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith(key))
    return 1024 * int(line.split()[1])


def _in_a_process(name: str, records: str, directory: str) -> dict:
    environment = {key: v for key, v in os.environ.items() if key not in _UNSET}
    plan_flags = [
        flag.serialize()
        for flag in flags.FLAGS.get_flags_for_module(sys.argv[0])
        if flag.name != "run"
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.plan_check",
            f"--run={name}:{records}:{directory}",
            *plan_flags,
        ],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(_) -> None:
    """Prints a table."""
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if _RUN.value:
        print(json.dumps(measure(*_RUN.value.split(":"))))
        return
    print("| case | part | measured | predicted | ratio | reached | |")
    print("|---|---|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as directory:
        records = make_records(directory)
        for number, name in enumerate(_CASES.value):
            figures = _in_a_process(name, records, directory)
            for part, measured in figures["measured"].items():
                predicted = figures["predicted"][part]
                ratio = predicted / measured
                unit, scale = ("GiB", 2**30) if part == "memory" else ("s", 1)
                reached = figures["reached"].get(part)
                print(
                    f"| {name} | {part}, {unit} | {measured / scale:.4f} | "
                    f"{predicted / scale:.4f} | {ratio:.2f} | "
                    f"{'' if reached is None else f'{reached:.2f}'} | "
                    f"{'' if 1 / 1.3 <= ratio <= 1.3 else 'off by more than 30%'} |"
                )
            rates = ", ".join(
                f"{rate:.0f} G{'B' if 'bytes' in kind else 'FLOP'}/s {kind}"
                for kind, rate in figures["device"].items()
            )
            print(f"\nmeasured ceilings: {rates}\n", flush=True)
            if number == 0:
                efficiencies = ",".join(f"{v:.2f}" for v in figures["reached"].values())
                print(f"--efficiency={efficiencies}\n", flush=True)


if __name__ == "__main__":
    app.run(main)
