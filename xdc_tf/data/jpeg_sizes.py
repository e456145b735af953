"""The size that a JPEG image declares, read before anything decodes it.

A decoder takes the memory that the header asks for: 6 GB for a file of 700 bytes.
"""

from collections.abc import Sequence

# Of an 8k film, which is 7680 x 4320.
MAX_PIXELS = 1 << 25

_START = b"\xff\xd8"
# Baseline and extended sequential coding; progressive images take memory for all of
# their coefficients, and any time.
_FRAME_HEADERS = 0xC0, 0xC1
# Application data, comments, tables of quantisation and of Huffman codes, restarts.
_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD))


def declared_size(jpeg: bytes) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
      ValueError: if it is no JPEG image of sequential coding.
    """
    height, width, _ = _find_size(jpeg)
    return height, width


def _find_size(jpeg: bytes) -> tuple[int, int, int]:
    """Height, width, and where the bytes end that say so."""
    if jpeg[:2] != _START:
        raise ValueError(f"{len(jpeg)} bytes are no JPEG image")
    place = 2
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        length = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker in _FRAME_HEADERS:
            height = int.from_bytes(jpeg[place + 5 : place + 7], "big")
            width = int.from_bytes(jpeg[place + 7 : place + 9], "big")
            return height, width, place + 9
        if marker not in _SEGMENTS or length < 2:
            break
        place += 2 + length
    raise ValueError(f"{len(jpeg)} bytes are no JPEG image of sequential coding")


def check_sizes(jpegs: Sequence[bytes], short_side: int | None) -> None:
    """Checks that images may be decoded together.

    Args:
      jpegs: of one recording.
      short_side: pixels that the shorter side must have; None if any will do.

    Raises:
      ValueError: names the number of the first image that is none, has another size
        than the first or another shorter side, or is too large.
    """
    header = first = None
    for number, jpeg in enumerate(jpegs):
        # All that one encoder makes begin alike.
        if header is not None and jpeg.startswith(header):
            continue
        try:
            height, width, end = _find_size(jpeg)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from error
        if first is None:
            header, first = jpeg[:end], (height, width)
        size = f"frame {number} has {width} x {height} pixels"
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"{size}, which must be 1 to {MAX_PIXELS}")
        if (height, width) != first:
            raise ValueError(f"{size}, and the first one {first[1]} x {first[0]}")
        if short_side is not None and min(height, width) != short_side:
            raise ValueError(
                f"{size}, and by dataset_info.json the shorter side has {short_side}"
            )
