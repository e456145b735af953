"""Pretraining: rounds of clustering and training on the clusters (XDC, section 3)."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf import compat, files
from xdc_tf import workdir as work
from xdc_tf.clustering import (
    features,
    health,
    label_arrays,
    label_tables,
    pseudo_labels,
)
from xdc_tf.clustering.feature_store import FeatureStore
from xdc_tf.models import encoder_files, two_stream
from xdc_tf.training import (
    optimizers,
    run_features,
    schedules,
    settings,
    supervision,
    train_step,
    workers,
)
from xdc_tf.training.batches import (
    batches_per_pass,
    evaluation_batches,
    training_batches,
)
from xdc_tf.training.checkpoints import Phase
from xdc_tf.training.run import Run, prepare

_POSITION = "the position (round, phase, step, first step of the round)"


class Work(NamedTuple):
    """What every round does, traced once, and what it does it with."""

    train: Callable
    evaluate: Callable
    extract_clips: Callable
    store: FeatureStore | None
    harvest: run_features.Harvest
    training_batches: Iterator | None  # None: balanced, anew in every round
    held_out_batches: Iterable
    portable_encoders: Mapping[str, keras.Model]  # receive weights to be saved


def pretrain(
    config: Mapping[str, Any],
    *,
    workdir: str,
    records_dir: str,
    strategy: tf.distribute.Strategy,
    allow_config_change: bool = False,
) -> None:
    """Pretrains, from the start or from the last checkpoint in the work directory.

    Args:
      config: the keys of configs/base.py.
      workdir: where everything is written; see WORKSPACE.md.
      records_dir: records by data_prep.convert.
      strategy: the devices.
      allow_config_change: go on in a work directory of another configuration.

    Raises:
      FileNotFoundError: without records.
      ValueError: on settings that do not fit each other, the records or the work
        directory.
      FloatingPointError: on a loss that is not finite.
      CollapseError: on collapsed clusters, where config.health.on_collapse is stop.
    """
    run = prepare(
        config,
        workdir=workdir,
        records_dir=records_dir,
        strategy=strategy,
        allow_config_change=allow_config_change,
    )
    restored = run.checkpoints.restore()
    workers.check_same(
        run.strategy, [int(value) for value in run.progress[:4]], _POSITION
    )
    if restored:
        print(f"Going on from step {int(run.progress.step)} in {workdir}.", flush=True)
        work_of_rounds = prepare_work(run)
    else:
        work_of_rounds = prepare_work(run)
        start_encoders(run, work_of_rounds)
        # What the first clustering has extracted belongs to these encoders' files.
        run.checkpoints.save()
    num_rounds = config["num_rounds"]
    for round_index in range(int(run.progress.round_index), num_rounds):
        if run.progress.phase == Phase.CLUSTER:
            assign_labels(run, work_of_rounds, round_index)
        train_round(run, work_of_rounds, round_index)
        finish_round(run, work_of_rounds, round_index)
    if run.progress.phase == Phase.CLUSTER:
        # What the finished encoders see; a further round would train on it.
        assign_labels(run, work_of_rounds, num_rounds)
    run.monitor.close()
    # None leaves before the others are done: they would take it for lost.
    workers.any_process(run.strategy, False)
    print(f"{workdir} has all its {num_rounds} rounds.", flush=True)


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
    features.refresh_batch_norm(
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
    save_encoders(run, work_of_rounds, initial=True)


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
        found = health.report(
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
            health.check(found, criteria)
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


def train_round(run: Run, work_of_rounds: Work, round_index: int) -> None:
    """Trains on the round's labels until its epochs are over or patience runs out."""
    config, training = run.config, run.config["training"]
    steps_per_epoch = batches_per_pass(run)
    if training["max_steps_per_epoch"]:
        steps_per_epoch = min(steps_per_epoch, training["max_steps_per_epoch"])
    num_steps = steps_per_epoch * training["epochs_per_round"]
    schedule = settings.schedule(config)
    already_done = int(run.progress.step) - int(run.progress.round_first_step)
    harvest = work_of_rounds.harvest
    harvest.start_round(round_index)
    if _out_of_patience(run):
        return
    batches = work_of_rounds.training_batches
    if batches is None:
        batches = training_batches(run, balanced=True)
    run.monitor.start_timer(int(run.progress.step))
    unreported = []
    for done in range(already_done + 1, num_steps + 1):
        rate = schedules.learning_rate(schedule, done - 1, num_steps)
        compat.set_learning_rate(run.optimizer, rate)
        result = work_of_rounds.train(next(batches))
        unreported.append(result.sums)
        step = int(run.progress.step.assign_add(1))
        harvest.add(result.encoded, round_index=round_index, step=step)
        end_of_epoch = done % steps_per_epoch == 0
        save_now = step % config["checkpoint_every_steps"] == 0
        if len(unreported) >= config["log_every_steps"] or end_of_epoch or save_now:
            run.monitor.training(
                unreported,
                round_index=round_index,
                step=step,
                step_in_round=done,
                steps_in_round=num_steps,
                learning_rate=rate,
            )
            unreported = []
        if end_of_epoch or save_now:
            two_stream.average_statistics(run.model.encoders.values(), run.strategy)
        if end_of_epoch and run.records.held_out.any():
            measure_held_out(run, work_of_rounds, round_index)
            if _out_of_patience(run):
                return
        if save_now:
            harvest.commit()
            run.checkpoints.save()


def _out_of_patience(run: Run) -> bool:
    return 0 < run.config["training"]["patience"] <= run.progress.stale_epochs


def measure_held_out(run: Run, work_of_rounds: Work, round_index: int) -> None:
    """Measures the loss on the held-out examples and counts epochs without progress."""
    harvest, step = work_of_rounds.harvest, int(run.progress.step)
    sums = []
    for batch in work_of_rounds.held_out_batches:
        result = work_of_rounds.evaluate(batch)
        sums.append(result.sums)
        harvest.add(result.encoded, round_index=round_index, step=step)
    loss = run.monitor.held_out(sums, round_index=round_index, step=step)
    if loss < run.progress.best_loss:
        run.progress.best_loss.assign(loss)
        run.progress.stale_epochs.assign(0)
    else:
        run.progress.stale_epochs.assign_add(1)
    run.monitor.start_timer(step)


def finish_round(run: Run, work_of_rounds: Work, round_index: int) -> None:
    """Saves the round's encoders and heads and moves on to the next round."""
    save_encoders(run, work_of_rounds)
    workers.on_chief(run.strategy, lambda: save_heads(run, round_index))
    work_of_rounds.harvest.commit()
    run.progress.round_index.assign(round_index + 1)
    run.progress.phase.assign(Phase.CLUSTER)
    run.checkpoints.save()


def save_heads(run: Run, round_index: int) -> None:
    """Writes the heads, and what encoders.json tells."""
    for stream, sources in run.method.supervision.items():
        layers = {
            source: run.model.heads[supervision.head_name(stream, source)]
            for source in sources
        }
        heads = {
            source: encoder_files.Head(layer.kernel.numpy(), layer.bias.numpy())
            for source, layer in layers.items()
        }
        encoder_files.save_heads(heads, work.heads_file(run.workdir, stream))
    best_loss = float(run.progress.best_loss)
    told = {
        "rounds": round_index + 1,
        "steps": int(run.progress.step),
        "held_out_loss": best_loss if np.isfinite(best_loss) else None,
    }
    path = os.path.join(run.workdir, work.ENCODERS_FILE)
    files.write_text(path, json.dumps(told) + "\n")


def save_encoders(run: Run, work_of_rounds: Work, *, initial: bool = False) -> None:
    """Writes every encoder as a .keras file that opens without this project."""
    portable = work_of_rounds.portable_encoders
    for stream, encoder in portable.items():
        encoder.set_weights(run.model.encoders[stream].get_weights())

    def save() -> None:
        for stream, encoder in portable.items():
            encoder_files.save_encoder(
                encoder, work.encoder_file(run.workdir, stream, initial=initial)
            )

    workers.on_chief(run.strategy, save)
