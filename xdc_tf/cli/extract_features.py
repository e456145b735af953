"""Extracts features of clips, for retrieval and for finding things in time.

    python -m xdc_tf.cli.extract_features --workdir=run --videos=FOLDER --out=found \\
        --format=npy --stride_secs=0.5

takes evenly spread clips of each video, or dense windows by --stride_secs. The work
directory may be of imported weights too.
"""

from absl import flags

from xdc_tf.cli import new_video_flags
from xdc_tf.runtime import program

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, or of imported weights, whose encoders are used.",
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
    "Encoders to use, such as video, which needs no audio; default: all of the run.",
)
flags.adopt_module_key_flags(new_video_flags)
flags.mark_flag_as_required("videos")


def main(argv):
    del argv
    if _NUM_CLIPS.value is not None and _STRIDE_SECS.value is not None:
        raise ValueError(
            f"--num_clips={_NUM_CLIPS.value} and --stride_secs={_STRIDE_SECS.value} "
            "exclude each other; give one of them."
        )
    from xdc_tf.inference import new_videos, video_features
    from xdc_tf.inference.parts import Sampling

    with new_video_flags.conversion() as conversion:
        done = video_features.extract_features(
            _WORKDIR.value,
            new_video_flags.VIDEOS.value,
            _OUT.value,
            format_name=_FORMAT.value,
            sampling=Sampling(
                num_clips=_NUM_CLIPS.value or 10,
                stride_secs=_STRIDE_SECS.value,
                batch_size=new_video_flags.BATCH_SIZE.value,
            ),
            conversion=conversion,
            average=_AVERAGE.value,
            streams=_STREAMS.value,
        )
    sizes = ", ".join(f"{stream} {width}" for stream, width in done.widths.items())
    print(
        f"{_OUT.value}: {done.num_features} rows of features ({sizes}), of "
        f"{new_videos.describe_usable(done.rows)}"
    )


def run():
    program.run(main)


if __name__ == "__main__":
    run()
