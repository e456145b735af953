"""Pretraining: rounds of clustering and training on the clusters (XDC, section 3)."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.distribution import workers
from xdc_tf.features import extraction
from xdc_tf.labels import health, label_changes, label_tables
from xdc_tf.models import encoder_table, two_stream
from xdc_tf.runtime import compat, typed_settings
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.runtime.signals import Stop
from xdc_tf.training import (
    charts,
    configuration,
    optimizers,
    projector,
    round_criteria,
    round_labels,
    run_features,
    supervision,
    train_step,
)
from xdc_tf.training.batches import (
    batches_per_pass,
    evaluation_batches,
    training_batches,
)
from xdc_tf.training.checkpoints import Phase
from xdc_tf.training.configuration import Config
from xdc_tf.training.round_pictures import RoundPictures
from xdc_tf.training.run import Run, prepare
from xdc_tf.training.train_round import (
    RoundContext,
    save_finished_round,
    save_initial,
    train_round,
)

_POSITION = "the position (round, phase, step, first step of the round)"


def pretrain(
    config: Config | Mapping[str, Any],
    *,
    workdir: str,
    records_dir: str,
    strategy: tf.distribute.Strategy,
    allow_config_change: bool = False,
    stop: Stop | None = None,
    command: str = "",
) -> None:
    """Pretrains, from the start or from the last checkpoint in the work directory.

    Args:
      config: see configuration.from_mapping.
      workdir: where everything is written; see WORKSPACE.md.
      records_dir: records by data_prep.convert.
      strategy: the devices.
      allow_config_change: go on in a work directory of another configuration.
      stop: whether signals ask the process to leave; None: they do not.
      command: what started it, for people.

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
    config = configuration.from_mapping(config)
    if config.deterministic:
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
            run_rounds(run, stop or Stop(), command=command)
        # None leaves before the others are done: they would take it for lost.
        workers.any_process(run.strategy, False)
    print(f"{workdir} has all its {config.num_rounds} rounds.", flush=True)


def run_rounds(run: Run, stop: Stop, *, command: str = "") -> None:
    """Does what a run has left to do."""
    restored = run.checkpoints.restore()
    progress = run.state.progress
    workers.check_same(run.strategy, [int(value) for value in progress[:4]], _POSITION)
    if restored:
        print(f"Going on from step {int(progress.step)} in {run.workdir}.", flush=True)
    describe_start(run, command)
    context = make_round_context(run)
    if not restored:
        save_initial_encoders(run, context)
        # What the first clustering has extracted belongs to these encoders' files.
        run.checkpoints.save()
    num_rounds = run.config.num_rounds
    for round_index in range(int(progress.round_index), num_rounds):
        if progress.phase == Phase.CLUSTER:
            start_round(run, context, round_index)
        with stop.deferred():
            train_round(run, context, round_index, stop=stop)
            finish_round(run, context, round_index)
    if progress.phase == Phase.CLUSTER:
        # What the finished encoders see; a further round would train on it.
        start_round(run, context, num_rounds)


def describe_start(run: Run, command: str) -> None:
    """Writes for TensorBoard what the run is."""
    config, info = run.config, run.records.info
    texts = charts.run_texts(
        name=run_directory.run_name(run.workdir, config.name),
        config=configuration.to_mapping(config),
        data={
            "records": run.records.directory,
            "examples": info.num_examples,
            "trained on": int(run.records.trained.sum()),
            "held out": int(run.records.held_out.sum()),
            "rows that were not converted": info.num_quarantined,
            "modalities": ", ".join(info.modalities),
            "frames per second": info.fps,
            "short side in pixels": info.short_side,
            "classes": len(info.label_names),
        },
        command=command,
    )
    run.monitor.start(texts, step=int(run.state.progress.step))


def make_round_context(run: Run) -> RoundContext:
    """Makes what the rounds use; takes the disk that the run's features need."""
    store = run_features.open_store(run)
    collector = run_features.make_collector(run, store)
    model, tables, training = (
        run.state.model,
        run.state.label_tables,
        run.config.training,
    )
    return RoundContext(
        train=train_step.make_train_step(
            model,
            run.method,
            tables,
            run.state.optimizer,
            strategy=run.strategy,
            settings=train_step.StepSettings(
                global_batch_size=training.batch_size,
                accumulate_steps=training.accumulate_steps,
                recomputes=training.gradient_checkpointing,
                returns_features=collector.collects,
                clip_norm=run.config.optimizer.clip_norm,
                seed=run.config.seed,
            ),
        ),
        evaluate=train_step.make_evaluation_step(
            model,
            run.method,
            tables,
            strategy=run.strategy,
            returns_features=collector.collects,
        ),
        extract_clips=run_features.make_extract_clips(run),
        store=store,
        collector=collector,
        training_batches=None if training.balance_clusters else training_batches(run),
        held_out_batches=evaluation_batches(run, keep=run.records.held_out),
        portable_encoders={
            stream: encoder_table.build(
                configuration.architectures(run.config)[modality],
                configuration.portable_layers(run.config),
                f"{stream}_encoder",
                configuration.clip(run.config, None),
            )
            for stream, modality in run.method.streams.items()
        },
        pictures=RoundPictures(run),
    )


def save_initial_encoders(run: Run, context: RoundContext) -> None:
    """Saves the encoders as they start; random ones with batch-norm statistics."""
    num_batches = min(run.config.features.batch_norm_batches, batches_per_pass(run))
    extraction.refresh_batch_norm(
        {
            stream: encoder
            for stream, encoder in run.state.model.encoders.items()
            if stream not in run.pretrained_streams
        },
        run.method.streams,
        itertools.islice(training_batches(run), num_batches),
        strategy=run.strategy,
    )
    save_initial(run, context.portable_encoders)


def start_round(run: Run, context: RoundContext, round_index: int) -> None:
    """Extracts features, clusters them, writes label tables, takes them as labels.

    Raises:
      CollapseError: on collapsed clusters, where config.health.on_collapse is stop.
    """
    if context.store is not None:
        features = run_features.to_cluster(
            run, context.store, context.extract_clips, round_index
        )
        clusterings = round_labels.cluster(run, features, round_index)
        staying = round_labels.staying(run, clusterings, round_index)
        keeps_heads = run.config.labels.keep_heads and round_index > 0
        if keeps_heads:
            clusterings = {
                name: label_changes.match_clusters(
                    clustering, run.state.label_tables[name].numpy()
                )
                for name, clustering in clusterings.items()
            }
        clusterings |= staying
        sources = round_labels.given_sources(run, round_index)
        given = frozenset(
            name
            for name in clusterings
            if name in staying or label_tables.source_of(name) in sources
        )
        report_clusterings(
            run, context, features, clusterings, round_index, given=given
        )
        if round_index == run.config.num_rounds:
            workers.on_chief(
                run.strategy, lambda: projector.write(run, features, clusterings)
            )
        round_labels.load(run, features, clusterings, round_index, given=given)
        if not keeps_heads:
            two_stream.reset_heads(
                run.state.model,
                seed=round_labels.round_seed(run, round_index, "heads"),
                kept=supervision.heads_of(run.method, staying),
            )
    start_training(run)


def report_clusterings(
    run: Run,
    context: RoundContext,
    features: extraction.Features,
    clusterings: Mapping[str, label_tables.Clustering],
    round_index: int,
    *,
    given: frozenset[str],
) -> None:
    """Measures the clusterings; writes their label tables, measures and pictures.

    Those named in `given` are not of these features.

    Raises:
      CollapseError: see start_round; when all has been written.
    """
    limits = run.config.health
    health_report = health.build_report(
        clusterings,
        previous=lambda name: run.state.label_tables[name].numpy(),
        true_labels=run.records.true_labels,
        settings=limits,
        round_index=round_index,
    )
    health_report["criteria"] = round_criteria.measure(
        run,
        features,
        clusterings,
        extract_clips=context.extract_clips,
        evaluate=context.evaluate,
        held_out_batches=context.held_out_batches,
        round_index=round_index,
        given=given,
    )
    run.monitor.clusterings(clusterings, health_report)
    workers.on_chief(
        run.strategy,
        lambda: round_criteria.warn_unless_taken_off(
            run, health_report["criteria"], round_index
        ),
    )
    workers.on_chief(
        run.strategy,
        lambda: write_label_tables(
            run, round_index, clusterings, health_report, are_given=bool(given)
        ),
    )
    workers.on_chief(
        run.strategy, lambda: context.pictures.write(clusterings, round_index)
    )
    if round_index < run.config.num_rounds:
        health.check_collapses(health_report, limits)


def start_training(run: Run) -> None:
    """Saves the run at the first step of its round's training."""
    optimizers.clear_slots(run.state.optimizer)
    progress = run.state.progress
    progress.round_first_step.assign(progress.step)
    progress.best_loss.assign(float("inf"))
    progress.stale_epochs.assign(0)
    progress.phase.assign(Phase.TRAIN)
    run.checkpoints.save()


def write_label_tables(
    run: Run,
    round_index: int,
    clusterings: Mapping[str, label_tables.Clustering],
    health_report: Mapping[str, Any],
    *,
    are_given: bool,
) -> None:
    """Writes a round's label tables and health for people and other programs."""
    label_tables.write(
        run_directory.round_dir(run.workdir, round_index),
        clusterings=clusterings,
        video_ids=_video_ids(run),
        settings={
            "method": run.config.method,
            "round": round_index,
            "seed": run.config.seed,
            "step": int(run.state.progress.step),
            "encoders_sha256": (
                None if are_given else run_features.clustered_encoders(run, round_index)
            ),
            "kmeans": typed_settings.to_mapping(run.config.kmeans),
            "features": typed_settings.to_mapping(run.config.features),
            "labels": typed_settings.to_mapping(run.config.labels),
            "manifest_sha256": run.records.info.manifest_sha256,
            "versions": compat.versions(),
        },
        health=health_report,
    )


def _video_ids(run: Run) -> Iterator[str]:
    """Of each row of the manifest in turn, empty for one without an example."""
    examples = run.records.examples
    positions = np.full(run.records.info.num_rows, -1, np.int32)
    positions[examples.example_indices] = np.arange(len(examples.example_indices))
    for position in positions:
        yield examples.video_ids[position] if position >= 0 else ""


def finish_round(run: Run, context: RoundContext, round_index: int) -> None:
    """Saves the round's encoders and heads and moves on to the next round."""
    save_finished_round(run, context.portable_encoders)
    commit = context.collector.prepare_commit()
    run.state.progress.round_index.assign(round_index + 1)
    run.state.progress.phase.assign(Phase.CLUSTER)
    run.checkpoints.save(first=commit)
