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
from xdc_tf.models import two_stream
from xdc_tf.models.two_stream import HeadSettings, TwoStream
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as work
from xdc_tf.training import optimizers, profiling, settings, supervision, trained_run
from xdc_tf.training.checkpoints import Checkpoints, Progress, new_progress
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
    share: workers.LocalData  # what this process reads of them


class Run(NamedTuple):
    """Everything that the round loop works on."""

    config: Mapping[str, Any]
    workdir: str
    strategy: tf.distribute.Strategy
    records: Records
    method: supervision.Method
    model: TwoStream
    optimizer: Any
    label_tables: dict[str, tf.Variable]  # by label source, [num_rows] int32
    progress: Progress
    checkpoints: Checkpoints
    monitor: Monitor
    lock: files.Lock
    pretrained_streams: frozenset[str]  # whose encoders start from config.init_from


def prepare(
    config: Mapping[str, Any],
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
    method = supervision.method(config["method"])
    if not method.supervision:
        trained = [name for name, row in supervision.METHODS.items() if row.supervision]
        raise ValueError(
            f"config.method={config['method']} trains nothing; choose one of "
            f"{', '.join(trained)}."
        )
    method = supervision.with_heads(method, config["kmeans"]["num_heads"])
    starts = _encoders_to_start_from(config, method)
    records = _read_records(
        config, records_dir, supervision.modalities(method), strategy
    )
    layers = settings.training_layers(config)
    num_labels = _num_labels(config, method, records)
    _check_sizes(config, records, strategy)
    settings.clip(config, records.info)
    settings.schedule(config)
    settings.health(config)
    settings.features(config)
    profile_steps = profiling.check_steps(config["profile_steps"])

    with strategy.scope():
        model = two_stream.build(
            method.streams,
            architectures=settings.architectures(config),
            layers=layers,
            heads={
                supervision.head_name(stream, source): HeadSettings(
                    stream, num_labels[source]
                )
                for stream, sources in method.supervision.items()
                for source in sources
            },
        )
        optimizer = optimizers.make(
            config["optimizer"]["name"],
            model.trainable_variables,
            momentum=config["optimizer"]["momentum"],
            weight_decay=config["optimizer"]["weight_decay"],
            trust_coefficient=config["optimizer"]["trust_coefficient"],
            scale_loss=config["precision"] == "mixed_float16",
        )
        no_labels = np.full_like(records.true_labels, NO_LABEL)
        tables = {
            source: tf.Variable(
                records.true_labels if source == supervision.TRUE_LABELS else no_labels,
                trainable=False,
                name=f"labels_{source}",
            )
            for source in num_labels
        }
    for stream, encoder in starts.items():
        model.encoders[stream].set_weights(encoder.get_weights())
    progress = new_progress()
    lock = workers.on_chief(
        strategy,
        lambda: _claim_workdir(workdir, config, records, allow_config_change),
    )
    is_chief = records.share.number == 0
    return Run(
        config=config,
        workdir=workdir,
        strategy=strategy,
        records=records,
        method=method,
        model=model,
        optimizer=optimizer,
        label_tables=tables,
        progress=progress,
        checkpoints=Checkpoints(
            workdir,
            model=model,
            optimizer=optimizer,
            label_tables=tables,
            progress=progress,
            keep=config["checkpoints"]["keep"],
            writes=is_chief,
        ),
        monitor=Monitor(
            os.path.join(workdir, work.TENSORBOARD_DIR) if is_chief else None,
            num_rounds=config["num_rounds"],
            batch_size=config["training"]["batch_size"],
            profile_steps=profile_steps,
        ),
        lock=lock,
        pretrained_streams=frozenset(starts),
    )


def _encoders_to_start_from(config, method) -> dict[str, keras.Model]:
    """The encoders of config.init_from that this run has too, by stream."""
    directory = config["init_from"]
    if not directory:
        return {}
    trained = trained_run.open_run(directory)
    wanted = settings.architectures(config)
    encoders = {}
    for stream, modality in method.streams.items():
        if stream not in trained.streams:
            continue
        found = trained.architectures[modality]
        if found != wanted[modality]:
            raise ValueError(
                f"config.init_from={directory} has a {stream} encoder {found}, and "
                f"config.{modality}_encoder is {wanted[modality]}; make them the same."
            )
        encoders[stream] = trained_run.load_encoder(trained, stream)
    if not encoders:
        raise ValueError(
            f"config.init_from={directory} has encoders for {list(trained.streams)}, "
            f"and config.method={config['method']} for {list(method.streams)}."
        )
    return encoders


def _read_records(
    config, records_dir: str, modalities: Sequence[str], strategy
) -> Records:
    opened = record_directory.open_directory(records_dir)
    info, examples = opened.info, opened.examples
    dataset_info.check_modalities(info, modalities, records_dir)
    settings.check_log_mel(config, info, records_dir)
    true_labels = np.full(info.num_rows, NO_LABEL, np.int32)
    true_labels[examples.example_indices] = examples.labels
    held_out = settings.held_out_rows(
        examples.example_indices,
        num_rows=info.num_rows,
        share=config["training"]["held_out_share"],
        seed=config["seed"],
    )
    trained = np.zeros(info.num_rows, bool)
    trained[examples.example_indices] = True
    trained &= ~held_out
    own = workers.local_data(info, examples, strategy)
    return Records(
        directory=records_dir,
        info=info,
        examples=examples,
        promised=opened.promised,
        true_labels=true_labels,
        trained=trained,
        held_out=held_out,
        share=own,
    )


def _num_labels(config, method, records: Records) -> dict[str, int]:
    """Number of labels of each label source that the method needs."""
    num_trained = int(records.trained.sum())
    num_clusters = config["kmeans"]["num_clusters"]
    num_classes = len(records.info.label_names)
    num_labels = {}
    for source in supervision.label_sources(method):
        if source != supervision.TRUE_LABELS:
            if not 1 < num_clusters <= num_trained:
                raise ValueError(
                    f"config.kmeans.num_clusters={num_clusters} must be from 2 to the "
                    f"{num_trained} examples of {records.directory} to train on."
                )
            num_labels[source] = num_clusters
        else:
            if num_classes < 2:
                raise ValueError(
                    f"config.method={config['method']} needs labels, and "
                    f"{records.directory} has {num_classes} classes; convert a "
                    "manifest with a label column."
                )
            num_labels[source] = num_classes
    return num_labels


def _check_sizes(config, records: Records, strategy) -> None:
    num_devices = strategy.num_replicas_in_sync
    batch_size = config["training"]["batch_size"]
    parts = config["training"]["accumulate_steps"]
    for key, size, divisor in (
        ("training.batch_size", batch_size, num_devices * parts),
        ("features.batch_size", config["features"]["batch_size"], num_devices),
    ):
        if size < 1 or size % divisor:
            told = f" times training.accumulate_steps={parts}"
            raise ValueError(
                f"config.{key}={size} is not a multiple of the {num_devices} devices"
                f"{told if divisor > num_devices else ''}."
            )
    num_trained = int(records.trained.sum())
    if num_trained < batch_size:
        raise ValueError(
            f"{records.directory} has {num_trained} examples to train on, fewer than "
            f"config.training.batch_size={batch_size}; lower it or convert more videos."
        )
    own = records.share
    fewest = workers.gathered(strategy, records.trained[own.rows].sum()).min()
    if fewest < batch_size // own.count:
        raise ValueError(
            f"A worker's files of {records.directory} have {fewest} examples to train "
            f"on, fewer than its part of config.training.batch_size={batch_size}; "
            "lower it, use fewer workers, or convert with a lower --rows_per_shard."
        )


def _claim_workdir(
    workdir, config, records: Records, allow_config_change
) -> files.Lock:
    work.check_local(workdir)
    os.makedirs(workdir, exist_ok=True)
    lock = work.lock(workdir)
    try:
        _claim_locked(workdir, config, records, allow_config_change)
    except BaseException:
        lock.release()
        raise
    return lock


def _claim_locked(workdir, config, records: Records, allow_config_change) -> None:
    own_copy = os.path.join(workdir, work.RECORDS_DIR)
    is_new = not os.path.exists(os.path.join(own_copy, dataset_info.INFO_FILE))
    if not is_new:
        before = dataset_info.read_dataset_info(own_copy)
        differing = dataset_info.differences(before, records.info)
        if differing:
            more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise ValueError(
                f"{workdir} is of other records than {records.directory} "
                f"({'; '.join(differing[:5])}{more}); use the same records, or another "
                "--workdir."
            )
    work.claim(workdir, config, allow_change=allow_config_change)
    if is_new:
        os.makedirs(own_copy, exist_ok=True)
        dataset_info.write_dataset_info(own_copy, records.info)
