"""XDC taught by an audio encoder that is trained already.

    python -m benchmarks.teachers --kind=digits --scale=medium --seeds=2 --jobs=2 \\
        --videos=VIDEOS --out=DIR

First a teacher: an XDC run of another seed on the same videos, whose audio encoder's
features of them are written as an array. Then XDC as configured, with the teacher's
clusters in place of the first ones of audio, and with these clusters for half of the
rounds (config.labels.features_from and features_rounds). Linear accuracy, and by round
how often features of one modality find the other's of the same video (retrieval; 0 is
chance, 1 perfect), without labels. DIR keeps the reports; what is there is not run
again.
"""

import os

import numpy as np
from absl import app, flags

from data_prep.scenes.kinds import KINDS
from xdc_tf.experiments import reproduction
from xdc_tf.experiments.reproduction import Task
from xdc_tf.experiments.reproduction_tables import SCALES, Variant

_KIND = flags.DEFINE_enum("kind", "shapes", list(KINDS), "Kind of videos.")
_SCALE = flags.DEFINE_enum("scale", "medium", list(SCALES), "Scale of the runs.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Seeds of each row.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time.")
_VIDEOS = flags.DEFINE_string("videos", None, "Directory of videos.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the reports.", required=True)

_TEACHERS_SEED = 100
_RETRIEVAL = ("retrieval_of_audio_by_video", "retrieval_of_video_by_audio")


def make_teacher(config: dict, directory: str, records_dir: str) -> str:
    """Trains a run and extracts its audio features, unless they are there; where."""
    import tensorflow as tf

    from xdc_tf.inference.parts import Conversion, Sampling
    from xdc_tf.inference.video_features import extract_features
    from xdc_tf.training.pretrain import pretrain

    features = os.path.join(directory, "features")
    if os.path.exists(features):
        return features
    workdir = os.path.join(directory, "run")
    pretrain(
        config,
        workdir=workdir,
        records_dir=records_dir,
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
    extract_features(
        workdir,
        records_dir,
        features,
        format_name="npy",
        sampling=Sampling(),
        conversion=Conversion(num_workers=1),
        average=True,
        streams=["audio"],
    )
    return features


def rows(teacher: str, num_rounds: int) -> dict[str, dict]:
    """What each row changes in the configuration."""
    common = {"training.held_out_share": 0.1}
    taught = common | {"labels.features_from": teacher}
    half = num_rounds // 2
    return {
        "as configured": common,
        "teacher in the first round": taught,
        f"teacher in {half} rounds": taught | {"labels.features_rounds": half},
    }


def print_row(row: str, reports: list[dict]) -> None:
    """Accuracies of all seeds, and the mean retrieval by round."""
    for stream in ("video", "audio"):
        values = [
            100 * result["mean"]["top1"]
            for report in reports
            for result in report["results"]
            if result["stream"] == stream
        ]
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{row}: linear {stream} {np.mean(values):.1f} ({shown})")
    retrieval = np.mean(
        [report["rounds"][name] for report in reports for name in _RETRIEVAL], axis=0
    )
    shown = " ".join(f"{value:.2f}" for value in retrieval)
    print(f"{row}: retrieval {shown}", flush=True)


def main(_) -> None:
    """Runs what is missing and prints each row."""
    scale, out, kind = SCALES[_SCALE.value], _OUT.value, _KIND.value
    os.makedirs(out, exist_ok=True)

    def make_task(row: str, changes: dict, seed: int) -> Task:
        variant = Variant(row, "xdc", config=changes, protocols=("linear",))
        return Task(variant, seed, scale, _VIDEOS.value, out, kind)

    first = make_task("teacher", {}, _TEACHERS_SEED)
    reproduction.make_data([first], num_workers=_JOBS.value)
    unlabelled = os.path.join(reproduction.data_directories(first)[0], "records")
    teacher = make_teacher(
        reproduction.make_config(first), os.path.join(out, "teacher"), unlabelled
    )
    by_row = {
        row: [make_task(row, changes, seed) for seed in range(_SEEDS.value)]
        for row, changes in rows(teacher, scale.num_rounds).items()
    }
    tasks = [task for of_row in by_row.values() for task in of_row]
    done = reproduction.read_reports(tasks)
    waiting = [task for task in tasks if not task.is_done(done)]
    for task in reproduction.run_tasks(waiting, num_jobs=_JOBS.value):
        print(f"{task.variant.row}, seed {task.seed}: done", flush=True)
    reports = reproduction.read_reports(tasks)
    for row, of_row in by_row.items():
        print_row(row, [reports[task.reports["linear"]] for task in of_row])


if __name__ == "__main__":
    app.run(main)
