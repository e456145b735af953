"""What each setting does on every kind of videos, and whether advise would find it.

    python -m benchmarks.settings_by_kind docs/results/medium/*/settings.json

reads the collections that `reproduce --table=settings` writes, one for each kind, and
prints two tables in Markdown. In the first each row of the collections has its linear
accuracies on each kind, video / audio, the mean over its seeds, with their number, and
its mean difference from the configured row over the pairs of kind and seed that both
have, with the standard error where there are several.

The second applies the rule of `xdc-tf advise` to the runs: of those of a kind and seed
that have the rows --trial, the better half by retrieval goes on after 2, 4 and 8
rounds. It prints the choice's linear accuracies next to the best of each that any of
them has in the end, which the choice did not know; and in how many cases each of the
rows alone would have been as near.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from xdc_tf.evaluation import report_collections
from xdc_tf.experiments import advice
from xdc_tf.experiments.reproduction_tables import TABLES
from xdc_tf.labels import criteria

_TRIALS = flags.DEFINE_multi_string(
    "trial",
    [
        "xdc, half the clusters",
        TABLES["settings"].reference,
        "xdc, twice the clusters",
        "xdc, augmented",
    ],
    "Rows that advise chooses among.",
)
_STREAMS = ("video", "audio")


class Result(NamedTuple):
    """A run of a collection.

    Attributes:
      accuracies: linear, in percent: of video and of audio.
      scores: mean retrieval before training and after each round; of None where a run
        has no criteria.
    """

    accuracies: np.ndarray
    scores: list[float]


class Case(NamedTuple):
    """What is compared pair by pair."""

    kind: str
    seed: int


Results = Mapping[str, Mapping[Case, Result]]


def read(paths: Sequence[str]) -> Results:
    """The linear results of collections by row, then by kind and seed.

    Raises:
      ValueError: two are of the same row, kind and seed.
    """
    results: dict[str, dict[Case, Result]] = collections.defaultdict(dict)
    for path in paths:
        for name, report in report_collections.read(path).items():
            if report["protocol"] != "linear":
                continue
            settings, (source, *_) = report["settings"], report["source"].values()
            of_row = results[settings["row"]]
            case = Case(settings["kind"], source["seed"])
            if case in of_row:
                raise ValueError(
                    f"{name} is another report of {settings['row']}, {case.kind}, seed "
                    f"{case.seed}; give each collection once."
                )
            means = {r["stream"]: r["mean"]["top1"] for r in report["results"]}
            of_row[case] = Result(
                100 * np.array([means[stream] for stream in _STREAMS]),
                list(_scores(report.get("rounds", {}))),
            )
    return results


def _scores(rounds: Mapping[str, Sequence[float | None]]) -> Iterator[float]:
    for values in zip(*rounds.values(), strict=True):
        measured = dict(zip(rounds, values, strict=True))
        yield criteria.mean_retrieval(
            {name: value for name, value in measured.items() if value is not None}
        )


def settings_table(results: Results, reference: str) -> str:
    """The first table; the reference's row has no difference."""
    kinds = sorted({case.kind for cases in results.values() for case in cases})
    lines = [["", *kinds, f"difference from {reference.split(', ', 1)[-1]}"]]
    for row, cases in results.items():
        cells = [row.split(", ", 1)[-1]]
        for kind in kinds:
            of_kind = [r.accuracies for case, r in cases.items() if case.kind == kind]
            cells.append(
                f"{_pair(np.mean(of_kind, axis=0))} ({len(of_kind)})" if of_kind else ""
            )
        both = [case for case in cases if case in results[reference]]
        differences = np.array(
            [cases[c].accuracies - results[reference][c].accuracies for c in both]
        )
        cells.append("" if row == reference or not both else _difference(differences))
        lines.append(cells)
    return _markdown(lines)


def _difference(differences: np.ndarray) -> str:
    text = _pair(differences.mean(axis=0), "+")
    if len(differences) > 1:
        errors = differences.std(axis=0, ddof=1) / np.sqrt(len(differences))
        text += f" ± {_pair(errors)}"
    return f"{text} ({len(differences)})"


def choose(scores: Mapping[str, Sequence[float]]) -> str:
    """The trial that advise takes, of the scores after each round by trial."""
    going_on, rounds = list(scores), advice.FIRST_ROUNDS
    for _ in advice.FRACTIONS:
        going_on.sort(key=lambda row: -scores[row][rounds])
        going_on = going_on[: advice.num_kept(len(going_on))]
        rounds *= 2
    return going_on[0]


def advice_table(results: Results, trials: Sequence[str]) -> str:
    """The second table, and how many choices are within 5 points of the best."""
    lines = [["kind", "seed", "choice", "its accuracies", "best of each", "within 5"]]
    cases = set.intersection(*(set(results.get(row, {})) for row in trials))
    num_near = 0
    near_alone = dict.fromkeys(trials, 0)
    for case in sorted(cases):
        of_case = {row: results[row][case] for row in trials}
        choice = choose({row: result.scores for row, result in of_case.items()})
        best = np.max([result.accuracies for result in of_case.values()], axis=0)
        taken = of_case[choice].accuracies
        near = _is_near(taken, best)
        num_near += near
        for row, result in of_case.items():
            near_alone[row] += _is_near(result.accuracies, best)
        lines.append(
            [
                *(case.kind, str(case.seed), choice.split(", ", 1)[-1]),
                *(_pair(taken), _pair(best), "yes" if near else "no"),
            ]
        )
    alone = ", ".join(
        f"{row.split(', ', 1)[-1]} {number}" for row, number in near_alone.items()
    )
    return f"{_markdown(lines)}\n\nWithin 5 points of the best in both: " + (
        f"{num_near} of {len(cases)}. Always the same row: {alone}."
    )


def _is_near(accuracies: np.ndarray, best: np.ndarray) -> bool:
    return bool(np.all(best - accuracies <= 5))


def _pair(values: np.ndarray, sign: str = "") -> str:
    return " / ".join(f"{value:{sign}.1f}" for value in values)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)
    )


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("give the settings.json of one kind or more")
    results = read(argv[1:])
    print(settings_table(results, TABLES["settings"].reference))
    print()
    print(advice_table(results, _TRIALS.value))


if __name__ == "__main__":
    app.run(main)
