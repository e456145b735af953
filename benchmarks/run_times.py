"""Where the minutes of a run of the comparison go.

    python -m benchmarks.run_times --out=DIR --kind=digits --scale=medium

makes the videos, or takes those in DIR/videos, pretrains and evaluates XDC as it is
configured with seed 0 in this process, on one thread as each of several jobs has, and
prints the seconds of each part: Python's profiler counts a function's time with all
that it calls, and a function that returns before a device is done leaves its time to
the next that waits.
"""

import argparse
import cProfile
import os
import pstats
import shutil
from collections.abc import Sequence

from data_prep.scenes.kinds import KINDS
from xdc_tf.experiments import reproduction
from xdc_tf.experiments.reproduction_tables import SCALES

# Functions by the end of their file's path and name; none calls another one of them.
PARTS = {
    "preparing the run": [("training/run.py", "prepare")],
    "building the steps": [("training/pretrain.py", "make_round_context")],
    "batch norm and first encoders": [
        ("training/pretrain.py", "save_initial_encoders")
    ],
    "features to cluster": [("training/run_features.py", "to_cluster")],
    "k-means": [("training/round_labels.py", "cluster")],
    "criteria": [("training/round_criteria.py", "measure")],
    "tables and pictures": [
        ("training/pretrain.py", "write_label_tables"),
        ("training/round_pictures.py", "write"),
        ("training/projector.py", "write"),
    ],
    "training and held-out evaluation": [("training/train_round.py", "train_round")],
    "linear and finetuning": [("evaluation/protocols.py", "evaluate")],
}


def seconds(stats: pstats.Stats) -> dict[str, float]:
    """The seconds of each part, of everything, and of what is in no part."""
    times = dict.fromkeys(PARTS, 0.0)
    for (path, _, name), values in stats.stats.items():  # type: ignore[attr-defined]
        for part, functions in PARTS.items():
            if any(path.endswith(end) and name == which for end, which in functions):
                times[part] += values[3]
    total = stats.total_tt  # type: ignore[attr-defined]
    return times | {"else": total - sum(times.values()), "all": total}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Where the minutes of a run of the comparison go."
    )
    parser.add_argument("--out", required=True, help="directory for videos")
    parser.add_argument("--kind", default="shapes", choices=KINDS, help="of videos")
    parser.add_argument("--scale", default="medium", choices=SCALES, help="of the run")
    options = parser.parse_args(arguments)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    (task,) = reproduction.make_tasks(
        "methods",
        scale=SCALES[options.scale],
        seeds=[0],
        methods=["xdc"],
        data_dir=os.path.join(options.out, "videos"),
        out_dir=os.path.join(options.out, "run_times"),
        kind=options.kind,
    )
    reproduction.make_data([task], num_workers=os.cpu_count() or 1)
    os.makedirs(task.out_dir)
    profile = cProfile.Profile()
    profile.runcall(reproduction.run, task)
    shutil.rmtree(task.out_dir)
    times = seconds(pstats.Stats(profile))
    for part, secs in times.items():
        print(f"{part:40} {secs:7.1f} s {100 * secs / times['all']:5.1f}%")


if __name__ == "__main__":
    main()
