"""Which criteria without labels foretell linear accuracy: rank correlations over runs.

    python -m benchmarks.criteria docs/results/settings/*/settings.json

reads the collections of reports that `reproduce --table=settings` writes, one for each
kind of videos, and prints for each criterion, agreement of the modalities among them,
Spearman's correlation with the linear accuracy of video and of audio: of the runs of
each kind, and of all together, each run ranked among those of its kind. Intervals are
of 95%, by 2,000 draws of runs with replacement within each kind.

--round=N takes the criteria as they were when N rounds had been trained: what can be
foretold then.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from scipy import stats

from xdc_tf.evaluation import report_collections

_ROUND = flags.DEFINE_integer(
    "round", -1, "Rounds that had been trained; -1 for the end."
)
_NUM_DRAWS = 2000
_FEWEST_RUNS = 5
_STREAMS = ("video", "audio")


class Runs(NamedTuple):
    """The runs of a kind of videos.

    Attributes:
      kind: of the videos.
      criteria: of each run, by name.
      accuracies: of each run, by stream.
    """

    kind: str
    criteria: list[dict[str, float]]
    accuracies: list[dict[str, float]]


def read_runs(path: str, round_index: int) -> Runs:
    """The runs of a collection that have criteria.

    Args:
      path: of the collection.
      round_index: of the criteria; -1 for the last.

    Raises:
      ValueError: reports of several kinds, or none with that many rounds.
    """
    kinds, criteria, accuracies = set(), [], []
    for report in report_collections.read(path).values():
        rounds = report.get("rounds", {})
        if not rounds or round_index >= len(next(iter(rounds.values()))):
            continue
        kinds.add(report["settings"]["kind"])
        of_round = {name: values[round_index] for name, values in rounds.items()}
        criteria.append({k: x for k, x in of_round.items() if x is not None})
        accuracies.append(
            {row["stream"]: row["mean"]["top1"] for row in report["results"]}
        )
    if len(kinds) != 1:
        raise ValueError(
            f"{path} has runs of the kinds {sorted(kinds)}; give one each."
        )
    return Runs(*kinds, criteria, accuracies)


def correlation(pairs: Sequence[np.ndarray], rng: np.random.Generator) -> str:
    """Spearman's correlation with its interval, over the runs of one kind or several.

    Args:
      pairs: of each kind [N, 2], criterion and accuracy.
      rng: of the draws.

    Returns:
      "0.81 (0.70 to 0.88)"; "n/a" for too few runs, or where nothing varies.
    """
    if not pairs or min(len(p) for p in pairs) < _FEWEST_RUNS:
        return "n/a"
    value = _rank_correlation(pairs)
    if np.isnan(value):
        return "n/a"
    drawn = [
        _rank_correlation([p[rng.integers(len(p), size=len(p))] for p in pairs])
        for _ in range(_NUM_DRAWS)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _rank_correlation(pairs: Sequence[np.ndarray]) -> float:
    ranks = np.concatenate(
        [(stats.rankdata(p, axis=0) - 0.5 - len(p) / 2) / len(p) for p in pairs]
    )
    first, second = ranks.T
    length = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(first @ second / length) if length else float("nan")


def table(kinds: Sequence[Runs]) -> str:
    """The table of all criteria, in Markdown."""
    rng = np.random.default_rng(0)
    names = sorted({name for runs in kinds for run in runs.criteria for name in run})
    rows = []
    for name in names:
        for stream in _STREAMS:
            pairs = [_pairs(runs, name, stream) for runs in kinds]
            rows.append(
                [
                    name,
                    stream,
                    *(correlation([p], rng) for p in pairs),
                    correlation(pairs, rng),
                ]
            )
    header = ["criterion", "accuracy of"]
    header += [f"{runs.kind} ({len(runs.criteria)} runs)" for runs in kinds]
    header.append("all, ranked within kinds")
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pairs(runs: Runs, name: str, stream: str) -> np.ndarray:
    return np.array(
        [
            (criteria[name], accuracy[stream])
            for criteria, accuracy in zip(runs.criteria, runs.accuracies, strict=True)
            if name in criteria and stream in accuracy
        ]
    ).reshape(-1, 2)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("give the settings.json of one kind or more")
    print(table([read_runs(path, _ROUND.value) for path in argv[1:]]))


if __name__ == "__main__":
    app.run(main)
