"""Features of labelled records by frozen encoders, for all splits of an evaluation."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import example_tables, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.distribution import devices
from xdc_tf.evaluation import encoder_sources, labelled_records
from xdc_tf.evaluation.encoder_sources import PRETRAINED, SCRATCH, Source
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split
from xdc_tf.evaluation.protocols import UNREPORTED, Results, Settings
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.features import extraction
from xdc_tf.features.extraction import ClipFeatures, ExampleFeatures
from xdc_tf.models import layers
from xdc_tf.runtime.typed_settings import COUNT, OrNone, Whole


class ExtractionSettings(NamedTuple):
    """Which features are extracted.

    Attributes:
      streams: names of the encoders.
      num_clips: evenly spread clips per video.
      average: average a video's features over its clips.
      with_initial: also extract with the encoders that the run started from, under
        initial_name(stream).
      batch_size: clips per batch over all devices; None for that of the run.
    """

    streams: Sequence[str]
    num_clips: int
    average: bool = False
    with_initial: bool = False
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenSettings(Settings):
    """What the settings of protocols on frozen features have in common.

    Attributes:
      num_clips: evenly spread clips per video.
      batch_size: clips per batch over all devices; None for that of the run.
    """

    num_clips: Annotated[int, Whole(1, 10_000)] = 10
    batch_size: Annotated[int | None, OrNone(COUNT), UNREPORTED] = None

    def extraction(self, streams: Sequence[str], **changes: Any) -> ExtractionSettings:
        """Settings to extract the features of these encoders by."""
        return ExtractionSettings(
            streams,
            **{"num_clips": self.num_clips, "batch_size": self.batch_size} | changes,
        )


class SplitFeatures(NamedTuple):
    """Features of a split's two parts, in the order of their examples.

    Attributes:
      train: by stream, [N, C, D] float32, or [N, D] if averaged.
      test: likewise.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def initial_name(stream: str) -> str:
    """The name for features of a stream's encoder as it was before the run."""
    return f"initial_{stream}"


def has_initial(source: Source) -> bool:
    """Whether there are encoders from before the training to compare with."""
    return source.kind == PRETRAINED and source.run.info is not None


def score_splits(
    score: Callable[[Split, SplitFeatures], list[SplitResult]],
    source: Source,
    splits: Sequence[Split],
    settings: ExtractionSettings,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> Results:
    """Results of score(split, features) for each split; see `of_splits`."""
    features = of_splits(source, splits, settings, strategy=strategy)
    return Results([score(*pair) for pair in zip(splits, features, strict=True)])


def of_splits(
    source: Source,
    splits: Sequence[Split],
    settings: ExtractionSettings,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> Iterator[SplitFeatures]:
    """Features of each split in turn; every video goes through the encoders once.

    A directory's features are kept until the last split that has it. Random encoders
    are the exception: each split gives them batch-norm statistics of its training
    videos, and so other features.

    Args:
      source: of the encoders.
      splits: labelled records.
      settings: of the extraction.
      strategy: the devices; None for the present one.

    Raises:
      FileNotFoundError, ValueError, FloatingPointError: see make_features_of.
    """
    groups = [[split] for split in splits] if source.kind == SCRATCH else [splits]
    for group in groups:
        features_of = make_features_of(
            source, settings, statistics_of=group[0].train, strategy=strategy
        )
        kept: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
        for number, split in enumerate(group):
            parts = []
            for part in (split.train, split.test):
                if part.directory not in kept:
                    union = _union(group, part.directory)
                    indices = union.examples.example_indices
                    kept[part.directory] = indices, features_of(union)
                indices, rows = kept[part.directory]
                chosen = np.searchsorted(indices, part.examples.example_indices)
                parts.append({name: values[chosen] for name, values in rows.items()})
            later = {
                part.directory
                for other in group[number + 1 :]
                for part in (other.train, other.test)
            }
            kept = {name: values for name, values in kept.items() if name in later}
            yield SplitFeatures(*parts)


def make_features_of(
    source: Source,
    settings: ExtractionSettings,
    *,
    statistics_of: LabelledRecords | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Callable[[LabelledRecords], dict[str, np.ndarray]]:
    """Loads encoders and makes the function features_of(records).

    It gives for each stream [N, C, D] float32 in the order of records.examples, of C
    evenly spread clips in evaluation mode, or [N, D] of their average; batch norm is
    folded into the convolutions.

    Args:
      source: of the encoders.
      settings: of the extraction.
      statistics_of: videos that give random encoders their batch-norm statistics.
      strategy: the devices; None for the present one.

    Raises:
      FileNotFoundError: without an encoder.
      ValueError: on an unknown stream, or a batch that the devices cannot share; when
        called, on records that do not hold their examples.
      FloatingPointError: when called, on features that are not finite.
    """
    run, strategy = source.run, strategy or tf.distribute.get_strategy()
    batch_size = settings.batch_size or run.batch_size
    _check(source, settings.streams, batch_size, strategy.num_replicas_in_sync)
    encoders, modalities = _load_encoders(source, settings, strategy)
    if source.kind == SCRATCH and statistics_of is not None:
        extraction.refresh_batch_norm(
            encoders,
            modalities,
            _training_clips(source, modalities, statistics_of, strategy),
            strategy=strategy,
        )
    with strategy.scope():
        folded = {name: layers.fold(encoder) for name, encoder in encoders.items()}
    extract_clips = extraction.make_extract_clips(folded, modalities, strategy=strategy)

    def features_of(records: LabelledRecords) -> dict[str, np.ndarray]:
        batches = pipeline.evaluation_batches(
            _clip_source(records, run.clip, modalities),
            batch_size=batch_size,
            num_clips=settings.num_clips,
            keep=records.keep,
        )
        clip_features = extract_clips(devices.distribute(batches, strategy))
        if not settings.average:
            return _in_order(
                clip_features, records, folded, num_clips=settings.num_clips
            )
        means = extraction.average_clips(clip_features)
        rows = _in_order(means, records, folded, num_clips=1)
        return {name: features[:, 0] for name, features in rows.items()}

    return features_of


def _check(
    source: Source, streams: Sequence[str], batch_size: int, num_devices: int
) -> None:
    encoder_sources.check_streams(source, streams)
    if not streams:
        raise ValueError(f"no streams are given; choose of {list(source.run.streams)}.")
    if batch_size % num_devices:
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of the {num_devices} devices."
        )


def _load_encoders(
    source: Source, settings: ExtractionSettings, strategy: tf.distribute.Strategy
) -> tuple[dict[str, keras.Model], dict[str, str]]:
    """Encoders and their modalities, by stream and by initial_name."""
    with strategy.scope():
        encoders = {
            stream: encoder_sources.load_encoder(source, stream)
            for stream in settings.streams
        }
        if settings.with_initial:
            initial = source._replace(kind=encoder_sources.INITIAL)
            encoders |= {
                initial_name(stream): encoder_sources.load_encoder(initial, stream)
                for stream in settings.streams
            }
    modalities = {stream: source.run.streams[stream] for stream in settings.streams}
    if settings.with_initial:
        modalities |= {
            initial_name(stream): modality for stream, modality in modalities.items()
        }
    return encoders, modalities


def _in_order(
    batches: Iterable[ClipFeatures] | Iterable[ExampleFeatures],
    records: LabelledRecords,
    encoders: dict,
    *,
    num_clips: int,
) -> dict[str, np.ndarray]:
    """For each stream [N, num_clips, D], checked, in the order of records.examples."""
    indices = records.examples.example_indices
    place_of = np.full(records.info.num_rows, -1)
    place_of[indices] = np.arange(len(indices))
    filled = np.zeros(len(indices), int)
    streams = {
        name: np.zeros([len(indices), num_clips, encoder.output_shape[-1]], np.float32)
        for name, encoder in encoders.items()
    }
    for batch in batches:
        places = place_of[batch.example_index]
        for name, rows in batch.streams.items():
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                video = records.examples.video_ids[places[np.argmin(finite)]]
                raise FloatingPointError(
                    f"the {name} encoder gives features that are not finite, first for "
                    f"{video}; use encoders of a run that did not diverge."
                )
        for number, place in enumerate(places):
            for name, rows in streams.items():
                rows[place, filled[place]] = batch.streams[name][number]
            filled[place] += 1
    labelled_records.check_filled(records, filled == num_clips)
    return streams


def _union(splits: Sequence[Split], directory: str) -> LabelledRecords:
    """The examples of a directory that some split has, by example_index."""
    parts = [
        part
        for split in splits
        for part in (split.train, split.test)
        if part.directory == directory
    ]
    examples = example_tables.concatenate([part.examples for part in parts])
    _, firsts = np.unique(examples.example_indices, return_index=True)
    return parts[0]._replace(examples=examples.part(firsts))


def _clip_source(
    records: LabelledRecords, clip: ClipSettings, modalities: dict[str, str]
) -> ClipSource:
    """Clips of the modalities that encoders need, each once."""
    names = tuple(dict.fromkeys(modalities.values()))
    return ClipSource(records.shards, clip, names, records.promised)


def _training_clips(
    source: Source,
    modalities: dict[str, str],
    records: LabelledRecords,
    strategy: tf.distribute.Strategy,
) -> Iterator[dict]:
    """As many random clips as a run of this configuration would start from."""
    config, num_devices = source.run.config, strategy.num_replicas_in_sync
    num_examples = records.examples.num_examples
    batch_size = min(config.training.batch_size, num_examples)
    batch_size = max(batch_size // num_devices, 1) * num_devices
    if batch_size > num_examples:
        raise ValueError(
            f"{records.directory} has {num_examples} training videos for "
            f"{num_devices} devices; use fewer devices."
        )
    batches = pipeline.training_batches(
        _clip_source(records, source.run.clip, modalities),
        augmentation=config.augmentation,
        batch_size=batch_size,
        keep=records.keep,
        seed=source.seed,
        shuffle_buffer=config.training.shuffle_buffer,
    )
    number = min(config.features.batch_norm_batches, num_examples // batch_size)
    return itertools.islice(devices.distribute(batches, strategy), number)
