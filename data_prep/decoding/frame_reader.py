"""The frames of a file, read forwards: at regular instants, as records hold them."""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding.containers import TIMESTAMP_SLACK_SECS, media_error
from data_prep.decoding.timed_frames import SKIP_SECS, TimedStream
from data_prep.reasons import DECODE_ERROR, TOO_LARGE, TOO_LONG, MediaError
from xdc_tf.data import payloads

# A record is a protocol buffer, which ends at 2 GiB.
_MAX_RECORD_BYTES = 1 << 30
# Sides longer than this many times the shorter one are a mistake of the file.
_MAX_ASPECT = 20.0


class SegmentFrames(NamedTuple):
    """The frames of a segment.

    Attributes:
      video_items: of the payload, that hold them in order.
      num_frames: T.
      end_secs: time in the file where the frames ended; infinite if they went on.
      error: what ended it before its time, or None.
    """

    video_items: list[bytes]
    num_frames: int
    end_secs: float
    error: MediaError | None


class _Shown(NamedTuple):
    """A decoded frame and the times in the file between which it is on show."""

    secs: float
    end_secs: float
    frame: av.VideoFrame


class FrameReader:
    """Reads segments of one video stream; in order of their starts, each frame once."""

    def __init__(
        self, stream: TimedStream, settings: ConversionSettings, end_secs: float
    ):
        """Takes a stream whose last frame is on show up to end_secs, or longer."""
        self._stream = stream
        self._end_secs = end_secs
        self._settings = settings
        self._scaler = FrameScaler(settings.short_side, stream.stream)
        self._frames: Iterator | None = None
        self._shown: _Shown | None = None
        self._next: _Shown | None = None
        self._planes: list[np.ndarray] | None = None  # of the frame on show, if used
        self._read_to_secs = 0.0
        self._num_decoded = 0
        self._error: MediaError | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the frames, once there are any."""
        return self._scaler.image_shape

    def late_secs(self) -> float:
        """When the first frame is shown, if the file begins between key frames; or 0.

        Nothing was read before, and this costs what reading the first frame costs.
        """
        self._go_to(0.0)
        if self._error is not None:
            self._frames = None  # whoever reads it comes upon it again
        return self._shown.secs if self._shown and self._stream.is_late else 0.0

    def read(self, start_secs: float, end_secs: float | None) -> SegmentFrames:
        """The frames at start_secs + i / fps, none if it begins past the end.

        An instant shows the frame that a player would show then. A frame may come up
        to half a frame early, of the file's or the output's rate, whichever is higher:
        so the frame at an instant is the nearest one, or, in a gap, the one before it.

        Args:
          start_secs: of the segment.
          end_secs: of the segment; None for the end of the file.

        Raises:
          MediaError: too_long, too_large, or decode_error if there is no frame at all.
        """
        settings, fps = self._settings, self._settings.fps
        items = _Items(settings)
        limit = math.inf
        if end_secs is not None:
            limit = math.floor((end_secs - start_secs + TIMESTAMP_SLACK_SECS) * fps)
        self._num_decoded, self._error = 0, None
        may_jump = not self._go_to(start_secs)
        self._read_to_secs = math.nan  # unless this segment is read to its end
        while items.num_frames < limit:
            secs = start_secs + items.num_frames / fps
            while self._next and self._replaced_secs() <= secs:
                self._advance()
            if self._error is not None and may_jump and not items.num_frames:
                # Damage before a segment need not reach into it.
                may_jump, self._error = False, None
                self._jump_to(start_secs)
                continue
            if self._shown is None:
                raise self._error or MediaError(
                    DECODE_ERROR, "picture: no frame can be decoded"
                )
            if self._next is None:
                shown_secs = self._last_end_secs() - start_secs + TIMESTAMP_SLACK_SECS
                # The last instant must have a whole 1 / fps of video behind it.
                limit = min(limit, math.floor(shown_secs * fps))
                if items.num_frames >= limit:
                    break
            if items.num_frames > settings.max_secs * fps:
                raise too_long(items.num_frames / fps, settings.max_secs)
            if self._planes is None:
                self._planes = self._scaler.scale(self._shown.frame)
            items.add(self._planes)
        self._read_to_secs = start_secs + items.num_frames / fps
        frames_end_secs = math.inf
        if self._shown and not self._next:
            frames_end_secs = self._last_end_secs()
        return SegmentFrames(
            items.finish(), items.num_frames, frames_end_secs, self._error
        )

    def _go_to(self, start_secs: float) -> bool:
        """Reads on, or jumps, to where the segment starts; whether it jumped."""
        ahead_secs = start_secs - self._read_to_secs
        if self._frames and -TIMESTAMP_SLACK_SECS <= ahead_secs < SKIP_SECS:
            return False
        self._jump_to(start_secs)
        return True

    def _jump_to(self, start_secs: float) -> None:
        self._shown = self._next = None
        self._frames = self._stream.frames(start_secs)
        self._advance()
        self._advance()

    def _last_end_secs(self) -> float:
        """When the frame on show goes, which is the last."""
        if self._error is not None:
            return self._shown.end_secs
        return max(self._shown.end_secs, self._end_secs)

    def _place(self) -> str:
        return f"picture after {self._num_decoded} frames"

    def _replaced_secs(self) -> float:
        """When the next frame comes in place of the one on show."""
        apart_secs = self._next.secs - self._shown.secs
        half_secs = min(1 / self._settings.fps, apart_secs) / 2
        # Of two that are as near, the one on show.
        return self._next.secs - max(0.0, half_secs - TIMESTAMP_SLACK_SECS)

    def _advance(self) -> None:
        """Shows the next frame, and decodes the one after it unless there is none.

        Raises:
          MediaError: too_large. A decoder's error is kept; it ends the frames.
        """
        if self._next is not None:
            self._shown, self._next, self._planes = self._next, None, None
        try:
            timed = next(self._frames, None)
        except (av.FFmpegError, OSError, MemoryError) as error:
            self._error = media_error(error, self._place())
            return
        except MediaError as error:
            self._error = MediaError(error.reason, f"{self._place()}: {error.detail}")
            return
        if timed is None:
            return
        secs, duration_secs, frame = timed
        if frame.is_corrupt:
            self._error = MediaError(DECODE_ERROR, f"{self._place()}: damaged frame")
            return
        self._num_decoded += 1
        if self._num_decoded > self._settings.max_frames:
            raise MediaError(
                TOO_LARGE, f"more than {self._settings.max_frames} frames to decode"
            )
        shown = _Shown(secs, secs + duration_secs, frame)
        if self._shown is None:
            self._shown, self._planes = shown, None
        else:
            self._next = shown


class _Items:
    """Encodes a segment's frames to items of the payload as they come."""

    def __init__(self, settings: ConversionSettings):
        self._payload = payloads.stored(settings, payloads.VIDEO)
        self._frames_per_item = self._payload.row.frames_per_item(
            self._payload.settings
        )
        self._items: list[bytes] = []
        self._num_bytes = 0
        self._pending: list[list[np.ndarray]] = []
        self._last_frames: list[list[np.ndarray]] = []
        self.num_frames = 0

    def add(self, planes: list[np.ndarray]) -> None:
        """Takes the next frame, the same object as the one before if it is the same.

        Raises:
          MediaError: too_large, if the items make no record.
        """
        self.num_frames += 1
        self._pending.append(planes)
        if len(self._pending) == self._frames_per_item:
            self._encode()

    def finish(self) -> list[bytes]:
        """The items of all frames."""
        if self._pending:
            self._encode()
        return self._items

    def _encode(self) -> None:
        frames, self._pending = self._pending, []
        # A frame on show at several instants is compressed once.
        is_repeated = len(frames) == len(self._last_frames) and all(
            frame is last for frame, last in zip(frames, self._last_frames, strict=True)
        )
        if is_repeated:
            self._items.append(self._items[-1])
        else:
            self._items.append(self._payload.row.encode(frames, self._payload.settings))
        self._last_frames = frames
        self._num_bytes += len(self._items[-1])
        if self._num_bytes > _MAX_RECORD_BYTES:
            raise MediaError(
                TOO_LARGE,
                f"more than {_MAX_RECORD_BYTES >> 20} MiB of frames in a record; "
                "cut the file with segment_secs",
            )


def too_long(secs: float, max_secs: float) -> MediaError:
    """The refusal of a row that is longer than allowed."""
    return MediaError(
        TOO_LONG,
        f"{secs:.1f} s, the limit is {max_secs:.1f} s; cut it with segment_secs, or by "
        "start_secs and end_secs, or raise the limit",
    )


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
