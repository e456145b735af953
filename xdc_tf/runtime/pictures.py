"""Pictures of tables, spectrograms and many small pictures, with captions.

All are [H, W, 3] uint8 arrays, drawn by Pillow, and the same input gives the same
pixels. Imports no TensorFlow.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np

from xdc_tf.runtime import escaping

# Natural logarithms of power in a spectrogram, 61 dB.
_SPECTROGRAM_RANGE = 14.0
# From nothing to the most, dark to bright in steps that the eye takes for equal.
_COLOURS = (
    *((0, 0, 4), (59, 15, 112), (140, 41, 129)),
    *((222, 73, 104), (254, 159, 109), (252, 253, 191)),
)
_BACKGROUND, _INK = (255, 255, 255), (32, 32, 32)
_MARGIN = 8
_LINE = 14  # of a caption
# A table's cells have these sides in pixels; of a larger one a part is shown.
_LARGEST_CELL, _SMALLEST_CELL, _TABLE_SIDE = 24, 2, 640
MOST_IN_TABLE = _TABLE_SIDE // _SMALLEST_CELL
_MOST_NAMED = 40  # rows and columns whose names have room


def _make_palette() -> np.ndarray:
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [
        np.interp(np.linspace(0, 1, 256), places, channel)
        for channel in zip(*_COLOURS, strict=True)
    ]
    return np.round(np.stack(channels, 1)).astype(np.uint8)


PALETTE = _make_palette()  # [256, 3] uint8


def spectrogram_levels(rows: np.ndarray) -> np.ndarray:
    """[D, L] uint8 of a log-mel [L, D] of finite values, low frequencies last.

    Args:
      rows: at least one, of natural logarithms of power.
    """
    top = float(rows.max())
    levels = (rows.T[::-1] - top + _SPECTROGRAM_RANGE) / _SPECTROGRAM_RANGE
    return np.round(np.clip(levels, 0, 1) * 255).astype(np.uint8)


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture of another size, each pixel a mean of those under it."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """[side, side, 3], the central square of a picture."""
    height, width = picture.shape[:2]
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    return resized(picture[top : top + cut, left : left + cut], side, side)


def png(picture: np.ndarray) -> bytes:
    """A picture as a PNG file; the same bytes for the same pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG")
    return out.getvalue()


def sheet(
    lines: Sequence[tuple[str, Sequence[np.ndarray]]], *, title: str, columns: int
) -> np.ndarray:
    """A contact sheet: a line of small pictures below each caption.

    Args:
      lines: caption and pictures, all of one size; the first of a line are shown.
      title: above all.
      columns: pictures of a line, where it has as many.
    """
    from PIL import Image

    shapes = [tile.shape[:2] for _, tiles in lines for tile in tiles]
    height, width = shapes[0] if shapes else (_LINE, _LINE)
    gap = 2
    full_width = max(2 * _MARGIN + columns * (width + gap), _text_width(title))
    line_height = _LINE + height + _MARGIN
    image = Image.new(
        "RGB", (full_width, _LINE + 2 * _MARGIN + line_height * len(lines)), _BACKGROUND
    )
    _write(image, (_MARGIN, _MARGIN), title)
    for number, (caption, tiles) in enumerate(lines):
        top = _LINE + 2 * _MARGIN + number * line_height
        _write(image, (_MARGIN, top), caption)
        for column, tile in enumerate(tiles[:columns]):
            place = (_MARGIN + column * (width + gap), top + _LINE)
            image.paste(Image.fromarray(np.ascontiguousarray(tile)), place)
    return np.asarray(image)


def sprite(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size in a square of lines of equally many, left to right.

    Args:
      tiles: at least one, each [h, w, 3] uint8.
    """
    side = int(np.ceil(np.sqrt(len(tiles))))
    height, width = tiles[0].shape[:2]
    lines = -(-len(tiles) // side)
    picture = np.full([lines * height, side * width, 3], 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // side * height, number % side * width
        picture[top : top + height, left : left + width] = tile
    return picture


def table(
    counts: np.ndarray,
    *,
    title: str,
    rows: str,
    columns: str,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> np.ndarray:
    """A picture of counts: the brighter a cell, the larger the logarithm of its count.

    Args:
      counts: [R, C] integers, not negative; at most MOST_IN_TABLE of each are shown,
        the first.
      title: above the picture.
      rows: what the rows are, and from where to where.
      columns: the same of the columns.
      row_names: of the rows, shown where there is room for them; or none.
      column_names: the same of the columns.
    """
    from PIL import Image

    counts = np.asarray(counts)[:MOST_IN_TABLE, :MOST_IN_TABLE]
    most = int(counts.max(initial=0))
    levels = np.log1p(counts) / np.log1p(max(most, 1))
    cells = PALETTE[np.round(levels * 255).astype(np.uint8)]
    cell = int(np.clip(_TABLE_SIDE // max(*counts.shape, 1), 1, _LARGEST_CELL))
    cells = np.repeat(np.repeat(cells, cell, axis=0), cell, axis=1)
    row_names = _shown_names(row_names, cell, counts.shape[0])
    column_names = _shown_names(column_names, cell, counts.shape[1])
    left = _MARGIN + max(map(_text_width, row_names), default=0)
    below = max(map(_text_width, column_names), default=0)
    legend = f"black: 0, brightest: {most}; colours by the logarithm"
    texts = [title, f"rows: {rows}", f"columns: {columns}", legend]
    top = 2 * _MARGIN + _LINE * len(texts)
    width = max(left + cells.shape[1] + _MARGIN, *map(_text_width, texts))
    size = (width, top + cells.shape[0] + _MARGIN + below)
    image = Image.new("RGB", size, _BACKGROUND)
    for number, text in enumerate(texts):
        _write(image, (_MARGIN, _MARGIN + number * _LINE), text)
    image.paste(Image.fromarray(cells), (left, top))
    for number, name in enumerate(row_names):
        middle = top + number * cell + cell // 2
        _write(image, (_MARGIN, middle - _LINE // 2), name)
    for number, name in enumerate(column_names):
        middle = left + number * cell + cell // 2
        place = (middle - _LINE // 2, top + cells.shape[0] + 2)
        _write(image, place, name, upright=True)
    return np.asarray(image)


def _shown_names(names: Sequence[str], cell: int, number: int) -> list[str]:
    has_room = number <= _MOST_NAMED and cell >= _LINE
    if not has_room:
        return []
    return [escaping.terminal(name, max_chars=24) for name in names[:number]]


def _text_width(text: str) -> int:
    """Pixels that a caption takes, with its margins."""
    return 2 * _MARGIN + round(_font().getlength(text))


@functools.cache
def _font():
    from PIL import ImageFont

    return ImageFont.load_default(11)


def _write(image, place: tuple[int, int], text: str, *, upright: bool = False) -> None:
    """Writes a caption, whose upper left corner is at the place."""
    from PIL import Image, ImageDraw

    if not upright:
        ImageDraw.Draw(image).text(place, text, fill=_INK, font=_font())
        return
    strip = Image.new("RGB", (_text_width(text), _LINE), _BACKGROUND)
    _write(strip, (0, 0), text)
    image.paste(strip.rotate(-90, expand=True), place)
