"""Reports of evaluations: JSON, a line of results.csv, TensorBoard, a table.

TensorFlow is imported where it is used, so that reading reports does not wait for it.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from xdc_tf.evaluation.metrics import are_fractions, mean_and_std
from xdc_tf.runtime import escaping, files, json_files, outputs
from xdc_tf.runtime.workdir import TENSORBOARD_DIR

RESULTS_DIR = "results"
RESULTS_FILE = "results.csv"
FORMAT_VERSION = 1
_COLUMNS = (
    *("time", "protocol", "stream", "method", "kind", "seed", "metric", "value", "std"),
    *("num_splits", "json"),
)


# What a report must hold to be read, and each part of it.
Checks = dict[str, Callable[[Any], bool]]
_is_seed = json_files.optional(
    lambda value: json_files.is_number(value) or json_files.is_text(value)
)
_REPORT: Checks = {
    "protocol": json_files.is_text,
    "time": json_files.is_text,
    "source": json_files.mapping_of(json_files.is_object),
    "results": json_files.list_of(json_files.is_object),
    "settings": json_files.is_object,
    "records": json_files.is_object,
    "notes": json_files.list_of(json_files.is_text),
    "versions": json_files.is_object,
}
_SOURCE: Checks = {
    "kind": json_files.is_text,
    "method": json_files.is_text,
    "seed": _is_seed,
}
_ROW: Checks = {"row": json_files.is_text}  # of settings, where there is one
_RESULT: Checks = {
    "stream": json_files.is_text,
    "metric": json_files.is_text,
    "mean": json_files.mapping_of(json_files.is_number),
    "std": json_files.mapping_of(json_files.optional(json_files.is_number)),
    "splits": json_files.list_of(json_files.is_object),
}
_SPLIT: Checks = {
    "split": json_files.is_text,
    "metrics": json_files.mapping_of(json_files.is_number),
}


class SplitResult(NamedTuple):
    """One encoder, or pair of encoders, on one split.

    Attributes:
      stream: name of the encoder, or of what is compared, such as "video_to_audio".
      metrics: by name, the main one first; fractions are in [0, 1].
      details: more, of types that JSON has.
    """

    stream: str
    metrics: dict[str, float]
    details: dict[str, Any]


def make_report(
    protocol: str,
    splits: Sequence[Sequence[SplitResult]],
    *,
    split_names: Sequence[str],
    source: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    records: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """A report of one protocol, of types that JSON has.

    Args:
      protocol: its name.
      splits: for each split one result per stream, the same streams in all.
      split_names: as many.
      source: for each stream what encoder_sources.describe says.
      settings: of the protocol, seeds included.
      config: of the encoders' run.
      records: where the data are, and the SHA-256 of their manifests.
      notes: what a reader should know, such as how the best epoch was chosen.

    Returns:
      "results" has for each stream "metric" (name of the main one), "mean" and "std"
      over the splits of every metric (std null for one split), and "splits".
    """
    from xdc_tf.runtime import compat

    return {
        "format_version": FORMAT_VERSION,
        "protocol": protocol,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "source": {stream: dict(values) for stream, values in source.items()},
        "results": [
            _summarize(results, split_names) for results in zip(*splits, strict=True)
        ],
        "settings": dict(settings),
        "records": dict(records),
        "notes": list(notes),
        "config": dict(config),
        "versions": compat.versions(),
    }


def _summarize(
    results: Sequence[SplitResult], split_names: Sequence[str]
) -> dict[str, Any]:
    """What a report says of a stream: its results on all splits, means, deviations."""
    names = list(results[0].metrics)
    moments = {
        name: mean_and_std([result.metrics[name] for result in results])
        for name in names
    }
    return {
        "stream": results[0].stream,
        "metric": names[0],
        "mean": {name: mean for name, (mean, _) in moments.items()},
        "std": {name: std for name, (_, std) in moments.items()},
        "splits": [
            {"split": name, "metrics": result.metrics, "details": result.details}
            for name, result in zip(split_names, results, strict=True)
        ],
    }


def try_places(workdir: str, path: str | None = None) -> None:
    """Raises before an evaluation what `write` would raise after it.

    Args:
      workdir: as of `write`; made if missing.
      path: the same.

    Raises:
      OSError: if one of the files cannot be written.
      ValueError: if one of them is a link, which could lead out of the directory.
    """
    tensorboard = os.path.join(workdir, TENSORBOARD_DIR)
    results_dir = os.path.join(workdir, RESULTS_DIR)
    table_path = os.path.join(workdir, RESULTS_FILE)
    for place in (tensorboard, results_dir, table_path):
        outputs.refuse_link(place)
    outputs.try_file(table_path)
    outputs.try_directory(tensorboard)
    if path is None:
        outputs.try_directory(results_dir)
    else:
        outputs.try_file(path)


def write(report: Mapping[str, Any], *, workdir: str, path: str | None = None) -> str:
    """Writes a report as JSON, a line per result into results.csv, and TensorBoard.

    Args:
      report: of make_report.
      workdir: whose results.csv and TensorBoard get it; made if missing.
      path: of the JSON; None for one in RESULTS_DIR of the work directory that is named
        by protocol and time.

    Returns:
      The JSON's path.

    Raises:
      OSError: if one of them cannot be written.
      ValueError: on values that are not finite, and see try_places; nothing is written
        then.
    """
    from xdc_tf.evaluation import report_events

    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    try_places(workdir, path)
    if path is None:
        folder = os.path.join(workdir, RESULTS_DIR)
        name = f"{report['protocol']}-{report['time'].replace(':', '')}"
        path = _free_name(os.path.join(folder, name), ".json")
    files.write_text(path, text)
    _append_csv(os.path.join(workdir, RESULTS_FILE), report, path)
    report_events.write(os.path.join(workdir, TENSORBOARD_DIR), report)
    return path


def read(path: str) -> dict[str, Any]:
    """Reads a report.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a report of this format.
    """
    return check(load(path), path)


def read_results(workdir: str) -> list[dict[str, str]]:
    """The lines of a work directory's results.csv, by column; [] without one.

    Raises:
      ValueError: it cannot be read, or has other columns.
    """
    path = os.path.join(workdir, RESULTS_FILE)
    if not os.path.exists(path):
        return []
    reader = csv.reader(io.StringIO(files.read_text(path), newline=""), strict=True)
    try:
        header, *lines = reader
        if tuple(header) != _COLUMNS or any(len(line) != len(header) for line in lines):
            raise ValueError(f"its columns are {','.join(header)[:200]}")
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no table of results ({error}); move it away."
        ) from error
    return [dict(zip(header, line, strict=True)) for line in lines]


def load(path: str) -> dict[str, Any]:
    """Reads the JSON object of a file that should hold reports.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no JSON object.
    """
    try:
        return json_files.read_object(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist; give a report of python -m xdc_tf.cli.evaluate."
        ) from None


def check(report: dict[str, Any], where: str) -> dict[str, Any]:
    """Checks that it is a report of this format.

    Args:
      report: of JSON.
      where: the file, and the place in it, for errors.

    Returns:
      `report`.

    Raises:
      ValueError: it is none; names `where`.
    """
    version = report.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{where} has format_version {ascii(version)[:80]}, this program reads "
            f"{FORMAT_VERSION}; evaluate again."
        )
    # Other files of this program have a version too.
    missing = [key for key in ("protocol", "source", "results") if key not in report]
    if missing:
        raise ValueError(
            f"{where} is no report, it lacks {', '.join(missing)}; give one of python "
            "-m xdc_tf.cli.evaluate."
        )
    _check_parts(report, where)
    return report


def _check_parts(report: dict[str, Any], path: str) -> None:
    """Checks what is read of reports."""
    json_files.check(report, _REPORT, path)
    for stream, about in report["source"].items():
        json_files.check(about, _SOURCE, f"{path}: source of {stream[:80]!a}")
    if not report["source"]:
        raise ValueError(f"{path} has no encoder under source.")
    if "row" in report["settings"]:
        json_files.check(report["settings"], _ROW, f"{path}: settings")
    for number, result in enumerate(report["results"]):
        where = f"{path}: results[{number}]"
        json_files.check(result, _RESULT, where)
        if result["std"].keys() != result["mean"].keys() or (
            result["metric"] not in result["mean"]
        ):
            raise ValueError(f"{where} has other metrics under mean, std and metric.")
        for split in result["splits"]:
            json_files.check(split, _SPLIT, f"{where}: splits")


def table(report: Mapping[str, Any]) -> str:
    """The results for the terminal; fractions in percent."""
    lines = []
    for result in report["results"]:
        values = []
        for name, mean in result["mean"].items():
            std = result["std"][name]
            factor, form = (100, ".1f") if are_fractions(name, [mean]) else (1, ".4g")
            value = f"{name} {factor * mean:{form}}"
            if std is not None:
                value += f" +- {factor * std:{form}}"
            values.append(value)
        lines.append(escaping.terminal(f"{result['stream']}: {', '.join(values)}"))
    num_splits = len(report["results"][0]["splits"])
    title = f"{report['protocol']}, fractions in percent"
    if num_splits > 1:
        title += f", mean +- standard deviation of {num_splits} splits"
    return "\n".join([title, *lines, *map(escaping.terminal, report["notes"])])


def _free_name(stem: str, suffix: str) -> str:
    path, number = stem + suffix, 1
    while os.path.exists(path):
        number += 1
        path = f"{stem}-{number}{suffix}"
    return path


def _append_csv(path: str, report: Mapping[str, Any], json_path: str) -> None:
    """Adds a line for each result; evaluations that run side by side take turns."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for result in report["results"]:
        name, stream = result["metric"], result["stream"]
        about = report["source"].get(stream) or next(iter(report["source"].values()))
        cells = [
            *(report["time"], report["protocol"], stream),
            *(about[key] for key in ("method", "kind", "seed")),
            *(name, result["mean"][name], result["std"][name]),
            *(len(result["splits"]), os.path.abspath(json_path)),
        ]
        writer.writerow(map(escaping.csv_cell, cells))
    with files.placing(path) as temporary:
        header = ",".join(_COLUMNS) + "\n"
        lines = files.read_text(path) if os.path.exists(path) else header
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(lines + text.getvalue())
