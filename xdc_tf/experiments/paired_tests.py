"""Paired differences of two methods, tested; corrected for several methods.

Of n differences d of values of the same seed and split:

- their mean, and its 95% confidence interval mean(d) +- t(0.975, n - 1) s / sqrt(n),
  with their sample standard deviation s; and the two-sided paired t-test (Student, "The
  probable error of a mean", Biometrika 6, 1908), as scipy.stats.ttest_rel has it;
- that p-value corrected for m methods compared with the same one: of the sorted ones
  p(1) <= ... <= p(m), the i-th becomes the largest min(1, (m - j + 1) p(j)) of all
  j <= i (Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
  Journal of Statistics 6, 1979).

Splits that share videos are not independent, as the test takes pairs to be: it then
finds differences too often (Nadeau and Bengio, "Inference for the generalization
error", Machine Learning 52, 2003).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# Differences that differ by less, next to the values, are equal but for rounding.
_ROUNDING = 1e-9


class Difference(NamedTuple):
    """One method's values minus another's, over the pairs that both have.

    Attributes:
      num_pairs: n.
      mean: None without a pair.
      low: end of the 95% confidence interval; like the following None with fewer than
        two pairs, or where all differences are the same.
      high: its other end.
      p_value: of the paired t-test.
      p_holm: corrected for all that were tested with it.
    """

    num_pairs: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


def compare(values: Mapping[Any, float], reference: Mapping[Any, float]) -> Difference:
    """A method's difference from the reference, without p_holm.

    Args:
      values: of the method, by what makes a pair, such as seed and split.
      reference: of the reference.
    """
    pairs = [
        (value, reference[key]) for key, value in values.items() if key in reference
    ]
    if not pairs:
        return Difference(0)
    ours, theirs = np.array(pairs, np.float64).T
    difference = Difference(len(pairs), mean=float(np.mean(ours - theirs)))
    spread = np.ptp(ours - theirs)
    # Without a spread t is infinite, or 0 / 0.
    if len(pairs) < 2 or spread <= _ROUNDING * np.abs(pairs).max():
        return difference
    tested = stats.ttest_rel(ours, theirs)
    interval = tested.confidence_interval(CONFIDENCE)
    return difference._replace(
        low=float(interval.low),
        high=float(interval.high),
        p_value=float(tested.pvalue),
    )


def correct(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Differences from one reference, with p_holm for those that were tested."""
    p_values = {
        name: difference.p_value
        for name, difference in differences.items()
        if difference.p_value is not None
    }
    corrected = holm(list(p_values.values()))
    return dict(differences) | {
        name: differences[name]._replace(p_holm=value)
        for name, value in zip(p_values, corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected by Holm's procedure, in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    in_order = np.minimum(1.0, factors * np.asarray(p_values, np.float64)[order])
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(in_order)
    return corrected.tolist()
