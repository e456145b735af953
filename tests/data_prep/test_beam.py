"""Conversions by Apache Beam: its DirectRunner, and a job service with workers."""

import os
import shutil
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

from benchmarks.engine_processes import beam_processes, children

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.mark.slow
def test_the_direct_runner_writes_the_same_bytes(manifest, tmp_path):
    pytest.importorskip("apache_beam")
    here, there = tmp_path / "here", tmp_path / "there"
    done = convert(manifest, here, "--segment_secs=1")
    assert done.returncode == 0, done.stderr
    flags = ("--segment_secs=1", "--beam_option=direct_num_workers=1")
    by_beam = convert(manifest, there, "--runner=DirectRunner", *flags)
    assert by_beam.returncode == 0, by_beam.stderr
    assert "6 of 7 rows converted into 4 shards" in by_beam.stdout
    check_same(here, there)


def test_workers_of_a_job_service_write_the_same_bytes(manifest, tmp_path):
    pytest.importorskip("apache_beam")
    here, there = tmp_path / "here", tmp_path / "there"
    done = convert(manifest, here)
    assert done.returncode == 0, done.stderr
    with beam_processes(str(tmp_path / "beam")) as beam:
        done = convert(manifest, there, *beam.flags)
    assert done.returncode == 0, done.stderr
    assert "3 of 4 rows converted into 2 shards" in done.stdout
    check_same(here, there)


@pytest.mark.slow
def test_a_file_that_kills_its_worker_each_time_costs_itself_alone(tmp_path):
    pytest.importorskip("apache_beam")
    with beam_processes(str(tmp_path / "beam")) as beam:
        check_poisoned_file(
            tmp_path, lambda: beam.flags, lambda: children(beam.pool.pid)
        )


@pytest.mark.slow
def test_a_job_whose_workers_have_other_code_is_refused(manifest, tmp_path):
    pytest.importorskip("apache_beam")
    other = tmp_path / "other"
    for package in ("data_prep", "xdc_tf"):
        shutil.copytree(os.path.join(ROOT, package), other / package)
    with open(other / "data_prep" / "rows.py", "a") as file:
        file.write("# Changed.\n")
    variables = {"PYTHONPATH": str(other)}
    with beam_processes(str(tmp_path / "beam"), variables=variables) as beam:
        done = convert(manifest, tmp_path / "out", *beam.flags)
    assert done.returncode == 1
    assert "error: the worker on" in done.stderr
    assert "has other software (code of data_prep and xdc_tf" in done.stderr


def test_options_for_beam_need_its_runner(manifest, tmp_path):
    done = convert(manifest, tmp_path / "out", "--beam_option=region=x")
    assert done.returncode == 1
    assert "error: --beam_option=region=x needs --runner" in done.stderr


@pytest.mark.slow
def test_without_beam_a_runner_says_what_to_install(manifest, tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None; sys.argv[0] = 'convert'\n"
        "from data_prep import convert; convert.run()"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, f"--manifest={manifest}"),
            *(f"--out={tmp_path / 'out'}", "--runner=FlinkRunner"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install -r requirements-beam.txt" in done.stderr
