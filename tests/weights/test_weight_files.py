"""Which kind of file it is, and its tensors by name."""

import io
import os
import tarfile

import numpy as np
import pytest

from xdc_tf.weights import torch_files, weight_files

pytestmark = pytest.mark.once

PARITY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "parity")


def tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("tiny_zip.pth", "fc.weight"),
        ("tiny_legacy.pth", "fc.weight"),
        ("tiny_nested_zip.pth", "model.fc.weight"),
        ("checkpoint_legacy.pth", "model.row_1"),
        ("checkpoint_zip.pth", "history"),
        ("caffe2_blobs.pkl", "conv1_w"),
    ],
)
def test_every_format_is_recognised_whatever_its_name(tmp_path, name, key):
    path = tmp_path / "weights"
    with open(os.path.join(PARITY, name), "rb") as file:
        path.write_bytes(file.read())
    assert key in weight_files.flatten_tensors(weight_files.read(str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x89HDF\r\n", "HDF5"),
        (tar(), "tar archive, as PyTorch wrote before 0.4"),
        (b'\x20\x00\x00\x00\x00\x00\x00\x00{"a":', "cut within its header"),
        (b"weights", "begins with b'weights'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.pth is .*{message}|a.pth {message}"):
        weight_files.read(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.pth does not exist"):
        weight_files.read(str(tmp_path / "a.pth"))


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        weight_files.read(str(tmp_path))


def test_nested_dictionaries_give_dotted_names():
    a, b = np.zeros(1), np.zeros(2)
    value = {"model": {"a": a, "epoch": 3, "inner": {0: b}}, "lists": [a], "b": b}
    tensors = weight_files.flatten_tensors(value)
    assert list(tensors) == ["model.a", "model.inner.0", "b"]
    assert tensors["model.inner.0"] is b


def test_what_is_written_has_its_names(tmp_path):
    path = str(tmp_path / "a.pth")
    torch_files.write(path, {"fc.weight": np.ones((2, 3), np.float32)})
    tensors = weight_files.flatten_tensors(weight_files.read(path))
    assert list(tensors) == ["fc.weight"]


def test_two_tensors_of_one_name_are_refused():
    value = {"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)}
    with pytest.raises(ValueError, match="two tensors have the name 'a.b'"):
        weight_files.flatten_tensors(value)


def test_a_dictionary_that_holds_itself_is_refused():
    value = {"tensor": np.zeros(1)}
    value["self"] = value
    with pytest.raises(ValueError, match="nested deeper than 32"):
        weight_files.flatten_tensors(value)


def test_dictionaries_that_unfold_without_end_are_refused():
    value = {"tensor": np.zeros(1)}
    for _ in range(30):
        value = {"a": value, "b": value}
    with pytest.raises(ValueError, match="more than 1000000 values"):
        weight_files.flatten_tensors(value)


def test_a_name_without_end_is_refused():
    with pytest.raises(ValueError, match="has 301 characters"):
        weight_files.flatten_tensors({"a" * 301: np.zeros(1)})
