import dataclasses
import json
import math
import re

import numpy as np
import pytest

from configs import base, synthetic, transformers
from xdc_tf.data import dataset_info
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.training import configuration, run
from xdc_tf.training.schedules import Schedule

pytestmark = pytest.mark.once


def keys(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


KEYS = sorted(keys(base.get_config().to_dict()))


@pytest.fixture
def config():
    return base.get_config().to_dict()


def put(config, key, value):
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    config[name] = value


@pytest.mark.parametrize("recipe", [base, synthetic, transformers])
def test_a_recipe_and_its_configuration_have_the_same_values(recipe):
    values = recipe.get_config().to_dict()
    config = configuration.from_mapping(values)
    assert configuration.to_mapping(config) == values


def test_files_of_a_configuration_give_the_same_one(config):
    made = configuration.from_mapping(config)
    stored = json.loads(json.dumps(configuration.to_mapping(made)))
    assert configuration.from_mapping(stored) == made


def test_a_configuration_made_by_hand_checks_itself():
    assert configuration.Config(seed=3).seed == 3
    with pytest.raises(ValueError, match=r"config.seed=-1 must be a whole number"):
        configuration.Config(seed=-1)
    with pytest.raises(ValueError, match=r"config.kmeans.num_clusters=1 must be"):
        configuration.Config(kmeans=KMeansSettings(num_clusters=1))
    with pytest.raises(ValueError, match=r"config.video_encoder.depth=19 must be"):
        encoder = ResNetSettings("r2plus1d", 19, 1.0)
        configuration.Config(video_encoder=encoder)
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration.Config().seed = 1


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, math.nan, -1, [], {"a": 1}, "no such name"])
def test_a_value_that_no_key_has_is_refused_by_key_value_and_range(config, key, value):
    if (
        key in ("name", "init_from", "labels.first_from", "labels.features_from")
        and value == "no such name"
    ) or (
        (key, value)
        in (
            ("optimizer.decay_shares", []),
            ("kmeans.head_clusters", []),
            ("clip.log_mel_mean", -1),
        )
    ):
        pytest.skip("in its range")
    put(config, key, value)
    with pytest.raises(ValueError, match=f"config.{key}.*must (be|have)") as refusal:
        configuration.from_mapping(config)
    assert str(value)[:5] in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_rounds", 0),
        ("log_every_steps", 0),
        ("checkpoint_every_steps", 0),
        ("training.shuffle_buffer", 0),
        ("training.batch_size", 0),
        ("training.held_out_share", 1.0),
        ("training.accumulate_steps", 0),
        ("checkpoints.keep", 0),
        ("clip.audio_secs", 1e9),
        ("clip.num_frames", 0),
        ("clip.crop_share", 0.0),
        ("clip.video_mean", (0.5,)),
        ("clip.video_std", ("0.2", "0.2", "0.2")),
        ("clip.video_std", (0.2, 0.0, 0.2)),
        ("batch_norm_momentum", 1.5),
        ("optimizer.learning_rate", math.inf),
        ("optimizer.momentum", 1.0),
        ("kmeans.tolerance", 1.0),
        ("kmeans.num_clusters", 2.0),
        ("seed", True),
        ("seed", 2**31),
        ("video_encoder.width", 65.0),
        ("audio_encoder.depth", 19),
        ("profile_steps", (1, 2, 3)),
    ],
)
def test_a_value_beside_its_range_is_refused(config, key, value):
    put(config, key, value)
    shown = value if isinstance(value, tuple) else repr(value)
    told = re.escape(f"config.{key}={shown} ")
    with pytest.raises(ValueError, match=f"{told}must be"):
        configuration.from_mapping(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip.crop_share", 1),
        ("training.held_out_share", 0),
        ("optimizer.decay_shares", []),
        ("seed", 2**31 - 1),
        ("kmeans.pca_components", 0),
    ],
)
def test_the_ends_of_a_range_are_in_it(config, key, value):
    put(config, key, value)
    configuration.from_mapping(config)


def test_a_key_that_is_missing_or_unknown_is_named(config):
    del config["training"]["patience"]
    with pytest.raises(ValueError, match="config.training.patience is missing"):
        configuration.from_mapping(config)
    configuration.of_encoders(config)
    config["training"]["patience"] = 0
    config["training"]["patients"] = 0
    with pytest.raises(
        ValueError,
        match=r"config.training.patients is no key .*; did you mean patience\?",
    ):
        configuration.from_mapping(config)
    configuration.of_encoders(config)


@pytest.mark.parametrize("value", [3, None, [], "xdc"])
def test_a_configuration_or_a_section_that_is_no_mapping_is_refused(config, value):
    with pytest.raises(ValueError, match="a configuration is no"):
        configuration.from_mapping(value)
    with pytest.raises(ValueError, match="config.training=.* must have keys"):
        configuration.from_mapping(config | {"training": value})


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


def check_audio(values, directory):
    config = configuration.from_mapping(values)
    audio = configuration.audio_payload(config, None)
    dataset_info.check_audio(INFO, audio, config.log_mel.sample_rate_hz, directory)


def test_records_of_the_configs_log_mel_setting_pass(config):
    check_audio(config, "records")


def test_each_differing_log_mel_setting_is_named_with_both_values(config):
    config["log_mel"]["num_filters"] = 64
    config["log_mel"]["hop_ms"] = 10.0
    with pytest.raises(ValueError) as error:
        check_audio(config, "my/records")
    message = str(error.value)
    assert message.startswith("my/records was converted with another log-mel setting")
    assert "num_filters (40 in the records, 64 in the config)" in message
    assert "hop_ms (20.0 in the records, 10.0 in the config)" in message
    assert "window_ms" not in message


def test_a_clip_has_the_configs_shape_and_the_records_statistics(config):
    assert configuration.clip(configuration.from_mapping(config), INFO) == ClipSettings(
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


def test_a_config_may_state_the_normalisation_of_log_mel_itself(config):
    config["clip"] |= {"log_mel_mean": -4.0, "log_mel_std": 9.0}
    clip = configuration.clip(configuration.from_mapping(config), INFO)
    assert (clip.log_mel_mean, clip.log_mel_std) == (-4.0, 9.0)


def test_architectures_are_the_configs_by_modality(config):
    config["video_encoder"] |= {"depth": 10, "width": 0.5}
    assert configuration.architectures(configuration.from_mapping(config)) == {
        "video": ResNetSettings("r2plus1d", depth=10, width=0.5),
        "audio": ResNetSettings("resnet", depth=18, width=1.0),
    }


def test_features_are_harvested_if_the_config_says_so(config):
    assert not configuration.from_mapping(config).features.from_training
    config["features"]["source"] = "training"
    assert configuration.from_mapping(config).features.from_training


def test_layers_for_training_take_precision_and_synchronisation(config):
    config |= {"precision": "mixed_bfloat16", "synchronized_batch_norm": True}
    layers = configuration.training_layers(configuration.from_mapping(config))
    assert (layers.dtype, layers.synchronized_batch_norm) == ("mixed_bfloat16", True)


def test_portable_layers_are_float32_with_local_batch_norm(config):
    config |= {"precision": "mixed_bfloat16", "synchronized_batch_norm": True}
    layers = configuration.portable_layers(configuration.from_mapping(config))
    assert (layers.dtype, layers.synchronized_batch_norm) == ("float32", False)


def test_layers_take_batch_norm_weight_decay_and_seed_from_the_config(config):
    config |= {"seed": 7, "batch_norm_momentum": 0.8}
    config["optimizer"]["weight_decay"] = 0.25
    for layers in (
        configuration.training_layers(configuration.from_mapping(config)),
        configuration.portable_layers(configuration.from_mapping(config)),
    ):
        assert layers.seed == 7
        assert layers.batch_norm_momentum == 0.8
        assert layers.weight_decay == 0.25


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_lars_and_lamb_decay_weights_themselves_so_layers_do_not(name, config):
    config["optimizer"] |= {"name": name, "weight_decay": 0.25}
    assert (
        configuration.training_layers(configuration.from_mapping(config)).weight_decay
        == 0.0
    )


def test_the_learning_rate_is_that_of_the_whole_batch_by_default(config):
    config["training"]["batch_size"] = 512
    config["optimizer"]["learning_rate"] = 0.01
    assert configuration.schedule(configuration.from_mapping(config)).peak == 0.01


def test_the_learning_rate_grows_with_the_batch_from_its_reference(config):
    config["training"]["batch_size"] = 512
    config["optimizer"] |= {"learning_rate": 0.01, "reference_batch_size": 32}
    assert configuration.schedule(
        configuration.from_mapping(config)
    ).peak == pytest.approx(0.16)


def test_a_largest_share_under_the_mean_share_is_refused(config):
    config["health"]["max_cluster_share"] = 0.003
    with pytest.raises(ValueError, match="share=0.003 is less than .*num_clusters=256"):
        configuration.check_health(configuration.from_mapping(config))


def test_the_schedule_is_the_optimizers(config):
    config["optimizer"] |= {"schedule": "steps", "decay_shares": [0.5, 0.8]}
    assert configuration.schedule(configuration.from_mapping(config)) == Schedule(
        name="steps",
        peak=0.01,
        warmup_steps=100,
        decay_shares=(0.5, 0.8),
        decay_factor=0.1,
    )


INDICES = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9, 11])  # rows 3 and 10 have no example


def held_out(seed=0, indices=INDICES, share=0.3):
    rows = run.held_out_rows(indices, num_rows=12, share=share, seed=seed)
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
