"""A run's batches, of this process's files and on its devices."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from xdc_tf.data import pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.pipeline import EpochPosition
from xdc_tf.distribution import devices, workers
from xdc_tf.training import configuration, supervision
from xdc_tf.training.run import Run


def batches_per_pass(run: Run) -> int:
    """Training batches in one pass over the data set."""
    return int(run.records.trained.sum()) // run.config.training.batch_size


def training_batches(
    run: Run, *, balanced: bool = False
) -> Iterator[dict[str, tf.Tensor]]:
    """Distributed training batches from the run's present step on.

    Each process draws its part of every batch from its own files, over and over; the
    passes of some may be shorter than those of others.

    Args:
      run: where it stands.
      balanced: draw from all clusters of the present label tables equally often, of
        those that a process's own files have.

    Raises:
      ValueError: if they are to be balanced and there are no labels.
    """
    training, local = run.config.training, run.records.local
    trained = np.zeros_like(run.records.trained)
    trained[local.rows] = run.records.trained[local.rows]
    draws = None
    if balanced:
        labels = {
            source: table.numpy() for source, table in run.state.label_tables.items()
        }
        draws = expected_draws(labels, trained)
    batch_size = training.batch_size // local.num_processes
    passes, batches = divmod(
        int(run.state.progress.step), int(trained.sum()) // batch_size
    )
    dataset = pipeline.training_batches(
        _clip_source(run),
        augmentation=run.config.augmentation,
        batch_size=batch_size,
        keep=trained,
        draws=draws,
        seed=run.config.seed,
        shuffle_buffer=training.shuffle_buffer,
        start=EpochPosition(passes, batches),
    )
    return iter(_distribute(run, dataset, batch_size))


def evaluation_batches(
    run: Run,
    *,
    num_clips: int = 1,
    keep: np.ndarray | None = None,
    clip: ClipSettings | None = None,
) -> Iterable[dict[str, tf.Tensor]]:
    """Distributed centre clips of all examples, or of those to keep; repeatable.

    Clips are the run's, or as `clip` says.

    Every process sees the examples of its own files, and all get the same number of
    batches, the last of padding alone where a process has fewer examples.
    """
    local = run.records.local
    batch_size = run.config.features.batch_size // local.num_processes
    dataset = pipeline.evaluation_batches(
        _clip_source(run, clip), batch_size=batch_size, num_clips=num_clips, keep=keep
    )
    if local.num_processes == 1:
        return _distribute(run, dataset, batch_size)
    used = run.records.trained | run.records.held_out
    used = used if keep is None else used & keep
    num_batches = -(-num_clips * int(used[local.rows].sum()) // batch_size)
    padding = {
        name: tf.fill(
            spec.shape,
            tf.cast(
                pipeline.PADDING_INDEX if name == "example_index" else 0, spec.dtype
            ),
        )
        for name, spec in dataset.element_spec.items()
    }
    endless = dataset.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
    return _First(
        _distribute(run, endless, batch_size),
        int(workers.gathered(run.strategy, num_batches).max()),
    )


class _First:
    """The first batches of an endless data set, each time that it is iterated over."""

    def __init__(self, batches: Iterable, number: int):
        self._batches, self._number = batches, number

    def __iter__(self):
        return itertools.islice(self._batches, self._number)


def _clip_source(run: Run, clip: ClipSettings | None = None) -> ClipSource:
    """Clips of the files of this process."""
    records = run.records
    return ClipSource(
        [os.path.join(records.directory, name) for name in records.local.files],
        clip=clip or configuration.clip(run.config, records.info),
        modalities=supervision.modalities(run.method),
        promised=records.promised,
    )


def _distribute(run: Run, dataset: tf.data.Dataset, batch_size: int):
    """Splits this process's batches over its devices."""
    local = run.records.local
    if local.num_processes == 1:
        return devices.distribute(dataset, run.strategy)
    per_device = batch_size * local.num_processes // run.strategy.num_replicas_in_sync
    if per_device < batch_size:
        dataset = dataset.rebatch(per_device, drop_remainder=True)
    # Of a data set that may end, processes tell each other so before every batch.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return run.strategy.distribute_datasets_from_function(
        lambda _: dataset.apply(endless)
    )


def expected_draws(labels: Mapping[str, np.ndarray], trained: np.ndarray) -> np.ndarray:
    """How often to draw each example per epoch, for clusters that are drawn alike.

    DeepCluster (section 3.3) samples uniformly over pseudo-labels, since a network that
    sees a few large clusters most of the time learns little but to distinguish these.

    An example's draws are the mean over the label sources of num_trained / (clusters
    that are not empty * examples in its cluster), counting trained examples only.

    Args:
      labels: by label source [num_rows] integers, negative for no label.
      trained: [num_rows] bool, which examples may be drawn.

    Returns:
      [num_rows] float64, 0 for what is not trained or has no label; the sum is the
      number of trained examples to rounding.

    Raises:
      ValueError: if a source has no label for any trained example.
    """
    draws = np.zeros(len(trained))
    for source, source_labels in labels.items():
        counted = trained & (source_labels >= 0)
        clusters = source_labels[counted]
        if not len(clusters):
            raise ValueError(
                f"none of the {trained.sum()} examples to train on has a label of "
                f"{source}, so its clusters cannot be balanced; set "
                "config.training.balance_clusters=False or give labels."
            )
        sizes = np.bincount(clusters)
        draws_per_cluster = trained.sum() / np.count_nonzero(sizes)
        draws[counted] += draws_per_cluster / sizes[clusters] / len(labels)
    return draws
