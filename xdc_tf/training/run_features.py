"""A run's features: by a pass over the data set, or harvested from its training."""

import json
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from xdc_tf.distribution import workers
from xdc_tf.features import extraction
from xdc_tf.features.extraction import ClipFeatures, ExampleFeatures, Features
from xdc_tf.features.feature_store import FeatureStore, RowState
from xdc_tf.models import layers
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import (
    configuration,
    supervision,
)
from xdc_tf.training.batches import evaluation_batches
from xdc_tf.training.run import Run


def open_store(run: Run) -> FeatureStore | None:
    """The store in the run's work directory; None if its method clusters nothing.

    Raises:
      ValueError: if a file of it is damaged.
      OSError: if the disk has not enough room.
    """
    if not supervision.clustered_sources(run.method):
        return None
    features = run.config.features
    info, local = run.records.info, run.records.local
    several = local.num_processes > 1
    return FeatureStore(
        run_directory.features_dir(
            run.workdir, worker=local.number, num_workers=local.num_processes
        ),
        num_rows=len(local.rows),
        widths={
            stream: encoder.output_shape[-1]
            for stream, encoder in run.state.model.encoders.items()
        },
        dtype=features.dtype,
        made_with={
            "manifest_sha256": info.manifest_sha256,
            "clip": configuration.clip(run.config, info)._asdict(),
            "clips_per_video": features.clips_per_video,
            "precision": run.config.precision,
            # By which the files of records are dealt.
            **({"worker": [local.number, local.num_processes]} if several else {}),
        },
        example_indices=local.rows if several else None,
    )


def make_extract_clips(run: Run) -> Callable[[Iterable[dict]], Iterator[ClipFeatures]]:
    """The function extract_clips(batches) of the run's encoders as they are by then.

    See features.make_extract_clips; batch norm is folded into the convolutions.
    """
    with run.strategy.scope():
        folded = {
            stream: layers.fold(encoder)
            for stream, encoder in run.state.model.encoders.items()
        }
    of_folded = extraction.make_extract_clips(
        folded, run.method.streams, strategy=run.strategy
    )

    def extract_clips(batches: Iterable[dict]) -> Iterator[ClipFeatures]:
        for stream, encoder in run.state.model.encoders.items():
            layers.copy_folded(encoder, folded[stream])
        yield from of_folded(batches)

    return extract_clips


def harvested_in(run: Run, round_index: int) -> int | None:
    """The round whose training gave the features that a round clusters; None: a pass.

    The first clustering has no training before it, and the one after the last round is
    of the finished encoders, since new videos are assigned to its clusters.
    """
    from_training = run.config.features.from_training
    between_rounds = 0 < round_index < run.config.num_rounds
    return round_index - 1 if from_training and between_rounds else None


def clustered_encoders(run: Run, round_index: int) -> dict[str, str] | None:
    """SHA-256 by stream of the encoders whose features a round clusters.

    None for harvested features, which are of no one state of the encoders.
    """
    if harvested_in(run, round_index) is not None:
        return None
    return _encoders_sha256(run, round_index)


def _encoders_sha256(run: Run, round_index: int) -> dict[str, str]:
    """Of each encoder's file as it is when a round begins."""
    return {
        stream: files.sha256(
            run_directory.encoder_file(run.workdir, stream, initial=round_index == 0)
        )
        for stream in run.method.streams
    }


def to_cluster(
    run: Run, store: FeatureStore, extract_clips: Callable, round_index: int
) -> Features:
    """The features of this process's examples for a round's clustering.

    What the store does not hold yet, or no longer as it was written, is computed by a
    pass over just these examples. A pass that was killed goes on where it was, with the
    same batches.

    Args:
      run: at a round's beginning, its encoders saved.
      store: of the run, harvested in the round before if `harvested_in` says so.
      extract_clips: of make_extract_clips.
      round_index: the round; after the last one, the number of rounds.

    Returns:
      Features by row of the run's share: by example_index in a run of one process.

    Raises:
      FloatingPointError: on features that are not finite.
      ValueError: if the records did not give all of their examples.
      OSError: if the disk fails.
    """
    encoders = workers.text_of_chief(
        run.strategy, lambda: json.dumps(_encoders_sha256(run, round_index))
    )
    store.keep_only(
        harvested_in=harvested_in(run, round_index), extracted_by=json.loads(encoders)
    )
    store.drop_damaged()
    local = run.records.local.rows
    examples = np.zeros_like(run.records.trained)
    examples[local] = (run.records.trained | run.records.held_out)[local]
    before = store.states[examples[local]]
    missing = examples.copy()
    missing[local] &= store.states == RowState.EMPTY
    started = time.monotonic()
    if workers.any_process(run.strategy, missing.any()):
        batches = evaluation_batches(
            run, num_clips=run.config.features.clips_per_video, keep=missing
        )
        store.fill(extraction.average_clips(extract_clips(batches)))
    check_complete(run, examples[local] & (store.states == RowState.EMPTY))
    print(
        f"features  {(before == RowState.HARVESTED).sum()} examples harvested  "
        f"{(before == RowState.EXTRACTED).sum()} extracted before  "
        f"{missing.sum()} extracted in {time.monotonic() - started:.1f} s",
        flush=True,
    )
    return store.features()


def check_complete(run: Run, missing: np.ndarray) -> None:
    """Checks that every example has features, in all processes or none.

    Args:
      run: whose records were read.
      missing: [n] bool, which of this process's rows have an example without.
    """
    empty = run.records.local.rows[missing]
    num_empty = int(workers.gathered(run.strategy, len(empty)).sum())
    if not num_empty:
        return
    examples = run.records.examples
    where = "another worker's files"
    if len(empty):
        place = np.flatnonzero(examples.example_indices == empty[0])[0]
        shard = run.records.info.shards[examples.shard_numbers[place]]
        where = f"example_index {empty[0]} of {shard.file}"
    raise ValueError(
        f"{run.records.directory}: {num_empty} of {len(examples.example_indices)} "
        f"examples were not in the files of records, first {where}; "
        "python -m data_prep.inspect --verify names what is wrong, or convert again."
    )


class FeatureCollector:
    """Writes the features that steps return into a store, or nothing without one.

    Those of a step are fetched when the next one has been started, so that a device is
    not kept waiting.
    """

    def __init__(self, store: FeatureStore | None, strategy: tf.distribute.Strategy):
        self._store = store
        self._strategy = strategy
        self._last: tuple[ExampleFeatures, str] | None = None

    @property
    def collects(self) -> bool:
        """Whether steps should return their features."""
        return self._store is not None

    def start_round(self, round_index: int) -> None:
        """Empties the store, unless the round is gone on with."""
        if self._store is not None:
            self._store.keep_only(harvested_in=round_index, extracted_by=None)

    def add(
        self, encoded: ExampleFeatures | None, *, round_index: int, step: int
    ) -> None:
        """Takes a step's features and writes those of the step before.

        Args:
          encoded: of train_step.StepResult; None if it does not collect.
          round_index: from 0, for an error message.
          step: for an error message.

        Raises:
          FloatingPointError: on features that are not finite; names round and step.
          OSError: if the disk fails.
        """
        if encoded is None or not self.collects:
            return
        self._write()
        self._last = encoded, f"in round {round_index + 1}, step {step}"

    def forget_last(self) -> None:
        """Leaves the features of the step that was added last out."""
        self._last = None

    def prepare_commit(self) -> Callable[[], None] | None:
        """Writes the features of all steps; a checkpoint must find them on disk.

        Returns:
          What returns when they are on disk, or None if there is nothing to do; see
          FeatureStore.prepare_commit.

        Raises:
          FloatingPointError, OSError: see add.
        """
        if self._store is None:
            return None
        self._write()
        return self._store.prepare_commit()

    def _write(self) -> None:
        if self._store is None or self._last is None:
            return
        encoded, when = self._last
        self._last = None
        examples = extraction.examples_on_host(self._strategy, encoded)
        try:
            self._store.write(examples, RowState.HARVESTED)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} This was {when}; the last checkpoint is intact."
            ) from error


def make_collector(run: Run, store: FeatureStore | None) -> FeatureCollector:
    """A collector into the run's store; of nothing if its features are of passes."""
    collects = run.config.features.from_training
    return FeatureCollector(store if collects else None, run.strategy)
