"""Conversions by Dask clusters of real processes."""

import functools
import os
import shutil
import socket
import subprocess
import sys

import pytest
from engine_conversions import (
    ROOT,
    check_poisoned_file,
    check_same,
    convert,
    write_videos,
)

from benchmarks.engine_processes import DaskProcesses, free_port
from data_prep import segments
from data_prep.engines.dask_cluster import DaskCluster
from data_prep.manifest import read_manifest
from data_prep.worker_processes import PoolSettings, map_groups

pytestmark = pytest.mark.once
pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with DaskProcesses(str(tmp_path_factory.mktemp("dask"))) as processes:
        yield processes


def test_workers_elsewhere_write_the_same_bytes(manifest, cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    done = convert(manifest, here, "--segment_secs=1")
    assert done.returncode == 0, done.stderr
    flag = f"--dask={cluster.address}"
    # Relative paths, though the workers are in other directories.
    done = convert(
        os.path.relpath(manifest, tmp_path), "there", "--segment_secs=1", flag,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 of 7 rows converted into 4 shards" in done.stdout
    check_same(here, there)


@pytest.mark.slow
def test_a_file_that_kills_its_worker_each_time_costs_itself_alone(cluster, tmp_path):
    def worker_pids():
        pids = [cluster.worker_pid(k) for k in range(len(cluster.workers))]
        return [pid for pid in pids if pid]

    check_poisoned_file(tmp_path, lambda: [f"--dask={cluster.address}"], worker_pids)


def test_groups_of_items_are_mapped_in_order(manifest, cluster):
    groups = [[row] for row in read_manifest(str(manifest)).rows] * 10
    function = functools.partial(segments.measure_length, limit_bytes=1 << 20)
    arguments = {"form": segments.LENGTH_FORM, "pool": PoolSettings(1)}
    with DaskCluster(cluster.address) as engine:
        outcomes = list(engine.map_groups(function, groups, **arguments))
    assert outcomes == list(map_groups(function, groups, **arguments))
    assert [outcome.result is None for outcome in outcomes] == [
        *(False, True, False, False)
    ] * 10


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_media_is_named(manifest, cluster, tmp_path):
    # In this path is whoever asks for it.
    path = f"/proc/self/cwd/{manifest.name}"
    flag = f"--dask={cluster.address}"
    done = convert(path, tmp_path / "out", flag, cwd=manifest.parent)
    assert done.returncode == 1
    assert (
        f"the worker on {socket.gethostname()} cannot read /proc/self/cwd/0.mp4"
        in done.stderr
    )
    assert not (tmp_path / "out" / "quarantine.csv").exists()


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_output_is_named(manifest, cluster, tmp_path):
    flag = f"--dask={cluster.address}"
    done = convert(manifest, "/proc/self/cwd/out", flag, cwd=tmp_path)
    assert done.returncode == 1
    assert "does not see /proc/self/cwd/out/progress/plan.json" in done.stderr


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(manifest, tmp_path):
    other = tmp_path / "other"
    for package in ("data_prep", "xdc_tf"):
        shutil.copytree(os.path.join(ROOT, package), other / package)
    with open(other / "data_prep" / "rows.py", "a") as file:
        file.write("# Changed.\n")
    variables = {"PYTHONPATH": str(other)}
    directory = str(tmp_path / "dask")
    with DaskProcesses(directory, num_workers=1, variables=variables) as processes:
        done = convert(manifest, tmp_path / "out", f"--dask={processes.address}")
    assert done.returncode == 1
    assert "has other software (code of data_prep and xdc_tf" in done.stderr


@pytest.mark.slow
def test_a_worker_without_the_project_is_refused(manifest, tmp_path):
    variables = {"PYTHONPATH": ""}
    directory = str(tmp_path / "dask")
    with DaskProcesses(directory, num_workers=1, variables=variables) as processes:
        done = convert(manifest, tmp_path / "out", f"--dask={processes.address}")
    assert done.returncode == 1
    assert "install this project there" in done.stderr


@pytest.mark.slow
def test_a_scheduler_that_is_not_there(manifest, tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    done = convert(manifest, tmp_path / "out", f"--dask={address}")
    assert done.returncode == 1
    assert f"--dask={address}: no Dask scheduler answers there" in done.stderr


def test_dask_and_beam_exclude_each_other(manifest, tmp_path):
    flags = ("--dask=local", "--runner=DirectRunner")
    done = convert(manifest, tmp_path / "out", *flags)
    assert done.returncode == 1
    assert "are two ways to convert" in done.stderr


@pytest.mark.slow
def test_without_dask_the_flag_says_what_to_install(manifest, tmp_path):
    code = (
        "import sys; sys.modules['distributed'] = None; sys.argv[0] = 'convert'\n"
        "from data_prep import convert; convert.run()"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, f"--manifest={manifest}"),
            *(f"--out={tmp_path / 'out'}", "--dask=local"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install -r requirements-dask.txt" in done.stderr
