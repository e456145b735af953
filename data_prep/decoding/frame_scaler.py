"""Decoded video frames -> upright frames of the size that records hold."""

import struct
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_prep.reasons import DECODE_ERROR, TOO_LARGE, MediaError

# Sides longer than this many times the shorter one are a mistake of the file.
_MAX_ASPECT = 20.0


class FrameScaler:
    """Upright, square-pixel, resized frames, all of the first one's size."""

    def __init__(self, short_side: int, stream: av.VideoStream):
        self._short_side = short_side
        self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
        # One each: a reformatter is set up anew when its formats change.
        self._scaler = VideoReformatter()
        self._converter = VideoReformatter()
        self._stored_size: tuple[int, int] | None = None  # width, height
        self.image_shape: tuple[int, int] | None = None  # height, width when upright

    def scale(self, frame: av.VideoFrame) -> list[np.ndarray]:
        """One frame as its planes Y [H, W] and U, V [ceil(H / 2), ceil(W / 2)], uint8.

        Raises:
          MediaError: a shape or format that makes no image.
        """
        orientation = _orientation(frame)
        is_turned = orientation.is_transposed
        if self._stored_size is None:
            self._stored_size = self._fit(frame)
            width, height = self._stored_size
            self.image_shape = (width, height) if is_turned else (height, width)
        height, width = self.image_shape[::-1] if is_turned else self.image_shape
        try:
            # Colours are converted at the small size, which costs a fifth.
            small = self._scaler.reformat(
                frame, width, height, "yuv420p", interpolation="BICUBIC", threads=1
            )
            # BT.601 in its full range, as JPEG has it, whatever the film has.
            small = self._converter.reformat(
                small,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(
                DECODE_ERROR, f"picture: {frame.format.name}: {error}"
            ) from error
        return [
            np.ascontiguousarray(_oriented(_pixels(plane), orientation))
            for plane in small.planes
        ]

    def _fit(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height of the stored image, before it is turned upright."""
        width, height = frame.width * self._pixel_aspect, frame.height
        if not 1 / _MAX_ASPECT <= width / height <= _MAX_ASPECT:
            raise MediaError(
                TOO_LARGE,
                f"picture of {frame.width}x{frame.height} pixels of aspect "
                f"{self._pixel_aspect:g}: one side is more than {_MAX_ASPECT:g} times "
                "the other",
            )
        scale = self._short_side / min(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))


class _Orientation(NamedTuple):
    """What makes a stored picture the one to show: first transposed, then mirrored."""

    is_transposed: bool = False
    is_mirrored: bool = False  # left and right
    is_upside_down: bool = False


def _orientation(frame: av.VideoFrame) -> _Orientation:
    """The nearest of the eight that a display matrix can ask for."""
    matrix = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if matrix is None:
        return _Orientation()
    # x' = a x + c y, y' = b x + d y; the other numbers move it, or put it in
    # perspective.
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Orientation(True, c < 0, b < 0)
    return _Orientation(False, a < 0, d < 0)


def _oriented(pixels: np.ndarray, orientation: _Orientation) -> np.ndarray:
    pixels = pixels.T if orientation.is_transposed else pixels
    pixels = pixels[:, ::-1] if orientation.is_mirrored else pixels
    return pixels[::-1] if orientation.is_upside_down else pixels


def _pixels(plane) -> np.ndarray:
    """[height, width] uint8 view of a plane."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
