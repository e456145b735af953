"""Kills tiny pretrainings by SIGKILL, restarts them, and compares their results.

    python -m benchmarks.kill --times=20

A run pretrains and exports without interruption. Then as many runs are killed, each at
a random moment of a phase of its own (extraction, clustering, a training step, saving,
exporting in turn; of a phase that comes several times, any of them), every third a
second time after its restart, and restarted until done. Their label tables, encoders,
heads, features, last checkpoints and exports must be those of the first, bit for bit.

Runs are processes of their own, forked from this one after it has imported TensorFlow
and before it has used it, which saves seconds for each. Leaves with 1 unless all are
the same.
"""

import collections
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks.fingerprints import differences, fingerprints

PHASES = ("extraction", "clustering", "training", "saving", "exporting")
_TIMES = flags.DEFINE_integer("times", 20, "Number of runs to kill.", lower_bound=1)
_SEED = flags.DEFINE_integer("moments_seed", 0, "Seed of the moments.")
_PHASES = flags.DEFINE_list("phases", list(PHASES), "Phases to kill in, in turn.")
_RECORDS = flags.DEFINE_string("records", None, "Records; default: converted for this.")
_SOURCE = flags.DEFINE_string("source", "training", "config.features.source.")
_METHOD = flags.DEFINE_string("method", "xdc", "config.method.")
_TIMEOUT_SECS = 900.0


class Moment(NamedTuple):
    """When to kill: so many seconds into a phase, when it comes for the nth time."""

    phase: str
    nth: int
    secs: float


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      killed_in: the phase it was killed in; "between" phases; None if it was not.
      phases: of each phase in turn, name and seconds, if it was over.
    """

    killed_in: str | None
    phases: list[tuple[str, float]]


def tiny_config() -> dict[str, Any]:
    """Two rounds of a few steps, with all that a run can do between them."""
    from xdc_tf.configs import synthetic

    c = synthetic.get_config()
    c.method = _METHOD.value
    c.deterministic = True
    c.num_rounds = 2
    c.clip.num_frames = 4
    c.clip.crop_size = 16
    c.clip.audio_secs = 0.5
    c.video_encoder.depth = c.audio_encoder.depth = 4
    c.video_encoder.width = 0.0625
    c.audio_encoder.width = 0.0625
    c.kmeans.num_clusters = 4
    c.kmeans.num_restarts = 1
    c.features.batch_size = 4
    c.features.batch_norm_batches = 2
    c.features.source = _SOURCE.value
    c.training.batch_size = 4
    c.training.epochs_per_round = 3
    c.training.patience = 2
    c.training.held_out_share = 0.2
    c.training.balance_clusters = True
    c.optimizer.warmup_steps = 2
    c.checkpoint_every_steps = 3
    c.log_every_steps = 2
    return c.to_dict()


def make_records(directory: str) -> str:
    """Records of 24 videos of 1.5 s, in three shards."""
    from data_prep import conversion, conversion_settings, synthetic
    from data_prep.worker_processes import PoolSettings
    from xdc_tf.data.log_mel import LogMelSettings

    manifest = synthetic.make_benchmark(
        os.path.join(directory, "videos"),
        num_videos=24,
        seed=0,
        duration_secs=1.5,
        size=32,
    )
    records = os.path.join(directory, "records")
    conversion.convert_manifest(
        manifest,
        records,
        settings=conversion_settings.ConversionSettings(
            fps=8.0,
            short_side=32,
            jpeg_quality=90,
            min_secs=0.5,
            max_secs=60.0,
            store_waveform=False,
            log_mel=LogMelSettings(),
        ),
        pool=PoolSettings(2),
        rows_per_shard=8,
    )
    return records


def pretrain_and_export(workdir: str, records: str, announce: Callable) -> None:
    """Pretrains from wherever the process before was killed, and exports."""
    import tensorflow as tf

    from xdc_tf.export import export_run
    from xdc_tf.labels import pseudo_labels
    from xdc_tf.training import pretrain, run_features, train_round, train_step
    from xdc_tf.training.checkpoints import Checkpoints

    def announced(phase, function):
        def inner(*args, **kwargs):
            announce(f"begin {phase}")
            try:
                return function(*args, **kwargs)
            finally:
                announce(f"end {phase}")

        return inner

    for owner, name, phase in (
        (run_features, "to_cluster", "extraction"),
        (pseudo_labels, "cluster", "clustering"),
        (pretrain, "write_label_tables", "clustering"),
        (pretrain, "save_finished_round", "saving"),
        (train_round, "save_best", "saving"),
        (Checkpoints, "_write", "saving"),
        (export_run, "export", "exporting"),
    ):
        setattr(owner, name, announced(phase, getattr(owner, name)))
    make = train_step.make_train_step
    train_step.make_train_step = lambda *args, **kwargs: announced(
        "training", make(*args, **kwargs)
    )
    pretrain.pretrain(
        tiny_config(),
        workdir=workdir,
        records_dir=records,
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
    exported = os.path.join(workdir, "exported")
    if not os.path.exists(exported):
        export_run.export(workdir, exported)


def run_process(workdir: str, records: str, moment: Moment | None) -> Ended:
    """Runs a process to its end, or kills it at a moment if that comes.

    Raises:
      RuntimeError: if it fails, or takes too long.
    """
    read_end, write_end = os.pipe()
    log = workdir + ".log"
    process = os.fork()
    if process == 0:
        os.close(read_end)
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 1
        try:
            pretrain_and_export(
                workdir, records, lambda line: os.write(write_end, f"{line}\n".encode())
            )
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(write_end)
    ended, too_long = _wait_and_kill(process, read_end, moment)
    os.close(read_end)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if too_long:
        raise RuntimeError(f"{workdir} took over {_TIMEOUT_SECS} s; see {log}.")
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{workdir} failed with {code}; see {log}.")
    # One that ended just before its signal was not killed.
    return ended if code else ended._replace(killed_in=None)


def _wait_and_kill(
    process: int, read_end: int, moment: Moment | None
) -> tuple[Ended, bool]:
    """Reads what a process announces, and kills it; also, if it takes too long."""
    phases, active, seen = [], [], collections.Counter()
    kill_at, too_long = time.monotonic() + _TIMEOUT_SECS, True
    buffered = b""
    while True:
        secs = max(0.0, kill_at - time.monotonic())
        if not select.select([read_end], [], [], secs)[0]:
            os.kill(process, signal.SIGKILL)
            killed_in = active[-1][0] if active else "between"
            return Ended(killed_in, phases), too_long
        received = os.read(read_end, 1 << 16)
        if not received:
            return Ended(None, phases), False
        *lines, buffered = (buffered + received).split(b"\n")
        for line in lines:
            what, phase = line.decode().split()
            if what == "begin":
                seen[phase] += 1
                active.append((phase, time.monotonic()))
                if moment and (phase, seen[phase]) == moment[:2]:
                    kill_at, too_long = time.monotonic() + moment.secs, False
            else:
                begun = next(
                    begun_phase
                    for begun_phase in reversed(active)
                    if begun_phase[0] == phase
                )
                active.remove(begun)
                phases.append((phase, time.monotonic() - begun[1]))
                if not too_long and phase == moment.phase:
                    kill_at = 0.0  # it was shorter this time: at its end, then


def random_moment(
    draws: random.Random, phase: str, whole: list[tuple[str, float]]
) -> Moment:
    """A moment of a phase, any time that it came in an uninterrupted run."""
    lengths = [secs for name, secs in whole if name == phase]
    nth = draws.randrange(len(lengths))
    return Moment(phase, nth + 1, draws.uniform(0.0, lengths[nth]))


def main(argv):
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # In this process, so that those forked from it have it.
    import xdc_tf.export.export_run
    import xdc_tf.training.pretrain  # noqa: F401

    draws, started = random.Random(_SEED.value), time.monotonic()
    killed_in, restarts, same = collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory(prefix="kill_") as folder:
        records = _RECORDS.value
        if not records:
            # By a process of its own: this one must not start threads.
            records = _in_process(make_records, folder)
        whole_dir = os.path.join(folder, "whole")
        whole = run_process(whole_dir, records, None)
        expected = fingerprints(whole_dir)
        print(f"uninterrupted: {len(expected)} arrays, {_secs(started)}", flush=True)
        for number in range(_TIMES.value):
            workdir = os.path.join(folder, f"killed_{number:03d}")
            phase = _PHASES.value[number % len(_PHASES.value)]
            moments = [random_moment(draws, phase, whole.phases)]
            if number % 3 == 2:
                again = draws.choice(_PHASES.value)
                moments.append(Moment(again, 1, 0.0))
            fell = []
            while True:
                moment = moments.pop(0) if moments else None
                ended = run_process(workdir, records, moment)
                if ended.killed_in is None:
                    break
                fell.append(ended.killed_in)
                restarts += 1
            killed_in.update(fell)
            different = differences(fingerprints(workdir), expected)
            same += bool(fell) and not different
            difference = f"{len(different)} differ, first {different[:3]}"
            print(
                f"run {number + 1}: killed in {', '.join(fell) or 'nothing'}; "
                f"{difference if different else 'the same'}  ({_secs(started)})",
                flush=True,
            )
            shutil.rmtree(workdir)
    where = ", ".join(f"{name} {count}" for name, count in killed_in.items())
    print(f"kills: {sum(killed_in.values())} ({where})")
    print(f"{same} of {_TIMES.value} the same, bit for bit, in {_secs(started)}")
    return 0 if same == _TIMES.value else 1


def _in_process(function: Callable[[str], str], folder: str) -> str:
    """Calls a function of a folder in a separate process; returns its text."""
    read_end, write_end = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.write(write_end, function(folder).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read().decode()
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise RuntimeError(f"{function.__name__} failed.")
    return text


def _secs(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"


if __name__ == "__main__":
    app.run(main)
