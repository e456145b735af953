"""A run made ready: its records read and checked, its model, data and state built."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf import compat
from xdc_tf import workdir as work
from xdc_tf.clustering import balance
from xdc_tf.clustering.label_tables import NO_LABEL
from xdc_tf.data import dataset_info, pipeline
from xdc_tf.data.augment import Augmentation
from xdc_tf.data.dataset_info import DatasetInfo, Examples
from xdc_tf.models import two_stream
from xdc_tf.models.encoder_files import load_encoder
from xdc_tf.models.two_stream import HeadSettings, TwoStream
from xdc_tf.training import (
    checkpoints,
    optimizers,
    profiling,
    settings,
    supervision,
    trained_run,
)
from xdc_tf.training.checkpoints import Checkpoints, Progress, new_progress
from xdc_tf.training.monitoring import Monitor


class Records(NamedTuple):
    """The training records and what their examples are used for."""

    directory: str
    info: DatasetInfo
    examples: Examples
    true_labels: np.ndarray  # [num_rows] int32, -1 where unknown
    trained: np.ndarray  # [num_rows] bool
    held_out: np.ndarray  # [num_rows] bool, labelled but never trained on


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
    lock: work.Lock
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
    records = _read_records(config, records_dir, supervision.modalities(method))
    layers = settings.training_layers(config)
    num_labels = _num_labels(config, method, records)
    _check_sizes(config, records, strategy)
    settings.clip(config, records.info)
    settings.schedule(config)
    settings.health(config)
    settings.features(config)
    checkpoints.check_keep(config["checkpoints"]["keep"])
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
    lock = _claim_workdir(workdir, config, records, allow_config_change)
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
        ),
        monitor=Monitor(
            os.path.join(workdir, work.TENSORBOARD_DIR),
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
        encoders[stream] = load_encoder(work.encoder_file(directory, stream))
    if not encoders:
        raise ValueError(
            f"config.init_from={directory} has encoders for {list(trained.streams)}, "
            f"and config.method={config['method']} for {list(method.streams)}."
        )
    return encoders


def _read_records(config, records_dir: str, modalities: Sequence[str]) -> Records:
    compat.enable_remote_paths(records_dir)
    info = dataset_info.read_dataset_info(records_dir)
    examples = dataset_info.read_examples(records_dir)
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
    return Records(records_dir, info, examples, true_labels, trained, held_out)


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
    sizes = {
        "training.batch_size": config["training"]["batch_size"],
        "features.batch_size": config["features"]["batch_size"],
    }
    for key, size in sizes.items():
        if size < 1 or size % num_devices:
            raise ValueError(
                f"config.{key}={size} is not a multiple of the {num_devices} devices."
            )
    num_trained = int(records.trained.sum())
    if num_trained < sizes["training.batch_size"]:
        raise ValueError(
            f"{records.directory} has {num_trained} examples to train on, fewer than "
            f"config.training.batch_size={sizes['training.batch_size']}; lower it or "
            "convert more videos."
        )


def _claim_workdir(workdir, config, records: Records, allow_config_change) -> work.Lock:
    work.check_local(workdir)
    os.makedirs(workdir, exist_ok=True)
    lock = work.Lock(workdir)
    try:
        _claim_locked(workdir, config, records, allow_config_change)
    except BaseException:
        lock.release()
        raise
    return lock


def _claim_locked(workdir, config, records: Records, allow_config_change) -> None:
    own_copy = os.path.join(workdir, work.RECORDS_DIR)
    if os.path.exists(own_copy):
        before = dataset_info.read_dataset_info(own_copy)
        if before.manifest_sha256 != records.info.manifest_sha256:
            raise ValueError(
                f"{workdir} was trained on records of another manifest than "
                f"{records.directory} (sha256 {before.manifest_sha256[:12]} there, "
                f"{records.info.manifest_sha256[:12]} now); use another --workdir."
            )
    work.claim(workdir, config, allow_change=allow_config_change)
    os.makedirs(own_copy, exist_ok=True)
    dataset_info.write_dataset_info(own_copy, records.info)


def batches_per_pass(run: Run) -> int:
    """Training batches in one pass over the data set."""
    return int(run.records.trained.sum()) // run.config["training"]["batch_size"]


def training_batches(
    run: Run, *, balanced: bool = False
) -> Iterator[dict[str, tf.Tensor]]:
    """Distributed training batches from the run's present step on.

    Args:
      run: where it stands.
      balanced: draw from all clusters of the present label tables equally often.

    Raises:
      ValueError: if they are to be balanced and there are no labels.
    """
    training = run.config["training"]
    draws = None
    if balanced:
        labels = {source: table.numpy() for source, table in run.label_tables.items()}
        draws = balance.expected_draws(labels, run.records.trained)
    passes, batches = divmod(int(run.progress.step), batches_per_pass(run))
    dataset = pipeline.training_batches(
        dataset_info.shard_paths(run.records.directory, run.records.info),
        clip=settings.clip(run.config, run.records.info),
        augmentation=Augmentation(**run.config["augmentation"]),
        batch_size=training["batch_size"],
        keep=run.records.trained,
        draws=draws,
        seed=run.config["seed"],
        shuffle_buffer=training["shuffle_buffer"],
        first_epoch=passes,
        modalities=supervision.modalities(run.method),
        skip_batches=batches,
    )
    return iter(_distribute(run, dataset))


def evaluation_batches(run: Run, *, num_clips: int = 1, keep: np.ndarray | None = None):
    """Distributed centre clips of all examples, or of those to keep; repeatable."""
    dataset = pipeline.evaluation_batches(
        dataset_info.shard_paths(run.records.directory, run.records.info),
        clip=settings.clip(run.config, run.records.info),
        batch_size=run.config["features"]["batch_size"],
        num_clips=num_clips,
        keep=keep,
        modalities=supervision.modalities(run.method),
    )
    return _distribute(run, dataset)


def _distribute(run: Run, dataset: tf.data.Dataset):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return run.strategy.experimental_distribute_dataset(dataset.with_options(options))
