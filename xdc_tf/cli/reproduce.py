"""Compares the methods, or settings of one, on the embedded benchmark.

    python -m xdc_tf.cli.reproduce --table=methods --seeds=5 --scale=small --out=results

draws the videos, pretrains and evaluates every row with every seed, and writes the
table as NAME.md, NAME.csv and NAME.png, and its reports as NAME.json. Interrupted, the
same command goes on. Reports that are in NAME.json are not made again.
"""

import itertools
import os
import shlex

from absl import flags

from data_prep.scenes.kinds import KINDS
from xdc_tf.experiments.reproduction_tables import SCALES, TABLES
from xdc_tf.runtime import locks, outputs, program

_TABLE = flags.DEFINE_enum(
    "table", "methods", list(TABLES), "Table to make: what its rows differ in."
)
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds: 0, 1, ...", lower_bound=1)
_SCALE = flags.DEFINE_enum(
    "scale",
    "full",
    list(SCALES),
    "Scale of the comparison: how many videos, rounds and epochs.",
)
_KIND = flags.DEFINE_enum(
    "kind",
    "shapes",
    [name for name, kind in KINDS.items() if not kind.several_labels],
    "Kind of videos; see data_prep.synthetic --help.",
)
_METHODS = flags.DEFINE_list(
    "methods", [], "Methods of the table; default: all that it names."
)
_ROWS = flags.DEFINE_multi_string(
    "row", [], "Row of the table to make, several times for several; default: all."
)
_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "Row that the others are tested against; default: xdc, or as configured, if it is "
    "one, else the last.",
)
_OUT = flags.DEFINE_string("out", "results", "Directory for tables and reports.")
_VIDEOS = flags.DEFINE_string(
    "videos", None, "Directory for videos and their records; default: OUT/videos."
)
_JOBS = flags.DEFINE_integer(
    "jobs", os.cpu_count() or 1, "Runs at the same time.", lower_bound=1
)


def main(argv):
    del argv
    from xdc_tf.experiments import reproduction

    scale, name = SCALES[_SCALE.value], _TABLE.value
    tasks = reproduction.make_tasks(
        name,
        scale=scale,
        seeds=range(_SEEDS.value),
        methods=_METHODS.value,
        data_dir=_VIDEOS.value or os.path.join(_OUT.value, "videos"),
        out_dir=os.path.join(_OUT.value, name),
        kind=_KIND.value,
        rows=_ROWS.value,
    )
    outputs.try_directory(_OUT.value)
    path = os.path.join(_OUT.value, f".{name}.lock")
    held = os.path.join(_OUT.value, name)
    with locks.Lock(path, held=held, remove=True):
        print(_compare(name, tasks))


def _compare(name: str, tasks) -> str:
    """Runs what is left of a table's tasks and writes it; the table as text."""
    from xdc_tf.experiments import reproduction, reproduction_report

    collection = os.path.join(_OUT.value, f"{name}.json")
    reports = reproduction.read_reports(tasks, collection)
    done = [task for task in tasks if task.is_done(reports)]
    waiting = [task for task in tasks if task not in done]
    if waiting:
        outputs.try_directory(tasks[0].out_dir)
    reproduction.make_data(waiting, num_workers=os.cpu_count() or 1)
    finished = reproduction.run_tasks(waiting, num_jobs=_JOBS.value)
    for number, task in enumerate(itertools.chain(done, finished), start=1):
        if task in waiting:
            reports |= reproduction.read_reports([task])
        print(
            f"{number} of {len(tasks)}: {task.variant.row}, {task.variant.method}, "
            f"seed {task.seed}: {reproduction.summarize(task, reports)}",
            flush=True,
        )
    flags_given = [f"--table={name}", f"--seeds={_SEEDS.value}"]
    flags_given += [f"--scale={_SCALE.value}", f"--out={_OUT.value}"]
    if _KIND.value != "shapes":
        flags_given.append(f"--kind={_KIND.value}")
    if _METHODS.value:
        flags_given.append(f"--methods={','.join(_METHODS.value)}")
    flags_given += [f"--row={shlex.quote(row)}" for row in _ROWS.value]
    if _REFERENCE.value:
        flags_given.append(f"--reference={shlex.quote(_REFERENCE.value)}")
    return reproduction_report.write(
        name,
        tasks,
        reports,
        _OUT.value,
        title=TABLES[name].title,
        command=f"python -m xdc_tf.cli.reproduce {' '.join(flags_given)}",
        reference=_REFERENCE.value or _default_reference(name, tasks),
    )


def _default_reference(name, tasks) -> str:
    rows = [task.variant.row for task in tasks]
    reference = TABLES[name].reference
    return reference if reference in rows else rows[-1]


def run():
    program.run(main)


if __name__ == "__main__":
    run()
