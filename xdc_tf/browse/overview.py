"""The overview of a run's pages: what it is, how its rounds went, what to look at."""

import importlib.metadata
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from xdc_tf.browse import cluster_tables, opened_run, page_files
from xdc_tf.browse.opened_run import OpenedRun
from xdc_tf.browse.run_warnings import Warning, collapse_warnings
from xdc_tf.evaluation import reports
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import workdir as run_directory

EXAMPLES_PER_BLOCK = 5000


def round_figures(run: OpenedRun) -> tuple[list[dict[str, Any]], list[Warning]]:
    """Figures of all rounds of a run, and what has collapsed in them.

    Raises:
      FileNotFoundError, ValueError: see opened_run.read_round.
    """
    rounds: list[dict[str, Any]] = []
    warnings: list[Warning] = []
    previous: Mapping[str, Clustering] = {}
    for round_index in run.rounds:
        clusterings = opened_run.read_round(run, round_index)
        figures = {
            name: cluster_tables.clustering_figures(
                name, clusterings, previous=previous, true_labels=run.true_labels
            )
            for name in run.sources
            if name in clusterings
        }
        rounds.append({"round": round_index, "clusterings": figures})
        warnings += collapse_warnings(run, round_index, clusterings)
        previous = clusterings
    return rounds, warnings


def make_overview(
    run: OpenedRun,
    *,
    command: str,
    rounds: Sequence[Mapping[str, Any]],
    shown_rounds: Sequence[int],
    warnings: Sequence[Warning],
    maps: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The table "overview".

    Args:
      run: that is shown.
      command: that made the pages.
      rounds: of round_figures.
      shown_rounds: those that have a table.
      warnings: in the order of their weight.
      maps: what is said of each source's map.
    """
    info, examples = run.records.info, run.records.examples
    hours = float((examples.end_secs - examples.start_secs).sum()) / 3600
    return {
        "format": page_files.FORMAT_VERSION,
        "title": run_directory.run_name(run.workdir, run.config.name),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": _version(),
        "method": run.config.method,
        "command": command,
        "config": dict(run_directory.flatten(run.stored_config)),
        "data": {
            "records": run.records.directory,
            "num_examples": info.num_examples,
            "num_rows": info.num_rows,
            "num_quarantined": info.num_quarantined,
            "hours": page_files.number(hours),
            "modalities": list(info.modalities),
            "label_names": list(info.label_names),
        },
        "sources": list(run.sources),
        "rounds": list(rounds),
        "shown_rounds": list(shown_rounds),
        "evaluations": _evaluations(run.workdir),
        "warnings": list(warnings),
        "examples_per_block": EXAMPLES_PER_BLOCK,
        "num_blocks": -(-run.num_rows // EXAMPLES_PER_BLOCK),
        "maps": dict(maps),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("xdc_tf")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _evaluations(workdir: str) -> list[dict[str, Any]]:
    """A table for each evaluation of the run, by results.csv of its directory."""
    evaluations: dict[tuple[str, str], dict[str, Any]] = {}
    for line in reports.read_results(workdir):
        value = page_files.number(_float(line["value"]))
        evaluation = evaluations.setdefault(
            (line["json"], line["time"]),
            {
                "name": os.path.basename(line["json"]),
                "protocol": line["protocol"],
                "rows": [],
            },
        )
        evaluation["rows"].append(
            {
                "stream": line["stream"],
                "encoder": line["kind"],
                line["metric"]: value,
            }
        )
    return list(evaluations.values())


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
