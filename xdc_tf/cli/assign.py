"""Labels new videos with a finished run's clusters.

    python -m xdc_tf.cli.assign --workdir=run --videos=FOLDER --out=assigned.csv

writes one line per video: its cluster, the distance to the cluster's centre and by how
much the next one is farther, for each clustering of the run; or why the video could not
be used.
"""

import os

from absl import flags

from xdc_tf import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run whose clusters are used.", required=True
)
_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of video files, searched to its depths; manifest, CSV with the columns "
    "path[,start_secs,end_secs,label]; or directory of records.",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "CSV file to make.", required=True)
_FEATURES = flags.DEFINE_string(
    "features",
    None,
    "Directory to make with the features, STREAM.npy, in the order of the CSV.",
)
_NUM_CLIPS = flags.DEFINE_integer(
    "num_clips",
    None,
    "Clips per video whose features are averaged; default: the run's "
    "features.clips_per_video.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Clips per batch; default: the run's features.batch_size.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Processes that decode; default: one per CPU.", lower_bound=1
)
_ROWS_PER_PART = flags.DEFINE_integer(
    "rows_per_part",
    256,
    "Video files that are converted, to a directory beside --out, before they are used "
    "and deleted.",
    lower_bound=1,
)
_MIN_SECS = flags.DEFINE_float("min_secs", 0.1, "Quarantine what is shorter.")
_MAX_SECS = flags.DEFINE_float(
    "max_secs", 600.0, "Quarantine what is longer; bounds the memory of a worker."
)
_TIMEOUT_SECS = flags.DEFINE_float(
    "timeout_secs", 600.0, "Quarantine what takes longer to decode."
)


def main(argv):
    del argv
    # The processes are the parallelism; one thread each also for matrix products.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from xdc_tf.evaluation import assignment, new_videos
    from xdc_tf.evaluation.parts import Conversion

    done = assignment.assign(
        _WORKDIR.value,
        _VIDEOS.value,
        _OUT.value,
        conversion=Conversion(
            num_workers=_NUM_WORKERS.value or os.cpu_count() or 1,
            rows_per_part=_ROWS_PER_PART.value,
            min_secs=_MIN_SECS.value,
            max_secs=_MAX_SECS.value,
            timeout_secs=_TIMEOUT_SECS.value,
        ),
        num_clips=_NUM_CLIPS.value,
        batch_size=_BATCH_SIZE.value,
        features_dir=_FEATURES.value,
    )
    print(
        f"{_OUT.value}: {new_videos.tell(done.rows)} labelled with the clusters of "
        f"{' and '.join(done.sources)} (round {done.round_index})"
    )


def run():
    program.run(main)


if __name__ == "__main__":
    run()
