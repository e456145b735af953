"""Clips of a data set -> manifest, labels.txt, and reports beside them."""

import collections
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from data_prep.datasets.annotation_files import open_annotations
from data_prep.datasets.media_files import Clips, Row
from data_prep.manifest import COLUMNS, COLUMNS_OF_SEVERAL, LABELS_FILE
from xdc_tf.data import example_tables, label_texts
from xdc_tf.runtime import files

_SUFFIX = ".csv"
# What a manifest's lines cannot hold, and what stands for bytes that are not UTF-8.
_BAD_NAME = re.compile("[\0\r\n\ud800-\udfff]")


class Written(NamedTuple):
    """What was written; counts are of rows unless they say otherwise."""

    manifest: str
    num_rows: int
    num_without_label: int
    num_with_several: int  # in all_labels_file, of a data set of one label per clip
    num_repeated: int  # annotated again, and left out
    num_missing: int  # clips, listed in missing_file
    labels_file: str
    num_labels: int  # label names in labels_file
    all_labels_file: str
    missing_file: str
    others: tuple[str, ...]  # files that are no media by their names, and left out


def check_out(out: str) -> None:
    """Checks where a manifest is to be written, before the work.

    Raises:
        ValueError: it is not a local file NAME.csv, or there is a CSV file of another
            kind, such as the annotations themselves.
    """
    if "://" in out or not out.endswith(_SUFFIX):
        raise ValueError(f"--out={out} must be a local file that ends in {_SUFFIX}.")
    if os.path.exists(out):
        with open_annotations(out, errors="replace") as file:
            header = file.readline().strip()
        if header not in (",".join(COLUMNS), ",".join(COLUMNS_OF_SEVERAL)):
            raise ValueError(
                f"--out={out} is there and no manifest, its first line is {header!r}; "
                "give another name."
            )


def write_manifest(out: str, clips: Clips, *, root: str, trimmed: bool) -> Written:
    """Writes a manifest, each file whole or not at all.

    Beside it are written, or removed if they are of an earlier run and nothing is to be
    said: NAME.missing.csv, and NAME.all_labels.csv if a row has several labels in a
    data set of one label per clip. The manifest holds no label for such a row. Of a
    data set of several labels per clip the manifest has the column `labels`.

    Args:
        out: NAME.csv, see check_out; its directory is made.
        clips: those of the split.
        root: the directory that the clips' files are relative to.
        trimmed: whether to leave times out, as files hold just their segment.

    Raises:
        FileNotFoundError: no clip was found.
        ValueError: a file's name cannot be written; or labels.txt is there and lacks a
            label, or is no sorted list; or one of several labels holds what stands
            between them.
    """
    if not clips.rows:
        raise FileNotFoundError(_no_clips_text(clips, root))
    directory = os.path.dirname(os.path.abspath(out))
    os.makedirs(directory, exist_ok=True)
    prefix = os.path.relpath(root, directory)
    rows = [
        row._replace(file=_path_in_manifest(prefix, row.file))
        for row in _merge(clips.rows, with_times=not trimmed)
    ]
    labels_file = os.path.join(os.path.dirname(out), LABELS_FILE)
    written = Written(
        manifest=out,
        num_rows=len(rows),
        num_without_label=sum(not _label_text(row.labels, clips) for row in rows),
        num_with_several=(
            0 if clips.several_labels else sum(len(row.labels) > 1 for row in rows)
        ),
        num_repeated=len(clips.rows) - len(rows),
        num_missing=len(clips.missing),
        labels_file=labels_file,
        num_labels=len(_common_labels(labels_file, clips)),
        all_labels_file=out.removesuffix(_SUFFIX) + ".all_labels.csv",
        missing_file=out.removesuffix(_SUFFIX) + ".missing.csv",
        others=clips.others,
    )
    _write_or_remove(
        written.missing_file,
        ("name", "label"),
        ((clip.name, _label_text(clip.labels, clips)) for clip in clips.missing),
        needed=written.num_missing > 0,
    )
    _write_or_remove(
        written.all_labels_file,
        ("path", "start_secs", "label"),
        ((row.file, row.start_secs, label) for row in rows for label in row.labels),
        needed=written.num_with_several > 0,
    )
    lines = ((*row[:3], _label_text(row.labels, clips)) for row in rows)
    columns = COLUMNS_OF_SEVERAL if clips.several_labels else COLUMNS
    example_tables.write_csv(out, columns, lines)
    return written


def describe(written: Written) -> str:
    """What was written, a line for each file."""
    lines = [f"{written.manifest}: {written.num_rows} rows"]
    if written.num_repeated:
        lines[0] += f", {written.num_repeated} repeated annotations left out"
    if written.num_without_label:
        lines[0] += f", {written.num_without_label} without a label"
    if written.num_with_several:
        lines.append(
            f"{written.all_labels_file}: all labels of all rows; "
            f"{written.num_with_several} with several have none in the manifest, as "
            "this data set has one per clip"
        )
    if written.num_labels:
        lines.append(f"{written.labels_file}: {written.num_labels} labels")
    if written.num_missing:
        lines.append(
            f"{written.missing_file}: {written.num_missing} annotated clips not found"
        )
    if written.others:
        lines.append(f"left out, no media by their names: {count(written.others)}")
    return "\n".join(lines)


def count(others: Sequence[str]) -> str:
    """Files by their suffixes: "7 files (4 .txt, 3 without suffix), such as a.txt"."""
    suffixes = collections.Counter(
        os.path.splitext(file)[1].lower() or "without suffix" for file in others
    )
    kinds = [f"{number} {suffix}" for suffix, number in suffixes.most_common(10)]
    if len(suffixes) > len(kinds):
        kinds.append(f"{len(suffixes) - len(kinds)} more suffixes")
    return f"{len(others)} files ({', '.join(kinds)}), such as {others[0]}"


def _no_clips_text(clips: Clips, root: str) -> str:
    if clips.others and not clips.missing:
        return (
            f"--root={root} holds no media by their names, but {count(clips.others)}; "
            "give the media's directory, or name the files in a manifest."
        )
    if not clips.missing:
        return f"--root={root} holds no clip of this split; give the media's directory."
    return (
        f"--root={root} holds none of the split's {len(clips.missing)} annotated "
        f"clips; the first of them is {clips.missing[0].name}, where any media suffix "
        "would do. Give the directory above the media."
    )


def _merge(rows: Iterable[Row], *, with_times: bool) -> list[Row]:
    """Unites the labels of rows of one segment: manifests name each one once."""
    labels_of_segment: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for row in rows:
        times = (row.start_secs, row.end_secs) if with_times else (None, None)
        segment = (row.file, *times)
        labels = labels_of_segment.get(segment, ()) + row.labels
        labels_of_segment[segment] = tuple(dict.fromkeys(labels))
    return [
        Row(file, start_secs, end_secs, labels)
        for (file, start_secs, end_secs), labels in labels_of_segment.items()
    ]


def _path_in_manifest(prefix: str, file: str) -> str:
    if _BAD_NAME.search(file):
        raise ValueError(
            f"the name {file!r} holds a line break or bytes that are not UTF-8; rename "
            "the file."
        )
    return file if prefix == os.curdir else f"{prefix}/{file}"


def _common_labels(path: str, clips: Clips) -> list[str]:
    """Label names of all splits: those of the file or, without one, of the data set."""
    names = {label for clip in clips.rows + clips.missing for label in clip.labels}
    if not os.path.exists(path):
        common = sorted(names.union(clips.label_names))
        if common:
            files.write_text(path, "".join(f"{name}\n" for name in common))
        return common
    common = [line for line in files.read_text(path).splitlines() if line]
    if common != sorted(set(common)):
        raise ValueError(
            f"{path} is not a sorted list of different labels, as this command writes "
            "it; give --out in another directory, or remove that file."
        )
    foreign = sorted(names.difference(common))
    if foreign:
        raise ValueError(
            f"{path} lacks the label {foreign[0]!r} of this split ({len(foreign)} in "
            f"all); give --out in another directory, or remove {LABELS_FILE} and make "
            "the manifests of all splits again."
        )
    return common


def _label_text(labels: tuple[str, ...], clips: Clips) -> str:
    """What the manifest says of a clip's labels."""
    if clips.several_labels:
        return label_texts.join(labels)
    return labels[0] if len(labels) == 1 else ""


def _write_or_remove(
    path: str, columns: Iterable[str], rows: Iterable[Iterable], *, needed: bool
) -> None:
    if needed:
        example_tables.write_csv(path, columns, rows)
    elif os.path.exists(path):
        os.remove(path)
