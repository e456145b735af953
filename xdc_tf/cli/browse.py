"""Writes a run as pages that open from disk: its clusters, seen and heard.

    python -m xdc_tf.cli.browse --workdir=run --records=records --videos=VIDEOS \\
        --out=page

makes a folder whose index.html a browser opens; the same command goes on after a kill.
"""

import shlex
import sys

from absl import flags

from data_prep.engines import dask_flags
from xdc_tf.runtime import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory of the run to show.", required=True
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Directory of the records that it was trained on.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder of the pages, new or of the same run.", required=True
)
_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder with the original files, which clips with sound are cut from; default: "
    "where absolute paths of the manifest say, else from the records.",
)
_ROUNDS = flags.DEFINE_string("rounds", "all", "Rounds to show: all, last, or 3,5.")
_EXAMPLES_PER_CLUSTER = flags.DEFINE_integer(
    "examples_per_cluster",
    24,
    "Members of each cluster that have a clip, at most.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Processes that decode and encode; default: one per CPU. With --dask=ADDRESS "
    "of each of its tasks, default one; with --dask=local the cluster's workers.",
    lower_bound=1,
)
flags.adopt_module_key_flags(dask_flags)


def main(argv):
    del argv
    from xdc_tf.browse import pages

    with dask_flags.engine(_NUM_WORKERS.value) as engine:
        path = pages.make_pages(
            _WORKDIR.value,
            _RECORDS.value,
            _OUT.value,
            settings=pages.BrowseSettings(
                videos=_VIDEOS.value,
                rounds=_ROUNDS.value,
                examples_per_cluster=_EXAMPLES_PER_CLUSTER.value,
                num_workers=dask_flags.pool_size(_NUM_WORKERS.value),
                engine=engine,
            ),
            command=shlex.join(["xdc-tf", "browse", *sys.argv[1:]]),
        )
    print(f"Open {path}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
