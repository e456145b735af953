"""Files of records -> examples, in tf.data."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import record_files, records
from xdc_tf.data.dataset_info import AUDIO, MODALITIES, VIDEO, order_modalities


class RecordSource(NamedTuple):
    """How records are read.

    Attributes:
      open: from a file's path, a scalar string, to a data set of its records.
      parse: from one of them to an example, as of records.parse_example or, for local
        files, of read_example.
    """

    open: Callable[[tf.Tensor], tf.data.Dataset]
    parse: Callable[..., dict[str, tf.Tensor]]


def record_source(
    shards: Sequence[str], *, num_filters: int, modalities: Sequence[str] = MODALITIES
) -> RecordSource:
    """Local files are read where clips need them, remote ones as a whole.

    Args:
      shards: the files' paths.
      num_filters: see records.parse_example.
      modalities: see records.parse_example.

    Raises:
      ValueError: on an unknown modality, or none.
    """
    values = {"num_filters": num_filters, "modalities": order_modalities(modalities)}
    if any("://" in path for path in shards):
        return RecordSource(
            tf.data.TFRecordDataset, functools.partial(records.parse_example, **values)
        )

    def open_local(path):
        spans = tf.numpy_function(
            lambda path: record_files.record_spans(_text(path)),
            [path],
            tf.int64,
            stateful=False,
        )
        spans = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(spans, [None, 2]))
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(path).repeat(), spans))

    return RecordSource(open_local, functools.partial(read_example, **values))


def read_example(
    path: tf.Tensor, span: tf.Tensor, *, num_filters: int, modalities: Sequence[str]
) -> dict[str, tf.Tensor]:
    """Like records.parse_example, but of the frames it tells only where they are.

    Args:
      path: scalar string, a local file.
      span: [2] int64, one of record_files.record_spans.
      num_filters: see records.parse_example.
      modalities: see records.parse_example.

    Returns:
      As records.parse_example; in place of frames_jpeg "path", and "frame_spans" [T, 2]
      int64 as of record_files.read_record.
    """
    others = [modality for modality in modalities if modality != VIDEO]

    def read(path, span):
        return record_files.read_record(
            _text(path),
            span,
            frames_key=records.FRAMES,
            other_keys=[records.LOG_MEL] if AUDIO in others else [],
        )

    rest, frame_spans = tf.numpy_function(
        read, [path, span], [tf.string, tf.int64], stateful=False
    )
    example = records.parse_features(
        tf.ensure_shape(rest, []), num_filters=num_filters, modalities=others
    )
    if VIDEO in modalities:
        example["path"] = path
        example["frame_spans"] = tf.ensure_shape(frame_spans, [None, 2])
    return example


def with_jpegs(clip: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A clip with "jpegs" [n] string in place of "path" and "frame_spans" [n, 2]."""
    if "frame_spans" not in clip:
        return clip
    others = dict(clip)
    path, spans = others.pop("path"), others.pop("frame_spans")
    jpegs = tf.numpy_function(
        lambda path, spans: np.array(
            record_files.read_frames(_text(path), spans), object
        ),
        [path, spans],
        tf.string,
        stateful=False,
    )
    return {**others, "jpegs": tf.ensure_shape(jpegs, spans.shape[:1])}


def _text(path: Any) -> str:
    """Of what a numpy_function gets for a scalar string: bytes, eagerly an array."""
    return np.asarray(path, object).item().decode()
