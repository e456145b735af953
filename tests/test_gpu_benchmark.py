"""The GPU benchmark at tiny sizes on the CPU: its stages, its records, its tables."""

import ast
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import (
    gpu_checks,
    gpu_kmeans,
    gpu_plan,
    gpu_records,
    gpu_tables,
    gpu_tensorflow,
    gpu_training,
)

pytestmark = pytest.mark.once

TINY = gpu_plan.TINY


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The measurements of a stage, with one directory for all of them."""
    directory = str(tmp_path_factory.mktemp("gpu"))
    os.makedirs(os.path.join(directory, "pretraining"))

    def measurements(stage, records=""):
        return gpu_plan.measurements(
            stage, TINY, directory=directory, records=str(records)
        )

    return measurements


def figures_of(measurements, name):
    """What a measurement gives, made in this process."""
    (measurement,) = (one for one in measurements if one.name == name)
    assert measurement.program == gpu_plan.OURS
    functions = (gpu_tensorflow, gpu_checks, gpu_kmeans)
    module = next(one for one in functions if hasattr(one, measurement.function))
    # As it reaches a process of its own.
    arguments = json.loads(json.dumps(measurement.arguments))
    figures = getattr(module, measurement.function)(**arguments)
    json.dumps(figures)
    return figures


def functions_of(module):
    """Names and arguments of a module's functions, from its text."""
    path = os.path.join(os.path.dirname(gpu_plan.__file__), f"{module}.py")
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    return {
        node.name: {argument.arg for argument in node.args.args}
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("sizes", [TINY, gpu_plan.Sizes()], ids=["tiny", "full"])
def test_names_are_unique_and_every_function_takes_its_arguments(sizes):
    functions = {one: functions_of(one) for one in (gpu_plan.OURS, gpu_plan.TORCH)}
    functions[gpu_plan.OURS] |= functions_of("gpu_checks") | functions_of("gpu_kmeans")
    names = []
    for stage in gpu_plan.STAGES:
        for one in gpu_plan.measurements(stage, sizes, directory="/d", records="/r"):
            names.append(one.name)
            assert set(one.arguments) <= functions[one.program][one.function], one
    assert len(set(names)) == len(names) > 50


def test_check_finds_the_device_to_agree_with_the_cpu(plan):
    for name in (
        "check kmeans",
        "check audio step float32",
        "check audio mixed_float16 finite",
        "check audio mixed_bfloat16 finite",
    ):
        assert figures_of(plan("check"), name)["right"] is True, name


@pytest.mark.slow
def test_check_resumes_a_killed_pretraining_and_reads_its_export(plan, tiny_records):
    figures = figures_of(
        plan("check", tiny_records / "train"), "check pretraining, killed and resumed"
    )
    assert figures["right"] is True
    assert figures["killed"] is True
    assert figures["features"] == "(2, 32)"


@pytest.mark.parametrize(
    "name",
    [
        "train audio and 8x112 batch 2 bfloat16",
        "train 8x112 batch 2 bfloat16 jit_compile",
    ],
)
def test_train_measures_clips_and_operations_per_second(plan, name):
    figures = figures_of(plan("train"), name)
    assert figures["finite"] is True
    assert figures["train_clips_per_sec"] > 0
    assert figures["tflops"] > 0


def test_ceilings_are_of_every_type_and_of_copies(plan):
    figures = figures_of(plan("train"), "ceilings")
    assert list(figures) == [
        "bfloat16",
        "float16",
        "tf32",
        "float32",
        "copy_gb_per_sec",
        "to_device_gb_per_sec",
    ]
    assert min(figures.values()) > 0


def test_kmeans_has_one_inertia_from_memory_and_from_files(plan):
    in_memory = figures_of(plan("kmeans"), "kmeans ours float32 2000 x 16, k 8")
    from_files = figures_of(
        plan("kmeans"), "kmeans ours mixed from files, 2 x 2000 x 16, k 8"
    )
    # The same rows twice, after one iteration less.
    assert from_files["inertia"] == pytest.approx(2 * in_memory["inertia"], rel=0.02)
    # Of a difference of short times, which may come out below zero.
    assert math.isfinite(from_files["gb_per_sec"])


def test_every_way_to_labels_and_sums_gives_the_same(plan):
    figures = figures_of(plan("kmeans"), "kmeans parts 512 x 16, k 8")
    assert {"labels_by_top_k", "labels_by_argmax, XLA", "sums_by_sorting"} <= set(
        figures
    )
    assert all(isinstance(millis, float) for millis in figures.values()), figures


def test_extract_measures_folded_encoders(plan):
    figures = figures_of(plan("extract"), "extract 8x112 batch 2 bfloat16")
    assert figures["forward_clips_per_sec"] > 0


@pytest.mark.slow
def test_pipeline_measures_decoding(plan):
    figures = figures_of(plan("pipeline"), "pipeline 8x112")
    assert figures["floor_clips_per_sec"] > 0
    assert figures["training_clips_per_sec"] > 0
    assert figures["cores"] == os.cpu_count()


def test_profile_says_which_planes_there_are_without_a_gpu(plan):
    figures = figures_of(plan("profile"), "profile audio and 8x112 batch 2 tf32")
    assert figures["clips_per_sec"] > 0
    assert "/host:CPU" in figures["planes"]


def test_idle_is_what_no_stream_covers():
    # 0 to 10 and 20 to 30, the second of two streams at once; 10 of 30 are idle.
    assert gpu_training.idle_share([(20, 25), (0, 10), (22, 30)]) == pytest.approx(
        1 / 3
    )
    assert gpu_training.idle_share([(5, 9)]) == 0


def test_a_profile_of_a_gpu_has_its_idle_time_copies_and_kernels(tmp_path):
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    plane = space.planes.add(name="/device:GPU:0")
    for number, name in enumerate(("conv", "MemcpyH2D"), start=1):
        plane.event_metadata[number].id = number
        plane.event_metadata[number].name = name
    plane.stat_metadata[7].id = 7
    plane.stat_metadata[7].name = "memcpy_details"
    compute = plane.lines.add(name="Stream #1(Compute)", timestamp_ns=1)
    compute.events.add(metadata_id=1, offset_ps=0, duration_ps=6000)
    copying = plane.lines.add(name="Stream #2(MemcpyH2D)", timestamp_ns=9)
    copy = copying.events.add(metadata_id=2, offset_ps=0, duration_ps=2000)
    copy.stats.add(metadata_id=7, str_value="kind_src:host size:3000000 dest:0")
    plane.lines.add(name="Steps").events.add(metadata_id=1, duration_ps=10**6)
    place = tmp_path / "plugins" / "profile" / "now"
    place.mkdir(parents=True)
    (place / "host.xplane.pb").write_bytes(space.SerializeToString())
    found = gpu_training.read_profile(str(tmp_path), steps=2)
    # Busy from 1 to 7 ns and from 9 to 11 of the 10 ns.
    assert found["idle_share"] == pytest.approx(0.2)
    assert found["copies_per_step"] == {"to_device": {"number": 0.5, "mb": 1.5}}
    assert found["longest"] == {"conv": 0.75, "MemcpyH2D": 0.25}


def test_rows_have_length_one_and_do_not_depend_on_who_draws_them(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(
            gpu_records.make_rows(
                str(tmp_path / name), num_rows=70_000, width=4, dtype="float32"
            )
        )
    rows = [np.load(path) for path in paths]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), 1, atol=1e-6)
    assert not np.array_equal(rows[0][:100], rows[0][65536:65636])


def run_program(tmp_path, *arguments):
    """The program's records after a run."""
    out = tmp_path / "gpu.jsonl"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", f"--out={out}", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return gpu_records.read(out), done.stdout


def test_a_process_that_dies_fails_one_measurement_and_the_next_gets_another(tmp_path):
    records, printed = run_program(
        tmp_path,
        "--stage=train",
        "--minutes=3",
        "--only=ceilings",
        "--torch_python=/bin/false",
    )
    outcomes = {record["name"]: record for record in records if "name" in record}
    assert outcomes["ceilings"]["figures"]["bfloat16"] > 0
    assert outcomes["torch ceilings"]["error"] == "its process ended with exit code 1"
    assert "| torch ceilings | failed: its process ended with exit code 1 |" in printed
    (process,) = (record for record in records if "versions" in record)
    assert {"tensorflow", "device", "cores"} <= set(process["versions"])


def test_what_there_was_no_time_for_is_recorded_as_that(tmp_path):
    records, _ = run_program(tmp_path, "--stage=extract", "--minutes=0")
    outcomes = [record for record in records if "name" in record]
    assert len(outcomes) == 6
    assert {one["error"] for one in outcomes} == {"not measured: no time"}


def test_a_measurement_that_fails_is_recorded_and_the_next_is_made(
    tmp_path, monkeypatch, capsys
):
    def fails():
        raise ValueError("no such device")

    todo = [
        gpu_records.Measurement("a", "p", "fails", {}),
        gpu_records.Measurement("b", "p", "works", {}),
    ]
    path = tmp_path / "out.jsonl"
    later = str(time.time() + 60)
    monkeypatch.setattr(sys, "argv", ["p", str(path), later, json.dumps(todo)])
    gpu_records.run_all({"fails": fails, "works": lambda: {"x": 1.0}}, {})
    capsys.readouterr()
    first, second = gpu_records.read(path)[1:]
    assert first["error"] == "ValueError: no such device"
    assert second["figures"] == {"x": 1.0}


def test_records_that_were_cut_off_leave_those_before(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"name": "a", "figures": {}}\n{"name": "b", "fig')
    assert gpu_records.read(path) == [{"name": "a", "figures": {}}]
    assert gpu_records.read(tmp_path / "missing") == []


def test_the_table_has_the_part_of_the_ceiling_and_the_last_of_two_runs():
    table = gpu_tables.tables(
        [
            {"versions": {"tensorflow": "2.21"}, "card": {"name": "H100"}},
            {"name": "ceilings", "figures": {"bfloat16": 800.0, "tf32": 400.0}},
            {"name": "train x bfloat16", "figures": {"tflops": 1.0}},
            {"name": "train x bfloat16", "figures": {"tflops": 320.0}},
            {"name": "train y tf32", "error": "OOM | at\nonce"},
        ]
    )
    assert "tensorflow 2.21, name H100" in table
    assert "| train x bfloat16 | tflops 320, of_the_ceiling 0.4 |" in table
    assert "| train y tf32 | failed: OOM / at once |" in table
    assert table.count("train x") == 1
