"""One training example as a tf.train.SequenceExample: keys, encoding, parsing.

Key names and layouts are those of MediaSequence and DMVR, so that readers built for
these find frames, log-mel, waveform, times and labels as they are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import payloads
from xdc_tf.data.dataset_info import NO_LABEL, DatasetInfo, order_modalities
from xdc_tf.data.payloads import AUDIO, MODALITIES, VIDEO

DATA_PATH = "clip/data_path"
MEDIA_ID = "clip/media_id"
EXAMPLE_INDEX = "clip/example_index"
START_TIMESTAMP = "clip/start/timestamp"
END_TIMESTAMP = "clip/end/timestamp"
LABEL_INDEX = "clip/label/index"
LABEL_TEXT = "clip/label/text"
LABEL_STRING = "clip/label/string"
FRAME_RATE = "image/frame_rate"
HEIGHT = "image/height"
WIDTH = "image/width"
FRAMES = payloads.PAYLOADS["jpeg"].key
LOG_MEL = payloads.PAYLOADS["log_mel"].key
WAVEFORM = "WAVEFORM/feature/floats"
# The lists of the first payload of each modality.
KEYS = {VIDEO: FRAMES, AUDIO: LOG_MEL}

# Scalars of parse_example: key, dtype, and the value where a record may lack the key.
_SCALARS = {
    "data_path": (DATA_PATH, tf.string, None),
    "video_id": (MEDIA_ID, tf.string, None),
    "example_index": (EXAMPLE_INDEX, tf.int64, None),
    "start_us": (START_TIMESTAMP, tf.int64, None),
    "end_us": (END_TIMESTAMP, tf.int64, None),
    "frame_rate": (FRAME_RATE, tf.float32, 0.0),
    "height": (HEIGHT, tf.int64, 0),
    "width": (WIDTH, tf.int64, 0),
}


class Example(NamedTuple):
    """What a record holds.

    Attributes:
        example_index: row number in the manifest.
        data_path: the file, as the manifest names it.
        video_id: name of this segment, unique in the manifest.
        start_us: start of the segment in its file, microseconds.
        end_us: end of the segment in its file, microseconds.
        video_items: of a payload of video: T JPEG images of height x width at
            frame_rate, or others; without any, none of the keys of images is written.
        frame_rate: frames per second.
        height: pixels.
        width: pixels.
        labels: indices of the labels; without any no label key is written.
        label_texts: their names.
        audio_rows: [L, D] float32 of a payload of audio, the log-mel or another; None:
            no key of it is written.
        waveform: [samples] float32 in [-1, 1]; None: no key of it is written.
        keys: of the items' and the rows' lists, by modality.
    """

    example_index: int
    data_path: str
    video_id: str
    start_us: int
    end_us: int
    video_items: Sequence[bytes] = ()
    frame_rate: float = 0.0
    height: int = 0
    width: int = 0
    labels: Sequence[int] = ()
    label_texts: Sequence[str] = ()
    audio_rows: np.ndarray | None = None
    waveform: np.ndarray | None = None
    keys: Mapping[str, str] = KEYS


def encode_example(example: Example) -> bytes:
    """The serialized tf.train.SequenceExample; equal examples give equal bytes."""
    context = {
        DATA_PATH: _bytes_feature(example.data_path),
        MEDIA_ID: _bytes_feature(example.video_id),
        EXAMPLE_INDEX: _int64_feature(example.example_index),
        START_TIMESTAMP: _int64_feature(example.start_us),
        END_TIMESTAMP: _int64_feature(example.end_us),
    }
    feature_lists = {}
    if example.video_items:
        context[FRAME_RATE] = _float_feature([example.frame_rate])
        context[HEIGHT] = _int64_feature(example.height)
        context[WIDTH] = _int64_feature(example.width)
        feature_lists[example.keys[VIDEO]] = [
            _bytes_feature(item) for item in example.video_items
        ]
    if example.labels:
        context[LABEL_INDEX] = _int64_feature(*example.labels)
        # Readers differ in which of the two they look for.
        context[LABEL_TEXT] = _bytes_feature(*example.label_texts)
        context[LABEL_STRING] = _bytes_feature(*example.label_texts)
    if example.audio_rows is not None:
        feature_lists[example.keys[AUDIO]] = [
            _float_feature(row.tolist()) for row in example.audio_rows
        ]
    if example.waveform is not None:
        # One step that holds all the samples, as DMVR writes and reads it.
        feature_lists[WAVEFORM] = [_float_feature(example.waveform.tolist())]
    serializable = tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={
                key: tf.train.FeatureList(feature=steps)
                for key, steps in feature_lists.items()
            }
        ),
    )
    # Maps serialize in hash order by default.
    return serializable.SerializeToString(deterministic=True)


def parse_example(
    serialized: tf.Tensor,
    *,
    num_filters: int,
    modalities: Sequence[str] = MODALITIES,
    with_waveform: bool = False,
    keys: Mapping[str, str] = KEYS,
) -> dict[str, tf.Tensor]:
    """Parses one serialized example, eagerly or inside `tf.data.Dataset.map`.

    Args:
        serialized: scalar string.
        num_filters: values of a row of audio, M of the log-mel, static.
        modalities: what to return; the records must hold it
            (dataset_info.check_modalities).
        with_waveform: also return the waveform; the records must hold it.
        keys: of the items' and the rows' lists, by modality.

    Returns:
        Scalars example_index int64, data_path string, video_id string, start_us int64,
        end_us int64, frame_rate float32, height int64, width int64 (these three 0 where
        there are no frames), label int64 (-1 where there is none, or several), and
        labels [number of labels] int64. "video" adds video_items [T] string, "audio"
        audio_rows [L, M] float32, with_waveform waveform [samples] float32.

    Raises:
        ValueError: on an unknown modality, or none.
    """
    modalities = order_modalities(modalities)
    context_features = {
        key: tf.io.FixedLenFeature([], dtype, default_value=default)
        for key, dtype, default in _SCALARS.values()
    }
    context_features[LABEL_INDEX] = tf.io.VarLenFeature(tf.int64)
    sequence_features = {}
    if VIDEO in modalities:
        sequence_features[keys[VIDEO]] = tf.io.FixedLenSequenceFeature([], tf.string)
    if AUDIO in modalities:
        sequence_features[keys[AUDIO]] = tf.io.FixedLenSequenceFeature(
            [num_filters], tf.float32
        )
    if with_waveform:
        sequence_features[WAVEFORM] = tf.io.VarLenFeature(tf.float32)
    context, sequences = tf.io.parse_single_sequence_example(
        serialized,
        context_features=context_features,
        sequence_features=sequence_features,
    )
    parsed = {name: context[key] for name, (key, *_) in _SCALARS.items()}
    labels = parsed["labels"] = context[LABEL_INDEX].values
    parsed["label"] = tf.where(
        tf.size(labels) == 1,
        tf.reduce_max(labels),
        tf.constant(NO_LABEL, tf.int64),
    )
    if VIDEO in modalities:
        parsed["video_items"] = sequences[keys[VIDEO]]
    if AUDIO in modalities:
        parsed["audio_rows"] = sequences[keys[AUDIO]]
    if with_waveform:
        parsed["waveform"] = sequences[WAVEFORM].values
    return parsed


def parse_record(serialized: tf.Tensor, info: DatasetInfo) -> dict[str, tf.Tensor]:
    """All that a record of a directory holds, see parse_example."""
    audio = payloads.stored(info, AUDIO)
    return parse_example(
        serialized,
        num_filters=audio.row.row_length(audio.settings),
        modalities=info.modalities,
        with_waveform=info.has_waveform,
        keys=payloads.keys(info),
    )


def _bytes_feature(*values: bytes | str) -> tf.train.Feature:
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


def _int64_feature(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=map(int, values)))


def _float_feature(values: Sequence[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
