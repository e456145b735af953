"""Tests of reading arrays that anybody may have written."""

import os
import zipfile

import numpy as np
import pytest

from xdc_tf.runtime import arrays
from xdc_tf.runtime.arrays import Form

pytestmark = pytest.mark.once

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(header, numbers=b"", version=(1, 0)):
    """A .npy file of a header as text and of numbers."""
    text = header.encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + numbers


def header(descr="'<f4'", shape="(1,)", order="False", more=""):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {more}}}\n"


def write(path, content):
    path.write_bytes(content)
    return path


HOSTILE_NPY = {
    "empty": b"",
    "magic alone": b"\x93NUMPY",
    "another format": b"PK\x03\x04" + bytes(100),
    "unknown version": npy(header(), bytes(4), version=(3, 0)),
    "header cut short": npy(header())[:30],
    "header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "header of calls": npy("__import__('os').system('true')\n"),
    "header nested without end": npy("(" * 4000),
    "header of a list": npy("[1, 2, 3]\n"),
    "header not ASCII": npy(header(more="'é': 1")),
    "unhashable key": npy("{[]: 1}\n"),
    "objects": npy(header("'|O'"), bytes(8)),
    "pickled": npy(header("'|O'"), b"cos\nsystem\n(S'true'\ntR."),
    "structured": npy(header("[('a', '<f4')]"), bytes(4)),
    "text": npy(header("'<U4'"), bytes(16)),
    "big-endian": npy(header("'>f4'"), bytes(4)),
    "no dtype": npy(header("'<q9'"), bytes(4)),
    "huge shape": npy(header(shape=f"({2**60}, {2**60})"), bytes(4)),
    "shape of many digits": npy(header(shape=f"({'9' * 3900},)"), bytes(4)),
    "negative shape": npy(header(shape="(-1,)"), bytes(4)),
    "fractional shape": npy(header(shape="(1.0,)"), bytes(4)),
    "boolean shape": npy(header(shape="(True,)"), bytes(4)),
    "shape of a number": npy(header(shape="1"), bytes(4)),
    "order of a number": npy(header(order="1"), bytes(4)),
    "many dimensions": npy(header(shape="(1, 1, 1, 1, 1, 1, 1, 1, 1)"), bytes(4)),
    "cut short": npy(header(shape="(2,)"), bytes(7)),
    "too long": npy(header(shape="(2,)"), bytes(9)),
    "a key too many": npy(header(more="'x': 1"), bytes(4)),
}


@pytest.mark.parametrize("content", HOSTILE_NPY.values(), ids=list(HOSTILE_NPY))
def test_a_hostile_npy_file_is_an_error_of_one_line_that_names_it(content, tmp_path):
    path = write(tmp_path / "hostile.npy", content)

    with pytest.raises(ValueError, match="hostile.npy") as raised:
        arrays.open_npy(path)

    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("content", HOSTILE_NPY.values(), ids=list(HOSTILE_NPY))
def test_a_hostile_array_in_an_archive_is_an_error_that_names_both(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "hostile.npz", "w") as archive:
        archive.writestr("centroids.npy", content)

    with pytest.raises(ValueError, match="hostile.npz.*'centroids'"):
        arrays.read_npz(tmp_path / "hostile.npz")


@pytest.mark.parametrize(
    "array",
    [MATRIX, np.asfortranarray(MATRIX), np.zeros(0, np.int32), np.array(True)],
    ids=["rows", "columns", "empty", "scalar"],
)
def test_arrays_are_read_as_they_were_saved(array, tmp_path):
    np.save(tmp_path / "array.npy", array)
    np.savez(tmp_path / "arrays.npz", array=array)

    mapped = arrays.open_npy(tmp_path / "array.npy")
    (read,) = arrays.read_npz(tmp_path / "arrays.npz").values()

    for result in (mapped, read):
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array, strict=True)
    assert mapped.filename == str(tmp_path / "array.npy")
    assert not mapped.flags.writeable


def test_every_bit_flip_in_an_archive_is_an_error_or_changes_nothing(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=MATRIX, b=np.int64(3))
    original = (tmp_path / "arrays.npz").read_bytes()
    form = {"a": Form("float32", ("n", 3)), "b": Form("int64", ())}

    refused = 0
    for position in range(8 * len(original)):
        damaged = bytearray(original)
        damaged[position // 8] ^= 1 << position % 8
        path = write(tmp_path / "damaged.npz", damaged)
        try:
            read = arrays.read_npz(path, form)
        except ValueError as error:
            assert "damaged.npz" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(read["a"], MATRIX)
            assert read["b"] == 3

    assert refused > 8 * len(original) / 2


def test_an_archive_cut_short_anywhere_is_an_error(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=MATRIX)
    original = (tmp_path / "arrays.npz").read_bytes()

    for length in range(len(original)):
        path = write(tmp_path / "short.npz", original[:length])
        with pytest.raises(ValueError, match="short.npz"):
            arrays.read_npz(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(10**7, np.uint8))

    with pytest.raises(ValueError, match="bomb.npz.*compressed"):
        arrays.read_npz(tmp_path / "bomb.npz")


def test_members_that_overlap_do_not_multiply_the_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "overlap.npz", "w") as archive:
        archive.writestr("a.npy", npy(header(shape="(1000,)"), bytes(4000)))
        (member,) = archive.infolist()
        for name in ("b.npy", "c.npy"):  # the same bytes under further names
            twin = zipfile.ZipInfo(name)
            for key in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, key, getattr(member, key))
            archive.filelist.append(twin)

    with pytest.raises(ValueError, match="overlap.npz.*longer than all"):
        arrays.read_npz(tmp_path / "overlap.npz")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.array([1, np.nan], np.float32))

    with pytest.raises(ValueError, match="arrays.npz.*'a': holds numbers that are not"):
        arrays.read_npz(tmp_path / "arrays.npz")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"b": Form("float32", (2, 3))}, "no array 'b'"),
        ({"a": Form("float64", (2, 3))}, r"'a' is float32 \(2, 3\) where float64"),
        ({"a": Form("float32", (2,))}, r"\(2, 3\) where float32 \(2,\)"),
        ({"a": Form("float32", (2, 4))}, r"where float32 \(2, 4\)"),
        ({"a": Form("float32", ("n", "n"))}, r"where float32 \(2, 2\)"),
        (
            {"a": Form("float32", ("n", "d")), "c": Form("int64", ("d",))},
            r"'c' is int64 \(2,\) where int64 \(3,\)",
        ),
    ],
)
def test_arrays_of_another_form_than_expected_are_refused(form, message, tmp_path):
    np.savez(tmp_path / "arrays.npz", a=MATRIX, c=np.zeros(2, np.int64))

    with pytest.raises(ValueError, match=f"arrays.npz.*{message}"):
        arrays.read_npz(tmp_path / "arrays.npz", form)


def test_only_expected_arrays_are_read_and_optional_ones_may_be_missing(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=MATRIX, other=np.zeros(3))
    form = {
        "a": Form("float32", ("n", "d")),
        "offsets": Form("float32", ("n",), required=False),
    }

    assert list(arrays.read_npz(tmp_path / "arrays.npz", form)) == ["a"]


@pytest.mark.parametrize("read", [arrays.open_npy, arrays.read_npz])
def test_pipes_and_directories_are_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ValueError, match="pipe is a pipe"):
        read(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        read(tmp_path / "missing")


def test_an_array_is_written_part_by_part(tmp_path):
    rows = np.arange(12.0).reshape(4, 3)
    path = tmp_path / "a.npy"
    parts = (rows[start : start + 3] for start in (0, 3))
    arrays.write_npy(path, parts, shape=(4, 3), dtype=np.float32)
    found = arrays.open_npy(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows)


def test_an_array_of_too_few_rows_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"a.npy: 2 rows for an array of shape \(4, 3"):
        arrays.write_npy(
            tmp_path / "a.npy", [np.ones((2, 3))], shape=(4, 3), dtype=np.float32
        )
    assert not list(tmp_path.iterdir())


def test_an_array_that_cannot_be_written_is_named():
    with pytest.raises(OSError, match="/dev/shm/none/a.npy"):
        arrays.write_npy(
            "/dev/shm/none/a.npy", [np.ones((1, 1))], shape=(1, 1), dtype=np.float32
        )
