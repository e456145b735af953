"""Compares the results of evaluations: means over seeds and splits, and paired tests.

    python -m xdc_tf.cli.compare runs/*/results/*.json --reference=xdc

prints a row per method and a column per protocol, stream and metric, and how methods
differ from the reference, over the seeds and splits that both have. A file may be given
as NAME=FILE, for a row of that name instead of its method's.
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
    "metrics", [], "Those to compare, such as top1,r1; default: all."
)
_FORMAT = flags.DEFINE_enum(
    "format", "markdown", ["markdown", "csv", "latex"], "Of the table."
)
_OUT = flags.DEFINE_string("out", None, "File to write it to, instead of printing it.")


def main(argv):
    paths = argv[1:]
    if not paths:
        raise ValueError(
            "no results to compare; give the JSON files of python -m "
            "xdc_tf.cli.evaluate, such as runs/*/results/*.json."
        )
    from xdc_tf.experiments import comparison, comparison_tables
    from xdc_tf.runtime import escaping, files, outputs

    if _OUT.value:
        outputs.try_file(_OUT.value)
    reports = [comparison.read(*_path_and_name(argument)) for argument in paths]
    rows = comparison.collect(reports, _METRICS.value)
    table = comparison.summarize(rows, reference=_REFERENCE.value)
    text = comparison_tables.FORMATS[_FORMAT.value](table)
    for difference in comparison.find_differences(reports):
        warning = f"warning: not the same everywhere: {escaping.terminal(difference)}"
        print(warning, file=sys.stderr)
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
