"""Which pixels of a clip: windows of JPEG images, or of frames that are decoded.

Both give the same crop, of bytes. Pure functions on tensors.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from xdc_tf.data.clips import ClipSettings

# JPEG decoders give frames at 1, 1/2, 1/4 or 1/8 of their size.
_MAX_HALVINGS = 3


class Window(NamedTuple):
    """What of a clip's frames is cut out; see crop_window.

    Attributes:
      top, left: float32 scalars in [0, 1].
      fraction: float32 scalar in (0, 1].
      mirrored: bool scalar, whether left and right change places; None: they do not.
    """

    top: tf.Tensor
    left: tf.Tensor
    fraction: tf.Tensor
    mirrored: tf.Tensor | None = None


def crop_window(
    frame_shape: tf.Tensor, *, top: tf.Tensor, left: tf.Tensor, fraction: tf.Tensor
) -> tf.Tensor:
    """A square window of a frame.

    Args:
      frame_shape: [2] int32, height and width in pixels.
      top: float32 scalar in [0, 1]; 0 is the upper edge of the frame, 1 the lower.
      left: float32 scalar in [0, 1]; 0 is the left edge of the frame, 1 the right.
      fraction: float32 scalar in (0, 1], the window's side by the frame's short side.

    Returns:
      [4] int32: y, x, height and width in pixels.
    """
    side = tf.cast(tf.reduce_min(frame_shape), tf.float32) * fraction
    side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
    room = tf.cast(frame_shape - side, tf.float32)
    corner = tf.cast(tf.round(room * tf.stack([top, left])), tf.int32)
    return tf.concat([corner, [side, side]], axis=0)


def place_along(
    frame_shape: tf.Tensor, position: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A place along a frame's longer side, in the middle of the other.

    Args:
      frame_shape: [2] int32, height and width in pixels.
      position: float32 scalar from 0, the left or upper end, to 1.

    Returns:
      top and left as crop_window takes them, float32 scalars.
    """
    is_wide = frame_shape[1] >= frame_shape[0]
    return tf.where(is_wide, 0.5, position), tf.where(is_wide, position, 0.5)


def reduction(
    frame_shape: tf.Tensor, *, fraction: tf.Tensor, crop_size: int
) -> tf.Tensor:
    """How often a frame is halved before a window is cut and scaled.

    Args:
      frame_shape: [2] int32, height and width in pixels.
      fraction: see crop_window.
      crop_size: side that the window is scaled to.

    Returns:
      Int32 scalar from 0 to 3: as often as the window stays at least as large as
      crop_size.
    """
    short_sides = _halved(tf.reduce_min(frame_shape), tf.range(1, _MAX_HALVINGS + 1))
    sides = tf.round(tf.cast(short_sides, tf.float32) * fraction)
    return tf.reduce_sum(tf.cast(sides >= crop_size, tf.int32))


def _halved(length: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
    """Lengths of a frame halved so often: what is left over makes a last pixel."""
    return -tf.bitwise.right_shift(-length, times)


def scale(frames: tf.Tensor, size: int) -> tf.Tensor:
    """[N, H, W, 3] uint8 to [N, size, size, 3] uint8, antialiased and rounded."""
    has_size = tf.reduce_all(tf.shape(frames)[1:3] == size)
    scaled = tf.cond(
        has_size,
        lambda: frames,
        lambda: to_bytes(tf.image.resize(frames, [size, size], antialias=True)),
    )
    return tf.reshape(scaled, [-1, size, size, 3])


def to_bytes(frames: tf.Tensor) -> tf.Tensor:
    """Float frames in [0, 255], rounded to uint8."""
    return tf.cast(tf.round(frames), tf.uint8)


def decode_crop(
    jpegs: Sequence[tf.Tensor],
    *,
    top: tf.Tensor,
    left: tf.Tensor,
    fraction: tf.Tensor,
    settings: ClipSettings,
    mirrored: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes one window of each frame and scales it to the crop size.

    Only the window is decoded: the pixels are those of the whole frame, but for the
    colour of the outermost ones, which JPEG's coarser colour planes blend with what
    lies outside. Scaling a window gives what cropping a scaled frame would, but for the
    pixels at its border.

    A window of twice, four or eight times the crop size or more is decoded at a half, a
    quarter or an eighth of its size, from the low frequencies of JPEG's 8 x 8 blocks.
    That is the mean over 2 x 2, 4 x 4 or 8 x 8 pixels up to about one level of 255.

    Args:
      jpegs: T scalar strings, the clip's frames.
      top, left, fraction: see crop_window.
      settings: the clip's shape.
      mirrored: bool scalar, whether left and right change places; None: they do not.

    Returns:
      [T, crop_size, crop_size, 3] uint8.
    """
    size = settings.crop_size
    shape = tf.io.extract_jpeg_shape(jpegs[0])[:2]
    halvings = reduction(shape, fraction=fraction, crop_size=size)
    window = crop_window(
        _halved(shape, halvings), top=top, left=left, fraction=fraction
    )

    def decode(ratio, mirror):
        # Unrolled: a loop would copy every frame once more. Mirrored one by one, while
        # they are in a processor's cache.
        frames = [
            tf.image.decode_and_crop_jpeg(jpeg, window, channels=3, ratio=ratio)
            for jpeg in jpegs
        ]
        return tf.stack(
            [tf.reverse(frame, [1]) if mirror else frame for frame in frames]
        )

    ways = [False] if mirrored is None else [False, True]
    if mirrored is not None:
        halvings += (_MAX_HALVINGS + 1) * tf.cast(mirrored, tf.int32)
    frames = tf.switch_case(
        halvings,
        [
            functools.partial(decode, 2**times, mirror)
            for mirror in ways
            for times in range(_MAX_HALVINGS + 1)
        ],
    )
    return tf.ensure_shape(scale(frames, size), [settings.num_frames, size, size, 3])


def crop_pixels(
    frames: tf.Tensor,
    *,
    top: tf.Tensor,
    left: tf.Tensor,
    fraction: tf.Tensor,
    crop_size: int,
) -> tf.Tensor:
    """What decode_crop does, for frames that are decoded.

    Args:
      frames: [N, H, W, 3] uint8.
      top, left, fraction: see crop_window.
      crop_size: side of the result.

    Returns:
      [N, crop_size, crop_size, 3] uint8.
    """
    shape = tf.shape(frames)[1:3]
    place = pixel_place(
        shape, top=top, left=left, fraction=fraction, crop_size=crop_size
    )
    y, x, side, _ = tf.unstack(place)
    # A block at the edge that is not whole repeats its outermost pixels, as in JPEG.
    rows = tf.minimum(tf.range(y, y + side), shape[0] - 1)
    columns = tf.minimum(tf.range(x, x + side), shape[1] - 1)
    window = tf.gather(tf.gather(frames, rows, axis=1), columns, axis=2)
    return reduce_pixels(window, place, crop_size)


def pixel_place(
    frame_shape: tf.Tensor,
    *,
    top: tf.Tensor,
    left: tf.Tensor,
    fraction: tf.Tensor,
    crop_size: int,
) -> tf.Tensor:
    """Which pixels of a frame make a crop.

    Args:
      frame_shape: [2] int32, height and width in pixels.
      top, left, fraction: see crop_window.
      crop_size: side that the window is scaled to.

    Returns:
      [4] int32: y, x and side in pixels of a square, and the block whose means
      reduce_pixels takes, 1, 2, 4 or 8. The last block may reach past the frame, whose
      outermost pixels are then repeated.
    """
    halvings = reduction(frame_shape, fraction=fraction, crop_size=crop_size)
    y, x, side, _ = tf.unstack(
        crop_window(
            _halved(frame_shape, halvings), top=top, left=left, fraction=fraction
        )
    )
    block = tf.bitwise.left_shift(1, halvings)
    return tf.stack([y * block, x * block, side * block, block])


def reduce_pixels(window: tf.Tensor, place: tf.Tensor, crop_size: int) -> tf.Tensor:
    """Scales the pixels of pixel_place to a crop.

    Args:
      window: [N, side, side, 3] uint8.
      place: of pixel_place.
      crop_size: side of the result.

    Returns:
      [N, crop_size, crop_size, 3] uint8.
    """
    block = place[3]

    def take_means():
        side = place[2] // block
        blocks = tf.reshape(window, [-1, side, block, side, block, 3])
        return to_bytes(tf.reduce_mean(tf.cast(blocks, tf.float32), axis=[2, 4]))

    return scale(tf.cond(block > 1, take_means, lambda: window), crop_size)
