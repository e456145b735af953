"""Labels new videos with a finished run's clusters.

    python -m xdc_tf.cli.assign --workdir=run --videos=FOLDER --out=assigned.csv

writes one line per video: its cluster, the distance to the cluster's centre and by how
much the next one is farther, for each clustering of the run; or why the video could not
be used.
"""

from absl import flags

from xdc_tf.cli import new_video_flags
from xdc_tf.runtime import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run whose clusters are used.", required=True
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
flags.adopt_module_key_flags(new_video_flags)
flags.mark_flag_as_required("videos")


def main(argv):
    del argv
    conversion = new_video_flags.conversion()
    from xdc_tf.inference import cluster_assignment, new_videos

    done = cluster_assignment.assign_clusters(
        _WORKDIR.value,
        new_video_flags.VIDEOS.value,
        _OUT.value,
        conversion=conversion,
        num_clips=_NUM_CLIPS.value,
        batch_size=new_video_flags.BATCH_SIZE.value,
        features_dir=_FEATURES.value,
    )
    print(
        f"{_OUT.value}: {new_videos.describe_usable(done.rows)} labelled with the "
        f"clusters of {' and '.join(done.sources)} (round_{done.round_index:03d})"
    )


def run():
    program.run(main)


if __name__ == "__main__":
    run()
