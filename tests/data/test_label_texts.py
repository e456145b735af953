import pytest

from xdc_tf.data import label_texts
from xdc_tf.data.label_texts import LabelNumbers


def test_a_text_of_several_labels_is_split_as_it_was_joined():
    names = ("rain", "dog, barking")
    assert label_texts.split(label_texts.join(names), several=True) == names


def test_a_name_that_holds_what_stands_between_names_cannot_be_joined():
    with pytest.raises(ValueError, match=r"'a\|b' holds '\|'.*rename it"):
        label_texts.join(("a|b", "c"))


def test_numbers_are_in_the_order_of_the_text():
    numbers = LabelNumbers({"dog": 0, "rain": 1}, several=True)
    assert numbers.numbers("rain|dog") == [1, 0]
    assert numbers.numbers("") == []


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="'cat' is none of label_names"):
        LabelNumbers({"dog": 0}, several=True).numbers("dog|cat")
