"""Kinetics-400, -600 and -700 (Kay et al., 2017): clips of YouTube videos.

The annotations are CSV files `label,youtube_id,time_start,time_end,split`, named
`train.csv`, `kinetics-400_train.csv`, `validate.csv`, ...; test files may lack the
label. A clip is a file `ID_000010_000020`, in a folder of its class (with spaces or
underscores) or not; or it is that segment of the whole video, `ID`. Each may have any
suffix.

Kinetics-Sounds (Arandjelovic and Zisserman, ICCV 2017) are the classes that can be
heard. Of the 34 of its appendix, of a Kinetics before its release, 31 are in
Kinetics-400, some under another name; they are what is used since.
"""

import os
import re
from collections.abc import Sequence

from data_prep.datasets.annotation_files import (
    check_inside,
    check_split,
    open_annotations,
    read_segment,
    read_table,
)
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_youtube_clip,
    index_media,
)

_NAMES_OF_SPLIT = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test",),
}
SPLITS = tuple(_NAMES_OF_SPLIT)
_COLUMNS = ("youtube_id", "time_start", "time_end")
SOUNDS = (
    *("blowing nose", "blowing out candles", "bowling", "chopping wood"),
    *("dribbling basketball", "laughing", "mowing lawn", "playing accordion"),
    *("playing bagpipes", "playing bass guitar", "playing clarinet", "playing drums"),
    *("playing guitar", "playing harmonica", "playing keyboard", "playing organ"),
    *("playing piano", "playing saxophone", "playing trombone", "playing trumpet"),
    *("playing violin", "playing xylophone", "ripping paper", "shoveling snow"),
    *("shuffling cards", "singing", "stomping grapes", "tap dancing"),
    *("tapping guitar", "tapping pen", "tickling"),
)


def find_sounds(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the clips of a split of Kinetics-Sounds in Kinetics' lists; see find_clips.

    Raises:
        FileNotFoundError, ValueError: see find_clips; or the lists lack a class.
    """
    return find_clips(annotations, root, split=split, classes=SOUNDS)


def find_clips(
    annotations: str,
    root: str,
    *,
    split: str | None,
    classes: Sequence[str] | None = None,
) -> Clips:
    """Finds the clips of a split.

    Args:
        annotations: directory with one CSV file per split, all of whose labels count;
            or a CSV file, of which the rows of the split are taken.
        root: directory somewhere below which the clips lie.
        split: one of SPLITS.
        classes: of which clips are taken; None for all.

    Raises:
        FileNotFoundError: there is no file of the split.
        ValueError: an unknown split, several files of it, a wrong line, or a class that
            the lists lack.
    """
    split = check_split(split, SPLITS, dataset="kinetics")
    if os.path.isfile(annotations):
        files, chosen, some_rows = [annotations], annotations, True
    else:
        files = _annotation_files(annotations)
        chosen, some_rows = _choose_file(files, annotations, split=split), False
    label_names = {
        row.get("label", "")
        for file in files
        for _, row in read_table(file, columns=_COLUMNS)
    }
    if classes is not None:
        absent = sorted(set(classes) - label_names)
        if absent:
            raise ValueError(
                f"--annotations={annotations} lacks the classes {absent[:5]} of "
                "Kinetics-400; give its lists."
            )
        label_names = set(classes)
    tree = index_media(root)

    def find():
        for where, row in read_table(chosen, columns=_COLUMNS):
            named = row.get("split", "").lower()
            if some_rows and named not in ("", *_NAMES_OF_SPLIT[split]):
                continue
            video_id, label = row["youtube_id"], row.get("label", "")
            if classes is not None and label not in classes:
                continue
            check_inside(video_id, where=where)
            start_secs, end_secs = read_segment(
                row["time_start"], row["time_end"], where=where
            )
            yield find_youtube_clip(
                tree,
                video_id,
                cut_stems=(f"{video_id}_{int(start_secs):06d}_{int(end_secs):06d}",),
                start_secs=start_secs,
                end_secs=end_secs,
                labels=(label,) if label else (),
                folder=label,
            )

    return collect(find(), label_names)


def _annotation_files(directory: str) -> list[str]:
    """CSV files with Kinetics' header, so past manifests and lists of labels."""
    files = []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(".csv") and name[0] != "." and os.path.isfile(path):
            with open_annotations(path, errors="replace") as file:
                if "youtube_id" in file.readline():
                    files.append(path)
    return files


def _choose_file(files: list[str], annotations: str, *, split: str) -> str:
    names = "|".join(_NAMES_OF_SPLIT[split])
    pattern = re.compile(rf"(.*[-_])?({names})\.csv")
    chosen = [file for file in files if pattern.fullmatch(os.path.basename(file))]
    if not chosen:
        raise FileNotFoundError(
            f"--annotations={annotations} holds no {names.replace('|', '.csv or ')}"
            f".csv with the columns {','.join(_COLUMNS)}; give the directory that "
            "does, or the file itself."
        )
    if len(chosen) > 1:
        raise ValueError(
            f"--annotations={annotations} holds several files of the split {split}: "
            f"{', '.join(map(os.path.basename, chosen))}; give one of them as "
            "--annotations."
        )
    return chosen[0]
