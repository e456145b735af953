import copy

import numpy as np
import pytest

from configs import base
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.training import settings
from xdc_tf.training.configuration import from_mapping as read
from xdc_tf.training.schedules import Schedule

pytestmark = pytest.mark.once

INFO = DatasetInfo(
    manifest_sha256="0" * 64,
    num_rows=10,
    num_examples=10,
    num_quarantined=0,
    fps=30.0,
    short_side=128,
    jpeg_quality=90,
    min_secs=0.5,
    max_secs=60.0,
    has_waveform=False,
    rows_per_shard=10,
    log_mel=LogMelSettings(),
    log_mel_mean=-6.5,
    log_mel_std=2.5,
    label_names=(),
    shards=(),
)


@pytest.fixture
def config():
    return copy.deepcopy(base.get_config().to_dict())


def test_records_of_the_configs_log_mel_setting_pass(config):
    settings.check_log_mel(read(config), INFO, "records")


def test_each_differing_log_mel_setting_is_named_with_both_values(config):
    config["log_mel"]["num_filters"] = 64
    config["log_mel"]["hop_ms"] = 10.0
    with pytest.raises(ValueError) as error:
        settings.check_log_mel(read(config), INFO, "my/records")
    message = str(error.value)
    assert message.startswith("my/records was converted with another log-mel setting")
    assert "num_filters (40 in the records, 64 in the config)" in message
    assert "hop_ms (20.0 in the records, 10.0 in the config)" in message
    assert "window_ms" not in message


def test_a_clip_has_the_configs_shape_and_the_records_statistics(config):
    assert settings.clip(read(config), INFO) == ClipSettings(
        num_frames=8,
        fps=30.0,
        crop_size=112,
        crop_share=0.875,
        audio_secs=2.0,
        mel_hop_secs=0.02,
        num_mels=40,
        log_mel_mean=-6.5,
        log_mel_std=2.5,
    )


def test_architectures_are_the_configs_by_modality(config):
    config["video_encoder"] |= {"depth": 10, "width": 0.5}
    assert settings.architectures(read(config)) == {
        "video": ResNetSettings("r2plus1d", depth=10, width=0.5),
        "audio": ResNetSettings("resnet", depth=18, width=1.0),
    }


def test_features_are_harvested_if_the_config_says_so(config):
    assert not read(config).features.from_training
    config["features"]["source"] = "training"
    assert read(config).features.from_training


def test_layers_for_training_take_precision_and_synchronisation(config):
    config |= {"precision": "mixed_bfloat16", "synchronized_batch_norm": True}
    layers = settings.training_layers(read(config))
    assert (layers.dtype, layers.synchronized_batch_norm) == ("mixed_bfloat16", True)


def test_portable_layers_are_float32_with_local_batch_norm(config):
    config |= {"precision": "mixed_bfloat16", "synchronized_batch_norm": True}
    layers = settings.portable_layers(read(config))
    assert (layers.dtype, layers.synchronized_batch_norm) == ("float32", False)


def test_layers_take_batch_norm_weight_decay_and_seed_from_the_config(config):
    config |= {"seed": 7, "batch_norm_momentum": 0.8}
    config["optimizer"]["weight_decay"] = 0.25
    for layers in (
        settings.training_layers(read(config)),
        settings.portable_layers(read(config)),
    ):
        assert layers.seed == 7
        assert layers.batch_norm_momentum == 0.8
        assert layers.weight_decay == 0.25


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_lars_and_lamb_decay_weights_themselves_so_layers_do_not(name, config):
    config["optimizer"] |= {"name": name, "weight_decay": 0.25}
    assert settings.training_layers(read(config)).weight_decay == 0.0


def test_the_learning_rate_is_that_of_the_whole_batch_by_default(config):
    config["training"]["batch_size"] = 512
    config["optimizer"]["learning_rate"] = 0.01
    assert settings.schedule(read(config)).peak == 0.01


def test_the_learning_rate_grows_with_the_batch_from_its_reference(config):
    config["training"]["batch_size"] = 512
    config["optimizer"] |= {"learning_rate": 0.01, "reference_batch_size": 32}
    assert settings.schedule(read(config)).peak == pytest.approx(0.16)


def test_a_largest_share_under_the_mean_share_is_refused(config):
    config["health"]["max_cluster_share"] = 0.003
    with pytest.raises(ValueError, match="share=0.003 is less than .*num_clusters=256"):
        settings.check_health(read(config))


def test_the_schedule_is_the_optimizers(config):
    config["optimizer"] |= {"schedule": "steps", "decay_shares": [0.5, 0.8]}
    assert settings.schedule(read(config)) == Schedule(
        name="steps",
        peak=0.01,
        warmup_steps=100,
        decay_shares=(0.5, 0.8),
        decay_factor=0.1,
    )


INDICES = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9, 11])  # rows 3 and 10 have no example


def held_out(seed=0, indices=INDICES, share=0.3):
    rows = settings.held_out_rows(indices, num_rows=12, share=share, seed=seed)
    assert rows.shape == (12,) and rows.dtype == bool
    return np.flatnonzero(rows).tolist()


def test_the_held_out_rows_are_a_share_of_the_examples():
    for seed in range(20):
        assert len(held_out(seed)) == 3
        assert set(held_out(seed)) <= set(INDICES.tolist())


def test_the_held_out_rows_follow_from_the_seed():
    assert held_out(1) == held_out(1)
    assert len({tuple(held_out(seed)) for seed in range(10)}) > 1


def test_the_held_out_rows_do_not_depend_on_the_order_of_the_examples():
    assert held_out(indices=INDICES[::-1]) == held_out()


def test_a_share_of_zero_holds_nothing_out():
    assert held_out(share=0.0) == []
