"""Extracts features of clips, for retrieval and for finding things in time.

    python -m xdc_tf.cli.extract_features --workdir=run --videos=FOLDER --out=found \\
        --format=npy --stride_secs=0.5

takes evenly spread clips of each video, or dense windows by --stride_secs. The work
directory may be of imported weights too.
"""

import os

from absl import flags

from xdc_tf import program

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, or of imported weights, whose encoders are used.",
    required=True,
)
_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of video files, searched to its depths; manifest, CSV with the columns "
    "path[,start_secs,end_secs,label]; or directory of records.",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "Directory to make.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format",
    "npy",
    ["npy", "parquet", "tfrecord"],
    "npy: STREAM.npy and clips.csv; parquet: features.parquet; tfrecord: "
    "tf.train.Examples.",
)
_NUM_CLIPS = flags.DEFINE_integer(
    "num_clips", None, "Clips per video, evenly spread; default: 10.", lower_bound=1
)
_STRIDE_SECS = flags.DEFINE_float(
    "stride_secs",
    None,
    "Instead of --num_clips: all clips that start at a multiple of so many seconds.",
)
_AVERAGE = flags.DEFINE_bool(
    "average", False, "One row per video, the mean over its clips."
)
_STREAMS = flags.DEFINE_list(
    "streams",
    [],
    "Encoders to use, such as video, which needs no sound; default: all of the run.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Clips per batch; default: the run's features.batch_size, 16 for imported weights.",
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
    if _NUM_CLIPS.value is not None and _STRIDE_SECS.value is not None:
        raise ValueError(
            f"--num_clips={_NUM_CLIPS.value} and --stride_secs={_STRIDE_SECS.value} "
            "exclude each other; give one of them."
        )
    # The processes are the parallelism; one thread each also for matrix products.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from xdc_tf.evaluation import extraction, new_videos
    from xdc_tf.evaluation.parts import Conversion, Sampling

    done = extraction.extract_features(
        _WORKDIR.value,
        _VIDEOS.value,
        _OUT.value,
        format_name=_FORMAT.value,
        sampling=Sampling(
            num_clips=_NUM_CLIPS.value or 10,
            stride_secs=_STRIDE_SECS.value,
            batch_size=_BATCH_SIZE.value,
        ),
        conversion=Conversion(
            num_workers=_NUM_WORKERS.value or os.cpu_count() or 1,
            rows_per_part=_ROWS_PER_PART.value,
            min_secs=_MIN_SECS.value,
            max_secs=_MAX_SECS.value,
            timeout_secs=_TIMEOUT_SECS.value,
        ),
        average=_AVERAGE.value,
        streams=_STREAMS.value,
    )
    sizes = ", ".join(f"{stream} {width}" for stream, width in done.widths.items())
    print(
        f"{_OUT.value}: {done.num_features} rows of features ({sizes}), of "
        f"{new_videos.tell(done.rows)}"
    )


def run():
    program.run(main)


if __name__ == "__main__":
    run()
