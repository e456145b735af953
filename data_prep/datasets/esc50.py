"""ESC-50 (Piczak, 2015): environmental sounds in five folds, whole files.

The annotations are `meta/esc50.csv`, with the columns filename, fold and category, and
others. For fold 1, train1 is the other four folds, and test1 the fold itself.
"""

import os

from data_prep.datasets.annotation_files import annotation_file, check_split, read_table
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_path,
    index_media,
    row_or_missing,
)

_FOLDS = ("1", "2", "3", "4", "5")
SPLITS = (*(part + fold for fold in _FOLDS for part in ("train", "test")), "all")


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the files of a split.

    Args:
        annotations: esc50.csv, or the directory that holds it or meta/esc50.csv.
        root: directory somewhere below which the files lie.
        split: one of SPLITS.

    Raises:
        FileNotFoundError: there is no esc50.csv.
        ValueError: an unknown split, or a wrong line.
    """
    split = check_split(split, SPLITS, dataset="esc50")
    if not os.path.isfile(annotations):
        annotations = annotation_file(annotations, "meta/esc50.csv", "esc50.csv")
    part, test_fold = split[:-1], split[-1]
    label_names = set()
    clips = []
    tree = index_media(root)
    columns = ("filename", "fold", "category")
    for where, row in read_table(annotations, columns=columns):
        path, fold, label = (row[column] for column in columns)
        if fold not in _FOLDS:
            raise ValueError(f"{where}: fold {fold!r} is none of {', '.join(_FOLDS)}.")
        label_names.add(label)
        if split == "all" or (fold == test_fold) == (part == "test"):
            file = find_path(tree, path, where=where)
            clips.append(row_or_missing(file, path, label=label))
    return collect(clips, label_names)
