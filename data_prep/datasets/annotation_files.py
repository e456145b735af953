"""Annotation files of data sets, which may be a stranger's: opening, lines, values."""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator
from typing import TextIO

from xdc_tf.runtime import files

# Of an annotation file; AudioSet's largest has 100 MB.
_MOST_BYTES = 1 << 30


def check_split(split: str | None, splits: Iterable[str], *, dataset: str) -> str:
    """The name of a split, checked.

    Raises:
        ValueError: the data set has no such split; names those that it has.
    """
    if split is None or split not in splits:
        raise ValueError(
            f"--split={split} is no split of {dataset}; it has {', '.join(splits)}."
        )
    return split


def annotation_file(annotations: str, *names: str) -> str:
    """The first of some files that a directory holds.

    Raises:
        FileNotFoundError: it holds none of them.
    """
    for name in names:
        path = os.path.join(annotations, name)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(
        f"--annotations={annotations} holds no {' or '.join(names)}; give the "
        "directory that does."
    )


def open_annotations(
    path: str, *, newline: str | None = None, errors: str | None = None
) -> TextIO:
    """Opens an annotation file, which may be a stranger's, like `open`.

    Raises:
        ValueError: it is no regular file, or a huge one.
    """
    file = files.open_regular(path)
    num_bytes = os.fstat(file.fileno()).st_size
    if num_bytes > _MOST_BYTES:
        file.close()
        raise ValueError(
            f"{path} has {num_bytes >> 20} MiB, the limit is {_MOST_BYTES >> 20}; give "
            "the data set's annotation files."
        )
    return io.TextIOWrapper(file, "utf-8-sig", errors=errors, newline=newline)


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """Reads a list, whatever its line ends.

    Yields:
        File and line number, as text for messages, and the line without surrounding
        spaces; no empty ones.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        with open_annotations(path) as file:
            for number, line in enumerate(file, start=1):
                line = line.strip()
                if line:
                    yield f"{path} line {number}", line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it so.") from error


def read_values(path: str, *, num_values: int) -> Iterator[tuple[str, list[str]]]:
    """Reads a CSV file without a header, past lines that start with `#`.

    Yields:
        File and line number, as text for messages, and a line's values without
        surrounding spaces.

    Raises:
        ValueError: a line has another number of values, or the file is not UTF-8.
    """
    for where, values in _read_csv(path):
        if values[0].startswith("#"):
            continue
        if len(values) != num_values:
            raise ValueError(
                f"{where}: {len(values)} values instead of {num_values}: {values}; "
                "quote values that contain commas."
            )
        yield where, values


def read_table(
    path: str, *, columns: Iterable[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a CSV file with a header.

    Args:
        path: the file.
        columns: that it must have; it may have others.

    Yields:
        File and line number, as text for messages, and a line's values by column.

    Raises:
        ValueError: it lacks a column, a line has another number of values than the
            header, or the file is not UTF-8.
    """
    rows = _read_csv(path)
    _, header = next(rows, (path, []))
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise ValueError(
            f"{path} line 1: no column {', '.join(lacking)} in the header {header}; "
            "give the data set's own file."
        )
    for where, values in rows:
        if len(values) != len(header):
            raise ValueError(
                f"{where}: {len(values)} values for the {len(header)} columns "
                f"{header}: {values}; quote values that contain commas."
            )
        yield where, dict(zip(header, values, strict=True))


def _read_csv(path: str) -> Iterator[tuple[str, list[str]]]:
    try:
        with open_annotations(path, newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for values in reader:
                if values:
                    where = f"{path} line {reader.line_num}"
                    yield where, [value.strip() for value in values]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it so.") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}.") from error


def read_secs(text: str, *, where: str) -> float:
    """A number of seconds.

    Raises:
        ValueError: it is none, negative or not finite.
    """
    try:
        secs = float(text)
    except ValueError:
        secs = math.nan
    if not (math.isfinite(secs) and secs >= 0):
        raise ValueError(
            f"{where}: {text!r} is not a number of seconds; correct the line."
        )
    return secs


def read_segment(start: str, end: str, *, where: str) -> tuple[float, float]:
    """Start and end in seconds.

    Raises:
        ValueError: see read_secs; or the end is not after the start.
    """
    start_secs, end_secs = read_secs(start, where=where), read_secs(end, where=where)
    if end_secs <= start_secs:
        raise ValueError(
            f"{where}: the end {end} is not after the start {start}; correct the line."
        )
    return start_secs, end_secs


def check_inside(path: str, *, where: str) -> None:
    """Checks that an annotated path, or video id, cannot lead out of the root.

    Raises:
        ValueError: it is absolute or has a `..`.
    """
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError(
            f"{where}: {path!r} leads out of the root; name a file below it, or remove "
            "the line."
        )
