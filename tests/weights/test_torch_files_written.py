"""Files of tensors written for PyTorch, without it."""

import io
import pickletools
import struct
import zipfile

import numpy as np
import pytest

from xdc_tf.weights import torch_files

pytestmark = pytest.mark.once

WRITTEN = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "big_endian": np.arange(3, dtype=">f2"),
    "scalar": np.array(7, np.int64),
    "int32": np.array([-1], np.int32),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
    "größe": np.ones((2, 1, 1, 1, 3), np.float32),
}


def test_what_is_written_reads_back(tmp_path):
    path = str(tmp_path / "a.pth")
    torch_files.write(path, WRITTEN)
    tensors = torch_files.read(path)
    assert list(tensors) == list(WRITTEN)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, WRITTEN[name], err_msg=name)
        assert tensor.dtype.name == WRITTEN[name].dtype.name
        assert tensor.shape == WRITTEN[name].shape


def test_writing_leaves_one_file(tmp_path):
    path = tmp_path / "a.pth"
    path.write_text("old")
    torch_files.write(str(path), WRITTEN)
    assert list(tmp_path.iterdir()) == [path]


def test_equal_tensors_give_equal_bytes(tmp_path):
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for path in paths:
        torch_files.write(str(path), WRITTEN)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_storages_written_lie_at_multiples_of_64_bytes(tmp_path):
    path = str(tmp_path / "a.pth")
    torch_files.write(path, WRITTEN)
    content = open(path, "rb").read()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            lengths = struct.unpack_from("<HH", content, entry.header_offset + 26)
            assert (entry.header_offset + 30 + sum(lengths)) % 64 == 0
        assert archive.testzip() is None


def test_the_pickle_written_is_well_formed_and_of_protocol_2(tmp_path):
    path = str(tmp_path / "a.pth")
    torch_files.write(path, WRITTEN)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("archive/data.pkl")
    listing = io.StringIO()
    pickletools.dis(content, listing)  # raises if the stack does not work out
    assert "highest protocol among opcodes = 2" in listing.getvalue()


def test_a_large_number_of_elements_is_written_in_64_bits():
    pickled = torch_files._state_dict_pickle(
        {"a": np.broadcast_to(np.float32(0), (2**20, 2**20))}
    )
    numbers = [value for _, value, _ in pickletools.genops(pickled)]
    assert 2**40 in numbers


def test_a_dtype_that_is_not_written_is_named(tmp_path):
    with pytest.raises(ValueError, match="'a' is of dtype complex64"):
        torch_files.write(str(tmp_path / "a.pth"), {"a": np.zeros(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []
