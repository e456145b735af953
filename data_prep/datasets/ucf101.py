"""UCF101 (Soomro et al., 2012): three splits, whole files.

The annotations are the directory `ucfTrainTestlist`: `classInd.txt` with lines such as
`1 ApplyEyeMakeup`, `trainlist01.txt` with `CLASS/v_X.avi 1`, and `testlist01.txt` with
paths alone. Upper and lower case are one throughout, since the data set itself differs
in them: `HandstandPushups` holds `v_HandStandPushups_*`.
"""

from data_prep.datasets.annotation_files import (
    annotation_file,
    check_inside,
    check_split,
    read_lines,
)
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_path,
    index_media,
    row_or_missing,
)

SPLITS = tuple(f"{part}{number}" for number in (1, 2, 3) for part in ("train", "test"))


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the files of a split.

    Args:
        annotations: directory with classInd.txt, trainlist01.txt, testlist01.txt, ...
        root: directory above the class folders.
        split: one of SPLITS.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: an unknown split, or a wrong line.
    """
    split = check_split(split, SPLITS, dataset="ucf101")
    class_of_number = _read_classes(annotation_file(annotations, "classInd.txt"))
    list_file = annotation_file(annotations, f"{split[:-1]}list0{split[-1]}.txt")
    number_of_folder = {
        name.casefold(): number for number, name in class_of_number.items()
    }
    tree = index_media(root, fold_case=True)

    def find():
        for where, line in read_lines(list_file):
            path, *rest = line.split()
            check_inside(path, where=where)
            folder = path.split("/")[0]
            number = number_of_folder.get(folder.casefold())
            if number is None:
                raise ValueError(
                    f"{where}: {folder!r} is no class of classInd.txt; the two files "
                    "must be of the same release."
                )
            if rest and rest != [str(number)]:
                raise ValueError(
                    f"{where}: {line!r} has not the number {number} that classInd.txt "
                    f"gives {folder}; the two files must be of the same release."
                )
            file = find_path(tree, path, where=where, elsewhere=False)
            yield row_or_missing(file, path, label=class_of_number[number])

    return collect(find(), class_of_number.values())


def _read_classes(path: str) -> dict[int, str]:
    classes = {}
    for where, line in read_lines(path):
        number, *names = line.split()
        if not number.isdecimal() or len(names) != 1 or int(number) in classes:
            raise ValueError(
                f"{where}: {line!r} is not a new number and a class, such as "
                "'1 ApplyEyeMakeup'."
            )
        classes[int(number)] = names[0]
    return classes
