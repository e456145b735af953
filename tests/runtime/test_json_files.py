"""Tests of JSON files that anybody may have written."""

import os

import pytest

from xdc_tf.runtime import json_files

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"a": NaN}', "is not JSON .NaN is no JSON number"),
        ('{"a": -Infinity}', "is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"a": ' * 70 + "1" + "}" * 70, "is nested more than 64 levels"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "is nested more than 64 levels"),
        ("[" * 1_000_000, "is not JSON"),
    ],
)
def test_what_is_no_plain_object_is_an_error_that_names_the_file(
    text, message, tmp_path
):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {message}"):
        json_files.read_object(tmp_path / "a.json")


def test_what_is_no_text_is_an_error(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="a.json is not UTF-8"):
        json_files.read_object(tmp_path / "a.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(ValueError, match="a.json has 1099511627776 bytes"):
        json_files.read_object(tmp_path / "a.json")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="a.json is a pipe"):
        json_files.read_object(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (json_files.is_text, ["", "é"], [1, None, "\ud800", "x" * 10_001]),
        (json_files.is_number, [0, -1.5, 1e100], [True, "1", None, 1e101, 10**101]),
        (json_files.is_count, [0, 2**53], [-1, True, 1.0, 2**53 + 1, "1"]),
        (json_files.optional(json_files.is_count), [None, 1], [-1, "a"]),
        (json_files.list_of(json_files.is_count), [[], [1]], [{}, "1", [1, -1]]),
        (json_files.mapping_of(json_files.is_count), [{}, {"a": 1}], [[], {"a": "1"}]),
    ],
)
def test_checks_tell_good_values_from_bad_ones(check, good, bad):
    assert all(map(check, good))
    assert not any(map(check, bad))


def test_an_unusable_value_is_named_with_its_key():
    with pytest.raises(ValueError, match=r"a.json has an unusable value under n, -1"):
        json_files.check({"n": -1}, {"n": json_files.is_count}, "a.json")
    with pytest.raises(ValueError, match="a.json lacks n"):
        json_files.check({}, {"n": json_files.is_count}, "a.json")
