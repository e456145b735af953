"""Manifest, media and records on s3://, against a server on loopback."""

import os
import socket
import subprocess
import sys

import boto3
import pytest
from media_files import tone, write_media

from data_prep import remote_files
from data_prep.reasons import MediaError
from xdc_tf.runtime import compat

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = ("--fps=10", "--short_side=48", "--num_workers=1")


@pytest.fixture(scope="module")
def videos(s3, tmp_path_factory):
    """A local folder with a manifest of three rows, and its copy in the bucket."""
    folder = tmp_path_factory.mktemp("videos")
    write_media(folder / "a b.mp4", waveform=tone(1.0))
    write_media(folder / "c#?*.mp4", waveform=tone(1.0, hz=500))
    manifest = "path,label\na b.mp4,x\nmissing.mp4,x\nc#?*.mp4,y\n"
    (folder / "manifest.csv").write_text(manifest)
    client = boto3.client(
        "s3",
        region_name=s3["AWS_REGION"],
        endpoint_url=s3["S3_ENDPOINT"],
        aws_access_key_id=s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3["AWS_SECRET_ACCESS_KEY"],
    )
    for path in folder.iterdir():
        client.upload_file(str(path), "records", f"videos/{path.name}")
    return folder


def run(command, s3):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | s3,
        capture_output=True,
        text=True,
        check=False,
    )


def convert(manifest, out, s3):
    flags = [f"--manifest={manifest}", f"--out={out}", *FLAGS]
    return run(["-m", "data_prep.convert", *flags], s3)


def test_remote_media_give_the_records_of_local_ones(videos, s3, tmp_path):
    local = convert(videos / "manifest.csv", tmp_path / "local", s3)
    assert local.returncode == 0, local.stderr
    remote = convert("s3://records/videos/manifest.csv", tmp_path / "remote", s3)
    assert remote.returncode == 0, remote.stderr
    assert "2 of 3 rows converted" in remote.stdout
    for name in os.listdir(tmp_path / "local"):
        if name != "quarantine.csv":  # which has each file system's own words
            ours = (tmp_path / "remote" / name).read_bytes()
            assert ours == (tmp_path / "local" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.skipif(compat.KERAS_3, reason="this generation has no tensorflow-io")
def test_records_are_written_to_s3_and_read_from_there(videos, s3):
    out = "s3://records/converted"
    done = convert("s3://records/videos/manifest.csv", out, s3)
    assert done.returncode == 0, done.stderr
    again = convert("s3://records/videos/manifest.csv", out, s3)
    assert again.returncode == 0, again.stderr
    assert "is complete: 2 examples" in again.stdout
    verified = run(["-m", "data_prep.inspect", f"--records={out}", "--verify"], s3)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_remote_manifest_that_is_missing_is_one_line(s3, tmp_path):
    done = convert("s3://records/none.csv", tmp_path / "out", s3)
    assert done.returncode == 1
    assert "error: manifest s3://records/none.csv does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_that_grows_past_the_limit_is_refused(videos, s3, monkeypatch):
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    path = "s3://records/videos/a b.mp4"
    with remote_files.local_copy(path, limit_bytes=1 << 20) as copy:
        assert open(copy, "rb").read() == (videos / "a b.mp4").read_bytes()
    assert not os.path.exists(copy)
    with pytest.raises(MediaError, match="too_large"):
        with remote_files.local_copy(path, limit_bytes=100):
            pass


def test_an_unknown_file_system_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown file system 'gopher'.*s3://"):
        remote_files.read_bytes("gopher://host/a.csv", limit_bytes=1)


def test_a_storage_that_does_not_answer_says_nothing_of_the_file(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        with pytest.raises(MediaError, match="io_error"):
            with remote_files.local_copy("s3://none/a.mp4", limit_bytes=100):
                pass
