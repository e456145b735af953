"""TUT Acoustic Scenes 2016 (Mesaros et al., 2016): 30 s scenes in four folds.

The annotations are `meta.txt` and `evaluation_setup/fold1_train.txt`,
`fold1_evaluate.txt` (test files with their scene) and `fold1_test.txt` (without), with
lines of a path such as `audio/a001_0_30.wav`, a tab and the scene.
"""

import os
from collections.abc import Iterator

from data_prep.datasets.annotation_files import annotation_file, check_split, read_lines
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_path,
    index_media,
    row_or_missing,
)

_PARTS = ("train", "evaluate", "test")
SPLITS = (*(part + fold for fold in "1234" for part in _PARTS), "all")
_SETUP = "evaluation_setup"


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the files of a split.

    Args:
        annotations: directory with meta.txt and evaluation_setup.
        root: directory somewhere below which the files lie.
        split: one of SPLITS; testN and evaluateN are the same, and `all` is meta.txt.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: an unknown split, or a wrong line.
    """
    split = check_split(split, SPLITS, dataset="tut2016")
    if split == "all":
        chosen = annotation_file(annotations, "meta.txt")
    else:
        chosen = fold_file(annotations, split=split)
    scene_of_path: dict[str, str] = {}
    for file in _all_files(annotations):
        for _, path, scene in read_scenes(file):
            scene_of_path[path] = scene or scene_of_path.get(path, "")
    tree = index_media(root)

    def find():
        for where, path, scene in read_scenes(chosen):
            file = find_path(tree, path, where=where)
            label = scene or scene_of_path[path]
            yield row_or_missing(file, path, label=label)

    return collect(find(), scene_of_path.values())


def fold_file(annotations: str, *, split: str) -> str:
    """The list of a fold: for testN the one with scenes, if there is one.

    Args:
        annotations: directory with evaluation_setup.
        split: trainN, evaluateN or testN.

    Raises:
        FileNotFoundError: there is no such list.
    """
    part, fold = split[:-1], split[-1]
    parts = ("train",) if part == "train" else ("evaluate", "test")
    names = [f"{_SETUP}/fold{fold}_{part}.txt" for part in parts]
    return annotation_file(annotations, *names)


def read_scenes(path: str) -> Iterator[tuple[str, str, str]]:
    """Reads a list of scenes.

    Yields:
        File and line number, as text for messages, the path, and the scene, empty if
        the line has none.

    Raises:
        ValueError: a line has more than two values, or the file is not UTF-8.
    """
    for where, line in read_lines(path):
        values = [value.strip() for value in line.split("\t")]
        if len(values) > 2:
            raise ValueError(
                f"{where}: {len(values)} values instead of a path, a tab and a scene: "
                f"{values}."
            )
        yield where, values[0], values[1] if len(values) == 2 else ""


def _all_files(annotations: str) -> list[str]:
    names = ["meta.txt"]
    names += [f"{_SETUP}/fold{fold}_{part}.txt" for fold in "1234" for part in _PARTS]
    paths = [os.path.join(annotations, name) for name in names]
    return [path for path in paths if os.path.isfile(path)]
