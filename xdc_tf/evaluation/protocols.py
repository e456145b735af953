"""The evaluation protocols, one row each: their settings, and how they are run.

Imports no TensorFlow, so that `--help` of the command names the protocols at once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xdc_tf.evaluation import reports
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.runtime import typed_settings

if TYPE_CHECKING:
    import tensorflow as tf

    from xdc_tf.data.clips import ClipSettings
    from xdc_tf.evaluation.encoder_sources import Source
    from xdc_tf.evaluation.labelled_records import Split

LOGISTIC, SGD = "logistic", "sgd"
OF_RUN, MINIBATCH = "run", "minibatch"


class Options(NamedTuple):
    """What a user asks for; each protocol takes what is a key of its settings.

    Attributes:
      recipe: configuration with the keys of configs/finetune/base.py, for protocols
        that train a classifier by SGD.
      solver: LOGISTIC or SGD, of the linear protocol.
      num_clips: clips per video; None for the protocol's default, or the recipe's.
      fusion: the linear and the finetune protocol also classify by all encoders
        together.
      with_initial: the linear protocol also scores the encoders that a run started
        from.
      batch_size: clips per batch; None for that of the run, or the recipe's.
      seed: of the SVM's cross-validation.
      num_jobs: threads of the SVM's cross-validation, or processes of the linear
        protocol's regressions where examples have several labels.
      save_dir: directory for finetuned classifiers; None to keep none.
      clustering: OF_RUN or MINIBATCH, of the clusters protocol.
      num_clusters: of MINIBATCH; 0 for the number of classes.
      num_seeds: of MINIBATCH, whose measures are averaged.
    """

    recipe: Mapping[str, Any] | None = None
    solver: str = LOGISTIC
    num_clips: int | None = None
    fusion: bool = False
    with_initial: bool = True
    batch_size: int | None = None
    seed: int = 0
    num_jobs: int = 1
    save_dir: str | None = None
    clustering: str = OF_RUN
    num_clusters: int = 0
    num_seeds: int = 5


# Behind the range of a key that reports do not state.
UNREPORTED = "unreported"


class Group(NamedTuple):
    """Behind the range of a recipe's key: the section that it lies in, "" for none."""

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the protocols' settings; see typed_settings for what a field states.

    Raises:
      ValueError: when made, on a value out of its range; names key, value and range.
    """

    def __post_init__(self) -> None:
        typed_settings.check(self, key_of=self.key_of)

    @classmethod
    def from_options(cls, options: Options) -> Any:
        """The settings with those of the options that are its keys and not None."""
        names = {field.name for field in dataclasses.fields(cls)}
        given = {
            name: value
            for name, value in options._asdict().items()
            if name in names and value is not None
        }
        return cls(**given)

    def clip(self, trained_on: "ClipSettings") -> "ClipSettings":
        """The clips that recordings are cut into, by the encoder's."""
        return trained_on

    def as_json(self) -> dict[str, Any]:
        """What a report states of the settings, of types that JSON has."""
        return {
            name: getattr(self, name)
            for name, behind in typed_settings.marks(type(self)).items()
            if UNREPORTED not in behind
        }

    @classmethod
    def groups(cls) -> dict[str, list[str]]:
        """Sections of a recipe's configuration and their keys."""
        keys: dict[str, list[str]] = {}
        for name, behind in typed_settings.marks(cls).items():
            for group in behind:
                if isinstance(group, Group):
                    keys.setdefault(group.name, []).append(name)
        return keys

    @classmethod
    def key_of(cls, name: str) -> str:
        """A key as the command line has it, where a recipe gives it."""
        for group, names in cls.groups().items():
            if name in names:
                return ".".join(filter(None, ("config", group, name)))
        return name

    def shown(self, name: str) -> str:
        """A key as of key_of and its value, for messages."""
        return typed_settings.shown(self.key_of(name), getattr(self, name))


# Names of what all encoders give together, in place of a stream's.
FUSED_SCORES, FUSED_FEATURES = "fused_scores", "fused_features"


def check_fusion(streams: Sequence[str]) -> None:
    """Checks that there is something to be fused.

    Raises:
      ValueError: there is but one encoder.
    """
    if len(streams) < 2:
        raise ValueError(
            f"--fusion is of two encoders or more, and streams={list(streams)}; drop "
            "it, or use a run of both modalities."
        )


class Results(NamedTuple):
    """What a protocol gives.

    Attributes:
      splits: for each split one result per stream, the same streams in all.
      notes: what a reader of the report should know, in words.
    """

    splits: list[list[SplitResult]]
    notes: tuple[str, ...] = ()


class Protocol(NamedTuple):
    """A row of PROTOCOLS.

    Attributes:
      settings: its settings, a frozen dataclass in which every key has a default and a
        range.
      run: run(source, splits, settings, *, streams, strategy) -> Results. It gets the
        encoders' Source, the labelled Splits with training and test records, an
        instance of `settings`, the names of the encoders, one or more, and the
        tf.distribute.Strategy, the devices, None for the present one.
      several_labels: whether examples may have several labels.
    """

    settings: type[Settings]
    run: Callable[..., Results]
    several_labels: bool = False


def _linear() -> Protocol:
    from xdc_tf.evaluation import linear

    return Protocol(linear.LinearSettings, linear.run, several_labels=True)


def _finetune() -> Protocol:
    from xdc_tf.evaluation import finetune
    from xdc_tf.evaluation.finetune_settings import FinetuneSettings

    return Protocol(FinetuneSettings, finetune.run, several_labels=True)


def _svm() -> Protocol:
    from xdc_tf.evaluation import svm

    return Protocol(svm.SvmSettings, svm.run)


def _retrieval() -> Protocol:
    from xdc_tf.evaluation import retrieval

    return Protocol(retrieval.RetrievalSettings, retrieval.run)


def _clusters() -> Protocol:
    from xdc_tf.evaluation import cluster_quality

    return Protocol(cluster_quality.ClusterSettings, cluster_quality.run)


# By name the function that imports the row.
PROTOCOLS: dict[str, Callable[[], Protocol]] = {
    "linear": _linear,
    "finetune": _finetune,
    "svm": _svm,
    "retrieval": _retrieval,
    "clusters": _clusters,
}


def load(protocol: str) -> Protocol:
    """The row of a protocol.

    Raises:
      ValueError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"--protocol={protocol} is unknown; choose one of {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[protocol]()


def evaluate(
    protocol: str,
    source: "Source",
    splits: "Sequence[Split]",
    settings: Settings,
    *,
    streams: Sequence[str] = (),
    strategy: "tf.distribute.Strategy | None" = None,
) -> dict[str, Any]:
    """Runs a protocol on all splits.

    Args:
      protocol: one of PROTOCOLS.
      source: of the encoders.
      splits: labelled records with their test records.
      settings: of the protocol's class.
      streams: names of the encoders; none for all.
      strategy: the devices; None for the present one.

    Returns:
      A report, see reports.make_report.

    Raises:
      FileNotFoundError, FloatingPointError, OSError: see the protocol's module.
      ValueError: on an unknown protocol or stream; and see there.
    """
    from xdc_tf.evaluation import encoder_sources, labelled_records

    row = load(protocol)
    streams = encoder_sources.check_streams(source, streams)
    if not row.several_labels:
        labelled_records.check_single(splits, f"--protocol={protocol}")
    results = row.run(source, splits, settings, streams=streams, strategy=strategy)
    warnings = [
        f"split {split.name}: {warning}"
        for split in splits
        for warning in split.warnings
    ]
    return reports.make_report(
        protocol,
        results.splits,
        split_names=[split.name for split in splits],
        source={stream: encoder_sources.describe(source, stream) for stream in streams},
        settings={"streams": list(streams), **settings.as_json()},
        config=source.run.stored_config,
        records={
            split.name: {
                name: labelled_records.describe(part)
                for name, part in (("train", split.train), ("test", split.test))
            }
            for split in splits
        },
        notes=[*warnings, *results.notes],
    )
