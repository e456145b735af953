"""Stops every command that writes at random moments, starts it again, and compares.

    python -m benchmarks.kill_commands --times=20
    python -m benchmarks.kill_commands --times=5 --commands=convert,export --how=kill

Each command runs without interruption first. Then, for each way to stop it, in a fresh
place so many times:

    kill       SIGKILL
    term       SIGTERM, of every second process with all that it has started
    full_disk  a file system that has no room for all that is written
    pair       not stopped: two of the same command at a time, a quarter as many times

The moments of kill and term are random, in turn any time of the command's, and just
before any of the changes that it makes to files by Python. Whatever has its final name
afterwards must be whole. Then the same command again must end with what the first,
uninterrupted one made, and nothing beside it: no scratch file, lock or process. See
fingerprints.py for what may vary. Of a pair, either both succeed, or one does and the
other is refused in one line.

Commands are forked from a process that has imported TensorFlow, which saves seconds for
each. Leaves with 1 unless all of this holds. benchmarks/kill.py is about pretraining
alone, killed in each of its phases.
"""

import argparse
import collections
import ctypes
import fnmatch
import multiprocessing
import os
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.fingerprints import differences, file_fingerprints, fingerprints
from xdc_tf.runtime import program, signals

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOW = ("kill", "term", "full_disk", "pair")
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [
    "xdc_tf.evaluation.task_imports",
    "xdc_tf.inference.cluster_assignment",
    "xdc_tf.experiments.cluster_count_report",
    "xdc_tf.inference.localization",
    "xdc_tf.export.export_run",
    "xdc_tf.export.torch_export",
    "xdc_tf.weights.import_weights",
    "data_prep.inspection.example_files",
]
_TIMEOUT_SECS = 300.0
_DISK_BYTES = 1 << 28
_PAGE_BYTES = 4096
# Events of Python's audit hooks, beside "open".
_CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Of setns and mount in linux/sched.h.
_NEW_MOUNTS = 0x00020000
# Temporary files: that TensorFlow removes when an interpreter is left as usual, and an
# empty directory that Keras leaves if it cannot write a model.
_OF_OTHERS = ("__autograph_generated_file*", "tmp????????")
# In the directory of a command's logs.
_OUTPUT, _CHANGES = "output", "changes"


class Command(NamedTuple):
    """A command that writes.

    Attributes:
      line: module and flags, with {inputs} and {place} for directories.
      whole: directories of the place that are there whole or not at all; all files
        are.
      unfinished: patterns of what only an unfinished one has.
      copied: entries of inputs that are in the place from the start.
      runs_once: whether it is refused once its result is there.
      before: called in its process.
      results: what a finished one is compared by, from the place.
    """

    line: str
    whole: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    runs_once: bool = False
    before: Callable[[], None] | None = None
    results: Callable[[str], dict[str, str]] = file_fingerprints

    def arguments(self, inputs: str, place: str) -> list[str]:
        return self.line.format(inputs=inputs, place=place).split()


def _add_tiny_scale() -> None:
    from xdc_tf.experiments.reproduction_tables import SCALES, Scale

    SCALES["tiny"] = Scale(
        *(8, 20, 10),
        num_rounds=1,
        epochs_per_round=1,
        num_clusters=2,
        labels_per_class=1,
        finetune_epochs=1,
        num_frames=4,
    )


_TINY = (
    "--config.deterministic=True --config.num_rounds=1 --config.clip.num_frames=4 "
    "--config.clip.crop_size=16 --config.clip.audio_secs=0.5 "
    "--config.video_encoder.depth=4 --config.audio_encoder.depth=4 "
    "--config.video_encoder.width=0.0625 --config.audio_encoder.width=0.0625 "
    "--config.kmeans.num_clusters=4 --config.kmeans.num_restarts=1 "
    "--config.features.batch_size=4 --config.features.batch_norm_batches=1 "
    "--config.training.batch_size=4 --config.training.epochs_per_round=1 "
    "--config.checkpoint_every_steps=1"
)
_SYNTHETIC = "data_prep.synthetic --size=32 --duration_secs=1 --num_workers=1"
_CONVERT = (
    "data_prep.convert --manifest={inputs}/videos/manifest.csv --out={place}/records "
    "--fps=8 --short_side=32 --min_secs=0.5 --rows_per_shard=2 --num_workers=1"
)
_PRETRAIN = "xdc_tf.cli.pretrain --config=configs/synthetic.py " + _TINY
_EVALUATE = (
    "xdc_tf.cli.evaluate --workdir={place}/run --records={inputs}/records "
    "--test_records={inputs}/test_records --num_clips=1 --json={place}/report.json"
)
_REPRODUCE = "xdc_tf.cli.reproduce --scale=tiny --seeds=1 --jobs=1 --methods=scratch "
_EXTRACT = (
    "xdc_tf.cli.extract_features --workdir={inputs}/run --videos={inputs}/records "
    "--num_clips=2 --out={place}/features"
)

COMMANDS = {
    "synthetic": Command(_SYNTHETIC + " --out={place}/videos --num_videos=3"),
    "make_manifest": Command(
        "data_prep.make_manifest --dataset=folder --root={inputs}/videos "
        "--out={place}/manifest.csv"
    ),
    "convert": Command(_CONVERT, unfinished=("records/progress", "*.tmp")),
    "convert_segments": Command(
        _CONVERT + " --segment_secs=0.5", unfinished=("records/progress", "*.tmp")
    ),
    "inspect": Command(
        "data_prep.inspect --records={inputs}/records --out={place}/looks --index=1"
    ),
    "pretrain": Command(
        _PRETRAIN + " --workdir={place}/run --records={inputs}/records",
        unfinished=("*",),
        results=fingerprints,
    ),
    "export": Command(
        "xdc_tf.cli.export --workdir={inputs}/run --out={place}/export",
        whole=("export",),
        runs_once=True,
    ),
    "export_tflite": Command(
        "xdc_tf.cli.export --workdir={inputs}/run --out={place}/export "
        "--formats=tflite",
        whole=("export",),
        runs_once=True,
    ),
    "export_torch": Command(
        "xdc_tf.cli.export_torch --workdir={inputs}/run --out={place}/video.pth",
        runs_once=True,
    ),
    "import_weights": Command(
        "xdc_tf.cli.import_weights --weights={inputs}/video.pth --out={place}/run",
        whole=("run",),
        runs_once=True,
    ),
    "extract_npy": Command(_EXTRACT, whole=("features",), runs_once=True),
    "extract_tfrecord": Command(
        _EXTRACT + " --format=tfrecord", whole=("features",), runs_once=True
    ),
    "extract_parquet": Command(
        _EXTRACT + " --format=parquet", whole=("features",), runs_once=True
    ),
    "extract_videos": Command(
        _EXTRACT.replace("/records", "/videos") + " --num_workers=1",
        whole=("features",),
        runs_once=True,
    ),
    "assign": Command(
        "xdc_tf.cli.assign --workdir={inputs}/run --videos={inputs}/records "
        "--out={place}/assigned.csv --features={place}/features",
        whole=("features",),
        runs_once=True,
    ),
    "localization": Command(
        "xdc_tf.cli.evaluate --protocol=localization --workdir={inputs}/run "
        "--videos={inputs}/records --stride_secs=0.5 --out={place}/features",
        whole=("features",),
        runs_once=True,
    ),
    "evaluate_linear": Command(
        _EVALUATE + " --protocol=linear",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "evaluate_retrieval": Command(
        _EVALUATE + " --protocol=retrieval",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "evaluate_finetune": Command(
        _EVALUATE + " --protocol=finetune --out={place}/classifiers --streams=video "
        "--config=configs/finetune/synthetic.py --config.training.num_epochs=1 "
        "--config.training.batch_size=4",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "compare": Command(
        "xdc_tf.cli.compare {inputs}/report.json --out={place}/tables/table.md"
    ),
    "choose_k": Command(
        "xdc_tf.cli.choose_k --features={inputs}/features/video.npy --candidates=2 "
        "--num_seeds=2 --out={place}/counts",
        whole=("counts",),
        runs_once=True,
    ),
    "plan": Command(
        "xdc_tf.cli.plan --config=configs/synthetic.py --num_videos=1000 --gpu=h100 "
        "--json={place}/plans/plan.json " + _TINY
    ),
    "reproduce": Command(
        _REPRODUCE + "--videos={inputs}/drawn --out={place}/results",
        unfinished=("*.log", "*.run", "*.new"),
        before=_add_tiny_scale,
    ),
}
_SLOW = ("pretrain", "reproduce")
# What commands read is made by commands, by its name in inputs.
_INPUTS = {
    "videos": _SYNTHETIC + " --out={place}/videos --num_videos=6",
    "test_videos": _SYNTHETIC + " --out={place}/test_videos --num_videos=6 --seed=1",
    "records": _CONVERT,
    "test_records": _CONVERT.replace("/videos", "/test_videos").replace(
        "/records", "/test_records"
    ),
    "run": _PRETRAIN + " --workdir={place}/run --records={inputs}/records",
    "drawn": _REPRODUCE + "--videos={place}/drawn --out={place}/reproduced",
    "features": _EXTRACT,
    "video.pth": COMMANDS["export_torch"].line,
    "report.json": _EVALUATE.replace("{place}/run", "{inputs}/run")
    + " --protocol=retrieval",
}


class Stop(NamedTuple):
    """When and by what a command is stopped.

    Attributes:
      number: the signal.
      secs: after its start; None for `change`.
      change: just before the nth change of files.
      whole_group: whether the processes that it has started get the signal too.
    """

    number: int
    secs: float | None
    change: int | None = None
    whole_group: bool = False


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
      code: its exit code; -n by signal n.
      output: stdout and stderr together.
      secs: that it took.
      num_changes: of files.
      peak_bytes: that it took of its disk at most, as far as polling sees.
    """

    code: int
    output: str
    secs: float
    num_changes: int
    peak_bytes: int

    @property
    def errors(self) -> list[str]:
        """The lines that tell an error."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]


class Disk(NamedTuple):
    """Where commands write.

    Attributes:
      root: of a file system of its own if `is_mounted`.
      is_mounted: else files are limited in size, where a full disk is asked for.
    """

    root: str
    is_mounted: bool

    @property
    def place(self) -> str:
        return os.path.join(self.root, "place")

    def used_bytes(self) -> int:
        told = os.statvfs(self.root)
        return (told.f_blocks - told.f_bfree) * told.f_frsize

    def fill(self, free_bytes: int) -> None:
        """Leaves room for so much."""
        with open(os.path.join(self.root, "ballast"), "wb") as file:
            os.posix_fallocate(
                file.fileno(), 0, _DISK_BYTES - self.used_bytes() - free_bytes
            )

    def empty(self) -> None:
        """Makes room again."""
        os.remove(os.path.join(self.root, "ballast"))

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.root], check=True)


def make_disk(root: str) -> Disk:
    """A small file system in memory, which this process and its children alone see."""
    os.mkdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    mounts = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", root],
    )
    mounted = libc.unshare(_NEW_MOUNTS) == 0 and all(
        subprocess.run(line, capture_output=True, check=False).returncode == 0
        for line in mounts
    )
    return Disk(root, mounted)


class Running:
    """A command in a process group of its own."""

    def __init__(
        self,
        command: Command,
        *,
        inputs: str,
        place: str,
        logs: str,
        stop: Stop | None = None,
        file_bytes: int | None = None,
    ):
        """Starts it.

        Args:
          command: the command.
          inputs: directory.
          place: directory.
          logs: a new directory for what it prints; temporary files are put beside it.
          stop: see Stop.
          file_bytes: the most that a file of it may have.
        """
        os.makedirs(logs)
        for name in (_OUTPUT, _CHANGES):
            with open(os.path.join(logs, name), "xb"):
                pass
        self._logs, self._stop = logs, stop
        self.started = time.monotonic()
        self.process = _CONTEXT.Process(
            target=_become, args=(command, inputs, place, logs, stop, file_bytes)
        )
        self.process.start()

    def wait(self, disk: Disk) -> Ended:
        """Returns when it has ended, and has been stopped if it was to be."""
        peak, stop, process = 0, self._stop, self.process
        before = disk.used_bytes()
        secs = None if stop is None else stop.secs
        while process.is_alive():
            now = time.monotonic() - self.started
            if now > _TIMEOUT_SECS:
                _send(process.pid, signal.SIGKILL, whole_group=True)
                raise RuntimeError(f"over {_TIMEOUT_SECS} s; see {self._logs}")
            if secs is not None and now >= secs:
                _send(process.pid, stop.number, whole_group=stop.whole_group)
                secs = None
            peak = max(peak, disk.used_bytes() - before)
            process.join(0.002 if secs is None else min(0.002, max(0, secs - now)))
        took = time.monotonic() - self.started
        with open(os.path.join(self._logs, _OUTPUT), errors="replace") as file:
            output = file.read()
        changes = os.path.getsize(os.path.join(self._logs, _CHANGES))
        peak = max(peak, disk.used_bytes() - before)
        return Ended(process.exitcode, output, took, changes, peak)

    def left(self) -> list[str]:
        """Processes that it has left, once they have had a moment to end."""
        deadline = time.monotonic() + 60
        while (left := _group(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return [f"process {pid} is left" for pid in left]


def _send(pid: int, number: int, *, whole_group: bool) -> None:
    try:
        (os.killpg if whole_group else os.kill)(pid, number)
    except ProcessLookupError:
        pass  # it has ended, or has no group yet


def _group(pid: int) -> list[int]:
    """The living processes of a group."""
    living = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(group) == pid and state != "Z":
            living.append(int(name))
    return living


def _become(
    command: Command,
    inputs: str,
    place: str,
    logs: str,
    stop: Stop | None,
    file_bytes: int | None,
) -> None:
    """Does what `python -m` does, in a process that was forked for it."""
    os.setsid()
    descriptors = [
        os.open(os.path.join(logs, name), os.O_WRONLY | os.O_APPEND)
        for name in (_OUTPUT, _CHANGES)
    ]
    os.dup2(descriptors[0], 1)
    os.dup2(descriptors[0], 2)
    temporary = _temporary_dir(logs)
    os.makedirs(temporary, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    os.chdir(ROOT)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if command.before is not None:
        command.before()
    _count_changes(place, descriptors[1], stop)
    module, *arguments = command.arguments(inputs, place)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _temporary_dir(logs: str) -> str:
    """Where the command with these logs, and those beside it, put temporary files."""
    return os.path.join(os.path.dirname(logs), "tmp")


def _count_changes(place: str, descriptor: int, stop: Stop | None) -> None:
    """Has each change of files in the place counted, and the process stopped at one."""
    own, done = os.getpid(), 0

    def hear(event: str, arguments: tuple) -> None:
        nonlocal done
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITING:
                return
        elif event not in _CHANGING:
            return
        path = arguments[0]
        if not isinstance(path, str) or not path.startswith(place):
            return
        if os.getpid() != own:
            return
        done += 1
        os.write(descriptor, b".")
        if stop is not None and done == stop.change:
            _send(own, stop.number, whole_group=stop.whole_group)

    sys.addaudithook(hear)


def _prepare(command: Command, inputs: str, place: str) -> None:
    """Makes the place what it is before the command."""
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place)
    for name in command.copied:
        shutil.copytree(os.path.join(inputs, name), os.path.join(place, name))


def partial_results(
    command: Command,
    found: dict[str, str],
    *,
    before: dict[str, str],
    expected: dict[str, str],
) -> list[str]:
    """What has a final name and is neither as before nor what it is to become."""
    wrong = []
    for name, content in found.items():
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or any(
            fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}/")
            for pattern in command.unfinished
        ):
            continue
        if content not in (expected.get(name), before.get(name)):
            wrong.append(f"{name} is not whole")
    for directory in command.whole:
        inside = {name for name in expected if name.startswith(f"{directory}/")}
        if found.keys() & inside and not inside <= found.keys():
            wrong.append(f"{directory} lacks {sorted(inside - found.keys())[:3]}")
    return wrong


def changes(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What differs between two places, in words."""
    words = {(True, False): "more", (False, True): "missing", (True, True): "other"}
    return [
        f"{words[name in found, name in expected]}: {name}"
        for name in differences(found, expected)
    ]


class Trial:
    """All trials of a command."""

    def __init__(self, name: str, *, inputs: str, disk: Disk, logs: str):
        """Runs it without interruption.

        Raises:
          RuntimeError: it fails.
        """
        self._command, self._inputs, self._disk = COMMANDS[name], inputs, disk
        self._logs, self._number = os.path.join(logs, name), 0
        self._fresh = self._contents(prepared=True)
        running = self._start()
        self._whole = running.wait(disk)
        if self._whole.code:
            raise RuntimeError(f"{name} failed:\n{self._whole.output}")
        self._expected = self._contents()
        self._results = self._command.results(disk.place)
        if left := running.left() + self._temporary_files():
            raise RuntimeError(f"{name}: {left}")

    def _contents(self, *, prepared: bool = False) -> dict[str, str]:
        if prepared:
            _prepare(self._command, self._inputs, self._disk.place)
        return file_fingerprints(self._disk.place)

    def _wrong_results(self) -> list[str]:
        return changes(self._command.results(self._disk.place), self._results)

    def _temporary_files(self) -> list[str]:
        """Temporary files that are left, but for _OF_OTHERS."""
        return [
            f"{name} is left"
            for name in os.listdir(os.path.join(self._logs, "tmp"))
            if not any(fnmatch.fnmatch(name, pattern) for pattern in _OF_OTHERS)
        ]

    def _start(self, **how) -> Running:
        self._number += 1
        return Running(
            self._command,
            inputs=self._inputs,
            place=self._disk.place,
            logs=os.path.join(self._logs, str(self._number)),
            **how,
        )

    def describe(self) -> str:
        return (
            f"{self._whole.secs:.1f} s, {self._whole.num_changes} changes, "
            f"{len(self._expected)} files, {self._whole.peak_bytes >> 10} KiB"
        )

    def stopped(self, how: str, draws: random.Random, turn: int) -> tuple[str, list]:
        """Stops it, runs it again; what became of the first, and what is wrong."""
        _prepare(self._command, self._inputs, self._disk.place)
        if how == "full_disk":
            running, ended = self._without_room(draws)
        else:
            running = self._start(stop=self._moment(how, draws, turn))
            ended = running.wait(self._disk)
        found = self._contents()
        wrong = partial_results(
            self._command, found, before=self._fresh, expected=self._expected
        )
        wrong += _wrong_ends(how, ended)
        what = "done" if ended.code == 0 else "stopped"
        if found != self._fresh or what == "done":
            second = self._start()
            again = second.wait(self._disk)
            if again.code and not (
                self._command.runs_once and _is_refused(again, found, self._expected)
            ):
                wrong.append(f"again: exit code {again.code}, {again.output[-300:]}")
            wrong += self._wrong_results()
            wrong += second.left() + self._temporary_files()
        elif what == "stopped":
            what = "left nothing"
        return what, wrong + running.left()

    def _moment(self, how: str, draws: random.Random, turn: int) -> Stop:
        number = signal.SIGKILL if how == "kill" else signal.SIGTERM
        secs = change = None
        if turn % 2:
            change = draws.randint(1, self._whole.num_changes)
        else:
            secs = draws.uniform(0, self._whole.secs)
        return Stop(number, secs, change, how == "term" and turn % 4 > 1)

    def _without_room(self, draws: random.Random) -> tuple[Running, Ended]:
        if not self._disk.is_mounted:
            sizes = [
                os.path.getsize(os.path.join(folder, name))
                for folder, _, names in os.walk(self._disk.place)
                for name in names
            ]
            running = self._start(file_bytes=draws.randrange(max(sizes, default=1)))
            return running, running.wait(self._disk)
        pages = self._whole.peak_bytes // _PAGE_BYTES
        self._disk.fill(draws.randrange(max(1, pages)) * _PAGE_BYTES)
        try:
            running = self._start()
            return running, running.wait(self._disk)
        finally:
            self._disk.empty()

    def pair(self, draws: random.Random) -> tuple[str, list[str]]:
        """Runs two at a time; what became of the second, and what is wrong."""
        _prepare(self._command, self._inputs, self._disk.place)
        both = [self._start()]
        time.sleep(draws.uniform(0, self._whole.secs / 2))
        both.append(self._start())
        ends = [running.wait(self._disk) for running in both]
        wrong = self._wrong_results()
        failed = [ended for ended in ends if ended.code]
        for ended in failed:
            if not _is_refusal(ended):
                wrong.append(f"exit code {ended.code}: {ended.output[-300:]}")
        if len(failed) == 2:
            wrong.append("both failed")
        for running in both:
            wrong += running.left()
        return "refused" if failed else "both done", wrong


def _wrong_ends(how: str, ended: Ended) -> list[str]:
    """What is wrong with how a command has ended."""
    wrong = []
    if "Traceback" in ended.output:
        wrong.append(f"a traceback: {ended.output[-600:]}")
    allowed = {
        "kill": (0, -signal.SIGKILL),
        # By the signal itself, in the first moments.
        "term": (0, signals.EXIT_CODE, -signal.SIGTERM),
        "full_disk": (0, 1),
    }[how]
    if ended.code not in allowed:
        wrong.append(f"exit code {ended.code}: {ended.output[-300:]}")
    elif how == "full_disk" and ended.code and len(ended.errors) != 1:
        wrong.append(f"not one error line: {ended.output[-300:]}")
    return wrong


def _is_refusal(ended: Ended) -> bool:
    """Whether a command says that another is at work, or has been."""
    return (
        ended.code == 1
        and len(ended.errors) == 1
        and bool(re.search(r"process \d+ on | exists", ended.errors[0]))
    )


def _is_refused(ended: Ended, found: dict, expected: dict) -> bool:
    """Whether it is refused since all was there already."""
    shown = {name for name in found if not name.startswith(".")}
    return _is_refusal(ended) and expected.keys() <= shown


def make_inputs(names: Sequence[str], inputs: str, logs: str, disk: Disk) -> None:
    """Makes what commands read, and what that is made of.

    Raises:
      RuntimeError: if that fails.
    """
    os.makedirs(inputs, exist_ok=True)
    for name in names:
        if os.path.exists(os.path.join(inputs, name)):
            continue
        before = _add_tiny_scale if _REPRODUCE in _INPUTS[name] else None
        command = Command(_INPUTS[name], before=before)
        make_inputs(_read_by(command), inputs, logs, disk)
        running = Running(
            command, inputs=inputs, place=inputs, logs=os.path.join(logs, name)
        )
        ended = running.wait(disk)
        if ended.code:
            raise RuntimeError(f"{command.line} failed:\n{ended.output}")


def _read_by(command: Command) -> list[str]:
    """Names of the inputs that a command reads."""
    return [*re.findall(r"\{inputs\}/([\w.]+)", command.line), *command.copied]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_commands")
    parser.add_argument("--times", type=int, default=20, help="Of each way to stop.")
    parser.add_argument(
        "--commands",
        default=",".join(name for name in COMMANDS if name not in _SLOW),
        help=f"Of these; {', '.join(_SLOW)}, which take longest, if they are named.",
    )
    parser.add_argument("--how", default=",".join(HOW), help="Ways to stop.")
    parser.add_argument("--moments_seed", type=int, default=0, help="Of the moments.")
    given = parser.parse_args(arguments)
    names, hows = given.commands.split(","), given.how.split(",")
    unknown = (set(names) - COMMANDS.keys()) | (set(hows) - set(HOW))
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    program.quiet_tensorflow()  # for fingerprints of checkpoints
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    # Of semaphores of killed pools, which multiprocessing frees at the end.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    started, all_wrong = time.monotonic(), 0
    folder = tempfile.mkdtemp(prefix="kill_commands_")
    disk = make_disk(os.path.join(folder, "disk"))
    try:
        inputs, logs = os.path.join(folder, "inputs"), os.path.join(folder, "logs")
        needed = [read for name in names for read in _read_by(COMMANDS[name])]
        make_inputs(needed, inputs, os.path.join(logs, "inputs"), disk)
        told = "a small file system" if disk.is_mounted else "a limit on files' sizes"
        print(f"full_disk: by {told}; {time.monotonic() - started:.0f} s", flush=True)
        for name in names:
            trial = Trial(name, inputs=inputs, disk=disk, logs=logs)
            print(f"{name}: {trial.describe()}", flush=True)
            for how in hows:
                all_wrong += _try(trial, name, how, given.times, given.moments_seed)
    finally:
        disk.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{all_wrong} went wrong, in {time.monotonic() - started:.0f} s")
    return 1 if all_wrong else 0


def _try(trial: Trial, name: str, how: str, times: int, seed: int) -> int:
    """Prints a line of the table; how many went wrong."""
    draws, started = random.Random(f"{seed} {name} {how}"), time.monotonic()
    became, num_wrong = collections.Counter(), 0
    times = max(1, times // 4) if how == "pair" else times
    for turn in range(times):
        if how == "pair":
            what, wrong = trial.pair(draws)
        else:
            what, wrong = trial.stopped(how, draws, turn)
        became[what] += 1
        num_wrong += bool(wrong)
        for line in wrong[:5]:
            print(f"  WRONG {name} {how} {turn} ({what}): {line}", flush=True)
    told = ", ".join(f"{what} {count}" for what, count in sorted(became.items()))
    print(
        f"  {name:18s} {how:10s} {times - num_wrong} of {times} as promised "
        f"({told}), {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
