import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import records

LOG_MEL = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
WAVEFORM = np.linspace(-1, 1, 10, dtype=np.float32)


def encode(**changed):
    values = {
        "example_index": 7,
        "data_path": "videos/ä.mp4",
        "video_id": "videos/ä.mp4#t=1.5,2",
        "video_items": [b"one", b"two"],
        "audio_rows": LOG_MEL,
        "start_us": 1_500_000,
        "end_us": 2_000_000,
        "frame_rate": 4.0,
        "height": 48,
        "width": 64,
        "labels": [3],
        "label_texts": ["dog barking"],
    }
    return records.encode_example(records.Example(**values | changed))


def test_every_value_comes_back():
    parsed = records.parse_example(
        tf.constant(encode(waveform=WAVEFORM)), num_filters=4, with_waveform=True
    )
    assert parsed["example_index"].numpy() == 7
    assert parsed["data_path"].numpy().decode() == "videos/ä.mp4"
    assert parsed["video_id"].numpy().decode() == "videos/ä.mp4#t=1.5,2"
    assert parsed["video_items"].numpy().tolist() == [b"one", b"two"]
    np.testing.assert_array_equal(parsed["audio_rows"], LOG_MEL)
    np.testing.assert_array_equal(parsed["waveform"], WAVEFORM)
    assert parsed["start_us"].numpy() == 1_500_000
    assert parsed["end_us"].numpy() == 2_000_000
    assert parsed["frame_rate"].numpy() == 4.0
    assert (parsed["height"].numpy(), parsed["width"].numpy()) == (48, 64)
    assert parsed["label"].numpy() == 3


def test_an_example_without_sound_has_no_key_of_it():
    example = tf.train.SequenceExample.FromString(encode(audio_rows=None))
    assert list(example.feature_lists.feature_list) == [records.FRAMES]


@pytest.mark.parametrize(
    ("modalities", "held", "left_out"),
    [
        (["video"], "video_items", "audio_rows"),
        (["audio"], "audio_rows", "video_items"),
    ],
)
def test_only_what_is_asked_for_is_parsed(modalities, held, left_out):
    both = records.parse_example(encode(), num_filters=4)
    parsed = records.parse_example(encode(), num_filters=4, modalities=modalities)
    assert set(both) - set(parsed) == {left_out}
    np.testing.assert_array_equal(parsed[held], both[held])


def test_an_example_without_sound_parses_as_video():
    serialized = encode(audio_rows=None)
    parsed = records.parse_example(serialized, num_filters=4, modalities=["video"])
    assert parsed["video_items"].numpy().tolist() == [b"one", b"two"]


def test_an_example_without_label_parses_to_minus_one():
    serialized = encode(labels=(), label_texts=())
    assert records.parse_example(serialized, num_filters=4)["label"].numpy() == -1


def test_an_example_without_label_has_no_label_keys():
    example = tf.train.SequenceExample.FromString(encode(labels=(), label_texts=()))
    assert not [key for key in example.context.feature if "label" in key]


def test_indices_beyond_32_bits_survive():
    parsed = records.parse_example(encode(example_index=2**40 + 1), num_filters=4)
    assert parsed["example_index"].dtype == tf.int64
    assert parsed["example_index"].numpy() == 2**40 + 1


def test_parsing_inside_map_has_static_ranks_and_filters():
    dataset = tf.data.Dataset.from_tensors(encode()).map(
        lambda serialized: records.parse_example(serialized, num_filters=4)
    )
    spec = dataset.element_spec
    assert spec["audio_rows"].shape.as_list() == [None, 4]
    assert spec["video_items"].shape.as_list() == [None]
    assert spec["example_index"].shape.as_list() == []


def test_the_same_values_give_the_same_bytes():
    assert encode() == encode()


def test_readers_that_know_only_the_public_names_find_everything():
    context, lists = tf.io.parse_single_sequence_example(
        encode(waveform=WAVEFORM),
        context_features={
            "clip/data_path": tf.io.FixedLenFeature([], tf.string),
            "clip/start/timestamp": tf.io.FixedLenFeature([], tf.int64),
            "clip/end/timestamp": tf.io.FixedLenFeature([], tf.int64),
            "clip/label/index": tf.io.FixedLenFeature([], tf.int64),
            "clip/label/text": tf.io.FixedLenFeature([], tf.string),
            "clip/label/string": tf.io.FixedLenFeature([], tf.string),
            "image/frame_rate": tf.io.FixedLenFeature([], tf.float32),
            "image/height": tf.io.FixedLenFeature([], tf.int64),
            "image/width": tf.io.FixedLenFeature([], tf.int64),
            "clip/example_index": tf.io.FixedLenFeature([], tf.int64),
        },
        sequence_features={
            "image/encoded": tf.io.FixedLenSequenceFeature([], tf.string),
            "melspec/feature/floats": tf.io.FixedLenSequenceFeature([4], tf.float32),
            "WAVEFORM/feature/floats": tf.io.VarLenFeature(tf.float32),
        },
    )
    assert context["clip/label/text"].numpy() == b"dog barking"
    assert context["clip/label/string"].numpy() == b"dog barking"
    assert context["clip/start/timestamp"].numpy() == 1_500_000
    assert lists["image/encoded"].numpy().tolist() == [b"one", b"two"]
    np.testing.assert_array_equal(lists["melspec/feature/floats"], LOG_MEL)
    # The waveform is one step that holds all the samples.
    waveform = tf.sparse.to_dense(lists["WAVEFORM/feature/floats"])
    np.testing.assert_array_equal(waveform, WAVEFORM[None])


def test_several_labels_are_lists_of_the_keys_of_one():
    serialized = encode(labels=[3, 0], label_texts=["dog", "rain"])
    context = tf.train.SequenceExample.FromString(serialized).context.feature
    assert list(context["clip/label/index"].int64_list.value) == [3, 0]
    for key in ("clip/label/text", "clip/label/string"):
        assert list(context[key].bytes_list.value) == [b"dog", b"rain"]


def test_several_labels_parse_to_all_of_them_and_no_single_one():
    serialized = encode(labels=[3, 0], label_texts=["dog", "rain"])
    parsed = records.parse_example(serialized, num_filters=4)
    assert parsed["labels"].numpy().tolist() == [3, 0]
    assert parsed["label"].numpy() == -1
