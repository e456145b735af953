"""What is in TensorBoard: a sentence on how to read each chart, and which come first.

A run's and its evaluations' summaries have names such as clusters/audio/churn; every
name matches a row of SENTENCES, whose text TensorBoard shows with the chart.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from xdc_tf.runtime import compat, escaping, workdir
from xdc_tf.runtime.typed_settings import Whole


@dataclass(frozen=True)
class TensorBoardSettings:
    """What a run writes for TensorBoard beside its curves."""

    # Clusters of each source that are shown in every round, from the largest to the
    # smallest; 0: no pictures and no sound.
    clusters_shown: Annotated[int, Whole(0, 64)] = 8
    examples_per_cluster: Annotated[int, Whole(1, 32)] = 8
    # Of each source in every round, where records have the waveform.
    sounds_per_source: Annotated[int, Whole(0, 64)] = 4
    # Whose last features the projector shows; 0: none.
    projector_examples: Annotated[int, Whole(0, 10_000)] = 2000


# Pattern of the whole name of a summary -> how to read it; the first that matches.
SENTENCES: Sequence[tuple[str, str]] = (
    (
        r"training/learning_rate",
        "The learning rate of the last step: it starts anew with every round.",
    ),
    (
        r"training/clips_per_sec",
        "Clips trained on per second, over all devices: a fall means that something "
        "else uses the machine, or that input is late.",
    ),
    (
        r"training/input_wait_share",
        "Fraction of a step's time spent waiting for input: well above 0, decoding "
        "or the disk is the limit and not the device.",
    ),
    (
        r"training/skipped_steps",
        "Steps left out so far because they were not finite: if it goes on rising, "
        "lower the learning rate.",
    ),
    (
        r"training/.+/loss",
        "Cross-entropy of this head on its labels in training: falls within a round "
        "and jumps where one begins, as heads and labels are new.",
    ),
    (
        r"training/.+/accuracy",
        "Fraction of training clips whose label this head predicts: compare it with "
        "1 / num_clusters, chance, and with the held-out one.",
    ),
    (
        r"held_out/.+/loss",
        "Cross-entropy of this head on videos never trained on: where it rises while "
        "the training loss falls, the round is too long.",
    ),
    (
        r"held_out/.+/accuracy",
        "Fraction of videos never trained on whose cluster this head predicts: what "
        "can be known of one modality's clusters from the other modality.",
    ),
    (
        r"clusters/nmi_of_.+",
        "Normalised mutual information of two sources' clusters, 0 unrelated and 1 "
        "the same: should rise over rounds as the modalities agree on more.",
    ),
    (
        r"clusters/ari_of_.+",
        "Adjusted Rand index of two sources' clusters, 0 by chance and 1 the same: "
        "should rise over rounds; less forgiving than NMI.",
    ),
    (
        r"clusters/entropy_of_.+",
        "Nats that remain unknown of the first clustering's label when the second's is "
        "known: the lower, the better one predicts the other.",
    ),
    (
        r"clusters/.+/sizes",
        "Distribution of the examples per cluster, a slice per round: a tail to the "
        "right is a few clusters that take most examples.",
    ),
    (
        r"clusters/.+/num_clusters",
        "Number of clusters that were asked for: constant, to compare others with.",
    ),
    (
        r"clusters/.+/num_examples",
        "Examples that the clusters were fitted to: constant, unless records change.",
    ),
    (
        r"clusters/.+/size_.+",
        "Examples in the smallest, largest or a quantile of the clusters: lines that "
        "stay together mean even clusters.",
    ),
    (
        r"clusters/.+/entropy",
        "Entropy of the cluster sizes in nats: log(num_clusters) where all are equal, "
        "0 where one has all.",
    ),
    (
        r"clusters/.+/effective_clusters",
        "Number of equal clusters with the same entropy: a fall over rounds is the "
        "beginning of a collapse.",
    ),
    (
        r"clusters/.+/effective_share",
        "Effective clusters as a fraction of all: near 1 clusters are even, and below "
        "config.health.min_effective_share they count as collapsed.",
    ),
    (
        r"clusters/.+/largest_share",
        "Fraction of the examples in the largest cluster: a rise towards 1 is a "
        "collapse.",
    ),
    (
        r"clusters/.+/empty_clusters",
        "Clusters without an example: should be 0.",
    ),
    (
        r"clusters/.+/empty_reseeded",
        "Empty clusters that the fit placed anew: many in every round mean that there "
        "are too many clusters.",
    ),
    (
        r"clusters/.+/inertia",
        "Sum of squared distances to the centroids: compares rounds of one run alone, "
        "as features change their scale.",
    ),
    (
        r"clusters/.+/mean_squared_distance",
        "Inertia per example: of normalised features between 0, all at their "
        "centroid, and about 1, no clusters at all.",
    ),
    (
        r"clusters/.+/churn",
        "Fraction of the examples that changed their cluster since the round before, "
        "apart from renaming: should fall as the run settles.",
    ),
    (
        r"clusters/.+/(nmi|ari)_with_previous_round",
        "Agreement with the clusters of the round before: should rise; near 1, further "
        "rounds change little.",
    ),
    (
        r"clusters/.+/(nmi|ari)_with_true_labels",
        "Agreement with the records' own labels, which training never sees: rises "
        "where clusters come to mean classes.",
    ),
    (
        r"clusters/.+/purity",
        "Fraction of the examples in their cluster's commonest class: grows with the "
        "number of clusters by itself, so compare equal numbers.",
    ),
    (
        r"clusters/.+/collapsed",
        "Rises to 1 where the clustering counts as collapsed by config.health.",
    ),
    (
        r"clusters/.+/contact_sheet",
        "Random members of clusters from the largest to the smallest, each with its "
        "middle frame and log-mel: a line whose pictures have something in common is "
        "a cluster that means something.",
    ),
    (
        r"clusters/.+/sound",
        "Sound of the first member of each line of the contact sheet, in its order: "
        "listen for what pictures do not show.",
    ),
    (
        r"clusters/cross_table_of_.+",
        "Examples by two sources' clusters, sorted so that what agrees lies on a "
        "falling line: the thinner the line, the more the modalities agree.",
    ),
    (
        r"criteria/effective_rank_of_.+",
        "Directions that the features use: one that falls to a few is a collapse; "
        "compares runs of one width.",
    ),
    (
        r"criteria/stability_of_.+",
        "Agreement (ARI) of k-means with itself from other centroids: low where the "
        "features have no clusters to be found, 1 where there is one way to cut them.",
    ),
    (
        r"criteria/same_cluster_of_.+",
        "How often two clips of a video are in one cluster, 0 by chance and 1 always: "
        "low where clusters are of the moment and not of the video.",
    ),
    (
        r"criteria/held_out_of_.+",
        "Accuracy on held-out videos at the end of the round before, 0 at the "
        "commonest cluster and 1 at the best: what one modality tells of the other; "
        "should leave 0 within a few rounds.",
    ),
    (
        r"criteria/retrieval_of_.+",
        "How high one modality's features rank the other's of the same video, through "
        "a linear map of other videos, 0 by chance and 1 first: should rise.",
    ),
    (
        r"run/configuration",
        "Every key of the configuration; the step says from where on it holds.",
    ),
    (
        r"run/command",
        "What was called, and by which versions; a text per start of the run.",
    ),
    (
        r"run/data",
        "Figures of the records that the run is trained on.",
    ),
    (
        r"evaluation/.+/confusion",
        "Test videos by true class (rows) and predicted class (columns), over all "
        "splits: mistakes are what is bright beside the diagonal.",
    ),
    (
        r"evaluation/.+/split_[^/]+/learning_rate",
        "Learning rate of the head by epoch of this evaluation's training.",
    ),
    (
        r"evaluation/.+/split_[^/]+/train_(loss|accuracy)",
        "By epoch on the labelled training clips: compare with the held-out curve, a "
        "growing distance is overfitting.",
    ),
    (
        r"evaluation/.+/split_[^/]+/held_out_(loss|accuracy)",
        "By epoch on training videos that were held out, by which the epoch is chosen: "
        "no test video has a part in it.",
    ),
    (
        r"evaluation/.+",
        "Result on test videos, the mean over splits: a point per evaluation, to be "
        "compared between runs at equal settings.",
    ),
)

# Title of each chart of the layout -> pattern of the names of its curves.
FIRST_CHARTS: Sequence[tuple[str, str]] = (
    ("1. Agreement of the modalities (NMI): should rise", r"clusters/nmi_of_.+$"),
    (
        "2. Held-out accuracy: one modality predicts the other's clusters",
        r"held_out/.+/accuracy$",
    ),
    ("3. Held-out loss: a rise means a round too long", r"held_out/.+/loss$"),
    ("4. Training loss: falls within each round", r"training/.+/loss$"),
    (
        "5. Effective clusters, of all: a fall is a collapse",
        r"clusters/[^/]+/effective_share$",
    ),
    (
        "6. Examples in the largest cluster: a rise is a collapse",
        r"clusters/[^/]+/largest_share$",
    ),
    (
        "7. Churn since the round before: should fall",
        r"clusters/[^/]+/churn$",
    ),
    (
        "8. Agreement with true labels (NMI), never trained on",
        r"clusters/[^/]+/nmi_with_true_labels$",
    ),
    ("9. Clips per second", r"training/clips_per_sec$"),
    (
        "10. Waiting for input: near 0, or the disk is slow",
        r"training/input_wait_share$",
    ),
)
_CATEGORY = "What matters first"


def describe(name: str) -> str:
    """How to read a summary, in a sentence; Markdown.

    Args:
      name: of the summary.

    Raises:
      KeyError: no row of SENTENCES is of this name.
    """
    for pattern, sentence in SENTENCES:
        if re.fullmatch(pattern, name):
            return sentence
    raise KeyError(f"charts.SENTENCES has no row for {name}; add one.")


def layout() -> bytes:
    """The summary by which TensorBoard shows FIRST_CHARTS under "Custom Scalars"."""
    from tensorboard.plugins.custom_scalar import layout_pb2, summary

    charts = [
        layout_pb2.Chart(
            title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern])
        )
        for title, pattern in FIRST_CHARTS
    ]
    category = layout_pb2.Category(title=_CATEGORY, chart=charts)
    return summary.pb(layout_pb2.Layout(category=[category])).SerializeToString()


def run_texts(
    *, name: str, config: Mapping[str, Any], data: Mapping[str, Any], command: str
) -> dict[str, str]:
    """What a run is, as Markdown by the name of the summary.

    Args:
      name: of the run.
      config: nested by section.
      data: figures of the records, by what they are.
      command: that started it; "" if it was no command.
    """
    heading = f"**{escaping.markdown(name)}**\n\n"
    about = {"command": command or "called from Python", **compat.versions()}
    return {
        "run/configuration": heading + _table("key", dict(workdir.flatten(config))),
        "run/command": heading + _table("of the start", about),
        "run/data": heading + _table("of the records", data),
    }


def _table(kind: str, values: Mapping[str, Any]) -> str:
    lines = [
        f"| {escaping.markdown(key)} | {escaping.markdown(str(value))} |"
        for key, value in values.items()
    ]
    return "\n".join([f"| {kind} | |", "|---|---|", *lines])
