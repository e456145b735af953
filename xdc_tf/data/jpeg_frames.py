"""Frames as JPEG images, a payload of records.

The size that an image declares is read before anything decodes it: a decoder takes the
memory that the header asks for, 6 GB for a file of 700 bytes.

Encoding imports no TensorFlow, see data.payloads.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from xdc_tf.runtime import escaping
from xdc_tf.runtime.typed_settings import Whole

# Of an 8k film, which is 7680 x 4320.
MAX_PIXELS = 1 << 25

_NUM_CHANNELS = 3
_START = b"\xff\xd8"
# Baseline and extended sequential coding; progressive images take memory for all of
# their coefficients, and any time.
_FRAME_HEADERS = 0xC0, 0xC1
# Application data, comments, tables of quantisation and of Huffman codes, restarts.
_SEGMENTS = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD))


class JpegSettings(NamedTuple):
    """Quality as libjpeg counts it."""

    quality: Annotated[int, Whole(1, 95)] = 90


def encode(frames: Sequence[Sequence[np.ndarray]], settings: JpegSettings) -> bytes:
    """The image of one frame, of its planes; see payloads.VideoPayload."""
    import simplejpeg

    (planes,) = frames
    return simplejpeg.encode_jpeg_yuv_planes(
        *map(np.ascontiguousarray, planes), quality=settings.quality, fastdct=False
    )


def decode(jpeg: bytes) -> np.ndarray:
    """[1, H, W, 3] uint8.

    Raises:
      ValueError: if it is no JPEG image.
    """
    import tensorflow as tf

    try:
        return tf.io.decode_jpeg(jpeg, channels=_NUM_CHANNELS).numpy()[None]
    except tf.errors.OpError as error:
        raise ValueError(f"no JPEG image: {escaping.error_text(error)}") from error


def frame_shape(jpeg: Any) -> Any:
    """[2] int32, height and width, of a scalar string tensor."""
    import tensorflow as tf

    return tf.io.extract_jpeg_shape(jpeg)[:2]


def decode_clip(jpegs: Any, places: None, window: Any, clip: Any, origin: Any) -> Any:
    """See crops.decode_crop and payloads.VideoPayload."""

    from xdc_tf.data import crops

    del places, origin  # an image is a frame; TensorFlow's decoder names none
    return crops.decode_crop(jpegs, **window._asdict(), settings=clip)


def bytes_per_pixel(settings: JpegSettings) -> float:
    """What is usual: 0.2 at the quality of 90; see benchmarks/payloads.py."""
    quality = settings.quality
    # By how much libjpeg scales its tables of quantisation, in percent.
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    return 0.2 * math.sqrt(20 / scale)


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


def faults(
    jpegs: Sequence[bytes], height: int, width: int, num_frames: int
) -> Iterator[str]:
    """What is wrong with a record's images, each decoded as training decodes it.

    Args:
      jpegs: of the record; any bytes.
      height: pixels that each should have.
      width: the same.
      num_frames: that there should be; it is not looked at, one image is a frame.
    """
    import tensorflow as tf

    del num_frames
    expected = (height, width, _NUM_CHANNELS)
    size, decoded_size, sizes, decoded_sizes = _size_functions()
    # All at once takes 40 % of the time of one by one, but does not say which is wrong.
    try:
        images = np.asarray(jpegs, object)
        # Sizes first: a header can promise gigabytes of pixels.
        if np.all(sizes(images).numpy() == expected):
            decoded_sizes(images)
            return
    except tf.errors.OpError:
        pass  # named below, with the frame's number
    for number, jpeg in enumerate(jpegs):
        try:
            found = tuple(size(jpeg).numpy().tolist())
            if found != expected:
                yield (
                    f"frame {number} has height, width, channels {found}, the record "
                    f"says {expected}"
                )
            else:
                decoded_size(jpeg)
        except tf.errors.OpError as error:
            what = escaping.error_text(error)
            yield f"frame {number} of {len(jpeg)} bytes is no JPEG image: {what}"


@functools.cache
def _size_functions() -> tuple[Callable, ...]:
    """The size that an image declares, and of what it decodes to; and those of [T]."""
    import tensorflow as tf

    def decoded_size(jpeg):
        # The size is what keeps a graph from leaving out the decoding.
        return tf.shape(tf.io.decode_jpeg(jpeg, channels=_NUM_CHANNELS))

    def of_all(function):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def apply(jpegs):  # [T] string -> [T, 3] int32, ten at a time
            spec = tf.TensorSpec([3], tf.int32)
            return tf.map_fn(function, jpegs, fn_output_signature=spec)

        return apply

    functions = tf.io.extract_jpeg_shape, decoded_size
    return (*functions, *map(of_all, functions))
