"""JSON files that anybody may have written, and checks of what they hold."""

import json
import os
from collections.abc import Callable
from typing import Any, NoReturn

from xdc_tf.runtime import files

MAX_BYTES = 1 << 28
MAX_DEPTH = 64


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no regular file, larger than MAX_BYTES, no JSON object, or
        nested deeper than MAX_DEPTH; names the file.
    """
    path = os.fspath(path)
    if "://" not in path and os.path.exists(path):
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ValueError(
                f"{path} has {size} bytes, and JSON files of this program have at most "
                f"{MAX_BYTES}; give another file."
            )
    text = files.read_text(path)
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON (it is nested too deeply).") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object, but {ascii(values)[:80]}.")
    if _is_deep(values):
        raise ValueError(f"{path} is nested more than {MAX_DEPTH} levels deep.")
    return values


def _is_deep(values: Any) -> bool:
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = (
            value.values() if isinstance(value, dict) else value
            for value in level
            if isinstance(value, dict | list)
        )
        level = [value for values in inner for value in values]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


# Checks for the tables of `check`.


def is_text(value: Any) -> bool:
    """Whether it is text that UTF-8 can hold, of at most 10,000 characters."""
    if not isinstance(value, str) or len(value) > 10_000:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def is_number(value: Any) -> bool:
    """Whether it is a number up to 1e100, whose square is finite too, and no bool."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= 1e100
    )


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0 to 2^53."""
    return type(value) is int and 0 <= value <= 1 << 53


def is_object(value: Any) -> bool:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The check, which null passes too."""
    return lambda value: value is None or check(value)


def list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether it is a list whose items pass the check."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def mapping_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether it is a JSON object of text keys whose values pass the check."""
    return lambda value: (
        isinstance(value, dict)
        and all(map(is_text, value))
        and all(map(check, value.values()))
    )


def check(
    values: Any, checks: dict[str, Callable[[Any], bool]], where: str
) -> dict[str, Any]:
    """Checks an object's values; keys beyond those of the table may be there.

    Args:
      values: of JSON.
      checks: a check for each key that must be there.
      where: the file, and the place in it, for errors.

    Returns:
      `values`.

    Raises:
      ValueError: names `where`, the key and the value.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no JSON object, but {ascii(values)[:80]}.")
    for key, passes in checks.items():
        if key not in values:
            raise ValueError(f"{where} lacks {key}.")
        if not passes(values[key]):
            raise ValueError(
                f"{where} has an unusable value under {key}, {ascii(values[key])[:80]}."
            )
    return values
