"""Names that people gave to clusters, and the data set that the names label.

The file is what the cluster pages export (docs/cluster_pages.md): CSV with the columns
source, round, cluster, name, junk (1 or 0), merged_into (the number of a cluster).
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from xdc_tf.data import example_tables
from xdc_tf.inference.new_videos import Row
from xdc_tf.runtime import files

COLUMNS = ("source", "round", "cluster", "name", "junk", "merged_into")
_MANIFEST_COLUMNS = ("path", "start_secs", "end_secs", "label")
_MOST_DIGITS = 9


class _Entry(NamedTuple):
    """A row of the file: what was decided about a cluster.

    Attributes:
      where: the file and line, for errors.
      name: "" for none.
      junk: whether its videos are to have no name.
      merged_into: the cluster whose name it takes; None for its own.
    """

    where: str
    name: str
    junk: bool
    merged_into: int | None


def read_names(
    path: str, *, round_index: int, num_clusters: Mapping[str, int]
) -> dict[str, list[str]]:
    """The name of each cluster of a round.

    Args:
      path: of the CSV.
      round_index: whose clusters the names have to be of; rows of others are left out.
      num_clusters: of each clustering of the round, by name.

    Returns:
      By clustering a name for each cluster: its own, or that of the one it is merged
      into; "" for one without a name, and for junk.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it has other columns, a bad value, a clustering or cluster that the
        round has not, a cluster twice, merges that lead in a circle, or no row of the
        round.
    """
    entries: dict[str, dict[int, _Entry]] = {name: {} for name in num_clusters}
    other_rounds = set()
    for where, values in _read_rows(path):
        source, entry_round = values["source"], _whole_number(where, values, "round")
        if entry_round != round_index:
            other_rounds.add(entry_round)
            continue
        if source not in num_clusters:
            raise ValueError(
                f"{where}: the run has no clustering {source[:80]!r}, but "
                f"{', '.join(num_clusters)}; give the names of this run."
            )
        cluster = _whole_number(where, values, "cluster")
        entry = _entry(where, values)
        for number in (cluster, entry.merged_into or 0):
            if number >= num_clusters[source]:
                raise ValueError(
                    f"{where}: {source} of round {round_index} has the clusters 0 to "
                    f"{num_clusters[source] - 1}, and none {number}."
                )
        if cluster in entries[source]:
            raise ValueError(
                f"{where}: {source} {cluster} is named above already; remove a line."
            )
        entries[source][cluster] = entry
    if not any(entries.values()):
        rounds = ", ".join(map(str, sorted(other_rounds))) or "no round"
        raise ValueError(
            f"{path} names clusters of {rounds}, and the run's finished encoders have "
            f"those of round {round_index}; name clusters of this round."
        )
    return {
        source: [_name(entries[source], cluster) for cluster in range(number)]
        for source, number in num_clusters.items()
    }


def _read_rows(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row is, and its cells by column; further columns are left out."""
    text = files.read_text(path).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}; give the CSV that the "
                "cluster pages export."
            )
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if not values:
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"{where}: {len(values)} values, and the header has {len(header)}."
                )
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _entry(where: str, values: Mapping[str, str]) -> _Entry:
    junk, merged = values["junk"].strip(), values["merged_into"].strip()
    if junk not in ("", "0", "1"):
        raise ValueError(f"{where}: junk is {junk[:80]!r}, and must be 0 or 1.")
    merged_into = _whole_number(where, values, "merged_into") if merged else None
    return _Entry(where, values["name"].strip(), junk == "1", merged_into)


def _whole_number(where: str, values: Mapping[str, str], column: str) -> int:
    text = values[column].strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ValueError(f"{where}: {column} is {text[:80]!r}, not a whole number.")
    return int(text)


def _name(entries: Mapping[int, _Entry], cluster: int) -> str:
    """Follows merges from a cluster to the one that names it."""
    passed = set()
    while entry := entries.get(cluster):
        if entry.junk:
            return ""
        if entry.merged_into is None:
            return entry.name
        if cluster in passed:
            raise ValueError(
                f"{entry.where}: the merges of cluster {cluster} lead back to it; "
                "leave one without merged_into."
            )
        passed.add(cluster)
        cluster = entry.merged_into
    return ""


def choose_source(names: Mapping[str, Sequence[str]], source: str | None) -> str:
    """The clustering whose names become labels.

    Args:
      names: of read_names.
      source: the one asked for; None for the only one that has names.

    Raises:
      ValueError: it has no name, or None was given and not exactly one has.
    """
    named = [name for name, of_clusters in names.items() if any(of_clusters)]
    if source is None and len(named) == 1:
        return named[0]
    if source not in named:
        given = "is not given" if source is None else f"is {source[:80]!r}"
        raise ValueError(
            f"--label_source {given}, and the clusterings with names are: "
            f"{', '.join(named) or 'none'}; choose one of these."
        )
    return source


def write_manifest(
    path: str, rows: Sequence[Row], labels: Sequence[str], *, folder: str
) -> int:
    """Writes a manifest of the rows that have a label, for data_prep.convert.

    Args:
      path: of the CSV to make.
      rows: of videos; quarantined ones are left out.
      labels: of each row, "" for one that is left out.
      folder: what relative paths of rows are relative to, absolute or an address; ""
        to keep them as they are.

    Returns:
      How many rows were written.
    """
    labelled = [
        (
            row.path if "://" in row.path else os.path.join(folder, row.path),
            *(("", "") if row.video_id == row.path else (row.start_secs, row.end_secs)),
            label,
        )
        for row, label in zip(rows, labels, strict=True)
        if label and not row.reason
    ]
    example_tables.write_csv(path, _MANIFEST_COLUMNS, labelled)
    return len(labelled)
