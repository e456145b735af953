"""This project's reader and writer next to PyTorch, where that is installed."""

import os

import numpy as np
import pytest

from xdc_tf.weights import torch_files

pytestmark = pytest.mark.once

torch = pytest.importorskip("torch")
PARITY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "parity")
TENSORS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "half": np.arange(3, dtype=np.float16),
    "scalar": np.array(7, np.int64),
    "int32": np.array([-1], np.int32),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("mmap", [False, True])
def test_pytorch_opens_what_is_written(tmp_path, mmap):
    path = str(tmp_path / "a.pth")
    torch_files.write(path, TENSORS)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == list(TENSORS)
    for name, tensor in loaded.items():
        assert tensor.is_contiguous() and not tensor.requires_grad
        assert tensor.numpy().dtype == TENSORS[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), TENSORS[name])


@pytest.mark.parametrize("name", ["tiny_legacy.pth", "tiny_zip.pth"])
def test_both_readers_return_the_same(name):
    path = os.path.join(PARITY, name)
    own, theirs = (torch_files.read(path, with_torch=w) for w in (False, True))
    assert list(own) == list(theirs)
    for key, tensor in own.items():
        np.testing.assert_array_equal(tensor, theirs[key])
        assert tensor.dtype == theirs[key].dtype


def test_other_values_come_out_the_same(tmp_path):
    path = str(tmp_path / "a.pth")
    shared = [torch.float16, torch.device("cpu")]
    value = {"size": torch.Size((2, 3)), "shared": (shared, shared), "epoch": 3}
    torch.save(value, path)
    own, theirs = (torch_files.read(path, with_torch=w) for w in (False, True))
    assert (
        own
        == theirs
        == {
            "size": (2, 3),
            "shared": (["float16", "cpu"], ["float16", "cpu"]),
            "epoch": 3,
        }
    )


def test_what_pytorch_refuses_is_an_error_that_names_the_file(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="a.pth: PyTorch does not read it: .*Linear"):
        torch_files.read(path, with_torch=True)
