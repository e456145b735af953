"""The label table of one round: on disk, one label per example and clustering.

A round's directory holds

    labels.csv        example_index, video_id and one column of labels per clustering
    NAME.labels.npy   per clustering: its labels, int32, in a form that can be mapped
    NAME.npz          per clustering: centroids, sizes, inertia, preprocessing
    health.json       figures of the clusterings' health, if there are any
    settings.json     the settings that made them, and the SHA-256 of each file above
                      and of itself

and appears under its name only when complete. Nothing in it needs this project to be
read: CSV, JSON, and arrays without pickled objects. Whatever grows with the number of
examples is written, hashed and read in blocks.
"""

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data.dataset_info import NO_LABEL
from xdc_tf.runtime import arrays, files, json_files, outputs
from xdc_tf.runtime.arrays import Form

LABELS_FILE = "labels.csv"
HEALTH_FILE = "health.json"
SETTINGS_FILE = "settings.json"
INDEX_COLUMNS = ("example_index", "video_id")

_OPTIONAL_ARRAYS = ("pca_mean", "pca_projection", "offsets")
# What NAME.npz holds, of k clusters in the d dimensions of the preprocessed features.
_FORMS = {
    "centroids": Form("float32", ("k", "d")),
    "sizes": Form("int64", ("k",)),
    "inertia": Form("float64", ()),
    "normalize": Form("bool", ()),
    "pca_mean": Form("float32", ("D",), required=False),
    "pca_projection": Form("float32", ("D", "d"), required=False),
    "offsets": Form("float32", ("k",), required=False),
    # Where tables had them before the labels had a separate file.
    "labels": Form("int32", ("n",), required=False),
}
_RECORD_SHA256 = "record_sha256"  # of the other keys; older tables lack it
_REMEDY = "restore the directory from a copy or let the round write it again."


def clustering_name(source: str, head: int) -> str:
    """Name of one of a source's clusterings: SOURCE, SOURCE-1, SOURCE-2 and so on."""
    return source if head == 0 else f"{source}-{head}"


def head_of(name: str) -> int:
    """The number, from 0, of a clustering among those of its source."""
    return int(name.partition("-")[2] or 0)


def source_of(name: str) -> str:
    """The source of a clustering's name."""
    return name.partition("-")[0]


class Clustering(NamedTuple):
    """One clustering of all examples, and what labels further ones by it.

    Attributes:
      labels: [num_rows] int32 by example_index, -1 for an example without a label; a
        read-only map of the file when it comes from `read`.
      centroids: [k, d] float32, in the space of the preprocessed features.
      sizes: [k] int64, examples per cluster among those the centroids were fitted to.
      inertia: sum of squared distances of those examples to their centroids.
      normalize: whether features are scaled to length one (after the projection).
      pca_mean: [D] float32, or None without PCA-whitening.
      pca_projection: [D, d] float32, or None without PCA-whitening.
      offsets: [k] float32, in a balanced clustering what is subtracted from the squared
        distances to the centroids before the nearest is taken; None in any other.
      num_reseeded: empty clusters that the fit placed anew; not written.
    """

    labels: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    inertia: float
    normalize: bool = True
    pca_mean: np.ndarray | None = None
    pca_projection: np.ndarray | None = None
    offsets: np.ndarray | None = None
    num_reseeded: int = 0


class LabelTable(NamedTuple):
    """The clusterings of one round; `read_video_ids` says whose labels they are.

    Attributes:
      clusterings: by name; all have the same number of labels.
      settings: what made the clusterings, as JSON holds it.
    """

    clusterings: dict[str, Clustering]
    settings: dict[str, Any]


def write(
    round_dir: str | os.PathLike,
    *,
    clusterings: Mapping[str, Clustering],
    video_ids: Iterable[str],
    settings: Mapping[str, Any],
    health: Mapping[str, Any] | None = None,
) -> None:
    """Writes a round's directory, replacing one that is there.

    All files are on disk before the directory gets its name. A process killed in
    between leaves the former directory readable (see `read`), and hidden siblings that
    the next write removes. One process writes a round at a time.

    Args:
      round_dir: the directory to make; its parents are made if missing.
      clusterings: by name: letters, digits, `_` and `-`.
      video_ids: num_rows texts by example_index, empty for a row without an example;
        taken once, in order, and never held together.
      settings: JSON values: method, k, seed, round, library versions and so on.
      health: JSON values for `read_health`, or None.

    Raises:
      ValueError: labels that do not fit each other, `video_ids` or the centroids, an
        unusable name, or settings or health that JSON cannot hold.
    """
    _check(clusterings)
    texts = {} if health is None else {HEALTH_FILE: _json_text(health, "health")}
    _json_text(settings, "settings")
    with outputs.replacing(Path(round_dir)) as partial:
        for name, clustering in clusterings.items():
            arrays.write_labels(partial / _labels_array(name), clustering.labels)
            np.savez(partial / f"{name}.npz", **_small_arrays(clustering))
        _write_csv(partial / LABELS_FILE, clusterings, video_ids)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        sums = {path.name: files.sha256(path) for path in partial.iterdir()}
        record = _Record(dict(settings), list(clusterings), dict(sorted(sums.items())))
        values = record._asdict() | {_RECORD_SHA256: _record_sha256(record)}
        text = _json_text(values, "settings")
        (partial / SETTINGS_FILE).write_text(text, encoding="utf-8")


def read(round_dir: str | os.PathLike) -> LabelTable:
    """Reads what `write` wrote, after checking every file against its SHA-256.

    If a write was killed just before it named the new directory, the former one is
    read. Labels are maps of their files; these outlive a replacement of the directory.

    Raises:
      FileNotFoundError: no such directory, or a file of it is missing.
      ValueError: a file is damaged, or lengths do not match.
    """
    directory, record = _read_record(round_dir)
    _intact(directory, LABELS_FILE, record)
    if HEALTH_FILE in record.sha256:
        _intact(directory, HEALTH_FILE, record)
    clusterings = {
        name: _read_clustering(directory, name, record) for name in record.clusterings
    }
    _check(clusterings, source=f"{directory}: ")
    return LabelTable(clusterings, record.settings)


def read_settings(round_dir: str | os.PathLike) -> dict[str, Any]:
    """The settings that a round's labels were made with, without reading the labels.

    Raises:
      FileNotFoundError: no such directory, or its settings are missing.
      ValueError: its settings are damaged.
    """
    return _read_record(round_dir)[1].settings


def read_health(round_dir: str | os.PathLike) -> dict[str, Any]:
    """The figures of health that a round was written with; {} without any.

    Raises:
      FileNotFoundError: no such directory, or its settings or figures are missing.
      ValueError: its settings or figures are damaged.
    """
    directory, record = _read_record(round_dir)
    if HEALTH_FILE not in record.sha256:
        return {}
    return json_files.read_object(_intact(directory, HEALTH_FILE, record))


def read_video_ids(round_dir: str | os.PathLike) -> Iterator[str]:
    """The video ids by example_index, one by one, after checking labels.csv.

    Raises:
      FileNotFoundError: no such directory, or its settings or labels.csv are missing.
      ValueError: its settings or labels.csv are damaged; while iterating, on a line
        that is not of the next example.
    """
    directory, record = _read_record(round_dir)
    return _video_ids(_intact(directory, LABELS_FILE, record))


def _video_ids(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            if tuple(header[:2]) != INDEX_COLUMNS:
                raise ValueError(f"its columns are {str(header)[:80]}")
            for number, row in enumerate(rows):
                if len(row) != len(header) or row[0] != str(number):
                    raise ValueError(f"line {rows.line_num} is not of example {number}")
                yield row[1]
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: damaged ({error}); {_REMEDY}") from error


class _Record(NamedTuple):
    """The contents of SETTINGS_FILE; field names are its keys."""

    settings: dict[str, Any]
    clusterings: list[str]
    sha256: dict[str, str]  # by file name


def _read_record(round_dir: str | os.PathLike) -> tuple[Path, _Record]:
    """The directory to read from, and its record."""
    directory = outputs.existing(Path(round_dir))
    if directory is None:
        raise FileNotFoundError(
            f"{round_dir}: no such directory of labels; pass a directory such as "
            f"WORKDIR/labels/round_000 of a run that finished clustering."
        )
    path = _present(directory / SETTINGS_FILE)
    try:
        values = json_files.check(
            json_files.read_object(path),
            {
                "settings": json_files.is_object,
                "clusterings": json_files.list_of(json_files.is_text),
                "sha256": json_files.mapping_of(json_files.is_text),
            },
            SETTINGS_FILE,
        )
        record = _Record(*(values[key] for key in _Record._fields))
        for name in record.clusterings:
            _check_name(name)
        expected = _record_sha256(record)
        if values.get(_RECORD_SHA256, expected) != expected:
            raise ValueError(f"its keys have another SHA-256 than {_RECORD_SHA256}")
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); {_REMEDY}") from error
    return directory, record


def _record_sha256(record: _Record) -> str:
    # Through JSON, which makes texts of keys.
    text = json.dumps(json.loads(json.dumps(record)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _present(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing from the label table; {_REMEDY}")
    return path


def _intact(directory: Path, name: str, record: _Record) -> Path:
    """The path of a file, which is as it was written."""
    path = _present(directory / name)
    actual, expected = files.sha256(path), record.sha256.get(name)
    if actual != expected:
        raise ValueError(
            f"{path}: damaged, SHA-256 is {actual} but {SETTINGS_FILE} says "
            f"{expected}; {_REMEDY}"
        )
    return path


def _labels_array(name: str) -> str:
    return f"{name}.labels.npy"


def _small_arrays(clustering: Clustering) -> dict[str, Any]:
    values = {
        "centroids": np.asarray(clustering.centroids, np.float32),
        "sizes": np.asarray(clustering.sizes, np.int64),
        "inertia": np.float64(clustering.inertia),
        "normalize": np.bool_(clustering.normalize),
    }
    for name in _OPTIONAL_ARRAYS:
        if (value := getattr(clustering, name)) is not None:
            values[name] = np.asarray(value, np.float32)
    return values


def _read_clustering(directory: Path, name: str, record: _Record) -> Clustering:
    path = _intact(directory, f"{name}.npz", record)
    values = arrays.read_npz(path, _FORMS)
    labels = values.get("labels")
    if labels is None:
        labels = arrays.open_npy(_intact(directory, _labels_array(name), record))
    return Clustering(
        labels=labels,
        centroids=values["centroids"],
        sizes=values["sizes"],
        inertia=float(values["inertia"]),
        normalize=bool(values["normalize"]),
        pca_mean=values.get("pca_mean"),
        pca_projection=values.get("pca_projection"),
        offsets=values.get("offsets"),
    )


def _write_csv(
    path: Path, clusterings: Mapping[str, Clustering], video_ids: Iterable[str]
) -> None:
    lengths = {len(clustering.labels) for clustering in clusterings.values()}
    num_rows = lengths.pop() if lengths else None
    columns = [arrays.blocks(value.labels) for value in clusterings.values()]
    ids, done = iter(video_ids), 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*INDEX_COLUMNS, *clusterings])
        while block := list(itertools.islice(ids, arrays.BLOCK_ROWS)):
            rows = range(done, done + len(block))
            done = rows.stop
            if num_rows is not None and done > num_rows:
                break
            labels = [next(column).tolist() for column in columns]
            # Labels that are left over are too few ids, an error below.
            writer.writerows(zip(rows, block, *labels, strict=False))
    if num_rows not in (None, done):
        raise ValueError(
            f"{done if done < num_rows else 'more'} video ids for {num_rows} labels; "
            f"give every row of the manifest an id and a label, {NO_LABEL} where there "
            f"is none."
        )


def _check(clusterings: Mapping[str, Clustering], *, source: str = "") -> None:
    shapes = {name: value.labels.shape for name, value in clusterings.items()}
    num_rows = next(iter(shapes.values()), (0,))[:1]
    if any(shape != num_rows for shape in shapes.values()):
        raise ValueError(
            f"{source}clusterings have labels of shapes {shapes}; give each one label "
            f"per row of the manifest, {NO_LABEL} where there is none."
        )
    for name, clustering in clusterings.items():
        _check_name(name)
        where, num_clusters = f"{source}clustering {name!r}", len(clustering.centroids)
        for key in ("sizes", "offsets"):
            values = getattr(clustering, key)
            if values is not None and len(values) != num_clusters:
                raise ValueError(
                    f"{where} has {len(values)} {key} for {num_clusters} centroids; "
                    f"take both from the same fit."
                )
        if np.any(np.less(clustering.sizes, 0)) or clustering.inertia < 0:
            raise ValueError(
                f"{where} has negative sizes or inertia; take both from the same fit."
            )
        _check_labels(clustering.labels, num_clusters, where)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in INDEX_COLUMNS:
        raise ValueError(
            f"clustering {name!r} cannot name a file and a column; use letters, "
            f"digits, _ and -, and none of {', '.join(INDEX_COLUMNS)}."
        )


def _check_labels(labels: np.ndarray, num_clusters: int, where: str) -> None:
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{where} has labels of {labels.dtype}; give integers.")
    bad = arrays.first_outside(labels, range(NO_LABEL, num_clusters))
    if bad is not None:
        raise ValueError(
            f"{where} gives example {bad} the label {labels[bad]}, but there are "
            f"{num_clusters} centroids; labels are {NO_LABEL} to {num_clusters - 1}."
        )


def _json_text(values: Mapping[str, Any], what: str) -> str:
    try:
        return json.dumps(dict(values), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what} cannot be written as JSON ({error}); pass finite numbers, text, "
            f"lists and dicts."
        ) from error
