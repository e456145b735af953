"""A run made ready: its records read and checked, its model, data and state built."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import dataset_info, record_directory
from xdc_tf.data.dataset_info import NO_LABEL, DatasetInfo
from xdc_tf.data.example_tables import Examples, Promised
from xdc_tf.distribution import workers
from xdc_tf.labels import label_tables
from xdc_tf.models import encoder_table, two_stream
from xdc_tf.models.two_stream import HeadSettings, TwoStream
from xdc_tf.runtime import locks
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import (
    configuration,
    exported_run,
    optimizers,
    supervision,
    teacher,
    trained_run,
)
from xdc_tf.training.checkpoints import Checkpoints, Progress, new_progress
from xdc_tf.training.configuration import Config
from xdc_tf.training.monitoring import Monitor


class Records(NamedTuple):
    """The training records and what their examples are used for."""

    directory: str
    info: DatasetInfo
    examples: Examples
    promised: Promised
    true_labels: np.ndarray  # [num_rows] int32, -1 where unknown
    trained: np.ndarray  # [num_rows] bool
    held_out: np.ndarray  # [num_rows] bool, labelled but never trained on
    local: workers.LocalData  # what this process reads of them


class RunState(NamedTuple):
    """Where a run stands: what training changes and checkpoints hold."""

    model: TwoStream
    optimizer: Any
    label_tables: dict[str, tf.Variable]  # by label source, [num_rows] int32
    progress: Progress


class Run(NamedTuple):
    """What a run is, which stays as it is; `state` is where it stands."""

    config: Config
    workdir: str
    strategy: tf.distribute.Strategy
    records: Records
    method: supervision.Method
    pretrained_streams: frozenset[str]  # whose encoders start from config.init_from
    state: RunState
    checkpoints: Checkpoints
    monitor: Monitor
    lock: locks.Lock | None  # of the chief


def prepare(
    config: Config | Mapping[str, Any],
    *,
    workdir: str,
    records_dir: str,
    strategy: tf.distribute.Strategy,
    allow_config_change: bool,
) -> Run:
    """Checks that everything fits together, claims the work directory, builds the run.

    Raises:
      BlockingIOError: if another run is at work in the directory.
      FileNotFoundError: without records.
      ValueError: on settings that do not fit each other, the records or the work
        directory; nothing has been written then.
    """
    config = configuration.from_mapping(config)
    method = _trained_method(config)
    starts = _encoders_to_start_from(config, method)
    records = _read_records(
        config, records_dir, supervision.modalities(method), strategy
    )
    teacher.check(config, method, records.info, records_dir)
    num_labels = _num_labels(config, method, records)
    _check_sizes(config, records, strategy)
    configuration.check_health(config)
    state = _build_state(config, method, num_labels, records.true_labels, strategy)
    for stream, encoder in starts.items():
        encoder_table.copy_weights(
            configuration.architectures(config)[method.streams[stream]],
            encoder,
            state.model.encoders[stream],
        )
    lock = workers.on_chief(
        strategy, lambda: _claim_workdir(workdir, config, records, allow_config_change)
    )
    is_chief = records.local.number == 0
    log_dir = os.path.join(workdir, run_directory.TENSORBOARD_DIR)
    return Run(
        config=config,
        workdir=workdir,
        strategy=strategy,
        records=records,
        method=method,
        pretrained_streams=frozenset(starts),
        state=state,
        checkpoints=Checkpoints(
            workdir, **state._asdict(), keep=config.checkpoints.keep, writes=is_chief
        ),
        monitor=Monitor(
            log_dir if is_chief else None,
            num_rounds=config.num_rounds,
            batch_size=config.training.batch_size,
            profile_steps=config.profile_steps,
        ),
        lock=lock,
    )


def _trained_method(config: Config) -> supervision.Method:
    """The configuration's method, with its number of heads.

    Raises:
      ValueError: if it trains nothing.
    """
    method = supervision.method(config.method)
    if not method.supervision:
        trained = [name for name, row in supervision.METHODS.items() if row.supervision]
        raise ValueError(
            f"config.method={config.method} trains nothing; choose one of "
            f"{', '.join(trained)}."
        )
    return supervision.with_heads(method, len(config.kmeans.clusters_of_heads))


def _build_state(
    config: Config,
    method: supervision.Method,
    num_labels: Mapping[str, int],
    true_labels: np.ndarray,
    strategy: tf.distribute.Strategy,
) -> RunState:
    """Encoders, heads, optimizer and label tables, at the start of a run.

    Args:
      config: of the run.
      method: with its heads.
      num_labels: by label source.
      true_labels: [num_rows] int32, the labels of the source TRUE_LABELS.
      strategy: of the variables.
    """
    heads = {
        supervision.head_name(stream, source): HeadSettings(stream, num_labels[source])
        for stream, sources in method.supervision.items()
        for source in sources
    }
    no_labels = np.full_like(true_labels, NO_LABEL)
    with strategy.scope():
        model = two_stream.build(
            method.streams,
            architectures=configuration.architectures(config),
            clip=configuration.clip(config, None),
            layers=configuration.training_layers(config),
            heads=heads,
        )
        optimizer = optimizers.make(
            config.optimizer.name,
            model.trainable_variables,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            trust_coefficient=config.optimizer.trust_coefficient,
            rates=_rates(config, method, model),
            scale_loss=config.precision == "mixed_float16",
        )
        tables = {
            source: tf.Variable(
                true_labels if source == supervision.TRUE_LABELS else no_labels,
                trainable=False,
                name=f"labels_{source}",
            )
            for source in num_labels
        }
    return RunState(model, optimizer, tables, new_progress())


def _rates(config: Config, method: supervision.Method, model: TwoStream):
    """What variables' learning rates are multiplied with; None for 1."""
    decay = config.optimizer.layer_decay
    if decay == 1:
        return None
    architectures = configuration.architectures(config)
    return two_stream.stage_rates(model, method.streams, architectures, decay)


def _encoders_to_start_from(config, method) -> dict[str, keras.Model]:
    """The encoders of config.init_from that this run has too, by stream."""
    directory = config.init_from
    if not directory:
        return {}
    trained = exported_run.open_directory(directory)
    architectures = configuration.architectures(config)
    encoders = {}
    for stream, modality in method.streams.items():
        if stream not in trained.streams:
            continue
        pretrained, trained_here = (
            trained.architectures[modality],
            architectures[modality],
        )
        if pretrained != trained_here:
            raise ValueError(
                f"config.init_from={directory} has a {stream} encoder {pretrained}, "
                f"and config.{modality}_encoder is {trained_here}; make them the same."
            )
        encoders[stream] = trained_run.load_encoder(trained, stream)
    if not encoders:
        raise ValueError(
            f"config.init_from={directory} has encoders for {list(trained.streams)}, "
            f"and config.method={config.method} for {list(method.streams)}."
        )
    return encoders


def _read_records(
    config, records_dir: str, modalities: Sequence[str], strategy
) -> Records:
    opened = record_directory.open_directory(records_dir)
    info, examples = opened.info, opened.examples
    dataset_info.check_modalities(info, modalities, records_dir)
    audio = configuration.audio_payload(config, info)
    dataset_info.check_audio(info, audio, config.log_mel.sample_rate_hz, records_dir)
    true_labels = np.full(info.num_rows, NO_LABEL, np.int32)
    true_labels[examples.example_indices] = examples.labels
    held_out = held_out_rows(
        examples.example_indices,
        num_rows=info.num_rows,
        share=config.training.held_out_share,
        seed=config.seed,
    )
    trained = np.zeros(info.num_rows, bool)
    trained[examples.example_indices] = True
    trained &= ~held_out
    return Records(
        directory=records_dir,
        info=info,
        examples=examples,
        promised=opened.promised,
        true_labels=true_labels,
        trained=trained,
        held_out=held_out,
        local=workers.local_data(info, examples, strategy),
    )


def held_out_rows(
    example_indices: np.ndarray, *, num_rows: int, share: float, seed: int
) -> np.ndarray:
    """[num_rows] bool: the examples that a run never trains on.

    Args:
      example_indices: of all examples.
      num_rows: rows of the manifest.
      share: fraction of the examples to hold out, in [0, 1).
      seed: of the draw.
    """
    chosen = np.random.default_rng([seed, 1]).permutation(np.sort(example_indices))
    held_out = np.zeros(num_rows, bool)
    held_out[chosen[: round(share * len(chosen))]] = True
    return held_out


def _num_labels(config, method, records: Records) -> dict[str, int]:
    """Number of labels of each label source that the method needs."""
    num_trained = int(records.trained.sum())
    key = "head_clusters" if config.kmeans.head_clusters else "num_clusters"
    num_classes = len(records.info.label_names)
    num_labels = {}
    for source in supervision.label_sources(method):
        if source != supervision.TRUE_LABELS:
            head = label_tables.head_of(source)
            num_clusters = config.kmeans.clusters_of_heads[head]
            if not 1 < num_clusters <= num_trained:
                raise ValueError(
                    f"config.kmeans.{key}={getattr(config.kmeans, key)} must be from 2 "
                    f"to the {num_trained} examples of {records.directory} to train on."
                )
            num_labels[source] = num_clusters
        else:
            if records.info.several_labels:
                raise ValueError(
                    f"config.method={config.method} needs one label per example, and "
                    f"{records.directory} holds several; use evaluate "
                    "--protocol=finetune with --scratch, or convert a manifest with "
                    "the column label."
                )
            if num_classes < 2:
                raise ValueError(
                    f"config.method={config.method} needs labels, and "
                    f"{records.directory} has {num_classes} classes; convert a "
                    "manifest with a label column."
                )
            num_labels[source] = num_classes
    return num_labels


def _check_sizes(config, records: Records, strategy) -> None:
    num_devices = strategy.num_replicas_in_sync
    batch_size = config.training.batch_size
    parts = config.training.accumulate_steps
    for key, size, divisor in (
        ("training.batch_size", batch_size, num_devices * parts),
        ("features.batch_size", config.features.batch_size, num_devices),
    ):
        if size < 1 or size % divisor:
            times = f" times training.accumulate_steps={parts}"
            raise ValueError(
                f"config.{key}={size} is not a multiple of the {num_devices} devices"
                f"{times if divisor > num_devices else ''}."
            )
    num_trained = int(records.trained.sum())
    if num_trained < batch_size:
        raise ValueError(
            f"{records.directory} has {num_trained} examples to train on, fewer than "
            f"config.training.batch_size={batch_size}; lower it or convert more videos."
        )
    local = records.local
    fewest = workers.gathered(strategy, records.trained[local.rows].sum()).min()
    if fewest < batch_size // local.num_processes:
        raise ValueError(
            f"A worker's files of {records.directory} have {fewest} examples to train "
            f"on, fewer than its part of config.training.batch_size={batch_size}; "
            "lower it, use fewer workers, or convert with a lower --rows_per_shard."
        )


def _claim_workdir(
    workdir, config, records: Records, allow_config_change
) -> locks.Lock:
    run_directory.check_local(workdir)
    os.makedirs(workdir, exist_ok=True)
    lock = run_directory.lock(workdir)
    try:
        _claim_locked(workdir, config, records, allow_config_change)
    except BaseException:
        lock.release()
        raise
    return lock


def _claim_locked(workdir, config, records: Records, allow_config_change) -> None:
    records_copy = os.path.join(workdir, run_directory.RECORDS_DIR)
    is_new = not os.path.exists(os.path.join(records_copy, dataset_info.INFO_FILE))
    if not is_new:
        before = dataset_info.read_dataset_info(records_copy)
        differing = dataset_info.differences(before, records.info)
        if differing:
            more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise ValueError(
                f"{workdir} is of other records than {records.directory} "
                f"({'; '.join(differing[:5])}{more}); use the same records, or another "
                "--workdir."
            )
    run_directory.claim(
        workdir,
        configuration.to_mapping(config),
        allow_change=allow_config_change,
        defaults=configuration.to_mapping(configuration.Config()),
    )
    if is_new:
        os.makedirs(records_copy, exist_ok=True)
        dataset_info.write_dataset_info(records_copy, records.info)
