"""AudioSet (Gemmeke et al., 2017): 10 s segments of YouTube videos, with many labels.

The annotations are `balanced_train_segments.csv`, `unbalanced_train_segments.csv` and
`eval_segments.csv`, with lines such as `ID, 30.000, 40.000, "/m/09x0r,/t/dd00088"`, and
`class_labels_indices.csv` (`index,mid,display_name`). A segment is a file
`ID_30000_40000` or `ID_30000` (milliseconds), `ID_30.000_40.000`, or one of these with
a `Y` in front, or `YID`; or it is that part of the whole video, `ID`. Each may have any
suffix.
"""

import itertools

from data_prep.datasets.annotation_files import (
    annotation_file,
    check_inside,
    check_split,
    read_segment,
    read_table,
    read_values,
)
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_youtube_clip,
    index_media,
)

_FILES_OF_SPLIT = {
    "balanced_train": ("balanced_train",),  # AudioSet-20k
    "unbalanced_train": ("unbalanced_train",),
    "train": ("unbalanced_train", "balanced_train"),  # AudioSet-2M
    "eval": ("eval",),
}
SPLITS = tuple(_FILES_OF_SPLIT)


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the segments of a split.

    Args:
        annotations: directory with the segments and class_labels_indices.csv.
        root: directory somewhere below which the files lie.
        split: one of SPLITS.

    Returns:
        Rows with all labels of their segment, as display names.

    Raises:
        FileNotFoundError: a CSV file is missing.
        ValueError: an unknown split, or a wrong line.
    """
    split = check_split(split, SPLITS, dataset="audioset")
    segments_files = [
        annotation_file(annotations, f"{name}_segments.csv")
        for name in _FILES_OF_SPLIT[split]
    ]
    classes_file = annotation_file(annotations, "class_labels_indices.csv")
    label_of_mid = {
        row["mid"]: row["display_name"]
        for _, row in read_table(classes_file, columns=("mid", "display_name"))
    }
    tree = index_media(root)

    def find():
        lines = (read_values(file, num_values=4) for file in segments_files)
        for where, values in itertools.chain.from_iterable(lines):
            video_id, start, end, mids = values
            check_inside(video_id, where=where)
            start_secs, end_secs = read_segment(start, end, where=where)
            yield find_youtube_clip(
                tree,
                video_id,
                cut_stems=_cut_stems(
                    video_id, start_secs=start_secs, end_secs=end_secs
                ),
                start_secs=start_secs,
                end_secs=end_secs,
                labels=_read_labels(mids, label_of_mid, where=where, file=classes_file),
            )

    return collect(find(), label_of_mid.values())._replace(several_labels=True)


def _cut_stems(video_id: str, *, start_secs: float, end_secs: float) -> list[str]:
    start_ms, end_ms = round(1000 * start_secs), round(1000 * end_secs)
    times = (
        f"_{start_ms}_{end_ms}",
        f"_{start_ms}",
        f"_{start_secs:.3f}_{end_secs:.3f}",
    )
    stems = [prefix + video_id + time for prefix in ("", "Y") for time in times]
    return [*stems, f"Y{video_id}"]


def _read_labels(
    mids: str, label_of_mid: dict[str, str], *, where: str, file: str
) -> tuple[str, ...]:
    names = [mid.strip() for mid in mids.split(",")]
    unknown = [mid for mid in names if mid not in label_of_mid]
    if unknown:
        raise ValueError(
            f"{where}: {unknown[0]!r} is no class of {file}; the two files must be of "
            "the same release."
        )
    return tuple(label_of_mid[mid] for mid in names)
