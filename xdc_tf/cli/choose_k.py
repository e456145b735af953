"""Compares numbers of clusters on features: fit, stability, sizes and time.

    python -m xdc_tf.cli.choose_k --features=features/audio.npy --candidates=64,128,256

prints a table; --out also writes it as CSV and JSON, and a plot.
"""

from absl import flags

from xdc_tf.runtime import program

_FEATURES = flags.DEFINE_string(
    "features", None, "A .npy matrix of features, a row per example.", required=True
)
_CANDIDATES = flags.DEFINE_list(
    "candidates", None, "Numbers of clusters, such as 64,128,256,512.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Directory to make, with CSV, JSON and a plot.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds",
    3,
    "Fits per number of clusters, each with another seed.",
    lower_bound=2,
)
_NUM_ITERATIONS = flags.DEFINE_integer(
    "num_iterations", 20, "Iterations of a fit, at most.", lower_bound=1
)
_NORMALIZE = flags.DEFINE_bool("normalize", True, "Scale features to length one.")
_PCA_COMPONENTS = flags.DEFINE_integer(
    "pca_components", 0, "Whiten to so many dimensions; 0 is off.", lower_bound=0
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed"],
    "Precision of k-means' matrix products.",
)
_MAX_ROWS = flags.DEFINE_integer(
    "max_rows", 0, "Random rows to use, at most; 0 means all.", lower_bound=0
)
_MEMORY_GIB = flags.DEFINE_float(
    "memory_gib",
    4.0,
    "Features larger than so many GiB are read from their file in every pass.",
    lower_bound=0,
)


def main(argv):
    del argv
    from xdc_tf.experiments import cluster_counts

    cluster_counts.compare(
        _FEATURES.value,
        _CANDIDATES.value,
        out_dir=_OUT.value,
        max_rows=_MAX_ROWS.value,
        memory_gib=_MEMORY_GIB.value,
        num_seeds=_NUM_SEEDS.value,
        num_iterations=_NUM_ITERATIONS.value,
        normalize=_NORMALIZE.value,
        pca_components=_PCA_COMPONENTS.value or None,
        precision=_PRECISION.value,
    )


def run():
    program.run(main)


if __name__ == "__main__":
    run()
