"""Manifest CSV -> validated rows.

Columns: `path` (relative to the manifest's folder, or absolute), and optionally
`start_secs`, `end_secs` (a segment of the file; empty for its start or end) and
`label` (text; empty for none), or in its place `labels`, of which a row may have
several (`dog|rain`). A row's number, from 0, is its example index for good.
Paths are taken as they are: spaces, quotes, line breaks, dashes and `..` are part of a
name. A manifest and what it names may be remote.
"""

import array
import csv
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from data_prep import remote_files
from xdc_tf.data import label_texts

COLUMNS = ("path", "start_secs", "end_secs", "label")
# In place of the last one, for rows of several labels.
SEVERAL = "labels"
COLUMNS_OF_SEVERAL = (*COLUMNS[:-1], SEVERAL)
# Beside a manifest: the labels of all splits of its data set.
LABELS_FILE = "labels.txt"
# Ten million rows, which is more than the memory for them.
_MOST_MANIFEST_BYTES = 1 << 30
_MOST_LABELS_BYTES = 1 << 26
# Thirty years, which FFmpeg's microseconds hold.
_MOST_SECS = 1e9


class ManifestRow(NamedTuple):
    """One video, or one segment of a video."""

    example_index: int
    path: str  # as written in the manifest
    file: str  # where it lies
    video_id: str  # unique: the path, plus #t=start,end for a segment
    start_secs: float
    end_secs: float | None  # None: to the end of the file
    label: str  # "" for none; several as label_texts.join has them


class Manifest(NamedTuple):
    """A validated manifest."""

    sha256: str  # of the file's bytes
    rows: tuple[ManifestRow, ...]
    label_names: tuple[str, ...]  # of the labels' file, or sorted, over all rows
    several_labels: bool = False  # whether a row may have several


def read_manifest(path: str, *, labels: str | None = None) -> Manifest:
    """Reads and checks a manifest; the files it names are not looked at.

    Args:
        path: the CSV file, UTF-8 with a header line; local or remote.
        labels: file of label names, one a line; None for LABELS_FILE beside the
            manifest if there is one, and else for the names in the manifest, sorted.

    Returns:
        Its rows in order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a wrong header or row, with file, line, value and remedy; or what
            is no regular file, or a huge one.
    """
    if not remote_files.exists(path):
        raise FileNotFoundError(
            f"manifest {path} does not exist; give a CSV file with the columns "
            f"{','.join(COLUMNS)} (all but path optional)."
        )
    content = remote_files.read_bytes(path, limit_bytes=_MOST_MANIFEST_BYTES)
    # Spreadsheet programs put a byte order mark in front.
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, strict=True)
    try:
        _check_columns(path, reader.fieldnames or [])
        several = SEVERAL in (reader.fieldnames or [])
        rows = _read_rows(path, reader)
        names = _label_names(path, rows, labels, several=several)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it so.") from error
    except csv.Error as error:
        raise ValueError(
            f"{path} line {reader.reader.line_num}: {error}; quotes in a value are "
            "doubled, and those around it close."
        ) from error
    if not rows:
        raise ValueError(f"{path} has no rows below its header; add one per video.")
    return Manifest(
        sha256=hashlib.sha256(content).hexdigest(),
        rows=tuple(rows),
        label_names=names,
        several_labels=several,
    )


def _read_rows(path: str, reader: csv.DictReader) -> list[ManifestRow]:
    whole_path = path if remote_files.is_remote(path) else os.path.abspath(path)
    folder = os.path.dirname(whole_path)
    rows: list[ManifestRow] = []
    # Places by hashes take a third of the memory of lines by what is hashed.
    places: dict[int, int] = {}
    lines = array.array("q")
    for values in reader:
        where = f"{path} line {reader.line_num}"
        row = _read_row(where, values, len(rows), folder)
        place = places.setdefault(hash(_segment(row)), len(rows))
        if place < len(rows) and _segment(rows[place]) == _segment(row):
            raise ValueError(
                f"{where}: {row.video_id} is already on line {lines[place]}; remove "
                "one of them."
            )
        rows.append(row)
        lines.append(reader.line_num)
    return rows


def _segment(row: ManifestRow) -> tuple[str, float, float | None]:
    return row.file, row.start_secs, row.end_secs


def _label_names(
    path: str, rows: Sequence[ManifestRow], labels: str | None, *, several: bool
) -> tuple[str, ...]:
    used = {
        name for row in rows for name in label_texts.split(row.label, several=several)
    }
    beside = os.path.join(os.path.dirname(path), LABELS_FILE)
    if labels is None and not remote_files.exists(beside):
        return tuple(sorted(used))
    file = labels or beside
    if not remote_files.exists(file):
        raise FileNotFoundError(
            f"file of labels {file} does not exist; give one with a name a line."
        )
    try:
        content = remote_files.read_bytes(file, limit_bytes=_MOST_LABELS_BYTES)
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}); save it so.") from error
    names = [line for line in lines if line]
    unknown = sorted(used - set(names))
    if unknown or len(set(names)) != len(names):
        raise ValueError(
            f"{path} has the labels {unknown[:5]}, which {file} lacks, or that file "
            "has a name twice; complete it with names that are on no other line, or "
            "move it away."
        )
    return tuple(names)


def _check_columns(path: str, columns: Sequence[str]) -> None:
    expected = (
        f"the columns are {','.join(COLUMNS)} (all but path optional), or {SEVERAL} in "
        "place of the last, with several labels in a row"
    )
    if "path" not in columns:
        raise ValueError(
            f"{path} line 1: no column 'path' among {columns}; {expected}."
        )
    # A misspelt start_secs would otherwise convert whole files without a word.
    known = COLUMNS_OF_SEVERAL if SEVERAL in columns else COLUMNS
    unknown = [column for column in columns if column not in known]
    if unknown or len(set(columns)) != len(columns):
        raise ValueError(
            f"{path} line 1: unknown or repeated columns in {columns}; {expected}."
        )


def _read_row(
    where: str, values: dict[str, str], example_index: int, folder: str
) -> ManifestRow:
    if None in values or None in values.values():
        raise ValueError(
            f"{where}: not as many values as the header has columns; quote values "
            "that contain commas."
        )
    path = values["path"]
    if not path.strip():
        raise ValueError(f"{where}: path is empty; name a video file or drop the row.")
    if "\0" in path:
        raise ValueError(f"{where}: path={path!r} holds a NUL, which no name can.")
    start_secs = _read_secs(where, "start_secs", values.get("start_secs", ""))
    end_secs = _read_secs(where, "end_secs", values.get("end_secs", ""))
    if end_secs is not None and end_secs <= (start_secs or 0.0):
        raise ValueError(
            f"{where}: end_secs={end_secs} is not after start_secs={start_secs or 0.0}."
        )
    label = values.get(SEVERAL, values.get("label", "")).strip()
    try:
        names = label_texts.split(label, several=SEVERAL in values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    return ManifestRow(
        example_index=example_index,
        path=path,
        file=_locate(folder, path),
        video_id=video_id(path, start_secs, end_secs),
        start_secs=start_secs or 0.0,
        end_secs=end_secs,
        label=sys.intern(label_texts.SEPARATOR.join(names)),
    )


def _locate(folder: str, path: str) -> str:
    if remote_files.is_remote(path):
        return path
    if remote_files.is_remote(folder) and not os.path.isabs(path):
        return f"{folder}/{path}"
    return os.path.normpath(os.path.join(folder, path))


def _read_secs(where: str, column: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        secs = float(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: {column}={text!r} is not a number of seconds."
        ) from error
    if not 0 <= secs <= _MOST_SECS:
        raise ValueError(
            f"{where}: {column}={text!r} must be from 0 to {_MOST_SECS:g}."
        )
    return secs


def video_id(path: str, start_secs: float | None, end_secs: float | None) -> str:
    """The path; of a segment, with its times as a W3C media fragment."""
    if start_secs is None and end_secs is None:
        return path
    name = f"{path}#t={_format_secs(start_secs or 0.0)}"
    return name if end_secs is None else f"{name},{_format_secs(end_secs)}"


def _format_secs(secs: float) -> str:
    return f"{secs:.6f}".rstrip("0").rstrip(".")
