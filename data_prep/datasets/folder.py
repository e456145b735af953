"""A folder of media files, with or without folders of classes.

A file's label is the name of the folder directly below the root that it lies in, at
whatever depth; a file that lies directly in the root has no label.
"""

from data_prep.datasets.media_files import (
    Clips,
    collect,
    list_files,
    row_or_missing,
)


def find_clips(annotations: str, root: str, *, split: str | None) -> Clips:
    """Lists the files.

    Args:
        annotations: not used.
        root: the folder.
        split: must be None.

    Raises:
        ValueError: a split is named.
    """
    del annotations
    if split is not None:
        raise ValueError(
            f"--split={split}: a folder has no splits; leave it out, and give the "
            "folder of the split as --root."
        )
    rows = []
    media, others = list_files(root)
    for file in media:
        folder, slash, _ = file.partition("/")
        label = folder.strip() if slash else ""
        rows.append(row_or_missing(file, file, label=label))
    clips = collect(rows, (label for row in rows for label in row.labels))
    return clips._replace(others=tuple(others))
