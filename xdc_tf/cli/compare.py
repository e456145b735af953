"""Compares evaluations' results: means over seeds and splits, and paired tests.

    python -m xdc_tf.cli.compare runs/*/results/*.json --reference=xdc

prints a row per method and a column per protocol, stream and metric, and how methods
differ from the reference, over the seeds and splits that both have. A file may be given
as NAME=FILE, for a row of that name instead of its method's. With --collect=FILE the
reports are written into one small file too, which is read as they are:

    python -m xdc_tf.cli.compare runs/*/results/*.json --collect=reports.json
    python -m xdc_tf.cli.compare reports.json --reference=xdc
"""

import os
import sys

from absl import flags

from xdc_tf.runtime import program

_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "Method that the others are tested against; default: that of the first file.",
)
_METRICS = flags.DEFINE_list(
    "metrics", [], "Metrics to compare, such as top1,r1; default: all."
)
_FORMAT = flags.DEFINE_enum(
    "format", "markdown", ["markdown", "csv", "latex"], "Format of the table."
)
_OUT = flags.DEFINE_string("out", None, "File for the table, instead of printing it.")
_PLOT = flags.DEFINE_string(
    "plot", None, "PNG file for a picture: a panel per column, a point per value."
)
_COLLECT = flags.DEFINE_string(
    "collect",
    None,
    "File for all the reports, without learning curves; compare reads it as it reads "
    "them.",
)


def main(argv):
    paths = argv[1:]
    if not paths:
        raise ValueError(
            "no results to compare; give the JSON files of python -m "
            "xdc_tf.cli.evaluate, such as runs/*/results/*.json."
        )
    from xdc_tf.evaluation import report_collections
    from xdc_tf.experiments import comparison, comparison_tables
    from xdc_tf.runtime import escaping, files, outputs

    for path in filter(None, (_OUT.value, _PLOT.value, _COLLECT.value)):
        outputs.try_file(path)
    reports = [
        report
        for argument in paths
        for report in comparison.read(*_path_and_name(argument))
    ]
    rows = comparison.collect(reports, _METRICS.value)
    table = comparison.summarize(rows, reference=_REFERENCE.value)
    text = comparison_tables.FORMATS[_FORMAT.value](table)
    for difference in comparison.find_differences(reports):
        warning = f"warning: not the same everywhere: {escaping.terminal(difference)}"
        print(warning, file=sys.stderr)
    if _COLLECT.value:
        names = report_collections.make_names([report.path for report in reports])
        values = (report.values for report in reports)
        report_collections.write(_COLLECT.value, dict(zip(names, values, strict=True)))
    if _PLOT.value:
        # Matplotlib takes a second to import.
        from xdc_tf.experiments import comparison_plot

        comparison_plot.write(rows, table, _PLOT.value)
    if _OUT.value:
        files.write_text(_OUT.value, text)
    else:
        print(text, end="")


def _path_and_name(argument):
    name, equals, path = argument.partition("=")
    if equals and not os.path.exists(argument):
        return path, name
    return argument, None


def run():
    program.run(main, takes_arguments=True)


if __name__ == "__main__":
    run()
