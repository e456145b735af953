"""Where a run stands, and its checkpoints: saved beside the training, whole or not."""

import contextlib
import enum
import glob
import hashlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.models.two_stream import TwoStream
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as run_directory

_INDEX_FILE = "checkpoint"  # names the whole checkpoints; TensorFlow's name and form
_SUMS_ENDING = ".sha256"  # of a checkpoint's files, as `sha256sum --check` reads it
_COPY_BYTES = 1 << 24
_NAME = re.compile(r"ckpt-\d{1,19}")


class Phase(enum.IntEnum):
    """What a round does next."""

    CLUSTER = 0
    TRAIN = 1


class Progress(NamedTuple):
    """A run's position, as variables that a checkpoint holds.

    The position in the training data follows from `step`.
    """

    round_index: tf.Variable  # int64, from 0
    phase: tf.Variable  # int64, a Phase
    step: tf.Variable  # int64, batches trained on since the start of the run
    round_first_step: tf.Variable  # int64, `step` when the round's training began
    best_loss: tf.Variable  # float64, the round's lowest held-out loss
    stale_epochs: tf.Variable  # int64, epochs since then
    skipped: tf.Variable  # int64, steps without an update, since they were not finite


def new_progress() -> Progress:
    """The position of a run that has not begun."""

    def variable(value, dtype):
        return tf.Variable(value, dtype=dtype, trainable=False)

    return Progress(
        round_index=variable(0, tf.int64),
        phase=variable(Phase.CLUSTER, tf.int64),
        step=variable(0, tf.int64),
        round_first_step=variable(0, tf.int64),
        best_loss=variable(float("inf"), tf.float64),
        stale_epochs=variable(0, tf.int64),
        skipped=variable(0, tf.int64),
    )


class Checkpoints:
    """Saves and restores everything that a run changes.

    A checkpoint is taken into memory at once, by TensorFlow's own writer on its file
    system `ram://`, and copied to disk by a thread while training goes on; at most one
    at a time. The index file names a checkpoint when all of it is on disk.
    """

    def __init__(
        self,
        workdir: str,
        *,
        model: TwoStream,
        optimizer,
        label_tables: dict[str, tf.Variable],
        progress: Progress,
        keep: int = 2,
        writes: bool = True,
    ):
        """Takes what is to be saved.

        Args:
          workdir: of the run.
          model: its encoders and heads.
          optimizer: with all its variables built.
          label_tables: by label source.
          progress: where the run stands.
          keep: how many checkpoints stay on disk; at least 1.
          writes: whether this process writes checkpoints; all processes of a run call
            `save`, since statistics of batch norm are read by all of them together.
        """
        self._keep = keep
        self._writes = writes
        self._progress = progress
        self._directory = os.path.join(workdir, run_directory.CHECKPOINTS_DIR)
        self._checkpoint = tf.train.Checkpoint(
            encoders=dict(model.encoders),
            heads=dict(model.heads),
            optimizer=optimizer,
            label_tables=dict(label_tables),
            progress=progress._asdict(),
        )
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def save(
        self, *, first: Callable[[], None] | None = None, wait: bool = True
    ) -> None:
        """Saves the present state, after the checkpoint before has been written.

        Args:
          first: called by the writing thread before anything is written: what a
            checkpoint must find on disk.
          wait: return when the checkpoint is on disk; else when it is in memory.

        Raises:
          OSError: if the disk failed, with this checkpoint (only if `wait`) or the one
            before. Those that the index file names are intact.
        """
        self.wait()
        name = f"ckpt-{self._number()}"
        in_memory = f"ram://checkpoint-{id(self)}/{name}"
        self._checkpoint.write(in_memory)
        self._thread = threading.Thread(
            target=self._write, args=(in_memory, name, first), name="checkpoint"
        )
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          OSError: if the disk failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Waits; an error that ends the run is reported rather than the disk's."""
        try:
            self.wait()
        except OSError as unsaved:
            if error is None:
                raise
            print(f"warning: {unsaved}", file=sys.stderr, flush=True)

    def _number(self) -> int:
        # Grows with every save: at a step lie the end of a round's training, the round
        # after it, and that one with its labels.
        step, phase = int(self._progress.step), int(self._progress.phase)
        return 2 * (step + int(self._progress.round_index)) + phase

    def _write(self, in_memory: str, name: str, first) -> None:
        path = os.path.join(self._directory, name)
        try:
            if first is not None:
                first()
            if self._writes:
                self._copy_to_disk(in_memory, path)
        except OSError as error:
            self._error = OSError(
                f"The checkpoint {path} cannot be written: {error}. Those before it "
                "are intact; make room or the directory writable, and restart."
            )
        finally:
            for source in tf.io.gfile.glob(in_memory + ".*"):
                tf.io.gfile.remove(source)

    def _copy_to_disk(self, in_memory: str, path: str) -> None:
        name = os.path.basename(path)
        os.makedirs(self._directory, exist_ok=True)
        kept = [other for other in self._named() if other != name]
        if len(kept) != len(self._named()):
            self._write_index(kept)  # what is overwritten is not whole meanwhile
        self._remove_unnamed()  # what a killed process or a full disk has left
        sums = ""
        for source in sorted(tf.io.gfile.glob(in_memory + ".*")):
            ending = source.removeprefix(in_memory)
            sums += f"{_copy(source, path + ending)}  {name}{ending}\n"
        files.write_text(path + _SUMS_ENDING, sums)
        self._write_index([*kept, name][-self._keep :])
        self._remove_unnamed()

    def _write_index(self, names: list[str]) -> None:
        lines = [f'model_checkpoint_path: "{names[-1]}"'] if names else []
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
        path = os.path.join(self._directory, _INDEX_FILE)
        files.write_text(path, "".join(line + "\n" for line in lines))

    def _named(self) -> list[str]:
        """The names of the checkpoints that are whole, oldest first."""
        path = os.path.join(self._directory, _INDEX_FILE)
        if not os.path.exists(path):
            return []
        state = tf.train.get_checkpoint_state(self._directory)
        if state is None:
            raise ValueError(
                f"{path} is damaged; write the line model_checkpoint_path: "
                '"ckpt-N" with the highest N there is into it, or use another '
                "--workdir."
            )
        # A file written elsewhere may hold whole paths.
        names = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{path} names {name!a}, which is no checkpoint ckpt-N; correct "
                    "it, or use another --workdir."
                )
        return names

    def _remove_unnamed(self) -> None:
        named = set(self._named())
        for path in _files_of_checkpoints(self._directory):
            name = os.path.basename(path)
            # A hidden one is what a killed process was writing.
            if name.startswith(".") or name.split(".")[0] not in named:
                os.remove(path)

    def restore(self) -> str | None:
        """Restores the latest checkpoint that is intact.

        A damaged one is reported on standard error.

        Returns:
          The checkpoint's path, or None if none has been saved.

        Raises:
          ValueError: if it does not fit the model, or none is intact.
        """
        names = self._named()
        damage = ""
        for name in reversed(names):
            path = os.path.join(self._directory, name)
            if damage:
                print(f"warning: {damage}; going back to {path}.", file=sys.stderr)
            damage = _damage(path)
            if not damage:
                break
        if damage:
            raise ValueError(
                f"{damage}, and so is every checkpoint before it; restore the "
                "directory from a copy, or use another --workdir."
            )
        if not names:
            return None
        try:
            with _without_patterns(path) as plain_path:
                self._checkpoint.read(plain_path).assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"{path} does not fit the model of this configuration "
                f"({str(error).splitlines()[0]}); use another --workdir."
            ) from error
        return path


@contextlib.contextmanager
def _without_patterns(path: str) -> Iterator[str]:
    """A path of the same checkpoint without what TensorFlow takes for a pattern."""
    folder, name = os.path.split(os.path.abspath(path))
    if not files.PATTERN.search(folder):
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = os.path.join(temporary, "checkpoints")
        os.symlink(folder, link)
        yield os.path.join(link, name)


def _files_of_checkpoints(directory: str) -> list[str]:
    """All that are there, also half-written ones."""
    pattern = os.path.join(glob.escape(directory), "ckpt-*")
    hidden = os.path.join(glob.escape(directory), ".ckpt-*")
    return glob.glob(pattern) + glob.glob(hidden)


def _damage(path: str) -> str:
    """What is wrong with the files of a checkpoint; empty if they are as written."""
    try:
        lines = files.read_text(path + _SUMS_ENDING).splitlines()
        sums = [line.split("  ", 1) for line in lines]
        for expected, name in sums:
            part = files.member_path(os.path.dirname(path), name)
            if files.sha256(part) != expected:
                return f"{part} is damaged (its SHA-256 is another)"
    except (OSError, ValueError) as error:
        return f"{path} is damaged ({error})"
    return "" if sums else f"{path}{_SUMS_ENDING} is empty"


def _copy(source: str, path: str) -> str:
    """Copies a file from memory to disk, whole or not at all; returns its SHA-256."""
    digest = hashlib.sha256()
    with files.placing(path) as temporary:
        with tf.io.gfile.GFile(source, "rb") as taken, open(temporary, "wb") as file:
            while block := taken.read(_COPY_BYTES):
                file.write(block)
                digest.update(block)
    return digest.hexdigest()
