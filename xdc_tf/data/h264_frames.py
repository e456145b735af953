"""Frames as short H.264 segments, a payload of records.

An item is a segment: a key frame and the frames after it, which need no other item.

    b"H264", height, width, number of frames N: big-endian uint16; sizes [N] of the
    packets: big-endian uint32; the packets, an H.264 stream of ITU-T H.264 Annex B

Packet n is frame n: there are no frames that wait for later ones, so decoding stops at
the last frame that is asked for. Colours are BT.601 of full range, as in JPEG images.
Sides are padded to even numbers, which 4:2:0 asks for.

The decoder may take memory for the size in the header of the item alone, and is given
the packets that the header counts. It has one thread: whoever reads has several clips
decoded at a time, and PyAV lets go of Python's lock while FFmpeg works.

Encoding imports no TensorFlow, see data.payloads.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import numpy as np

from xdc_tf.data.jpeg_frames import MAX_PIXELS
from xdc_tf.runtime import escaping
from xdc_tf.runtime.typed_settings import Number, Whole

_MAGIC = b"H264"
_HEAD = struct.Struct(">4sHHH")
_SIZE = struct.Struct(">I")
_MAX_FRAMES = 512
# A decoder's pictures are whole blocks, and rows of a multiple of its vectors.
_MARGIN = 64
_START_CODE = b"\0\0\1"
_SUPPLEMENTAL = 6  # nal_unit_type of what a decoder need not know


class H264Settings(NamedTuple):
    """What a segment is.

    Attributes:
      gop: frames of a segment. More are smaller; a clip decodes from the segment's
        first frame on.
      crf: x264's constant rate factor: 0 is without loss, 6 more halve the size.
    """

    gop: Annotated[int, Whole(1, _MAX_FRAMES)] = 16
    crf: Annotated[float, Number(0, 51)] = 18.0


def frames_per_item(settings: H264Settings) -> int:
    """Frames of a segment; the last one of a recording may have fewer."""
    return settings.gop


def bytes_per_pixel(settings: H264Settings) -> float:
    """What is usual of 256 pixels: benchmarks/payloads.py; smaller frames take more."""
    return 0.036 * (1 + 4.3 / settings.gop) * 2 ** ((18 - settings.crf) / 5.7)


class _Segment(NamedTuple):
    """An item's parts: sides of the frames in pixels, and the packets' bytes."""

    height: int
    width: int
    packets: list[bytes]


def encode(frames: Sequence[Sequence[np.ndarray]], settings: H264Settings) -> bytes:
    """The item of some frames, of their planes; see payloads.VideoPayload."""
    import av

    height, width = frames[0][0].shape
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height = width + width % 2, height + height % 2
    context.pix_fmt = "yuvj420p"
    context.time_base = Fraction(1, 25)
    context.thread_count = 1  # several have other bytes
    context.options = {
        "crf": f"{settings.crf:g}",
        "preset": "medium",
        "tune": "fastdecode",
        # With macroblock trees, one of some hundred segments had other bytes when it
        # was encoded again; without, none of thousands.
        "x264-params": f"keyint={len(frames)}:min-keyint={len(frames)}:scenecut=0:"
        "bframes=0:no-mbtree=1:threads=1:lookahead-threads=1:colormatrix=smpte170m",
    }
    packets: list[bytes] = []
    for number, planes in enumerate(frames):
        frame = av.VideoFrame(context.width, context.height, "yuvj420p")
        for target, plane in zip(frame.planes, planes, strict=True):
            _write_plane(target, plane)
        frame.pts, frame.time_base = number, context.time_base
        packets += map(bytes, context.encode(frame))
    packets += map(bytes, context.encode(None))
    packets[0] = _without_supplement(packets[0])
    sizes = b"".join(_SIZE.pack(len(packet)) for packet in packets)
    head = _HEAD.pack(_MAGIC, height, width, len(packets))
    return b"".join([head, sizes, *packets])


def _write_plane(target: Any, plane: np.ndarray) -> None:
    """Copies a plane into a frame's, which is padded by what lies at the edge."""
    rows = np.zeros((target.height, target.line_size), np.uint8)
    below, right = target.height - plane.shape[0], target.width - plane.shape[1]
    rows[:, : target.width] = np.pad(plane, ((0, below), (0, right)), "edge")
    target.update(rows)


def _without_supplement(packet: bytes) -> bytes:
    """The packet without x264's note on itself, of 600 bytes."""
    # A unit ends in no zero: those before a start code are its own.
    units = packet.split(_START_CODE)[1:]
    kept = [unit.rstrip(b"\0") for unit in units if unit[0] & 31 != _SUPPLEMENTAL]
    return b"".join(b"\0" + _START_CODE + unit for unit in kept)


def _parse(item: bytes) -> _Segment:
    """The parts of an item.

    Raises:
      ValueError: if it is none.
    """
    if item[:4] != _MAGIC or len(item) < _HEAD.size:
        raise ValueError(f"{len(item)} bytes are no segment of H.264")
    _, height, width, number = _HEAD.unpack_from(item)
    begin = _HEAD.size + number * _SIZE.size
    sizes = np.zeros(0, np.int64)
    if 0 < number <= _MAX_FRAMES and begin <= len(item):
        sizes = np.frombuffer(item[_HEAD.size : begin], ">u4").astype(np.int64)
    if not sizes.size or begin + sizes.sum() != len(item):
        raise ValueError(
            f"{len(item)} bytes are not the segment of {number} frames of H.264 that "
            "they say"
        )
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(
            f"frames have {width} x {height} pixels, which must be 1 to {MAX_PIXELS}"
        )
    ends = begin + np.cumsum(sizes)
    packets = [item[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return _Segment(height, width, packets)


def _pictures(segment: _Segment, last: int) -> Iterator[Any]:
    """The decoded frames (av.VideoFrame) of a segment from the first to number `last`.

    Raises:
      ValueError: if one cannot be decoded, or is of another size.
    """
    import av

    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    most_pixels = (segment.height + _MARGIN) * (segment.width + _MARGIN)
    context.options = {"max_pixels": str(most_pixels), "err_detect": "explode"}
    expected = segment.width + segment.width % 2, segment.height + segment.height % 2
    number = 0
    try:
        for packet in (*map(av.Packet, segment.packets[: last + 1]), None):
            for frame in context.decode(packet):
                if frame.is_corrupt or (frame.width, frame.height) != expected:
                    raise ValueError(
                        f"frame {number} of a segment of H.264 is damaged, or of "
                        f"{frame.width} x {frame.height} pixels and not of "
                        f"{expected[0]} x {expected[1]}"
                    )
                number += 1
                yield frame
    except (av.FFmpegError, MemoryError) as error:
        raise ValueError(
            f"frame {number} of a segment of H.264 cannot be decoded: {error}"
        ) from error
    if number != min(last + 1, len(segment.packets)):
        raise ValueError(
            f"{number} of {len(segment.packets)} frames of a segment of H.264 can be "
            "decoded"
        )


def _pixels(picture: Any, reformatter: Any, segment: _Segment) -> np.ndarray:
    """[H, W, 3] uint8 of a decoded frame, a view."""
    (plane,) = to_rgb(picture, reformatter).planes
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    pixels = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
    return pixels[: segment.height, : segment.width]


def to_rgb(picture: Any, reformatter: Any) -> Any:
    """The av.VideoFrame in RGB of one in YUV, BT.601 of full range.

    Args:
      picture: an av.VideoFrame.
      reformatter: an av VideoReformatter; setting one up takes longer than a small
        frame.
    """
    from av.video.reformatter import ColorRange, Colorspace

    return reformatter.reformat(
        picture,
        format="rgb24",
        threads=1,
        src_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
    )


def decode(item: bytes) -> np.ndarray:
    """[N, H, W, 3] uint8.

    Raises:
      ValueError: if it is no item, or is damaged.
    """
    from av.video.reformatter import VideoReformatter

    segment = _parse(item)
    reformatter = VideoReformatter()
    return np.stack(
        [
            _pixels(picture, reformatter, segment)
            for picture in _pictures(segment, len(segment.packets) - 1)
        ]
    )


def check(items: Sequence[bytes], short_side: int | None) -> None:
    """Checks what items say of themselves, see payloads.VideoPayload.

    Raises:
      ValueError: names the number of the first item that is none, has frames of
        another size than the first, or of another shorter side.
    """
    first = None
    for number, item in enumerate(items):
        try:
            segment = _parse(item)
        except ValueError as error:
            raise ValueError(f"item {number}: {error}") from error
        size = segment.height, segment.width
        first = first or size
        if size != first or short_side not in (None, min(size)):
            raise ValueError(
                f"item {number} has frames of {size[1]} x {size[0]} pixels, the first "
                f"of {first[1]} x {first[0]}; by dataset_info.json the shorter side "
                f"has {short_side or 'any'}"
            )


def faults(
    items: Sequence[bytes], height: int, width: int, num_frames: int
) -> Iterator[str]:
    """What is wrong with a record's items, all decoded; see payloads.VideoPayload."""
    total = 0
    for number, item in enumerate(items):
        try:
            segment = _parse(item)
            if (segment.height, segment.width) != (height, width):
                yield (
                    f"item {number} has frames of {segment.width} x {segment.height} "
                    f"pixels, the record says {width} x {height}"
                )
            total += sum(1 for _ in _pictures(segment, len(segment.packets) - 1))
        except ValueError as error:
            yield f"item {number}: {error}"
            return
    if total != num_frames:
        yield f"items hold {total} frames, and not {num_frames}"


def frame_shape(item: Any) -> Any:
    """[2] int32, height and width, of a scalar string tensor."""
    import tensorflow as tf

    sides = tf.strings.substr(item, len(_MAGIC), 4)
    return tf.cast(tf.io.decode_raw(sides, tf.uint16, little_endian=False), tf.int32)


def decode_clip(items: Any, places: Any, window: Any, clip: Any, origin: Any) -> Any:
    """See payloads.VideoPayload; the window is as crops.crop_pixels has it."""
    import tensorflow as tf

    from xdc_tf.data import crops

    place = crops.pixel_place(
        frame_shape(items[0]),
        top=window.top,
        left=window.left,
        fraction=window.fraction,
        crop_size=clip.crop_size,
    )
    mirrored = False if window.mirrored is None else window.mirrored
    pixels = tf.numpy_function(
        _decode_windows,
        [items, places, place, mirrored, *origin],
        tf.uint8,
        stateful=False,
    )
    pixels = tf.ensure_shape(pixels, [clip.num_frames, None, None, 3])
    return crops.reduce_pixels(pixels, place, clip.crop_size)


def _decode_windows(
    items: Iterable[bytes],
    places: np.ndarray,
    place: np.ndarray,
    is_mirrored: bool,
    path: bytes,
    example_index: int,
) -> np.ndarray:
    """A square of some frames.

    Args:
      items: K of them.
      places: [T, 2], item and number in it of each frame.
      place: of crops.pixel_place.
      is_mirrored: whether left and right change places.
      path: of the shard, for messages.
      example_index: the same.

    Returns:
      [T, side, side, 3] uint8.

    Raises:
      ValueError: names the shard and the example whose frames cannot be decoded.
    """
    from av.video.reformatter import VideoReformatter

    y, x, side, _ = place
    windows = np.empty((len(places), side, side, 3), np.uint8)
    reformatter = VideoReformatter()
    try:
        for item_number, item in enumerate(items):
            # Frame of the item -> those of the clip: a short recording repeats.
            wanted: dict[int, list[int]] = {}
            for frame in np.flatnonzero(places[:, 0] == item_number).tolist():
                wanted.setdefault(int(places[frame, 1]), []).append(frame)
            segment, last = _parse(item), max(wanted)
            if last >= len(segment.packets):
                raise ValueError(
                    f"a segment of H.264 has {len(segment.packets)} frames, and number "
                    f"{last} is asked for"
                )
            for number, picture in enumerate(_pictures(segment, last)):
                if number not in wanted:
                    continue
                pixels = _pixels(picture, reformatter, segment)
                pixels = _square(pixels, y, x, side)
                for frame in wanted[number]:
                    windows[frame] = pixels
    except ValueError as error:
        raise ValueError(
            f"{path.decode()}, example_index {example_index}: "
            f"{escaping.error_text(error)}; it is damaged, bring back the whole file "
            "or convert again."
        ) from error
    return windows[:, :, ::-1] if is_mirrored else windows


def _square(pixels: np.ndarray, y: int, x: int, side: int) -> np.ndarray:
    """[side, side, 3] of [H, W, 3], whose outermost pixels are repeated past it."""
    square = pixels[y : y + side, x : x + side]
    below, right = side - square.shape[0], side - square.shape[1]
    if below or right:
        square = np.pad(square, ((0, below), (0, right), (0, 0)), "edge")
    return square
