"""What is wrong with one record: against itself, dataset_info.json and examples.csv."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from xdc_tf.data import label_texts, payloads, records
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.jpeg_frames import MAX_PIXELS
from xdc_tf.data.log_mel import MAX_AMPLITUDE
from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.runtime import escaping

# Of a value of a row. Matrix products of other machines differ by some 1e-6.
_TOLERANCE = 1e-3


class CheckedRecord(NamedTuple):
    """A record's checks.

    Attributes:
        faults: what is wrong, one line each.
        example_index: of the record; None if it cannot be read.
        audio_rows: [L, D] float32, None if there are none, or such that cannot be used.
    """

    faults: list[str]
    example_index: int | None = None
    audio_rows: np.ndarray | None = None


def check_record(
    serialized: bytes, info: DatasetInfo, rows: dict[int, ExampleRow]
) -> CheckedRecord:
    """Checks all that a record holds; every one of its frames is decoded.

    Args:
        serialized: as it lies in its shard; any bytes.
        info: what dataset_info.json says.
        rows: the lines of examples.csv for its shard, by example_index.

    Returns:
        Its faults, and what checks of the whole data set need of it.
    """
    try:
        message = tf.train.SequenceExample.FromString(serialized)
        parsed = records.parse_record(tf.constant(serialized), info)
    except (DecodeError, tf.errors.OpError) as error:
        return CheckedRecord([f"cannot be parsed: {escaping.error_text(error)}"])
    values = {name: tensor.numpy() for name, tensor in parsed.items()}
    index = int(values["example_index"])
    faults = [*_list_faults(message, info), *_label_faults(values, message, info)]
    if index in rows:
        faults += _table_faults(values, info, rows[index])
    else:
        faults.append(f"examples.csv has no example_index {index} in this shard")
    start_us, end_us = int(values["start_us"]), int(values["end_us"])
    if not 0 <= start_us < end_us:
        faults.append(f"is from {start_us} to {end_us} microseconds")
    secs = (end_us - start_us) / 1e6
    if VIDEO in info.modalities:
        faults += _frame_faults(values, info, secs)
    usable_rows = None
    if AUDIO in info.modalities:
        row_faults = [*_row_faults(values["audio_rows"], info, secs)]
        if not row_faults:
            usable_rows = values["audio_rows"]
        faults += row_faults
    if info.has_waveform:
        faults += _waveform_faults(values["waveform"], usable_rows, info, secs)
    return CheckedRecord(faults, index, usable_rows)


def _list_faults(message: tf.train.SequenceExample, info: DatasetInfo) -> Iterator[str]:
    """Lists of what dataset_info.json says is not there."""
    expected = {payloads.keys(info)[modality] for modality in info.modalities}
    if info.has_waveform:
        expected.add(records.WAVEFORM)
    for name, steps in message.feature_lists.feature_list.items():
        if steps.feature and name not in expected:
            yield (
                f"holds {name}, with modalities={','.join(info.modalities)} and "
                f"has_waveform={info.has_waveform}"
            )


def _label_faults(
    values: dict, message: tf.train.SequenceExample, info: DatasetInfo
) -> Iterator[str]:
    """The labels' numbers against their names, in both of the keys that hold them."""
    labels = values["labels"].tolist()
    unknown = [label for label in labels if not 0 <= label < len(info.label_names)]
    if unknown:
        yield f"label {unknown[0]} is none of the {len(info.label_names)} label_names"
        return
    if len(labels) > 1 and not info.several_labels:
        yield f"holds {len(labels)} labels, dataset_info.json says one at most"
    expected = [info.label_names[label].encode() for label in labels]
    numbers = ", ".join(map(str, labels)) or str(records.NO_LABEL)
    for key in (records.LABEL_TEXT, records.LABEL_STRING):
        texts = (
            list(message.context.feature[key].bytes_list.value)
            if key in message.context.feature
            else []
        )
        if texts != expected:
            yield (
                f"{key} is {_shown(texts)}, label {numbers} of label_names is "
                f"{_shown(expected)}"
            )


def _table_faults(values: dict, info: DatasetInfo, row: ExampleRow) -> Iterator[str]:
    """Differences from the record's line of examples.csv."""
    video_id, labels = values["video_id"], values["labels"].tolist()
    if video_id != row.video_id.encode():
        yield f"video_id is {_shown([video_id])}, examples.csv says {row.video_id!r}"
    names = [info.label_names[k] for k in labels if 0 <= k < len(info.label_names)]
    label_text = label_texts.SEPARATOR.join(names)
    if label_text != row.label:
        yield f"label is {label_text!r}, examples.csv says {row.label!r}"
    for name in ("start", "end"):
        secs, written = int(values[f"{name}_us"]) / 1e6, getattr(row, f"{name}_secs")
        if not abs(secs - written) < 1.5e-6:
            yield f"{name} is {secs} s, examples.csv says {written} s"


def _frame_faults(values: dict, info: DatasetInfo, secs: float) -> Iterator[str]:
    """Number, rate and size of the frames, each of which is decoded."""
    items, fps = values["video_items"], values["frame_rate"]
    video = payloads.stored(info, VIDEO)
    frames_per_item = video.row.frames_per_item(video.settings)
    num_frames = len(items)
    if frames_per_item > 1:
        num_frames = round(secs * info.fps)
    height, width = int(values["height"]), int(values["width"])
    if fps != np.float32(info.fps):
        yield f"frame_rate is {fps}, dataset_info.json says {info.fps}"
    is_complete = len(items) == payloads.num_items(info, num_frames)
    if not (is_complete and abs(num_frames - secs * info.fps) <= 0.5):
        frames = f" of {frames_per_item}" if frames_per_item > 1 else ""
        yield (
            f"has {len(items)} frames{frames} for {secs:.6f} s at {info.fps} per second"
        )
    if min(height, width) != info.short_side or height * width > MAX_PIXELS:
        yield (
            f"height and width are {height} and {width}, dataset_info.json says "
            f"short_side={info.short_side}"
        )
        return  # a decoder takes the memory that a header asks for
    yield from video.row.faults(items, height, width, num_frames)


def _row_faults(values: np.ndarray, info: DatasetInfo, secs: float) -> Iterator[str]:
    """Number of rows and range of the audio [L, D]."""
    audio = payloads.stored(info, AUDIO)
    expected = {
        num_samples // audio.row.hop_samples(audio.settings)
        for num_samples in _lengths(secs, info.log_mel.sample_rate_hz)
    }
    if len(values) not in expected:
        yield (
            f"{audio.title} has {len(values)} rows for {secs:.6f} s, which is "
            f"{' or '.join(map(str, sorted(expected)))}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        yield f"{audio.title} has values that are not finite, first in row {row}"
        return
    low, high = audio.row.value_range(audio.settings)
    outside = (values < low - _TOLERANCE) | (values > high + _TOLERANCE)
    if outside.any():
        row = int(np.argmax(outside.any(axis=1)))
        yield (
            f"{audio.title} has values outside {low:.2f} to {high:.2f}, first in row "
            f"{row}: {values[row].min():.2f} to {values[row].max():.2f}"
        )


def _lengths(secs: float, sample_rate_hz: int) -> set[int]:
    """Samples of so many seconds: one number, or two where rounding decides."""
    # Start and end are whole microseconds.
    slack_secs = 2e-6
    return {
        round((secs + slack) * sample_rate_hz) for slack in (-slack_secs, slack_secs)
    }


def _waveform_faults(
    waveform: np.ndarray, stored: np.ndarray | None, info: DatasetInfo, secs: float
) -> Iterator[str]:
    """Length and range of the waveform [samples], and whether the rows are its."""
    sample_rate_hz, audio = info.log_mel.sample_rate_hz, payloads.stored(info, AUDIO)
    if len(waveform) not in _lengths(secs, sample_rate_hz):
        yield (
            f"waveform has {len(waveform)} samples for {secs:.6f} s at "
            f"{sample_rate_hz} Hz"
        )
    if not np.isfinite(waveform).all():
        yield "waveform has samples that are not finite"
        return
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > MAX_AMPLITUDE:
        yield f"waveform has a peak of {peak:g}, full scale is 1"
    if stored is None:
        return
    computed = audio.row.encode(waveform, audio.settings)
    if computed.shape != stored.shape:
        yield (
            f"{audio.title} is of shape {stored.shape}, its waveform's of "
            f"{computed.shape}"
        )
        return
    difference = np.abs(computed - stored).max(initial=0.0)
    if difference > _TOLERANCE:
        yield f"{audio.title} differs from its waveform's by up to {difference:.3g}"


def _shown(texts: list[bytes]) -> str:
    return " and ".join(repr(text.decode(errors="replace")) for text in texts) or "none"
