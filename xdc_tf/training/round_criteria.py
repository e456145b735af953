"""A round's criteria: what its features and clusterings are worth, without labels.

They are measured when a round has been clustered, before its labels replace those of
the round before, and are the "criteria" of its health.json:

    effective_rank_of_STREAM    directions that the features use
    stability_of_SOURCE         of the clusters, when k-means starts elsewhere
    same_cluster_of_SOURCE      another clip of the video is in the same cluster
    held_out_of_HEAD            held-out accuracy of the round before
    retrieval_of_A_by_B         A's features found by B's, of other videos than the
                                map between them was fitted to

Those of streams are of the features that are clustered. All but the rank are 0 at
chance and 1 at the best. In a run of several processes they are of the chief's files.
"""

import itertools
import os
from collections.abc import Callable, Container, Iterable, Mapping

import numpy as np
import tensorflow as tf

from xdc_tf.features.extraction import ClipFeatures, Features
from xdc_tf.labels import (
    criteria,
    health,
    label_changes,
    label_makers,
    label_tables,
    pseudo_labels,
)
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import supervision
from xdc_tf.training.batches import evaluation_batches
from xdc_tf.training.monitoring import head_means
from xdc_tf.training.run import Run

# Two to fit a map to, and two to rank.
_FEWEST_ROWS = 4


def measure(
    run: Run,
    features: Features,
    clusterings: Mapping[str, Clustering],
    *,
    extract_clips: Callable,
    evaluate: Callable,
    held_out_batches: Iterable,
    round_index: int,
    given: Container[str],
) -> dict[str, float]:
    """The criteria of a round; see the module.

    Args:
      run: its heads and label tables still those of the round before.
      features: of this process's examples, which are clustered.
      clusterings: of the round, with the labels of all examples.
      extract_clips: of run_features.make_extract_clips.
      evaluate: of train_step.make_evaluation_step.
      held_out_batches: of the examples that are never trained on.
      round_index: from 0.
      given: names of the clusterings that are not of these features.

    Returns:
      By name; one that cannot be measured is missing.
    """
    settings = run.config.criteria
    if not settings.max_examples:
        return {}
    rng = np.random.default_rng([run.config.seed, round_index, 4])
    measured = _of_features(run, features, rng)
    own = {name: c for name, c in clusterings.items() if name not in given}
    if own:
        measured |= _of_other_clips(run, own, extract_clips, rng)
    if round_index and run.records.held_out.any():
        measured |= _of_held_out(run, evaluate, held_out_batches)
    return {name: float(x) for name, x in measured.items() if np.isfinite(x)}


def warn_unless_taken_off(
    run: Run, measured: Mapping[str, float], round_index: int
) -> None:
    """Warns after 2, 4, 8, ... rounds where training has not taken off.

    Args:
      run: with the label table of its first round on disk.
      measured: criteria of the round.
      round_index: from 0.
    """
    is_due = round_index >= 2 and round_index & (round_index - 1) == 0
    first = run_directory.round_dir(run.workdir, 0)
    if not is_due or not measured or not os.path.isdir(first):
        return
    described = criteria.describe_start(
        label_tables.read_health(first).get("criteria", {}),
        measured,
        num_examples=min(
            int((run.records.trained | run.records.held_out).sum()),
            run.config.criteria.max_examples,
        ),
    )
    if not described:
        return
    by_encoders = run.config.labels.first_features == label_changes.ENCODERS
    run.monitor.warn(
        f"After {round_index} rounds the run has not taken off: {described}. It may "
        "later. If it stays so, try "
        f"{'config.labels.first_features=statistics, ' if by_encoders else ''}"
        "more config.training.epochs_per_round, another "
        "config.optimizer.learning_rate or config.kmeans.num_clusters (xdc-tf advise "
        "tries some), and look whether frames and sound have anything to do with each "
        "other (python -m data_prep.inspect)."
    )


def _sample(rng: np.random.Generator, rows: np.ndarray, size: int) -> np.ndarray:
    """At most so many of the rows, in order."""
    return np.sort(rng.permutation(rows)[:size])


def _of_features(
    run: Run, features: Features, rng: np.random.Generator
) -> dict[str, float]:
    rows = _sample(
        rng, np.flatnonzero(features.present), run.config.criteria.max_examples
    )
    if len(rows) < _FEWEST_ROWS:
        return {}
    streams = {}
    for stream, matrix in features.streams.items():
        streams[stream] = np.asarray(matrix[rows], np.float32)
        arrays.give_back(matrix)  # each row has brought its neighbours along
    measured = {
        f"effective_rank_of_{stream}": criteria.effective_rank(matrix)
        for stream, matrix in streams.items()
    }
    options = pseudo_labels.fit_options(run.config.kmeans)
    for source, clustered in supervision.clustered_sources(run.method).items():
        joined = pseudo_labels.side_by_side([streams[name] for name in clustered])
        measured[f"stability_of_{source}"] = criteria.stability(
            joined, options._replace(num_restarts=1), seed=int(rng.integers(2**31))
        )
    # At random: rows in turn may be of classes in turn.
    fitted = rng.permutation(len(rows)) % 2 == 0
    for stream, other in itertools.permutations(streams, 2):
        measured[f"{criteria.RETRIEVAL}{other}_by_{stream}"] = criteria.retrieval(
            streams[stream], streams[other], fitted=fitted
        )
    return measured


def _of_other_clips(
    run: Run,
    clusterings: Mapping[str, Clustering],
    extract_clips: Callable,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Of two clips of held-out videos, or of trained ones where none are held out."""
    records = run.records
    candidates = records.held_out if records.held_out.any() else records.trained
    # All processes extract together, so that none may have nothing to do.
    local = np.zeros_like(candidates)
    local[records.local.rows] = candidates[records.local.rows]
    rows = _sample(rng, np.flatnonzero(local), run.config.criteria.max_examples)
    keep = np.zeros_like(candidates)
    keep[rows] = True
    batches = list(extract_clips(evaluation_batches(run, num_clips=2, keep=keep)))
    if not batches or not len(rows):
        return {}
    clips = ClipFeatures(
        np.concatenate([batch.example_index for batch in batches]),
        np.concatenate([batch.start_secs for batch in batches]),
        {
            stream: np.concatenate([batch.streams[stream] for batch in batches])
            for stream in run.method.streams
        },
    )
    order = np.lexsort((clips.start_secs, clips.example_index))
    measured = {}
    for name, clustering in filter(
        lambda item: health.is_first_head(item[0]), clusterings.items()
    ):
        streams = supervision.clustered_streams(run.method, name)
        joined = pseudo_labels.side_by_side([clips.streams[s] for s in streams])
        labels = label_makers.nearest(tf.constant(joined[order]), clustering).cluster
        first, second = labels.numpy().reshape(-1, 2).T
        measured[f"same_cluster_of_{label_tables.source_of(name)}"] = (
            criteria.same_cluster(first, second)
        )
    return measured


def _of_held_out(
    run: Run, evaluate: Callable, held_out_batches: Iterable
) -> dict[str, float]:
    sums = [evaluate(batch).sums for batch in held_out_batches]
    measured = {}
    for stream, sources in run.method.supervision.items():
        for source in filter(health.is_first_head, sources):
            labels = run.state.label_tables[source].numpy()
            trained = labels[run.records.trained & (labels >= 0)]
            held_out = labels[run.records.held_out & (labels >= 0)]
            head = supervision.head_name(stream, source)
            if len(trained) and len(held_out):
                commonest = np.bincount(trained).argmax()
                measured[f"held_out_of_{head}"] = criteria.above_chance(
                    head_means(sums)[head]["accuracy"],
                    float(np.mean(held_out == commonest)),
                )
    return measured
