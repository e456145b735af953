"""PyTorch's files, read without it.

Fixtures in tests/parity: `tiny_*.pth` and `tiny_expected.npz`; `checkpoint_legacy.pth`
by PyTorch 1.4.0 and `checkpoint_zip.pth` by PyTorch 2.14.1, both by torch.save of the
checkpoint that `CHECKPOINT` describes:

    base = torch.arange(12.0).reshape(3, 4)
    model = collections.OrderedDict(
        transposed=torch.arange(6.0).reshape(2, 3).t(), row_1=base[1],
        columns=base[:, 1::2], bfloat16=torch.tensor([1.0, -2.5, 0.0]).bfloat16(),
        half=torch.tensor([0.5], dtype=torch.float16),
        flags=torch.tensor([True, False]), parameter=torch.nn.Parameter(...),
        count=torch.tensor(7), empty=torch.zeros(0, 3))
    model._metadata = collections.OrderedDict(version=1)
    checkpoint = dict(
        epoch=3, args=argparse.Namespace(...), model=model,
        optimizer=torch.optim.SGD(...).state_dict(),  # after a step
        milestones=collections.Counter([8, 8, 9]),
        grouped=collections.defaultdict(list, a=[1]), seen={1, 2},
        size=torch.Size((2, 3)), best=np.float64(0.25),
        history=np.arange(6.0).reshape(2, 3))
"""

import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from xdc_tf.weights import pickled_values, torch_files

pytestmark = pytest.mark.once

PARITY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "parity")
TINY_FILES = ["tiny_legacy.pth", "tiny_zip.pth", "tiny_nested_zip.pth"]
CHECKPOINTS = ["checkpoint_legacy.pth", "checkpoint_zip.pth"]
CHECKPOINT = {
    "epoch": 3,
    "args": {"lr": 0.5, "layers": [2, 2], "device": "cuda:0", "dtype": "float16"},
    "milestones": {8: 2, 9: 1},
    "grouped": {"a": [1]},
    "seen": {1, 2},
    "size": (2, 3),
    "best": 0.25,
}
MODEL = {
    "transposed": np.array([[0, 3], [1, 4], [2, 5]], np.float32),
    "row_1": np.array([4, 5, 6, 7], np.float32),
    "columns": np.array([[1, 3], [5, 7], [9, 11]], np.float32),
    "bfloat16": np.array([1, -2.5, 0], np.float32),
    "half": np.array([0.5], np.float16),
    "flags": np.array([True, False]),
    "parameter": np.array([0, 0], np.float32),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
ZEROS = struct.pack("<q", 6) + bytes(24)  # a storage as an old file holds it


def assert_equal_tensors(tensors, expected):
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
        assert tensor.dtype.name == expected[name].dtype.name
        assert tensor.shape == expected[name].shape


def opcodes(*, offset=0, size=(2, 3), stride=(3, 1), numel=6, key="0", metadata=None):
    """A pickle of one float32 tensor; protocol 2, as torch.save writes it."""

    def plain(value):
        return pickle.dumps(value, 2)[2:-1]

    persistent_id = b"(" + plain("storage") + b"ctorch\nFloatStorage\n"
    persistent_id += plain(key) + plain("cpu") + plain(numel) + b"tQ"
    rest = [plain(value) for value in (offset, size, stride, False, None, metadata)]
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return b"\x80\x02" + rebuild + persistent_id + b"".join(rest) + b"tR."


def zip_file(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return str(path)


def zip_of_tensor(path, storage=bytes(24), **tensor):
    return zip_file(
        path, {"archive/data.pkl": opcodes(**tensor), "archive/data/0": storage}
    )


def legacy_of_tensor(
    path,
    storage=ZEROS,
    keys=("0",),
    little_endian=True,
    data=None,
    **tensor,
):
    header = [torch_files.LEGACY_MAGIC, 1001, {"little_endian": little_endian}]
    path.write_bytes(
        b"".join(pickle.dumps(value, 2) for value in header)
        + (data or opcodes(**tensor))
        + pickle.dumps(list(keys), 2)
        + storage
    )
    return str(path)


BOTH_FORMATS = pytest.mark.parametrize(
    "file_of_tensor", [zip_of_tensor, legacy_of_tensor]
)


@pytest.mark.parametrize("name", TINY_FILES)
def test_the_tensors_are_those_that_pytorch_saved(name):
    value = torch_files.read(os.path.join(PARITY, name))
    with np.load(os.path.join(PARITY, "tiny_expected.npz")) as expected:
        assert_equal_tensors(value.get("model", value), dict(expected))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_views_and_narrow_types_of_a_checkpoint_are_read(name):
    value = torch_files.read(os.path.join(PARITY, name))
    assert_equal_tensors(value["model"], MODEL)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_training_left_in_a_checkpoint_is_plain_data(name):
    value = torch_files.read(os.path.join(PARITY, name))
    assert {key: value[key] for key in CHECKPOINT} == CHECKPOINT
    np.testing.assert_array_equal(value["history"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_state_of_an_optimizer_is_read(name):
    optimizer = torch_files.read(os.path.join(PARITY, name))["optimizer"]
    (key,) = optimizer["param_groups"][0]["params"]
    np.testing.assert_array_equal(optimizer["state"][key]["momentum_buffer"], [2, 2])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_views_of_one_storage_share_memory(name):
    model = torch_files.read(os.path.join(PARITY, name))["model"]
    assert np.shares_memory(model["row_1"], model["columns"])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tensors_cannot_be_written_to(name):
    model = torch_files.read(os.path.join(PARITY, name))["model"]
    assert not any(tensor.flags.writeable for tensor in model.values())


@BOTH_FORMATS
def test_offset_and_strides_choose_the_elements(tmp_path, file_of_tensor):
    values = np.arange(6, dtype=np.float32).tobytes()
    prefix = struct.pack("<q", 6) if file_of_tensor is legacy_of_tensor else b""
    path = file_of_tensor(
        tmp_path / "a.pth", prefix + values, offset=1, size=(2, 2), stride=(1, 3)
    )
    np.testing.assert_array_equal(torch_files.read(path), [[1, 4], [2, 5]])


def test_a_part_of_a_storage_is_read_from_an_old_file(tmp_path):
    whole = opcodes(offset=1, size=(2,), stride=(1,))
    part = b"X\x01\x00\x00\x007K\x02K\x03\x87"  # elements 2, 3 and 4
    path = legacy_of_tensor(
        tmp_path / "a.pth",
        struct.pack("<q6f", 6, *range(6)),
        data=whole.replace(b"tQ", part + b"tQ"),
    )
    np.testing.assert_array_equal(torch_files.read(path), [3, 4])


@BOTH_FORMATS
@pytest.mark.parametrize(
    "tensor",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"stride": (2**62, 2**62)},
        {"stride": (3,)},
        {"stride": None},
        {"size": (2, 4)},
        {"size": (-2, 3)},
        {"size": (2.0, 3)},
        {"size": [2, 3]},
        {"size": (2**40, 2**40)},
        {"size": (100, 100), "stride": (0, 0)},  # expanded
        {"size": (1,) * 33, "stride": (1,) * 33},
        {"size": (0, 2**62), "stride": (1, 1)},
        {"numel": 5},
        {"numel": 7},
        {"numel": -1},
        {"numel": 2**62},
        {"numel": 2**70},
        {"numel": 6.0},
        {"key": "1"},
        {"key": 0},
        {"key": "../data.pkl"},
        {"metadata": {"neg": True}},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(
    tmp_path, file_of_tensor, tensor
):
    path = file_of_tensor(tmp_path / "a.pth", **tensor)
    with pytest.raises(ValueError, match="a.pth"):
        torch_files.read(path)


def test_a_zip_with_a_path_that_leads_elsewhere_is_refused(tmp_path):
    for number, name in enumerate(["../../x", "archive/../../x", "/etc/x"]):
        entries = {
            "archive/data.pkl": opcodes(),
            "archive/data/0": bytes(24),
            name: b"",
        }
        path = zip_file(tmp_path / f"{number}.pth", entries)
        with pytest.raises(ValueError, match=f"{number}.pth: refuses the entry"):
            torch_files.read(path)
        assert [file.name for file in tmp_path.glob("**/x")] == []


def test_a_zip_bomb_is_refused(tmp_path):
    entries = {"archive/data.pkl": opcodes(), "archive/data/0": bytes(10_000_000)}
    path = zip_file(tmp_path / "a.pth", entries, zipfile.ZIP_DEFLATED)
    assert os.path.getsize(path) < 20_000
    with pytest.raises(ValueError, match="a.pth: refuses the compressed entry"):
        torch_files.read(path)


def test_an_entry_that_declares_more_than_the_file_is_refused(tmp_path):
    path = zip_of_tensor(tmp_path / "a.pth")
    content = open(path, "rb").read()
    sizes = struct.pack("<II", 24, 24)
    assert content.count(sizes) == 2  # before the content, and in the directory
    with open(path, "wb") as file:
        file.write(content.replace(sizes, struct.pack("<II", 2**30, 2**30)))
    with pytest.raises(ValueError, match="a.pth: its entries declare"):
        torch_files.read(path)


def test_a_zip_with_two_entries_of_one_name_is_refused(tmp_path):
    path = zip_of_tensor(tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("archive/data/0", bytes(24))
    with pytest.raises(ValueError, match="a.pth: refuses .* occurs twice"):
        torch_files.read(path)


def test_a_damaged_tensor_in_a_zip_is_noticed(tmp_path):
    path = zip_of_tensor(tmp_path / "a.pth", b"\x11" * 24)
    content = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(content.replace(b"\x11" * 24, b"\x12" * 24))
    with pytest.raises(ValueError, match="a.pth is a damaged zip archive .*CRC"):
        torch_files.read(path)


@pytest.mark.parametrize("name", TINY_FILES)
def test_a_truncated_file_is_refused(tmp_path, name):
    with open(os.path.join(PARITY, name), "rb") as file:
        content = file.read()
    path = tmp_path / "a.pth"
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="a.pth"):
            torch_files.read(str(path))


def test_a_zip_that_is_not_pytorchs_is_refused(tmp_path):
    path = zip_file(tmp_path / "a.pth", {"config.json": b"{}"})
    with pytest.raises(ValueError, match="a.pth is a zip archive without one NAME"):
        torch_files.read(path)


def test_a_torchscript_program_is_refused(tmp_path):
    entries = {"archive/data.pkl": opcodes(), "archive/constants.pkl": b")."}
    path = zip_file(tmp_path / "a.pth", entries)
    with pytest.raises(ValueError, match=r"a.pth is a TorchScript .* state_dict\(\)"):
        torch_files.read(path)


def test_a_big_endian_zip_is_refused(tmp_path):
    entries = {"archive/data.pkl": opcodes(), "archive/byteorder": b"big"}
    path = zip_file(tmp_path / "a.pth", entries)
    with pytest.raises(ValueError, match="a.pth was not written on a little-endian"):
        torch_files.read(path)


def test_a_big_endian_old_file_is_refused(tmp_path):
    path = legacy_of_tensor(tmp_path / "a.pth", little_endian=False)
    with pytest.raises(ValueError, match="a.pth was not written on a little-endian"):
        torch_files.read(path)


@pytest.mark.parametrize(
    "file",
    [
        {"keys": ()},
        {"keys": ("0", "0")},
        {"keys": ("0", "1")},
        {"keys": (0,)},
        {"keys": ([],)},
        {"storage": struct.pack("<q", 5) + bytes(24)},
        {"storage": struct.pack("<q", -6) + bytes(24)},
        {"storage": struct.pack("<q", 6) + bytes(23)},
        {"storage": b""},
    ],
    ids=str,
)
def test_an_old_file_with_other_storages_than_declared_is_refused(tmp_path, file):
    path = legacy_of_tensor(tmp_path / "a.pth", **file)
    with pytest.raises(ValueError, match="a.pth"):
        torch_files.read(path)


@BOTH_FORMATS
def test_a_model_saved_whole_is_refused_with_the_remedy(tmp_path, file_of_tensor):
    path = tmp_path / "a.pth"
    model = b"\x80\x02ctorch.nn.modules.conv\nConv3d\n)\x81}b."
    if file_of_tensor is zip_of_tensor:
        zip_file(path, {"archive/data.pkl": model})
    else:
        legacy_of_tensor(path, data=model)
    with pytest.raises(ValueError, match=r"a.pth.*conv\.Conv3d; .* its state_dict\(\)"):
        torch_files.read(str(path))


def test_reading_with_pytorch_where_it_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="tiny_zip.pth .* not installed"):
        torch_files.read(os.path.join(PARITY, "tiny_zip.pth"), with_torch=True)


def test_storages_of_every_dtype_are_decoded():
    for storage, dtype in pickled_values.STORAGE_DTYPES.items():
        name = {"bfloat16": "float32"}.get(dtype, dtype)
        itemsize = {"bfloat16": 2}.get(dtype, np.dtype(name).itemsize)
        values = pickled_values.decode(bytes(3 * itemsize), dtype)
        assert (storage, values.dtype.name) == (storage, name)
        np.testing.assert_array_equal(values, [0, 0, 0])
