"""Records with several labels per example, from the manifest to the reports."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from data_prep import conversion, conversion_settings, manifest
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables
from xdc_tf.data.dataset_info import read_dataset_info
from xdc_tf.evaluation import (
    finetune,
    frozen_features,
    linear,
    metrics,
    protocols,
    target_types,
)
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.labelled_records import open_splits
from xdc_tf.evaluation.linear import LinearSettings
from xdc_tf.training.pretrain import pretrain

STREAMS = ["video", "audio"]
ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")


def convert(tiny_records, name, folder):
    """Converts tiny_records' videos, each with its shape and its motion as labels."""
    videos = tiny_records / f"{name}_videos"
    lines = ["path,labels"]
    for row in manifest.read_manifest(str(videos / "manifest.csv")).rows:
        lines.append(f"{row.file},{'|'.join(row.label.split('_'))}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    info = read_dataset_info(str(tiny_records / name))
    conversion.convert_manifest(
        str(path),
        str(folder / name),
        settings=conversion_settings.ConversionSettings(
            fps=info.fps,
            short_side=info.short_side,
            jpeg_quality=info.jpeg_quality,
            min_secs=info.min_secs,
            max_secs=info.max_secs,
            log_mel=info.log_mel,
        ),
        rows_per_shard=info.rows_per_shard,
        pool=PoolSettings(num_workers=1),
    )
    return str(folder / name)


@pytest.fixture(scope="module")
def records(tiny_records, tmp_path_factory):
    """The directories of training and test records."""
    folder = tmp_path_factory.mktemp("several")
    return [convert(tiny_records, name, folder) for name in ("train", "test")]


@pytest.fixture(scope="module")
def split(records, source):
    (opened,) = open_splits(
        records[:1], records[1:], run=source.run, modalities=STREAMS
    )
    return opened


def test_records_hold_all_labels_of_an_example(records, tiny_records):
    info = dataset_info.read_dataset_info(records[0])
    examples = example_tables.read_examples(records[0])
    assert info.several_labels
    with_one, with_several = (
        json.loads((pathlib.Path(folder) / "dataset_info.json").read_text())
        for folder in (tiny_records / "train", records[0])
    )
    assert with_several.keys() - with_one.keys() == {"several_labels"}
    assert info.label_names == tuple(
        sorted(["cross", "disc", "ring", "square", "triangle", "pulse", "sway"])
    )
    single = example_tables.read_examples(str(tiny_records / "train"))
    names = dataset_info.read_dataset_info(str(tiny_records / "train")).label_names
    for row, label in zip(examples.label_sets, single.labels, strict=True):
        assert [info.label_names[k] for k in row] == names[label].split("_")
    assert (examples.labels == -1).all()


def test_the_linear_protocol_is_a_regression_for_each_label(source, split):
    settings = LinearSettings(num_clips=2, batch_size=8)
    ((audio,),) = linear.run(source, [split], settings, streams=["audio"]).splits
    assert list(audio.metrics) == ["mAP", "AUC", "d_prime", "initial_mAP"]
    assert json.loads(json.dumps(audio.details)) == audio.details
    assert audio.details["prevalence"] == pytest.approx(2 / 7)
    features = frozen_features.make_features_of(
        source, settings.extraction(["audio"], average=True)
    )
    train, test = (features(part)["audio"] for part in (split.train, split.test))
    scaler = StandardScaler().fit(train)
    scores = np.zeros([len(test), 7])
    members = [
        target_types.membership(part.label_sets, 7)
        for part in (split.train, split.test)
    ]
    for k in range(7):
        fitted = LogisticRegression(max_iter=2000, solver="newton-cg")
        fitted.fit(scaler.transform(train), members[0][:, k])
        scores[:, k] = fitted.decision_function(scaler.transform(test))
    expected = metrics.average_precisions(scores, members[1])
    assert audio.metrics["mAP"] == pytest.approx(expected.mean_ap, abs=0.01)
    assert audio.metrics["AUC"] == pytest.approx(expected.mean_auc, abs=0.01)


def test_planted_features_of_several_labels_are_found_and_shuffled_ones_are_not():
    rng = np.random.default_rng(0)
    members = rng.random([600, 5]) < 0.3
    features = members + rng.normal(0, 0.05, members.shape)
    train, test = slice(0, 300), slice(300, 600)
    names = [str(k) for k in range(5)]

    def mean_ap(train_members, num_jobs=1):
        fitted = linear.label_scores(
            features[train],
            train_members,
            features[test],
            class_names=names,
            num_jobs=num_jobs,
        )
        assert fitted.converged
        return metrics.average_precisions(fitted.scores, members[test]).mean_ap

    assert mean_ap(members[train]) == pytest.approx(1.0)
    assert mean_ap(members[train], num_jobs=2) == pytest.approx(1.0)
    # Of the 300 test rows, 0.3 with a deviation of 0.02 in each of five classes.
    assert mean_ap(rng.permutation(members[train])) == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize(("column", "count"), [(False, 0), (True, 4)])
def test_a_label_that_none_or_all_have_to_learn_from_is_named(column, count):
    members = np.array([[True, column], [False, column]] * 2)
    with pytest.raises(ValueError, match=f"{count} of 4 training.*label 'rain'"):
        linear.label_scores(np.eye(4), members, np.eye(4), class_names=["dog", "rain"])


def test_a_label_without_a_training_example_is_an_error(records, source):
    with pytest.raises(ValueError, match="of which .* has no example to learn from"):
        # The manifest of the training part names videos of two shapes alone.
        few = [f"{records[0]}.few.csv", f"{records[1]}.all.csv"]
        for path, rows in zip(few, (slice(0, 2), slice(None)), strict=True):
            source_csv = f"{records[0]}.csv" if path == few[0] else f"{records[1]}.csv"
            header, *lines = open(source_csv).read().splitlines()
            with open(path, "w") as file:
                file.write("\n".join([header, *lines[rows]]) + "\n")
        open_splits(
            records[:1],
            records[1:],
            run=source.run,
            modalities=STREAMS,
            train_manifests=few[:1],
            test_manifests=few[1:],
        )


@pytest.mark.parametrize("protocol", ["svm", "retrieval", "clusters"])
def test_protocols_of_one_label_refuse_several(source, split, protocol):
    settings = protocols.load(protocol).settings()
    with pytest.raises(
        ValueError, match=f"several labels.*--protocol={protocol} takes"
    ):
        protocols.evaluate(protocol, source, [split], settings)


def test_records_of_one_label_and_of_several_make_no_split(
    records, tiny_records, source
):
    with pytest.raises(
        ValueError, match="one holds several labels per example and the"
    ):
        open_splits(
            [str(tiny_records / "train")],
            records[1:],
            run=source.run,
            modalities=STREAMS,
        )


@pytest.mark.parametrize("several", [True, False])
def test_fusion_adds_the_mean_of_the_scores_and_a_classifier_of_all_features(
    source, split, tiny_records, several
):
    if not several:
        (split,) = open_splits(
            [str(tiny_records / "train")],
            [str(tiny_records / "test")],
            run=source.run,
            modalities=STREAMS,
        )
    settings = LinearSettings(
        num_clips=1, batch_size=8, fusion=True, with_initial=False
    )
    (results,) = linear.run(source, [split], settings, streams=STREAMS).splits
    assert [r.stream for r in results] == [*STREAMS, "fused_scores", "fused_features"]
    features = frozen_features.make_features_of(
        source, settings.extraction(STREAMS, average=True)
    )
    train, test = (features(part) for part in (split.train, split.test))
    target = target_types.of(several)

    def scores(names):
        parts = [np.concatenate([p[n] for n in names], 1) for p in (train, test)]
        if several:
            members = target_types.membership(split.train.label_sets, 7)
            return linear.label_scores(
                parts[0], members, parts[1], class_names=split.train.class_names
            ).scores
        return linear.class_scores(parts[0], split.train.labels, parts[1]).scores

    logits = [scores([name]) for name in STREAMS]
    if several:
        probabilities = [1 / (1 + np.exp(-one)) for one in logits]
    else:
        probabilities = [
            np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in logits
        ]
    for result, expected in (
        (results[2], np.mean(probabilities, axis=0)),
        (results[3], scores(STREAMS)),
    ):
        measured = target.measure(
            expected, split.test.label_sets, split.test.class_names
        )
        assert result.metrics == pytest.approx(measured.metrics)


def test_fusion_of_one_encoder_is_refused(source, split):
    for run, settings in (
        (linear.run, LinearSettings(fusion=True)),
        (finetune.run, FinetuneSettings(fusion=True)),
    ):
        with pytest.raises(ValueError, match="--fusion is of two encoders or more"):
            run(source, [split], settings, streams=["audio"])


def test_finetuning_with_fusion_saves_and_scores_encoders_that_were_trained_together(
    source, split, tmp_path
):
    settings = dataclasses.replace(
        FinetuneSettings(),
        fusion=True,
        num_epochs=1,
        batch_size=8,
        shuffle_buffer=24,
        held_out_clips=1,
        held_out_share=0.2,
        num_clips=1,
        eval_batch_size=8,
        save_dir=str(tmp_path / "saved"),
    )
    (results,) = finetune.run(
        source, [split], settings, streams=STREAMS, strategy=ONE_DEVICE
    ).splits
    assert [r.stream for r in results] == [*STREAMS, "fused_scores", "fused_features"]
    for result in results:
        assert list(result.metrics) == ["mAP", "AUC", "d_prime"]
        assert 0 < result.metrics["mAP"] <= 1
    assert 0 < results[3].details["held_out_accuracy"] <= 1
    folder = tmp_path / "saved/split_1"
    told = json.loads(
        (folder / "fused_features/fused_features_classifier.json").read_text()
    )
    assert told["encoders"] == STREAMS and told["target"] == "multilabel"
    assert len(told["class_names"]) == 7
    for stream in STREAMS:
        assert (folder / f"encoders/{stream}.keras").exists() or list(
            folder.rglob(f"*{stream}*.keras")
        )


def test_a_report_of_several_labels_is_shown_with_d_prime_as_it_is(source, split):
    settings = LinearSettings(num_clips=1, batch_size=8, with_initial=False)
    report = protocols.evaluate(
        "linear", source, [split], settings, streams=["audio"], strategy=ONE_DEVICE
    )
    from xdc_tf.evaluation import reports

    (result,) = report["results"]
    line = reports.table(report).splitlines()[1]
    assert f"mAP {100 * result['mean']['mAP']:.1f}" in line
    assert f"d_prime {result['mean']['d_prime']:.4g}" in line


def test_supervised_pretraining_refuses_several_labels(
    records, new_tiny_config, tmp_path
):
    config = new_tiny_config()
    config["method"] = "supervised"
    with pytest.raises(ValueError, match="needs one label per example.*holds several"):
        pretrain(
            config,
            workdir=str(tmp_path / "run"),
            records_dir=records[0],
            strategy=ONE_DEVICE,
        )


def test_finetuning_residual_networks_with_gradient_checkpointing_is_refused(
    source, split
):
    settings = FinetuneSettings(gradient_checkpointing=True)
    with pytest.raises(ValueError, match="gradient_checkpointing=True is for transf"):
        finetune.run(source, [split], settings, streams=["audio"])
