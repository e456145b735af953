"""The clips of the examples that are shown, in the folder of pages.

Of each example the original is looked for, and else the records are read. What worker
processes make of it is written file by file; state.json says which examples are done,
so that a killed build goes on.
"""

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data_prep import remote_files, worker_processes
from data_prep.answers import Outcome
from data_prep.engines.local_pool import Engine
from data_prep.reasons import LENGTH_MISMATCH
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings
from xdc_tf.browse import media_clips, page_files
from xdc_tf.browse.clip_files import CLIP_FORM, SHORT_SIDE, Clip
from xdc_tf.browse.media_clips import ClipRequest
from xdc_tf.browse.opened_run import OpenedRun
from xdc_tf.browse.page_files import State
from xdc_tf.data import payloads, record_directory, records
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.data.record_framing import read_record
from xdc_tf.runtime import escaping, files

FILE, RECORDS = "file", "records"
_ENDINGS = {"clip": "mp4", "poster": "jpg", "spectrogram": "png"}
_LIMITS = Limits(timeout_secs=120.0, memory_mib=1024.0)
# What a killed build may lose, and the time of writing the state by all time.
_STATE_SECS, _STATE_FRACTION = 1.0, 0.05
# Of a video that was converted at a low rate, the last frame.
_SLACK_SECS, _SLACK_FRACTION = 0.5, 0.02
# What follows a path in the id of a segment, see data_prep.manifest.
_SEGMENT = re.compile(r"#t=[0-9.]+(?:,[0-9.]+)?\Z")
_SECS_BYTES = 8000 + 2000  # of sound, and of a poster and spectrogram
_PIXEL_BITS = 0.06


class _Source(NamedTuple):
    """An example and its original, "" where it is not found."""

    example: int
    file: str = ""
    signature: str = ""
    note: str = ""


def find_original(video_id: str, videos: str | None) -> tuple[str, bool]:
    """The original file of an example, and whether the example is all of it.

    Args:
      video_id: the path in the manifest; of a segment with its times.
      videos: a folder with the originals, as the manifest names them or with fewer
        folders in front; None: where an absolute path, or an address, says.

    Returns:
      Path, or "" if there is none.
    """
    # A file may be called like a segment of another.
    for path in dict.fromkeys((video_id, _SEGMENT.sub("", video_id))):
        for candidate in _candidates(path, videos):
            with contextlib.suppress(OSError, ValueError):
                is_remote = remote_files.is_remote(candidate)
                exists = remote_files.exists if is_remote else os.path.isfile
                if exists(candidate):
                    return candidate, path == video_id
    return "", True


def _candidates(path: str, videos: str | None) -> list[str]:
    """Where a file of the manifest may be; never outside of the folder of videos."""
    if videos is None:
        is_full = remote_files.is_remote(path) or os.path.isabs(path)
        return [path] if is_full else []
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return [
        os.path.join(videos, *parts[first:])
        for first in range(len(parts))
        if ".." not in parts[first:]
    ]


def make_media(
    run: OpenedRun,
    out_dir: str,
    state: State,
    examples: Sequence[int],
    *,
    videos: str | None,
    num_workers: int,
    engine: Engine,
) -> None:
    """Makes the clips of examples, but for those that are there.

    Args:
      run: whose examples they are.
      out_dir: the folder of pages.
      state: what is there; takes what is made.
      examples: ascending.
      videos: see find_original.
      num_workers: processes that decode and encode.
      engine: where originals are decoded.
    """
    sources = [_find_source(run, example, videos) for example in examples]
    _remove_others(out_dir, state, sources)
    todo = [source for source in sources if str(source.example) not in state.media]
    writer = _Writer(out_dir, state, len(examples), len(examples) - len(todo))
    pool = PoolSettings(num_workers, _LIMITS)
    again = [source for source in todo if not source.file]
    with contextlib.closing(writer):
        originals = [source for source in todo if source.file]
        requests = ((_original(run, source, videos),) for source in originals)
        map_groups = functools.partial(
            engine.map_groups, files=[source.file for source in originals[:1]]
        )
        for source, outcome in _made(originals, requests, pool, map_groups):
            if outcome.reason:
                again.append(source._replace(note=_note_of(outcome)))
            else:
                writer.write(source, FILE, outcome.result)
        again.sort()
        notes: dict[int, str] = {}
        of_records = ((_stored(run, source, notes),) for source in again)
        map_here = worker_processes.map_groups
        for source, outcome in _made(again, of_records, pool, map_here):
            note = notes.get(source.example, "")
            clip = outcome.result
            if outcome.reason:
                note = note or f"no clip: {outcome.reason}"
                clip = Clip(b"", b"", b"", 0.0, False)
            parts = [part for part in (source.note, note, clip.note) if part]
            writer.write(source, RECORDS, clip._replace(note="; ".join(parts)))


def _made(
    sources: Sequence[_Source],
    groups: Iterable[Sequence[ClipRequest]],
    pool: PoolSettings,
    map_groups: Callable[..., Generator[Outcome, None, None]],
) -> Iterator[tuple[_Source, Outcome]]:
    outcomes = map_groups(media_clips.make_clips, groups, form=CLIP_FORM, pool=pool)
    with contextlib.closing(outcomes):
        yield from zip(sources, outcomes, strict=True)


def _note_of(outcome: Outcome) -> str:
    if outcome.reason == LENGTH_MISMATCH:
        return f"{outcome.detail}: the clip is from the records"
    return f"the original cannot be used ({outcome.reason}): from the records"


def _find_source(run: OpenedRun, example: int, videos: str | None) -> _Source:
    path, _ = find_original(run.video_id(example), videos)
    if not path:
        note = "the original was not found" if videos is not None else ""
        return _Source(example, note=note)
    if remote_files.is_remote(path):
        return _Source(example, path, path)
    status = os.stat(path)
    path = os.path.abspath(path)  # workers elsewhere are in other directories
    signature = f"{path} {status.st_size} {status.st_mtime_ns}"
    return _Source(example, path, signature)


def _original(run: OpenedRun, source: _Source, videos: str | None) -> ClipRequest:
    info, examples = run.records.info, run.records.examples
    position = run.positions[source.example]
    end_secs = float(examples.end_secs[position])
    _, is_whole = find_original(run.video_id(source.example), videos)
    return ClipRequest(
        file=source.file,
        start_secs=float(examples.start_secs[position]),
        end_secs=end_secs,
        is_whole=is_whole,
        slack_secs=max(_SLACK_SECS, 1.5 / info.fps) + _SLACK_FRACTION * end_secs,
        modalities=info.modalities,
    )


def _stored(run: OpenedRun, source: _Source, notes: dict[int, str]) -> ClipRequest:
    """What the records hold of the middle of an example; nothing of a damaged one."""
    try:
        return _read_record(run, source.example)
    except (ValueError, OSError, tf.errors.OpError) as error:
        reason = escaping.terminal(escaping.error_text(error), max_chars=200)
        notes[source.example] = f"the record cannot be read: {reason}"
        return ClipRequest()


def _read_record(run: OpenedRun, example: int) -> ClipRequest:
    info, examples = run.records.info, run.records.examples
    position = int(run.positions[example])
    path, number = record_directory.record_place(run.records.directory, info, position)
    serialized = read_record(path, number)
    parsed = records.parse_record(tf.constant(serialized), info)
    if int(parsed["example_index"]) != example:
        raise ValueError(f"it is of example {int(parsed['example_index'])}")
    start_secs, end_secs = (
        float(values[position]) for values in (examples.start_secs, examples.end_secs)
    )
    begin, end = media_clips.middle(end_secs - start_secs)
    frames = waveform = rows = None
    if VIDEO in info.modalities:
        frames = _frames(run, list(parsed["video_items"].numpy()), begin, end)
    rate_hz = info.log_mel.sample_rate_hz
    if info.has_waveform:
        samples = parsed["waveform"].numpy()
        waveform = samples[round(begin * rate_hz) : round(end * rate_hz)].copy()
    if AUDIO in info.modalities:
        audio = payloads.stored(info, AUDIO)
        rows_hz = rate_hz / audio.row.hop_samples(audio.settings)
        all_rows = parsed["audio_rows"].numpy()
        rows = all_rows[round(begin * rows_hz) : round(end * rows_hz)].copy()
    return ClipRequest(
        frames=frames,
        fps=info.fps,
        waveform=waveform,
        sample_rate_hz=rate_hz,
        log_mel=rows,
    )


def _frames(
    run: OpenedRun, items: list[bytes], begin_secs: float, end_secs: float
) -> np.ndarray:
    """[T, H, W, 3] uint8, the frames of a stretch of a record."""
    info = run.records.info
    video = payloads.stored(info, VIDEO)
    per_item = video.row.frames_per_item(video.settings)
    first = round(begin_secs * info.fps)
    end = max(first + 1, round(end_secs * info.fps))
    items = items[first // per_item : -(-end // per_item)]
    video.row.check(items, info.short_side)
    frames = np.concatenate([video.row.decode_item(item) for item in items])
    skipped = first % per_item
    return frames[skipped : skipped + end - first]


class _Writer:
    """Writes clips as they come, the state now and then, and how far it is."""

    def __init__(self, out_dir: str, state: State, total: int, done: int):
        self._out_dir, self._state = out_dir, state
        self._num_failed = 0
        self._next_state = 0.0
        self._progress = tqdm(
            total=total, initial=done, desc="clips", unit="clip", mininterval=2
        )

    def write(self, source: _Source, origin: str, clip: Clip) -> None:
        """Writes an example's files, each whole, and then notes it."""
        facts: dict[str, Any] = {
            "secs": page_files.number(clip.secs),
            "has_sound": clip.has_sound,
            "from": origin,
            "note": clip.note,
            "original": source.signature,
            "brightness": page_files.number(clip.brightness),
            "quiet_db": page_files.number(clip.quiet_db),
            "fingerprint": clip.fingerprint,
        }
        for name, ending in _ENDINGS.items():
            data: bytes = getattr(clip, name)
            facts[name] = bool(data)
            path = page_files.media_name(source.example, ending)
            if data:
                with files.placing(os.path.join(self._out_dir, path)) as temporary:
                    with open(temporary, "wb") as file:
                        file.write(data)
        self._num_failed += not (clip.clip or clip.spectrogram)
        self._state.media[str(source.example)] = facts
        self._progress.update()
        started = time.monotonic()
        if started >= self._next_state:
            page_files.write_state(self._out_dir, self._state)
            ended = time.monotonic()
            pause_secs = max(_STATE_SECS, (ended - started) / _STATE_FRACTION)
            self._next_state = ended + pause_secs

    def close(self) -> None:
        """Writes the state; also of a build that stops."""
        self._progress.close()
        page_files.write_state(self._out_dir, self._state)
        if self._num_failed:
            print(
                f"{self._num_failed} examples have no clip; the page says why.",
                file=sys.stderr,
            )


def _remove_others(out_dir: str, state: State, sources: Sequence[_Source]) -> None:
    """Removes clips that are not shown any more, are of another original, or gone."""
    wanted = {str(source.example): source for source in sources}

    def is_current(example: str, facts: dict[str, Any]) -> bool:
        source = wanted.get(example)
        return (
            source is not None
            and facts.get("original") == source.signature
            and all(
                os.path.exists(
                    os.path.join(out_dir, page_files.media_name(int(example), ending))
                )
                for name, ending in _ENDINGS.items()
                if facts.get(name)
            )
        )

    for example in list(state.media):
        if not is_current(example, state.media[example]):
            del state.media[example]
    kept = {
        os.path.basename(page_files.media_name(int(example), ending))
        for example, facts in state.media.items()
        for name, ending in _ENDINGS.items()
        if facts.get(name)
    }
    folder = os.path.join(out_dir, page_files.MEDIA_DIR)
    for name in set(os.listdir(folder)) - kept:
        os.remove(os.path.join(folder, name))


def media_table(state: State) -> dict[str, dict[str, Any]]:
    """The table "media": of each example with a clip where its files are."""

    def entry(example: str, facts: dict[str, Any]) -> dict[str, Any]:
        paths = {
            name: (page_files.media_name(int(example), ending) if facts[name] else None)
            for name, ending in _ENDINGS.items()
        }
        return paths | {
            key: facts[key] for key in ("secs", "has_sound", "from", "note")
        }

    return {
        example: entry(example, facts)
        for example, facts in sorted(state.media.items(), key=lambda item: int(item[0]))
    }


def expected_bytes(run: OpenedRun, num_examples: int, *, from_files: bool) -> int:
    """About how much the clips of so many examples take.

    Args:
      run: whose examples they are.
      num_examples: that are shown.
      from_files: whether originals are looked for, which are larger.
    """
    info, examples = run.records.info, run.records.examples
    lengths = examples.end_secs - examples.start_secs
    secs = (
        float(np.minimum(lengths, media_clips.MOST_SECS).mean()) if len(lengths) else 0
    )
    side = SHORT_SIDE
    fps = 25.0
    if not from_files:
        side, fps = min(side, info.short_side), info.fps
    pixels = side * side * 4 / 3 if VIDEO in info.modalities else 0
    return round(num_examples * secs * (_SECS_BYTES + pixels * fps * _PIXEL_BITS / 8))
