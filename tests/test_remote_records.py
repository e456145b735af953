"""Records on s3:// against a local server, by command lines of their own process."""

import os
import subprocess
import sys

import pytest

from xdc_tf.runtime import compat

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMAND = """\
import os

from xdc_tf.runtime import program


def main(argv):
    import tensorflow as tf

    from xdc_tf.runtime import compat

    path = os.environ["RECORDS"]
    compat.enable_remote_paths(path)
    with tf.io.TFRecordWriter(path) as writer:
        for record in (b"first", b"second"):
            writer.write(record)
    print([record.numpy() for record in tf.data.TFRecordDataset(path)])
    if "FAIL" in os.environ:
        raise ValueError("failed on request")


program.run(main)
"""


def _run(records, **environment):
    return subprocess.run(
        [sys.executable, "-c", COMMAND],
        cwd=ROOT,
        env=os.environ | {"RECORDS": records} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(compat.KERAS_3, reason="this generation has no tensorflow-io")
def test_records_are_written_to_s3_and_read_back_with_exit_code_0(s3):
    done = _run("s3://records/a.tfrecord", **s3)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[b'first', b'second']\n"


@pytest.mark.skipif(compat.KERAS_3, reason="this generation has no tensorflow-io")
def test_a_failure_after_using_s3_has_exit_code_1(s3):
    done = _run("s3://records/b.tfrecord", FAIL="1", **s3)
    assert (done.returncode, done.stderr) == (1, "error: failed on request\n")


@pytest.mark.skipif(not compat.KERAS_3, reason="tensorflow-io reads s3:// here")
def test_without_tensorflow_io_a_command_on_s3_says_what_is_missing():
    done = _run("s3://records/a.tfrecord")
    assert done.returncode == 1
    assert done.stderr.startswith("error: s3://records/a.tfrecord: s3:// paths need")
    assert done.stderr.count("\n") == 1
