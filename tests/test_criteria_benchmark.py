"""Correlations of criteria with accuracies: against SciPy's, and from reports."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import criteria
from xdc_tf.evaluation import report_collections, reports
from xdc_tf.evaluation.reports import SplitResult

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)


def test_of_one_kind_it_is_spearmans():
    pairs = RNG.normal(size=(30, 2))
    pairs[:, 1] += pairs[:, 0]
    text = criteria.correlation([pairs], np.random.default_rng(0))
    value, rest = text.split(" (")
    low, high = rest.removesuffix(")").split(" to ")
    expected = stats.spearmanr(*pairs.T).statistic
    assert float(value) == pytest.approx(expected, abs=0.006)
    assert float(low) < expected < float(high)


def test_kinds_of_other_levels_do_not_make_a_correlation():
    kinds = [RNG.normal(size=(200, 2)) + level for level in (0, 10)]
    assert stats.spearmanr(*np.concatenate(kinds).T).statistic > 0.5
    value = float(criteria.correlation(kinds, np.random.default_rng(0)).split()[0])
    assert abs(value) < 0.2


def test_few_runs_and_what_does_not_vary_have_none():
    rng = np.random.default_rng(0)
    assert criteria.correlation([RNG.normal(size=(4, 2))], rng) == "n/a"
    assert criteria.correlation([np.ones((9, 2))], rng) == "n/a"


def _report(kind, seed, accuracy, rounds):
    report = reports.make_report(
        "linear",
        [[SplitResult("video", {"top1": accuracy}, {})]],
        split_names=["1"],
        source={"video": {"kind": "pretrained", "method": "xdc", "seed": seed}},
        settings={"kind": kind},
        config={},
        records={},
    )
    return report | {"rounds": rounds}


def test_a_table_is_made_of_the_reports_of_each_kind(tmp_path):
    paths = []
    for kind in ("shapes", "digits"):
        collected = {
            f"{seed}.json": _report(
                kind, seed, seed / 10, {"x": [-1.0, seed], "y": [None, -seed]}
            )
            for seed in range(6)
        }
        paths.append(str(tmp_path / f"{kind}.json"))
        report_collections.write(paths[-1], collected)
    (row,) = [
        line
        for line in criteria.table(
            [criteria.read_runs(path, -1) for path in paths]
        ).splitlines()
        if line.startswith("| x | video")
    ]
    assert row.count("1.00 (1.00 to 1.00)") == 3
    first = criteria.table([criteria.read_runs(path, 0) for path in paths])
    assert "1.00" not in first
    assert "| x |" in first
    assert "| y |" not in first  # which no run had by then


def test_collections_of_several_kinds_are_refused(tmp_path):
    path = str(tmp_path / "mixed.json")
    mixed = {kind: _report(kind, 0, 0.5, {"x": [1.0]}) for kind in ("shapes", "digits")}
    report_collections.write(path, mixed)
    with pytest.raises(ValueError, match="digits.*shapes"):
        criteria.read_runs(path, -1)
