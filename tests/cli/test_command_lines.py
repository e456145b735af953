"""The command lines as processes: --help, bad input, the evaluation's report."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from forked_commands import run_command

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODULES = [
    "data_prep.synthetic",
    "data_prep.convert",
    "xdc_tf.cli.pretrain",
    "data_prep.make_manifest",
    "data_prep.inspect",
    "xdc_tf.cli.evaluate",
    "xdc_tf.cli.compare",
    "xdc_tf.cli.reproduce",
    "xdc_tf.cli.export",
    "xdc_tf.cli.import_weights",
    "xdc_tf.cli.export_torch",
    "xdc_tf.cli.assign",
    "xdc_tf.cli.extract_features",
    "xdc_tf.cli.choose_k",
    "xdc_tf.cli.advise",
    "xdc_tf.cli.plan",
]
# Each takes seconds to import.
SLOW_IMPORTS = {"tensorflow", "keras", "tf_keras", "sklearn", "scipy", "av"}


@pytest.mark.parametrize("module", MODULES)
def test_help_tells_all_flags_and_imports_nothing_slow(module):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    with open(os.path.join(ROOT, *module.split(".")) + ".py") as file:
        text = file.read()
    for name, path in {
        "new_video_flags": ("xdc_tf", "cli"),
        "dask_flags": ("data_prep", "engines"),
    }.items():
        if f"adopt_module_key_flags({name})" in text:
            with open(os.path.join(ROOT, *path, f"{name}.py")) as file:
                text += file.read()
    defined = re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)
    shown = re.findall(
        r"^  --(?:\[no\])?(\w+):(?: \S|$)", done.stdout, flags=re.MULTILINE
    )
    assert sorted([*defined, "debug"]) == sorted(shown)
    imported = re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    assert "absl.flags" in imported
    assert not {name.split(".")[0] for name in imported} & SLOW_IMPORTS


@pytest.fixture(scope="module")
def folder(tiny_run, tiny_records, tmp_path_factory):
    """Where all processes below write, with a copy of a run in "another"."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "no_path.csv").write_text("file,label\na.mp4,b\n")
    shutil.copytree(tiny_run, folder / "another")
    return folder


@pytest.fixture(scope="module")
def done(folder, tiny_run, tiny_records):
    """The finished process of each case."""
    pretrain = [
        "xdc_tf.cli.pretrain",
        "--config=configs/synthetic.py",
        "--config.training.batch_size=4",
        "--config.kmeans.num_clusters=4",
        "--config.training.held_out_share=0.05",
        "--config.num_rounds=9",
        f"--workdir={folder / 'workdir'}",
        f"--records={tiny_records / 'train'}",
    ]
    convert = ["data_prep.convert", f"--out={folder / 'records'}"]
    plan = ["xdc_tf.cli.plan", "--config=configs/synthetic.py", "--gpu=h100"]
    commands = {
        "plan": [
            *plan,
            "--num_videos=1000",
            "--gpus=2",
            "--price_per_gpu_hour=2",
            f"--json={folder / 'reports' / 'plan.json'}",
        ],
        "plan of records": [
            *plan,
            f"--records={tiny_records / 'train'}",
            "--config.kmeans.num_clusters=4",
        ],
        "unknown device": [*plan, "--num_videos=1000", "--gpu=h1000"],
        "number of videos": plan,
        "batch of devices": [*plan, "--num_videos=1000", "--gpus=3"],
        "evaluation": [
            "xdc_tf.cli.evaluate",
            f"--workdir={tiny_run}",
            f"--records={tiny_records / 'train'}",
            f"--test_records={tiny_records / 'test'}",
            "--num_clips=1",
            "--streams=audio",
            f"--json={folder / 'reports' / 'linear.json'}",
        ],
        "missing manifest": [*convert, f"--manifest={folder / 'missing.csv'}"],
        "no path column": [*convert, f"--manifest={folder / 'no_path.csv'}"],
        "missing records": [*pretrain, f"--records={folder / 'missing'}"],
        "unknown method": [*pretrain, "--config.method=xcd"],
        "too many clusters": [*pretrain, "--config.kmeans.num_clusters=500"],
        "another log-mel": [*pretrain, "--config.log_mel.num_filters=64"],
        "another configuration": [*pretrain, f"--workdir={folder / 'another'}"],
        "missing configuration": [*pretrain, f"--config={folder / 'missing.py'}"],
        "misspelt key": [*pretrain, "--config.methud=xdc"],
        "no run": [
            "xdc_tf.cli.export",
            f"--workdir={folder / 'missing'}",
            f"--out={folder / 'exported'}",
        ],
        "odd size": [
            "data_prep.synthetic",
            f"--out={folder / 'synthetic'}",
            "--size=33",
        ],
    }
    return {case: run_command(*command) for case, command in commands.items()}


@pytest.mark.parametrize(
    "case, told",
    [
        ("missing manifest", ["missing.csv does not exist", "path,start_secs"]),
        ("no path column", ["no_path.csv line 1", "no column 'path'", "'file'"]),
        ("missing records", ["missing/dataset_info.json does not exist"]),
        ("unknown method", ["config.method='xcd' must be one of", "mdc, cdc, xdc"]),
        ("too many clusters", ["num_clusters=500", "23 examples", "tiny0/train"]),
        (
            "another log-mel",
            ["tiny0/train", "num_filters (40 in the records, 64 in the config)"],
        ),
        (
            "another configuration",
            ["another holds a run of another conf", "num_rounds (2 there, 9 now)"],
        ),
        ("missing configuration", ["missing.py", "No such file"]),
        ("misspelt key", ["methud", 'Did you mean "method"']),
        ("no run", ["missing/config.json does not exist", "xdc_tf.cli.pretrain"]),
        ("odd size", ["size=33", "even"]),
        ("unknown device", ["--gpu=h1000 is unknown", "a100-80gb", "v100", "this"]),
        ("number of videos", ["--num_videos is missing", "--records"]),
        ("batch of devices", ["batch_size=16", "3 devices", "set it to 18"]),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_1(done, case, told):
    process = done[case]
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    for text in told:
        assert text in line


def test_bad_input_writes_nothing(done, folder, tiny_run):
    assert sorted(os.listdir(folder)) == ["another", "no_path.csv", "reports"]
    for name in ("config.json", "records/dataset_info.json"):
        assert (folder / "another" / name).read_bytes() == (
            tiny_run / name
        ).read_bytes()


def test_the_evaluation_reports_the_same_as_a_table_and_as_json(done, folder, tiny_run):
    process = done["evaluation"]
    assert (process.returncode, process.stderr) == (0, "")
    report = json.loads((folder / "reports" / "linear.json").read_text())
    assert (report["protocol"], report["settings"]["num_clips"]) == ("linear", 1)
    assert report["source"]["audio"]["directory"] == str(tiny_run)
    lines = process.stdout.splitlines()
    (result,) = report["results"]
    mean = result["mean"]
    assert lines[1].startswith(f"audio: top1 {100 * mean['top1']:.1f}, ")
    assert lines[1].endswith(f"initial_top1 {100 * mean['initial_top1']:.1f}")
    assert lines[-1] == f"Report: {folder / 'reports' / 'linear.json'}"


def test_a_plan_is_the_same_as_a_table_and_as_json(done, folder):
    process = done["plan"]
    assert (process.returncode, process.stderr) == (0, "")
    plan = json.loads((folder / "reports" / "plan.json").read_text())
    assert (plan["num_videos"], plan["num_devices"]) == (1000, 2)
    assert plan["cost"] == 2 * plan["device_hours"]
    assert f"device hours: {plan['device_hours']:,.2f}" in process.stdout
    lines = [line.split() for line in process.stdout.splitlines()]
    for name, num_bytes in plan["storage_bytes"].items():
        assert [*name.split("_"), f"{num_bytes / 1e9:,.3f}"] in lines


def test_a_plan_of_records_takes_their_number_and_size(done, tiny_records):
    process = done["plan of records"]
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("24 videos, 4 rounds of")
    assert f"3 files of {tiny_records / 'train'}" in process.stdout
