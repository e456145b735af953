"""Evaluates encoders by a protocol, on labelled records.

    python -m xdc_tf.cli.evaluate --protocol=linear --workdir=run --records=TRAIN \\
        --test_records=TEST

Protocols: linear, finetune, svm, retrieval, clusters; and localization, which writes
dense features of --videos to --out. The encoders are those of a run, of imported
weights or of an export (--workdir), of a run before it was trained (--initial), or
random (--scratch=base). Several splits are several --records with as many
--test_records, or pairs of manifests that choose among the records' videos.
"""

from absl import flags

from xdc_tf.cli import new_video_flags, recipe_flags
from xdc_tf.evaluation import protocols
from xdc_tf.runtime import program

_PROTOCOL = flags.DEFINE_enum(
    "protocol", "linear", [*protocols.PROTOCOLS, "localization"], "Evaluation protocol."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of a run, of imported weights, or of an export."
)
_INITIAL = flags.DEFINE_bool(
    "initial", False, "The encoders that the run started from, not those it trained."
)
_SCRATCH = recipe_flags.DEFINE_recipe(
    "scratch", None, "Pretraining configuration whose encoders start from random."
)
_RECORDS = flags.DEFINE_list(
    "records", [], "Labelled records to learn from; one for each split."
)
_TEST_RECORDS = flags.DEFINE_list(
    "test_records", [], "Labelled records to test on; as many as --records."
)
_TRAIN_MANIFESTS = flags.DEFINE_list(
    "train_manifests",
    [],
    "Manifests of the videos of --records to learn from, by split.",
)
_TEST_MANIFESTS = flags.DEFINE_list(
    "test_manifests",
    [],
    "Manifests of the videos of --test_records, or of --records, to test on, by split.",
)
_ALLOW_OVERLAP = flags.DEFINE_bool(
    "allow_overlap", False, "Accept test videos that are also in training."
)
_STREAMS = flags.DEFINE_list("streams", [], "Encoders to use; default: all.")
_CONFIG = recipe_flags.DEFINE_recipe(
    "config",
    "finetune/base",
    "Configuration of finetune, and of linear with --solver=sgd.",
    folder="finetune",
)
_SOLVER = flags.DEFINE_enum(
    "solver",
    protocols.LOGISTIC,
    [protocols.LOGISTIC, protocols.SGD],
    "Solver of the linear protocol; sgd trains on augmented clips.",
)
_FUSION = flags.DEFINE_bool(
    "fusion",
    False,
    "Of linear and finetune: also classify by all encoders together, by the mean of "
    "their scores and by one classifier on their features side by side.",
)
_NUM_CLIPS = flags.DEFINE_integer(
    "num_clips", None, "Clips per video; default: the protocol's.", lower_bound=1
)
_CLUSTERING = flags.DEFINE_enum(
    "clustering",
    protocols.OF_RUN,
    [protocols.OF_RUN, protocols.MINIBATCH],
    "What clusters scores: the run's clusters, or mini-batch k-means of the test "
    "videos' features, of any encoders.",
)
_NUM_CLUSTERS = flags.DEFINE_integer(
    "num_clusters",
    0,
    "Clusters of mini-batch k-means; 0 means one for each class.",
    lower_bound=0,
)
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", 5, "Fits of mini-batch k-means, each with another seed.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of svm's cross-validation, and the first of mini-batch k-means."
)
_NUM_JOBS = flags.DEFINE_integer(
    "num_jobs",
    1,
    "Threads of svm's cross-validation, or processes of linear's regressions where "
    "videos have several labels.",
    lower_bound=1,
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", 0, "Number of GPUs to use; 0 means all.", lower_bound=0
)
_JSON = flags.DEFINE_string(
    "json", None, "File for the report; default: one in WORKDIR/results."
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Directory for the features of localization, for the classifiers of finetune, and, "
    "in place of a work directory, for the reports of --scratch.",
)
_STRIDE_SECS = flags.DEFINE_float(
    "stride_secs",
    0.5,
    "Seconds from the start of a window of localization to the next one's.",
)
flags.adopt_module_key_flags(new_video_flags)


def main(argv):
    """Evaluates encoders, or writes dense features of new videos."""
    del argv
    if bool(_WORKDIR.value) == bool(_SCRATCH.value):
        raise ValueError("give --workdir or --scratch, whose encoders are evaluated.")
    _OF_NEW_VIDEOS.get(_PROTOCOL.value, _evaluate)()


def _evaluate():
    """Runs a protocol on labelled records, prints its results and writes them."""
    if not _RECORDS.value:
        raise ValueError("--records is missing, the labelled records to learn from.")
    if _SCRATCH.value and not _OUT.value:
        raise ValueError("--scratch needs --out, a directory for its reports.")
    workdir = _WORKDIR.value or _OUT.value
    from xdc_tf.distribution import devices

    # Before anything else runs, so that a CPU can still be split.
    strategy = devices.make_strategy(_NUM_DEVICES.value)
    from xdc_tf.evaluation import encoder_sources, labelled_records, reports

    source = _open_source()
    streams = encoder_sources.check_streams(source, _STREAMS.value)
    settings = protocols.load(_PROTOCOL.value).settings.from_options(_options())
    splits = labelled_records.open_splits(
        _RECORDS.value,
        _TEST_RECORDS.value,
        run=source.run,
        modalities=[source.run.streams[stream] for stream in streams],
        clip=settings.clip(source.run.clip),
        train_manifests=_TRAIN_MANIFESTS.value,
        test_manifests=_TEST_MANIFESTS.value,
        allow_overlap=_ALLOW_OVERLAP.value,
    )
    reports.try_places(workdir, _JSON.value)
    report = protocols.evaluate(
        _PROTOCOL.value, source, splits, settings, streams=streams, strategy=strategy
    )
    # First, so that it is seen whatever becomes of the disk.
    print(reports.table(report), flush=True)
    path = reports.write(report, workdir=workdir, path=_JSON.value)
    print(f"Report: {path}")


def _options():
    return protocols.Options(
        recipe=_CONFIG.value.to_dict(),
        solver=_SOLVER.value,
        num_clips=_NUM_CLIPS.value,
        fusion=_FUSION.value,
        batch_size=new_video_flags.BATCH_SIZE.value,
        seed=_SEED.value,
        num_jobs=_NUM_JOBS.value,
        save_dir=_OUT.value,
        clustering=_CLUSTERING.value,
        num_clusters=_NUM_CLUSTERS.value,
        num_seeds=_NUM_SEEDS.value,
    )


def _open_source():
    """The encoders of --scratch or --workdir."""
    from xdc_tf.data import dataset_info
    from xdc_tf.evaluation import encoder_sources

    if _SCRATCH.value:
        return encoder_sources.scratch_source(
            _SCRATCH.value.to_dict(), dataset_info.read_dataset_info(_RECORDS.value[0])
        )
    return encoder_sources.open_source(_WORKDIR.value, initial=_INITIAL.value)


def _localize():
    """Writes dense features of new videos."""
    missing = [
        f"--{name}"
        for name, value in (
            ("workdir", _WORKDIR.value),
            ("videos", new_video_flags.VIDEOS.value),
            ("out", _OUT.value),
        )
        if not value
    ]
    if missing:
        raise ValueError(f"--protocol=localization needs {', '.join(missing)}.")
    if _INITIAL.value:
        raise ValueError(
            "--protocol=localization takes a run's trained encoders; drop --initial."
        )
    from xdc_tf.inference import localization, new_videos

    with new_video_flags.conversion() as conversion:
        written = localization.extract_windows(
            _WORKDIR.value,
            new_video_flags.VIDEOS.value,
            _OUT.value,
            stride_secs=_STRIDE_SECS.value,
            conversion=conversion,
            streams=_STREAMS.value,
            batch_size=new_video_flags.BATCH_SIZE.value,
        )
    print(f"{_OUT.value}: features of {new_videos.describe_usable(written.rows)}")


# Protocols without labels, which no table of evaluation has.
_OF_NEW_VIDEOS = {"localization": _localize}


def run():
    recipe_flags.find_neighbours()
    program.run(main)


if __name__ == "__main__":
    run()
