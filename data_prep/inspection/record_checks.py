"""What is wrong with one record: against itself, dataset_info.json and examples.csv."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from xdc_tf.data import log_mel, records
from xdc_tf.data.dataset_info import AUDIO, VIDEO, DatasetInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.jpeg_sizes import MAX_PIXELS
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime import escaping

# Decoders overshoot full scale, 1; what is far beyond it is no audio.
_MAX_AMPLITUDE = 16.0
# Of a natural logarithm. Matrix products of other machines differ by some 1e-6.
_LOG_MEL_TOLERANCE = 1e-3
_NUM_CHANNELS = 3
_SIGNATURE = [tf.TensorSpec([None], tf.string)]


class CheckedRecord(NamedTuple):
    """A record's checks.

    Attributes:
        faults: what is wrong, one line each.
        example_index: of the record; None if it cannot be read.
        log_mel: [L, M] float32, None if there is none or one that cannot be used.
    """

    faults: list[str]
    example_index: int | None = None
    log_mel: np.ndarray | None = None


def check_record(
    serialized: bytes, info: DatasetInfo, rows: dict[int, ExampleRow]
) -> CheckedRecord:
    """Checks all that a record holds; every one of its JPEG images is decoded.

    Args:
        serialized: as it lies in its shard; any bytes.
        info: what dataset_info.json says.
        rows: the lines of examples.csv for its shard, by example_index.

    Returns:
        Its faults, and what checks of the whole data set need of it.
    """
    try:
        message = tf.train.SequenceExample.FromString(serialized)
        parsed = records.parse_example(
            tf.constant(serialized),
            num_filters=info.log_mel.num_filters,
            modalities=info.modalities,
            with_waveform=info.has_waveform,
        )
    except (DecodeError, tf.errors.OpError) as error:
        return CheckedRecord([f"cannot be parsed: {escaping.error_text(error)}"])
    values = {name: tensor.numpy() for name, tensor in parsed.items()}
    index = int(values["example_index"])
    faults = [*_list_faults(message, info), *_label_faults(values, message, info)]
    if index in rows:
        faults += _row_faults(values, info, rows[index])
    else:
        faults.append(f"examples.csv has no example_index {index} in this shard")
    start_us, end_us = int(values["start_us"]), int(values["end_us"])
    if not 0 <= start_us < end_us:
        faults.append(f"is from {start_us} to {end_us} microseconds")
    secs = (end_us - start_us) / 1e6
    if VIDEO in info.modalities:
        faults += _frame_faults(values, info, secs)
    usable_log_mel = None
    if AUDIO in info.modalities:
        log_mel_faults = [*_log_mel_faults(values["log_mel"], info, secs)]
        if not log_mel_faults:
            usable_log_mel = values["log_mel"]
        faults += log_mel_faults
    if info.has_waveform:
        faults += _waveform_faults(values["waveform"], usable_log_mel, info, secs)
    return CheckedRecord(faults, index, usable_log_mel)


def _list_faults(message: tf.train.SequenceExample, info: DatasetInfo) -> Iterator[str]:
    """Lists of what dataset_info.json says is not there."""
    expected = {
        records.FRAMES: VIDEO in info.modalities,
        records.LOG_MEL: AUDIO in info.modalities,
        records.WAVEFORM: info.has_waveform,
    }
    for name, steps in message.feature_lists.feature_list.items():
        if steps.feature and not expected.get(name, False):
            yield (
                f"holds {name}, with modalities={','.join(info.modalities)} and "
                f"has_waveform={info.has_waveform}"
            )


def _label_faults(
    values: dict, message: tf.train.SequenceExample, info: DatasetInfo
) -> Iterator[str]:
    """The label's number against its name, in both of the keys that hold it."""
    label = int(values["label"])
    if not records.NO_LABEL <= label < len(info.label_names):
        yield f"label {label} is none of the {len(info.label_names)} label_names"
        return
    expected = [] if label == records.NO_LABEL else [info.label_names[label].encode()]
    for key in (records.LABEL_TEXT, records.LABEL_STRING):
        texts = (
            list(message.context.feature[key].bytes_list.value)
            if key in message.context.feature
            else []
        )
        if texts != expected:
            yield (
                f"{key} is {_shown(texts)}, label {label} of label_names is "
                f"{_shown(expected)}"
            )


def _row_faults(values: dict, info: DatasetInfo, row: ExampleRow) -> Iterator[str]:
    """Differences from the record's line of examples.csv."""
    video_id, label = values["video_id"], int(values["label"])
    if video_id != row.video_id.encode():
        yield f"video_id is {_shown([video_id])}, examples.csv says {row.video_id!r}"
    known = 0 <= label < len(info.label_names)
    label_text = info.label_names[label] if known else ""
    if label_text != row.label:
        yield f"label is {label_text!r}, examples.csv says {row.label!r}"
    for name in ("start", "end"):
        secs, written = int(values[f"{name}_us"]) / 1e6, getattr(row, f"{name}_secs")
        if not abs(secs - written) < 1.5e-6:
            yield f"{name} is {secs} s, examples.csv says {written} s"


def _frame_faults(values: dict, info: DatasetInfo, secs: float) -> Iterator[str]:
    """Number, rate and size of the frames, each of which is decoded."""
    frames, fps = values["frames_jpeg"], values["frame_rate"]
    height, width = int(values["height"]), int(values["width"])
    if fps != np.float32(info.fps):
        yield f"frame_rate is {fps}, dataset_info.json says {info.fps}"
    if not abs(len(frames) - secs * info.fps) <= 0.5:
        yield f"has {len(frames)} frames for {secs:.6f} s at {info.fps} per second"
    if min(height, width) != info.short_side or height * width > MAX_PIXELS:
        yield (
            f"height and width are {height} and {width}, dataset_info.json says "
            f"short_side={info.short_side}"
        )
        return  # a decoder takes the memory that a header asks for
    yield from _jpeg_faults(frames, height=height, width=width)


def _log_mel_faults(
    values: np.ndarray, info: DatasetInfo, secs: float
) -> Iterator[str]:
    """Number of rows and range of the log-mel [L, M]."""
    settings = info.log_mel
    expected = {
        num_samples // settings.hop_samples
        for num_samples in _lengths(secs, settings.sample_rate_hz)
    }
    if len(values) not in expected:
        yield (
            f"log-mel has {len(values)} rows for {secs:.6f} s, which is "
            f"{' or '.join(map(str, sorted(expected)))}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        yield f"log-mel has values that are not finite, first in row {row}"
        return
    low, high = _log_mel_range(settings)
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.argmax(outside.any(axis=1)))
        yield (
            f"log-mel has values outside {low:.2f} to {high:.2f}, first in row {row}: "
            f"{values[row].min():.2f} to {values[row].max():.2f}"
        )


def _lengths(secs: float, sample_rate_hz: int) -> set[int]:
    """Samples of so many seconds: one number, or two where rounding decides."""
    # Start and end are whole microseconds.
    slack_secs = 2e-6
    return {
        round((secs + slack) * sample_rate_hz) for slack in (-slack_secs, slack_secs)
    }


def _log_mel_range(settings: LogMelSettings) -> tuple[float, float]:
    """Of digital silence and of any waveform of _MAX_AMPLITUDE; with the tolerance."""
    # A Hann window's sum is half its length; no filter passes a bin on by more than 1.
    largest_power = (_MAX_AMPLITUDE * settings.window_samples / 2) ** 2
    num_bins = settings.fft_size // 2 + 1
    return (
        math.log(settings.log_offset) - _LOG_MEL_TOLERANCE,
        math.log(largest_power * num_bins + settings.log_offset) + _LOG_MEL_TOLERANCE,
    )


def _waveform_faults(
    waveform: np.ndarray, stored: np.ndarray | None, info: DatasetInfo, secs: float
) -> Iterator[str]:
    """Length and range of the waveform [samples], and whether the log-mel is its."""
    settings = info.log_mel
    if len(waveform) not in _lengths(secs, settings.sample_rate_hz):
        yield (
            f"waveform has {len(waveform)} samples for {secs:.6f} s at "
            f"{settings.sample_rate_hz} Hz"
        )
    if not np.isfinite(waveform).all():
        yield "waveform has samples that are not finite"
        return
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > _MAX_AMPLITUDE:
        yield f"waveform has a peak of {peak:g}, full scale is 1"
    if stored is None:
        return
    computed = log_mel.log_mel(waveform, settings)
    if computed.shape != stored.shape:
        yield f"log-mel is of shape {stored.shape}, its waveform's of {computed.shape}"
        return
    difference = np.abs(computed - stored).max(initial=0.0)
    if difference > _LOG_MEL_TOLERANCE:
        yield f"log-mel differs from its waveform's by up to {difference:.3g}"


def _shown(texts: list[bytes]) -> str:
    return " and ".join(repr(text.decode(errors="replace")) for text in texts) or "none"


def _jpeg_faults(frames: np.ndarray, *, height: int, width: int) -> Iterator[str]:
    """Decodes all images, by the operation that training decodes with.

    Yields what is wrong with each image that is none, or of another size.

    Args:
        frames: [T] bytes.
        height: pixels that each should have.
        width: the same.
    """
    expected = (height, width, _NUM_CHANNELS)
    # All at once takes 40 % of the time of one by one, but does not say which is wrong.
    try:
        frames = np.asarray(frames, object)
        # Sizes first: a header can promise gigabytes of pixels.
        if np.all(_sizes(frames).numpy() == expected):
            _decoded_sizes(frames)
            return
    except tf.errors.OpError:
        pass  # named below, with the frame's number
    for number, jpeg in enumerate(frames):
        try:
            size = tuple(_size(jpeg).numpy().tolist())
            if size != expected:
                yield (
                    f"frame {number} has height, width, channels {size}, the record "
                    f"says {expected}"
                )
            else:
                _decoded_size(jpeg)
        except tf.errors.OpError as error:
            what = escaping.error_text(error)
            yield f"frame {number} of {len(jpeg)} bytes is no JPEG image: {what}"


def _size(jpeg: tf.Tensor | bytes) -> tf.Tensor:
    return tf.io.extract_jpeg_shape(jpeg)


def _decoded_size(jpeg: tf.Tensor | bytes) -> tf.Tensor:
    # The size is what keeps a graph from leaving out the decoding.
    return tf.shape(tf.io.decode_jpeg(jpeg, channels=_NUM_CHANNELS))


def _of_all(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    """[T] string -> [T, 3] int32, ten at a time."""

    @tf.function(input_signature=_SIGNATURE)
    def apply(frames: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            function, frames, fn_output_signature=tf.TensorSpec([3], tf.int32)
        )

    return apply


_sizes = _of_all(_size)
_decoded_sizes = _of_all(_decoded_size)
