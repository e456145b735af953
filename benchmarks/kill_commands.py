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
uninterrupted command made, and nothing beside it: no scratch file, lock or process. See
fingerprints.py for what may vary. Of a pair, either both succeed, or one does and the
other is refused in one line.

Commands are forked from a process that has imported TensorFlow, which saves seconds for
each. Leaves with 1 unless all of this holds. benchmarks/kill.py is about pretraining
alone, killed in each of its phases.
"""

import argparse
import collections
import fnmatch
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import stoppable_processes
from benchmarks.fingerprints import differences, file_fingerprints
from benchmarks.stoppable_processes import Disk, Ended, Running, Stop, make_disk
from benchmarks.writing_commands import (
    COMMANDS,
    INPUTS,
    PRELOAD,
    SLOW,
    Command,
    read_by,
)
from xdc_tf.runtime import program, signals

HOW = ("kill", "term", "full_disk", "pair")
_PAGE_BYTES = 4096
# Temporary files: that TensorFlow removes when an interpreter is left as usual, and an
# empty directory that Keras leaves if it cannot write a model.
_OF_OTHERS = ("__autograph_generated_file*", "tmp????????")


def _prepare(command: Command, inputs: str, place: str) -> None:
    """Makes the place what it is before the command."""
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place)
    for name in command.copied:
        shutil.copytree(os.path.join(inputs, name), os.path.join(place, name))


def partial_results(
    command: Command,
    fingerprints: dict[str, str],
    *,
    before: dict[str, str],
    expected: dict[str, str],
) -> list[str]:
    """What has a final name and is neither as before nor what it is to become.

    Args:
      command: that was stopped.
      fingerprints: by path, of what it has left.
      before: of the place before the command.
      expected: of the place after the whole command.

    Returns:
      A line about every fault.
    """
    wrong = []
    for name, content in fingerprints.items():
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
        if fingerprints.keys() & inside and not inside <= fingerprints.keys():
            wrong.append(
                f"{directory} lacks {sorted(inside - fingerprints.keys())[:3]}"
            )
    return wrong


def changes(actual: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line about each file that differs between two places."""
    words = {(True, False): "more", (False, True): "missing", (True, True): "other"}
    return [
        f"{words[name in actual, name in expected]}: {name}"
        for name in differences(actual, expected)
    ]


class Trial:
    """All trials of a command, compared with an uninterrupted run of it."""

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
        """Stops the command, then runs it again.

        Args:
          how: of HOW, but not pair.
          draws: for the moment.
          turn: from 0; says which kind of moment.

        Returns:
          What became of the first, and a line about every fault.
        """
        _prepare(self._command, self._inputs, self._disk.place)
        if how == "full_disk":
            running, ended = self._without_room(draws)
        else:
            running = self._start(stop=self._moment(how, draws, turn))
            ended = running.wait(self._disk)
        left_by_first = self._contents()
        wrong = partial_results(
            self._command, left_by_first, before=self._fresh, expected=self._expected
        )
        wrong += _wrong_ends(how, ended)
        what = "done" if ended.code == 0 else "stopped"
        if left_by_first != self._fresh or what == "done":
            second = self._start()
            again = second.wait(self._disk)
            if again.code and not (
                self._command.runs_once
                and _is_refused(again, left_by_first, self._expected)
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
        """Runs two at a time.

        Returns:
          Whether both succeeded, and a line about every fault.
        """
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
    """A line about every fault in how a command has ended."""
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
    """Whether a command says that another one is running, or has finished."""
    return (
        ended.code == 1
        and len(ended.errors) == 1
        and bool(re.search(r"process \d+ on | exists", ended.errors[0]))
    )


def _is_refused(ended: Ended, present: dict, expected: dict) -> bool:
    """Whether it is refused since all was there already."""
    shown = {name for name in present if not name.startswith(".")}
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
        command = INPUTS[name]
        make_inputs(read_by(command), inputs, logs, disk)
        running = Running(
            command, inputs=inputs, place=inputs, logs=os.path.join(logs, name)
        )
        ended = running.wait(disk)
        if ended.code:
            raise RuntimeError(f"{command.line} failed:\n{ended.output}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_commands")
    parser.add_argument(
        "--times", type=int, default=20, help="Number of trials of each way to stop."
    )
    parser.add_argument(
        "--commands",
        default=",".join(name for name in COMMANDS if name not in SLOW),
        help="Commands to stop, comma-separated; default: all but the slowest, "
        f"{', '.join(SLOW)}.",
    )
    parser.add_argument(
        "--how", default=",".join(HOW), help="Ways to stop, comma-separated."
    )
    parser.add_argument(
        "--moments_seed", type=int, default=0, help="Seed of the moments."
    )
    given = parser.parse_args(arguments)
    names, hows = given.commands.split(","), given.how.split(",")
    unknown = (set(names) - COMMANDS.keys()) | (set(hows) - set(HOW))
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    program.quiet_tensorflow()  # for fingerprints of checkpoints
    stoppable_processes.preload(PRELOAD)
    # Of semaphores of killed pools, which multiprocessing frees at the end.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    started, all_wrong = time.monotonic(), 0
    folder = tempfile.mkdtemp(prefix="kill_commands_")
    disk = make_disk(os.path.join(folder, "disk"))
    try:
        inputs, logs = os.path.join(folder, "inputs"), os.path.join(folder, "logs")
        needed = [read for name in names for read in read_by(COMMANDS[name])]
        make_inputs(needed, inputs, os.path.join(logs, "inputs"), disk)
        means = "a small file system" if disk.is_mounted else "a limit on files' sizes"
        print(f"full_disk: by {means}; {time.monotonic() - started:.0f} s", flush=True)
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
    """Prints a line of the table; returns how many trials went wrong."""
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
    counts = ", ".join(f"{what} {count}" for what, count in sorted(became.items()))
    print(
        f"  {name:18s} {how:10s} {times - num_wrong} of {times} as promised "
        f"({counts}), {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return num_wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
