"""Forged records, indices and their tables: refused, or read as they are.

    python -m benchmarks.fuzz_records --out=DIR

A directory of records is changed as a stranger could change it, with checksums and
sizes that fit: bits and fields of records, of index entries, values of
dataset_info.json, cells and rows of examples.csv; files cut at borders of records,
records twice, in another place or with a length of terabytes. Then it is opened, all
its clips are read, and an epoch for training. Each attempt must end in one line of
error, or give the clips that there were. What else may be read:

- clips of a record that was itself changed, where it is still a record: its checksums
  say that it should be so;
- clips of a recording whose start or end was moved by a microsecond, which is what
  rounding may do;
- what stands in one table alone, as labels and names of videos do.

Attempts run in processes of their own, since a crash is what is looked for; they have a
limits of time and memory. Mutations follow from --seed. Exits with 1 if any of
this does not hold. The changes are in forged_records.py.
"""

import argparse
import hashlib
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.forged_records import TARGETS

_TIMEOUT_SECS = 60.0
_MEMORY_MIB = 1024
_NUM_VIDEOS, _ROWS_PER_SHARD = 12, 4

# Of read_all in this process.
_DATA_SETS: dict = {}


class Answer(NamedTuple):
    """Clips or an error: the outcome of reading a directory.

    Attributes:
      clips: by example_index the digests of its clips.
      error: one line, or "".
      traceback: of what a command would not report in one line, or "".
    """

    clips: dict[int, str]
    error: str = ""
    traceback: str = ""


def make_records(folder: Path, payload: str) -> None:
    """Converts a few videos of the embedded benchmark, one of them refused."""
    from data_prep import conversion, conversion_settings, synthetic
    from data_prep.worker_processes import PoolSettings
    from xdc_tf.data import payloads

    manifest = synthetic.make_benchmark(
        str(folder / "videos"),
        num_videos=_NUM_VIDEOS,
        seed=0,
        duration_secs=1.0,
        size=32,
    )
    (folder / "videos" / "videos" / "seed0_000005.mp4").write_bytes(b"")
    conversion.convert_manifest(
        manifest,
        str(folder / "records"),
        settings=conversion_settings.ConversionSettings(
            fps=8.0, short_side=32, payloads=payloads.parse([payload])
        ),
        pool=PoolSettings(2),
        rows_per_shard=_ROWS_PER_SHARD,
    )


def read_all(directory: str) -> dict[int, str]:
    """Opens a directory and reads every clip, and an epoch of random ones."""
    from xdc_tf.data import dataset_info, payloads, pipeline, record_directory
    from xdc_tf.data.augmentation_settings import Augmentation
    from xdc_tf.data.clip_reading import ClipSource
    from xdc_tf.data.clips import ClipSettings

    opened = record_directory.open_directory(directory)
    dataset_info.check_modalities(opened.info, ("video", "audio"), directory)
    if opened.info.log_mel.num_filters != 40 or opened.info.log_mel.hop_ms != 20.0:
        # As dataset_info.check_audio does, which needs a run's configuration.
        raise ValueError(f"{directory} has another log-mel than the run.")
    # The data sets of a form are made once, which takes a second; what they check
    # records against is that of the present directory.
    promised, paths = opened.promised, tuple(opened.promised.rows)
    info = opened.info
    form = (
        *(info.fps, info.short_side, info.log_mel, paths, info.num_rows),
        str(payloads.to_mappings(info.payloads)),
    )
    if form not in _DATA_SETS:
        rows: dict = {}
        clip = ClipSettings(
            num_frames=2,
            fps=4.0,
            crop_size=16,
            crop_share=0.875,
            audio_secs=0.4,
            mel_hop_secs=0.02,
            num_mels=40,
            log_mel_mean=0.0,
            log_mel_std=1.0,
        )
        source = ClipSource(paths, clip, promised=promised._replace(rows=rows))
        evaluation = pipeline.evaluation_batches(source, batch_size=4, num_clips=2)
        training = pipeline.training_batches(
            source,
            batch_size=4,
            augmentation=Augmentation(),
            keep=np.ones(opened.info.num_rows, bool),
            seed=0,
            shuffle_buffer=4,
        )
        _DATA_SETS[form] = evaluation, training, rows
    evaluation, training, rows = _DATA_SETS[form]
    rows.update(promised.rows)
    clips: dict[int, list[str]] = {}
    for batch in evaluation.as_numpy_iterator():
        for number, index in enumerate(batch["example_index"].tolist()):
            if index != pipeline.PADDING_INDEX:
                clip = hashlib.sha256(batch["video"][number].tobytes())
                clip.update(batch["audio"][number].tobytes())
                clips.setdefault(index, []).append(clip.hexdigest())
    for _, _ in zip(range(len(clips) // 4), training, strict=False):
        pass
    return {index: " ".join(of_index) for index, of_index in clips.items()}


def _serve(connection: Connection) -> None:
    """A process that reads directories until there are no more."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from xdc_tf.runtime import program

    program.quiet_tensorflow()
    connection.send(_answer(connection.recv()))  # the first one loads all there is
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    limit = used + (_MEMORY_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while directory := connection.recv():
        connection.send(_answer(directory))


def _answer(directory: str) -> Answer:
    import traceback

    from xdc_tf.runtime import program

    try:
        return Answer(read_all(directory))
    except program.USER_ERRORS as error:
        return Answer({}, str(error))
    except Exception as error:
        message = program.tensorflow_user_error(error)
        if message is not None:
            return Answer({}, message)
        return Answer({}, "", traceback.format_exc()[-600:])


class Reader:
    """Reads directories in a process, which is started anew when it has ended."""

    def __init__(self, valid: str):
        """Makes a reader without a process yet.

        Args:
          valid: a directory to begin with, which is read when a process starts.
        """
        self._valid = valid
        self._process = None

    @property
    def pid(self) -> int | None:
        """Id of the process, or None without one."""
        return None if self._process is None else self._process.pid

    def read(self, directory: str) -> Answer:
        """Reads a directory; a crash or a time limit is a traceback."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
            self._ask(self._valid, 10 * _TIMEOUT_SECS)
        return self._ask(directory, _TIMEOUT_SECS)

    def _ask(self, directory: str, timeout_secs: float) -> Answer:
        try:
            self._connection.send(directory)
            if self._connection.poll(timeout_secs):
                return self._connection.recv()
            reason = f"took more than {timeout_secs:g} s"
        except (EOFError, OSError):
            self._process.join(10)
            reason = f"ended the process with {self._process.exitcode}"
        self.close()
        return Answer({}, "", reason)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def fault(answer: Answer, expected: dict[int, str], changed: Collection[int]) -> str:
    """Describes the fault of an answer; "" if there is none.

    Args:
      answer: to a changed directory.
      expected: the clips before the change.
      changed: example_index of those whose own records were changed.
    """
    if answer.traceback:
        return answer.traceback
    if answer.error:
        is_line = "\n" not in answer.error and len(answer.error) < 2000
        return "" if is_line else f"an error of other form: {answer.error[:500]!a}"
    if set(answer.clips) != set(expected):
        missing = sorted(set(expected) ^ set(answer.clips))
        return f"read without a word, but for the examples {missing}"
    others = [
        index
        for index, clip in expected.items()
        if answer.clips[index] != clip and index not in changed
    ]
    return f"other clips of {others} were read without a word" if others else ""


def fuzz(
    folder: str,
    *,
    targets: Collection[str],
    num: int,
    seed: int,
    payload: str = "jpeg",
    report: Callable[[str], Any] = print,
) -> list[str]:
    """Reads changed directories of each target.

    Args:
      folder: an empty directory for the records.
      targets: of TARGETS.
      num: changed directories of each.
      seed: of all changes.
      payload: of the frames, as data_prep.convert --payload takes it.
      report: called with a line about each fault and each target.

    Returns:
      A line about every fault.

    Raises:
      RuntimeError: if the records cannot be read before any change.
    """
    make_records(Path(folder), payload)
    valid, damaged = Path(folder, "records"), Path(folder, "damaged")
    reader = Reader(str(valid))
    expected = reader.read(str(valid))
    if len(expected.clips) != _NUM_VIDEOS - 1:
        raise RuntimeError(f"the records cannot be read before any change: {expected}")
    faults = []
    try:
        for target in targets:
            rng = np.random.default_rng([seed, *target.encode()])
            num_refused = num_faults = 0
            for number in range(num):
                shutil.rmtree(damaged, ignore_errors=True)
                shutil.copytree(valid, damaged)
                changed = TARGETS[target](damaged, rng)
                answer = reader.read(str(damaged))
                num_refused += bool(answer.error)
                problem = fault(answer, expected.clips, changed)
                if problem:
                    num_faults += 1
                    faults.append(f"{target}, mutation {number}: {problem}")
                    report(f"fault: {faults[-1]}")
            report(
                f"{target}: {num} mutations, {num_refused} refused, "
                f"{num - num_refused - num_faults} read as they were, "
                f"{num_faults} faults"
            )
    finally:
        reader.close()
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="new directory for the records")
    parser.add_argument("--num", type=int, default=2000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--payload", default="jpeg", help="jpeg, or h264:gop=4 say")
    arguments = parser.parse_args()
    os.makedirs(arguments.out)
    faults = fuzz(
        arguments.out,
        targets=arguments.target or TARGETS,
        num=arguments.num,
        seed=arguments.seed,
        payload=arguments.payload,
        report=lambda line: print(line, flush=True),
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
