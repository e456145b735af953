"""Short trials of settings on records without labels, ranked by a criterion.

Trials run for some rounds; the better half goes on for as many again, and so on, as in
successive halving (Jamieson and Talwalkar 2016). A trial is a run in OUT/trials/NAME,
pretrained by the command pretrain in a process of its own, which saves and leaves when
its time is over; the same advice asked for again goes on with it.
"""

import copy
import os
import pprint
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.data import record_directory
from xdc_tf.experiments import record_survey
from xdc_tf.experiments.record_survey import Survey
from xdc_tf.experiments.reproduction_tables import AUGMENTED
from xdc_tf.labels import criteria, label_tables
from xdc_tf.runtime import escaping, files, signals, workdir
from xdc_tf.training import configuration, supervision

# Videos of a cluster, on average, from few clusters to many.
_VIDEOS_PER_CLUSTER = (100, 40, 15)
_MOST_CLUSTERS = 4096
# Of a trial: rounds of the first turn. Each turn's trials take a fraction of the time.
FIRST_ROUNDS = 2
FRACTIONS = (0.5, 0.3, 0.2)
# Trials are ranked by retrieval, which does not depend on the number of clusters. So
# many of its standard deviations by chance are no chance.
_NO_CHANCE = 3.0
_MAX_SAMPLED = 500
# For the criteria: fraction of the videos held out, and examples measured.
_HELD_OUT, _FEWEST = 0.1, 1000


class Trial(NamedTuple):
    """A setting that is tried.

    Attributes:
      name: of its directory.
      changes: of the configuration, by dotted key.
      reason: why it is tried, in words.
    """

    name: str
    changes: Mapping[str, Any]
    reason: str


class Outcome(NamedTuple):
    """What a trial has come to.

    Attributes:
      trial: which one.
      rounds: of training that are done.
      score: the mean of the retrieval criteria; NaN before any round is trained.
      criteria: all of the last round.
    """

    trial: Trial
    rounds: int
    score: float
    criteria: Mapping[str, float]


def make_trials(num_examples: int) -> list[Trial]:
    """The settings to try for so many examples."""
    trials = {}
    for per_cluster in _VIDEOS_PER_CLUSTER:
        num_clusters = min(max(2, round(num_examples / per_cluster)), _MOST_CLUSTERS)
        trials[num_clusters] = Trial(
            f"k{num_clusters}",
            {"kmeans.num_clusters": num_clusters},
            f"about {num_examples / num_clusters:.0f} videos in a cluster",
        )
    middle = sorted(trials)[len(trials) // 2]
    return [
        *trials.values(),
        Trial(
            f"k{middle}_augmented",
            {"kmeans.num_clusters": middle, **AUGMENTED},
            f"{trials[middle].reason}, and clips that are cropped, coloured and masked "
            "at random",
        ),
    ]


def advise(
    config: Mapping[str, Any], *, records: str, out_dir: str, budget_secs: float
) -> str:
    """Tries settings and writes a configuration, or says that none has a hold.

    Args:
      config: where trials start from, as recipes give it.
      records: directory of records.
      out_dir: gets trials/, advice.md and config.py.
      budget_secs: of all trials together.

    Returns:
      advice.md.

    Raises:
      ValueError: on records or settings that do not fit each other, or a budget in
        which no trial has finished a round.
      ChildProcessError: a trial failed; names its log.
      OSError: if the disk fails.
    """
    checked = configuration.from_mapping(config)
    method = supervision.method(checked.method)
    if len(supervision.modalities(method)) < 2 or not method.supervision:
        raise ValueError(
            f"config.method={checked.method} has not two modalities, by which trials "
            "are ranked; choose xdc, cdc, mdc or sdc."
        )
    opened = record_directory.open_directory(records)
    surveyed = record_survey.survey(opened, checked, max_examples=_MAX_SAMPLED)
    for line in record_survey.describe(surveyed):
        print(line, flush=True)
    trials = make_trials(surveyed.num_examples)
    outcomes = list(
        _run_trials(trials, config, records, out_dir, budget_secs=budget_secs)
    )
    best = outcomes[0]
    num_measured = max(checked.criteria.max_examples, _FEWEST)
    chance = criteria.retrieval_deviation(min(surveyed.num_examples, num_measured))
    holds = best.score > _NO_CHANCE * chance
    text = _advice(records, surveyed, outcomes, chance, holds=holds)
    files.write_text(os.path.join(out_dir, "advice.md"), text)
    write_recipe(
        os.path.join(out_dir, "config.py"),
        _changed(config, best.trial.changes),
        title="Chosen by xdc-tf advise, which wrote advice.md beside it.",
    )
    return text


def _run_trials(
    trials: Sequence[Trial],
    config: Mapping[str, Any],
    records: str,
    out_dir: str,
    *,
    budget_secs: float,
) -> Iterator[Outcome]:
    """Yields the outcomes of all trials, the best first."""
    going_on = list(trials)
    left_behind: list[Outcome] = []
    rounds = FIRST_ROUNDS
    for turn, fraction in enumerate(FRACTIONS):
        secs = fraction * budget_secs / len(going_on)
        for trial in going_on:
            _pretrain(trial, config, records, out_dir, rounds=rounds, secs=secs)
        outcomes = _outcomes(going_on, out_dir)
        if turn == 0 and outcomes[0].rounds == 0:
            raise ValueError(
                f"--budget_minutes={budget_secs / 60:g} is too short: in {secs:.0f} s "
                "not every trial finished a round; their logs are in "
                f"{os.path.join(out_dir, 'trials')}. Raise it, or lower "
                "--config.training.epochs_per_round."
            )
        kept = num_kept(len(outcomes))
        left_behind = outcomes[kept:] + left_behind
        going_on = [outcome.trial for outcome in outcomes[:kept]]
        rounds *= 2
    yield from outcomes[:kept]
    yield from left_behind


def num_kept(num_trials: int) -> int:
    """How many trials go on after a turn."""
    return (num_trials + 1) // 2


def _pretrain(
    trial: Trial,
    config: Mapping[str, Any],
    records: str,
    out_dir: str,
    *,
    rounds: int,
    secs: float,
) -> None:
    """Trains a trial up to so many rounds, or for so many seconds."""
    place = os.path.join(out_dir, "trials", trial.name)
    if len(_criteria_by_round(os.path.join(place, "run"))) > rounds:
        return
    os.makedirs(place, exist_ok=True)
    recipe, log = os.path.join(place, "config.py"), os.path.join(place, "log.txt")
    changes = {
        **trial.changes,
        "num_rounds": rounds,
        "training.held_out_share": max(config["training"]["held_out_share"], _HELD_OUT),
        "criteria.max_examples": max(config["criteria"]["max_examples"], _FEWEST),
    }
    write_recipe(recipe, _changed(config, changes), title=f"Trial: {trial.reason}.")
    print(f"{trial.name}: {trial.reason}; to {rounds} rounds", flush=True)
    command = [sys.executable, "-m", "xdc_tf.cli.pretrain", f"--config={recipe}"]
    command += [f"--workdir={os.path.join(place, 'run')}", f"--records={records}"]
    command += ["--allow_config_change"]
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=secs)
        except subprocess.TimeoutExpired:
            code = _end(process)
        except BaseException:
            _end(process)
            raise
    if code not in (0, signals.EXIT_CODE):
        *_, last = ["", *files.read_text(log).splitlines()]
        raise ChildProcessError(
            f"The trial {trial.name} failed with exit code {code}: "
            f"{escaping.terminal(last)}; see {log}"
        )


def _end(process: subprocess.Popen) -> int:
    """Has a process save and leave; one that does not is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return signals.EXIT_CODE


def _outcomes(trials: Sequence[Trial], out_dir: str) -> list[Outcome]:
    """Of each trial after the last round that all of them have, the best first."""
    reports = {}
    for trial in trials:
        run = os.path.join(out_dir, "trials", trial.name, "run")
        reports[trial.name] = _criteria_by_round(run)
    rounds = min(len(of_trial) for of_trial in reports.values()) - 1
    outcomes = []
    for trial in trials:
        measured = reports[trial.name][rounds] if rounds >= 0 else {}
        score = criteria.mean_retrieval(measured) if rounds > 0 else float("nan")
        outcomes.append(Outcome(trial, max(rounds, 0), score, measured))
    return sorted(outcomes, key=lambda outcome: -np.nan_to_num(outcome.score, nan=-9.0))


def _criteria_by_round(run: str) -> list[dict[str, float]]:
    rounds: list[dict[str, float]] = []
    while os.path.exists(directory := workdir.round_dir(run, len(rounds))):
        rounds.append(label_tables.read_health(directory).get("criteria", {}))
    return rounds


def _changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some values replaced, by dotted key."""
    values = copy.deepcopy(dict(config))
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        if name not in section:
            raise ValueError(f"config.{key} is no key.")
        section[name] = value
    return values


def write_recipe(path: str, values: Mapping[str, Any], *, title: str) -> None:
    """Writes a configuration file that states every value.

    Args:
      path: of the Python file.
      values: of the configuration, nested by section.
      title: its first line.
    """
    text = pprint.pformat(dict(values), width=88 - 4, sort_dicts=False)
    files.write_text(
        path,
        f'"""{title}"""\n\n'
        "import ml_collections\n\n"
        f"_VALUES = {text}\n\n\n"
        "def get_config() -> ml_collections.ConfigDict:\n"
        '    """The configuration; any key can be changed by --config.KEY=VALUE."""\n'
        "    return ml_collections.ConfigDict(_VALUES, convert_dict=True)\n",
    )


def _advice(
    records: str,
    surveyed: Survey,
    outcomes: Sequence[Outcome],
    chance: float,
    *,
    holds: bool,
) -> str:
    """advice.md."""
    best = outcomes[0]
    lines = [f"# Advice for {escaping.markdown(records)}", ""]
    lines += [f"- {line}" for line in record_survey.describe(surveyed)]
    if holds:
        lines += [
            "",
            f"**Take `{best.trial.name}`**, which is `config.py` beside this file: "
            f"{best.trial.reason}. After {best.rounds} rounds the features of one "
            f"modality rank the other's of the same video at {best.score:.2f}, 0 being "
            f"chance and 1 first; unrelated features come to {chance:.2f} either way. "
            "No other trial that went on as long did better.",
        ]
    else:
        lines += [
            "",
            "**No setting has a hold on these records.** The best trial, "
            f"`{best.trial.name}`, ranks the other modality's features at "
            f"{best.score:.2f}, and unrelated ones come to {chance:.2f} either way. "
            "Frames and sound may have nothing to do with each other (music over "
            "pictures, a narrator), the videos may be too few, or the budget too "
            "short: raise --budget_minutes and look at examples (python -m "
            "data_prep.inspect). `config.py` is the best trial's all the same.",
        ]
    names = sorted({name for outcome in outcomes for name in outcome.criteria})
    lines += ["", "| | " + " | ".join(o.trial.name for o in outcomes) + " |"]
    lines.append("|---|" + "---|" * len(outcomes))
    lines.append("| rounds | " + " | ".join(str(o.rounds) for o in outcomes) + " |")
    lines.append("| score | " + " | ".join(f"{o.score:.3f}" for o in outcomes) + " |")
    for name in names:
        cells = [
            f"{outcome.criteria[name]:.3g}" if name in outcome.criteria else ""
            for outcome in outcomes
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    lines += ["", f"Score: mean of `{criteria.RETRIEVAL}...`. Written {when} UTC.", ""]
    return "\n".join(lines)
