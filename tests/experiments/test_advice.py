"""Advice on records: what the survey sees, what is tried, and what is written."""

import shutil

import numpy as np
import pytest
from ml_collections import config_flags

from data_prep import conversion, conversion_settings, synthetic
from data_prep.scenes.shapes import FPS, SAMPLE_RATE_HZ
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import record_directory
from xdc_tf.experiments import advice, record_survey
from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import configuration

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def defective(tmp_path_factory, tiny_config_of_module):
    """Records of ten videos: black, still, silent, and one that is there twice."""
    folder = tmp_path_factory.mktemp("defective")
    frames = RNG.integers(0, 255, (24, 32, 32, 3)).astype(np.uint8)
    noise = RNG.normal(0, 0.1, 2 * SAMPLE_RATE_HZ).astype(np.float32)
    made = {
        "black": (np.zeros_like(frames), noise),
        "still": (np.repeat(frames[:1], 24, axis=0), noise[::-1]),
        # All silent files are not converted.
        "silent": (frames, np.where(np.arange(len(noise)) < 9000, noise, 0)),
        **{
            f"fine{n}": (np.roll(frames, n, axis=2), np.roll(noise, 999 * n))
            for n in range(1, 7)
        },
    }
    assert len(frames) == 2 * FPS
    for name, (pictures, waveform) in made.items():
        sound = np.ascontiguousarray(waveform)
        synthetic.write_mp4(str(folder / f"{name}.mp4"), pictures, sound)
    shutil.copyfile(folder / "fine1.mp4", folder / "again.mp4")
    names = [*made, "again"]
    manifest = folder / "manifest.csv"
    manifest.write_text("path\n" + "".join(f"{name}.mp4\n" for name in names))
    conversion.convert_manifest(
        str(manifest),
        str(folder / "records"),
        settings=conversion_settings.ConversionSettings(fps=8.0, short_side=32),
        pool=PoolSettings(1),
    )
    return record_directory.open_directory(str(folder / "records"))


@pytest.fixture(scope="module")
def tiny_config_of_module(new_tiny_config):
    return new_tiny_config()


def test_the_survey_finds_each_defect_once(defective, tiny_config_of_module):
    config = configuration.from_mapping(tiny_config_of_module)
    surveyed = record_survey.survey(defective, config, max_examples=100)
    assert surveyed.num_sampled == surveyed.num_examples == 10
    # Black frames are still ones too.
    expected = {"black": 0.1, "still": 0.2, "silent": 0.1, "repeated": 0.1}
    assert surveyed.fractions == pytest.approx(expected)
    text = " ".join(record_survey.describe(surveyed))
    assert "10% are silent" in text and "Fewer than 500 videos are few" in text


def test_the_survey_looks_at_no_more_than_asked_for(defective, tiny_config_of_module):
    config = configuration.from_mapping(tiny_config_of_module)
    surveyed = record_survey.survey(defective, config, max_examples=4)
    assert surveyed.num_sampled == 4


def test_trials_have_from_few_to_many_clusters_and_one_is_augmented():
    trials = advice.make_trials(1200)
    counts = [trial.changes["kmeans.num_clusters"] for trial in trials]
    assert counts == [12, 30, 80, 30]
    assert [len(trial.changes) > 1 for trial in trials] == [False] * 3 + [True]
    assert len({trial.name for trial in trials}) == 4


def test_of_few_and_of_very_many_videos_trials_are_still_possible():
    for num_examples in (4, 10**7):
        for trial in advice.make_trials(num_examples):
            assert 2 <= trial.changes["kmeans.num_clusters"] <= 4096


def test_a_recipe_gives_back_the_configuration(tiny_config, tmp_path):
    path = str(tmp_path / "config.py")
    advice.write_recipe(path, tiny_config, title="A title.")
    parser = config_flags.config_flags.ConfigFileFlagParser("config")
    assert parser.parse(path).to_dict() == tiny_config
    configuration.from_mapping(parser.parse(path).to_dict())


def _trial(name):
    return advice.Trial(name, {}, "a reason")


def test_a_method_of_one_modality_cannot_be_ranked(tiny_config, tmp_path):
    config = tiny_config | {"method": "same_audio"}
    with pytest.raises(ValueError, match="same_audio has not two modalities"):
        advice.advise(config, records="none", out_dir=str(tmp_path), budget_secs=60)


def _write_round(run, number, criteria):
    clustering = label_tables.Clustering(
        np.zeros(3, np.int32), np.zeros([1, 2], np.float32), np.array([3]), 0.0
    )
    label_tables.write(
        run_directory.round_dir(str(run), number),
        clusterings={"audio": clustering},
        video_ids=["a", "b", "c"],
        settings={},
        health={"criteria": criteria},
    )


def test_trials_are_ranked_after_the_last_round_that_all_have(tmp_path):
    scores = {"better late": [0.0, 0.1, 0.9], "better": [0.0, 0.3]}
    for name, by_round in scores.items():
        for number, score in enumerate(by_round):
            criteria = {
                "retrieval_of_audio_by_video": score - 0.05,
                "retrieval_of_video_by_audio": score + 0.05,
                "stability_of_audio": 1.0,
            }
            _write_round(tmp_path / "trials" / name / "run", number, criteria)
    outcomes = advice._outcomes([_trial(name) for name in scores], str(tmp_path))
    assert [outcome.trial.name for outcome in outcomes] == ["better", "better late"]
    assert [outcome.rounds for outcome in outcomes] == [1, 1]
    assert [outcome.score for outcome in outcomes] == pytest.approx([0.3, 0.1])


def test_a_trial_that_has_trained_no_round_has_no_score(tmp_path):
    _write_round(tmp_path / "trials" / "slow" / "run", 0, {"retrieval_of_a_by_b": 0.5})
    (outcome,) = advice._outcomes([_trial("slow")], str(tmp_path))
    assert outcome.rounds == 0 and np.isnan(outcome.score)


@pytest.mark.slow
def test_advice_tries_settings_and_its_configuration_is_one(
    tiny_config, tiny_records, tmp_path, capsys
):
    def ask():
        return advice.advise(
            tiny_config,
            records=str(tiny_records / "train"),
            out_dir=str(tmp_path / "advice"),
            budget_secs=900,
        )

    text = ask()
    parser = config_flags.config_flags.ConfigFileFlagParser("config")
    chosen = parser.parse(str(tmp_path / "advice" / "config.py")).to_dict()
    configuration.from_mapping(chosen)
    assert chosen["num_rounds"] == tiny_config["num_rounds"]
    assert (tmp_path / "advice" / "advice.md").read_text() == text
    names = [trial.name for trial in advice.make_trials(24)]
    (header,) = [line for line in text.splitlines() if line.startswith("| | k")]
    assert sorted(header.strip("| ").split(" | ")) == sorted(names)
    capsys.readouterr()
    # What is done is not done again.
    assert ask().splitlines()[:-2] == text.splitlines()[:-2]


@pytest.mark.slow
def test_a_budget_in_which_nothing_is_trained_is_an_error(
    tiny_config, tiny_records, tmp_path
):
    with pytest.raises(ValueError, match="too short: .* not every trial"):
        advice.advise(
            tiny_config,
            records=str(tiny_records / "train"),
            out_dir=str(tmp_path / "advice"),
            budget_secs=4,
        )
