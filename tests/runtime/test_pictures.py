"""What is where in pictures of tables, sheets and spectrograms."""

import io

import numpy as np
import pytest
from PIL import Image

from xdc_tf.runtime import pictures

pytestmark = pytest.mark.once

RED = np.full([4, 4, 3], [255, 0, 0], np.uint8)
BLUE = np.full([4, 4, 3], [0, 0, 255], np.uint8)


def places(picture, colour):
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((picture == colour).all(axis=2))


def test_a_table_is_brightest_where_most_are_and_black_where_none_is():
    picture = pictures.table(
        np.array([[0, 7], [1, 0]]), title="t", rows="r", columns="c"
    )
    darkest, brightest = (pictures.PALETTE[level].tolist() for level in (0, 255))
    assert len(places(picture, darkest)) == len(places(picture, brightest)) * 2
    top, left = places(picture, brightest).min(axis=0)
    assert [top, left] > places(picture, darkest).min(axis=0).tolist()
    # log(1 + 1) by log(1 + 7) is a third of the way.
    assert len(places(picture, pictures.PALETTE[85].tolist())) > 0


def test_a_large_table_is_cut_to_what_has_room():
    counts = np.ones([pictures.MOST_IN_TABLE + 5, 3], np.int64)
    picture = pictures.table(counts, title="t", rows="r", columns="c")
    bright = places(picture, pictures.PALETTE[255].tolist())
    height = bright[:, 0].max() - bright[:, 0].min() + 1
    assert height % pictures.MOST_IN_TABLE == 0


def test_names_of_rows_and_columns_make_a_table_larger():
    counts = np.eye(3, dtype=np.int64)
    plain = pictures.table(counts, title="t", rows="r", columns="c")
    names = ["a long name", "b", "c\x1b[31m"]
    named = pictures.table(
        counts,
        title="t",
        rows="r",
        columns="c",
        row_names=names,
        column_names=names,
    )
    assert named.shape[0] > plain.shape[0]


def test_a_sheet_has_a_line_of_pictures_below_each_caption():
    lines = [("first", [RED, BLUE, RED]), ("second", [BLUE])]
    picture = pictures.sheet(lines, title="title", columns=2)
    assert len(places(picture, RED[0, 0])) == 16
    assert len(places(picture, BLUE[0, 0])) == 32
    assert places(picture, BLUE[0, 0])[-1, 0] > places(picture, RED[0, 0])[-1, 0]


def test_a_sheet_without_pictures_has_its_captions():
    picture = pictures.sheet([("none", [])], title="title", columns=2)
    assert picture.min() < 128


def test_a_sprite_has_its_pictures_line_by_line():
    picture = pictures.sprite([RED, BLUE, RED])
    assert picture.shape == (8, 8, 3)
    np.testing.assert_array_equal(picture[:4, 4:], BLUE)
    np.testing.assert_array_equal(picture[4:, :4], RED)
    assert (picture[4:, 4:] == 255).all()


def test_the_square_of_a_picture_is_its_middle():
    wide = np.concatenate([RED, BLUE, RED], axis=1)
    np.testing.assert_array_equal(pictures.square(wide, 4), BLUE)


def test_a_spectrogram_has_low_frequencies_below():
    rows = np.array([[0.0, -7.0, -20.0]])
    np.testing.assert_array_equal(
        pictures.spectrogram_levels(rows), [[0], [128], [255]]
    )


def test_a_png_file_has_the_pixels():
    read = np.asarray(Image.open(io.BytesIO(pictures.png(BLUE))))
    np.testing.assert_array_equal(read, BLUE)
