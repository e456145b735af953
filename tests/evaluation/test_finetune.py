"""Finetuning on records whose classes can be read from any frame: its colour."""

import dataclasses
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import (
    dataset_info,
    example_tables,
    pipeline,
    records,
    shard_writing,
)
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.dataset_info import ShardInfo
from xdc_tf.data.example_tables import Examples
from xdc_tf.data.text_columns import TextColumn
from xdc_tf.evaluation import classifier_training, encoder_sources, finetune
from xdc_tf.evaluation.finetune_settings import FinetuneSettings, finetune_settings
from xdc_tf.evaluation.labelled_records import LabelledRecords, Split, open_splits
from xdc_tf.models import encoder_files

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")
CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "finetune"
COLOURS = {
    "blue": (40, 40, 200),
    "green": (40, 200, 40),
    "grey": (120, 120, 120),
    "red": (200, 40, 40),
}
SETTINGS = FinetuneSettings(
    augmentation=Augmentation(flip=False),
    head_learning_rate=0.02,
    encoder_learning_rate=0.02,
    schedule="cosine",
    batch_size=16,
    num_epochs=3,
    clips_per_epoch=128,
    batch_norm_momentum=0.5,
    shuffle_buffer=32,
    held_out_share=0.125,
    held_out_clips=1,
    evaluate_every=3,
    num_clips=2,
    eval_batch_size=8,
)


def planted(folder, info, num_examples, seed):
    """Labelled records of 8 noisy frames of one colour each."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    numbers = np.arange(num_examples)
    with shard_writing.ShardWriter(str(folder / "shard")) as writer:
        for number in numbers:
            colour = np.array(list(COLOURS.values())[number % 4])
            noise = rng.integers(-30, 31, [8, 24, 24, 3])
            frames = (colour + noise).astype(np.uint8)
            serialized = records.encode_example(
                records.Example(
                    example_index=int(number),
                    data_path=f"{number}.mp4",
                    video_id=f"{number}.mp4",
                    video_items=[tf.io.encode_jpeg(frame).numpy() for frame in frames],
                    audio_rows=None,
                    start_us=0,
                    end_us=1_000_000,
                    frame_rate=8.0,
                    height=24,
                    width=24,
                )
            )
            writer.write(serialized)
    info = info._replace(
        num_rows=num_examples,
        num_examples=num_examples,
        short_side=24,
        label_names=tuple(COLOURS),
        modalities=("video",),
        shards=(ShardInfo("shard", num_examples),),
    )
    examples = Examples(
        example_indices=numbers,
        video_ids=TextColumn.of(f"{number}.mp4" for number in numbers),
        label_sets=numbers[:, None] % 4,
        shard_numbers=np.zeros(num_examples, np.int32),
        start_secs=np.zeros(num_examples),
        end_secs=np.ones(num_examples),
    )
    return LabelledRecords(
        directory=str(folder),
        info=info,
        examples=examples,
        class_names=tuple(COLOURS),
        promised=example_tables.promised(str(folder), info, examples),
    )


@pytest.fixture(scope="module")
def split(tiny_records, tmp_path_factory):
    """32 training and 40 test videos of four colours."""
    folder = tmp_path_factory.mktemp("planted")
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    train = planted(folder / "train", info, 32, seed=0)
    return Split("1", train, planted(folder / "test", info, 40, seed=1))


@pytest.fixture(scope="module")
def scratch(split, new_tiny_config):
    """A random encoder on half-second clips, wide enough to learn in a few steps."""
    config = new_tiny_config()
    config["video_encoder"]["width"] = 0.25
    return encoder_sources.scratch_source(config, split.train.info)


def evaluate(source, splits, settings=SETTINGS, strategy=ONE_DEVICE, **arguments):
    arguments = {"streams": list(source.run.streams), **arguments}
    return finetune.run(source, splits, settings, strategy=strategy, **arguments).splits


def shuffled(labelled, seed):
    sets = np.random.default_rng(seed).permutation(labelled.examples.label_sets)
    return labelled._replace(examples=labelled.examples._replace(label_sets=sets))


@pytest.fixture(scope="module")
def learnt(scratch, split, tmp_path_factory):
    """Results of the split and of one like it named "2", and where they are saved."""
    folder = tmp_path_factory.mktemp("learnt")
    splits = [split, split._replace(name="2")]
    settings = dataclasses.replace(SETTINGS, save_dir=str(folder))
    (first,), (second,) = evaluate(scratch, splits, settings)
    return first, second, folder


@pytest.mark.slow
def test_labels_that_can_be_read_from_every_frame_are_all_learnt(learnt):
    result, _, _ = learnt
    assert result.stream == "video"
    assert result.metrics == {"top1": 1.0, "top5": 1.0, "mean_class": 1.0}
    details = result.details
    assert details["class_names"] == list(COLOURS)
    assert details["confusion"] == (10 * np.eye(4, dtype=int)).tolist()
    assert details["held_out_accuracy"] == 1.0
    assert (details["num_train"], details["num_held_out"]) == (28, 4)
    assert details["num_test"] == 40
    assert details["selection"] == classifier_training.SELECTION_NOTE
    curve = details["learning_curve"]
    assert [one["epoch"] for one in curve] == [1, 2, 3]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    json.dumps(details, allow_nan=False)


def test_labels_without_meaning_are_guessed(scratch, split):
    meaningless = split._replace(
        train=shuffled(split.train, 0), test=shuffled(split.test, 1)
    )
    ((result,),) = evaluate(scratch, [meaningless])
    # 40 guesses at a quarter: mean 10 and deviation 2.7; within three of them.
    assert 0.05 < result.metrics["top1"] < 0.46


def test_the_head_of_a_frozen_random_encoder_learns_colours(scratch, split):
    settings = dataclasses.replace(SETTINGS, frozen=True, head_learning_rate=0.1)
    ((result,),) = evaluate(scratch, [split], settings)
    assert result.metrics["top1"] > 0.9


def test_few_labels_are_taken_of_every_class(scratch, split):
    settings = dataclasses.replace(
        SETTINGS, num_train=2, num_epochs=1, held_out_share=0.0
    )
    ((result,),) = evaluate(scratch, [split], settings)
    assert result.details["num_train"] == 8
    assert result.details["selection"] == classifier_training.LAST_EPOCH_NOTE


def test_a_finetuned_encoder_and_head_are_saved_and_give_the_scores(
    learnt, scratch, split
):
    result, _, save_dir = learnt
    folder = save_dir / "split_1"
    encoder = keras.models.load_model(str(folder / "video_encoder.keras"))
    heads = encoder_files.load_heads(
        str(folder / "video_heads.npz"), num_features=encoder.output_shape[-1]
    )
    head = heads["true_labels"]
    told = json.loads((folder / "video_classifier.json").read_text())
    assert told["class_names"] == list(COLOURS)
    assert told["best_epoch"] == result.details["best_epoch"]

    def predict(batches, num_rows):
        found, count = np.zeros([num_rows, 4]), np.zeros([num_rows, 1])
        for batch in batches:
            levels = batch["video"].numpy() / 255.0
            clips = (levels - told["clip"]["video_mean"]) / told["clip"]["video_std"]
            logits = encoder(clips.astype(np.float32)) @ head.kernel + head.bias
            for index, scores in zip(
                batch["example_index"].numpy(), tf.nn.softmax(logits), strict=True
            ):
                if index >= 0:
                    found[index] += scores
                    count[index] += 1
        return found / count

    scores = classifier_training.predict_scores(
        predict,
        split.test,
        clip=SETTINGS.clip(scratch.run.clip),
        modalities=("video",),
        num_clips=2,
        batch_size=8,
        strategy=ONE_DEVICE,
    )
    right = (scores.argmax(axis=1) == split.test.labels).mean()
    assert right == pytest.approx(result.metrics["top1"])


def test_every_split_starts_from_the_encoder_anew(learnt):
    first, second, _ = learnt
    assert first.metrics == second.metrics
    assert first.details["learning_curve"] == second.details["learning_curve"]


@pytest.mark.slow
def test_three_crops_of_more_frames_on_two_devices(
    scratch, split, two_devices, monkeypatch
):
    evaluation_batches, asked = pipeline.evaluation_batches, []

    def watched(*args, **kwargs):
        asked.append((kwargs["num_clips"], kwargs["num_crops"]))
        return evaluation_batches(*args, **kwargs)

    monkeypatch.setattr(pipeline, "evaluation_batches", watched)
    settings = dataclasses.replace(
        SETTINGS,
        num_frames=6,
        crop_size=20,
        num_crops=3,
        eval_batch_size=12,
    )
    ((result,),) = evaluate(scratch, [split], settings, two_devices)
    assert result.details["clip"]["num_frames"] == 6
    assert result.details["clip"]["crop_size"] == 20
    assert result.metrics["top1"] > 0.9
    # Crops are of the test alone.
    assert set(asked[:-1]) == {(1, 1)} and asked[-1] == (2, 3)


@pytest.fixture(scope="module")
def tiny_splits(tiny_records, tiny_run):
    """The benchmark's split, for both modalities."""
    return open_splits(
        [str(tiny_records / "train")],
        [str(tiny_records / "test")],
        run=encoder_sources.open_source(str(tiny_run)).run,
        modalities=["video", "audio"],
    )


@pytest.mark.parametrize(
    ("initial", "streams"), [(False, ["video", "audio"]), (True, ["audio"])]
)
def test_encoders_of_a_run_are_finetuned(tiny_run, tiny_splits, initial, streams):
    source = encoder_sources.open_source(str(tiny_run), initial=initial)
    settings = dataclasses.replace(
        SETTINGS, num_epochs=1, clips_per_epoch=0, num_crops=3
    )
    (results,) = evaluate(source, tiny_splits, settings, streams=streams)
    assert [result.stream for result in results] == streams
    for result in results:
        assert 0 <= result.metrics["top1"] <= result.metrics["top5"] <= 1
        assert len(result.details["per_class"]) == 10


def test_imported_weights_are_finetuned(imported_run, tiny_splits):
    source = encoder_sources.open_source(str(imported_run))
    settings = dataclasses.replace(SETTINGS, num_epochs=1, frozen=True)
    ((result,),) = evaluate(source, tiny_splits, settings)
    assert np.isfinite(result.details["learning_curve"][0]["train_loss"])


def test_a_stream_that_there_is_not_is_refused(scratch, split):
    with pytest.raises(
        ValueError, match=r"streams=\['audio'\] are none of \['video'\]"
    ):
        evaluate(scratch, [split], streams=["audio"])


def test_a_batch_that_devices_cannot_share_is_refused(scratch, split, two_devices):
    with pytest.raises(ValueError, match="config.training.batch_size=7 is not a mult"):
        evaluate(
            scratch, [split], dataclasses.replace(SETTINGS, batch_size=7), two_devices
        )


def get_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("[!_]*.py")), ids=lambda path: path.stem
)
def test_every_configuration_gives_settings(path):
    assert isinstance(finetune_settings(get_config(path)), FinetuneSettings)


def test_the_base_configuration_is_the_defaults():
    assert finetune_settings(get_config(CONFIGS / "base.py")) == FinetuneSettings()


def test_a_schedule_in_epochs_becomes_one_in_steps():
    settings = finetune_settings(get_config(CONFIGS / "ucf101_selavi.py"))
    schedule = settings.head_schedule(steps_per_epoch=100)
    assert schedule.warmup_steps == 200
    assert schedule.decay_shares == (0.5, 10 / 12)
    assert schedule.peak == 2.5e-3


def test_a_key_that_there_is_not_is_refused():
    config = get_config(CONFIGS / "base.py")
    config.training.batch = 3
    with pytest.raises(ValueError, match="config.training has the keys .*'batch'"):
        finetune_settings(config)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"batch_size": 0},
            "config.training.batch_size=0 must be a whole number from 1",
        ),
        (
            {"layer_decay": 1.5},
            "config.optimizer.layer_decay=1.5 must be a number above 0 to 1",
        ),
        ({"dropout": 1.0}, "config.model.dropout=1.0 must be a number from 0 below 1"),
        (
            {"held_out_share": 1.0},
            "config.training.held_out_share=1.0 must be a number",
        ),
        ({"num_crops": 2}, "config.test.num_crops=2 must be one of 1, 3"),
        ({"schedule": "step"}, "config.optimizer.schedule='step' must be one of"),
        ({"schedule": "steps"}, r"config.optimizer.milestones=\(\) must be the epochs"),
        ({"schedule": "steps", "milestones": (12,)}, r"take out \[12\] or train long"),
        ({"warmup_epochs": 12}, "config.optimizer.warmup_epochs=12 leaves none of"),
        ({"precision": "half"}, "config.model.precision='half' must be one of float32"),
        ({"seed": -1}, "config.seed=-1 must be a whole number from 0"),
        (
            {"head_learning_rate": 0.0},
            "head_learning_rate=0.0 must be a number above 0",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        FinetuneSettings(**changed)


def leaves(config, path=()):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


PATHS = list(leaves(get_config(CONFIGS / "base.py").to_dict()))


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_a_value_of_another_type_or_without_end_is_refused_by_its_key(path):
    for value in (float("nan"), float("inf"), -(2**70), "x", None, [[1]], {}):
        config = get_config(CONFIGS / "base.py").to_dict()
        section = config
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        with pytest.raises(ValueError, match=rf"config\.{'.'.join(path)}=.* must be "):
            finetune_settings(config)
