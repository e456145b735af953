"""The public data sets by name -> manifests."""

import os

from data_prep.datasets import (
    audioset,
    dcase2013,
    esc50,
    folder,
    hmdb51,
    kinetics,
    tut2016,
    ucf101,
    vggsound,
)
from data_prep.datasets.manifest_writer import Written, check_out, write_manifest

DATASETS = {
    "audioset": audioset.find_clips,
    "dcase2013": dcase2013.find_clips,
    "esc50": esc50.find_clips,
    "folder": folder.find_clips,
    "hmdb51": hmdb51.find_clips,
    "kinetics": kinetics.find_clips,
    "kinetics_sounds": kinetics.find_sounds,
    "tut2016": tut2016.find_clips,
    "ucf101": ucf101.find_clips,
    "vggsound": vggsound.find_clips,
}


def make_manifest(
    dataset: str,
    root: str,
    *,
    annotations: str | None = None,
    split: str | None = None,
    out: str,
    trimmed: bool = False,
) -> Written:
    """Writes the manifest of a split, and what lies beside it.

    Args:
        dataset: one of DATASETS.
        root: directory below which the media lie; they are not opened.
        annotations: directory of the annotation files; default: the root.
        split: its name; None for a folder.
        out: the manifest, a local file NAME.csv.
        trimmed: whether files named by a YouTube id alone hold just their segment.

    Raises:
        FileNotFoundError: the root, annotations, or all of the media are missing.
        ValueError: a wrong argument, annotation, file name or label.
    """
    check_out(out)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"--root={root} is no directory; give the media's.")
    annotations = root if annotations is None else annotations
    if not os.path.exists(annotations):
        raise FileNotFoundError(
            f"--annotations={annotations} does not exist; give the directory of the "
            "annotation files."
        )
    clips = DATASETS[dataset](annotations, root, split=split)
    return write_manifest(out, clips, root=root, trimmed=trimmed)
