"""Decoded video frames -> JPEG images as records hold them."""

import io

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image


class JpegEncoder:
    """Upright, square-pixel, resized JPEG images, all of the first one's size."""

    def __init__(self, short_side: int, quality: int, stream: av.VideoStream):
        self._short_side = short_side
        self._quality = quality
        self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
        # One each: a reformatter is set up anew when its formats change.
        self._scaler = VideoReformatter()
        self._converter = VideoReformatter()
        self._stored_size: tuple[int, int] | None = None  # width, height
        self.image_shape: tuple[int, int] | None = None  # height, width when upright

    def encode(self, frame: av.VideoFrame) -> bytes:
        if self._stored_size is None:
            width, height = frame.width * self._pixel_aspect, frame.height
            scale = self._short_side / min(width, height)
            sides = round(width * scale), round(height * scale)
            self._stored_size = max(1, sides[0]), max(1, sides[1])
        width, height = self._stored_size
        # Scaling and converting to RGB in one call takes five times as long.
        small = self._scaler.reformat(
            frame, width, height, "yuv420p", interpolation="BICUBIC"
        )
        rgb = self._converter.reformat(small, format="rgb24")
        # Degrees counterclockwise, as phones note it down for upright films.
        turns = round(frame.rotation / 90)
        image = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))
        self.image_shape = self.image_shape or image.shape[:2]
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=self._quality)
        return file.getvalue()
