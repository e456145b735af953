"""Features of a whole data set: one row per clip, or per example, and stream."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data.clips import encoder_input
from xdc_tf.models import two_stream


class ClipFeatures(NamedTuple):
    """The clips of one batch, without padding, in order.

    Attributes:
      example_index: [n] int64.
      start_secs: [n] float64, where the clip starts in its recording.
      streams: for each stream [n, D] float32.
    """

    example_index: np.ndarray
    start_secs: np.ndarray
    streams: dict[str, np.ndarray]


class ExampleFeatures(NamedTuple):
    """Some examples' features, in any order.

    Attributes:
      example_index: [n] int64.
      streams: for each stream [n, D] float32.
    """

    example_index: np.ndarray
    streams: dict[str, np.ndarray]


class Features(NamedTuple):
    """Features of a whole data set.

    Attributes:
      streams: for each stream [num_rows, D] by example_index: float32 in memory, or a
        feature store's read-only memory map, float32 or float16. Rows without an
        example are zero.
      present: [num_rows] bool, which rows have an example.
    """

    streams: dict[str, np.ndarray]
    present: np.ndarray


def make_extract_clips(
    encoders: Mapping[str, Callable],
    modalities: dict[str, str],
    *,
    strategy: tf.distribute.Strategy,
) -> Callable[[Iterable[dict]], Iterator[ClipFeatures]]:
    """The function extract_clips(batches), traced at its first use.

    It runs the encoders in evaluation mode over `batches`, a distributed data set of
    data.pipeline.evaluation_batches, and yields the clips of each batch in turn.

    Args:
      encoders: by stream: encoder(clips, training) -> [B, D].
      modalities: the modality that each stream sees, a key of the batches.
      strategy: where the encoders live.
    """

    def replica_step(batch):
        features = {
            stream: encoder(encoder_input(batch, modalities[stream]), training=False)
            for stream, encoder in encoders.items()
        }
        examples = ExampleFeatures(batch["example_index"], features)
        return examples, batch["start_secs"]

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(replica_step, args=(batch,))

    def on_host(examples: ExampleFeatures, starts: tf.Tensor) -> ClipFeatures:
        real = _on_host(strategy, examples.example_index) >= 0
        index, streams = examples_on_host(strategy, examples)
        return ClipFeatures(index, _on_host(strategy, starts)[real], streams)

    def extract_clips(batches: Iterable[dict]) -> Iterator[ClipFeatures]:
        # A batch is fetched when the next one has been started, so that a GPU is not
        # kept waiting.
        started = None
        for batch in batches:
            before, started = started, step(batch)
            if before is not None:
                yield on_host(*before)
        if started is not None:
            yield on_host(*started)

    return extract_clips


def make_extract(
    encoders: dict[str, keras.Model],
    modalities: dict[str, str],
    *,
    strategy: tf.distribute.Strategy,
) -> Callable[..., Features]:
    """The function extract(batches, *, num_rows) -> Features, traced at its first use.

    It averages what make_extract_clips yields over `batches`, whose indices are all
    below num_rows. A row is filled by its example's index, in whatever order examples
    come; rows without an example are zero.

    Args:
      encoders: by stream.
      modalities: the modality that each stream sees, a key of the batches.
      strategy: where the encoders live.
    """
    extract_clips = make_extract_clips(encoders, modalities, strategy=strategy)

    def extract(batches: Iterable[dict], *, num_rows: int) -> Features:
        streams = {
            stream: np.zeros([num_rows, encoder.output_shape[-1]], np.float32)
            for stream, encoder in encoders.items()
        }
        present = np.zeros([num_rows], bool)
        for examples in average_clips(extract_clips(batches)):
            present[examples.example_index] = True
            for stream, rows in streams.items():
                rows[examples.example_index] = examples.streams[stream]
        return Features(streams, present)

    return extract


def average_clips(batches: Iterable[ClipFeatures]) -> Iterator[ExampleFeatures]:
    """The mean over each example's clips, which follow each other.

    Yields the examples of as many batches at a time as it takes to split none: what is
    yielded next does not depend on what was before.
    """
    held: list[ClipFeatures] = []
    for clips in batches:
        if not len(clips.example_index):
            continue
        if held and clips.example_index[0] != held[-1].example_index[-1]:
            yield _average(held)
            held = []
        held.append(clips)
    if held:
        yield _average(held)


def _average(batches: list[ClipFeatures]) -> ExampleFeatures:
    index = np.concatenate([clips.example_index for clips in batches])
    firsts = np.flatnonzero(np.diff(index, prepend=-1))
    num_clips = np.diff(firsts, append=len(index)).astype(np.float32)
    streams = {}
    for stream in batches[0].streams:
        rows = np.concatenate([clips.streams[stream] for clips in batches])
        streams[stream] = np.add.reduceat(rows, firsts, axis=0) / num_clips[:, None]
    return ExampleFeatures(index[firsts], streams)


def examples_on_host(
    strategy: tf.distribute.Strategy, examples: ExampleFeatures
) -> ExampleFeatures:
    """Outputs of a distributed step as arrays, without padding."""
    index = _on_host(strategy, examples.example_index)
    real = index >= 0
    return ExampleFeatures(
        index[real],
        {
            stream: _on_host(strategy, rows)[real]
            for stream, rows in examples.streams.items()
        },
    )


def _on_host(strategy, value) -> np.ndarray:
    parts = strategy.experimental_local_results(value)
    return np.concatenate([part.numpy() for part in parts])


def refresh_batch_norm(
    encoders: dict[str, keras.Model],
    modalities: dict[str, str],
    batches: Iterable[dict],
    *,
    strategy: tf.distribute.Strategy,
) -> None:
    """Sets batch norm's moving statistics to those of `batches`; weights stay.

    A randomly initialised encoder needs it before its features mean anything in
    evaluation mode: its moving statistics are still 0 and 1. What remains of these
    after n batches, a fraction of momentum ** n, is taken out. An encoder without batch
    norm stays as it is.

    Args:
      encoders: by stream.
      modalities: the modality that each stream sees, a key of the batches.
      batches: a distributed data set of training or evaluation batches.
      strategy: where the encoders live.
    """
    encoders = {
        stream: encoder
        for stream, encoder in encoders.items()
        if encoder.non_trainable_weights
    }
    if not encoders:
        return
    norms = [
        layer
        for encoder in encoders.values()
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum < 1
    ]
    initial = [
        (layer.moving_mean.numpy(), layer.moving_variance.numpy()) for layer in norms
    ]

    def replica_step(batch):
        for stream, encoder in encoders.items():
            encoder(encoder_input(batch, modalities[stream]), training=True)

    @tf.function(autograph=False)
    def step(batch):
        strategy.run(replica_step, args=(batch,))
        two_stream.average_statistics(encoders.values(), strategy)

    num_batches = 0
    for batch in batches:
        step(batch)
        num_batches += 1
    for layer, (mean, variance) in zip(norms, initial, strict=True):
        remaining = layer.momentum**num_batches
        if remaining < 1:
            for statistic, start in (
                (layer.moving_mean, mean),
                (layer.moving_variance, variance),
            ):
                data_statistic = (statistic.numpy() - remaining * start) / (
                    1 - remaining
                )
                statistic.assign(data_statistic)
