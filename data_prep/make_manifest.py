"""Annotations of a public data set, or a folder -> manifest CSV.

    python -m data_prep.make_manifest --dataset=ucf101 --root=UCF-101/ \\
        --annotations=ucfTrainTestlist/ --split=train1 --out=ucf101/train1.csv

lists the media below the root once, without opening them, and writes a row for each
clip of the split that is there. Beside the manifest lie

    labels.txt             all labels of the data set, sorted, one a line; another split
                           in the same directory must do with them
    NAME.missing.csv       annotated clips that were not found, if any
    NAME.all_labels.csv    path, start_secs, label of all rows, if some have several
                           labels, as in AudioSet: records hold one label, so the
                           manifest names none for those

The modules of data_prep/datasets tell which annotation files and file names they know.
Of a folder, a file's label is the name of the root's sub-folder that it lies in; a file
directly in the root has none.
"""

import os

from absl import flags

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
from data_prep.datasets.manifest_writer import Written, check_out, tell, write_manifest
from xdc_tf import program

DATASETS = {
    "audioset": audioset.find_clips,
    "dcase2013": dcase2013.find_clips,
    "esc50": esc50.find_clips,
    "folder": folder.find_clips,
    "hmdb51": hmdb51.find_clips,
    "kinetics": kinetics.find_clips,
    "tut2016": tut2016.find_clips,
    "ucf101": ucf101.find_clips,
    "vggsound": vggsound.find_clips,
}

_DATASET = flags.DEFINE_enum("dataset", None, list(DATASETS), "Which.", required=True)
_ROOT = flags.DEFINE_string(
    "root", None, "Directory below which the media lie.", required=True
)
_ANNOTATIONS = flags.DEFINE_string(
    "annotations", None, "Directory of the annotation files; default: the root."
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Such as train, or train1 of three splits or of folds; none for a folder. A wrong "
    "one is answered with the data set's.",
)
_OUT = flags.DEFINE_string("out", None, "The manifest, NAME.csv.", required=True)
_TRIMMED = flags.DEFINE_bool(
    "trimmed",
    False,
    "Files named by a YouTube id alone hold just the annotated segment, so that no "
    "times are written.",
)


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


def main(argv: list[str]) -> None:
    """Writes a manifest and tells what it holds."""
    del argv
    written = make_manifest(
        _DATASET.value,
        _ROOT.value,
        annotations=_ANNOTATIONS.value,
        split=_SPLIT.value,
        out=_OUT.value,
        trimmed=_TRIMMED.value,
    )
    print(tell(written))


def run() -> None:
    """Entry point of the console script."""
    program.run(main)


if __name__ == "__main__":
    run()
