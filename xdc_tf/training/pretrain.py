"""Pretraining: rounds of clustering and training on the clusters (XDC, section 3)."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.distribution import workers
from xdc_tf.features import extraction
from xdc_tf.labels import health, label_arrays, label_tables, pseudo_labels
from xdc_tf.models import two_stream
from xdc_tf.runtime import compat
from xdc_tf.runtime import workdir as work
from xdc_tf.runtime.signals import Stop
from xdc_tf.training import (
    config_ranges,
    optimizers,
    run_features,
    saved_encoders,
    settings,
    supervision,
    train_step,
)
from xdc_tf.training.batches import (
    batches_per_pass,
    evaluation_batches,
    training_batches,
)
from xdc_tf.training.checkpoints import Phase
from xdc_tf.training.run import Run, prepare
from xdc_tf.training.train_round import Work, train_round

_POSITION = "the position (round, phase, step, first step of the round)"


def pretrain(
    config: Mapping[str, Any],
    *,
    workdir: str,
    records_dir: str,
    strategy: tf.distribute.Strategy,
    allow_config_change: bool = False,
    stop: Stop | None = None,
) -> None:
    """Pretrains, from the start or from the last checkpoint in the work directory.

    Args:
      config: the keys of configs/base.py.
      workdir: where everything is written; see WORKSPACE.md.
      records_dir: records by data_prep.convert.
      strategy: the devices.
      allow_config_change: go on in a work directory of another configuration.
      stop: whether signals ask the process to leave; None: they do not.

    Raises:
      FileNotFoundError: without records.
      ValueError: on settings that do not fit each other, the records or the work
        directory.
      BlockingIOError: if another run is at work in the directory.
      OSError: if the disk fails.
      FloatingPointError: on a loss or gradient that is not finite.
      CollapseError: on collapsed clusters, where config.health.on_collapse is stop.
      Stopped: if a signal asked for it, after what is done has been saved.
    """
    config_ranges.check(config)
    if config["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    run = prepare(
        config,
        workdir=workdir,
        records_dir=records_dir,
        strategy=strategy,
        allow_config_change=allow_config_change,
    )
    with run.lock or contextlib.nullcontext():
        with contextlib.closing(run.monitor), run.checkpoints:
            run_rounds(run, stop or Stop())
        # None leaves before the others are done: they would take it for lost.
        workers.any_process(run.strategy, False)
    print(f"{workdir} has all its {config['num_rounds']} rounds.", flush=True)


def run_rounds(run: Run, stop: Stop) -> None:
    """Does what a run has left to do."""
    restored = run.checkpoints.restore()
    workers.check_same(
        run.strategy, [int(value) for value in run.progress[:4]], _POSITION
    )
    if restored:
        step = int(run.progress.step)
        print(f"Going on from step {step} in {run.workdir}.", flush=True)
        work_of_rounds = prepare_work(run)
    else:
        work_of_rounds = prepare_work(run)
        start_encoders(run, work_of_rounds)
        # What the first clustering has extracted belongs to these encoders' files.
        run.checkpoints.save()
    num_rounds = run.config["num_rounds"]
    for round_index in range(int(run.progress.round_index), num_rounds):
        if run.progress.phase == Phase.CLUSTER:
            assign_labels(run, work_of_rounds, round_index)
        with stop.deferred():
            train_round(run, work_of_rounds, round_index, stop=stop)
            finish_round(run, work_of_rounds, round_index)
    if run.progress.phase == Phase.CLUSTER:
        # What the finished encoders see; a further round would train on it.
        assign_labels(run, work_of_rounds, num_rounds)


def prepare_work(run: Run) -> Work:
    """Makes what the rounds use; takes the disk that the run's features need."""
    store = run_features.open_store(run)
    harvest = run_features.make_harvest(run, store)
    return Work(
        train=train_step.make_train_step(
            run.model,
            run.method,
            run.label_tables,
            run.optimizer,
            strategy=run.strategy,
            global_batch_size=run.config["training"]["batch_size"],
            accumulate_steps=run.config["training"]["accumulate_steps"],
            harvest=harvest.wanted,
        ),
        evaluate=train_step.make_evaluation_step(
            run.model,
            run.method,
            run.label_tables,
            strategy=run.strategy,
            harvest=harvest.wanted,
        ),
        extract_clips=run_features.make_extract_clips(run),
        store=store,
        harvest=harvest,
        training_batches=None
        if run.config["training"]["balance_clusters"]
        else training_batches(run),
        held_out_batches=evaluation_batches(run, keep=run.records.held_out),
        portable_encoders={
            stream: two_stream.build_encoder(
                modality,
                settings.architectures(run.config)[modality],
                settings.portable_layers(run.config),
                f"{stream}_encoder",
            )
            for stream, modality in run.method.streams.items()
        },
    )


def start_encoders(run: Run, work_of_rounds: Work) -> None:
    """Saves the encoders as they start; random ones with batch-norm statistics."""
    extraction.refresh_batch_norm(
        {
            stream: encoder
            for stream, encoder in run.model.encoders.items()
            if stream not in run.pretrained_streams
        },
        run.method.streams,
        itertools.islice(
            training_batches(run),
            min(
                run.config["features"]["batch_norm_batches"],
                batches_per_pass(run),
            ),
        ),
        strategy=run.strategy,
    )
    saved_encoders.save_initial(run, work_of_rounds.portable_encoders)


def assign_labels(run: Run, work_of_rounds: Work, round_index: int) -> None:
    """Clusters the data set and makes the clusters the labels of this round."""
    sources = supervision.clustered_sources(run.method)
    if sources:
        extracted = run_features.to_cluster(
            run, work_of_rounds.store, work_of_rounds.extract_clips, round_index
        )
        clusterings = pseudo_labels.cluster(
            extracted,
            sources,
            fitted_rows=run.records.trained[run.records.share.rows],
            settings=settings.kmeans(run.config),
            seed=_round_seed(run, round_index, "clustering"),
            strategy=run.strategy,
        )
        clusterings = {
            name: clustering._replace(labels=_labels_of_all(run, clustering.labels))
            for name, clustering in clusterings.items()
        }
        criteria = settings.health(run.config)
        found = health.build_report(
            clusterings,
            previous=lambda name: run.label_tables[name].numpy(),
            true_labels=run.records.true_labels,
            settings=criteria,
            round_index=round_index,
        )
        run.monitor.clusterings(clusterings, found)
        workers.on_chief(
            run.strategy,
            lambda: write_label_tables(run, round_index, clusterings, found),
        )
        if round_index < run.config["num_rounds"]:
            health.check_collapses(found, criteria)
        for source, clustering in clusterings.items():
            label_arrays.load(
                run.label_tables[source], clustering.labels, strategy=run.strategy
            )
        two_stream.reset_heads(run.model, seed=_round_seed(run, round_index, "heads"))
    optimizers.clear_slots(run.optimizer)
    run.progress.round_first_step.assign(run.progress.step)
    run.progress.best_loss.assign(float("inf"))
    run.progress.stale_epochs.assign(0)
    run.progress.phase.assign(Phase.TRAIN)
    run.checkpoints.save()


def _labels_of_all(run: Run, labels: np.ndarray) -> np.ndarray:
    records = run.records
    return workers.labels_of_all(
        run.strategy, records.share, labels, records.info.num_rows
    )


def write_label_tables(
    run: Run,
    round_index: int,
    clusterings: Mapping[str, label_tables.Clustering],
    found: Mapping[str, Any],
) -> None:
    """Writes a round's label tables and health for people and other programs."""
    label_tables.write(
        work.round_dir(run.workdir, round_index),
        clusterings=clusterings,
        video_ids=_video_ids(run),
        settings={
            "method": run.config["method"],
            "round": round_index,
            "seed": run.config["seed"],
            "step": int(run.progress.step),
            "encoders_sha256": run_features.clustered_encoders(run, round_index),
            "kmeans": dict(run.config["kmeans"]),
            "features": dict(run.config["features"]),
            "manifest_sha256": run.records.info.manifest_sha256,
            "versions": compat.versions(),
        },
        health=found,
    )


def _video_ids(run: Run) -> Iterator[str]:
    """Of each row of the manifest in turn, empty for one without an example."""
    examples = run.records.examples
    positions = np.full(run.records.info.num_rows, -1, np.int32)
    positions[examples.example_indices] = np.arange(len(examples.example_indices))
    for position in positions:
        yield examples.video_ids[position] if position >= 0 else ""


def _round_seed(run: Run, round_index: int, purpose: str) -> int:
    entropy = [run.config["seed"], round_index, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def finish_round(run: Run, work_of_rounds: Work, round_index: int) -> None:
    """Saves the round's encoders and heads and moves on to the next round."""
    saved_encoders.save_finished_round(run, work_of_rounds.portable_encoders)
    commit = work_of_rounds.harvest.prepare_commit()
    run.progress.round_index.assign(round_index + 1)
    run.progress.phase.assign(Phase.CLUSTER)
    run.checkpoints.save(first=commit)
