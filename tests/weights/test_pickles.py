"""The machine that reads pickles as data, on pickles written by hand."""

import io
import pickle

import pytest

from xdc_tf.weights import pickled_values, pickles

pytestmark = pytest.mark.once


def read(data, table=pickled_values.CONTAINERS, **settings):
    return pickles.read(io.BytesIO(data), table, name="FILE", **settings)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_python_wrote_them(protocol):
    value = {
        "numbers": [0, -1, 255, 65535, -(2**31), 2**80, 0.5, True, False, None],
        "text": ["", "naïve", "x" * 300, "a\nb"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        5: {"shared": [1]},
    }
    value["again"] = value["text"]
    result = read(pickle.dumps(value, protocol))
    assert result == value
    assert result["again"] is result["text"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_and_bytes_are_read_as_python_wrote_them(protocol):
    value = [{1, 2}, frozenset("ab"), b"\x00\xff", b""]
    table = pickled_values.CONTAINERS | pickled_values.ARRAYS
    assert read(pickle.dumps(value, protocol), table) == value


def test_a_list_that_holds_itself_is_read():
    value = []
    value.append(value)
    result = read(pickle.dumps(value, 2))
    assert result[0] is result


def test_a_tuple_that_holds_itself_is_read():
    value = ([],)
    value[0].append(value)
    for protocol in (0, 1, 2):
        result = read(pickle.dumps(value, protocol))
        assert result[0][0] is result


def test_text_of_python_2_is_latin_1():
    assert read(b"U\x02\xe4!.") == "ä!"


def test_an_ordered_dict_of_python_2_is_read_from_its_items():
    assert read(b"ccollections\nOrderedDict\n(]](U\x01aK\x01eatR.") == {"a": 1}


def test_the_file_is_left_just_behind_the_pickle():
    file = io.BytesIO(b"..K\x01.K\x02.rest")
    file.seek(2)
    values = [pickles.read(file, {}, name="FILE") for _ in range(2)]
    assert values == [1, 2]
    assert file.read() == b"rest"


def test_a_name_stands_for_the_tables_value_or_function():
    table = {"a.value": "constant", "a.function": lambda number: number + 1}
    assert read(b"(ca\nvalue\nca\nfunction\nK\x01\x85Rt.", table) == ("constant", 2)


def test_a_persistent_id_stands_for_what_the_caller_makes_of_it():
    assert read(b"K\x02Q.", persistent=lambda number: number * 10) == 20


def test_the_error_of_a_refused_name_says_file_place_and_name():
    message = r"^FILE, byte 2: refuses to run posix\.system; .* tensors and containers"
    with pytest.raises(ValueError, match=message):
        read(b"\x80\x02cposix\nsystem\n.")


def test_a_huge_memo_index_costs_nothing():
    assert read(b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 1


def test_a_deeply_nested_value_is_read_without_recursion():
    depth = 100_000
    value = read(b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    "data",
    [
        b"",  # nothing
        b"K\x01",  # no end
        b".",  # no value
        b"K\x01K\x02.",  # two values
        b"(K\x01.",  # an open mark
        b"0.",  # nothing to pop
        b"t.",  # no mark
        b"a.",
        b"K\x01a.",
        b"}K\x01s.",
        b"}(K\x01u.",  # a key without a value
        b"K\x01K\x02K\x03s.",  # an item of a number
        b"]K\x01K\x02s.",
        b"}K\x01a.",
        b"]K\x01R.",
        b"h\x00.",  # not in the memo
        b"q\x00.",  # nothing to keep
        b"\xff.",  # no such instruction
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # declares 2**63 - 1 bytes
        b"B\xff\xff\xff\x7fabc.",
        b"T\xff\xff\xff\xff.",  # a negative length
        b"I1x\n.",
        b"L" + b"9" * 5000 + b"\n.",
        b"F1.2.3\n.",
        b"X\x01\x00\x00\x00\xff.",  # not UTF-8
        b"cos",  # a name without an end
        b"c\xff\nb\n.",
        b"K\x01K\x02\x93.",  # a name of numbers
    ],
)
def test_a_damaged_pickle_is_an_error_that_names_the_file(data):
    with pytest.raises(ValueError, match="^FILE, byte [0-9]+: "):
        read(data)


@pytest.mark.parametrize(
    "key",
    [
        b"]",
        b"}",
        b")\x85\x85",  # tuples in a tuple: hashing recurses
        b"(" + b"K\x01" * 17 + b"t",
        b"\x8a\x09" + b"\xff" * 8 + b"\x00",  # 2**64 - 1
        b"X\xe9\x03\x00\x00" + b"a" * 1001,
    ],
)
@pytest.mark.parametrize("form", [b"}%bK\x01s.", b"\x8f(%b\x90.", b"(%b\x91."])
def test_keys_that_are_costly_to_hash_are_refused(form, key):
    with pytest.raises(ValueError, match="^FILE, .* as a key"):
        read(form % key)


def test_the_keys_of_a_dictionary_made_by_name_are_checked():
    with pytest.raises(ValueError, match="^FILE, .* as a key"):
        read(b"ccollections\nOrderedDict\n(](](]K\x01eetR.")


def test_an_endless_pickle_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 10)
    with pytest.raises(ValueError, match="more than 10 instructions"):
        read(b"]0" * 10 + b"K\x01.")


def test_copying_one_string_again_and_again_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_FREE_COPIES", 0)
    text = b"X\xe8\x03\x00\x00" + b"a" * 1000 + b"q\x000"
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    table = pickled_values.ARRAYS
    assert read(text + encode + b".", table) == b"a" * 1000
    with pytest.raises(ValueError, match="copies far more than the file holds"):
        read(text + encode * 20 + b".", table)
