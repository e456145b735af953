"""The protocols by name: an encoder source and labelled splits -> a report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from xdc_tf.evaluation import (
    cluster_quality,
    encoder_sources,
    finetune,
    labelled_records,
    linear,
    reports,
    retrieval,
    svm,
)
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.reports import SplitResult

# Clips per video, averaged as the protocol says, unless asked for otherwise. None: as
# many as the run's clusters were made of.
_NUM_CLIPS = {"linear": 3, "finetune": 10, "svm": 10, "retrieval": 10, "clusters": None}
PROTOCOLS = tuple(_NUM_CLIPS)
LOGISTIC, SGD = "logistic", "sgd"


class Options(NamedTuple):
    """What a protocol may be told.

    Attributes:
      streams: names of the encoders; none for all.
      recipe: of training a classifier: of finetune, and of linear by SGD.
      solver: of linear, LOGISTIC or SGD.
      num_clips: per video; None for the protocol's own, or the recipe's.
      with_initial: linear also tells what a run's encoders were before it.
      batch_size: clips per batch; None for that of the run, or the recipe's.
      seed: of the cross-validation of svm.
      num_jobs: threads of the cross-validation.
      save_dir: where finetuned classifiers go; None: nowhere.
    """

    streams: Sequence[str] = ()
    recipe: FinetuneSettings = FinetuneSettings()
    solver: str = LOGISTIC
    num_clips: int | None = None
    with_initial: bool = True
    batch_size: int | None = None
    seed: int = 0
    num_jobs: int = 1
    save_dir: str | None = None


def trains(protocol: str, solver: str) -> bool:
    """Whether a protocol trains a classifier by a recipe."""
    return protocol == "finetune" or (protocol == "linear" and solver == SGD)


def evaluate(
    protocol: str,
    source: Source,
    splits: Sequence[Split],
    options: Options,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> dict[str, Any]:
    """Runs a protocol on all splits.

    Args:
      protocol: one of PROTOCOLS.
      source: of the encoders.
      splits: labelled records with their test records.
      options: see there.
      strategy: the devices; None for the present one.

    Returns:
      A report, see reports.make_report.

    Raises:
      FileNotFoundError, FloatingPointError, OSError: see the protocol's module.
      ValueError: on an unknown protocol, stream or solver; and see there.
    """
    if protocol not in PROTOCOLS or options.solver not in (LOGISTIC, SGD):
        raise ValueError(
            f"--protocol={protocol} with --solver={options.solver} is unknown; choose "
            f"one of {', '.join(PROTOCOLS)}, and {LOGISTIC} or {SGD} for linear."
        )
    streams = encoder_sources.check_streams(source, options.streams)
    notes = [
        f"split {split.name}: {warning}"
        for split in splits
        for warning in split.warnings
    ]
    num_clips = options.num_clips or _NUM_CLIPS[protocol]
    common = {"batch_size": options.batch_size, "strategy": strategy}
    settings: dict[str, Any] = {"streams": list(streams), "num_clips": num_clips}
    if trains(protocol, options.solver):
        recipe = options.recipe
        recipe = recipe._replace(frozen=recipe.frozen or protocol == "linear")
        if options.num_clips:
            recipe = recipe._replace(num_clips=options.num_clips)
        if options.batch_size:
            recipe = recipe._replace(eval_batch_size=options.batch_size)
        results = finetune.evaluate_splits(
            source,
            splits,
            streams=streams,
            settings=recipe,
            strategy=strategy or tf.distribute.get_strategy(),
            save_dir=options.save_dir,
        )
        settings |= _as_json(recipe)
        notes.append(results[0][0].details["selection"])
    elif protocol == "linear":
        results = linear.evaluate_splits(
            source,
            splits,
            streams=streams,
            num_clips=num_clips,
            with_initial=options.with_initial,
            **common,
        )
    elif protocol == "svm":
        of_svm = svm.SvmSettings(seed=options.seed, num_jobs=options.num_jobs)
        results = svm.evaluate_splits(
            source,
            splits,
            streams=streams,
            num_clips=num_clips,
            settings=of_svm,
            **common,
        )
        settings |= _as_json(of_svm)
    elif protocol == "retrieval":
        results = retrieval.evaluate_splits(
            source, splits, streams=streams, num_clips=num_clips, **common
        )
        across = retrieval.not_across(source, streams)
        notes += [across] if across else []
    else:
        results = cluster_quality.evaluate_splits(
            source, splits, streams=streams, num_clips=num_clips, **common
        )
    if protocol == "linear":
        settings["solver"] = options.solver
    return _report(protocol, source, splits, results, settings, notes)


def _report(
    protocol: str,
    source: Source,
    splits: Sequence[Split],
    results: Sequence[Sequence[SplitResult]],
    settings: dict[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    return reports.make_report(
        protocol,
        results,
        split_names=[split.name for split in splits],
        source={
            stream: encoder_sources.describe(source, stream)
            for stream in settings["streams"]
        },
        settings=settings,
        config=source.run.stored_config,
        records={
            split.name: {
                name: labelled_records.describe(part)
                for name, part in (("train", split.train), ("test", split.test))
            }
            for split in splits
        },
        notes=notes,
    )


def _as_json(settings: NamedTuple) -> dict[str, Any]:
    """A NamedTuple, and those in it, as JSON holds them."""
    return {
        name: _as_json(value) if hasattr(value, "_asdict") else value
        for name, value in settings._asdict().items()
    }
