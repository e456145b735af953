"""Damaged and forged label tables and export cards: refused, or read as they are.

    python -m benchmarks.fuzz_runs --out=DIR

- Label tables: bytes of any of their files are changed, or values of settings.json, or
  arrays and lines are forged with checksums that fit them. Reading must raise one line
  of error, or give what was written, or, where a forger has made a table of another
  content, one that keeps all that a table promises.
- Export cards: bytes, values and keys of export.json are changed. Opening must raise
  one line that names the card, or give settings in their ranges.

Each attempt has a time limit and a limit of memory. Mutations follow from --seed. Exits
with 1 if any of this does not hold.
"""

import argparse
import contextlib
import copy
import functools
import hashlib
import io
import json
import math
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering

_TIMEOUT_SECS = 10.0
_MEMORY_MIB = 256
_MAX_MUTATIONS = 8
_REFUSALS = (ValueError, OSError)
_NUM_ROWS, _NUM_CLUSTERS = 40, 3
_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-300, 1e308),
    *(math.nan, math.inf, -math.inf, "", "xdc", "../../x", "/etc/passwd", "a\x00b"),
    *("\ud800", "\x1b[2J", "x" * 100_000, "1", [], [1], [[]], [None] * 10_000, {}),
    *({"a": {}}, {"": 1}),
)


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes at some places, or an end cut off, or a part twice."""
    damaged = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(damaged[: rng.integers(len(damaged) + 1)])
    if kind == 1:
        first, last = sorted(rng.integers(0, len(damaged) + 1, 2))
        return bytes(damaged[:last] + damaged[first:])
    places = rng.integers(0, len(content), rng.integers(1, _MAX_MUTATIONS + 1))
    for place in np.unique(places):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def mutate_json(values: Any, rng: np.random.Generator) -> Any:
    """A copy with another value, key or item somewhere, or the same by chance."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    for _ in range(rng.integers(1, 3)):
        container, key = places[rng.integers(len(places))]
        kind = rng.integers(5)
        with contextlib.suppress(KeyError, IndexError):  # removed before
            if kind == 0:
                del container[key]
            elif kind == 1 and isinstance(container, dict):
                container[str(_VALUES[rng.integers(len(_VALUES))])[:50]] = container[
                    key
                ]
            elif kind == 2:
                other, other_key = places[rng.integers(len(places))]
                container[key] = copy.deepcopy(other[other_key])
            elif kind == 3 and isinstance(container[key], int | float):
                container[key] = container[key] * float(rng.choice([-1, 1e3, 1e30, 0]))
            else:
                container[key] = _VALUES[rng.integers(len(_VALUES))]
    return values


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    if isinstance(values, dict):
        keys = list(values)
    elif isinstance(values, list):
        keys = list(range(len(values)))
    else:
        return
    for key in keys:
        yield values, key
        yield from _places(values[key])


class _TooSlow(Exception):
    """The time limit."""


@contextlib.contextmanager
def _limits() -> Iterator[Callable[[], str]]:
    """Stops what takes too long; gives a function that says what memory it took."""

    def stop(number, frame):
        raise _TooSlow

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def excess() -> str:
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = (now - before) / 1024  # Linux counts in KiB
        return f"took {grown:.0f} MiB" if grown > _MEMORY_MIB else ""

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _TIMEOUT_SECS)
    try:
        yield excess
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _attempt(read: Callable[[], Any], check: Callable[[Any], str], path: str) -> str:
    """What is wrong with an attempt to read something; "" if nothing is.

    Args:
      read: what reads it.
      check: says what is wrong with its result.
      path: that an error must name.
    """
    try:
        with _limits() as excess:
            try:
                result = read()
            except _REFUSALS as error:
                text = str(error)
                if "\n" in text or path not in text:
                    return f"an error of other form: {text[:300]!a}"
                return excess()
            return excess() or check(result)
    except _TooSlow:
        return f"took more than {_TIMEOUT_SECS:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]!a}"


def fuzz_label_tables(folder: str, *, num: int, seed: int) -> list[str]:
    """Reads so many damaged label tables; returns what was wrong, a line each."""
    rng = np.random.default_rng(seed)
    valid = Path(folder) / "valid"
    _write_table(valid, rng)
    expected = _content(valid)
    faults = []
    for number in range(num):
        damaged = Path(folder) / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(valid, damaged)
        (_damage_file, _damage_settings, _forge)[number % 3](damaged, rng)

        # Without its own checksum the record is like one of an earlier version.
        record = (damaged / label_tables.SETTINGS_FILE).read_bytes()
        forged = b'"record_sha256"' not in record

        def check(content, forged=forged) -> str:
            if content == expected:
                return ""
            return _broken_promise(content) if forged else "was read as another table"

        fault = _attempt(functools.partial(_content, damaged), check, str(damaged))
        if fault:
            faults.append(f"label table, mutation {number}: {fault}")
    return faults


def _write_table(directory: Path, rng: np.random.Generator) -> None:
    def clustering(**more) -> Clustering:
        return Clustering(
            labels=rng.integers(-1, _NUM_CLUSTERS, _NUM_ROWS).astype(np.int32),
            centroids=rng.normal(size=(_NUM_CLUSTERS, 4)).astype(np.float32),
            sizes=np.full(_NUM_CLUSTERS, 13),
            inertia=1.5,
            **more,
        )

    whitening = {
        "pca_mean": np.zeros(6, np.float32),
        "pca_projection": np.ones((6, 4), np.float32),
        "offsets": np.zeros(_NUM_CLUSTERS, np.float32),
    }
    label_tables.write(
        directory,
        clusterings={"video": clustering(), "audio-1": clustering(**whitening)},
        video_ids=[f"videos/{number}.mp4" for number in range(_NUM_ROWS)],
        settings={"method": "xdc", "seed": 3, "encoders_sha256": {"video": "ab"}},
        health={"video": {"size_min": 1}},
    )


def _content(directory: Path) -> Any:
    """All that a table says, of types that compare."""
    table = label_tables.read(directory)
    clusterings = {
        name: {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in clustering._asdict().items()
        }
        for name, clustering in table.clusterings.items()
    }
    health = label_tables.read_health(directory)
    return (
        clusterings,
        table.settings,
        health,
        list(label_tables.read_video_ids(directory)),
    )


def _damage_file(directory: Path, rng: np.random.Generator) -> None:
    paths = sorted(directory.iterdir())
    path = paths[rng.integers(len(paths))]
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))


def _damage_settings(directory: Path, rng: np.random.Generator) -> None:
    path = directory / label_tables.SETTINGS_FILE
    path.write_text(json.dumps(mutate_json(json.loads(path.read_text()), rng)))


def _forge(directory: Path, rng: np.random.Generator) -> None:
    """Changes a file and the checksums with it."""
    path = directory / label_tables.SETTINGS_FILE
    record = json.loads(path.read_text())
    name = sorted(record["sha256"])[rng.integers(len(record["sha256"]))]
    content = (directory / name).read_bytes()
    if name.endswith(".npz") and rng.integers(2):
        content = _forged_archive(content, rng)
    elif name.endswith(".json"):
        content = json.dumps(mutate_json(json.loads(content), rng)).encode()
    elif name.endswith(".csv") and rng.integers(2):
        lines = content.split(b"\n")
        first, second = rng.integers(0, len(lines), 2)
        lines[first] = rng.choice([lines[second], b"", b'"', b"0,a,1,2,3", b"\x00"])
        content = b"\n".join(lines)
    else:
        content = mutate_bytes(content, rng)
    (directory / name).write_bytes(content)
    record["sha256"][name] = hashlib.sha256(content).hexdigest()
    if rng.integers(2):
        record = mutate_json(record, rng)
    record.pop("record_sha256", None)
    path.write_text(json.dumps(record))


def _forged_archive(content: bytes, rng: np.random.Generator) -> bytes:
    """An archive of which one array has another dtype, shape or content."""
    with np.load(io.BytesIO(content)) as arrays:
        arrays = dict(arrays)
    name = sorted(arrays)[rng.integers(len(arrays))]
    array = arrays[name]
    forged = (
        lambda: array.astype(rng.choice(["f8", "i4", ">f4", "c8", "U3", "?"])),
        lambda: np.asarray(array)[None],
        lambda: np.resize(array, rng.integers(0, 9, rng.integers(0, 3))),
        lambda: np.full_like(array, -1 if array.dtype.kind in "iu" else np.nan),
        lambda: array * rng.choice([-1, 2**40]),
        lambda: np.array({"a": 1}, object),
    )
    file = io.BytesIO()
    arrays[name] = forged[rng.integers(len(forged))]()
    if rng.integers(4) == 0:
        del arrays[name]
    (np.savez_compressed if rng.integers(4) == 0 else np.savez)(file, **arrays)
    return file.getvalue()


def _broken_promise(content: Any) -> str:
    """What a forged table that was read does not keep of a table's promises."""
    clusterings, settings, health, video_ids = content
    if not isinstance(settings, dict) or not isinstance(health, dict):
        return "has settings or health of another type"
    for name, values in clusterings.items():
        num_clusters, labels = len(values["centroids"]), values["labels"]
        if not all(-1 <= label < num_clusters for label in labels):
            return f"{name} has labels outside its clusters"
        if len(values["sizes"]) != num_clusters or min(values["sizes"], default=0) < 0:
            return f"{name} has sizes that are none"
        numbers = np.array([*np.ravel(values["centroids"]), values["inertia"]])
        if not np.isfinite(numbers).all() or values["inertia"] < 0:
            return f"{name} has numbers that are not finite, or a negative inertia"
    if not all(isinstance(video_id, str) for video_id in video_ids):
        return "has video ids that are no text"
    return ""


def fuzz_export_cards(folder: str, *, num: int, seed: int) -> list[str]:
    """Opens exports with so many damaged cards; returns what was wrong."""
    from xdc_tf.evaluation import encoder_sources

    rng = np.random.default_rng(seed)
    card = _card()
    path = Path(folder) / "export.json"
    path.write_text(json.dumps(card))
    expected = encoder_sources.open_source(folder)
    faults = []
    for number in range(num):
        if number % 2:
            path.write_bytes(mutate_bytes(json.dumps(card).encode(), rng))
        else:
            path.write_text(json.dumps(mutate_json(card, rng)))

        def check(source) -> str:
            if source == expected:
                return ""
            return _out_of_range(source)

        fault = _attempt(
            lambda: encoder_sources.open_source(folder), check, "export.json"
        )
        if fault:
            faults.append(f"export card, mutation {number}: {fault}")
    return faults


def _card() -> dict[str, Any]:
    """What is read of a card, and a part of what is not."""
    from xdc_tf.configs import synthetic

    config = synthetic.get_config().to_dict()
    return {
        "method": config["method"],
        "licence": "Apache-2.0",
        "encoders": {
            f"{stream}_encoder": {
                "modality": stream,
                "input": {"mean": -4.0, "std": 3.0},
                "features": 32,
            }
            for stream in ("video", "audio")
        },
        "config": config,
        "versions": {"numpy": "1"},
    }


def _out_of_range(source: Any) -> str:
    """What an opened export has that no network and no clip can have."""
    clip = source.run.clip
    log_mel = source.run.config.log_mel
    positive = (clip.num_frames, clip.fps, clip.crop_size, clip.audio_secs)
    positive += (clip.log_mel_std, *clip.video_std)
    positive += (log_mel.sample_rate_hz, log_mel.fft_size, log_mel.num_filters)
    for value in (*positive, *log_mel, clip.log_mel_mean, *clip.video_mean):
        if not isinstance(value, int | float) or not math.isfinite(value):
            return f"has {value!a} among its numbers"
    if not all(0 < value < 1e7 for value in positive):
        return f"has {positive} where positive numbers of a usual size belong"
    if not set(source.run.streams) <= {"video", "audio", "video2", "audio2"}:
        return f"has streams {source.run.streams}"
    return ""


TARGETS = {"label tables": fuzz_label_tables, "export cards": fuzz_export_cards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="a new directory to work in")
    parser.add_argument("--num", type=int, default=2000, help="mutations of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = []
    for name, fuzz in TARGETS.items():
        folder = os.path.join(arguments.out, name.replace(" ", "_"))
        os.makedirs(folder)
        new_faults = fuzz(folder, num=arguments.num, seed=arguments.seed)
        print(
            f"{name}: {arguments.num} mutations, {len(new_faults)} faults", flush=True
        )
        faults += new_faults
    print("\n".join(faults[:100]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
