"""The label table of one round: on disk, one label per example and clustering.

A round's directory holds

    labels.csv       example_index, video_id and one column of labels per clustering
    NAME.npz         per clustering: labels, centroids, sizes, inertia, preprocessing
    settings.json    the settings that made them, and the SHA-256 of each file above

and appears under its name only when complete. Nothing in it needs this project to be
read: CSV, JSON, and arrays without pickled objects.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NO_LABEL = -1
LABELS_FILE = "labels.csv"
SETTINGS_FILE = "settings.json"
INDEX_COLUMNS = ("example_index", "video_id")


class Clustering(NamedTuple):
    """One clustering of all examples, and what labels further ones by it.

    Attributes:
      labels: [num_rows] int32 by example_index, -1 for an example without a label.
      centroids: [k, d] float32, in the space of the preprocessed features.
      sizes: [k] int64, examples per cluster among those the centroids were fitted to.
      inertia: sum of squared distances of those examples to their centroids.
      normalize: whether features are scaled to length one (after the projection).
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.
    """

    labels: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    inertia: float
    normalize: bool = True
    pca_mean: np.ndarray | None = None
    pca_projection: np.ndarray | None = None


class LabelTable(NamedTuple):
    """The clusterings of one round.

    Attributes:
      clusterings: by name; all labels have the length of `video_ids`.
      video_ids: by example_index, empty for a row without an example.
      settings: what made the clusterings, as JSON holds it.
    """

    clusterings: dict[str, Clustering]
    video_ids: list[str]
    settings: dict[str, Any]


def write(
    round_dir: str | os.PathLike,
    *,
    clusterings: Mapping[str, Clustering],
    video_ids: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Writes a round's directory, replacing one that is there.

    All files are on disk before the directory gets its name. A process killed in
    between leaves the former directory readable (see `read`), and hidden siblings that
    the next write removes. One process writes a round at a time.

    Args:
      round_dir: the directory to make; its parents are made if missing.
      clusterings: by name: letters, digits, `_` and `-`.
      video_ids: [num_rows] by example_index.
      settings: JSON values: method, k, seed, round, library versions and so on.

    Raises:
      ValueError: labels that do not fit `video_ids` or the centroids, an unusable name,
        or settings that JSON cannot hold.
    """
    for name, clustering in clusterings.items():
        _check(name, clustering, num_rows=len(video_ids))
    files = {f"{name}.npz": _npz_bytes(value) for name, value in clusterings.items()}
    files[LABELS_FILE] = _csv_bytes(clusterings, video_ids)
    files[SETTINGS_FILE] = _settings_bytes(settings, files, list(clusterings))
    _replace_directory(Path(round_dir), files)


def read(round_dir: str | os.PathLike) -> LabelTable:
    """Reads what `write` wrote, after checking every file against its SHA-256.

    If a write was killed just before it named the new directory, the former one is
    read.

    Raises:
      FileNotFoundError: no such directory, or a file of it is missing.
      ValueError: a file is damaged, or lengths do not match.
    """
    directory, names, checksums, settings = _read_record(round_dir)
    files = {}
    for name in (LABELS_FILE, *(f"{name}.npz" for name in names)):
        files[name] = _bytes_of(directory / name)
        found = hashlib.sha256(files[name]).hexdigest()
        if found != checksums.get(name):
            raise ValueError(
                f"{directory / name}: damaged, SHA-256 is {found} but {SETTINGS_FILE} "
                f"says {checksums.get(name)}; {_REMEDY}"
            )
    text = io.StringIO(files[LABELS_FILE].decode(), newline="")
    video_ids = [row["video_id"] for row in csv.DictReader(text)]
    clusterings = {name: _from_npz(files[f"{name}.npz"]) for name in names}
    for name, clustering in clusterings.items():
        _check(name, clustering, num_rows=len(video_ids), source=f"{directory}: ")
    return LabelTable(clusterings, video_ids, settings)


def read_settings(round_dir: str | os.PathLike) -> dict[str, Any]:
    """The settings that a round's labels were made with, without reading the labels.

    Raises:
      FileNotFoundError: no such directory, or its settings are missing.
      ValueError: its settings are damaged.
    """
    return _read_record(round_dir)[3]


def _read_record(
    round_dir: str | os.PathLike,
) -> tuple[Path, list[str], dict[str, str], dict[str, Any]]:
    """The directory to read from, and what SETTINGS_FILE says in it."""
    directory = Path(round_dir)
    if not directory.is_dir():
        directory = _sibling(Path(round_dir), "previous")
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{round_dir}: no such directory of labels; pass a directory such as "
            f"WORKDIR/labels/round_000 of a run that finished clustering."
        )
    path = directory / SETTINGS_FILE
    try:
        record = json.loads(_bytes_of(path))
        names, checksums = list(record["clusterings"]), dict(record["sha256"])
        return directory, names, checksums, dict(record["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); {_REMEDY}") from error


_REMEDY = "restore the directory from a copy or let the round write it again."


def _check(
    name: str, clustering: Clustering, *, num_rows: int, source: str = ""
) -> None:
    where = f"{source}clustering {name!r}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in INDEX_COLUMNS:
        raise ValueError(
            f"{where} cannot name a file and a column; use letters, digits, _ and -, "
            f"and none of {', '.join(INDEX_COLUMNS)}."
        )
    shape = np.shape(clustering.labels)
    if shape != (num_rows,):
        raise ValueError(
            f"{where} has labels of shape {shape} for {num_rows} video ids; give "
            f"every row of the manifest one label, {NO_LABEL} where there is none."
        )
    num_clusters = len(clustering.centroids)
    if len(clustering.sizes) != num_clusters:
        raise ValueError(
            f"{where} has {len(clustering.sizes)} sizes for {num_clusters} centroids; "
            f"take both from the same fit."
        )
    labels = np.asarray(clustering.labels)
    bad = np.flatnonzero((labels < NO_LABEL) | (labels >= num_clusters))
    if bad.size:
        raise ValueError(
            f"{where} gives example {bad[0]} the label {labels[bad[0]]}, but there are "
            f"{num_clusters} centroids; labels are {NO_LABEL} to {num_clusters - 1}."
        )


def _npz_bytes(clustering: Clustering) -> bytes:
    arrays = {
        "labels": np.asarray(clustering.labels, np.int32),
        "centroids": np.asarray(clustering.centroids, np.float32),
        "sizes": np.asarray(clustering.sizes, np.int64),
        "inertia": np.float64(clustering.inertia),
        "normalize": np.bool_(clustering.normalize),
    }
    for name in ("pca_mean", "pca_projection"):
        if (value := getattr(clustering, name)) is not None:
            arrays[name] = np.asarray(value, np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _from_npz(content: bytes) -> Clustering:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Clustering(
            labels=arrays["labels"],
            centroids=arrays["centroids"],
            sizes=arrays["sizes"],
            inertia=float(arrays["inertia"]),
            normalize=bool(arrays["normalize"]),
            pca_mean=arrays.get("pca_mean"),
            pca_projection=arrays.get("pca_projection"),
        )


def _csv_bytes(
    clusterings: Mapping[str, Clustering], video_ids: Sequence[str]
) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*INDEX_COLUMNS, *clusterings])
    columns = [np.asarray(value.labels).tolist() for value in clusterings.values()]
    writer.writerows(zip(range(len(video_ids)), video_ids, *columns, strict=True))
    return text.getvalue().encode()


def _settings_bytes(
    settings: Mapping[str, Any], files: Mapping[str, bytes], names: list[str]
) -> bytes:
    sums = {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    record = {"settings": dict(settings), "clusterings": names, "sha256": sums}
    try:
        return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings cannot be written as JSON ({error}); pass finite numbers, text, "
            f"lists and dicts."
        ) from error


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing from the label table; {_REMEDY}")
    return path.read_bytes()


def _sibling(directory: Path, kind: str) -> Path:
    return directory.parent / f".{directory.name}.{kind}"


def _replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Puts a complete directory in place, by way of siblings on the same file system.

    A directory with files in it cannot be replaced in one step, so the former one is
    renamed first; until the new one has its name, `read` finds it there.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(directory, "partial")
    previous = _sibling(directory, "previous")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, content in files.items():
        with open(partial / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _fsync_directory(partial)
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(directory, previous)
    os.rename(partial, directory)
    _fsync_directory(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
