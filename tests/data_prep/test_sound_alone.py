"""Sound files -> records of audio alone -> clips, features and training."""

import numpy as np
import odd_media
import pytest
import tensorflow as tf

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, pipeline, record_index, record_layout, records
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.training.pretrain import pretrain

CLIP = ClipSettings(
    num_frames=4,
    fps=8.0,
    crop_size=16,
    crop_share=0.875,
    audio_secs=0.5,
    mel_hop_secs=0.02,
    num_mels=40,
    log_mel_mean=0.0,
    log_mel_std=1.0,
)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Records of 24 recordings as wav and flac, of two classes."""
    folder = tmp_path_factory.mktemp("sounds")
    lines = ["path,label"]
    for number in range(24):
        name = f"{number}.{('wav', 'flac')[number % 2]}"
        hz = 400.0 + 40 * number
        odd_media.write(
            folder / name,
            video=None,
            audio=("pcm_s16le", "flac")[number % 2],
            layout="mono",
            rate_hz=44100,
            waveform=odd_media.clicks(1.5, 44100, hz=hz),
        )
        lines.append(f"{name},{('low', 'high')[number >= 12]}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    settings = ConversionSettings(modalities=("audio",))
    convert_manifest(
        str(folder / "manifest.csv"),
        str(folder / "records"),
        settings=settings,
        pool=PoolSettings(1),
        rows_per_shard=8,
    )
    return folder / "records"


def test_a_record_of_sound_has_no_keys_of_images(sounds):
    info = dataset_info.read_dataset_info(str(sounds))
    path = dataset_info.shard_paths(str(sounds), info)[0]
    serialized = next(tf.data.TFRecordDataset(path).as_numpy_iterator())
    example = tf.train.SequenceExample.FromString(serialized)
    keys = [*example.context.feature, *example.feature_lists.feature_list]
    assert not [key for key in keys if key.startswith("image/")]
    parsed = records.parse_example(serialized, num_filters=40, modalities=("audio",))
    assert (int(parsed["height"]), float(parsed["frame_rate"])) == (0, 0.0)
    assert int(parsed["end_us"]) == 1_500_000
    assert parsed["audio_rows"].shape == (75, 40)


def test_an_index_of_sound_has_no_frames(sounds):
    info = dataset_info.read_dataset_info(str(sounds))
    path = dataset_info.shard_paths(str(sounds), info)[0]
    for serialized in tf.data.TFRecordDataset(path + record_index.SUFFIX):
        entry = record_layout.parse_entry(serialized)
        assert entry.item_positions.shape == entry.item_bytes.shape == (0,)
        assert int(entry.num_rows) == 75


def test_clips_of_sound_are_cut_from_its_log_mel(sounds):
    info = dataset_info.read_dataset_info(str(sounds))
    (path, *_) = dataset_info.shard_paths(str(sounds), info)
    batches = pipeline.evaluation_batches(
        ClipSource([path], CLIP, ("audio",)), batch_size=8
    )
    (batch,) = batches
    assert batch["audio"].shape == (8, 25, 40, 1)
    serialized = next(tf.data.TFRecordDataset(path).as_numpy_iterator())
    whole = records.parse_example(serialized, num_filters=40, modalities=("audio",))
    np.testing.assert_array_equal(batch["audio"][0, ..., 0], whole["audio_rows"][25:50])


def test_encoders_of_sound_are_pretrained_on_sound_alone(
    sounds, new_tiny_config, tmp_path
):
    config = new_tiny_config() | {"method": "same_audio", "num_rounds": 1}
    pretrain(
        config,
        workdir=str(tmp_path / "run"),
        records_dir=str(sounds),
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
    assert (tmp_path / "run" / "audio_encoder.keras").exists()
