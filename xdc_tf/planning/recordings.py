"""What a plan reckons with of records: bytes and frames of a video and of a clip."""

from typing import NamedTuple

import numpy as np

from xdc_tf.data import dataset_info, payloads, record_framing, record_index
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.payloads import AUDIO, VIDEO, Stored
from xdc_tf.runtime import compat
from xdc_tf.training import supervision
from xdc_tf.training.configuration import Config

_ASPECT_RATIO = 16 / 9


class Recordings(NamedTuple):
    """Averages of the videos.

    Attributes:
      bytes_per_video: of its record.
      bytes_per_clip: of it that are read for a clip.
      frame_pixels: of a stored frame.
      decoded_frames: that are decoded for a clip; more than it has where a frame needs
        those before it.
      source: where these are from.
    """

    bytes_per_video: float
    bytes_per_clip: float
    frame_pixels: float
    decoded_frames: float
    source: str


def measured(config: Config, records_dir: str, info: DatasetInfo) -> Recordings:
    """Averages over the records of a directory, from its files' sizes and an index."""
    compat.enable_remote_paths(records_dir)
    paths = dataset_info.shard_paths(records_dir, info)
    num_bytes = sum(map(record_framing.size, paths))
    item_bytes = [entry.item_bytes for _, entry in record_index.read_index(paths[0])]
    video = payloads.stored(info, VIDEO)
    bytes_per_item = float(np.mean(np.concatenate(item_bytes or [[0]])))
    return Recordings(
        bytes_per_video=num_bytes / max(1, info.num_examples),
        frame_pixels=info.short_side**2 * _ASPECT_RATIO,
        source=f"sizes of the {len(info.shards)} files of {records_dir}, frames 16:9 "
        f"as {video.title}",
        **_of_clip(
            config,
            frame_bytes=bytes_per_item / _frames_per_item(video),
            frames_per_sec=info.fps,
            video=video,
        ),
    )


def assumed(
    config: Config,
    *,
    video_secs: float,
    frames_per_sec: float,
    short_side: int,
    video: Stored,
    bytes_per_pixel: float | None = None,
) -> Recordings:
    """Records of videos that are alike, frames 16:9, with the method's modalities.

    Args:
      config: of the run.
      video_secs: length of a video.
      frames_per_sec: that are stored.
      short_side: pixels of a stored frame's shorter side.
      video: the payload that holds frames.
      bytes_per_pixel: of a stored frame; None for what is usual of the payload.
    """
    if bytes_per_pixel is None:
        bytes_per_pixel = video.row.bytes_per_pixel(video.settings)
    modalities = supervision.modalities(supervision.method(config.method))
    pixels = short_side**2 * _ASPECT_RATIO
    frame_bytes = pixels * bytes_per_pixel
    bytes_per_sec = {
        VIDEO: frames_per_sec * frame_bytes,
        AUDIO: _log_mel_bytes_per_sec(config),
    }
    return Recordings(
        bytes_per_video=video_secs * sum(bytes_per_sec[name] for name in modalities),
        frame_pixels=pixels,
        source=f"assumed: {video_secs:g} s, {frames_per_sec:g} frames/s, 16:9 with "
        f"{short_side} pixels on the short side, {bytes_per_pixel:.2g} bytes per "
        f"pixel as {video.title}",
        **_of_clip(
            config, frame_bytes=frame_bytes, frames_per_sec=frames_per_sec, video=video
        ),
    )


def _frames_per_item(video: Stored) -> int:
    return video.row.frames_per_item(video.settings)


def _log_mel_bytes_per_sec(config: Config) -> float:
    return 1000 / config.log_mel.hop_ms * config.log_mel.num_filters * 4


def _of_clip(
    config: Config, *, frame_bytes: float, frames_per_sec: float, video: Stored
) -> dict[str, float]:
    """bytes_per_clip and decoded_frames of Recordings.

    Read are the items from the clip's first frame to its last, and its audio. A clip
    begins anywhere in an item of several frames, which is decoded from its first.
    """
    clip, per_item = config.clip, _frames_per_item(video)
    modalities = supervision.modalities(supervision.method(config.method))
    num_spanned = 1 + (clip.num_frames - 1) * max(1.0, frames_per_sec / clip.fps)
    num_before = (per_item - 1) / 2
    num_bytes = {
        VIDEO: (num_spanned + 2 * num_before) * frame_bytes,
        AUDIO: clip.audio_secs * _log_mel_bytes_per_sec(config),
    }
    return {
        "bytes_per_clip": sum(num_bytes[name] for name in modalities),
        "decoded_frames": (
            clip.num_frames if per_item == 1 else num_spanned + num_before
        ),
    }
