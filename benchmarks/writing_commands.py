"""Every command that writes, at a size that takes seconds, and what it reads.

The table has a row per command: its line, and what kill_commands.py needs to know to
judge what a stopped one leaves behind.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.fingerprints import file_fingerprints, fingerprints

# Modules to import before commands are forked, which saves seconds for each.
PRELOAD = [
    "xdc_tf.evaluation.task_imports",
    "xdc_tf.inference.cluster_assignment",
    "xdc_tf.experiments.cluster_counts",
    "xdc_tf.inference.localization",
    "xdc_tf.export.export_run",
    "xdc_tf.export.torch_export",
    "xdc_tf.weights.import_weights",
    "data_prep.inspection.example_files",
]


class Command(NamedTuple):
    """A command that writes.

    Attributes:
      line: module and flags, with {inputs} and {place} for directories.
      whole: directories of the place that are there whole or not at all; all files
        are.
      unfinished: patterns of what only an unfinished one has.
      copied: entries of inputs that are in the place from the start.
      runs_once: whether it is refused once its results are there.
      before: called in its process.
      results: from the place, what the results of two finished ones are compared by.
    """

    line: str
    whole: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    runs_once: bool = False
    before: Callable[[], None] | None = None
    results: Callable[[str], dict[str, str]] = file_fingerprints

    def arguments(self, inputs: str, place: str) -> list[str]:
        return self.line.format(inputs=inputs, place=place).split()


def _add_tiny_scale() -> None:
    from xdc_tf.experiments.reproduction_tables import SCALES, Scale

    SCALES["tiny"] = Scale(
        *(8, 20, 10),
        num_rounds=1,
        epochs_per_round=1,
        num_clusters=2,
        labels_per_class=1,
        finetune_epochs=1,
        num_frames=4,
    )


_TINY = (
    "--config.deterministic=True --config.num_rounds=1 --config.clip.num_frames=4 "
    "--config.clip.crop_size=16 --config.clip.audio_secs=0.5 "
    "--config.video_encoder.depth=4 --config.audio_encoder.depth=4 "
    "--config.video_encoder.width=0.0625 --config.audio_encoder.width=0.0625 "
    "--config.kmeans.num_clusters=4 --config.kmeans.num_restarts=1 "
    "--config.features.batch_size=4 --config.features.batch_norm_batches=1 "
    "--config.training.batch_size=4 --config.training.epochs_per_round=1 "
    "--config.checkpoint_every_steps=1"
)
_SYNTHETIC = "data_prep.synthetic --size=32 --duration_secs=1 --num_workers=1"
_CONVERT = (
    "data_prep.convert --manifest={inputs}/videos/manifest.csv --out={place}/records "
    "--fps=8 --short_side=32 --min_secs=0.5 --rows_per_shard=2 --num_workers=1"
)
_PRETRAIN = "xdc_tf.cli.pretrain --config=configs/synthetic.py " + _TINY
_EVALUATE = (
    "xdc_tf.cli.evaluate --workdir={place}/run --records={inputs}/records "
    "--test_records={inputs}/test_records --num_clips=1 --json={place}/report.json"
)
_REPRODUCE = "xdc_tf.cli.reproduce --scale=tiny --seeds=1 --jobs=1 --methods=scratch "
_EXTRACT = (
    "xdc_tf.cli.extract_features --workdir={inputs}/run --videos={inputs}/records "
    "--num_clips=2 --out={place}/features"
)

COMMANDS = {
    "synthetic": Command(_SYNTHETIC + " --out={place}/videos --num_videos=3"),
    "make_manifest": Command(
        "data_prep.make_manifest --dataset=folder --root={inputs}/videos "
        "--out={place}/manifest.csv"
    ),
    "convert": Command(_CONVERT, unfinished=("records/progress", "*.tmp")),
    "convert_segments": Command(
        _CONVERT + " --segment_secs=0.5", unfinished=("records/progress", "*.tmp")
    ),
    "inspect": Command(
        "data_prep.inspect --records={inputs}/records --out={place}/looks --index=1"
    ),
    "pretrain": Command(
        _PRETRAIN + " --workdir={place}/run --records={inputs}/records",
        unfinished=("*",),
        results=fingerprints,
    ),
    "export": Command(
        "xdc_tf.cli.export --workdir={inputs}/run --out={place}/export",
        whole=("export",),
        runs_once=True,
    ),
    "export_tflite": Command(
        "xdc_tf.cli.export --workdir={inputs}/run --out={place}/export "
        "--formats=tflite",
        whole=("export",),
        runs_once=True,
    ),
    "export_torch": Command(
        "xdc_tf.cli.export_torch --workdir={inputs}/run --out={place}/video.pth",
        runs_once=True,
    ),
    "import_weights": Command(
        "xdc_tf.cli.import_weights --weights={inputs}/video.pth --out={place}/run",
        whole=("run",),
        runs_once=True,
    ),
    "extract_npy": Command(_EXTRACT, whole=("features",), runs_once=True),
    "extract_tfrecord": Command(
        _EXTRACT + " --format=tfrecord", whole=("features",), runs_once=True
    ),
    "extract_parquet": Command(
        _EXTRACT + " --format=parquet", whole=("features",), runs_once=True
    ),
    "extract_videos": Command(
        _EXTRACT.replace("/records", "/videos") + " --num_workers=1",
        whole=("features",),
        runs_once=True,
    ),
    "assign": Command(
        "xdc_tf.cli.assign --workdir={inputs}/run --videos={inputs}/records "
        "--out={place}/assigned.csv --features={place}/features",
        whole=("features",),
        runs_once=True,
    ),
    "localization": Command(
        "xdc_tf.cli.evaluate --protocol=localization --workdir={inputs}/run "
        "--videos={inputs}/records --stride_secs=0.5 --out={place}/features",
        whole=("features",),
        runs_once=True,
    ),
    "evaluate_linear": Command(
        _EVALUATE + " --protocol=linear",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "evaluate_retrieval": Command(
        _EVALUATE + " --protocol=retrieval",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "evaluate_finetune": Command(
        _EVALUATE + " --protocol=finetune --out={place}/classifiers --streams=video "
        "--config=configs/finetune/synthetic.py --config.training.num_epochs=1 "
        "--config.training.batch_size=4",
        copied=("run",),
        unfinished=("run/tensorboard",),
    ),
    "compare": Command(
        "xdc_tf.cli.compare {inputs}/report.json --out={place}/tables/table.md"
    ),
    "choose_k": Command(
        "xdc_tf.cli.choose_k --features={inputs}/features/video.npy --candidates=2 "
        "--num_seeds=2 --out={place}/counts",
        whole=("counts",),
        runs_once=True,
    ),
    "plan": Command(
        "xdc_tf.cli.plan --config=configs/synthetic.py --num_videos=1000 --gpu=h100 "
        "--json={place}/plans/plan.json " + _TINY
    ),
    "reproduce": Command(
        _REPRODUCE + "--videos={inputs}/drawn --out={place}/results",
        unfinished=("*.log", "*.run", "*.new"),
        before=_add_tiny_scale,
    ),
}
SLOW = ("pretrain", "reproduce")
# What commands read is made by commands, by its name in inputs.
INPUTS = {
    "videos": Command(_SYNTHETIC + " --out={place}/videos --num_videos=6"),
    "test_videos": Command(
        _SYNTHETIC + " --out={place}/test_videos --num_videos=6 --seed=1"
    ),
    "records": Command(_CONVERT),
    "test_records": Command(
        _CONVERT.replace("/videos", "/test_videos").replace("/records", "/test_records")
    ),
    "run": Command(_PRETRAIN + " --workdir={place}/run --records={inputs}/records"),
    "drawn": Command(
        _REPRODUCE + "--videos={place}/drawn --out={place}/reproduced",
        before=_add_tiny_scale,
    ),
    "features": Command(_EXTRACT),
    "video.pth": Command(COMMANDS["export_torch"].line),
    "report.json": Command(
        _EVALUATE.replace("{place}/run", "{inputs}/run") + " --protocol=retrieval"
    ),
}


def read_by(command: Command) -> list[str]:
    """Names of the inputs that a command reads."""
    return [*re.findall(r"\{inputs\}/([\w.]+)", command.line), *command.copied]
