"""Whether a GPU computes what the CPU does; run by benchmarks.gpu."""

import glob
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from benchmarks import gpu_records, gpu_training
from benchmarks.gpu_training import DEVICE

_PRETRAIN_SECS = 150
_READ = """
import sys
import numpy as np, tensorflow as tf
assert not tf.config.list_physical_devices("GPU")
clip = np.random.default_rng(0).random(eval(sys.argv[2]), np.float32)
features = tf.saved_model.load(sys.argv[1])(tf.constant(clip)).numpy()
assert np.isfinite(features).all() and features.std() > 0, features
print(features.shape)
"""


def kmeans_agrees(num_rows: int, width: int, num_clusters: int, num_iterations: int):
    """Labels and inertia of a fit on the device next to those on the CPU, float32."""
    from xdc_tf.kmeans import kmeans

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2 * num_clusters, width), np.float32)
    rows = 0.6 * centres[rng.integers(0, len(centres), num_rows)]
    rows += rng.standard_normal((num_rows, width), np.float32)

    def fit(device, **options):
        with tf.device(device):
            return kmeans.fit(
                tf.constant(rows),
                num_clusters=num_clusters,
                num_iterations=num_iterations,
                seed=0,
                initial_centroids=rows[:num_clusters],
                normalize=False,
                **options,
            )

    on_cpu = fit("/CPU:0")
    figures = {}
    for precision in ("float32", "mixed"):
        result = fit(DEVICE, precision=precision)
        equal = float(np.mean(result.labels == on_cpu.labels))
        figures[f"{precision}_equal_labels"] = equal
        figures[f"{precision}_inertia_ratio"] = result.inertia / on_cpu.inertia
    with tf.device(DEVICE):
        labels, _ = kmeans.assign(tf.constant(rows), on_cpu)
    figures["assigned_equal_labels"] = float(np.mean(labels == on_cpu.labels))
    figures["right"] = (
        min(figures["assigned_equal_labels"], figures["float32_equal_labels"]) >= 0.999
        and abs(figures["float32_inertia_ratio"] - 1) <= 1e-4
    )
    return figures


def step_agrees(streams: dict, batch_size: int, precision: str):
    """Losses and gradients of a step on the device next to those on the CPU.

    Gradients are what a step of learning rate 1 without momentum changes. Rounding
    decides on which side of zero some numbers come to lie, and so which of them a
    gradient passes: on the CPU, too, gradients of a batch in another order differ by
    percents. Those of the device may differ three times as much.

    Args:
      streams: see gpu_tensorflow.train.
      batch_size: clips.
      precision: "float32" or "tf32"; one alone in a process, since TensorFlow keeps the
        convolutions that it has chosen for the other.
    """

    def step(device, allowed=False, order=1):
        with gpu_training.tf32(allowed):
            training = gpu_training.make(
                streams, batch_size, "float32", device=device, learning_rate=1.0
            )
            batch = {name: rows[::order] for name, rows in training.batch.items()}
            before = [variable.numpy() for variable in training.variables]
            sums = training.train(batch).sums
            losses = np.array([float(head["loss"]) for head in sums.values()])
            after = [variable.numpy() for variable in training.variables]
        changes = [
            (a - b).astype(np.float64) for a, b in zip(after, before, strict=True)
        ]
        return losses, changes

    losses, changes = step("/CPU:0")

    def errors(other):
        relative = [
            np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
            for a, b in zip(other[1], changes, strict=True)
        ]
        loss_error = np.max(np.abs(other[0] - losses) / np.abs(losses))
        return map(float, (loss_error, np.max(relative), np.median(relative)))

    names = ("loss", "worst_gradient", "median_gradient")
    found = errors(step(DEVICE, allowed=precision == "tf32"))
    figures = dict(zip(names, found, strict=True))
    reordered = errors(step("/CPU:0", order=-1))
    figures |= {f"cpu_{name}": x for name, x in zip(names, reordered, strict=True)}
    if precision == "float32":
        limit = max(1e-3, 3 * figures["cpu_worst_gradient"])
        figures["right"] = (
            figures["loss"] <= 1e-3 and figures["worst_gradient"] <= limit
        )
    return figures


def mixed_is_finite(streams: dict, batch_size: int, precision: str, steps: int):
    """Whether steps in 16 bits have finite losses and gradients, and what they lose."""
    training = gpu_training.make(streams, batch_size, precision)
    losses, finite = [], []
    for _ in range(steps):
        result = training.train(training.batch)
        losses.append(
            float(sum(head["loss"] for head in result.sums.values())) / batch_size
        )
        finite.append(bool(result.finite))
    changed = all(
        np.isfinite(variable.numpy()).all() for variable in training.variables
    )
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "right": all(finite) and changed and bool(np.isfinite(losses).all()),
    }


def pretraining_resumes(directory: str, records: str, flags: list[str], clip: list):
    """Two rounds on the embedded benchmark, killed, resumed here and on the CPU.

    Args:
      directory: for what the commands write.
      records: of the benchmark, or empty: made here.
      flags: of the pretraining, beside its records and work directory.
      clip: shape of a clip of video, with a batch.

    Raises:
      RuntimeError: if a command fails; with the end of what it wrote.
    """
    records = records or _make_records(directory)
    run_dir = os.path.join(directory, "run")
    command = ["-m", "xdc_tf.cli.pretrain", "--config=configs/synthetic.py"]
    command += [f"--records={records}", "--config.num_rounds=2", *flags]

    def pretrain(workdir, **options):
        return _start([*command, f"--workdir={workdir}"], workdir + ".log", **options)

    start = time.perf_counter()
    process = pretrain(run_dir)
    # The second is saved within a round; the first before anything is trained.
    while process.poll() is None and _num_checkpoints(run_dir) < 2:
        if time.perf_counter() - start > _PRETRAIN_SECS:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    if not killed:
        _finish(process, run_dir + ".log")
    figures = {"killed": killed, "killed_after_secs": time.perf_counter() - start}
    shutil.copytree(run_dir, run_dir + "_cpu")
    start = time.perf_counter()
    here, there = pretrain(run_dir), pretrain(run_dir + "_cpu", on_cpu=True)
    for workdir, process in ((run_dir, here), (run_dir + "_cpu", there)):
        _finish(process, workdir + ".log")
        if "Going on from step" not in _text(workdir + ".log"):
            raise RuntimeError(f"{workdir} did not go on from a checkpoint")
    figures["resumed_secs"] = time.perf_counter() - start
    figures["label_tables"] = len(
        glob.glob(os.path.join(run_dir, "labels/round_*/*.csv*"))
    )
    exported = os.path.join(directory, "exported")
    export = ["-m", "xdc_tf.cli.export", f"--workdir={run_dir}", f"--out={exported}"]
    _finish(_start(export, exported + ".log"), exported + ".log")
    models = glob.glob(os.path.join(exported, "**/saved_model.pb"), recursive=True)
    video = next(os.path.dirname(path) for path in models if "video" in path)
    read = ["-c", _READ, video, str(tuple(clip))]
    _finish(_start(read, exported + ".read.log", on_cpu=True), exported + ".read.log")
    figures["features"] = _text(exported + ".read.log").splitlines()[-1]
    figures["right"] = killed and figures["label_tables"] > 0
    return figures


CHECKS = (kmeans_agrees, step_agrees, mixed_is_finite, pretraining_resumes)


def _num_checkpoints(workdir: str) -> int:
    """Number of checkpoints that a run has saved so far."""
    names = glob.glob(os.path.join(workdir, "**/*.index"), recursive=True)
    numbers = [os.path.basename(name).split("-")[-1] for name in names]
    return max((int(n.split(".")[0]) for n in numbers if n[0].isdigit()), default=0)


def _make_records(directory: str) -> str:
    """Records of 200 short videos of the embedded benchmark."""
    videos, records = os.path.join(directory, "train"), os.path.join(directory, "rec")
    manifest = os.path.join(videos, "manifest.csv")
    for command in (
        ["-m", "data_prep.synthetic", f"--out={videos}", "--num_videos=200"],
        ["-m", "data_prep.convert", f"--manifest={manifest}", f"--out={records}"],
    ):
        if command[1].endswith("convert"):
            command += ["--fps=8", "--short_side=48"]
        _finish(_start(command, videos + ".log", on_cpu=True), videos + ".log")
    return records


def _start(arguments: list[str], log: str, *, on_cpu: bool = False) -> subprocess.Popen:
    """A process of this Python whose output goes to a file."""
    environment = os.environ | (gpu_records.NO_GPU if on_cpu else {})
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=file, stderr=file
        )


def _finish(process: subprocess.Popen, log: str) -> None:
    try:
        code = process.wait(_PRETRAIN_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = f"no end within {_PRETRAIN_SECS} s"
    if code:
        raise RuntimeError(f"exit code {code}: {_text(log)[-1000:]}")


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
