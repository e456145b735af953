"""A run and its records, opened together and checked to be of each other."""

import itertools
import os
import sys
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data import record_directory
from xdc_tf.data.dataset_info import NO_LABEL
from xdc_tf.data.record_directory import OpenRecords
from xdc_tf.features import run_matrices
from xdc_tf.features.run_matrices import Matrix, RunFeatures
from xdc_tf.labels import health, label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import supervision, trained_run
from xdc_tf.training.configuration import Config
from xdc_tf.training.supervision import Method

ALL, LAST = "all", "last"


class OpenedRun(NamedTuple):
    """A run with label tables, and the records that they are of.

    Attributes:
      workdir: of the run.
      config: of the run.
      stored_config: as its file has it.
      method: row of the methods' table.
      records: the directory of records, checked.
      true_labels: [num_rows] int32 by example_index, -1 for none.
      positions: [num_rows] int32, the row of records.examples; -1 without an example.
      rounds: directory of label tables by number of the round, in order.
      sources: names of the clusterings, first heads first.
      features: those that the run has kept, if any.
    """

    workdir: str
    config: Config
    stored_config: dict[str, Any]
    method: Method
    records: OpenRecords
    true_labels: np.ndarray
    positions: np.ndarray
    rounds: dict[int, str]
    sources: tuple[str, ...]
    features: RunFeatures | None

    @property
    def num_rows(self) -> int:
        """Rows of the manifest, with and without an example."""
        return len(self.true_labels)

    @property
    def first_heads(self) -> list[str]:
        """The clusterings that are compared with each other, one of each source."""
        return [name for name in self.sources if health.is_first_head(name)]

    def video_id(self, example: int) -> str:
        """The id of an example; "" where there is none."""
        position = self.positions[example]
        return self.records.examples.video_ids[position] if position >= 0 else ""


def open_run(workdir: str, records_dir: str) -> OpenedRun:
    """Opens a run and the records that it was trained on.

    Raises:
      FileNotFoundError: there is no run, no records, or the run has no labels.
      ValueError: something is damaged, or the labels are of other records.
    """
    trained = trained_run.open_run(workdir)
    rounds = dict(run_directory.round_dirs(workdir))
    if not rounds:
        raise FileNotFoundError(
            f"{workdir} has no labels (method {trained.config.method}); wait until its "
            "first round has clustered, or give a run of a method that clusters."
        )
    records = record_directory.open_directory(records_dir)
    examples, num_rows = records.examples, records.info.num_rows
    true_labels = np.full(num_rows, NO_LABEL, np.int32)
    true_labels[examples.example_indices] = examples.labels
    positions = np.full(num_rows, -1, np.int32)
    positions[examples.example_indices] = np.arange(len(examples.example_indices))
    run = OpenedRun(
        workdir=workdir,
        config=trained.config,
        stored_config=dict(trained.stored_config),
        method=supervision.method(trained.config.method),
        records=records,
        true_labels=true_labels,
        positions=positions,
        rounds=rounds,
        sources=(),
        features=None,
    )
    clusterings = read_round(run, max(rounds))
    _check_ids(run, max(rounds))
    heads = sorted(clusterings, key=lambda name: not health.is_first_head(name))
    stored = _read_features(workdir, records)
    if stored is not None and len(stored.present) != num_rows:
        raise ValueError(
            f"{workdir} has features of {len(stored.present)} rows, and "
            f"{records_dir} is of {num_rows}: they are not of each other. Give the "
            "--records that the run was trained on."
        )
    return run._replace(sources=tuple(heads), features=stored)


def read_round(run: OpenedRun, round_index: int) -> dict[str, Clustering]:
    """A round's clusterings, whose labels are maps of their files.

    Raises:
      FileNotFoundError: the round has no labels.
      ValueError: they are damaged, or of another number of examples.
    """
    round_dir = run.rounds[round_index]
    clusterings = label_tables.read(round_dir).clusterings
    if not clusterings:
        raise FileNotFoundError(
            f"{round_dir} has no labels (method {run.config.method}); give a run of a "
            "method that clusters, or leave the round out of --rounds."
        )
    for clustering in clusterings.values():
        if len(clustering.labels) != run.num_rows:
            raise ValueError(
                f"{round_dir} has labels of {len(clustering.labels)} rows, and "
                f"{run.records.directory} is of {run.num_rows}: they are not of each "
                "other. Give the --records that the run was trained on."
            )
    return clusterings


def choose_rounds(run: OpenedRun, rounds: str) -> list[int]:
    """The rounds that a text asks for: all, last, or numbers such as 3,5.

    Raises:
      ValueError: it is none of these, or the run has no such round.
    """
    if rounds == ALL:
        return list(run.rounds)
    if rounds == LAST:
        return [max(run.rounds)]
    there = ", ".join(map(str, run.rounds))
    try:
        numbers = sorted({int(text) for text in rounds.split(",")})
    except ValueError:
        raise ValueError(
            f"--rounds={rounds[:200]!r} must be all, last or numbers such as 3,5; "
            f"{run.workdir} has labels of the rounds {there}."
        ) from None
    unknown = [number for number in numbers if number not in run.rounds]
    if unknown:
        raise ValueError(
            f"--rounds={rounds[:200]}: {run.workdir} has no labels of the round "
            f"{unknown[0]}, but of {there}."
        )
    return numbers


def features_of_round(
    run: OpenedRun, round_index: int, source: str
) -> list[Matrix] | None:
    """The streams' features that a source's clusters of a round were made of.

    None where the run has none that belong to the round.
    """
    stored = run.features
    if stored is None:
        return None
    settings = label_tables.read_settings(run.rounds[round_index])
    made_of = settings.get("encoders_sha256")
    if made_of is not None:
        belongs = made_of == stored.extracted_by
    else:
        belongs = stored.harvested_in == round_index - 1
    return latest_features(run, source) if belongs else None


def latest_features(run: OpenedRun, source: str) -> list[Matrix] | None:
    """The features, as the run has them now, of the streams that a source clusters."""
    streams = supervision.clustered_streams(run.method, source)
    features = None if run.features is None else run.features.streams
    if features is None or any(stream not in features for stream in streams):
        return None
    return [features[stream] for stream in streams]


def _read_features(workdir: str, records: OpenRecords) -> RunFeatures | None:
    features = run_matrices.read(workdir, records.info, records.examples)
    directory = run_directory.features_dir(workdir, worker=0, num_workers=1)
    if features is None and os.path.isdir(directory):
        print(
            f"warning: {directory} has no features that are whole and of these "
            "records; members are drawn at random, and there is no map.",
            file=sys.stderr,
        )
    return features


def _check_ids(run: OpenedRun, round_index: int) -> None:
    """Checks that labels and records have the same ids, row by row."""
    ids = label_tables.read_video_ids(run.rounds[round_index])
    expected = (run.video_id(example) for example in range(run.num_rows))
    for example, (there, here) in enumerate(itertools.zip_longest(ids, expected)):
        if there != here:
            raise ValueError(
                f"{run.rounds[round_index]} has labels of other examples than "
                f"{run.records.directory}: example {example} is {_shown(there)} by "
                f"the labels and {_shown(here)} by the records. Give the --records "
                "that the run was trained on."
            )


def _shown(video_id: str | None) -> str:
    return "none" if not video_id else ascii(video_id)[:120]
