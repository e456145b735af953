"""A shard made by a process elsewhere, of which nobody knows whether it still lives.

Such a process writes to a directory of its own,

    OUT/progress/SHARD.attempts/TOKEN/

and what it has finished the main process puts into its place, the only one that writes
there. So a worker that was given up and wakes up again disturbs nothing.

The directory of an attempt without a report is also what is left of a lost worker. The
next attempt then decodes one row at a time, and notes each down before: a row that was
noted by _TRIES attempts which were lost has killed their workers, and is quarantined.
"""

import collections
import contextlib
import itertools
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import tensorflow as tf

from data_prep import shards as shard_files
from data_prep.answers import Outcome
from data_prep.engines.worker_checks import (
    Origin,
    WorkerError,
    check_worker,
    is_unseen,
    sha256,
    software,
    unseen_text,
)
from data_prep.manifest import ManifestRow
from data_prep.reasons import CANNOT_OPEN, KILLED
from data_prep.shards import PROGRESS_DIR, Shard, ShardReport, Work
from xdc_tf.data import shard_writing
from xdc_tf.data.record_index import SUFFIX
from xdc_tf.runtime import compat, files

_ATTEMPTS = ".attempts"
_NOTE_FILE = "in_work.json"
_BEAT_FILE = "beat"
_BEAT_SECS = 5.0
_UNSEEN_FILE = "unseen.json"
# How long a file of another machine may take to be seen here, as NFS keeps names.
_SEEN_SECS = 90.0
# Attempts that a row may be lost with while it is decoded alone.
_TRIES = 2


def make_origin(out_dir: str, shards: Sequence[Shard]) -> Origin:
    """That of a conversion whose plan is written."""
    plan = os.path.join(out_dir, PROGRESS_DIR, shard_files.PLAN_FILE)
    digests = {plan: sha256(plan)}
    return Origin(software(), digests, [s.rows[0].file for s in shards[:1]])


def make(
    shard: Shard,
    out_dir: str,
    *,
    origin: Origin,
    work: Work,
) -> None:
    """Makes a shard in a worker; `place` puts it where it belongs.

    Args:
      shard: what to make.
      out_dir: directory of the records.
      origin: of make_origin.
      work: what is done with its rows.

    Raises:
      OSError: a file cannot be written; names it, and the host.
      WorkerError: see check_worker.
    """
    compat.enable_remote_paths(out_dir)
    check_worker(origin)
    parent = _parent(out_dir, shard)
    earlier = [os.path.join(parent, name) for name in _list(parent)]
    if any(_report(attempt, shard) for attempt in earlier):
        return
    attempt = os.path.join(parent, secrets.token_hex(8))
    tf.io.gfile.makedirs(os.path.join(attempt, PROGRESS_DIR))
    try:
        with _beating(attempt):
            _make(shard, attempt, earlier, work)
    except Exception as error:
        _remove(attempt)  # else it would count as lost
        if isinstance(error, OSError):
            raise OSError(f"{error}, on {socket.gethostname()}") from error
        raise


def _make(
    shard: Shard,
    attempt: str,
    earlier: Sequence[str],
    work: Work,
) -> None:
    rows = list(shard.rows)
    host = socket.gethostname()
    refused: dict[int, Outcome] = {}
    if earlier:
        notes = [note for note in map(_read_note, earlier) if note]
        counts = collections.Counter(index for index, _ in notes)
        hosts = dict(notes)
        refused = {
            index: Outcome(
                reason=KILLED,
                detail=f"its worker was lost {count} times while this row was decoded "
                f"alone, the last time on {hosts[index]}",
            )
            for index, count in counts.items()
            if count >= _TRIES
        }
        work = work._replace(pool=work.pool._replace(num_workers=1))
    upcoming = iter(rows)

    def note_next(_: Outcome | None = None) -> None:
        row = next(upcoming, None)
        if earlier and row is not None:
            note = {"example_index": row.example_index, "host": host}
            files.write_text(os.path.join(attempt, _NOTE_FILE), json.dumps(note))

    note_next()
    unseen = [row.file for row in rows if is_unseen(row.file)]
    if unseen:
        text = json.dumps({"host": host, "files": unseen})
        files.write_text(os.path.join(attempt, _UNSEEN_FILE), text)
    shard_files.convert_shards(
        [shard],
        attempt,
        work=work,
        on_outcome=note_next,
        refused=refused,
    )


@contextlib.contextmanager
def _beating(attempt: str) -> Iterator[None]:
    """Writes another number into a file of an attempt again and again."""
    ended = threading.Event()

    def beat() -> None:
        for number in itertools.count():
            with contextlib.suppress(OSError, tf.errors.OpError):
                files.write_text(os.path.join(attempt, _BEAT_FILE), str(number))
            if ended.wait(_BEAT_SECS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def beats(out_dir: str, shards: Sequence[Shard]) -> dict[str, str]:
    """Of attempts that have not finished, what changes as long as they live."""
    found = {}
    names = set(_list(os.path.join(out_dir, PROGRESS_DIR)))
    for shard in shards:
        if shard.file + _ATTEMPTS not in names:
            continue
        parent = _parent(out_dir, shard)
        for attempt in (os.path.join(parent, name) for name in _list(parent)):
            if _report(attempt, shard) is None:
                found[attempt] = ""
                with contextlib.suppress(FileNotFoundError):
                    found[attempt] = files.read_text(os.path.join(attempt, _BEAT_FILE))
    return found


def _read_note(attempt: str) -> tuple[int, str] | None:
    """The row that an attempt had in work, and its host; None if it noted none."""
    try:
        note = json.loads(files.read_text(os.path.join(attempt, _NOTE_FILE)))
        return int(note["example_index"]), str(note["host"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def place(out_dir: str, shard: Shard) -> ShardReport | None:
    """Puts what an attempt has made into its place; None if there is none.

    Raises:
      WorkerError: its worker did not see media that are there.
    """
    parent = _parent(out_dir, shard)
    for name in _list(parent):
        attempt = os.path.join(parent, name)
        report = _report(attempt, shard)
        if report is None:
            continue
        try:
            _check_seen(attempt, shard.rows, report)
        except WorkerError:
            _remove(attempt)
            raise
        for file in (shard.file, shard.file + SUFFIX):
            shard_writing.place(os.path.join(attempt, file), f"{out_dir}/{file}")
        shard_files.write_report(out_dir, shard, report)
        _remove(parent)
        return report
    return None


def place_all(
    out_dir: str, shards: Sequence[Shard], *, wait_secs: float = _SEEN_SECS
) -> Iterator[tuple[Shard, ShardReport]]:
    """Does so for shards that are said to be made; gives what it placed.

    Args:
      out_dir: directory of the records.
      shards: whose attempts may be on a disk that shows them late.
      wait_secs: how long they are waited for.

    Raises:
      WorkerError: see `place`.
    """
    ends_at = time.monotonic() + wait_secs
    left = list(shards)
    while left:
        unseen = []
        for shard in left:
            report = place(out_dir, shard)
            if report is None:
                unseen.append(shard)
            else:
                yield shard, report
        if unseen and time.monotonic() > ends_at:
            return
        left = unseen
        if left:
            time.sleep(0.5)


def place_finished(
    out_dir: str, shards: Sequence[Shard]
) -> Iterator[tuple[Shard, ShardReport]]:
    """Does so for whatever is finished; gives what it placed.

    Raises:
      WorkerError: see `place`.
    """
    names = set(_list(os.path.join(out_dir, PROGRESS_DIR)))
    for shard in shards:
        if shard.file + _ATTEMPTS in names:
            report = place(out_dir, shard)
            if report is not None:
                yield shard, report


def _check_seen(attempt: str, rows: Sequence[ManifestRow], report: ShardReport) -> None:
    """Checks that no row was refused because of its worker."""
    if not any(row.reason == CANNOT_OPEN for row in report.refused):
        return
    try:
        unseen = json.loads(files.read_text(os.path.join(attempt, _UNSEEN_FILE)))
        host, paths = str(unseen["host"]), set(unseen["files"])
    except FileNotFoundError:
        return
    for row in rows:
        if row.file in paths and not is_unseen(row.file):
            raise WorkerError(unseen_text(host, row.file))


def _parent(out_dir: str, shard: Shard) -> str:
    return os.path.join(out_dir, PROGRESS_DIR, shard.file + _ATTEMPTS)


def _report(attempt: str, shard: Shard) -> ShardReport | None:
    return shard_files.read_report(attempt, shard)


def _list(directory: str) -> list[str]:
    """Names in a directory, sorted; none if it is not there."""
    try:
        names = tf.io.gfile.listdir(directory)
    except tf.errors.NotFoundError:
        return []
    return sorted(name.rstrip("/") for name in names)


def _remove(directory: str) -> None:
    """Removes a directory, in which somebody may still write."""
    if "://" not in directory:
        shutil.rmtree(directory, ignore_errors=True)
        return
    with contextlib.suppress(tf.errors.OpError):
        tf.io.gfile.rmtree(directory)
