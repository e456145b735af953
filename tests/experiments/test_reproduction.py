"""The comparison of methods: what is run, that it goes on, and its page."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from forked_commands import ROOT

from xdc_tf.evaluation import report_collections, reports
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.experiments import reproduction, reproduction_report
from xdc_tf.experiments.reproduction_tables import (
    SCALES,
    SCRATCH,
    TABLES,
    Scale,
)
from xdc_tf.runtime import locks
from xdc_tf.training import configuration, supervision

TINY = Scale(
    num_unlabelled=24,
    num_labelled=20,
    num_test=10,
    num_rounds=2,
    epochs_per_round=1,
    num_clusters=4,
    labels_per_class=1,
    finetune_epochs=1,
    num_frames=4,
)


def tasks_of(table, tmp_path, *, methods=(), seeds=(0,), rows=(), scale=TINY):
    return reproduction.make_tasks(
        table,
        scale=scale,
        seeds=seeds,
        methods=methods,
        data_dir=str(tmp_path / "data"),
        out_dir=str(tmp_path / table),
        rows=rows,
    )


def test_all_methods_have_as_many_updates_and_clusters(tmp_path):
    for task in tasks_of("methods", tmp_path):
        config = reproduction.make_config(task)
        epochs = config["num_rounds"] * config["training"]["epochs_per_round"]
        assert epochs == 2
        assert config["kmeans"]["num_clusters"] == 4
        assert config["method"] in supervision.METHODS


@pytest.mark.parametrize("num_frames", [4, 8])
def test_a_clip_is_a_second_of_the_scale_s_frames(tmp_path, num_frames):
    (task,) = tasks_of("methods", tmp_path, methods=["xdc"])
    scale = task.scale._replace(num_frames=num_frames)
    clip = reproduction.make_config(task._replace(scale=scale))["clip"]
    assert clip["num_frames"] == num_frames
    assert clip["num_frames"] / clip["fps"] == 1.0


def test_the_control_is_a_run_for_each_modality_and_one_row(tmp_path):
    tasks = tasks_of("methods", tmp_path, methods=["same_modality"])
    assert [(task.variant.method, task.variant.streams) for task in tasks] == [
        ("same_video", ("video",)),
        ("same_audio", ("audio",)),
    ]
    assert {task.variant.row for task in tasks} == {"same modality"}


@pytest.mark.parametrize("table", list(TABLES))
def test_every_task_of_a_table_has_reports_of_its_own(tmp_path, table):
    tasks = tasks_of(table, tmp_path, methods=["xdc", "cdc"], seeds=(0, 1))
    paths = [path for task in tasks for path in task.reports.values()]
    assert (
        len(set(paths))
        == len(paths)
        == sum(len(task.variant.protocols) for task in tasks)
    )


def test_a_table_along_a_key_changes_that_key_alone(tmp_path):
    base, *others = (
        reproduction.make_config(task) for task in tasks_of("clusters", tmp_path)
    )
    for config in others:
        config["kmeans"]["num_clusters"] = base["kmeans"]["num_clusters"]
        assert config == base


def test_rounds_vary_at_as_many_epochs(tmp_path):
    configs = [reproduction.make_config(task) for task in tasks_of("rounds", tmp_path)]
    assert [config["num_rounds"] for config in configs] == [1, 2]
    assert [config["training"]["epochs_per_round"] for config in configs] == [2, 1]


@pytest.mark.parametrize("name", list(SCALES))
def test_numbers_of_videos_vary_at_as_many_updates(name):
    scale = SCALES[name]
    tasks = reproduction.make_tasks(
        "data",
        scale=scale,
        seeds=[0],
        methods=["xdc", "supervised"],
        data_dir="",
        out_dir="",
    )
    for task in tasks:
        config = reproduction.make_config(task)
        epochs = config["num_rounds"] * config["training"]["epochs_per_round"]
        steps = task.variant.num_unlabelled // config["training"]["batch_size"]
        expected = scale.num_unlabelled // config["training"]["batch_size"]
        expected *= scale.num_rounds * scale.epochs_per_round
        assert epochs * steps == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("table", ["updates", "rounds"])
def test_supervised_training_has_the_updates_of_the_others(tmp_path, table):
    configs = {
        method: [
            reproduction.make_config(task)
            for task in tasks_of(table, tmp_path, methods=[method])
        ]
        for method in ("xdc", "supervised")
    }
    for other, ours in zip(configs["xdc"], configs["supervised"], strict=True):
        assert ours["num_rounds"] == 1
        epochs = other["num_rounds"] * other["training"]["epochs_per_round"]
        assert ours["training"]["epochs_per_round"] == epochs


def test_a_control_is_evaluated_by_its_own_encoder_in_every_table(tmp_path):
    for table in TABLES:
        for task in tasks_of(table, tmp_path, methods=["same_video"]):
            if task.variant.method != SCRATCH:
                assert task.variant.streams == ("video",)


def test_the_control_of_both_modalities_is_no_row_of_other_tables(tmp_path):
    with pytest.raises(ValueError, match=r"--methods=\['same_modality'\] are unknown"):
        tasks_of("clusters", tmp_path, methods=["same_modality"])


def test_reports_of_another_scale_are_not_taken_for_these(tmp_path):
    (task,) = tasks_of("methods", tmp_path, methods=["xdc"])
    os.makedirs(task.out_dir)
    for scale, protocol in ((TINY, "linear"), (SCALES["small"], "finetune")):
        report = reports.make_report(
            protocol,
            [[SplitResult("video", {"top1": 0.5}, {})]],
            split_names=["1"],
            source={"video": {"kind": "pretrained", "method": "xdc", "seed": 0}},
            settings={"scale": scale._asdict()},
            config={},
            records={},
        )
        with open(task.reports[protocol], "w") as file:
            json.dump(report, file)
    with pytest.raises(ValueError, match="finetune.json is of shapes videos at"):
        reproduction.read_reports([task])


def test_reports_of_another_kind_are_not_taken_for_these(tmp_path):
    (task,) = tasks_of("methods", tmp_path, methods=["xdc"])
    os.makedirs(task.out_dir)
    for protocol, path in task.reports.items():
        with open(path, "w") as file:
            json.dump(_report(task, protocol, 0.5), file)
    assert len(reproduction.read_reports([task])) == 2
    with pytest.raises(ValueError, match="shapes videos .* not of digits"):
        reproduction.read_reports([task._replace(kind="digits")])


def test_reports_of_other_tasks_must_be_of_the_same_kind_too(tmp_path):
    first, second = tasks_of("methods", tmp_path, methods=["xdc", "cdc"])
    other = second._replace(scale=SCALES["small"])
    path = str(tmp_path / "methods.json")
    name = os.path.basename(other.reports["linear"])
    report_collections.write(path, {name: _report(other, "linear", 0.5)})
    with pytest.raises(ValueError, match="in .*methods.json is of shapes videos at"):
        reproduction.read_reports([first], path)


def _report(task, protocol, accuracy):
    return reports.make_report(
        protocol,
        [[SplitResult("video", {"top1": accuracy}, {})]],
        split_names=["1"],
        source={"video": {"kind": "pretrained", "method": "xdc", "seed": task.seed}},
        settings={"scale": task.scale._asdict(), "row": task.variant.row},
        config={},
        records={},
    )


def test_a_report_that_lies_alone_comes_before_a_collected_one(tmp_path):
    first, second = tasks_of("methods", tmp_path, methods=["xdc"], seeds=(0, 1))
    collection = str(tmp_path / "methods.json")
    report_collections.write(
        collection,
        {
            os.path.basename(path): _report(task, protocol, 0.25)
            for task in (first, second)
            for protocol, path in task.reports.items()
        },
    )
    os.makedirs(first.out_dir)
    with open(first.reports["linear"], "w") as file:
        json.dump(_report(first, "linear", 0.75), file)
    found = reproduction.read_reports([first, second], collection)
    assert (
        reproduction.summarize(first, found) == "linear video 75.0, finetune video 25.0"
    )
    assert (
        reproduction.summarize(second, found)
        == "linear video 25.0, finetune video 25.0"
    )


def test_collected_reports_of_other_tasks_are_kept(tmp_path):
    first, second = tasks_of("methods", tmp_path, methods=["xdc"], seeds=(0, 1))
    names = {}
    for task in (second, first):
        for protocol, path in task.reports.items():
            names[os.path.basename(path)] = _report(task, protocol, 0.5)
    collection = str(tmp_path / "methods.json")
    report_collections.write(collection, names)
    reproduction_report.write(
        "methods",
        [first],
        reproduction.read_reports([first], collection),
        str(tmp_path),
        title="the methods",
        command="python -m xdc_tf.cli.reproduce",
        reference="xdc",
    )
    kept = reproduction.read_reports([second], collection)
    assert second.is_done(kept)
    assert list(kept) == [*first.reports.values(), *second.reports.values()]


def test_collected_reports_of_another_scale_are_not_taken_for_these(tmp_path):
    (task,) = tasks_of("methods", tmp_path, methods=["xdc"])
    collection = str(tmp_path / "methods.json")
    other = _report(task._replace(scale=SCALES["small"]), "linear", 0.5)
    name = os.path.basename(task.reports["linear"])
    report_collections.write(collection, {name: other})
    with pytest.raises(ValueError, match="linear.json in .*methods.json is of shapes"):
        reproduction.read_reports([task], collection)


@pytest.mark.once
def test_each_run_that_fails_is_named_with_its_log(tmp_path):
    tasks = tasks_of("methods", tmp_path, methods=["scratch", "xdc"])
    os.makedirs(tasks[0].out_dir)
    with pytest.raises(ChildProcessError) as caught:
        # Nobody has made the data.
        list(reproduction.run_tasks(tasks, num_jobs=2))
    told = str(caught.value)
    assert told.startswith("2 runs failed: ")
    for name in ("scratch", "xdc"):
        log = os.path.join(tasks[1].out_dir, f"{name}-{name}-seed0-linear.log")
        assert f"{name}, seed 0: exit code 1, FileNotFoundError" in told
        assert f"see {log}" in told and os.path.exists(log)


KILLED = """
import fcntl, os, signal, sys, time
from xdc_tf.experiments import reproduction

def hold(path):
    reproduction.end_with_parent()
    file = open(path + ".new", "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    os.rename(path + ".new", path)
    time.sleep(600)

if __name__ == "__main__":
    reproduction._CONTEXT.Process(target=hold, args=(sys.argv[1],)).start()
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.once
def test_a_run_ends_when_the_comparison_is_killed(tmp_path):
    script, held = tmp_path / "killed.py", tmp_path / "held"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(held)], env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert process.wait(timeout=60) == -signal.SIGKILL
    with open(held) as file:
        deadline = time.monotonic() + 60
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_table_can_have_some_of_its_rows(tmp_path):
    rows = ["xdc, augmented", "xdc, as configured"]
    tasks = tasks_of("settings", tmp_path, rows=rows)
    assert {task.variant.row for task in tasks} == set(rows)
    with pytest.raises(ValueError, match="--row='xdc, tuned' is unknown"):
        tasks_of("settings", tmp_path, rows=["xdc, tuned"])


def test_encoders_differ_in_their_architecture_and_in_how_long_they_are_trained(
    tmp_path,
):
    configs = {
        task.variant.row: configuration.from_mapping(reproduction.make_config(task))
        for task in tasks_of("encoders", tmp_path, scale=SCALES["medium"])
    }
    networks, updates, time = configs.values()
    assert list(configs)[0] == TABLES["encoders"].reference
    assert networks.video_encoder.architecture == "r2plus1d"
    for config in (updates, time):
        assert (config.video_encoder.architecture, config.optimizer.name) == (
            "vit",
            "adamw",
        )
        assert config.audio_encoder.architecture == "ast"

    def num_epochs(config):
        return config.num_rounds * config.training.epochs_per_round

    assert num_epochs(updates) == num_epochs(networks)
    assert 2 <= num_epochs(networks) / num_epochs(time) < 3


def test_a_row_of_settings_changes_what_it_says_and_by_how_much(tmp_path):
    scale = TINY._replace(epochs_per_round=2, num_clusters=20)
    configs = {
        task.variant.row: reproduction.make_config(task)
        for task in tasks_of("settings", tmp_path, scale=scale)
    }
    base = configs["xdc, as configured"]
    longer = configs["xdc, as many updates in half the rounds"]
    assert 2 * longer["num_rounds"] == base["num_rounds"]
    epochs = [config["training"]["epochs_per_round"] for config in (longer, base)]
    assert epochs[0] == 2 * epochs[1]
    slower = configs["xdc, learning rate x 0.4"]["optimizer"]["learning_rate"]
    assert slower == pytest.approx(0.4 * base["optimizer"]["learning_rate"])
    for row, config in configs.items():
        assert (config == base) == (row == "xdc, as configured"), row
        configuration.from_mapping(config)


def test_the_start_s_rows_differ_in_their_first_clusters_alone(tmp_path):
    scratch, *tasks = tasks_of("start", tmp_path)
    assert scratch.variant.method == SCRATCH
    by_statistics, by_encoders = map(reproduction.make_config, tasks)
    assert by_statistics["labels"].pop("first_features") == "statistics"
    assert by_encoders["labels"].pop("first_features") == "encoders"
    assert by_statistics == by_encoders
    (configured,) = tasks_of("settings", tmp_path, rows=["xdc, as configured"])
    config = reproduction.make_config(configured)
    config["labels"].pop("first_features")
    assert config == by_statistics


def test_unknown_tables_and_methods_are_named(tmp_path):
    with pytest.raises(ValueError, match="--table=x is unknown"):
        tasks_of("x", tmp_path)
    with pytest.raises(ValueError, match=r"--methods=\['xcd'\] are unknown"):
        tasks_of("methods", tmp_path, methods=["xcd"])


@pytest.mark.slow
def test_methods_are_compared_and_their_reports_collected(tmp_path):
    # One round of the smallest encoder: a run is mostly tracing of graphs.
    small = {"audio_encoder.depth": 4}
    tasks = [
        task._replace(
            scale=TINY._replace(num_rounds=1, num_unlabelled=16),
            variant=task.variant._replace(config=small, streams=("audio",)),
        )
        for task in tasks_of("methods", tmp_path, methods=["scratch", "same_audio"])
    ]
    os.makedirs(tasks[0].out_dir)
    reproduction.make_data(tasks, num_workers=2)
    for task in tasks:
        assert not task.is_done(reproduction.read_reports([task]))
        reproduction.run(task)
        assert task.is_done(reproduction.read_reports([task]))
    found = reproduction.read_reports(tasks)
    assert "linear audio" in reproduction.summarize(tasks[0], found)
    text = reproduction_report.write(
        "methods",
        tasks,
        found,
        str(tmp_path),
        title="the methods",
        command="python -m xdc_tf.cli.reproduce",
        reference="scratch",
    )
    assert "scratch" in text and "same_audio" in text
    page = (tmp_path / "methods.md").read_text()
    assert text in page and "(methods.png)" in page
    with open(tmp_path / "methods.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    with open(tasks[0].reports["linear"]) as file:
        report = json.load(file)
    assert report["settings"]["row"] == "scratch"
    assert (tmp_path / "methods.png").stat().st_size > 10_000
    assert not [name for name in os.listdir(tmp_path / "methods") if "run" in name]
    shutil.rmtree(tmp_path / "methods")
    collected = reproduction.read_reports(tasks, str(tmp_path / "methods.json"))
    assert all(task.is_done(collected) for task in tasks)
    assert collected[tasks[0].reports["linear"]] == report


@pytest.mark.once
def test_two_comparisons_into_one_directory_are_not_made_at_once(tmp_path):
    lock = locks.Lock(
        str(tmp_path / ".methods.lock"), held=str(tmp_path / "methods"), remove=True
    )
    command = [sys.executable, "-m", "xdc_tf.cli.reproduce", f"--out={tmp_path}"]
    with lock:
        second = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert second.returncode == 1
    (error,) = second.stderr.strip().splitlines()
    assert re.search(rf"{tmp_path}/methods is in use by process {os.getpid()} ", error)
    assert not os.listdir(tmp_path)
