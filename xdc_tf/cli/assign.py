"""Labels new videos with a finished run's clusters.

    python -m xdc_tf.cli.assign --workdir=run --videos=FOLDER --out=assigned.csv

writes one line per video: its cluster, the distance to the cluster's centre and by how
much the next one is farther, for each clustering of the run; or why the video could not
be used. With names that were given to clusters in the cluster pages,

    python -m xdc_tf.cli.assign --workdir=run --videos=FOLDER --out=assigned.csv \\
        --names=cluster_names.csv --manifest=labelled.csv

it writes those too, and a manifest with names as labels, which data_prep.convert takes.
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
_NAMES = flags.DEFINE_string(
    "names", None, "CSV of clusters' names, as the cluster pages export it."
)
_MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "Manifest to make, of the videos whose cluster has a name, with it as label; needs "
    "--names.",
)
_LABEL_SOURCE = flags.DEFINE_string(
    "label_source",
    None,
    "Clustering whose names label the manifest, such as audio; default: the only one "
    "that has names.",
)
flags.adopt_module_key_flags(new_video_flags)
flags.mark_flag_as_required("videos")


def main(argv):
    del argv
    if _MANIFEST.value is not None and _NAMES.value is None:
        raise ValueError("--manifest needs --names, whose names are its labels.")
    if _LABEL_SOURCE.value is not None and _MANIFEST.value is None:
        raise ValueError("--label_source needs --manifest, whose labels it chooses.")
    from xdc_tf.inference import cluster_assignment, new_videos

    with new_video_flags.conversion() as conversion:
        done = cluster_assignment.assign_clusters(
            _WORKDIR.value,
            new_video_flags.VIDEOS.value,
            _OUT.value,
            conversion=conversion,
            num_clips=_NUM_CLIPS.value,
            batch_size=new_video_flags.BATCH_SIZE.value,
            features_dir=_FEATURES.value,
            naming=_NAMES.value
            and cluster_assignment.Naming(
                _NAMES.value, _MANIFEST.value, _LABEL_SOURCE.value
            ),
        )
    print(
        f"{_OUT.value}: {new_videos.describe_usable(done.rows)} labelled with the "
        f"clusters of {' and '.join(done.sources)} (round_{done.round_index:03d})"
    )
    if done.num_labelled is not None:
        print(f"{_MANIFEST.value}: {done.num_labelled} videos with a label")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
