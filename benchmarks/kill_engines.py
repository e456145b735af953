"""Conversions by clusters whose processes die, hang and run out of memory.

    python -m benchmarks.kill_engines --rounds=10

Videos are converted on this machine. Then as many rounds are made by a Dask cluster of
processes: in each, at random moments and in a random order, two workers are killed by
SIGKILL, one is stopped by SIGSTOP, one is given more memory to hold than it may, and
the scheduler is killed; whatever ended is started again, as Slurm and Kubernetes do.
With --engine=beam, workers of a Beam job service are killed. The records must be those
that were made here, byte for byte. Leaves with 1 unless all are.
"""

import filecmp
import functools
import glob
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

from absl import app, flags

from benchmarks import engine_processes
from benchmarks.engine_processes import ROOT, BeamProcesses, DaskProcesses

_ENGINE = flags.DEFINE_enum("engine", "dask", ["dask", "beam"], "Whose processes.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Number of conversions.", lower_bound=1)
_VIDEOS = flags.DEFINE_integer("videos", 48, "Videos of a conversion.", lower_bound=1)
_SEED = flags.DEFINE_integer("moments_seed", 0, "Seed of the moments.")
_DASK_INJURIES = ("kill", "kill", "hang", "memory", "scheduler")
_BEAM_INJURIES = ("kill", "kill")
_NUM_WORKERS = 4
_TIMEOUT_SECS = 900.0
_MEMORY_LIMIT = 1 << 30


def convert_command(manifest: str, out: str, *more: str) -> list[str]:
    """Arguments of a conversion of small frames, two rows a shard."""
    return [
        *(sys.executable, "-m", "data_prep.convert", f"--manifest={manifest}"),
        *(f"--out={out}", "--fps=8", "--short_side=48", "--rows_per_shard=2", *more),
    ]


def num_finished(out: str) -> int:
    """How many shards of an unfinished conversion are made."""
    found = itertools.chain(
        glob.iglob(f"{out}/progress/*.tfrecord.json"),
        glob.iglob(f"{out}/progress/*.attempts/*/progress/*.tfrecord.json"),
    )
    return sum(1 for _ in found)


def differing_files(one: str, other: str) -> list[str]:
    """Names of files of two directories that only one has, or with other bytes."""
    names = set(os.listdir(one)) | set(os.listdir(other))
    return sorted(
        name
        for name in names
        if not os.path.isfile(os.path.join(one, name))
        or not os.path.isfile(os.path.join(other, name))
        or not filecmp.cmp(
            os.path.join(one, name), os.path.join(other, name), shallow=False
        )
    )


def _fill_memory(num_bytes: int) -> None:
    held = []
    while sum(map(len, held)) < num_bytes:
        held.append(bytearray(os.urandom(1 << 20)) * 16)
        time.sleep(0.02)
    time.sleep(60)  # for its nanny to look


def _injure_dask(cluster: DaskProcesses, injury: str, number: int) -> str:
    """Returns what was done."""
    if injury == "scheduler":
        os.kill(cluster.scheduler.pid, signal.SIGKILL)
        return "scheduler killed"
    engine_processes.wait_until(lambda: cluster.worker_pid(number))
    pid = cluster.worker_pid(number)
    if pid is None:
        return f"worker {number} was gone"
    if injury == "memory":
        import distributed

        try:
            with distributed.Client(cluster.address, set_as_default=False) as client:
                hog = client.submit(
                    _fill_memory, 2 * _MEMORY_LIMIT, workers=[str(number)], pure=False
                )
                engine_processes.wait_until(lambda: cluster.worker_pid(number) != pid)
                hog.cancel()
        except OSError:
            return f"worker {number} out of memory in vain: no scheduler"
        return f"worker {number} out of memory"
    os.kill(pid, signal.SIGSTOP if injury == "hang" else signal.SIGKILL)
    return f"worker {number} {'stopped' if injury == 'hang' else 'killed'}"


def _injure_beam(beam: BeamProcesses) -> str:
    workers = engine_processes.children(beam.pool.pid)
    if not workers:
        return "no worker was there"
    os.kill(workers[0], signal.SIGKILL)
    return "worker killed"


def _run(
    command: Sequence[str],
    out: str,
    injuries: Sequence[tuple[int, Callable[[], str]]],
) -> tuple[int, list[str], str]:
    """Runs a conversion, with injuries when so many shards are made."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        ends_at = time.monotonic() + _TIMEOUT_SECS
        threads: list[threading.Thread] = []
        done: list[str] = []
        for moment, injure in injuries:
            while (
                num_finished(out) < moment
                and process.poll() is None
                and time.monotonic() < ends_at
            ):
                time.sleep(0.02)
            if process.poll() is not None:
                break
            thread = threading.Thread(
                target=lambda injure=injure: done.append(injure()), daemon=True
            )
            thread.start()
            threads.append(thread)
        try:
            process.wait(max(1.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for thread in threads:
            thread.join(30)
        log.seek(0)
        return process.returncode, done, log.read()


def main(argv: list[str]) -> None:
    """Prints a line for each round."""
    del argv
    from data_prep import synthetic

    chance = random.Random(_SEED.value)
    num_same = 0
    with tempfile.TemporaryDirectory() as directory:
        manifest = synthetic.make_benchmark(
            os.path.join(directory, "videos"), num_videos=_VIDEOS.value, seed=0
        )
        here, out = os.path.join(directory, "here"), os.path.join(directory, "out")
        subprocess.run(
            convert_command(manifest, here), cwd=ROOT, check=True, capture_output=True
        )
        for round_number in range(_ROUNDS.value):
            is_dask = _ENGINE.value == "dask"
            injuries = list(_DASK_INJURIES if is_dask else _BEAM_INJURIES)
            chance.shuffle(injuries)
            num_shards = _VIDEOS.value // 2
            moments = sorted(
                chance.randrange(max(1, num_shards * 2 // 3)) for _ in injuries
            )
            begun = time.monotonic()
            cluster_dir = os.path.join(directory, "cluster")
            if is_dask:
                with DaskProcesses(
                    cluster_dir,
                    num_workers=_NUM_WORKERS,
                    worker_flags=[f"--memory-limit={_MEMORY_LIMIT}"],
                ) as cluster:
                    chosen = chance.sample(range(_NUM_WORKERS), _NUM_WORKERS)

                    hits = [
                        functools.partial(
                            _injure_dask, cluster, injury, chosen[k % _NUM_WORKERS]
                        )
                        for k, injury in enumerate(injuries)
                    ]
                    code, done, log = _run(
                        convert_command(manifest, out, f"--dask={cluster.address}"),
                        out,
                        list(zip(moments, hits, strict=True)),
                    )
            else:
                with engine_processes.beam_processes(cluster_dir) as beam:
                    code, done, log = _run(
                        convert_command(manifest, out, *beam.flags),
                        out,
                        [
                            (moment, functools.partial(_injure_beam, beam))
                            for moment in moments
                        ],
                    )
            different = ["exit code"] if code else differing_files(here, out)
            num_same += not different
            print(
                f"round {round_number}: {', '.join(done)}; "
                f"{time.monotonic() - begun:.0f} s; "
                + (f"DIFFERENT: {different}\n{log}" if different else "the same bytes"),
                flush=True,
            )
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(cluster_dir, ignore_errors=True)
    print(f"{num_same} of {_ROUNDS.value} the same, byte for byte")
    sys.exit(num_same != _ROUNDS.value)


if __name__ == "__main__":
    app.run(main)
