"""Conversions by Apache Beam's DirectRunner, on real files."""

import os
import subprocess
import sys

import pytest
from media_files import tone, write_media

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def convert(manifest, out, *flags):
    return subprocess.run(
        [
            *(sys.executable, "-m", "data_prep.convert", f"--manifest={manifest}"),
            *(f"--out={out}", "--fps=10", "--short_side=48", "--rows_per_shard=2"),
            *("--segment_secs=1", *flags),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        secs = 1.0 + number
        write_media(folder / f"{number}.mp4", secs=secs, waveform=tone(secs))
    path = folder / "manifest.csv"
    path.write_text("path,label\n0.mp4,a\nnone.mp4,b\n1.mp4,b\n2.mp4,\n")
    return path


@pytest.mark.slow
def test_the_direct_runner_writes_the_same_bytes(manifest, tmp_path):
    pytest.importorskip("apache_beam")
    here, there = tmp_path / "here", tmp_path / "there"
    done = convert(manifest, here)
    assert done.returncode == 0, done.stderr
    workers = ("--beam_option=direct_num_workers=1",)
    by_beam = convert(manifest, there, "--runner=DirectRunner", *workers)
    assert by_beam.returncode == 0, by_beam.stderr
    assert "6 of 7 rows converted into 4 shards" in by_beam.stdout
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
    for name in os.listdir(here):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_options_for_beam_need_its_runner(manifest, tmp_path):
    done = convert(manifest, tmp_path / "out", "--beam_option=region=x")
    assert done.returncode == 1
    assert "error: --beam_option=region=x needs --runner" in done.stderr


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
