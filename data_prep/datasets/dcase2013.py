"""DCASE 2013 scenes (Giannoulis et al., 2013): ten scenes of ten 30 s recordings.

A file's name is its scene and two digits: `bus01.wav`, or `test_bus01.wav` as
dcase_util renames the test set. The data set has no lists of files; the folds that
dcase_util draws are read from its `evaluation_setup/fold1_train.txt` and
`fold1_evaluate.txt`, or `fold1_test.txt`.
"""

import re

from data_prep.datasets import tut2016
from data_prep.datasets.annotation_files import check_split
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_path,
    index_media,
    list_media,
    row_or_missing,
    stem_of,
)

SPLITS = (
    "all",
    *(part + fold for fold in "12345" for part in ("train", "evaluate", "test")),
)
_STEM = re.compile(r"(test_)?(?P<scene>.+)\d\d")


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the files of a split.

    Args:
        annotations: directory with evaluation_setup; not used for `all`.
        root: directory somewhere below which the files lie.
        split: one of SPLITS; `all` is every file below the root, testN and evaluateN
            are the same.

    Raises:
        FileNotFoundError: there is no list of the fold.
        ValueError: an unknown split, a wrong line, or another file name.
    """
    split = check_split(split, SPLITS, dataset="dcase2013")
    if split == "all":
        files = list_media(root)
        rows = [row_or_missing(f, f, label=_scene(f, where=root)) for f in files]
        return collect(rows, (row.labels[0] for row in rows))
    fold_file = tut2016.fold_file(annotations, split=split)
    tree = index_media(root)

    def find():
        for where, path, _ in tut2016.read_scenes(fold_file):
            file = find_path(tree, path, where=where)
            label = _scene(path, where=where)
            yield row_or_missing(file, path, label=label)

    in_tree = (match["scene"] for stem in tree.files_of_stem if (match := _match(stem)))
    return collect(find(), in_tree)


def _match(stem: str) -> re.Match | None:
    return _STEM.fullmatch(stem)


def _scene(path: str, *, where: str) -> str:
    match = _match(stem_of(path))
    if match is None:
        raise ValueError(
            f"{where}: {path!r} is not named by a scene and two digits, such as "
            "bus01.wav; keep other files elsewhere."
        )
    return match["scene"]
