"""Training of classifiers with the narrowest encoders, on 24 videos."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import dataset_info, example_tables
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.evaluation import classifier as classifiers
from xdc_tf.evaluation import classifier_training, target_types
from xdc_tf.evaluation.classifier import Part
from xdc_tf.evaluation.example_choices import (
    balanced_draws,
    few_per_class,
    hold_out,
)
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.labelled_records import LabelledRecords
from xdc_tf.models import encoder_table
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import compat
from xdc_tf.training import optimizers

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")
ARCHITECTURES = {
    "video": ResNetSettings("r2plus1d", 4, 0.25),
    "audio": ResNetSettings("resnet", 4, 0.25),
}
CLIP = ClipSettings(
    num_frames=4,
    fps=8.0,
    crop_size=16,
    crop_share=0.875,
    audio_secs=0.5,
    mel_hop_secs=0.02,
    num_mels=40,
    log_mel_mean=-6.0,
    log_mel_std=4.0,
)
SETTINGS = FinetuneSettings(
    augmentation=Augmentation(flip=False),
    head_learning_rate=0.1,
    encoder_learning_rate=0.05,
    schedule="constant",
    batch_size=8,
    num_epochs=1,
    shuffle_buffer=24,
    held_out_share=0.0,
    held_out_clips=1,
    eval_batch_size=8,
)


@pytest.fixture(scope="module")
def records(tiny_records):
    """The 24 training videos of ten classes."""
    directory = str(tiny_records / "train")
    info = dataset_info.read_dataset_info(directory)
    examples = example_tables.read_examples(directory)
    promised = example_tables.promised(directory, info, examples)
    return LabelledRecords(directory, info, examples, info.label_names, promised)


def load(modality, seed=0):
    layers = LayerSettings(seed=seed)
    name = f"{modality}_encoder"
    return encoder_table.build(ARCHITECTURES[modality], layers, name, CLIP)


def make_classifier(
    modality="audio", *, settings=SETTINGS, strategy=ONE_DEVICE, num_classes=10
):
    return classifiers.build(
        {m: Part(load(m), m, ARCHITECTURES[m]) for m in modality.split("+")},
        clip=CLIP,
        num_classes=num_classes,
        settings=settings,
        strategy=strategy,
    )


def train(classifier, records, settings=SETTINGS, strategy=ONE_DEVICE, clip=CLIP):
    predict = classifiers.make_predict(classifier, strategy)
    return classifier_training.train(
        classifier, records, predict, clip=clip, settings=settings, strategy=strategy
    )


def flat(weights):
    return [array for part in weights for array in part]


def assert_equal(found, expected):
    for one, other in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_hold_out_takes_the_share_of_every_class():
    labels = np.repeat([0, 1, 2], [20, 10, 30])
    chosen = hold_out(labels[:, None], 0.1, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [2, 1, 3]


def test_hold_out_rounds_to_the_share_of_all_examples():
    # A quarter of 3 x 5 is 3.75: one of each class, and a second one of one class.
    chosen = hold_out(np.repeat([0, 1, 2], 5)[:, None], 0.25, seed=0)
    assert sorted(np.bincount(np.repeat([0, 1, 2], 5)[chosen])) == [1, 1, 2]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_hold_out_leaves_one_example_of_every_class(share):
    labels = np.array([0, 1, 1, 2, 2, 2, 4])
    chosen = hold_out(labels[:, None], share, seed=3)
    assert set(labels[~chosen]) == {0, 1, 2, 4}
    assert chosen.sum() <= 3


def test_hold_out_depends_on_its_seed():
    labels = np.repeat([0, 1], 50)
    first, same, other = (hold_out(labels[:, None], 0.2, seed) for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).any()


def test_nothing_is_held_out_of_a_share_of_zero():
    assert not hold_out(np.repeat([0, 1], 50)[:, None], 0.0, seed=0).any()


def test_few_labels_are_so_many_of_every_class():
    labels = np.repeat([0, 1, 2], [9, 2, 5])
    chosen = few_per_class(labels[:, None], 3, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 2, 3]
    assert (chosen == few_per_class(labels[:, None], 3, seed=0)).all()
    assert (chosen != few_per_class(labels[:, None], 3, seed=1)).any()


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_rates_fall_from_stage_to_stage_down_to_the_stem(modality, monkeypatch):
    architecture = ARCHITECTURES[modality]._replace(depth=10, width=0.0625)
    monkeypatch.setitem(ARCHITECTURES, modality, architecture)
    classifier = make_classifier(modality)
    settings = dataclasses.replace(
        SETTINGS, head_learning_rate=0.1, encoder_learning_rate=0.02, layer_decay=0.5
    )
    found = classifiers.multipliers(classifier, settings, epoch=0)
    variables = classifiers.trained_variables(classifier, frozen=False)
    assert len(found) == len(variables)
    # 0.02 of 0.1 for stage 4, and half of it for each stage further down.
    expected = {"stage4": 0.2, "stage3": 0.1, "stage2": 0.05, "stage1": 0.025}
    expected |= {"stem": 0.0125}
    by_stage = {stage: set() for stage in expected}
    kernel_to_stage = {
        id(variable): layer.name.split("_")[0]
        for layer in classifier.encoders[modality].layers
        for variable in layer.trainable_variables
    }
    assert found[:2].tolist() == [1, 1]
    for variable, rate in zip(variables[2:], found[2:], strict=True):
        by_stage[kernel_to_stage[id(variable)]].add(float(rate))
    for stage, rate in expected.items():
        assert list(by_stage[stage]) == [pytest.approx(rate)], stage


@pytest.mark.parametrize(
    ("modality", "architecture"),
    [
        *(("video", name) for name in ("r2plus1d_torchvision", "r3d", "mc3")),
        ("video", "r2plus1d_avid"),
        ("audio", "resnet_torchvision"),
        ("audio", "resnet_vmz"),
    ],
)
def test_every_layer_of_every_architecture_is_of_a_stage(modality, architecture):
    settings = ResNetSettings(architecture, 10, 0.0625)
    encoder = encoder_table.build(settings, LayerSettings(), "encoder", CLIP)
    head = keras.layers.Dense(2)
    head.build((None, encoder.output_shape[-1]))
    found = classifiers.multipliers(
        classifiers.Classifier(
            {modality: Part(encoder, modality, settings)},
            head,
            target_types.MULTICLASS,
        ),
        dataclasses.replace(SETTINGS, layer_decay=0.5),
        epoch=0,
    )
    assert len(found) == 2 + len(encoder.trainable_variables)
    assert len(set(found[2:])) == 5


def test_the_encoder_has_no_rate_while_the_head_warms_up():
    classifier = make_classifier()
    settings = dataclasses.replace(SETTINGS, head_epochs=2)
    for epoch, moves in ((0, False), (1, False), (2, True)):
        found = classifiers.multipliers(classifier, settings, epoch=epoch)
        assert (found[:2] == 1).all()
        assert (found[2:] == (0.5 if moves else 0)).all()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_with_multipliers_is_one_for_each_learning_rate(name):
    values, rng = [[1.0, -2.0], [0.5]], np.random.default_rng(0)
    rates = [0.1, 0.004]
    together = [tf.Variable(value) for value in values]
    apart = [tf.Variable(value) for value in values]
    multipliers = tf.Variable([1.0, rates[1] / rates[0]])

    def make(variables, **arguments):
        return optimizers.make(
            name,
            variables,
            momentum=0.9,
            weight_decay=0.1,
            scale_loss=False,
            **arguments,
        )

    one = make(together, rates=multipliers)
    two = [make([variable]) for variable in apart]
    for step in range(6):
        factor = 1.0 / (1 + step)
        gradients = [tf.constant(rng.normal(size=len(v)), tf.float32) for v in values]
        compat.set_learning_rate(one, rates[0] * factor)
        compat.apply_gradients(one, zip(gradients, together, strict=True))
        for number, optimizer in enumerate(two):
            compat.set_learning_rate(optimizer, rates[number] * factor)
            compat.apply_gradients(optimizer, [(gradients[number], apart[number])])
    for found, expected in zip(together, apart, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_a_step_moves_head_and_encoder_by_their_own_learning_rates(records):
    """The first update of SGD is rate x gradient, so the ratio of rates shows."""

    def moved(encoder_rate):
        settings = dataclasses.replace(
            SETTINGS,
            encoder_learning_rate=encoder_rate,
            batch_size=24,
            weight_decay=0.0,
        )
        classifier = make_classifier(settings=settings)
        before = classifier.weights()
        train(classifier, records, settings)
        names[:] = [variable.name for variable in classifier.encoders["audio"].weights]
        return [
            after - start
            for after, start in zip(
                flat(classifier.weights()), flat(before), strict=True
            )
        ]

    names = []
    slow, fast = moved(0.01), moved(0.04)
    for name, one, other in zip([*names, "", ""], slow, fast, strict=True):
        factor = 1 if "moving" in name or not name else 4
        np.testing.assert_allclose(other, factor * one, rtol=1e-3, atol=1e-5)
    assert all(np.abs(change).max() > 0 for change in slow)


def test_a_classifier_fits_the_videos_that_it_trains_on(records, monkeypatch):
    architecture = ARCHITECTURES["audio"]._replace(depth=10, width=0.0625)
    monkeypatch.setitem(ARCHITECTURES, "audio", architecture)
    settings = dataclasses.replace(SETTINGS, num_epochs=40, schedule="cosine")
    trained = train(make_classifier(), records, settings)
    assert trained.curve[-1].train_accuracy > 0.9
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss / 3


def test_a_frozen_encoder_stays_bit_for_bit_while_its_head_learns(records):
    # Without statistics of data, its features are large.
    settings = dataclasses.replace(
        SETTINGS, frozen=True, num_epochs=3, head_learning_rate=1e-3
    )
    classifier = make_classifier(settings=settings)
    encoder, head = classifier.weights()
    trained = train(classifier, records, settings)
    found, found_head = classifier.weights()
    assert_equal([found], [encoder])
    assert np.abs(found_head[0] - head[0]).max() > 1e-4
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss


def test_head_warm_up_leaves_the_encoders_weights_unchanged(records):
    settings = dataclasses.replace(SETTINGS, head_epochs=2, num_epochs=2)
    classifier = make_classifier(settings=settings)
    before = [v.numpy() for v in classifier.encoders["audio"].trainable_variables]
    head = classifier.head.kernel.numpy()
    train(classifier, records, settings)
    after = [v.numpy() for v in classifier.encoders["audio"].trainable_variables]
    assert_equal([after], [before])
    assert np.abs(classifier.head.kernel.numpy() - head).max() > 1e-3


def test_after_its_warm_up_the_encoder_learns_without_another_trace(records):
    settings = dataclasses.replace(SETTINGS, head_epochs=1, num_epochs=2)
    classifier = make_classifier(settings=settings)
    before = [v.numpy() for v in classifier.encoders["audio"].trainable_variables]
    traces = []
    encoder = classifier.encoders["audio"]

    class Counting:
        """Stands for the encoder, whose calls are traces in a tf.function."""

        def __getattr__(self, name):
            return getattr(encoder, name)

        def __call__(self, inputs, training):
            traces.append(training)
            return encoder(inputs, training=training)

    counted = classifier.parts["audio"]._replace(encoder=Counting())
    train(classifier._replace(parts={"audio": counted}), records, settings)
    assert traces == [True]
    for variable, start in zip(encoder.trainable_variables, before, strict=True):
        assert np.abs(variable.numpy() - start).max() > 0, variable.name


def test_the_same_seed_gives_the_same_bits_with_dropout(records):
    settings = dataclasses.replace(SETTINGS, num_epochs=2, dropout=0.5)
    found = []
    for seed in (0, 0, 1):  # the third is another one
        seeded = dataclasses.replace(settings, seed=seed)
        classifier = make_classifier(settings=seeded)
        train(classifier, records, seeded)
        found.append(classifier.weights())
    assert_equal(found[0], found[1])
    assert np.abs(found[0][1][0] - found[2][1][0]).max() > 1e-3


def test_dropout_keeps_the_mean_and_drops_its_share():
    kept = classifiers.drop(tf.ones([100, 100]), tf.constant([0, 1]), 0.25).numpy()
    assert set(np.round(np.unique(kept), 5)) == {0.0, np.float32(1.33333)}
    # Of 10,000 values, the share's deviation is 0.0043.
    assert (kept == 0).mean() == pytest.approx(0.25, abs=0.02)
    other = classifiers.drop(tf.ones([100, 100]), tf.constant([0, 2]), 0.25).numpy()
    assert (kept != other).any()


@pytest.mark.slow
def test_two_devices_train_as_one(records, two_devices):
    settings = dataclasses.replace(
        SETTINGS,
        num_epochs=2,
        batch_size=24,
        synchronized_batch_norm=True,
        head_learning_rate=0.01,
        encoder_learning_rate=0.005,
        weight_decay=0.1,
    )
    clip = CLIP._replace(crop_size=32, audio_secs=1.0)
    curves, scores = [], []
    for strategy in (ONE_DEVICE, two_devices):
        classifier = make_classifier(settings=settings, strategy=strategy)
        trained = train(classifier, records, settings, strategy, clip)
        curves.append(trained.curve)
        scores.append(
            classifier_training.predict_scores(
                classifiers.make_predict(classifier, strategy),
                records,
                clip=clip,
                modalities=("audio",),
                num_clips=2,
                batch_size=8,
                strategy=strategy,
            )
        )
    losses = [[epoch.train_loss for epoch in curve] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


def test_each_device_drops_features_of_its_own(two_devices, records):
    settings = dataclasses.replace(SETTINGS, frozen=True, dropout=0.5, batch_size=24)
    one = make_classifier(settings=settings)
    two = make_classifier(settings=settings, strategy=two_devices)
    train(one, records, settings)
    train(two, records, settings, two_devices)
    # The first 12 of the batch lose other features than the other 12.
    assert np.abs(two.head.kernel.numpy() - one.head.kernel.numpy()).max() > 1e-5


def test_the_epoch_of_the_best_held_out_accuracy_counts(records, monkeypatch):
    # By its own accuracies: 0.5, 0.75, 0.75 with a lower loss, and 0.25.
    measures = iter([(1.0, 0.5), (0.9, 0.75), (0.8, 0.75), (0.1, 0.25)])
    monkeypatch.setattr(
        classifier_training, "_measures", lambda *arguments: next(measures)
    )
    settings = dataclasses.replace(SETTINGS, num_epochs=4, held_out_share=0.25)
    classifier, after = make_classifier(), []
    predict = classifiers.make_predict(classifier, ONE_DEVICE)
    trained = classifier_training.train(
        classifier,
        records,
        predict,
        clip=CLIP,
        settings=settings,
        strategy=ONE_DEVICE,
        on_epoch=lambda _: after.append(classifier.weights()),
    )
    assert trained.best.epoch == 3
    assert trained.note == classifier_training.SELECTION_NOTE
    assert [one.held_out_accuracy for one in trained.curve] == [0.5, 0.75, 0.75, 0.25]
    assert_equal(classifier.weights(), after[2])


def test_held_out_videos_are_looked_at_as_often_as_asked_and_at_the_end(records):
    settings = dataclasses.replace(
        SETTINGS, num_epochs=3, held_out_share=0.25, evaluate_every=2
    )
    trained = train(make_classifier(), records, settings)
    looked = [one.held_out_accuracy is not None for one in trained.curve]
    assert looked == [False, True, True]
    assert trained.num_train == 18 and trained.num_held_out == 6


def test_without_held_out_videos_the_last_epoch_counts_and_the_note_says_so(records):
    trained = train(
        make_classifier(), records, dataclasses.replace(SETTINGS, num_epochs=2)
    )
    assert trained.best.epoch == 2
    assert trained.note == classifier_training.LAST_EPOCH_NOTE
    assert trained.as_details()["held_out_accuracy"] is None


def test_held_out_videos_are_not_trained_on(records, monkeypatch):
    seen = []

    def train_step(batch, step):
        seen.extend(batch["example_index"].numpy().tolist())
        return tf.zeros([2])

    monkeypatch.setattr(classifiers, "make_train_step", lambda *_, **__: train_step)
    settings = dataclasses.replace(
        SETTINGS, held_out_share=0.25, batch_size=6, num_epochs=2
    )
    train(make_classifier(), records, settings)
    chosen = hold_out(records.label_sets, 0.25, settings.seed)
    trained = records.examples.example_indices[~chosen].tolist()
    assert sorted(seen) == sorted(2 * trained)


def test_epochs_have_the_clips_asked_for(records, monkeypatch):
    steps = []

    def train_step(batch, step):
        steps.append(int(step))
        return tf.zeros([2])

    monkeypatch.setattr(classifiers, "make_train_step", lambda *_, **__: train_step)
    settings = dataclasses.replace(SETTINGS, clips_per_epoch=48, num_epochs=2)
    train(make_classifier(), records, settings)
    assert steps == list(range(12))


def test_fewer_videos_than_a_batch_fill_it_by_several_clips(records):
    few = records.part(few_per_class(records.label_sets, 1, seed=0))
    batches = classifier_training.training_batches(
        few,
        clip=CLIP,
        modalities=("audio",),
        settings=dataclasses.replace(SETTINGS, batch_size=20),
        strategy=ONE_DEVICE,
    )
    batch = next(iter(batches))
    index = batch["example_index"].numpy().tolist()
    assert sorted(index) == sorted(2 * few.examples.example_indices.tolist())
    assert len({row.tobytes() for row in batch["audio"].numpy()}) > 10


def test_scores_are_the_mean_softmax_of_a_videos_clips(records):
    classifier = make_classifier()
    predict = classifiers.make_predict(classifier, ONE_DEVICE)

    def scores(num_clips):
        return classifier_training.predict_scores(
            predict,
            records,
            clip=CLIP,
            modalities=("audio",),
            num_clips=num_clips,
            batch_size=8,
            strategy=ONE_DEVICE,
        )

    # Three clips are the first, the central and the last; two are the outer ones.
    np.testing.assert_allclose(3 * scores(3) - 2 * scores(2), scores(1), atol=1e-6)
    np.testing.assert_allclose(scores(3).sum(axis=1), 1, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_and_names_epoch_and_step(records):
    settings = dataclasses.replace(
        SETTINGS, head_learning_rate=1e6, encoder_learning_rate=1e6, num_epochs=3
    )
    with pytest.raises(FloatingPointError, match=r"epoch \d, step \d+\. Lower config"):
        train(make_classifier(), records, settings)


def test_weight_decay_shrinks_kernels_by_its_rate(records):
    settings = dataclasses.replace(
        SETTINGS, batch_size=24, weight_decay=0.5, frozen=True, head_learning_rate=0.1
    )
    plain, decayed = (
        make_classifier(settings=dataclasses.replace(settings, weight_decay=decay))
        for decay in (0.0, 0.5)
    )
    start = plain.head.kernel.numpy()
    train(plain, records, dataclasses.replace(settings, weight_decay=0.0))
    train(decayed, records, settings)
    np.testing.assert_allclose(
        decayed.head.kernel.numpy() - plain.head.kernel.numpy(),
        -0.1 * 0.5 * start,
        atol=1e-6,
    )


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_with_float32_weights(precision, records):
    settings = dataclasses.replace(
        SETTINGS,
        precision=precision,
        num_epochs=6,
        head_learning_rate=0.02,
        encoder_learning_rate=0.02,
    )
    classifier = make_classifier(settings=settings)
    trained = train(classifier, records, settings)
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss
    assert {array.dtype for array in flat(classifier.weights())} == {
        np.dtype("float32")
    }


def test_the_loss_before_training_is_the_log_of_the_number_of_classes(records):
    trained = train(
        make_classifier(), records, dataclasses.replace(SETTINGS, batch_size=24)
    )
    assert trained.curve[0].train_loss == pytest.approx(math.log(10), abs=0.05)


SETS = np.array([[0, -1], [0, 1], [1, 0], [2, -1], [2, -1], [2, 0], [1, -1]])


def test_hold_out_of_several_labels_leaves_one_of_each_in_training():
    for seed in range(10):
        chosen = hold_out(SETS, 0.6, seed)
        assert chosen.any() and set(SETS[~chosen].ravel()) >= {0, 1, 2}


def test_hold_out_of_several_labels_has_its_share_and_depends_on_its_seed():
    sets = np.stack([np.arange(200) % 4, np.arange(200) % 3 + 4], axis=1)
    first, same, other = (hold_out(sets, 0.2, seed) for seed in (0, 0, 1))
    assert first.sum() == 40
    assert (first == same).all() and (first != other).any()


def test_balanced_draws_give_classes_of_one_label_the_same_number():
    labels = np.repeat([0, 1, 2], [1, 3, 8])
    draws = balanced_draws(labels[:, None])
    assert draws.sum() == pytest.approx(12)
    assert [draws[labels == k].sum() for k in range(3)] == pytest.approx([4, 4, 4])


def test_balanced_draws_of_several_labels_add_up_over_them():
    # Each label has three examples; those of two labels count twice.
    draws = balanced_draws(np.array([[0, 1], [0, -1], [0, -1], [1, -1], [1, -1]]))
    assert draws == pytest.approx(np.array([2, 1, 1, 1, 1]) * 5 / 6)


def test_balanced_sampling_draws_rare_classes_more_often(records):
    labels = np.where(np.arange(24) < 3, 0, 1)
    sets = np.array(labels)[:, None]
    rare = records._replace(examples=records.examples._replace(label_sets=sets))
    batches = classifier_training.training_batches(
        rare,
        clip=CLIP,
        modalities=("audio",),
        settings=dataclasses.replace(SETTINGS, balanced_sampling=True, batch_size=24),
        strategy=ONE_DEVICE,
    )
    index = next(iter(batches))["example_index"].numpy()
    rows = np.searchsorted(rare.examples.example_indices, index)
    assert np.bincount(labels[rows]).tolist() == [12, 12]


def several(records):
    """Each video with its own label, and every second one also with the next."""
    own = records.examples.label_sets[:, 0]
    others = np.where(np.arange(len(own)) % 2, (own + 1) % 10, -1)
    sets = np.stack([own, others], axis=1)
    return records._replace(
        info=records.info._replace(several_labels=True),
        examples=records.examples._replace(label_sets=sets),
    )


def test_a_classifier_fits_all_labels_of_the_videos_that_it_trains_on(
    records, monkeypatch
):
    architecture = ARCHITECTURES["audio"]._replace(depth=10, width=0.0625)
    monkeypatch.setitem(ARCHITECTURES, "audio", architecture)
    settings = dataclasses.replace(
        SETTINGS, num_epochs=60, schedule="cosine", head_learning_rate=0.03
    )
    labelled = several(records)
    classifier = make_classifier()._replace(target=target_types.MULTILABEL)
    trained = train(classifier, labelled, settings)
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss / 3
    scores = classifier_training.predict_scores(
        classifiers.make_predict(classifier, ONE_DEVICE),
        labelled,
        clip=CLIP,
        modalities=("audio",),
        num_clips=3,
        batch_size=8,
        strategy=ONE_DEVICE,
    )
    measured = target_types.MULTILABEL.measure(
        scores, labelled.label_sets, labelled.class_names
    )
    assert measured.metrics["mAP"] > 0.8


def test_several_labels_start_at_the_loss_of_their_frequencies(records):
    labelled = several(records)
    classifier = make_classifier(
        settings=dataclasses.replace(SETTINGS, head_learning_rate=1e-9, frozen=True)
    )._replace(target=target_types.MULTILABEL)
    classifier.head.kernel.assign(tf.zeros_like(classifier.head.kernel))
    settings = dataclasses.replace(SETTINGS, head_learning_rate=1e-9, frozen=True)
    trained = train(classifier, labelled, settings)
    members = target_types.membership(labelled.label_sets, 10)
    rates = (members.sum(axis=0) + 0.5) / 25
    entropy = -np.where(members, np.log(rates), np.log(1 - rates)).sum(axis=1).mean()
    assert trained.curve[0].train_loss == pytest.approx(entropy, rel=1e-4)


def test_two_encoders_learn_with_one_head_on_their_features(records):
    settings = dataclasses.replace(SETTINGS, batch_size=12, num_epochs=2)
    classifier = make_classifier("video+audio", settings=settings)
    before = classifier.weights()
    assert classifier.head.kernel.shape == (
        sum(encoder.output_shape[-1] for encoder in classifier.encoders.values()),
        10,
    )
    train(classifier, records, settings)
    for part, start in zip(classifier.weights(), before, strict=True):
        assert all(np.abs(a - b).max() > 0 for a, b in zip(part, start, strict=True))


def test_adamw_trains_encoder_and_head_by_rates_of_their_own(records):
    settings = dataclasses.replace(
        SETTINGS,
        name="adamw",
        head_learning_rate=1e-3,
        encoder_learning_rate=1e-5,
        weight_decay=0.0,
        batch_size=24,
    )
    classifier = make_classifier(settings=settings)
    encoder, head = classifier.weights()
    train(classifier, records, settings)
    # The first update of Adam is the rate, whatever the gradient.
    after, after_head = classifier.weights()
    assert np.median(np.abs(after_head[0] - head[0])) == pytest.approx(1e-3, rel=0.01)
    kernels = [np.abs(a - b) for a, b in zip(after, encoder, strict=True) if a.ndim > 1]
    assert np.median(kernels[-1]) == pytest.approx(1e-5, rel=0.05)
