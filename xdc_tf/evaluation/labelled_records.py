"""Labelled records, cut into a part to learn from and a part to be tested on.

Several splits, or folds, of one data set are several pairs of directories, or one
directory and a pair of manifests for each.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.manifest import read_manifest
from xdc_tf.data import dataset_info, record_directory, record_index, text_columns
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import NO_LABEL, DatasetInfo
from xdc_tf.data.example_tables import Examples, Promised
from xdc_tf.data.payloads import AUDIO
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.training.trained_run import TrainedRun

# What the same video's records depend on.
_CONVERSION = (
    *("fps", "short_side", "jpeg_quality", "modalities", "log_mel", "payloads"),
)


class LabelledRecords(NamedTuple):
    """Labelled examples of a directory of records.

    Attributes:
      directory: of the records.
      info: what it says about itself.
      examples: those that take part; all have a label.
      class_names: of the whole split, sorted; labels are numbers in it.
      promised: what all shards of the directory must hold.
      manifest: path of the one that chose the examples; "" where all take part.
      chosen_by_sha256: of its bytes.
      num_absent: rows of the manifest that have no labelled record.
    """

    directory: str
    info: DatasetInfo
    examples: Examples
    class_names: tuple[str, ...]
    promised: Promised
    manifest: str = ""
    chosen_by_sha256: str = ""
    num_absent: int = 0

    @property
    def label_sets(self) -> np.ndarray:
        """[N, L] int64 numbers in class_names, and NO_LABEL behind them.

        In the order of the examples; L is 1 where each has one label.
        """
        number = {name: k for k, name in enumerate(self.class_names)}
        number_of = [number.get(name, NO_LABEL) for name in self.info.label_names]
        # The last one is that of NO_LABEL.
        return np.array([*number_of, NO_LABEL], np.int64)[self.examples.label_sets]

    @property
    def labels(self) -> np.ndarray:
        """[N] int64 numbers in class_names, in the order of the examples.

        Raises:
          ValueError: examples may have several.
        """
        if self.info.several_labels:
            raise ValueError(_several_text(self.directory, "this evaluation"))
        return self.label_sets[:, 0]

    @property
    def keep(self) -> np.ndarray:
        """[num_rows] bool by example_index: the examples that take part."""
        keep = np.zeros(self.info.num_rows, bool)
        keep[self.examples.example_indices] = True
        return keep

    @property
    def shards(self) -> list[str]:
        """Paths of the files of records that hold an example of these, in order."""
        return [
            os.path.join(self.directory, self.info.shards[number].file)
            for number in np.unique(self.examples.shard_numbers).tolist()
        ]

    def part(self, chosen: np.ndarray) -> "LabelledRecords":
        """Those of the examples for which [N] bool is True."""
        return self._replace(examples=self.examples.part(chosen))


class Split(NamedTuple):
    """What to learn from and what to be tested on, with the same classes.

    Attributes:
      name: for reports, such as "1".
      train: labelled records.
      test: labelled records.
      warnings: what the reader of a result should know, in words.
    """

    name: str
    train: LabelledRecords
    test: LabelledRecords
    warnings: tuple[str, ...] = ()


def check_single(splits: Sequence[Split], protocol: str) -> None:
    """Checks that a protocol of one label per example gets no others.

    Raises:
      ValueError: an example may have several; names the records.
    """
    for split in splits:
        for part in (split.train, split.test):
            if part.info.several_labels:
                raise ValueError(_several_text(part.directory, protocol))


def _several_text(directory: str, protocol: str) -> str:
    return (
        f"{directory} holds several labels per example, and {protocol} takes one; use "
        "the linear or the finetune protocol, or convert a manifest with the column "
        "label."
    )


def describe(records: LabelledRecords) -> dict[str, Any]:
    """Where the records are, and what chose them, of types that JSON has."""
    values = {
        "directory": records.directory,
        "manifest_sha256": records.info.manifest_sha256,
        "num_examples": records.examples.num_examples,
    }
    if records.manifest:
        values["chosen_by"] = records.manifest
        values["chosen_by_sha256"] = records.chosen_by_sha256
    return values


def check_filled(records: LabelledRecords, filled: np.ndarray) -> None:
    """Checks that a pass over records has given all of their examples.

    Args:
      records: that were read.
      filled: [N] bool, in the order of their examples.

    Raises:
      ValueError: names how many are missing, and the first.
    """
    missing = np.flatnonzero(~filled)
    if len(missing):
        examples, first = records.examples, missing[0]
        raise ValueError(
            f"{records.directory}: {len(missing)} of {len(filled)} examples were not "
            "in the files of records, first example_index "
            f"{examples.example_indices[first]} of {_shard(records, first)}, "
            f"{examples.video_ids[first]}; convert again."
        )


def _shard(records: LabelledRecords, place: int) -> str:
    return records.info.shards[records.examples.shard_numbers[place]].file


def open_splits(
    train_dirs: Sequence[str],
    test_dirs: Sequence[str],
    *,
    run: TrainedRun,
    modalities: Sequence[str],
    clip: ClipSettings | None = None,
    train_manifests: Sequence[str] = (),
    test_manifests: Sequence[str] = (),
    allow_overlap: bool = False,
) -> list[Split]:
    """Opens one split for each pair of directories, or of manifests.

    Args:
      train_dirs: of the records to learn from; with manifests, one.
      test_dirs: of those to be tested on, as many; none for train_dirs, of which
        manifests choose.
      run: what the encoders take.
      modalities: that the evaluation needs.
      clip: that recordings are cut into; None for the run's.
      train_manifests: of each split the examples to learn from, by video_id.
      test_manifests: of each split those to be tested on, as many.
      allow_overlap: accept test videos that are also in training.

    Raises:
      FileNotFoundError: without records or manifests.
      ValueError: on another log-mel setting, modalities that are missing, records
        without labels or of fewer than two classes, test classes without a training
        example, a split without examples, or videos in both parts.
    """
    _check_numbers(train_dirs, test_dirs, train_manifests, test_manifests)
    opened = {
        directory: _open(directory, run, modalities)
        for directory in dict.fromkeys((*train_dirs, *test_dirs))
    }
    trains = [opened[directory] for directory in train_dirs]
    tests = [opened[directory] for directory in test_dirs] or trains
    if train_manifests:
        trains = [_select(trains[0], manifest) for manifest in train_manifests]
        tests = [_select(tests[0], manifest) for manifest in test_manifests]
    clip_secs = max(
        MODALITIES[modality].clip_secs(clip or run.clip) for modality in modalities
    )
    return [
        _pair(
            str(number), train, test, clip_secs=clip_secs, allow_overlap=allow_overlap
        )
        for number, (train, test) in enumerate(zip(trains, tests, strict=True), start=1)
    ]


def _check_numbers(
    train_dirs: Sequence[str],
    test_dirs: Sequence[str],
    train_manifests: Sequence[str],
    test_manifests: Sequence[str],
) -> None:
    """Raises ValueError unless directories, or manifests, pair up."""
    if len(train_manifests) != len(test_manifests):
        raise ValueError(
            f"{len(train_manifests)} training and {len(test_manifests)} test manifests "
            "make no splits; give one of each for every split."
        )
    if train_manifests and (len(train_dirs) != 1 or len(test_dirs) > 1):
        raise ValueError(
            "splits by manifests are of one directory of records each for training and "
            f"testing, got {len(train_dirs)} and {len(test_dirs)}."
        )
    if not train_dirs:
        raise ValueError("no directory of records to learn from was given.")
    if not test_dirs and not train_manifests:
        raise ValueError(
            "--test_records is missing, the labelled records to be tested on; or "
            "--train_manifests and --test_manifests, which choose of --records."
        )
    if test_dirs and len(train_dirs) != len(test_dirs):
        raise ValueError(
            f"{len(train_dirs)} directories to train on and {len(test_dirs)} to test "
            "on make no splits; give as many of each."
        )


def _open(
    directory: str, run: TrainedRun, modalities: Sequence[str]
) -> LabelledRecords:
    opened = record_directory.open_directory(directory)
    info, examples = opened.info, opened.examples
    dataset_info.check_modalities(info, modalities, directory)
    if AUDIO in modalities:
        rate_hz = run.config.log_mel.sample_rate_hz
        dataset_info.check_audio(info, run.audio, rate_hz, directory)
    labelled = examples.label_sets[:, 0] != NO_LABEL
    if not labelled.any():
        raise ValueError(
            f"{directory} has no labelled video; convert a manifest with a column "
            "label, or labels."
        )
    records = LabelledRecords(directory, info, examples, (), opened.promised)
    return records.part(labelled)


def _select(records: LabelledRecords, manifest: str) -> LabelledRecords:
    """The examples that a manifest names."""
    chooser = read_manifest(manifest)
    ids = {row.video_id for row in chooser.rows}
    video_ids = records.examples.video_ids
    chosen = np.fromiter((name in ids for name in video_ids), bool, len(video_ids))
    if not chosen.any():
        raise ValueError(
            f"{manifest} names none of the {len(chosen)} labelled videos of "
            f"{records.directory}; its paths must be written as in the manifest that "
            f"was converted, for example {video_ids[0]!r}."
        )
    num_absent = len(ids) - len(set(video_ids[chosen]))
    return records.part(chosen)._replace(
        manifest=manifest, chosen_by_sha256=chooser.sha256, num_absent=num_absent
    )


def _pair(
    name: str,
    train: LabelledRecords,
    test: LabelledRecords,
    *,
    clip_secs: float,
    allow_overlap: bool,
) -> Split:
    if train.info.several_labels != test.info.several_labels:
        raise ValueError(
            f"split {name}: of {train.directory} and {test.directory} one holds "
            "several labels per example and the other one; convert both with the "
            "column label, or both with labels."
        )
    classes = _names(train)
    if len(classes) < 2:
        raise ValueError(
            f"split {name}: {train.directory} has {train.examples.num_examples} "
            f"labelled videos to learn from, of fewer than two classes ({classes}); "
            "use more."
        )
    unknown = [label for label in _names(test) if label not in classes]
    if unknown:
        raise ValueError(
            f"split {name}: {test.directory} has the classes {_few(unknown)}, of which "
            f"{train.directory} has no example to learn from; use records of the same "
            "classes."
        )
    both = _in_both(train, test)
    if both and not allow_overlap:
        raise ValueError(
            f"split {name}: {len(both)} of {test.examples.num_examples} test videos "
            f"are also in training, by id or content, such as {both[0]!r}; take them "
            "out, or allow it (--allow_overlap)."
        )
    class_names = tuple(classes)
    return Split(
        name,
        train._replace(class_names=class_names),
        test._replace(class_names=class_names),
        tuple(_warnings(train, test, classes, len(both), clip_secs)),
    )


def _warnings(
    train: LabelledRecords,
    test: LabelledRecords,
    classes: Sequence[str],
    num_in_both: int,
    clip_secs: float,
) -> Iterator[str]:
    """What the reader of a result should know of a split, in words."""
    test_classes = _names(test)
    absent = [label for label in classes if label not in test_classes]
    if absent:
        yield (
            f"{len(absent)} of {len(classes)} classes have no test video: "
            f"{_few(absent)}"
        )
    if num_in_both:
        yield f"{num_in_both} test videos are also in training"
    for part, name in ((train, "training"), (test, "test")):
        if part.num_absent:
            yield (
                f"{part.num_absent} videos of {part.manifest} have no labelled record "
                f"in {part.directory}"
            )
        secs = part.examples.end_secs - part.examples.start_secs
        num_short = int((secs < clip_secs - 1e-6).sum())
        if num_short:
            yield (
                f"{num_short} {name} videos are shorter than a clip of "
                f"{clip_secs:g} s, which repeats their beginning"
            )


def _few(names: Sequence[str]) -> str:
    """A list of names, cut short."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{names[:5]}{more}"


def _names(records: LabelledRecords) -> list[str]:
    """Class names that have an example, sorted."""
    names = records.info.label_names
    present = np.unique(records.examples.label_sets)
    return sorted(names[label] for label in present if label != NO_LABEL)


def _in_both(train: LabelledRecords, test: LabelledRecords) -> list[str]:
    """Ids of test examples whose id or content is in training.

    Names may be the same in two folders: where the conversion was the same, contents
    are compared. Where it was not, the same name is taken for the same video.
    """
    by_content = train.info.manifest_sha256 != test.info.manifest_sha256 and all(
        getattr(train.info, name) == getattr(test.info, name) for name in _CONVERSION
    )
    known, contents = (
        record_index.content_hashes(
            part.shards, part.examples.example_indices, part.promised
        )
        for part in (train, test)
    )
    is_known = np.isin(contents, known)
    if not by_content:
        is_known |= text_columns.is_in(
            test.examples.video_ids, train.examples.video_ids
        )
    return test.examples.video_ids[is_known].tolist()
