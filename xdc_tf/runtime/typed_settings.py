"""Settings as classes: each key once, with its type, default and range.

A settings class is a frozen dataclass or a NamedTuple whose fields are annotated with a
range, or are settings themselves:

    class Augmentation(NamedTuple):
      flip: Annotated[bool, FLAG] = True
      gain_db: Annotated[float, Number(0, 200)] = 0.0

`from_mapping` makes one of the values of a configuration or a JSON file, and `check`
names the key, the value and the range where one does not fit. A dataclass calls it when
it is made. An annotation may hold more behind its range, see `marks`.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

_Settings = TypeVar("_Settings")
_MOST = 2**31 - 1


class Whole(NamedTuple):
    """A whole number from `least` to `greatest`."""

    least: int = 0
    greatest: int = _MOST

    def fits(self, value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and self.least <= value <= self.greatest

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.greatest}"


class Number(NamedTuple):
    """A number from `least` to `greatest`; `above` and `below` leave the ends out."""

    least: float = 0.0
    greatest: float = 1e9
    above: bool = False
    below: bool = False

    def fits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.greatest if self.below else value <= self.greatest
        return low and high

    def __str__(self) -> str:
        low = "above" if self.above else "from"
        high = "below" if self.below else "to"
        return f"a number {low} {self.least:g} {high} {self.greatest:g}"


class Several(NamedTuple):
    """A list of numbers of one range; of any length for length None."""

    range: Whole | Number
    length: int | None = None

    def fits(self, value: Any) -> bool:
        if not isinstance(value, list | tuple):
            return False
        right_length = self.length in (None, len(value))
        return right_length and all(map(self.range.fits, value))

    def __str__(self) -> str:
        length = "" if self.length is None else f"{self.length} values, "
        return f"a list of {length}each {self.range}"


class NonEmpty(NamedTuple):
    """A tuple of one or more values of a range."""

    range: Any

    def fits(self, value: Any) -> bool:
        is_tuple = isinstance(value, tuple) and bool(value)
        return is_tuple and all(map(self.range.fits, value))

    def __str__(self) -> str:
        return f"one or more values, each {self.range}"


class OrNone(NamedTuple):
    """A range that None is in too."""

    range: Any

    def fits(self, value: Any) -> bool:
        return value is None or self.range.fits(value)

    def __str__(self) -> str:
        return f"None or {self.range}"


class Choice(NamedTuple):
    """One of some texts, such as the keys of a table, or of some whole numbers."""

    options: Collection[str] | Collection[int]

    def fits(self, value: Any) -> bool:
        return type(value) in (str, int) and value in self.options

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"


class Kind(NamedTuple):
    """Any value of a type."""

    kind: type

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def __str__(self) -> str:
        return {bool: "True or False", str: "a text"}[self.kind]


class Parsed(NamedTuple):
    """Settings that a function makes of a mapping, checked; or None."""

    parse: Callable[[Any], Any]


FLAG = Kind(bool)
TEXT = Kind(str)
FRACTION = Number(0, 1)
COUNT = Whole(1)
# Of layers, by the names of Keras.
PRECISION = Choice(("float32", "mixed_bfloat16", "mixed_float16"))


def fields(cls: type) -> dict[str, Any]:
    """Name of each field -> its range, its Parsed, or its own settings class."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: hint.__metadata__[0] if hasattr(hint, "__metadata__") else hint
        for name, hint in hints.items()
    }


def marks(cls: type) -> dict[str, tuple[Any, ...]]:
    """Name of each field -> what its annotation holds behind the range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: getattr(hint, "__metadata__", ())[1:] for name, hint in hints.items()}


def shown(key: str, value: Any) -> str:
    """A key and its value, as messages have them; long values are cut short."""
    # Without the quotes of lists, so that the middle of long ones can be cut.
    text = str(value) if isinstance(value, list | tuple) else repr(value)
    return f"{key}={text[:200]}"


def from_mapping(
    cls: type[_Settings],
    values: Any,
    *,
    key: str = "config",
    is_partial: bool = False,
    absent: Mapping[str, Any] | None = None,
) -> _Settings:
    """Settings of the values that a configuration has for them; see `check` for ranges.

    Args:
      cls: a settings class.
      values: nested mapping; lists stand for tuples.
      key: of `values`, for messages.
      is_partial: whether keys may be missing, and then have their defaults, and unknown
        ones are passed over, as of a file of another version.
      absent: name of a field -> its value if its key is missing.

    Raises:
      ValueError: on a missing or an unknown key, or a section that is no mapping; names
        the key.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{key}={repr(values)[:200]} must have keys of its own.")
    expected = fields(cls)
    unknown = [str(name) for name in values if name not in expected]
    if unknown and not is_partial:
        nearest = difflib.get_close_matches(unknown[0], expected, n=1)
        suggestion = f"; did you mean {nearest[0]}?" if nearest else "."
        raise ValueError(f"{key}.{unknown[0]} is no key of a configuration{suggestion}")
    arguments = dict(absent or {})
    for name, kind in expected.items():
        path = f"{key}.{name}"
        if name not in values:
            if not is_partial and name not in arguments:
                is_range = not isinstance(kind, type | Parsed)
                must_be = f"; it must be {kind}" if is_range else ""
                raise ValueError(f"{path} is missing{must_be}.")
        elif isinstance(kind, Parsed):
            arguments[name] = kind.parse(values[name])
        elif isinstance(kind, type):
            arguments[name] = from_mapping(
                kind, values[name], key=path, is_partial=is_partial
            )
        else:
            value = values[name]
            is_list = isinstance(kind, Several) and kind.fits(value)
            arguments[name] = tuple(value) if is_list else value
    return cls(**arguments)


def check(
    settings: Any, *, key: str = "config", key_of: Callable[[str], str] | None = None
) -> None:
    """Checks that every value is in its range.

    Args:
      settings: of a settings class.
      key: of the settings, for messages.
      key_of: key_of(name of a field) -> its key in messages; None for KEY.NAME.

    Raises:
      ValueError: names the key, the value and the range.
    """
    for name, kind in fields(type(settings)).items():
        value, path = getattr(settings, name), f"{key}.{name}"
        if isinstance(kind, Parsed):
            if value is not None:
                kind.parse(to_mapping(value))
        elif isinstance(kind, type):
            check(value, key=path)
        elif not kind.fits(value):
            path = key_of(name) if key_of else path
            raise ValueError(f"{shown(path, value)} must be {kind}.")


def to_mapping(settings: Any) -> dict[str, Any]:
    """Settings as nested dictionaries, by from_mapping's keys and in their order."""
    values = {}
    for name in fields(type(settings)):
        value = getattr(settings, name)
        is_section = dataclasses.is_dataclass(value) or hasattr(value, "_fields")
        values[name] = to_mapping(value) if is_section else value
    return values
