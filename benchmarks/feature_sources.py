"""What features cost, by a pass or from training, and how the labels differ.

    python -m benchmarks.feature_sources --out=feature_sources

makes videos of the embedded benchmark in --out, converts them, and trains rounds of
configs/synthetic.py twice, on labels clustered from harvested features and from passes.
After each round of the first it clusters the harvested features, and those of a pass
with the same encoders, under the same seed, and compares the labels. Last it times
training steps with and without harvesting, in turn, on the same batches. Prints tables
in Markdown. A second run makes the videos no second time.
"""

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_prep import conversion, conversion_settings, synthetic
from data_prep.worker_processes import PoolSettings
from xdc_tf.configs import synthetic as benchmark_config
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.features import extraction
from xdc_tf.features.extraction import Features
from xdc_tf.features.feature_store import FeatureStore, RowState
from xdc_tf.labels import agreement, pseudo_labels
from xdc_tf.runtime import compat
from xdc_tf.runtime.signals import Stop
from xdc_tf.training import pretrain, run_features, supervision, train_step
from xdc_tf.training.batches import evaluation_batches
from xdc_tf.training.configuration import FROM_PASS, FROM_TRAINING
from xdc_tf.training.run import Run, prepare


class Comparison(NamedTuple):
    """Labels of one source after a round; each number is an NMI."""

    round_number: int
    source: str
    harvested_and_pass: float
    two_seeds: float  # of a pass's features, clustered twice
    pass_and_truth: float
    harvested_and_truth: float


class Cost(NamedTuple):
    """What features cost after a round, in seconds."""

    round_number: int
    pass_secs: float
    num_rest: int  # examples that no step has seen
    rest_secs: float  # a pass over these


class StepTimes(NamedTuple):
    """Seconds per training step, of the same batches in turn."""

    plain: np.ndarray
    harvesting: np.ndarray


def make_records(out_dir: str, num_videos: int) -> str:
    """The benchmark's records in a directory, made unless they are there."""
    records = os.path.join(out_dir, "records")
    if not os.path.exists(os.path.join(records, "dataset_info.json")):
        manifest = synthetic.make_benchmark(
            os.path.join(out_dir, "videos"),
            num_videos=num_videos,
            seed=0,
            num_workers=os.cpu_count(),
        )
        stored = conversion_settings.ConversionSettings(
            fps=8.0,
            short_side=48,
            jpeg_quality=90,
            min_secs=0.5,
            max_secs=60.0,
            store_waveform=False,
            log_mel=LogMelSettings(),
        )
        conversion.convert_manifest(
            manifest, records, settings=stored, pool=PoolSettings(os.cpu_count())
        )
    return records


def run_rounds(
    config: dict[str, Any], *, workdir: str, records: str, num_rounds: int
) -> Iterator[tuple[int, Run, pretrain.RoundContext]]:
    """Trains from the start, and yields after each round how many it has been."""
    shutil.rmtree(workdir, ignore_errors=True)
    run = prepare(
        # One more than are run: what follows the last clusters like any other.
        config | {"num_rounds": num_rounds + 1},
        workdir=workdir,
        records_dir=records,
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        allow_config_change=False,
    )
    context = pretrain.make_round_context(run)
    pretrain.save_initial_encoders(run, context)
    for round_index in range(num_rounds):
        pretrain.start_round(run, context, round_index)
        pretrain.train_round(run, context, round_index, stop=Stop())
        pretrain.finish_round(run, context, round_index)
        yield round_index + 1, run, context
    run.monitor.close()


def labels_of(run: Run, features: Features, *, seed: int) -> dict[str, np.ndarray]:
    """The labels that a round would train on, by source."""
    clusterings = pseudo_labels.cluster(
        features,
        supervision.clustered_sources(run.method),
        fitted_rows=run.records.trained,
        settings=run.config.kmeans,
        seed=seed,
        strategy=run.strategy,
    )
    return {source: clustering.labels for source, clustering in clusterings.items()}


def pass_over_all(run: Run, extract_clips, store: FeatureStore) -> Features:
    """Features of all examples by a pass, into a store of its own."""
    store.keep_only(harvested_in=None, extracted_by=None)
    batches = evaluation_batches(run, keep=run.records.trained | run.records.held_out)
    store.fill(extraction.average_clips(extract_clips(batches)))
    return store.features()


def compare(
    round_number: int,
    run: Run,
    rounds: pretrain.RoundContext,
    by_pass: Features,
    *,
    pass_secs: float,
) -> tuple[Cost, list[Comparison]]:
    """Clusters what a round's training gave, and a pass with the same encoders.

    Args:
      round_number: rounds done.
      run: after that round.
      rounds: of the run, whose features are of its training.
      by_pass: of the run's encoders as they are.
      pass_secs: what that took.

    Returns:
      The cost, and a comparison per source.
    """
    examples = run.records.trained | run.records.held_out
    num_rest = int(np.sum(examples & (rounds.store.states != RowState.HARVESTED)))
    started = time.perf_counter()
    harvested = run_features.to_cluster(
        run, rounds.store, rounds.extract_clips, round_number
    )
    cost = Cost(round_number, pass_secs, num_rest, time.perf_counter() - started)
    nmi = agreement.normalized_mutual_information
    truth = run.records.true_labels
    of_pass, again, of_harvested = (
        labels_of(run, features, seed=seed)
        for features, seed in ((by_pass, 1), (by_pass, 2), (harvested, 1))
    )
    return cost, [
        Comparison(
            round_number,
            source,
            harvested_and_pass=nmi(of_harvested[source], labels),
            two_seeds=nmi(again[source], labels),
            pass_and_truth=nmi(labels, truth),
            harvested_and_truth=nmi(of_harvested[source], truth),
        )
        for source, labels in of_pass.items()
    ]


def time_steps(run: Run, rounds: pretrain.RoundContext, *, num_steps: int) -> StepTimes:
    """Times steps without and with harvesting, one after the other in turn."""
    plain_step = train_step.make_train_step(
        run.state.model,
        run.method,
        run.state.label_tables,
        run.state.optimizer,
        strategy=run.strategy,
        settings=train_step.StepSettings(run.config.training.batch_size),
    )

    def plain(batch):
        plain_step(batch)

    def harvesting(batch):
        result = rounds.train(batch)
        rounds.collector.add(result.encoded, round_index=0, step=0)

    times = ([], [])
    both = ((plain, times[0]), (harvesting, times[1]))
    for number in range(num_steps + 1):
        batch = next(rounds.training_batches)
        # In turn, since the second step finds the batch in the cache.
        for step, secs in both if number % 2 else both[::-1]:
            started = time.perf_counter()
            step(batch)
            secs.append(time.perf_counter() - started)
    # The first ones trace the functions.
    return StepTimes(*(np.array(secs[1:]) for secs in times))


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory of videos and runs")
    parser.add_argument("--num_videos", type=int, default=600)
    parser.add_argument("--num_rounds", type=int, default=3)
    parser.add_argument("--num_steps", type=int, default=200, help="to be timed")
    parser.add_argument("--seed", type=int, default=0, help="of the runs")
    arguments = parser.parse_args()
    records = make_records(arguments.out, arguments.num_videos)
    config = benchmark_config.get_config().to_dict() | {"seed": arguments.seed}
    costs, comparisons, truth = [], [], {}
    for source in (FROM_TRAINING, FROM_PASS):
        config["features"]["source"] = source
        for round_number, run, rounds in run_rounds(
            config,
            workdir=os.path.join(arguments.out, source),
            records=records,
            num_rounds=arguments.num_rounds,
        ):
            store = FeatureStore(
                os.path.join(arguments.out, f"{source}_compared"),
                num_rows=run.records.info.num_rows,
                widths={
                    stream: encoder.output_shape[-1]
                    for stream, encoder in run.state.model.encoders.items()
                },
                dtype="float32",
                made_with={},
            )
            started = time.perf_counter()
            by_pass = pass_over_all(run, rounds.extract_clips, store)
            pass_secs = time.perf_counter() - started
            if source == FROM_TRAINING:
                cost, compared = compare(
                    round_number, run, rounds, by_pass, pass_secs=pass_secs
                )
                costs.append(cost)
                comparisons += compared
                if round_number == arguments.num_rounds:
                    times = time_steps(run, rounds, num_steps=arguments.num_steps)
            for name, labels in labels_of(run, by_pass, seed=1).items():
                truth[source, round_number, name] = (
                    agreement.normalized_mutual_information(
                        labels, run.records.true_labels
                    )
                )
    _print(costs, comparisons, truth, times)


def _print(costs, comparisons, truth, times) -> None:
    print(", ".join(f"{name} {value}" for name, value in compat.versions().items()))
    print("\n| after round | pass, s | examples no step saw | a pass over these, s |")
    print("|--:|--:|--:|--:|")
    for cost in costs:
        print(
            f"| {cost.round_number} | {cost.pass_secs:.1f} | {cost.num_rest} | "
            f"{cost.rest_secs:.1f} |"
        )
    plain, harvesting = 1000 * times.plain, 1000 * times.harvesting
    print(
        f"\nA training step takes {np.median(plain):.1f} ms, with harvesting "
        f"{np.median(harvesting):.1f} ms (medians of {len(plain)} in turn; median "
        f"difference {np.median(harvesting - plain):+.2f} ms)."
    )
    print(
        "\nNMI of the labels, clustered from the same encoders' features:\n\n"
        "| after round | clusters of | harvested and pass | pass, two seeds | "
        "pass and true | harvested and true |\n|--:|---|--:|--:|--:|--:|"
    )
    for row in comparisons:
        print(
            f"| {row.round_number} | {row.source} | "
            + " | ".join(f"{value:.3f}" for value in row[2:])
            + " |"
        )
    print(
        "\nNMI with the true labels of what a pass gives after each round, by what the "
        "run was trained on:\n\n| after round | clusters of | trained on passes | "
        "trained on harvested |\n|--:|---|--:|--:|"
    )
    for source, round_number, name in truth:
        if source == FROM_PASS:
            print(
                f"| {round_number} | {name} | {truth[source, round_number, name]:.3f} "
                f"| {truth[FROM_TRAINING, round_number, name]:.3f} |"
            )


if __name__ == "__main__":
    main()
