"""HMDB51 (Kuehne et al., 2011): three splits, whole files.

The annotations are the directory `testTrainMulti_7030_splits`: for each class and split
a file `CLASS_test_split1.txt` with lines such as `video.avi 1`, where 1 is for
training, 2 for testing, and 0 for neither.
"""

import os
import re

from data_prep.datasets.annotation_files import check_inside, check_split, read_lines
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_path,
    index_media,
    row_or_missing,
)

SPLITS = tuple(f"{part}{number}" for number in (1, 2, 3) for part in ("train", "test"))
_MARK_OF_PART = {"train": "1", "test": "2"}
_LIST_FILE = re.compile(r"(?P<label>[^.].*)_test_split(?P<number>[123])\.txt")


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the files of a split.

    Args:
        annotations: directory with brush_hair_test_split1.txt, ...
        root: directory above the class folders.
        split: one of SPLITS.

    Raises:
        FileNotFoundError: there is no list of the split.
        ValueError: an unknown split, or a wrong line.
    """
    split = check_split(split, SPLITS, dataset="hmdb51")
    part, number = split[:-1], split[-1]
    lists = [
        match
        for name in os.listdir(annotations)
        if (match := _LIST_FILE.fullmatch(name))
    ]
    of_split = sorted((m["label"], m.string) for m in lists if m["number"] == number)
    if not of_split:
        raise FileNotFoundError(
            f"--annotations={annotations} holds no CLASS_test_split{number}.txt; give "
            "the directory that does (testTrainMulti_7030_splits)."
        )
    tree = index_media(root)

    def find():
        for label, name in of_split:
            for where, line in read_lines(os.path.join(annotations, name)):
                *video, mark = line.rsplit(maxsplit=1)
                if not video or mark not in ("0", "1", "2"):
                    raise ValueError(
                        f"{where}: {line!r} is not a file name and 0, 1 or 2, such as "
                        "'video.avi 1'."
                    )
                if mark == _MARK_OF_PART[part]:
                    check_inside(video[0], where=where)
                    path = f"{label}/{video[0]}"
                    file = find_path(tree, path, where=where, elsewhere=False)
                    yield row_or_missing(file, path, label=label)

    return collect(find(), (match["label"] for match in lists))
