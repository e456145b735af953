"""How far two labellings of the same examples agree, and how even cluster sizes are.

Every comparison follows from the counts of the pairs of labels. `count_pairs` takes
them a block of examples at a time, so labels may be memory maps of any length, and
keeps the pairs that occur, at most one per example: 16 bytes each while it counts, 8
afterwards, beside a fixed 0.3 GiB. Positions where either labelling has no label (a
negative one) are left out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from xdc_tf.runtime import arrays

# Cells of the table that are counted, and counts that are added up, at a time.
_CELLS = 1 << 24
_BLOCK = 1 << 20
# Labels above this are numbered anew, which takes a sorted copy of them.
_HIGHEST_LABEL = 1 << 20


class Agreement(NamedTuple):
    """How two labellings, the first and the second, of the same examples agree.

    Attributes:
      num_examples: those with both labels.
      nmi: mutual information over the arithmetic mean of the entropies, in [0, 1]; 1
        where both labellings have a single class, as in scikit-learn.
      ari: adjusted Rand index, 1 for the same classes and 0 on average for unrelated
        ones, whatever their numbers.
      purity: fraction of the examples whose second label is the commonest one among
        the examples with their first label.
      first_given_second: conditional entropy in nats, what remains unknown of the
        first label of an example whose second one is known.
      second_given_first: the same the other way round.
    """

    num_examples: int
    nmi: float
    ari: float
    purity: float
    first_given_second: float
    second_given_first: float


def count_pairs(first: np.ndarray, second: np.ndarray) -> sparse.csr_array:
    """The contingency table of two labellings: rows for the first, columns the second.

    Args:
      first: [N] integers, N below 2 ** 31, negative for no label.
      second: [N] likewise.

    Returns:
      [A, B] int32 counts, A and B being one more than the highest labels, or than the
      number of different ones where these exceed 2 ** 20. Without an example that has
      both labels it is empty.

    Raises:
      ValueError: shapes differ.
    """
    if np.ndim(first) != 1 or np.shape(first) != np.shape(second):
        raise ValueError(
            f"labellings must be vectors of one length, received shapes "
            f"{np.shape(first)} and {np.shape(second)}; index both by example."
        )
    first, num_rows = _numbered(first)
    second, num_columns = _numbered(second)
    rows_at_once = max(1, _CELLS // max(1, num_columns))
    row_ends, columns, counts = [np.zeros(1, np.int32)], [], []
    num_pairs = 0
    for row in range(0, num_rows, rows_at_once):
        end = min(row + rows_at_once, num_rows)
        cells = np.zeros((end - row) * num_columns, np.int32)
        for row_block, column_block in zip(
            arrays.blocks(first), arrays.blocks(second), strict=True
        ):
            here = (row_block >= row) & (row_block < end) & (column_block >= 0)
            row_numbers = row_block[here].astype(np.int64) - row
            codes = row_numbers * num_columns + column_block[here]
            # A number of another type than the cells' takes twenty times as long.
            np.add.at(cells, codes, np.int32(1))
        occurring = np.flatnonzero(cells)
        last_cells = np.arange(1, end - row + 1) * num_columns
        before_row = np.searchsorted(occurring, last_cells).astype(np.int32)
        row_ends.append(num_pairs + before_row)
        columns.append((occurring % num_columns).astype(np.int32))
        counts.append(cells[occurring])
        num_pairs += len(occurring)
    return sparse.csr_array(
        (
            np.concatenate([np.zeros(0, np.int32), *counts]),
            np.concatenate([np.zeros(0, np.int32), *columns]),
            np.concatenate(row_ends),
        ),
        shape=(num_rows, num_columns),
    )


def compare(pairs: sparse.csr_array) -> Agreement:
    """All cheap measures of agreement.

    Args:
      pairs: by count_pairs.

    Raises:
      ValueError: no example has both labels.
    """
    total = _num_examples(pairs)
    row_sizes, column_sizes = pairs.sum(axis=1), pairs.sum(axis=0)
    of_both, of_rows, of_columns = map(entropy, (pairs.data, row_sizes, column_sizes))
    mean_entropy = (of_rows + of_columns) / 2
    information = of_rows + of_columns - of_both
    return Agreement(
        num_examples=total,
        nmi=min(max(information / mean_entropy, 0.0), 1.0) if mean_entropy else 1.0,
        ari=_adjusted_rand_index(
            total, *map(_num_couples, (pairs.data, row_sizes, column_sizes))
        ),
        purity=int(pairs.max(axis=1).sum()) / total,
        first_given_second=max(of_both - of_columns, 0.0),
        second_given_first=max(of_both - of_rows, 0.0),
    )


def normalized_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement.nmi of two labellings.

    Raises:
      ValueError: shapes differ or no example has both labels.
    """
    return compare(count_pairs(first, second)).nmi


def churn(pairs: sparse.csr_array) -> float:
    """The fraction of examples whose label changed, apart from a renaming.

    Labels of the first labelling are renamed to labels of the second, one to one, such
    that as many examples as possible keep theirs (Hungarian method on the pairs that
    occur, 45 bytes for each of them).

    Args:
      pairs: by count_pairs.

    Raises:
      ValueError: no example has both labels.
    """
    total = _num_examples(pairs)
    num_rows = pairs.shape[0]
    # Every row must be matched; in a column of its own it stays without a partner. All
    # these columns together weigh less than one example.
    alone = sparse.eye_array(num_rows, format="csr") * (0.5 / num_rows)
    weights = sparse.hstack([pairs, alone], format="csr", dtype=np.float64)
    rows, columns = csgraph.min_weight_full_bipartite_matching(weights, maximize=True)
    return 1 - math.floor(weights[rows, columns].sum()) / total


def effective_num_clusters(sizes: np.ndarray) -> float:
    """The number of equal clusters with the same entropy, between 1 and k.

    Args:
      sizes: [k] examples per cluster.

    Raises:
      ValueError: no example in any cluster.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 1 or np.any(sizes < 0) or not np.any(sizes > 0):
        raise ValueError(
            f"sizes must be counts of examples per cluster, at least one above zero, "
            f"received {sizes.tolist()}; pass the sizes of a fitted clustering."
        )
    return math.exp(entropy(sizes))


def entropy(sizes: np.ndarray) -> float:
    """In nats, of a label whose values occur `sizes` times.

    Args:
      sizes: [k] integers, some above zero and none below.
    """
    total = int(sizes.sum())

    def surprise(block: np.ndarray) -> float:
        probabilities = block[block > 0] / total
        return -float(np.sum(probabilities * np.log(probabilities)))

    return _sum_of_blocks(surprise, sizes)


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels below 2 ** 20, or numbered densely, and one more than the highest."""
    labels = np.asanyarray(labels)
    highests = (int(block.max()) for block in arrays.blocks(labels))
    highest = max(highests, default=-1)
    if highest >= _HIGHEST_LABEL:
        names, labels = np.unique(np.maximum(labels, -1), return_inverse=True)
        labels -= int(names[0] < 0)
        highest = int(labels.max())
    return labels, highest + 1


def _num_examples(pairs: sparse.csr_array) -> int:
    total = int(pairs.data.sum(dtype=np.int64))
    if not total:
        raise ValueError(
            "no example has a label in both labellings; compare labellings of the same "
            "examples."
        )
    return total


def _num_couples(sizes: np.ndarray) -> int:
    """Number of couples with the same label, of labels that occur `sizes` times."""

    def couples(block: np.ndarray) -> int:
        block = block.astype(np.int64)
        return int(np.dot(block, block - 1)) // 2

    return _sum_of_blocks(couples, sizes)


def _adjusted_rand_index(
    total: int, in_both: int, in_first: int, in_second: int
) -> float:
    """From numbers of examples, and of couples of them with a label in common."""
    mean = (in_first + in_second) / 2
    expected = in_first * in_second / max(1, total * (total - 1) // 2)
    return (in_both - expected) / (mean - expected) if mean != expected else 1.0


def _sum_of_blocks(function: Callable, values: np.ndarray):
    return sum(
        function(values[start : start + _BLOCK])
        for start in range(0, len(values), _BLOCK)
    )
