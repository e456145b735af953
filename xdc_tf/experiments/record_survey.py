"""What records hold, as far as clustering across modalities depends on it.

Of a sample of the examples the clip is read that a run clusters, in the middle of each.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from xdc_tf.data import pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.dataset_info import shard_paths
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.data.record_directory import OpenRecords
from xdc_tf.training import configuration, supervision
from xdc_tf.training.configuration import Config

_BATCH_SIZE = 16
# In 255ths: a frame whose mean is less is black, frames that differ by less are still.
_BLACK, _STILL = 20.0, 1.0
# Standard deviation of normalised log-mel, whose own is 1.
_SILENT = 0.05
# Fraction of the sample from which a kind of defect is worth a sentence.
_WORTH_SAYING = 0.02
_FEW_EXAMPLES = 500
_ADVICE = {
    "silent": "their clusters are of nothing heard; remove them from the manifest",
    "black": "there is nothing to see; remove them, or set start_secs past the black",
    "still": "motion cannot be learned from them; pictures with sound still can",
    "repeated": "repeated files count several times; remove them from the manifest",
}


class Survey(NamedTuple):
    """Figures of records.

    Attributes:
      num_examples: that the records have.
      num_quarantined: rows that were not converted.
      num_sampled: examples that were looked at.
      fractions: of those, by "silent", "black", "still" and "repeated", as far as the
        records have what it takes to tell.
    """

    num_examples: int
    num_quarantined: int
    num_sampled: int
    fractions: dict[str, float]


def survey(records: OpenRecords, config: Config, *, max_examples: int) -> Survey:
    """Looks at records.

    Args:
      records: opened.
      config: of the run that they are for: its clip, and the modalities of its method.
      max_examples: to sample, evenly spread over the manifest.

    Raises:
      ValueError: a shard is damaged; names it.
    """
    indices = np.sort(records.examples.example_indices)
    places = np.linspace(0, len(indices) - 1, min(max_examples, len(indices)))
    keep = np.zeros(records.info.num_rows, bool)
    keep[indices[np.unique(places.round().astype(int))]] = True
    source = ClipSource(
        shard_paths(records.directory, records.info),
        clip=configuration.clip(config, records.info),
        modalities=supervision.modalities(supervision.method(config.method)),
        promised=records.promised,
    )
    found: dict[str, list[bool]] = {}
    seen: set[bytes] = set()
    for batch in pipeline.evaluation_batches(
        source, batch_size=_BATCH_SIZE, keep=keep
    ).as_numpy_iterator():
        for place in np.flatnonzero(batch["example_index"] >= 0):
            example = {name: batch[name][place] for name in source.modalities}
            for name, value in _defects(example, seen).items():
                found.setdefault(name, []).append(value)
    return Survey(
        len(indices),
        records.info.num_quarantined,
        int(keep.sum()),
        {name: float(np.mean(values)) for name, values in found.items()},
    )


def _defects(example: dict[str, np.ndarray], seen: set[bytes]) -> dict[str, bool]:
    digest = hashlib.sha256()
    defects = {}
    if VIDEO in example:
        frames = example[VIDEO].astype(np.float32)
        digest.update(example[VIDEO].tobytes())
        defects["black"] = bool(frames.mean(axis=(1, 2, 3)).max() < _BLACK)
        changes = np.abs(np.diff(frames, axis=0))
        defects["still"] = len(frames) > 1 and bool(changes.mean() < _STILL)
    if AUDIO in example:
        digest.update(example[AUDIO].tobytes())
        defects["silent"] = bool(example[AUDIO].std() < _SILENT)
    defects["repeated"] = digest.digest() in seen
    seen.add(digest.digest())
    return defects


def describe(survey: Survey) -> list[str]:
    """The figures and what follows from them, a sentence each."""
    lines = [
        f"{survey.num_examples} videos, {survey.num_quarantined} rows that were not "
        f"converted; the middle of {survey.num_sampled} was looked at."
    ]
    if survey.num_examples < _FEW_EXAMPLES:
        lines.append(
            f"Fewer than {_FEW_EXAMPLES} videos are few: encoders learn them by heart. "
            "Cut long ones into segments (data_prep.convert --segment_secs), or "
            "start from trained weights (xdc-tf import-weights)."
        )
    lines += [
        f"{fraction:.0%} are {name}: {_ADVICE[name]}."
        for name, fraction in survey.fractions.items()
        if fraction >= _WORTH_SAYING
    ]
    return lines
