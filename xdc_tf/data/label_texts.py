"""An example's labels as one text, which is how manifests and examples.csv hold them.

Records either have one label per example at most, any text, or several, of which none
may hold SEPARATOR (`dataset_info.DatasetInfo.several_labels`).
"""

from collections.abc import Mapping
from typing import NamedTuple

SEPARATOR = "|"
# AudioSet's segments have 15 at most; all examples have the place of the most labels.
MOST_LABELS = 64


class LabelNumbers(NamedTuple):
    """How a text becomes numbers.

    Attributes:
        number_of: by the label's name.
        several: whether a text may hold several labels.
    """

    number_of: Mapping[str, int]
    several: bool = False

    def numbers(self, text: str) -> list[int]:
        """The numbers of the labels of a text; none of an empty one.

        Raises:
            ValueError: see split; or a label is unknown, which is named.
        """
        names = split(text, several=self.several)
        unknown = [name for name in names if name not in self.number_of]
        if unknown:
            raise ValueError(f"label {unknown[0][:80]!r} is none of label_names")
        return [self.number_of[name] for name in names]


def split(text: str, *, several: bool) -> tuple[str, ...]:
    """The names of a text's labels, in its order.

    Args:
        text: a name, or with `several` names with SEPARATOR between them; empty for
            none.
        several: whether there may be several.

    Raises:
        ValueError: a name is empty or there twice, or there are more than MOST_LABELS.
    """
    if not text:
        return ()
    if not several:
        return (text,)
    names = tuple(name.strip() for name in text.split(SEPARATOR))
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"labels {text[:80]!r} have an empty name, or one twice; put a single "
            f"{SEPARATOR!r} between different names"
        )
    if len(names) > MOST_LABELS:
        raise ValueError(
            f"{len(names)} labels, and the limit is {MOST_LABELS}: {text[:80]!r}"
        )
    return names


def join(names: tuple[str, ...]) -> str:
    """The text of several labels.

    Raises:
        ValueError: a name holds SEPARATOR.
    """
    for name in names:
        if SEPARATOR in name:
            raise ValueError(
                f"the label {name!r} holds {SEPARATOR!r}, which stands between several "
                "labels; rename it."
            )
    return SEPARATOR.join(names)
