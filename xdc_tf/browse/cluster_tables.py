"""Figures of a round's clusters, and of how they hang together, as JSON holds them.

All of them follow from the pairs of labels that occur (labels.agreement), which are
counted in blocks, so labels may be memory maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from xdc_tf.browse.page_files import number
from xdc_tf.labels import agreement, health
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays

MOST_LISTED = 12  # classes of a cluster, and clusters of the other modality
MOST_PAIRS = 50_000  # of a flow and of a cross table; the largest
MOST_IN_CELL = 8
MOST_DISAGREEING = 24
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def cluster_sizes(labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """[num_clusters] int64, the examples of each cluster."""
    sizes = np.zeros(num_clusters, np.int64)
    for block in arrays.blocks(labels):
        sizes += np.bincount(block[block >= 0], minlength=num_clusters)
    return sizes


def clustering_figures(
    name: str,
    clusterings: Mapping[str, Clustering],
    *,
    previous: Mapping[str, Clustering],
    true_labels: np.ndarray,
) -> dict[str, Any]:
    """Figures of one of a round's clusterings as a whole, as the overview has them.

    Args:
      name: of the clustering.
      clusterings: of the round.
      previous: of the round before; empty for the first.
      true_labels: [num_rows], -1 where unknown.
    """
    clustering = clusterings[name]
    sizes = cluster_sizes(clustering.labels, len(clustering.centroids))
    figures: dict[str, Any] = {"num_clusters": len(sizes), "empty_clusters": len(sizes)}
    effective = largest = None
    if sizes.any():
        measures = health.measures_of_sizes(sizes)
        figures["empty_clusters"] = measures["empty_clusters"]
        effective, largest = measures["effective_clusters"], measures["largest_share"]
    before = previous.get(name)
    others = [
        other for other in clusterings if health.is_first_head(other) and other != name
    ]
    return figures | {
        "effective_clusters": number(effective),
        "largest_fraction": number(largest),
        "nmi_labels": _nmi(clustering.labels, true_labels),
        "nmi_previous": (
            None if before is None else _nmi(clustering.labels, before.labels)
        ),
        "nmi": {
            other: _nmi(clustering.labels, clusterings[other].labels)
            for other in others
            if health.is_first_head(name)
        },
    }


def _nmi(first: np.ndarray, second: np.ndarray) -> float | None:
    """Normalised mutual information; None where no example has both labels."""
    pairs = agreement.count_pairs(first, second)
    return number(agreement.compare(pairs).nmi) if pairs.nnz else None


def cluster_rows(
    name: str,
    clusterings: Mapping[str, Clustering],
    *,
    previous: Mapping[str, Clustering],
    true_labels: np.ndarray,
) -> list[dict[str, Any]]:
    """What the table of a round says of each cluster, without its members.

    Of each cluster: its number, size, purity (fraction of its members with a true label
    that have the commonest one), churn (fraction of its members that were not together
    with most of them in the round before), for each other source the fraction of its
    members in the commonest of that one's clusters, and the commonest classes and
    clusters of the others.

    Args:
      name: of the clustering.
      clusterings: of the round.
      previous: of the round before; empty for the first.
      true_labels: [num_rows], -1 where unknown.
    """
    clustering = clusterings[name]
    labels, num_clusters = clustering.labels, len(clustering.centroids)
    sizes = cluster_sizes(labels, num_clusters)
    classes = agreement.count_pairs(labels, true_labels)
    before = None
    if name in previous:
        before = agreement.count_pairs(labels, previous[name].labels)
    others = {
        other: agreement.count_pairs(labels, clusterings[other].labels)
        for other in clusterings
        if health.is_first_head(other) and other != name
    }
    rows = []
    for cluster in range(num_clusters):
        stays = None if before is None else _commonest_fraction(before, cluster)
        rows.append(
            {
                "cluster": cluster,
                "size": int(sizes[cluster]),
                "dispersion": None,
                "purity": number(_commonest_fraction(classes, cluster)),
                "churn": None if stays is None else number(1 - stays),
                "agreement": {
                    other: number(_commonest_fraction(pairs, cluster))
                    for other, pairs in others.items()
                },
                "classes": _commonest(classes, cluster),
                "others": {
                    other: _commonest(pairs, cluster) for other, pairs in others.items()
                },
            }
        )
    return rows


def _row(pairs: sparse.csr_array, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and counts of the pairs with a first label."""
    if row >= pairs.shape[0]:
        return _NOTHING
    here = slice(pairs.indptr[row], pairs.indptr[row + 1])
    return pairs.indices[here], pairs.data[here]


def _commonest_fraction(pairs: sparse.csr_array, row: int) -> float | None:
    """Fraction of the counts of a row that its largest has; None without any."""
    _, counts = _row(pairs, row)
    return int(counts.max()) / int(counts.sum()) if len(counts) else None


def _commonest(pairs: sparse.csr_array, row: int) -> list[list[int]]:
    """The largest counts of a row with their labels, of equals the lower label."""
    labels, counts = _row(pairs, row)
    order = np.argsort(-counts, kind="stable")[:MOST_LISTED]
    return [[int(labels[place]), int(counts[place])] for place in order]


def pair_counts(first: np.ndarray, second: np.ndarray) -> list[list[int]]:
    """The pairs of labels that occur with their counts, of MOST_PAIRS the largest.

    Args:
      first: [num_rows] labels, -1 for none.
      second: [num_rows] the same.

    Returns:
      [first label, second label, count] each, ascending.
    """
    pairs = agreement.count_pairs(first, second).tocoo()
    rows, columns = pairs.coords
    kept = np.arange(pairs.nnz)
    if pairs.nnz > MOST_PAIRS:
        kept = np.sort(np.argsort(-pairs.data, kind="stable")[:MOST_PAIRS])
    return np.stack([rows[kept], columns[kept], pairs.data[kept]], 1).tolist()


def cross_table(
    rows: str,
    columns: str,
    clusterings: Mapping[str, Clustering],
    *,
    shown: Sequence[int],
    num_more: int,
) -> dict[str, Any]:
    """The table of two clusterings of a round, with examples of its cells.

    The examples are of those that are shown anyway. A cell without any gets one more,
    the largest cells first.

    Args:
      rows: name of the clustering whose clusters are the rows.
      columns: the same of the columns.
      clusterings: of the round.
      shown: ascending examples that have a clip.
      num_more: how many others may be taken.

    Returns:
      What the table of a round has under "cross".
    """
    first, second = clusterings[rows].labels, clusterings[columns].labels
    counts = pair_counts(first, second)
    places = np.asarray(shown, np.int64)
    cells: dict[tuple[int, int], list[int]] = {}
    for example, row, column in zip(
        places.tolist(), first[places].tolist(), second[places].tolist(), strict=True
    ):
        if row >= 0 and column >= 0:
            cells.setdefault((row, column), []).append(example)
    disagreeing = _disagreeing(counts, cells)
    missing = [count for count in counts if (count[0], count[1]) not in cells]
    missing.sort(key=lambda count: -count[2])
    empty = {(row, column) for row, column, _ in missing[: max(0, num_more)]}
    cells |= _first_of_cells(first, second, empty)
    return {
        "rows": rows,
        "columns": columns,
        "counts": counts,
        "examples": {
            f"{row},{column}": examples[:MOST_IN_CELL]
            for (row, column), examples in sorted(cells.items())
        },
        "disagreeing": disagreeing,
    }


def _disagreeing(
    counts: Sequence[Sequence[int]], cells: Mapping[tuple[int, int], list[int]]
) -> list[int]:
    """Shown examples of the cells that are the smallest for their row and column.

    A cell's count over what it would be if the clusterings had nothing to do with each
    other; one example of each cell, then the next of each.
    """
    sizes: list[dict[int, int]] = [{}, {}]
    for *cell, count in counts:
        for side, cluster in zip(sizes, cell, strict=True):
            side[cluster] = side.get(cluster, 0) + count
    ratios = {
        (row, column): count / (sizes[0][row] * sizes[1][column])
        for row, column, count in counts
    }
    # The same factor, the number of examples, is left out of all.
    total = sum(sizes[0].values())
    order = sorted(
        (cell for cell in cells if ratios.get(cell, 1.0) * total < 1),
        key=lambda cell: (ratios[cell], cell),
    )
    examples: list[int] = []
    for turn in range(MOST_IN_CELL):
        examples += [cells[cell][turn] for cell in order if turn < len(cells[cell])]
        if len(examples) >= MOST_DISAGREEING:
            break
    return examples[:MOST_DISAGREEING]


def _first_of_cells(
    first: np.ndarray, second: np.ndarray, cells: set[tuple[int, int]]
) -> dict[tuple[int, int], list[int]]:
    """The first example of each of some cells."""
    left = set(cells)
    chosen: dict[tuple[int, int], list[int]] = {}
    start = 0
    for rows, columns in zip(arrays.blocks(first), arrays.blocks(second), strict=True):
        if not left:
            break
        codes = rows.astype(np.int64) << 32 | (columns.astype(np.int64) & 0xFFFFFFFF)
        _, places = np.unique(codes, return_index=True)
        for place in places.tolist():
            cell = int(rows[place]), int(columns[place])
            if cell in left:
                left.remove(cell)
                chosen[cell] = [start + place]
        start += len(rows)
    return chosen
