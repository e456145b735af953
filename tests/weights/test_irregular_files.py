"""Tests of weight files that are no files, or larger than any memory."""

import os

import pytest
from forked_commands import run_command

from xdc_tf.weights import torch_files, weight_files

pytestmark = pytest.mark.once

READERS = [weight_files.read, torch_files.read, weight_files.read_caffe2]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_refused_without_waiting_for_its_other_end(read, tmp_path):
    os.mkfifo(tmp_path / "weights.pth")

    with pytest.raises(ValueError, match="weights.pth is a pipe, socket or device"):
        read(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("read", READERS)
def test_a_device_is_refused(read):
    with pytest.raises(ValueError, match="/dev/zero is a pipe, socket or device"):
        read("/dev/zero")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "weights.pth", "wb") as file:
        file.write(b"PK\x03\x04")
        os.truncate(file.fileno(), 1 << 40)

    with pytest.raises(ValueError, match="weights.pth has 1099511627776 bytes, more"):
        weight_files.read(str(tmp_path / "weights.pth"))


def test_the_command_that_imports_weights_refuses_a_pipe_in_a_line(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")

    done = run_command(
        "xdc_tf.cli.import_weights",
        f"--weights={tmp_path / 'weights.pth'}",
        f"--out={tmp_path / 'run'}",
    )

    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'weights.pth'} is a pipe, socket or device; give a "
        "regular file.\n"
    )
    assert os.listdir(tmp_path) == ["weights.pth"]
