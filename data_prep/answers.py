"""What worker processes answer, as bytes of a declared form.

A worker decodes strangers' files, and one that such a file took over can answer
anything. So an answer is no pickle, which would run in the process that reads it, but
three parts one after the other:

    _PREFIX     _MAGIC, bytes of the header, bytes of the data
    header      JSON: the item's number, reason and detail, and a result's values
    data        a result's arrays and images, whose sizes the values give

Whoever reads it checks all of that, and never waits for the rest of an answer.
"""

import json
import math
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.reasons import REASONS

_MAGIC = b"xdca"
_PREFIX = struct.Struct("<4sIQ")
_MOST_HEADER_BYTES = 1 << 16
# Longer ones are cut where they are sent. A letter may take 12 bytes of JSON.
_MOST_LETTERS = 2000
_KEYS = {"item", "reason", "detail", "values"}

Buffer = bytes | memoryview | np.ndarray
Value = int | float | str | None


class Outcome(NamedTuple):
    """What became of an item: a result, or the reason and detail of its failure."""

    result: Any = None
    reason: str = ""
    detail: str = ""


class Packed(NamedTuple):
    """A result as named numbers and texts, and bytes."""

    values: Mapping[str, Value]
    buffers: Sequence[Buffer] = ()


class Form(NamedTuple):
    """How the results of some function are sent.

    Attributes:
      pack: from a result to what is sent; importable by name, or a partial of such.
      unpack: from values and data that were received to a result. It runs where the
        answer is read and trusts nothing.

        Raises:
          ValueError: they are not of the form.
    """

    pack: Callable[[Any], Packed]
    unpack: Callable[[Mapping[str, Value], memoryview], Any]


def encode(item: int, outcome: Outcome, form: Form) -> bytes:
    """The answer to an item."""
    packed = Packed({})
    if not outcome.reason:
        packed = form.pack(outcome.result)
    views = (memoryview(buffer) for buffer in packed.buffers)
    data = [view.cast("B") for view in views if view.nbytes]
    header = json.dumps(
        {
            "item": item,
            "reason": outcome.reason,
            "detail": outcome.detail[:_MOST_LETTERS],
            "values": packed.values,
        }
    ).encode()
    prefix = _PREFIX.pack(_MAGIC, len(header), sum(map(len, data)))
    return b"".join((prefix, header, *data))


class Receiver:
    """Puts one answer after the other together from what has arrived.

    Args:
      form: of the results.
      limit_bytes: of an answer's data.
    """

    def __init__(self, form: Form, limit_bytes: int):
        self._form = form
        self._limit_bytes = limit_bytes
        self._begin()

    def _begin(self) -> None:
        self._buffer = memoryview(bytearray(_PREFIX.size))
        self._num_filled = 0
        self._header_bytes = 0

    def receive(self, source: socket.socket) -> tuple[int, Outcome] | None:
        """Takes what has arrived, at least a byte.

        Returns:
          An item's number and outcome; None if more of it is to come.

        Raises:
          EOFError: if nothing more will come.
          OSError: if the other end is gone.
          ValueError: if it is not of the declared form.
        """
        num_bytes = source.recv_into(self._buffer[self._num_filled :])
        if not num_bytes:
            raise EOFError
        self._num_filled += num_bytes
        if self._num_filled < len(self._buffer):
            return None
        if not self._header_bytes:
            magic, self._header_bytes, data_bytes = _PREFIX.unpack(self._buffer)
            if magic != _MAGIC or not 0 < self._header_bytes <= _MOST_HEADER_BYTES:
                raise ValueError("no answer begins so")
            if data_bytes > self._limit_bytes:
                raise ValueError(f"{data_bytes} bytes, more than {self._limit_bytes}")
            # Takes memory as it is filled, whatever it declares.
            whole = np.empty(self._header_bytes + data_bytes, np.uint8)
            self._buffer, self._num_filled = memoryview(whole), 0
            return None
        answer, header_bytes = self._buffer.toreadonly(), self._header_bytes
        self._begin()
        return _decode(answer[:header_bytes], answer[header_bytes:], self._form)


def _decode(header: memoryview, data: memoryview, form: Form) -> tuple[int, Outcome]:
    try:
        content = json.loads(bytes(header).decode())
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(content, dict) or set(content) != _KEYS:
        raise ValueError(f"keys other than {sorted(_KEYS)}")
    item = whole_number(content, "item")
    reason, detail = text(content, "reason"), text(content, "detail")
    values = content["values"]
    if not isinstance(values, dict):
        raise ValueError("values that are no object")
    if not reason:
        return item, Outcome(form.unpack(values, data))
    if reason not in REASONS or values or len(data):
        raise ValueError("a reason that is not listed, or with a result")
    return item, Outcome(reason=reason, detail=detail)


def check_keys(values: Mapping[str, Value], *names: str) -> None:
    """Raises ValueError unless these are the values' names."""
    if set(values) != set(names):
        raise ValueError(f"values other than {names}")


def whole_number(values: Mapping[str, Value], name: str) -> int:
    """A value that is a whole number from 0 to 2^62."""
    value = values[name]
    if type(value) is not int or not 0 <= value <= 1 << 62:
        raise ValueError(f"{name} is no whole number")
    return value


def finite_number(values: Mapping[str, Value], name: str) -> float:
    """A value that is a finite number of 0 or more."""
    value = values[name]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is no finite number of 0 or more")
    return float(value)


def text(values: Mapping[str, Value], name: str) -> str:
    """A value that is a text of a line, which UTF-8 can hold."""
    value = values[name]
    if not isinstance(value, str) or len(value) > _MOST_LETTERS:
        raise ValueError(f"{name} is no text, or a long one")
    return value.encode(errors="replace").decode()
