"""One clip of a recording: which frames, which stretch of audio, which pixels.

Frames and audio of a clip are cut around one common time, so they always belong
together. Pure functions on tensors. Times are float64: an hour into a
recording, float32 would be off by up to a hundredth of a frame.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Channel statistics of Kinetics that the released encoders expect, for [0, 1] RGB.
VIDEO_MEAN = (0.43216, 0.394666, 0.37645)
VIDEO_STD = (0.22803, 0.22145, 0.216989)

# Keeps 0.1 s * 30 fps on frame 3 in spite of rounding.
_FRAME_SLACK = 1e-3

# JPEG decoders give frames at 1, 1/2, 1/4 or 1/8 of their size.
_MAX_HALVINGS = 3

# Key of a batch: what makes uint8 frames an encoder's input.
VIDEO_NORMALIZATION = "video_normalization"


class ClipSettings(NamedTuple):
    """The shape of a clip.

    Attributes:
      num_frames: frames per clip, T.
      fps: frames per second within the clip.
      crop_size: height and width of the crop in pixels, after scaling.
      crop_share: side of the square crop as a fraction of the frame's short side; 0.875
        is the usual 224 of 256, or 112 of 128.
      audio_secs: length of the audio, centred on the frames.
      mel_hop_secs: time between two rows of the log-mel spectrogram.
      num_mels: filters per row.
      log_mel_mean: subtracted from the log-mel values.
      log_mel_std: what they are then divided by.
      video_mean: subtracted from red, green and blue in [0, 1].
      video_std: what they are then divided by.
    """

    num_frames: int
    fps: float
    crop_size: int
    crop_share: float
    audio_secs: float
    mel_hop_secs: float
    num_mels: int
    log_mel_mean: float
    log_mel_std: float
    video_mean: Sequence[float] = VIDEO_MEAN
    video_std: Sequence[float] = VIDEO_STD

    @property
    def num_mel_frames(self) -> int:
        """Rows of log-mel per clip."""
        return round(self.audio_secs / self.mel_hop_secs)

    @property
    def duration_secs(self) -> float:
        """Time that the frames span."""
        return self.num_frames / self.fps


def random_start(
    seed: tf.Tensor, recording_secs: tf.Tensor, settings: ClipSettings
) -> tf.Tensor:
    """Float64 start time, uniform over all places where the clip fits."""
    draw = tf.cast(tf.random.stateless_uniform([], seed), tf.float64)
    return draw * _latest_start(recording_secs, settings)


def uniform_starts(
    recording_secs: tf.Tensor, num_clips: int, settings: ClipSettings
) -> tf.Tensor:
    """[num_clips] float64 start times from first to last; a single one is central."""
    latest = _latest_start(recording_secs, settings)
    if num_clips == 1:
        return latest[None] / 2
    return tf.linspace(tf.constant(0.0, tf.float64), 1.0, num_clips) * latest


def dense_starts(
    recording_secs: tf.Tensor, stride_secs: float, settings: ClipSettings
) -> tf.Tensor:
    """Start times 0, stride_secs, 2 * stride_secs, ... of all clips that fit.

    Args:
      recording_secs: float64 scalar.
      stride_secs: time from one clip's start to the next's, positive.
      settings: the clip's shape.

    Returns:
      [N] float64, N at least 1: a recording shorter than the clip has one, at 0.
    """
    latest = _latest_start(recording_secs, settings) + _FRAME_SLACK / settings.fps
    last = tf.floor(latest / stride_secs)
    return tf.range(last + 1, dtype=tf.float64) * stride_secs


def _latest_start(recording_secs: tf.Tensor, settings: ClipSettings) -> tf.Tensor:
    """Where the last clip that fits starts; 0 in a recording shorter than a clip."""
    return tf.maximum(recording_secs - settings.duration_secs, 0.0)


def frame_indices(
    start_secs: tf.Tensor,
    *,
    num_available: tf.Tensor,
    frame_rate: tf.Tensor,
    settings: ClipSettings,
) -> tf.Tensor:
    """Numbers of the clip's frames in a recording.

    Args:
      start_secs: float64 scalar, where the clip starts.
      num_available: int32 scalar, frames in the recording.
      frame_rate: float64 scalar, frames per second in the recording.
      settings: the clip's shape.

    Returns:
      [num_frames] int32. A recording shorter than the clip repeats from its start.
    """
    steps = tf.range(settings.num_frames, dtype=tf.float64) / settings.fps
    numbers = tf.floor((start_secs + steps) * frame_rate + _FRAME_SLACK)
    return tf.math.floormod(tf.cast(numbers, tf.int32), num_available)


def log_mel_rows(
    start_secs: tf.Tensor, *, num_available: tf.Tensor, settings: ClipSettings
) -> tf.Tensor:
    """Numbers of the log-mel rows that belong to the clip that starts at start_secs.

    Args:
      start_secs: float64 scalar, where the clip's frames start.
      num_available: int32 scalar, rows in the recording.
      settings: the clip's shape.

    Returns:
      [num_mel_frames] int32, centred on the frames and shifted inwards at the edges of
      the recording; a recording shorter than this repeats from its start.
    """
    center_secs = start_secs + settings.duration_secs / 2
    first = tf.round((center_secs - settings.audio_secs / 2) / settings.mel_hop_secs)
    latest = tf.maximum(num_available - settings.num_mel_frames, 0)
    first = tf.clip_by_value(tf.cast(first, tf.int32), 0, latest)
    return tf.math.floormod(first + tf.range(settings.num_mel_frames), num_available)


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


def video_normalization(settings: ClipSettings) -> tf.Tensor:
    """[2, 3] float32: what a channel's levels are multiplied by, and what is added."""
    mean, std = np.array(settings.video_mean), np.array(settings.video_std)
    return tf.constant(np.stack([1 / (255 * std), -mean / std]), tf.float32)


def normalize_video(frames: tf.Tensor, normalization: tf.Tensor) -> tf.Tensor:
    """[..., 3] levels of 0 to 255 to float32, by [2, 3] of video_normalization."""
    return tf.cast(frames, tf.float32) * normalization[0] + normalization[1]


def encoder_input(batch: Mapping[str, tf.Tensor], modality: str) -> tf.Tensor:
    """A modality of a batch of data.pipeline, float32 as its encoder takes it.

    Run on the device: frames travel there as bytes.
    """
    values = batch[modality]
    if values.dtype != tf.uint8:
        return values
    # The same for all clips; each has it so that a batch can be split.
    return normalize_video(values, batch[VIDEO_NORMALIZATION][0])
