"""The linear protocol: planted features, scikit-learn used directly, bad input."""

import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from xdc_tf import workdir
from xdc_tf.clustering.features import Features
from xdc_tf.data import dataset_info, pipeline
from xdc_tf.evaluation import linear
from xdc_tf.models.encoder_files import load_encoder
from xdc_tf.training import settings


def _classes(num_rows, num_classes=5):
    return np.array([f"class{row % num_classes}" for row in range(num_rows)])


def _one_hot(classes, *, noise, seed):
    codes = np.array([[name == f"class{n}" for n in range(5)] for name in classes])
    return codes + np.random.default_rng(seed).normal(0, noise, codes.shape)


def _oracle(train_features, train_classes, test_features, test_classes):
    """Share right, standardised by hand and fitted by another solver."""
    mean, std = train_features.mean(0), train_features.std(0)
    std = np.where(std > 0, std, 1.0)
    classifier = LogisticRegression(solver="newton-cg", max_iter=2000)
    classifier.fit((train_features - mean) / std, train_classes)
    return np.mean(classifier.predict((test_features - mean) / std) == test_classes)


def _relabel(source, target, change):
    """Copies records under another hash, with label texts changed; "" is none."""
    shutil.copytree(source, target)
    info = dataset_info.read_dataset_info(str(source))
    examples = dataset_info.read_examples(str(source))
    names = [info.label_names[label] for label in examples.labels]
    labels = [change(name) for name in names]
    rows = [
        dataset_info.ExampleRow(int(index), video, label, shard, start, end)
        for index, video, _, shard, start, end, label in zip(
            *examples, labels, strict=True
        )
    ]
    dataset_info.write_examples(str(target), rows)
    info = info._replace(
        label_names=tuple(sorted(set(labels) - {""})), manifest_sha256="0" * 64
    )
    dataset_info.write_dataset_info(str(target), info)
    return str(target)


@pytest.fixture
def evaluate(tiny_run, tiny_records):
    def evaluate(train=None, test=None, **options):
        return linear.evaluate(
            str(tiny_run),
            train_dir=str(train or tiny_records / "train"),
            test_dir=str(test or tiny_records / "test"),
            **options,
        )

    return evaluate


def test_planted_features_give_100_percent():
    train, test = _classes(50), _classes(25)
    score = linear.accuracy(
        _one_hot(train, noise=0.05, seed=0),
        train,
        _one_hot(test, noise=0.05, seed=1),
        test,
    )
    assert score == 1.0


def test_shuffled_labels_give_chance():
    train, test = _classes(500), _classes(500)
    shuffled = np.random.default_rng(0).permutation(train)
    score = linear.accuracy(
        _one_hot(train, noise=0.5, seed=0),
        shuffled,
        _one_hot(test, noise=0.5, seed=1),
        test,
    )
    # 5 classes: 0.2, with a deviation of 0.018 over 500 rows.
    assert abs(score - 0.2) < 0.08


def test_accuracy_is_that_of_scikit_learn_used_directly():
    train, test = _classes(200), _classes(300)
    features = (
        _one_hot(train, noise=0.7, seed=0) * [1, 10, 0.1, 1, 0],
        train,
        _one_hot(test, noise=0.7, seed=1) * [1, 10, 0.1, 1, 0],
        test,
    )
    score = linear.accuracy(*features)
    assert 0.4 < score < 0.9
    assert score == pytest.approx(_oracle(*features), abs=1 / 300)


def test_a_run_is_scored_as_by_hand(tiny_run, tiny_records, evaluate):
    results = evaluate(num_clips=2, batch_size=8)
    config = workdir.read_config(str(tiny_run))
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    clip = settings.clip(config, info)

    def features_and_classes(name, encoder):
        records = str(tiny_records / name)
        info = dataset_info.read_dataset_info(records)
        examples = dataset_info.read_examples(records)
        batches = pipeline.evaluation_batches(
            dataset_info.shard_paths(records, info),
            clip=clip,
            batch_size=2,
            num_clips=2,
        )
        # Two clips per video and per batch, in the order of examples.csv.
        rows = [encoder(batch["audio"]).numpy().mean(0) for batch in batches]
        return np.array(rows), np.array(info.label_names)[examples.labels]

    assert [result.stream for result in results] == ["video", "audio"]
    (audio,) = (result for result in results if result.stream == "audio")
    assert (audio.num_train, audio.num_test, audio.num_classes) == (24, 12, 10)
    for initial, found in ((False, audio.accuracy), (True, audio.initial_accuracy)):
        encoder = load_encoder(
            workdir.encoder_file(str(tiny_run), "audio", initial=initial)
        )
        expected = _oracle(
            *features_and_classes("train", encoder),
            *features_and_classes("test", encoder),
        )
        assert found == pytest.approx(expected, abs=1 / 12 + 1e-9)


def test_classes_are_matched_by_name(tiny_records, evaluate, tmp_path, monkeypatch):
    # The test records lack the first two classes, so their label numbers shift by two.
    train = dataset_info.read_dataset_info(str(tiny_records / "train"))
    test = _relabel(
        tiny_records / "test",
        tmp_path / "test",
        lambda name: "" if name in train.label_names[:2] else name,
    )
    codes = {name: np.eye(10)[n] for n, name in enumerate(train.label_names)}

    def make_extract(encoders, modalities, *, strategy):
        def extract(batches, *, num_rows):
            # Videos take turns through the classes, so the row's number tells it.
            named = dataset_info.read_examples(str(tiny_records / "train"))
            class_of_row = {
                int(index) % 10: train.label_names[label]
                for index, label in zip(
                    named.example_indices, named.labels, strict=True
                )
            }
            planted = np.zeros((num_rows, 10))
            for batch in batches:
                for index in batch["example_index"].numpy():
                    if index >= 0:
                        planted[index] = codes[class_of_row[index % 10]]
            return Features({name: planted for name in encoders}, None)

        return extract

    monkeypatch.setattr(linear, "make_extract", make_extract)
    results = evaluate(test=test)
    assert [result.accuracy for result in results] == [1.0, 1.0]
    examples = dataset_info.read_examples(test)
    assert results[0].num_test == np.sum(examples.labels >= 0) < 12
    assert results[0].num_classes == 10


def test_the_same_records_for_both_are_an_error(tiny_records, evaluate):
    with pytest.raises(ValueError, match="made from one manifest"):
        evaluate(test=tiny_records / "train")


def test_records_without_labels_are_an_error(tiny_records, evaluate, tmp_path):
    test = _relabel(tiny_records / "test", tmp_path / "test", lambda name: "")
    with pytest.raises(ValueError, match=f"{test} has 0 labelled videos"):
        evaluate(test=test)


def test_a_class_without_training_examples_is_an_error(
    tiny_records, evaluate, tmp_path
):
    test = _relabel(
        tiny_records / "test",
        tmp_path / "test",
        lambda name: name.replace("ring_sway", "zebra"),
    )
    with pytest.raises(ValueError, match=r"\['zebra'\]"):
        evaluate(test=test)


def test_another_log_mel_setting_is_an_error(tiny_records, evaluate, tmp_path):
    shutil.copytree(tiny_records / "test", tmp_path / "test")
    path = tmp_path / "test" / "dataset_info.json"
    values = json.loads(path.read_text())
    values["log_mel"]["num_filters"] = 64
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"test was .*num_filters \(64 in the records"):
        evaluate(test=tmp_path / "test")


def test_a_video_encoder_takes_records_of_any_log_mel_setting(
    tiny_records, imported_run, tmp_path
):
    shutil.copytree(tiny_records / "test", tmp_path / "test")
    path = tmp_path / "test" / "dataset_info.json"
    values = json.loads(path.read_text())
    values["log_mel"]["num_filters"] = 64
    path.write_text(json.dumps(values))
    (video,) = linear.evaluate(
        str(imported_run),
        train_dir=str(tiny_records / "train"),
        test_dir=str(tmp_path / "test"),
        num_clips=1,
    )
    assert (video.stream, video.num_test) == ("video", 12)
    assert video.initial_accuracy is None and 0 <= video.accuracy <= 1


def test_a_directory_without_a_run_is_an_error(tiny_records, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        linear.evaluate(
            str(tmp_path),
            train_dir=str(tiny_records / "train"),
            test_dir=str(tiny_records / "test"),
        )


def test_the_table_shows_percents_and_gains():
    results = [
        linear.LinearResult("video", 0.75, 0.2, 600, 200, 10),
        linear.LinearResult("audio", 0.905, 0.5, 600, 200, 10),
    ]
    assert linear.table(results, method="xdc").split("\n") == [
        "Linear accuracy on 200 held-out videos, 10 classes, in percent",
        "encoder  initial         xdc    gain",
        "video       20.0        75.0   +55.0",
        "audio       50.0        90.5   +40.5",
    ]
