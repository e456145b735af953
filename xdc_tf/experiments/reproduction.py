"""Runs the comparison of the methods on the embedded benchmark.

Each task is pretrained and evaluated in another process. Reports are files, so that
what is there is not done again.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xdc_tf.evaluation import report_collections, reports
from xdc_tf.experiments.reproduction_data import Videos, make_records
from xdc_tf.experiments.reproduction_tables import (
    CONTROLS,
    SAME_MODALITY,
    SCRATCH,
    SUPERVISED,
    TABLES,
    Scale,
    Variant,
)
from xdc_tf.runtime import escaping, files

_CONTEXT: Any = multiprocessing.get_context(
    "forkserver" if sys.platform == "linux" else "spawn"
)
# Of a clustering's measures those that reports keep.
_OF_CLUSTERINGS = {"nmi_with_true_labels", "effective_share", "churn"}
_NUM_CLIPS = 3  # of a labelled video; they have 3 s


class Task(NamedTuple):
    """One variant with one seed, and the directory of its reports."""

    variant: Variant
    seed: int
    scale: Scale
    data_dir: str
    out_dir: str
    kind: str = "shapes"

    @property
    def reports(self) -> dict[str, str]:
        """The path of each protocol's report."""
        name = f"{_file_name(self.variant.row)}-{self.variant.method}-seed{self.seed}"
        return {
            protocol: os.path.join(self.out_dir, f"{name}-{protocol}.json")
            for protocol in self.variant.protocols
        }

    def is_done(self, reports: Container[str]) -> bool:
        """Whether all of its reports are among those of the paths."""
        return all(path in reports for path in self.reports.values())


def make_tasks(
    table: str,
    *,
    scale: Scale,
    seeds: Sequence[int],
    methods: Sequence[str],
    data_dir: str,
    out_dir: str,
    kind: str = "shapes",
    rows: Sequence[str] = (),
) -> list[Task]:
    """The runs of a table, seed by seed, so that whatever is done can be compared.

    Args:
      table: a key of TABLES.
      scale: of the comparison.
      seeds: each of which runs every row.
      methods: of the rows; none for those of the table.
      data_dir: of the videos and their records.
      out_dir: of the reports.
      kind: of the videos, a key of data_prep.scenes.kinds.KINDS.
      rows: of the table; none for all.

    Raises:
      ValueError: on an unknown table, method or row.
    """
    if table not in TABLES:
        raise ValueError(f"--table={table} is unknown; choose one of {list(TABLES)}.")
    known = [*TABLES["methods"].methods, *CONTROLS]
    if table != "methods":
        known.remove(SAME_MODALITY)
    unknown = [method for method in methods if method not in known]
    if unknown:
        raise ValueError(f"--methods={unknown} are unknown; choose of {known}.")
    variants = TABLES[table].variants(scale, methods or TABLES[table].methods)
    names = list(dict.fromkeys(variant.row for variant in variants))
    if unknown := [row for row in rows if row not in names]:
        raise ValueError(f"--row={unknown[0]!r} is unknown; choose of {names}.")
    variants = [variant for variant in variants if not rows or variant.row in rows]
    return [
        Task(variant, seed, scale, data_dir, out_dir, kind)
        for seed in seeds
        for variant in variants
    ]


def data_directories(task: Task) -> list[str]:
    """Of a task's unlabelled, labelled and test videos, each with "records" in it."""
    return [directory for directory, _ in _data(task)]


def make_data(tasks: Sequence[Task], *, num_workers: int) -> None:
    """Draws and converts the videos that tasks need, unless they are there."""
    videos = {directory: spec for task in tasks for directory, spec in _data(task)}
    for directory, spec in videos.items():
        make_records(directory, spec, num_workers=num_workers)


def read_reports(
    tasks: Sequence[Task], collection: str | None = None
) -> dict[str, dict[str, Any]]:
    """Reads the reports of tasks that are there.

    Args:
      tasks: of one directory, kind and scale.
      collection: a file that may be there and have reports, also of other tasks; those
        that lie in the directory come before them.

    Returns:
      Reports by the paths of `Task.reports`, and those of other tasks.

    Raises:
      ValueError: one is of another kind or scale, or damaged.
    """
    reports_by_path = {}
    if collection and os.path.exists(collection):
        for path, report in report_collections.read(collection).items():
            name = os.path.basename(path)
            reports_by_path[os.path.join(tasks[0].out_dir, name)] = report
    for task in tasks:
        for path in task.reports.values():
            if os.path.exists(path):
                reports_by_path[path] = reports.read(path)
    first = tasks[0]
    for path, report in reports_by_path.items():
        settings = report["settings"]
        kind, scale = settings.get("kind", "shapes"), settings.get("scale")
        if kind != first.kind or scale != first.scale._asdict():
            place = path if os.path.exists(path) else f"{path} in {collection}"
            raise ValueError(
                f"{place} is of {kind} videos at the scale {scale}, not of "
                f"{first.kind} at that of --scale; choose another --out, or delete it."
            )
    return reports_by_path


def run_tasks(tasks: Sequence[Task], *, num_jobs: int) -> Iterator[Task]:
    """Runs each task in another process; yields what is finished.

    Raises:
      ChildProcessError: a run failed; those beside it are finished first.
    """
    failed = []
    pool = concurrent.futures.ThreadPoolExecutor(num_jobs)
    try:
        futures = {pool.submit(_run_apart, task, num_jobs): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            task, error = futures[future], future.result()
            if error:
                failed.append(f"{task.variant.row}, seed {task.seed}: {error}")
            else:
                yield task
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise ChildProcessError(f"{len(failed)} runs failed: {'; '.join(failed)}")


def _run_apart(task: Task, num_jobs: int) -> str:
    """Runs a task in a process; returns an error in words, or "".

    A process each, since TensorFlow keeps the graphs of what a process has run.
    """
    # Forked from one that has imported TensorFlow, which takes a tenth of a short run.
    _CONTEXT.set_forkserver_preload(["xdc_tf.evaluation.task_imports"])
    # One per task: several run at a time.
    log = task.reports["linear"].removesuffix(".json") + ".log"
    process = _CONTEXT.Process(
        target=_run_logged, args=(task, num_jobs, log), daemon=True
    )
    process.start()
    process.join()
    if process.exitcode == 0:
        os.remove(log)
        return ""
    *_, last = ["", *files.read_text(log).splitlines()]
    if process.exitcode == os.EX_IOERR:
        last = "its log cannot be written: is the disk full?"
    return f"exit code {process.exitcode}, {last or 'killed'}; see {log}"


def _run_logged(task: Task, num_jobs: int, log: str) -> None:
    """The main function of a task's process, which uses 1 / num_jobs of the cores."""
    import threadpoolctl

    from xdc_tf.evaluation import task_imports  # noqa: F401

    end_with_parent()
    num_threads = max(1, (os.cpu_count() or 1) // num_jobs)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(num_threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(num_threads)
    try:
        with open(log, "w", encoding="utf-8") as file:
            try:
                with (
                    threadpoolctl.threadpool_limits(num_threads),
                    contextlib.redirect_stdout(file),
                ):
                    run(task)
            except Exception:
                traceback.print_exc(file=file)
                sys.exit(1)
    except OSError:
        sys.exit(os.EX_IOERR)


def end_with_parent() -> None:
    """Has this process of a comparison end when the one that started it is killed.

    It would go on otherwise, and keep its work directory from the next attempt.
    """
    parent = multiprocessing.parent_process()

    def end():
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def run(task: Task) -> None:
    """Pretrains a variant and writes its reports."""
    import tensorflow as tf

    from xdc_tf.data import dataset_info
    from xdc_tf.evaluation import encoder_sources, labelled_records, protocols
    from xdc_tf.training.pretrain import pretrain

    variant, scale = task.variant, task.scale
    unlabelled, labelled, test = data_directories(task)
    config = make_config(task)
    workdir = task.reports["linear"].removesuffix("-linear.json") + ".run"
    if variant.method == SCRATCH:
        info = dataset_info.read_dataset_info(os.path.join(labelled, "records"))
        source = encoder_sources.scratch_source(config, info)
    else:
        pretrain(
            config,
            workdir=workdir,
            records_dir=os.path.join(unlabelled, "records"),
            strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        )
        source = encoder_sources.open_source(workdir)
    splits = labelled_records.open_splits(
        [os.path.join(labelled, "records")],
        [os.path.join(test, "records")],
        run=source.run,
        modalities=variant.streams,
    )
    options = protocols.Options(
        recipe=make_recipe(task),
        num_clips=_NUM_CLIPS,
        with_initial=False,  # The table has a row of random encoders.
    )
    for protocol, path in task.reports.items():
        settings = protocols.load(protocol).settings.from_options(options)
        report = protocols.evaluate(
            protocol, source, splits, settings, streams=variant.streams
        )
        report["settings"]["row"] = variant.row
        if protocol == "linear" and variant.method != SCRATCH:
            report["rounds"] = _round_measures(workdir)
        report["settings"]["scale"] = scale._asdict()
        report["settings"]["kind"] = task.kind
        files.write_text(path + ".new", json.dumps(report, indent=1) + "\n")
    # Together, so that one is not taken for all.
    for path in task.reports.values():
        os.replace(path + ".new", path)
    shutil.rmtree(workdir, ignore_errors=True)


def _round_measures(workdir: str) -> dict[str, list[float | None]]:
    """Figures of the clusterings, the criteria among them: by name those of each round.

    None where a round lacks one, as the first does those of training.
    """
    from xdc_tf.labels import label_tables
    from xdc_tf.runtime import workdir as run_directory

    rounds: list[dict[str, float]] = []
    while os.path.exists(directory := run_directory.round_dir(workdir, len(rounds))):
        report = label_tables.read_health(directory)
        measures = report["between"] | report["criteria"]
        for name, values in report["clusterings"].items():
            for key in _OF_CLUSTERINGS & values.keys():
                measures[f"{key}_of_{name}"] = values[key]
        rounds.append({key: round(x, 3) for key, x in measures.items()})
    names = sorted({name for measures in rounds for name in measures})
    return {name: [measures.get(name) for measures in rounds] for name in names}


def make_config(task: Task) -> dict[str, Any]:
    """The pretraining configuration of a task."""
    import ml_collections

    from xdc_tf.configs import synthetic

    variant, scale = task.variant, task.scale
    config = synthetic.get_config()
    config.method = SUPERVISED if variant.method == SCRATCH else variant.method
    config.seed = task.seed
    config.num_rounds = scale.num_rounds
    config.training.epochs_per_round = scale.epochs_per_round
    config.kmeans.num_clusters = scale.num_clusters
    config.clip.num_frames = scale.num_frames
    config.clip.fps = float(scale.num_frames)
    # The last encoders are evaluated: there is nothing to choose by a part held out.
    config.training.held_out_share = 0.0
    for key, value in variant.config.items():
        if isinstance(value, dict):  # a section with other keys
            config[key] = ml_collections.ConfigDict(value)
        else:
            config.update_from_flattened_dict({key: value})
    if variant.method == SUPERVISED:
        # As many updates, without the restarts that new labels ask for.
        config.training.epochs_per_round *= config.num_rounds
        config.num_rounds = 1
    return config.to_dict()


def make_recipe(task: Task) -> dict[str, Any]:
    """The finetuning configuration of a task."""
    from xdc_tf.configs.finetune import synthetic

    config = synthetic.get_config()
    config.seed = task.seed
    config.training.num_train = task.scale.labels_per_class
    config.training.num_epochs = task.scale.finetune_epochs
    # A tenth of so few could choose nothing: the last epoch counts.
    config.training.held_out_share = 0.0
    return config.to_dict()


def _data(task: Task) -> list[tuple[str, Videos]]:
    """Directories and contents of the unlabelled, labelled and test videos."""
    variant, scale = task.variant, task.scale
    number = variant.num_unlabelled or scale.num_unlabelled
    sets = {
        "unlabelled": Videos(
            number, 0, task.kind, variant.shared, variant.microphone_db
        ),
        "labelled": Videos(scale.num_labelled, 1, task.kind),
        "test": Videos(scale.num_test, 2, task.kind),
    }
    return [
        (
            os.path.join(task.data_dir, _file_name("-".join(map(str, [name, *spec])))),
            spec,
        )
        for name, spec in sets.items()
    ]


def summarize(task: Task, reports_by_path: Mapping[str, Mapping[str, Any]]) -> str:
    """The results of a task that is done, in a line."""
    accuracies = []
    for protocol, path in task.reports.items():
        for result in reports_by_path[path]["results"]:
            stream = escaping.terminal(result["stream"])
            accuracies.append(f"{protocol} {stream} {100 * result['mean']['top1']:.1f}")
    return ", ".join(accuracies)


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
