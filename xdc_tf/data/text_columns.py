"""A column of texts in two arrays, and not an object for each."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_BLOCK_ROWS = 1 << 16


class TextColumn:
    """Texts that are indexed as a NumPy array is: by a number, a slice or an array.

    It takes the texts' bytes in UTF-8 and 8 for each text, however long the longest is.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        """Of the texts' bytes [B] uint8, and where each ends in them, [N] int64."""
        self._data, self._ends = data, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextColumn":
        """The column of some texts, which are taken one by one."""
        data, ends = bytearray(), np.zeros(1024, np.int64)
        number = 0
        for text in texts:
            if number == len(ends):
                ends = np.concatenate([ends, np.zeros(len(ends), np.int64)])
            data += text.encode()
            ends[number] = len(data)
            number += 1
        return cls(np.frombuffer(data, np.uint8), ends[:number].copy())

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        data, first = self._data.data, 0
        for start in range(0, len(self), _BLOCK_ROWS):
            for end in self._ends[start : start + _BLOCK_ROWS].tolist():
                yield str(data[first:end], "utf-8")
                first = end

    @overload
    def __getitem__(self, index: int | np.integer) -> str: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> "TextColumn": ...

    def __getitem__(self, index):
        """A text, or those of a slice, of numbers or of a mask."""
        if isinstance(index, int | np.integer):
            number = range(len(self))[index]
            first = int(self._ends[number - 1]) if number else 0
            return self._data[first : self._ends[number]].tobytes().decode()
        numbers = np.arange(len(self))[index]
        parts = [
            self._gather(numbers[start : start + _BLOCK_ROWS])
            for start in range(0, len(numbers), _BLOCK_ROWS)
        ]
        return concatenate([TextColumn(*part) for part in parts])

    def _gather(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bytes and ends of some texts, which are copied at once."""
        firsts = np.where(numbers > 0, self._ends[numbers - 1], 0)
        sizes = self._ends[numbers] - firsts
        ends = np.cumsum(sizes)
        places = np.arange(ends[-1]) + np.repeat(firsts - (ends - sizes), sizes)
        return self._data[places], ends

    def tolist(self) -> list[str]:
        """All texts, each an object."""
        return list(self)


def concatenate(columns: Sequence[TextColumn]) -> TextColumn:
    """The texts of several columns, one after the other."""
    sizes = [len(column._data) for column in columns]
    firsts = np.cumsum([0, *sizes])
    ends = [
        column._ends + first
        for column, first in zip(columns, firsts.tolist(), strict=False)
    ]
    return TextColumn(
        np.concatenate([np.zeros(0, np.uint8), *(column._data for column in columns)]),
        np.concatenate([np.zeros(0, np.int64), *ends]),
    )


def is_in(column: TextColumn, others: TextColumn) -> np.ndarray:
    """[N] bool, whether each text of a column is in another one too.

    By 64-bit hashes, in 8 bytes for each text: of a million texts and a million others
    one is taken for another once in 18 million times.
    """
    return np.isin(_hashes(column), _hashes(others))


def _hashes(column: TextColumn) -> np.ndarray:
    return np.fromiter(map(hash, column), np.int64, len(column))


def repeated(column: TextColumn) -> int | None:
    """The number of the first text that is there before, or None.

    It takes 24 bytes for each text.
    """
    hashes = _hashes(column)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    first = None
    seen: dict[str, int] = {}
    # Of equal hashes, which texts that differ have once in a billion years.
    for place in sorted({*order[same].tolist(), *order[same - 1].tolist()}):
        if seen.setdefault(column[place], place) != place:
            first = place
            break
    return first
