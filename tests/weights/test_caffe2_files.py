"""Caffe2's pickles. tests/parity/caffe2_blobs.pkl is by Python 2.7.18, NumPy 1.16.6:

blobs = {
    "conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "conv1_spatbn_relu_rm": np.array([0.5, -1.0, 255.0]),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "model_iter": np.array(7, dtype=np.int64),
    "lr": np.float32(0.5), "name": "r2plus1d"}
pickle.dump({"blobs": blobs}, file, pickle.HIGHEST_PROTOCOL)
"""

import os
import pickle

import numpy as np
import pytest

from xdc_tf.weights import weight_files

pytestmark = pytest.mark.once

PARITY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "parity")
BLOBS = {
    "conv1_w": np.array([[0, 1, 2], [3, 4, 5]], np.float32),
    "conv1_spatbn_relu_rm": np.array([0.5, -1.0, 255.0]),
    "fortran": np.array([[0, 1, 2], [3, 4, 5]], np.float32),
    "big_endian": np.array([0, 1, 2], np.int32),
    "flags": np.array([True, False]),
    "model_iter": np.array(7, np.int64),
}


def written(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    return str(path)


def test_blobs_written_by_python_2_are_read():
    blobs = weight_files.read_caffe2(os.path.join(PARITY, "caffe2_blobs.pkl"))
    assert sorted(blobs) == sorted(BLOBS)
    for name, blob in blobs.items():
        np.testing.assert_array_equal(blob, BLOBS[name], err_msg=name)
        assert blob.dtype == BLOBS[name].dtype


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("wrapped", [True, False])
def test_blobs_written_by_this_python_and_numpy_are_read(tmp_path, protocol, wrapped):
    arrays = BLOBS | {
        "turned": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        "fortran": np.asfortranarray(BLOBS["fortran"]),
        "empty": np.zeros((0, 3)),
    }
    value = {"blobs": arrays} if wrapped else arrays
    blobs = weight_files.read_caffe2(written(tmp_path, pickle.dumps(value, protocol)))
    assert list(blobs) == list(arrays)
    for name, blob in blobs.items():
        np.testing.assert_array_equal(blob, arrays[name], err_msg=name)
        assert blob.dtype == arrays[name].dtype


def test_arrays_cannot_be_written_to():
    blobs = weight_files.read_caffe2(os.path.join(PARITY, "caffe2_blobs.pkl"))
    assert not any(blob.flags.writeable for blob in blobs.values())


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, None]),
        np.array(["text"]),
        np.zeros(2, [("field", "f4")]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
    ids=["objects", "text", "records", "dates"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path, array, protocol):
    path = written(tmp_path, pickle.dumps({"a": array}, protocol))
    with pytest.raises(ValueError, match="a.pkl.* numbers only"):
        weight_files.read_caffe2(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x02K\x03", b"K\x02K\x04"),  # more elements than bytes
        (b"K\x02K\x03", b"K\x02K\x02"),
        (b"K\x02K\x03", b"K\x02N"),
        (b"U\x01<", b"U\x01?"),
        (b"U\x02f4", b"U\x02O8"),
        (b"U\x02f4", b"U\x02V4"),
    ],
)
def test_a_damaged_array_is_refused(tmp_path, old, new):
    array = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00"
        b"\x85U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x18"
        + bytes(24)
        + b"tbs."
    )
    assert weight_files.read_caffe2(written(tmp_path, array))["a"].shape == (2, 3)
    assert array.count(old) == 1
    with pytest.raises(ValueError, match="a.pkl"):
        weight_files.read_caffe2(written(tmp_path, array.replace(old, new)))


@pytest.mark.parametrize("value", [{}, {"blobs": {}}, {"blobs": 1}, [1], {"a": 1}])
def test_a_pickle_without_arrays_is_refused(tmp_path, value):
    path = written(tmp_path, pickle.dumps(value, 2))
    with pytest.raises(ValueError, match="a.pkl is a pickle without arrays"):
        weight_files.read_caffe2(path)
