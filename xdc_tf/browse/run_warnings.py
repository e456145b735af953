"""What the overview warns of: collapse, and clusters of what is no content."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xdc_tf.browse import cluster_tables
from xdc_tf.browse.members import Member
from xdc_tf.browse.opened_run import OpenedRun
from xdc_tf.data import record_index
from xdc_tf.data.dataset_info import shard_paths
from xdc_tf.labels import agreement, health
from xdc_tf.labels.label_tables import Clustering

# A cluster of fewer members says nothing.
_FEWEST = 5
_MOST_OF_IT = 0.5
_NEARLY_ALL = 0.95
# Between fields of frames, in 255ths: less is the same picture, coded again.
_SAME_PICTURE = 2.5
_SILENCE_DB = 60.0
_BLACK = 0.08  # limited range puts black at 16 of 255

Warning = dict[str, Any]

_ADVICE = {
    "collapse": (
        "Lower config.optimizer.learning_rate or config.kmeans.num_clusters, or set "
        "config.kmeans.balanced or config.kmeans.pca_components."
    ),
    "recording": (
        "The cluster follows a recording, not what is in it. Take fewer segments of a "
        "recording (--max_segments), or more recordings."
    ),
    "duplicates": (
        "Remove repeated files from the manifest and convert again; what is there "
        "several times counts several times."
    ),
    "silence": (
        "Look whether these files have the right sound track; leave them out of the "
        "manifest if they have none."
    ),
    "black": (
        "Look whether these files show anything; leave them out of the manifest, or "
        "give start_secs and end_secs past the black beginning."
    ),
    "extension": (
        "Coding may be what the cluster has in common. Bring all files to one format "
        "and convert again, and see whether the cluster stays."
    ),
}


def collapse_warnings(
    run: OpenedRun, round_index: int, clusterings: Mapping[str, Clustering]
) -> Iterator[Warning]:
    """Of each clustering of a round that has collapsed by the run's own limits."""
    for name, clustering in clusterings.items():
        sizes = cluster_tables.cluster_sizes(
            clustering.labels, len(clustering.centroids)
        )
        if not sizes.any():
            continue
        reasons = health.describe_collapse(
            health.measures_of_sizes(sizes), run.config.health
        )
        if reasons:
            yield _warning(
                "collapse", round_index, name, None, f"Collapsed: {reasons}."
            )


def member_warnings(
    run: OpenedRun,
    round_index: int,
    clusterings: Mapping[str, Clustering],
    *,
    members: Mapping[str, Sequence[Sequence[Member]]],
    media: Mapping[str, Mapping[str, Any]],
) -> Iterator[Warning]:
    """Of clusters of the last round that have something else than content in common.

    Recordings, exact duplicates and endings of names are of all members; silence, black
    frames and near-duplicates of those that are shown.

    Args:
      run: whose clusters they are.
      round_index: of the round.
      clusterings: of the round.
      members: of each clustering and cluster, those that are shown.
      media: of each example with a clip, its facts in state.json.
    """
    groups = _Groups(run)
    for name, clustering in clusterings.items():
        sizes = cluster_tables.cluster_sizes(
            clustering.labels, len(clustering.centroids)
        )
        found = [
            *groups.recording_warnings(clustering.labels, sizes),
            *groups.duplicate_warnings(clustering.labels, sizes),
            *groups.extension_warnings(clustering.labels, sizes),
        ]
        for cluster, shown in enumerate(members.get(name, ())):
            facts = [
                media[str(member.example)]
                for member in shown
                if str(member.example) in media
            ]
            found += [(cluster, *rest) for rest in _of_shown(facts)]
        for cluster, kind, text in found:
            yield _warning(kind, round_index, name, cluster, text)


def _warning(
    kind: str, round_index: int, source: str, cluster: int | None, text: str
) -> Warning:
    return {
        "kind": kind,
        "round": round_index,
        "source": source,
        "cluster": cluster,
        "text": text,
        "advice": _ADVICE[kind],
    }


class _Groups:
    """Numbers of what examples have in common: recording, content, ending of name."""

    def __init__(self, run: OpenedRun):
        examples = run.records.examples
        indices = examples.example_indices
        self.recording = np.full(run.num_rows, -1, np.int32)
        self.content = np.full(run.num_rows, -1, np.int32)
        self.extension = np.full(run.num_rows, -1, np.int32)
        recordings: dict[str, int] = {}
        extensions: dict[str, int] = {}
        for index, video_id in zip(indices.tolist(), examples.video_ids, strict=True):
            path = video_id.partition("#t=")[0]
            ending = os.path.splitext(path)[1].lower()
            self.recording[index] = recordings.setdefault(path, len(recordings))
            self.extension[index] = extensions.setdefault(ending, len(extensions))
        self.extensions = list(extensions)
        self.num_recordings = len(recordings)
        hashes = record_index.content_hashes(
            shard_paths(run.records.directory, run.records.info),
            indices,
            run.records.promised,
        )
        _, self.content[indices] = np.unique(hashes, return_inverse=True)
        counts = np.bincount(self.content[indices], minlength=1)
        self.repeated = np.zeros(run.num_rows, np.int32)
        self.repeated[indices] = counts[self.content[indices]] > 1

    def recording_warnings(self, labels, sizes) -> Iterator[tuple[int, str, str]]:
        """Of clusters that are mostly of one recording."""
        if self.num_recordings < 2:
            return
        for cluster, _, count in _largest(labels, self.recording, sizes):
            if count > _MOST_OF_IT * sizes[cluster]:
                yield (
                    cluster,
                    "recording",
                    f"{count} of {sizes[cluster]} members are of one recording.",
                )

    def duplicate_warnings(self, labels, sizes) -> Iterator[tuple[int, str, str]]:
        """Of clusters of which most are there more than once."""
        pairs = agreement.count_pairs(labels, self.repeated).tocoo()
        for cluster, is_repeated, count in zip(
            *map(np.ndarray.tolist, (*pairs.coords, pairs.data)), strict=True
        ):
            if (
                is_repeated
                and count > _MOST_OF_IT * sizes[cluster]
                and (sizes[cluster] >= _FEWEST)
            ):
                yield (
                    cluster,
                    "duplicates",
                    f"{count} of {sizes[cluster]} members have the same content as "
                    "another example.",
                )

    def extension_warnings(self, labels, sizes) -> Iterator[tuple[int, str, str]]:
        """Of clusters of files of one format, which is not that of most files."""
        there = self.extension[self.extension >= 0]
        counts = np.bincount(there, minlength=1)
        if len(counts) < 2:
            return
        for cluster, ending, count in _largest(labels, self.extension, sizes):
            is_rare = counts[ending] < _MOST_OF_IT * len(there)
            if is_rare and count >= _NEARLY_ALL * sizes[cluster]:
                yield (
                    cluster,
                    "extension",
                    f"{count} of {sizes[cluster]} members are "
                    f"{self.extensions[ending] or 'names without an ending'}, as "
                    f"{counts[ending]} of {len(there)} examples are.",
                )


def _largest(
    labels: np.ndarray, groups: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[int, int, int]]:
    """Of each cluster that is large enough its commonest group, and how common."""
    pairs = agreement.count_pairs(labels, groups)
    for cluster in range(pairs.shape[0]):
        here = slice(pairs.indptr[cluster], pairs.indptr[cluster + 1])
        if sizes[cluster] >= _FEWEST and len(counts := pairs.data[here]):
            place = int(np.argmax(counts))
            yield cluster, int(pairs.indices[here][place]), int(counts[place])


def _of_shown(facts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Kind and text of what most of the shown members of a cluster are."""
    checks: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
        "silence": (
            "are nearly silent",
            lambda clip: clip["has_sound"] and clip["quiet_db"] > _SILENCE_DB,
        ),
        "black": ("are black", lambda clip: clip["brightness"] < _BLACK),
    }
    if len(facts) < _FEWEST:
        return
    for kind, (what, applies) in checks.items():
        count = sum(map(applies, facts))
        if count > _MOST_OF_IT * len(facts):
            yield kind, f"{count} of {len(facts)} shown members {what}."
    prints = np.array(
        [list(bytes.fromhex(f["fingerprint"])) for f in facts if f["fingerprint"]],
        float,
    )
    if len(prints) < _FEWEST:
        return
    apart = np.abs(prints[:, None] - prints[None]).mean(axis=2)
    np.fill_diagonal(apart, np.inf)
    count = int((apart.min(axis=1) < _SAME_PICTURE).sum())
    if count > _MOST_OF_IT * len(prints):
        yield (
            "duplicates",
            f"{count} of {len(prints)} shown members look the same as another.",
        )
