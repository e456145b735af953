"""Rows of a manifest -> what is stored for them, as worker processes do it.

Nothing here imports TensorFlow: a worker needs PyAV and NumPy only.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep import answers
from data_prep.answers import Form, Outcome, Packed, Value
from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding.media import read_segments
from data_prep.decoding.packets import FileEnd
from data_prep.decoding.recording import (
    Media,
    PastEndError,
    Segment,
    check_not_past_end,
)
from data_prep.manifest import ManifestRow
from data_prep.reasons import DECODE_ERROR, MediaError
from data_prep.remote_files import local_copy
from xdc_tf.data import payloads
from xdc_tf.data.payloads import AUDIO, VIDEO

# Rows of one file that are decoded in one go. Each group begins with a jump in the
# file, and whoever writes in order waits for the slowest group.
_ROWS_PER_GROUP = 8
# No float32 has a logarithm this far from 0.
_MOST_LOG = 104.0
# Of a side of a frame, as JPEG has them.
_MOST_PIXELS = 65535


class ConvertedRow(NamedTuple):
    """What is stored for a row of the manifest.

    Attributes:
      video_items: that hold the frames, see data.payloads; none without video.
      height: pixels; 0 without video.
      width: pixels; 0 without video.
      audio_rows: [L, D] float32, see data.payloads; None without audio.
      waveform: [samples] float32; None unless it is to be stored.
      duration_secs: length of the segment that is there.
      truncated: what ended it before its time, where that is accepted; or "".
    """

    video_items: list[bytes]
    height: int
    width: int
    audio_rows: np.ndarray | None
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
    file = rows[0].file
    segments = [Segment(row.start_secs, row.end_secs) for row in rows]
    refusals = _refuse_past_end(file, segments, settings)
    if len(refusals) == len(rows):
        for refusal in refusals:
            yield _outcome(refusal, settings)
        return
    limit_bytes = int(settings.max_file_mib * 2**20)
    try:
        with local_copy(file, limit_bytes=limit_bytes) as path:
            for media in read_segments(path, segments, settings):
                if isinstance(media, PastEndError):
                    _end_of_file.clear()  # rows of a file follow each other
                    _end_of_file[file] = media.end
                yield _outcome(media, settings)
    except MediaError as refusal:
        for _ in rows:
            yield _outcome(refusal, settings)


# Of the file that a row past the end was seen of last, in this process.
_end_of_file: dict[str, FileEnd] = {}


def _refuse_past_end(
    file: str, segments: Sequence[Segment], settings: ConversionSettings
) -> list[MediaError]:
    """The refusals of segments past a known end; fewer than segments if one is not."""
    refusals: list[MediaError] = []
    if file in _end_of_file:
        for segment in segments:
            try:
                check_not_past_end(segment, _end_of_file[file], settings)
            except MediaError as refusal:
                refusals.append(refusal)
    return refusals


def _outcome(media: Media | MediaError, settings: ConversionSettings) -> Outcome:
    if isinstance(media, MediaError):
        return Outcome(reason=media.reason, detail=media.detail)
    waveform = media.waveform
    rows = None
    if waveform is not None:
        payload = payloads.stored(settings, AUDIO)
        rows = payload.row.encode(waveform, payload.settings)
        if not _are_small(rows):
            peak = np.abs(waveform).max()
            return Outcome(
                reason=DECODE_ERROR, detail=f"sound: samples of up to {peak:.1e}, not 1"
            )
    return Outcome(
        ConvertedRow(
            video_items=media.video_items,
            height=media.height,
            width=media.width,
            audio_rows=rows,
            waveform=waveform if settings.store_waveform else None,
            duration_secs=media.duration_secs,
            truncated=media.truncated,
        )
    )


def _are_small(values: np.ndarray) -> bool:
    """Whether statistics survive all values; logarithms of float32 they do."""
    return bool((np.abs(values) <= _MOST_LOG).all())


def answer_form(settings: ConversionSettings) -> Form:
    """How a ConvertedRow is sent.

    Its data are [K, 2] int64, the sizes of K different items and how often in a row
    each stands; the items; the rows of audio; and the waveform, both float32.
    """
    return Form(_pack, functools.partial(_unpack, settings=settings))


def _pack(row: ConvertedRow) -> Packed:
    items: list[bytes] = []
    num_repeats: list[int] = []
    for item in row.video_items:
        if items and item is items[-1]:
            num_repeats[-1] += 1
        else:
            items.append(item)
            num_repeats.append(1)
    runs = np.array([[len(item) for item in items], num_repeats], "<i8").T
    arrays = [
        np.ascontiguousarray(values, "<f4")
        for values in (row.audio_rows, row.waveform)
        if values is not None
    ]
    values: dict[str, Value] = {
        "num_items": len(items),
        "height": row.height,
        "width": row.width,
        "audio_rows": 0 if row.audio_rows is None else len(row.audio_rows),
        "samples": 0 if row.waveform is None else len(row.waveform),
        "duration_secs": row.duration_secs,
        "truncated": row.truncated,
    }
    return Packed(values, [np.ascontiguousarray(runs), *items, *arrays])


def _unpack(
    values: Mapping[str, Value], data: memoryview, *, settings: ConversionSettings
) -> ConvertedRow:
    counts = ("num_items", "height", "width", "audio_rows", "samples")
    answers.check_keys(values, *counts, "duration_secs", "truncated")
    num_items, height, width, num_rows, num_samples = (
        answers.whole_number(values, name) for name in counts
    )
    has_video, has_audio = (m in settings.modalities for m in (VIDEO, AUDIO))
    if bool(num_items) != has_video or (height > 0 and width > 0) != has_video:
        raise ValueError("frames that were not asked for, or none")
    if (num_rows and not has_audio) or (num_samples and not settings.store_waveform):
        raise ValueError("sound that was not asked for")
    audio = payloads.stored(settings, AUDIO)
    row_length = audio.row.row_length(audio.settings)
    sizes = 16 * num_items, 4 * num_rows * row_length, 4 * num_samples
    item_bytes = len(data) - sum(sizes)
    if max(height, width) > _MOST_PIXELS or item_bytes < 0:
        raise ValueError("sizes that are not those of the data")
    runs = np.frombuffer(data[: sizes[0]], "<i8").reshape(-1, 2)
    # Each before the sums, which may not overflow.
    most_frames = math.ceil((settings.max_secs + 1) * settings.fps)
    if (
        not (runs >= 1).all()
        or not (runs <= (item_bytes, most_frames)).all()
        or runs[:, 0].sum() != item_bytes
        or runs[:, 1].sum() > most_frames
    ):
        raise ValueError("items that are not those of the data")
    video_items = []
    first = sizes[0]
    for num_bytes, num_repeats in runs.tolist():
        video_items += [bytes(data[first : first + num_bytes])] * num_repeats
        first += num_bytes
    # Copies, as the answer's memory goes with its items.
    audio_rows = np.frombuffer(data[first : first + sizes[1]], "<f4").copy()
    waveform = np.frombuffer(data[first + sizes[1] :], "<f4").copy()
    if not (_are_small(audio_rows) and np.isfinite(waveform).all()):
        raise ValueError("sound that is not of finite numbers")
    duration_secs = answers.finite_number(values, "duration_secs")
    if duration_secs > settings.max_secs + 1:
        raise ValueError("longer than max_secs")
    return ConvertedRow(
        video_items=video_items,
        height=height,
        width=width,
        audio_rows=audio_rows.reshape(-1, row_length) if has_audio else None,
        waveform=waveform if settings.store_waveform else None,
        duration_secs=duration_secs,
        truncated=answers.text(values, "truncated"),
    )
