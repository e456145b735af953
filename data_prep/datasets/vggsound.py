"""VGGSound (Chen et al., 2020): 10 s segments of YouTube videos.

The annotations are `vggsound.csv`: no header, lines such as
`ID,30,"dog barking, howling",train`. A segment is a file `ID_000030`, or
`ID_30000_40000` or `ID_30000` (milliseconds); or it is that part of the whole video,
`ID`. Each may have any suffix.
"""

import os

from data_prep.datasets.annotation_files import (
    annotation_file,
    check_inside,
    check_split,
    read_secs,
    read_values,
)
from data_prep.datasets.media_files import (
    Clips,
    collect,
    find_youtube_clip,
    index_media,
)

SPLITS = ("train", "test")
_CLIP_SECS = 10.0


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Finds the segments of a split.

    Args:
        annotations: vggsound.csv, or the directory that holds it.
        root: directory somewhere below which the files lie.
        split: one of SPLITS.

    Raises:
        FileNotFoundError: there is no vggsound.csv.
        ValueError: an unknown split, or a wrong line.
    """
    check_split(split, SPLITS, dataset="vggsound")
    if not os.path.isfile(annotations):
        annotations = annotation_file(annotations, "vggsound.csv")
    label_names = set()
    clips = []
    tree = index_media(root)
    for where, values in read_values(annotations, num_values=4):
        video_id, start, label, named = values
        label_names.add(label)
        check_inside(video_id, where=where)
        if named not in SPLITS:
            raise ValueError(
                f"{where}: {named!r} is not {' or '.join(SPLITS)}; correct the line."
            )
        if named != split:
            continue
        start_secs = read_secs(start, where=where)
        end_secs = start_secs + _CLIP_SECS
        start_ms, end_ms = round(1000 * start_secs), round(1000 * end_secs)
        times = f"_{int(start_secs):06d}", f"_{start_ms}_{end_ms}", f"_{start_ms}"
        clips.append(
            find_youtube_clip(
                tree,
                video_id,
                cut_stems=[video_id + time for time in times],
                start_secs=start_secs,
                end_secs=end_secs,
                labels=(label,) if label else (),
                folder=label,
            )
        )
    return collect(clips, label_names)
