"""The evaluation protocols, one row each: their settings, and how they are run.

Imports no TensorFlow, so that `--help` of the command names the protocols at once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xdc_tf.evaluation import reports
from xdc_tf.evaluation.reports import SplitResult

if TYPE_CHECKING:
    import tensorflow as tf

    from xdc_tf.data.clips import ClipSettings
    from xdc_tf.evaluation.encoder_sources import Source
    from xdc_tf.evaluation.labelled_records import Split

LOGISTIC, SGD = "logistic", "sgd"


class Options(NamedTuple):
    """What a user asks for; each protocol takes what is a key of its settings.

    Attributes:
      recipe: configuration with the keys of configs/finetune/base.py, for protocols
        that train a classifier by SGD.
      solver: LOGISTIC or SGD, of the linear protocol.
      num_clips: clips per video; None for the protocol's default, or the recipe's.
      with_initial: the linear protocol also scores the encoders that a run started
        from.
      batch_size: clips per batch; None for that of the run, or the recipe's.
      seed: of the SVM's cross-validation.
      num_jobs: threads of the SVM's cross-validation.
      save_dir: directory for finetuned classifiers; None to keep none.
    """

    recipe: Mapping[str, Any] | None = None
    solver: str = LOGISTIC
    num_clips: int | None = None
    with_initial: bool = True
    batch_size: int | None = None
    seed: int = 0
    num_jobs: int = 1
    save_dir: str | None = None


def key(
    allowed: Any,
    default: Any = dataclasses.MISSING,
    *,
    group: str | None = None,
    reported: bool = True,
) -> Any:
    """A field of a Settings class.

    Args:
      allowed: the range of its values, such as typed_settings.Whole; None where the
        class checks them itself.
      default: None if it may be left open; none for a key that recipes must give.
      group: of a recipe's key: the part of the configuration that it lies in, "" for
        the top. None for a key that no recipe has.
      reported: whether a report states it.
    """
    metadata = {"allowed": allowed, "group": group, "reported": reported}
    return dataclasses.field(default=default, metadata=metadata)


class NonEmpty(NamedTuple):
    """A range: a tuple of one or more values, each within another range."""

    range: Any

    def fits(self, value: Any) -> bool:
        is_tuple = isinstance(value, tuple) and bool(value)
        return is_tuple and all(map(self.range.fits, value))

    def __str__(self) -> str:
        return f"one or more values, each {self.range}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the protocols' settings, which checks its fields, all made by `key`.

    Raises:
      ValueError: when made, on a value out of its range; names key, value and range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            allowed, value = field.metadata["allowed"], getattr(self, field.name)
            if allowed is None or (value is None and field.default is None):
                continue
            if not allowed.fits(value):
                raise ValueError(f"{self.shown(field.name)} must be {allowed}.")

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
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["reported"]
        }

    def shown(self, name: str) -> str:
        """A key, as the command line has it where a recipe gives it, and its value."""
        field = {field.name: field for field in dataclasses.fields(self)}[name]
        group, value = field.metadata["group"], getattr(self, name)
        if group is not None:
            name = ".".join(filter(None, ("config", group, name)))
        # Without the quotes of lists, so that the middle of long ones can be left out.
        text = str(value) if isinstance(value, list | tuple) else repr(value)
        return f"{name}={text[:200]}"


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
        encoders' Source, the labelled Splits, an instance of `settings`, the names of
        the encoders, one or more, and the tf.distribute.Strategy, None for the present
        one.
    """

    settings: type[Settings]
    run: Callable[..., Results]


def _linear() -> Protocol:
    from xdc_tf.evaluation import linear

    return Protocol(linear.LinearSettings, linear.run)


def _finetune() -> Protocol:
    from xdc_tf.evaluation import finetune
    from xdc_tf.evaluation.finetune_settings import FinetuneSettings

    return Protocol(FinetuneSettings, finetune.run)


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
