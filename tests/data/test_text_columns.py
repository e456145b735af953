"""Columns of texts next to NumPy's own."""

import numpy as np
import pytest

from xdc_tf.data import text_columns
from xdc_tf.data.text_columns import TextColumn

TEXTS = ["a.mp4", "", "päth/ü.mkv", "a.mp4#t=1,2", "漢字", "z" * 300]


def column(texts=TEXTS):
    return TextColumn.of(iter(texts))


def test_it_holds_the_texts_in_order():
    assert len(column()) == 6
    assert list(column()) == column().tolist() == TEXTS
    many = [f"{number}.mp4" for number in range(200_000)]  # more than a block
    assert column(many).tolist() == many
    assert len(column([])) == 0 and column([]).tolist() == []


@pytest.mark.parametrize(
    "index",
    [
        np.array([5, 0, 0, -1]),
        np.array([], np.int64),
        np.array([True, False, False, True, True, False]),
        np.zeros(6, bool),
        slice(1, None, 2),
        slice(4, 2),
    ],
)
def test_it_is_indexed_as_an_array_is(index):
    assert column()[index].tolist() == np.array(TEXTS)[index].tolist()
    assert column()[index][:1].tolist() == np.array(TEXTS)[index].tolist()[:1]


def test_a_number_gives_a_text_of_python():
    assert [column()[number] for number in (0, np.int64(2), -1)] == [
        TEXTS[0],
        TEXTS[2],
        TEXTS[-1],
    ]
    with pytest.raises(IndexError):
        column()[6]


def test_many_are_taken_at_once():
    texts = [f"{number}.mp4" for number in range(150_000)]
    numbers = np.random.default_rng(0).permutation(len(texts))
    assert column(texts)[numbers].tolist() == [texts[number] for number in numbers]


def test_columns_follow_each_other():
    found = text_columns.concatenate([column(), column([]), column(["b"])])
    assert found.tolist() == [*TEXTS, "b"]
    assert found[np.array([6, 1])].tolist() == ["b", ""]
    assert len(text_columns.concatenate([])) == 0


def test_the_first_text_that_is_there_before_is_found():
    assert text_columns.repeated(column()) is None
    assert text_columns.repeated(column(["a", "b", "c", "b", "a"])) == 3
    assert text_columns.repeated(column([])) is None


def test_texts_are_found_in_another_column():
    found = text_columns.is_in(column(["a", "z", "", "b"]), column(["b", "a", "c"]))
    assert found.tolist() == [True, False, False, True]
    assert not text_columns.is_in(column(["a"]), column([])).any()
