"""Writes a manifest of a public data set, or of a folder of media.

    python -m data_prep.make_manifest --dataset=ucf101 --root=UCF-101/ \\
        --annotations=ucfTrainTestlist/ --split=train1 --out=ucf101/train1.csv

lists the media below the root once, without opening them, and writes a row for each
clip of the split that is there. Beside the manifest lie

    labels.txt             all labels of the data set, sorted, one a line; another split
                           in the same directory must do with them
    NAME.missing.csv       annotated clips that were not found, if any
    NAME.all_labels.csv    path, start_secs, label of all rows, if some have several
                           in a data set of one label per clip: the manifest names none
                           for those

AudioSet has several labels per clip, and its manifest the column `labels`.

The modules of data_prep/datasets say which annotation files and file names they know.
Of a folder, a file's label is the name of the root's sub-folder that it lies in; a file
directly in the root has none.
"""

from absl import flags

from data_prep.datasets.manifest_writer import describe
from data_prep.datasets.manifests import DATASETS, make_manifest
from xdc_tf.runtime import program

_DATASET = flags.DEFINE_enum(
    "dataset", None, list(DATASETS), "Name of the data set.", required=True
)
_ROOT = flags.DEFINE_string(
    "root", None, "Directory below which the media lie.", required=True
)
_ANNOTATIONS = flags.DEFINE_string(
    "annotations", None, "Directory of the annotation files; default: the root."
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Name of the split, such as train, or train1 of three splits or of folds; none for "
    "a folder. A wrong name is answered with the data set's.",
)
_OUT = flags.DEFINE_string("out", None, "The manifest, NAME.csv.", required=True)
_TRIMMED = flags.DEFINE_bool(
    "trimmed",
    False,
    "Files named by a YouTube id alone hold just the annotated segment, so that no "
    "times are written.",
)


def main(argv: list[str]) -> None:
    """Writes a manifest and prints what it holds."""
    del argv
    written = make_manifest(
        _DATASET.value,
        _ROOT.value,
        annotations=_ANNOTATIONS.value,
        split=_SPLIT.value,
        out=_OUT.value,
        trimmed=_TRIMMED.value,
    )
    print(describe(written))


def run() -> None:
    """Entry point of the console script."""
    program.run(main)


if __name__ == "__main__":
    run()
