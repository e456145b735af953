"""A comparison's reports -> a page with its table, a CSV file, a plot, and one file."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.scenes.kinds import KINDS
from xdc_tf.evaluation import report_collections
from xdc_tf.experiments import comparison, comparison_tables
from xdc_tf.experiments.comparison import Report
from xdc_tf.experiments.reproduction import Task
from xdc_tf.experiments.reproduction_tables import Scale
from xdc_tf.runtime import escaping, files

_METRIC = "top1"


def write(
    table_name: str,
    tasks: Sequence[Task],
    reports: Mapping[str, Mapping[str, Any]],
    out_dir: str,
    *,
    title: str,
    command: str,
    reference: str,
) -> str:
    """Writes NAME.md, NAME.csv, NAME.png and NAME.json; returns the table.

    Args:
      table_name: NAME.
      tasks: that are done.
      reports: of reproduction.read_reports. All of them are in the table and in
        NAME.json: those of the tasks in their order, then the others.
      out_dir: where to.
      title: what is compared.
      command: that makes it again.
      reference: the row that the others are tested against.
    """
    of_tasks = [path for task in tasks for path in task.reports.values()]
    paths = dict.fromkeys([*of_tasks, *reports])
    rows = comparison.collect(
        [Report(path, reports[path]) for path in paths], metrics=[_METRIC]
    )
    order = list(dict.fromkeys(task.variant.row for task in tasks))
    table = comparison.summarize(rows, reference=reference, order=order)
    text = comparison_tables.markdown(table)
    files.write_text(
        os.path.join(out_dir, f"{table_name}.csv"), comparison_tables.as_csv(table)
    )
    # Matplotlib takes a second to import.
    from xdc_tf.experiments import comparison_plot

    plot_path = os.path.join(out_dir, f"{table_name}.png")
    comparison_plot.write(rows, table, plot_path, title=title)
    collection = os.path.join(out_dir, f"{table_name}.json")
    report_collections.write(
        collection, {os.path.basename(path): reports[path] for path in paths}
    )
    seeds = {
        source["seed"]
        for report in reports.values()
        for source in report["source"].values()
    }
    page = _page(
        *(table_name, tasks[0], sorted(seeds), text, reference),
        title=title,
        command=command,
    )
    page += [
        f"Each number is the mean of `results[].mean.{_METRIC}` of the reports in "
        f"[{table_name}.json]({table_name}.json), a line for each row, seed and "
        "protocol with what it differs in from its template. Tables of that file:",
        "",
        f"    python -m xdc_tf.cli.compare {shlex.quote(collection)} "
        f"--metrics={_METRIC} --reference={shlex.quote(reference)}",
        "",
    ]
    files.write_text(os.path.join(out_dir, f"{table_name}.md"), "\n".join(page))
    return text


def _page(
    table_name: str,
    task: Task,
    seeds: Sequence[int],
    text: str,
    reference: str,
    *,
    title: str,
    command: str,
) -> list[str]:
    """Lines: the table, its plot, what it is of, and the command that makes it."""
    kind = "" if task.kind == "shapes" else f", kind {task.kind}"
    heading = escaping.markdown(title[0].upper() + title[1:])
    return [
        f"# {heading}, on the embedded benchmark{kind}",
        "",
        text,
        "",
        f"![{escaping.markdown(title)}]({table_name}.png)",
        "",
        f"Top-1 accuracy in percent on {task.scale.num_test} test videos of "
        f"{len(KINDS[task.kind].labels)} classes, mean and standard deviation over "
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}); differences from "
        f"{escaping.markdown(reference)}, paired by seed. But for what a row says: "
        + _describe(task.scale),
        "",
        f"    {command}",
        "",
    ]


def _describe(scale: Scale) -> str:
    return (
        f"{scale.num_unlabelled} unlabelled videos, clips of {scale.num_frames} frames "
        f"in a second, {scale.num_rounds} rounds of "
        f"{scale.epochs_per_round} epochs (supervised as many epochs in one), k = "
        f"{scale.num_clusters}. linear: logistic regression on frozen features of "
        f"{scale.num_labelled} labelled videos; finetune: all layers, "
        f"{scale.finetune_epochs} epochs, the last of which counts, on "
        f"{scale.labels_per_class} labelled videos per class."
    )
