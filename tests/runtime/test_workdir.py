import json

import pytest

from xdc_tf.runtime import workdir

CONFIG = {
    "method": "xdc",
    "seed": 0,
    "kmeans": {"num_clusters": 20, "normalize": True},
    "optimizer": {"decay_shares": (0.5, 0.75)},
}


def changed(**changes):
    return CONFIG | changes


@pytest.fixture
def claimed(tmp_path):
    """A work directory of CONFIG, not there before."""
    path = str(tmp_path / "runs" / "one")
    workdir.claim(path, CONFIG, allow_change=False)
    return path


def claim_message(path, config):
    with pytest.raises(ValueError) as error:
        workdir.claim(path, config, allow_change=False)
    return str(error.value)


def test_claiming_makes_the_directory_and_keeps_the_config(claimed):
    wanted = json.loads(json.dumps(CONFIG))
    assert workdir.read_config(claimed) == wanted


def test_the_same_config_goes_on(claimed):
    workdir.claim(claimed, CONFIG, allow_change=False)


def test_a_key_that_is_new_has_its_default_in_an_older_directory(claimed):
    newer = CONFIG | {"name": "a", "added": {"key": 1}}
    defaults = {"name": "a", "added": {"key": 1}, "other": 2, "seed": 99}
    workdir.claim(claimed, newer, allow_change=False, defaults=defaults)
    assert workdir.read_config(claimed)["added"] == {"key": 1}


def test_a_key_that_is_new_and_not_its_default_is_a_change(claimed):
    with pytest.raises(ValueError, match=r"added\.key \(1 there, 2 now\)"):
        workdir.claim(
            claimed,
            CONFIG | {"added": {"key": 2}},
            allow_change=False,
            defaults={"added": {"key": 1}},
        )


def test_a_tuple_is_the_list_that_it_is_read_as(claimed):
    workdir.claim(
        claimed, changed(optimizer={"decay_shares": [0.5, 0.75]}), allow_change=False
    )


def test_a_changed_config_stops_and_names_every_key_with_both_values(claimed):
    other = changed(seed=3, kmeans={"num_clusters": 64, "normalize": True})
    message = claim_message(claimed, other)
    assert message.startswith(f"{claimed} holds a run of another configuration")
    assert "seed (0 there, 3 now)" in message
    assert "kmeans.num_clusters (20 there, 64 now)" in message
    assert "normalize" not in message and "method" not in message
    assert "--allow_config_change" in message


def test_an_added_and_a_removed_key_are_differences(claimed):
    other = changed(kmeans={"num_clusters": 20, "precision": "mixed"})
    message = claim_message(claimed, other)
    assert "kmeans.normalize (True there, absent now)" in message
    assert "kmeans.precision (absent there, mixed now)" in message


def test_a_key_set_to_none_is_not_the_same_as_an_absent_one(claimed):
    assert "note (absent there, None now)" in claim_message(claimed, changed(note=None))


def test_a_refused_config_leaves_the_old_one(claimed):
    claim_message(claimed, changed(seed=3))
    assert workdir.read_config(claimed)["seed"] == 0


def test_an_allowed_change_takes_the_old_configs_place(claimed):
    workdir.claim(claimed, changed(seed=3), allow_change=True)
    assert workdir.read_config(claimed)["seed"] == 3
    workdir.claim(claimed, changed(seed=3), allow_change=False)


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no run"):
        workdir.read_config(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config_is_named(claimed, text):
    path = f"{claimed}/config.json"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(ValueError, match=f"{path} (is not|holds no) JSON"):
        workdir.claim(claimed, CONFIG, allow_change=False)


def test_files_have_the_names_that_the_map_gives():
    assert workdir.encoder_file("w", "video") == "w/video_encoder.keras"
    assert (
        workdir.encoder_file("w", "audio", initial=True)
        == "w/initial/audio_encoder.keras"
    )
    assert workdir.round_dir("w", 7) == "w/labels/round_007"


def test_a_run_is_called_by_its_configuration_or_its_directory(tmp_path):
    assert workdir.run_name(str(tmp_path / "xdc_seed0"), "") == "xdc_seed0"
    assert workdir.run_name(f"{tmp_path}/xdc_seed0/", "baseline") == "baseline"
