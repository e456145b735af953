"""CRC-32C, the checksum of TFRecords, in NumPy: TensorFlow has none for Python.

A CRC is linear in the state it starts from and in the data. So the rows of a large
block go through the table side by side, each from state 0, and are then chained: a row
moves the state before it on by as many zero bytes as it has, and adds its own.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
_ALL_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
# 5 MB in rows of 1 kB go at some 350 MB/s; shorter rows cost more in chaining.
_ROW_BYTES = 1024


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecords store it: rotated, so that it may be data itself."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ALL_ONES


def crc32c(data: bytes) -> int:
    """The CRC-32C of the bytes, as an unsigned number of 32 bits."""
    state = _ALL_ONES
    num_rows = len(data) // _ROW_BYTES
    if num_rows:
        moved = _moved_by_a_row()
        for row_state in _states_of_rows(data, num_rows).tolist():
            state = row_state ^ (
                moved[0][state & 255]
                ^ moved[1][state >> 8 & 255]
                ^ moved[2][state >> 16 & 255]
                ^ moved[3][state >> 24]
            )
    table = _byte_table()
    for byte in memoryview(data)[num_rows * _ROW_BYTES :]:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state ^ _ALL_ONES


def _states_of_rows(data: bytes, num_rows: int) -> np.ndarray:
    """[rows] uint32: where each row of the data leads from state 0."""
    words = np.frombuffer(data, "<u2", num_rows * _ROW_BYTES // 2)
    # Contiguous by step, since each step takes one word of every row.
    words = np.ascontiguousarray(words.reshape(num_rows, -1).T)
    return _advance(np.zeros(num_rows, np.uint32), words)


def _advance(states: np.ndarray, words: np.ndarray) -> np.ndarray:
    """States [N] uint32 after words [steps, N or 1] uint16, two bytes a step."""
    table = _word_table()
    for step in words:
        states = table[(states ^ step) & 0xFFFF] ^ states >> 16
    return states


@functools.cache
def _byte_table() -> list[int]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1)
    return table.tolist()


@functools.cache
def _word_table() -> np.ndarray:
    """[65536] uint32: a state's lower half, moved on by two zero bytes."""
    states = np.arange(1 << 16, dtype=np.uint32)
    by_byte = np.array(_byte_table(), np.uint32)
    for _ in range(2):
        states = by_byte[states & 255] ^ states >> 8
    return states


@functools.cache
def _moved_by_a_row() -> list[list[int]]:
    """[4][256]: each byte of a state, moved on by a row of zeros."""
    zeros = np.zeros((_ROW_BYTES // 2, 1), np.uint16)
    values = np.arange(256, dtype=np.uint32)
    return [_advance(values << shift, zeros).tolist() for shift in (0, 8, 16, 24)]
