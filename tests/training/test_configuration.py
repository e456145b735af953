import dataclasses
import json
import math
import re

import pytest

from configs import base, synthetic
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.training import configuration

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


@pytest.mark.parametrize("recipe", [base, synthetic])
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
    if (key, value) == ("init_from", "no such name") or (
        (key, value) == ("optimizer.decay_shares", [])
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
