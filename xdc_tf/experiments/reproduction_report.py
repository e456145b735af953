"""A comparison's reports -> a page with its table, a CSV file and a plot."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from xdc_tf.experiments import comparison
from xdc_tf.experiments.comparison import Row
from xdc_tf.experiments.reproduction import Task
from xdc_tf.experiments.reproduction_tables import Scale
from xdc_tf.runtime import escaping, files

_METRIC = "top1"


def write(
    table_name: str,
    tasks: Sequence[Task],
    out_dir: str,
    *,
    title: str,
    command: str,
    reference: str,
) -> str:
    """Writes NAME.md, NAME.csv and NAME.png; returns the table.

    Args:
      table_name: NAME.
      tasks: that are done; their reports lie in out_dir or below it.
      out_dir: where to.
      title: what is compared.
      command: that makes it again.
      reference: the row that the others are tested against.
    """
    rows = [row for task in tasks for row in _rows(task)]
    order = list(dict.fromkeys(task.variant.row for task in tasks))
    table = comparison.summarize(rows, reference=reference, order=order)
    text = comparison.markdown(table)
    files.write_text(
        os.path.join(out_dir, f"{table_name}.csv"), comparison.as_csv(table)
    )
    _plot(rows, order, os.path.join(out_dir, f"{table_name}.png"), title=title)
    seeds = sorted({task.seed for task in tasks})
    heading = escaping.markdown(title[0].upper() + title[1:])
    page = [
        f"# {heading}, on the embedded benchmark",
        "",
        text,
        "",
        f"![{escaping.markdown(title)}]({table_name}.png)",
        "",
        f"Top-1 accuracy in percent on {tasks[0].scale.num_test} test videos of 10 "
        f"classes, mean and standard deviation over {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}); differences from "
        f"{escaping.markdown(reference)}, paired by seed. But for what a row says: "
        + _describe(tasks[0].scale),
        "",
        f"    {command}",
        "",
        f"Each number is the mean of `results[].mean.{_METRIC}` of the reports in "
        f"[{table_name}/]({table_name}/), a file for each row, seed and protocol.",
        "",
    ]
    files.write_text(os.path.join(out_dir, f"{table_name}.md"), "\n".join(page))
    return text


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


def _rows(task: Task) -> list[Row]:
    """A task's results, under the name of its row."""
    reports = [comparison.read(path) for path in task.reports.values()]
    return [
        row._replace(method=task.variant.row, seed=str(task.seed))
        for row in comparison.collect(reports)
        if row.metric == _METRIC
    ]


def _plot(rows: Sequence[Row], order: Sequence[str], path: str, *, title: str) -> None:
    """A panel for each protocol and stream: every seed a point, and the means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: Mapping[tuple[str, str], None] = dict.fromkeys(
        (row.protocol, row.stream) for row in rows
    )
    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(escaping.plot(title))
    for axes, (protocol, stream) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0],
        panels,
        strict=True,
    ):
        for place, name in enumerate(order):
            values = [
                100 * row.value
                for row in rows
                if (row.protocol, row.stream, row.method) == (protocol, stream, name)
            ]
            if not values:
                continue
            axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.4)
            axes.plot(place, np.mean(values), "_", color="black", markersize=22)
        axes.set_title(escaping.plot(f"{protocol}, {stream}"))
        labels = list(map(escaping.plot, order))
        axes.set_xticks(range(len(order)), labels, rotation=45, ha="right")
        axes.grid(alpha=0.3)
    figure.supylabel("top-1 accuracy, %")
    with files.placing(path) as temporary:
        figure.savefig(temporary)
