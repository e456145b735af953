"""Rows of a manifest -> what is stored for them, as worker processes do it.

Nothing here imports TensorFlow: a worker needs PyAV and NumPy only.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding.media import Media, Segment, read_segments
from data_prep.manifest import ManifestRow
from data_prep.reasons import MediaError
from data_prep.remote_files import local_copy
from data_prep.workers import Outcome
from xdc_tf.data.log_mel import log_mel

# Rows of one file that are decoded in one go. Each group begins with a jump in the
# file, and whoever writes in order waits for the slowest group.
_ROWS_PER_GROUP = 8


class ConvertedRow(NamedTuple):
    """What is stored for a row of the manifest.

    Attributes:
      frames_jpeg: T JPEG images; none without video.
      height: pixels; 0 without video.
      width: pixels; 0 without video.
      log_mel: [L, M] float32; None without audio.
      waveform: [samples] float32; None unless it is to be stored.
      duration_secs: length of the segment that is there.
      truncated: what ended it before its time, where that is accepted; or "".
    """

    frames_jpeg: list[bytes]
    height: int
    width: int
    log_mel: np.ndarray | None
    waveform: np.ndarray | None
    duration_secs: float
    truncated: str


def group_rows(rows: Sequence[ManifestRow]) -> list[list[ManifestRow]]:
    """Consecutive rows of one file together, in order; see _ROWS_PER_GROUP."""
    groups: list[list[ManifestRow]] = []
    for row in rows:
        last = groups[-1] if groups else []
        if last and last[0].file == row.file and len(last) < _ROWS_PER_GROUP:
            last.append(row)
        else:
            groups.append([row])
    return groups


def convert_rows(
    rows: Sequence[ManifestRow], settings: ConversionSettings
) -> Iterator[Outcome]:
    """Decodes rows of one file, local or remote.

    Yields:
      For each an Outcome with a ConvertedRow, or with why it cannot be used.
    """
    segments = [Segment(row.start_secs, row.end_secs) for row in rows]
    limit_bytes = int(settings.max_file_mib * 2**20)
    try:
        with local_copy(rows[0].file, limit_bytes=limit_bytes) as path:
            for media in read_segments(path, segments, settings):
                yield _outcome(media, settings)
    except MediaError as refusal:
        for _ in rows:
            yield _outcome(refusal, settings)


def _outcome(media: Media | MediaError, settings: ConversionSettings) -> Outcome:
    if isinstance(media, MediaError):
        return Outcome(reason=media.reason, detail=media.detail)
    waveform = media.waveform
    return Outcome(
        ConvertedRow(
            frames_jpeg=media.frames_jpeg,
            height=media.height,
            width=media.width,
            log_mel=None if waveform is None else log_mel(waveform, settings.log_mel),
            waveform=waveform if settings.store_waveform else None,
            duration_secs=media.duration_secs,
            truncated=media.truncated,
        )
    )
