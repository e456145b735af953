"""The linear protocol: planted features, scikit-learn used directly, whole runs."""

import json

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from xdc_tf.data import dataset_info, example_tables, pipeline
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.evaluation import (
    encoder_sources,
    frozen_features,
    linear,
    metrics,
    protocols,
)
from xdc_tf.evaluation.frozen_features import SplitFeatures
from xdc_tf.evaluation.labelled_records import open_splits
from xdc_tf.evaluation.linear import LinearSettings
from xdc_tf.runtime import workdir
from xdc_tf.training import configuration

pytestmark = pytest.mark.once


def _labels(num_rows, num_classes=5):
    return np.arange(num_rows) % num_classes


def _one_hot(labels, *, noise, seed):
    codes = np.eye(5)[labels]
    return codes + np.random.default_rng(seed).normal(0, noise, codes.shape)


def _top1(train_features, train_labels, test_features, test_labels):
    scores = linear.class_scores(train_features, train_labels, test_features).scores
    return metrics.accuracies(scores, test_labels).top1


def _oracle(train_features, train_labels, test_features, test_labels):
    """Share right, standardised by hand and fitted by another solver."""
    mean, std = train_features.mean(0), train_features.std(0)
    std = np.where(std > 0, std, 1.0)
    classifier = LogisticRegression(solver="newton-cg", max_iter=2000)
    classifier.fit((train_features - mean) / std, train_labels)
    return np.mean(classifier.predict((test_features - mean) / std) == test_labels)


def test_planted_features_give_100_percent():
    train, test = _labels(50), _labels(25)
    top1 = _top1(
        _one_hot(train, noise=0.05, seed=0),
        train,
        _one_hot(test, noise=0.05, seed=1),
        test,
    )
    assert top1 == 1.0


def test_shuffled_labels_give_chance():
    train, test = _labels(500), _labels(500)
    shuffled = np.random.default_rng(0).permutation(train)
    top1 = _top1(
        _one_hot(train, noise=0.5, seed=0),
        shuffled,
        _one_hot(test, noise=0.5, seed=1),
        test,
    )
    # 5 classes: 0.2, with a deviation of 0.018 over 500 rows.
    assert abs(top1 - 0.2) < 0.08


def test_accuracy_is_that_of_scikit_learn_used_directly():
    train, test = _labels(200), _labels(300)
    features = (
        _one_hot(train, noise=0.7, seed=0) * [1, 10, 0.1, 1, 0],
        train,
        _one_hot(test, noise=0.7, seed=1) * [1, 10, 0.1, 1, 0],
        test,
    )
    top1 = _top1(*features)
    assert 0.4 < top1 < 0.9
    assert top1 == pytest.approx(_oracle(*features), abs=1 / 300)


def test_two_classes_have_two_columns_of_scores():
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    scores = linear.class_scores(features, np.array([0, 0, 1, 1]), features).scores
    assert scores.shape == (4, 2)
    assert scores.argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_a_class_without_a_training_row_is_an_error():
    with pytest.raises(ValueError, match=r"training labels \[0, 2\] must be"):
        linear.class_scores(np.eye(3), np.array([0, 2, 2]), np.eye(3))


def test_a_fit_that_does_not_end_is_told_and_not_warned_of(monkeypatch, recwarn):
    train = _labels(50)
    monkeypatch.setattr(linear, "_MAX_ITERATIONS", 1)
    fitted = linear.class_scores(
        _one_hot(train, noise=1.0, seed=0), train, np.zeros([1, 5]), c=1e4
    )
    assert not fitted.converged
    assert not recwarn.list


def test_other_warnings_of_a_fit_come_through():
    class Odd:
        def fit(self):
            import warnings

            warnings.warn("something else", stacklevel=1)

    with pytest.warns(UserWarning, match="something else"):
        assert linear.fit_quietly(Odd())


def test_a_run_is_scored_as_by_hand(source, split, tiny_run, tiny_records):
    of_two = LinearSettings(num_clips=2, batch_size=8)
    ((audio,),) = linear.run(source, [split], of_two, streams=["audio"]).splits
    assert audio.stream == "audio"
    assert list(audio.metrics) == ["top1", "top5", "mean_class", "initial_top1"]
    assert (audio.details["num_train"], audio.details["num_test"]) == (24, 12)
    assert len(audio.details["class_names"]) == 10 and audio.details["converged"]
    assert json.loads(json.dumps(audio.details)) == audio.details
    clip = configuration.clip(source.run.config, source.run.info)

    def features_and_classes(name, encoder):
        records = str(tiny_records / name)
        info = dataset_info.read_dataset_info(records)
        examples = example_tables.read_examples(records)
        batches = pipeline.evaluation_batches(
            ClipSource(dataset_info.shard_paths(records, info), clip, ["audio"]),
            batch_size=2,
            num_clips=2,
        )
        # Two clips per video and per batch, in the order of examples.csv.
        rows = [encoder(batch["audio"]).numpy().mean(0) for batch in batches]
        return np.array(rows), np.array(info.label_names)[examples.labels]

    for initial, found in (
        (False, audio.metrics["top1"]),
        (True, audio.metrics["initial_top1"]),
    ):
        encoder = keras.models.load_model(
            workdir.encoder_file(str(tiny_run), "audio", initial=initial)
        )
        expected = _oracle(
            *features_and_classes("train", encoder),
            *features_and_classes("test", encoder),
        )
        assert found == pytest.approx(expected, abs=1 / 12 + 1e-9)


@pytest.mark.parametrize("with_initial", [True, False])
def test_the_encoder_that_a_run_started_from_is_scored_if_asked_for(
    source, split, with_initial
):
    report = protocols.evaluate(
        "linear",
        source,
        [split],
        LinearSettings(num_clips=1, with_initial=with_initial),
        streams=("audio",),
    )
    (result,) = report["results"]
    assert ("initial_top1" in result["mean"]) == with_initial


def test_every_split_is_fitted_to_its_own_training_videos(source, split, monkeypatch):
    # The same videos under other numbers: class k of one split is class 9 - k of the
    # other, for whose features those of the first would be all wrong.
    names = split.train.class_names
    reverse = [
        part._replace(class_names=names[::-1]) for part in (split.train, split.test)
    ]

    def planted(source, splits, settings, *, strategy):
        for split in splits:
            yield SplitFeatures(
                {"audio": np.eye(10)[split.train.labels]},
                {"audio": np.eye(10)[split.test.labels]},
            )

    monkeypatch.setattr(frozen_features, "of_splits", planted)
    monkeypatch.setattr(frozen_features, "has_initial", lambda source: False)
    results = linear.run(
        source,
        [split, split._replace(train=reverse[0], test=reverse[1])],
        LinearSettings(),
        streams=["audio"],
    ).splits
    assert [result.metrics["top1"] for (result,) in results] == [1.0, 1.0]
    first, second = (result.details["class_names"] for (result,) in results)
    assert first == second[::-1]


def test_imported_weights_have_no_initial_encoder(imported_run, tiny_records):
    source = encoder_sources.open_source(str(imported_run))
    splits = open_splits(
        [str(tiny_records / "train")],
        [str(tiny_records / "test")],
        run=source.run,
        modalities=("video",),
    )
    settings = LinearSettings(num_clips=1)
    ((video,),) = linear.run(source, splits, settings, streams=["video"]).splits
    assert list(video.metrics) == ["top1", "top5", "mean_class"]
    assert 0 <= video.metrics["top1"] <= video.metrics["top5"] <= 1
