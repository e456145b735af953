"""One training example as a tf.train.SequenceExample: keys, encoding, parsing.

Key names and layouts are those of MediaSequence and DMVR, so that readers built for
these find frames, log-mel, waveform, times and labels without being told.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from xdc_tf.data.dataset_info import (
    AUDIO,
    MODALITIES,
    NO_LABEL,
    VIDEO,
    order_modalities,
)

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
FRAMES = "image/encoded"
LOG_MEL = "melspec/feature/floats"
WAVEFORM = "WAVEFORM/feature/floats"

# Of keys that not every record has.
_DEFAULTS = {FRAME_RATE: 0.0, HEIGHT: 0, WIDTH: 0, LABEL_INDEX: NO_LABEL}


def encode_example(
    *,
    example_index: int,
    data_path: str,
    video_id: str,
    frames_jpeg: Sequence[bytes] = (),
    start_us: int,
    end_us: int,
    frame_rate: float = 0.0,
    height: int = 0,
    width: int = 0,
    label: int = NO_LABEL,
    label_text: str = "",
    log_mel: np.ndarray | None = None,
    waveform: np.ndarray | None = None,
) -> bytes:
    """Serializes one example; the same arguments always give the same bytes.

    Args:
        example_index: row number in the manifest.
        data_path: the file, as the manifest names it.
        video_id: name of this segment, unique in the manifest.
        frames_jpeg: T JPEG images of height x width at frame_rate; without any, none of
            the keys of images is written.
        start_us: start of the segment in its file, microseconds.
        end_us: end of the segment in its file, microseconds.
        frame_rate: frames per second.
        height: pixels.
        width: pixels.
        label: index of the label, or -1 for none (then no label key is written).
        label_text: the label's name.
        log_mel: [L, M] float32, written when given.
        waveform: [samples] float32 in [-1, 1], written when given.

    Returns:
        The serialized tf.train.SequenceExample.
    """
    context = {
        DATA_PATH: _bytes_feature(data_path),
        MEDIA_ID: _bytes_feature(video_id),
        EXAMPLE_INDEX: _int64_feature(example_index),
        START_TIMESTAMP: _int64_feature(start_us),
        END_TIMESTAMP: _int64_feature(end_us),
    }
    feature_lists = {}
    if frames_jpeg:
        context[FRAME_RATE] = _float_feature([frame_rate])
        context[HEIGHT] = _int64_feature(height)
        context[WIDTH] = _int64_feature(width)
        feature_lists[FRAMES] = [_bytes_feature(jpeg) for jpeg in frames_jpeg]
    if label != NO_LABEL:
        context[LABEL_INDEX] = _int64_feature(label)
        # Readers differ in which of the two they look for.
        context[LABEL_TEXT] = _bytes_feature(label_text)
        context[LABEL_STRING] = _bytes_feature(label_text)
    if log_mel is not None:
        feature_lists[LOG_MEL] = [_float_feature(row.tolist()) for row in log_mel]
    if waveform is not None:
        # One step that holds all the samples, as DMVR writes and reads it.
        feature_lists[WAVEFORM] = [_float_feature(waveform.tolist())]
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={
                key: tf.train.FeatureList(feature=steps)
                for key, steps in feature_lists.items()
            }
        ),
    )
    # Maps serialize in hash order unless told otherwise.
    return example.SerializeToString(deterministic=True)


def parse_example(
    serialized: tf.Tensor,
    *,
    num_filters: int,
    modalities: Sequence[str] = MODALITIES,
    with_waveform: bool = False,
) -> dict[str, tf.Tensor]:
    """Parses one serialized example, eagerly or inside `tf.data.Dataset.map`.

    Args:
        serialized: scalar string.
        num_filters: mel filters M of the records, static.
        modalities: what to return of frames and log-mel; the records must hold it
            (dataset_info.check_modalities).
        with_waveform: also return the waveform; the records must hold it.

    Returns:
        Scalars example_index int64, label int64 (-1 when absent), data_path string,
        video_id string, start_us int64, end_us int64, frame_rate float32, height int64,
        width int64 (these three 0 where there are no frames). "video" adds frames_jpeg
        [T] string, "audio" log_mel [L, M] float32, with_waveform waveform [samples]
        float32.

    Raises:
        ValueError: on an unknown modality, or none.
    """
    modalities = order_modalities(modalities)
    scalars = {
        "data_path": (DATA_PATH, tf.string),
        "video_id": (MEDIA_ID, tf.string),
        "example_index": (EXAMPLE_INDEX, tf.int64),
        "start_us": (START_TIMESTAMP, tf.int64),
        "end_us": (END_TIMESTAMP, tf.int64),
        "frame_rate": (FRAME_RATE, tf.float32),
        "height": (HEIGHT, tf.int64),
        "width": (WIDTH, tf.int64),
    }
    context_features = {
        key: tf.io.FixedLenFeature([], dtype) for key, dtype in scalars.values()
    }
    for key, default in _DEFAULTS.items():
        dtype = tf.float32 if key == FRAME_RATE else tf.int64
        context_features[key] = tf.io.FixedLenFeature([], dtype, default_value=default)
    sequence_features = {}
    if VIDEO in modalities:
        sequence_features[FRAMES] = tf.io.FixedLenSequenceFeature([], tf.string)
    if AUDIO in modalities:
        sequence_features[LOG_MEL] = tf.io.FixedLenSequenceFeature(
            [num_filters], tf.float32
        )
    if with_waveform:
        sequence_features[WAVEFORM] = tf.io.VarLenFeature(tf.float32)
    context, sequences = tf.io.parse_single_sequence_example(
        serialized,
        context_features=context_features,
        sequence_features=sequence_features,
    )
    parsed = {name: context[key] for name, (key, _) in scalars.items()}
    parsed["label"] = context[LABEL_INDEX]
    if VIDEO in modalities:
        parsed["frames_jpeg"] = sequences[FRAMES]
    if AUDIO in modalities:
        parsed["log_mel"] = sequences[LOG_MEL]
    if with_waveform:
        parsed["waveform"] = sequences[WAVEFORM].values
    return parsed


def _bytes_feature(value: bytes | str) -> tf.train.Feature:
    if isinstance(value, str):
        value = value.encode()
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64_feature(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))


def _float_feature(values: Sequence[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
