"""A round's clusters as pictures and sound, for TensorBoard.

Members are drawn as cluster pages draw them. Of each a frame and a few seconds of audio
are read, found by the index of its shard, and kept while it is shown again. Whatever
cannot be read is left out with a warning, and training goes on.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from scipy import sparse

from xdc_tf.data import example_previews
from xdc_tf.data.example_previews import Preview
from xdc_tf.data.record_directory import OpenRecords
from xdc_tf.labels import agreement, health, shown_members
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import escaping, pictures
from xdc_tf.training.run import Run

TILE_SIDE = 64  # pixels of a frame; audio below it, or alone
_AUDIO_HEIGHT = 24
_GAP = 1
_SORTINGS = 20  # of a cross table's rows and columns


class RoundPictures:
    """Writes the pictures of a run's rounds; of its chief alone."""

    def __init__(self, run: Run):
        """Reads nothing yet."""
        self._run = run
        self._tiles: dict[int, np.ndarray] = {}

    def write(self, clusterings: Mapping[str, Clustering], round_index: int) -> None:
        """Writes contact sheets, cross tables and sounds of a round.

        Args:
          clusterings: of the round, by name; the first of each source are shown.
          round_index: the step of what is written.

        Raises:
          OSError: if events cannot be written.
        """
        settings = self._run.config.tensorboard
        if not settings.clusters_shown:
            return
        first_heads = {
            name: clustering
            for name, clustering in clusterings.items()
            if health.is_first_head(name)
        }
        members = self._choose_members(first_heads)
        self._draw(members)
        drawn = {
            f"clusters/{name}/contact_sheet": self._sheet(
                name, clustering, members[name]
            )
            for name, clustering in first_heads.items()
        }
        for first, second in itertools.combinations(first_heads, 2):
            pairs = agreement.count_pairs(
                first_heads[first].labels, first_heads[second].labels
            )
            if pairs.nnz:
                name = f"clusters/cross_table_of_{first}_and_{second}"
                drawn[name] = draw_cross_table(pairs, first, second)
        self._run.monitor.pictures(drawn, step=round_index)
        for name in first_heads:
            self._write_sounds(name, members[name], round_index)

    def _choose_members(
        self, clusterings: Mapping[str, Clustering]
    ) -> dict[str, dict[int, list[int]]]:
        """By clustering and cluster the examples that are shown.

        They are of the chief's own files; those of others it may not have.
        """
        records, settings = self._run.records, self._run.config.tensorboard
        there = np.zeros(records.info.num_rows, bool)
        there[records.examples.example_indices] = True
        among = records.local.rows[there[records.local.rows]]
        priorities = shown_members.draw_priorities(
            records.info.num_rows, seed=self._run.config.seed
        )
        members = {}
        for name, clustering in clusterings.items():
            clusters = shown_members.clusters_of_all_sizes(
                clustering.sizes, settings.clusters_shown
            )
            drawn = shown_members.random_members(
                clustering.labels,
                clusters,
                priorities=priorities,
                among=among,
                per_cluster=settings.examples_per_cluster,
            )
            members[name] = dict(zip(clusters, drawn, strict=True))
        return members

    def _draw(self, members: Mapping[str, Mapping[int, Sequence[int]]]) -> None:
        """Draws the tiles that are not there, and drops those not shown any more."""
        shown = {
            example
            for of_source in members.values()
            for examples in of_source.values()
            for example in examples
        }
        kept = {k: v for k, v in self._tiles.items() if k in shown}
        self._tiles = kept | draw_or_warn(self._run, sorted(shown - kept.keys()))

    def _sheet(
        self,
        name: str,
        clustering: Clustering,
        members: Mapping[int, Sequence[int]],
    ) -> np.ndarray:
        lines = [
            (
                f"cluster {cluster}: {clustering.sizes[cluster]} examples",
                [self._tiles[k] for k in examples if k in self._tiles],
            )
            for cluster, examples in members.items()
        ]
        return pictures.sheet(
            lines,
            title=f"clusters of {name}: random members, largest cluster first",
            columns=self._run.config.tensorboard.examples_per_cluster,
        )

    def _write_sounds(
        self, name: str, members: Mapping[int, Sequence[int]], round_index: int
    ) -> None:
        info, settings = self._run.records.info, self._run.config.tensorboard
        if not (info.has_waveform and settings.sounds_per_source):
            return
        waveforms = []
        for examples in list(members.values())[: settings.sounds_per_source]:
            for example in examples[:1]:
                try:
                    waveforms.append(
                        example_previews.read_waveform(_source(self._run), example)
                    )
                except (OSError, ValueError, tf.errors.OpError) as error:
                    _warn("sound", [escaping.error_text(error)])
        if waveforms:
            samples = np.zeros([len(waveforms), max(map(len, waveforms))], np.float32)
            for row, waveform in zip(samples, waveforms, strict=True):
                row[: len(waveform)] = np.clip(waveform, -1, 1)
            self._run.monitor.sounds(
                f"clusters/{name}/sound",
                samples,
                sample_rate_hz=info.log_mel.sample_rate_hz,
                step=round_index,
            )


def draw_or_warn(run: Run, examples: Sequence[int]) -> dict[int, np.ndarray]:
    """Tiles of the examples that can be read; a warning says which cannot."""
    previews, faults = example_previews.read_previews(_source(run), examples)
    if faults:
        _warn("pictures", faults)
    return {example: draw_tile(preview) for example, preview in previews.items()}


def _source(run: Run) -> OpenRecords:
    records = run.records
    return OpenRecords(
        records.directory, records.info, records.examples, (), records.promised
    )


def _warn(kind: str, faults: Sequence[str]) -> None:
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    print(
        f"warning: {kind} for TensorBoard: "
        f"{escaping.terminal(faults[0], max_chars=400)}{more}; training goes on.",
        file=sys.stderr,
        flush=True,
    )


def draw_tile(preview: Preview) -> np.ndarray:
    """[H, W, 3] uint8: a frame above a log-mel, or what there is of the two."""
    parts = []
    if preview.frame is not None:
        parts.append(pictures.square(preview.frame, TILE_SIDE))
    if preview.audio_rows is not None:
        height = _AUDIO_HEIGHT if parts else TILE_SIDE
        levels = pictures.spectrogram_levels(preview.audio_rows)
        if parts:
            parts.append(np.full([_GAP, TILE_SIDE, 3], 255, np.uint8))
        parts.append(pictures.resized(pictures.PALETTE[levels], height, TILE_SIDE))
    return np.concatenate(parts)


def draw_cross_table(pairs: sparse.csr_array, first: str, second: str) -> np.ndarray:
    """A picture of the pairs of two sources' clusters, near its diagonal if they agree.

    Rows and columns are sorted in turn by the mean place of their examples in the
    other's order.

    Args:
      pairs: [A, B] of agreement.count_pairs.
      first: name of the rows' source.
      second: the same of the columns.
    """
    most = pictures.MOST_IN_TABLE
    row_sizes, column_sizes = pairs.sum(axis=1), pairs.sum(axis=0)
    rows = np.argsort(-row_sizes, kind="stable")[:most]
    columns = np.argsort(-column_sizes, kind="stable")[:most]
    counts = pairs[rows][:, columns].toarray()
    counts = counts[:, np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))]
    for _ in range(_SORTINGS):
        counts = counts[_by_mean_place(counts)]
        counts = counts[:, _by_mean_place(counts.T)]
    shown = " (the largest)" if max(pairs.shape) > most else ""
    return pictures.table(
        counts,
        title=f"examples by clusters of {first} and {second}",
        rows=f"clusters of {first}{shown}",
        columns=f"clusters of {second}{shown}; both sorted to lie near the diagonal",
    )


def _by_mean_place(counts: np.ndarray) -> np.ndarray:
    """[R] the order of rows by where their examples lie, large counts above all."""
    weights = counts.astype(np.float64) ** 2
    sums = weights @ np.arange(counts.shape[1])
    means = sums / np.maximum(weights.sum(axis=1), 1)
    return np.argsort(means, kind="stable")
