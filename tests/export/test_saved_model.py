"""Exported encoders: inside this project, and in a process that cannot import it."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import (
    clips,
    dataset_info,
    pipeline,
    records,
    shard_writing,
)
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.log_mel import LogMelSettings, log_mel
from xdc_tf.export import export_run, model_files
from xdc_tf.models import modalities
from xdc_tf.runtime import compat, workdir
from xdc_tf.training import configuration, trained_run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPES = os.path.join(ROOT, "docs", "finetuning.md")
README = os.path.join(ROOT, "README.md")
IN_README = "README"
HUB = "TensorFlow 2.15: tensorflow_hub"
KERAS_FILE = "Keras 2 or 3: the Keras file"
LOOP = "Any TensorFlow: the SavedModel in a training loop"
TFSM_LAYER = "Keras 3: features without training"
FINETUNING = [IN_README, KERAS_FILE, LOOP] + ([] if compat.KERAS_3 else [HUB])
# Batch, frames, height and width of clips; batch, rows and filters of spectrograms.
CLIP_SHAPES = [(1, 2, 16, 16), (3, 5, 24, 40)]
LOG_MEL_SHAPES = [(1, 25, 40), (3, 60, 40)]

# Runs with this project blocked, whether or not it is installed. Prints its report.
OUTSIDE = """
import json, os, sys
sys.modules["xdc_tf"] = sys.modules["data_prep"] = sys.modules["configs"] = None
import keras
import numpy as np
import tensorflow as tf

report = {}
try:
    import xdc_tf
except ImportError:
    report["project_importable"] = False

probes = np.load("probes.npz")
features = {}
for stream in ("video", "audio"):
    encoder = tf.saved_model.load(f"exported/{stream}_encoder")
    keras_encoder = keras.models.load_model(f"exported/{stream}_encoder.keras")
    for name in probes:
        if name.startswith(stream):
            features[name] = encoder(probes[name])
            features["keras_" + name] = keras_encoder(probes[name], training=False)

def variables_of(encoder):
    for holder in ("resolved_object", "saved"):
        encoder = getattr(encoder, holder, encoder)
    return encoder.variables

before = tf.saved_model.load("exported/video_encoder").variables
code = json.load(open("recipes.json"))
for heading in sys.argv[1:]:
    keras.utils.set_random_seed(0)
    scope = {}
    if heading != "README":  # which stands alone
        exec(compile(code["Clips"], "Clips", "exec"), scope)
    exec(compile(code[heading], heading, "exec"), scope)
    if "losses" not in scope:
        features["recipe"] = scope["features"]
        continue
    report[heading] = {
        "losses": [float(loss) for loss in scope["losses"]],
        "changed": [
            bool(np.any(np.asarray(old) != np.asarray(new)))
            for old, new in zip(before, variables_of(scope["encoder"]))
        ],
        "layer_losses": len(scope["model"].losses),
        "trained_by_fit": sum(
            int(np.prod(variable.shape))
            for variable in scope["model"].trainable_variables
        ),
    }
    if hasattr(scope["encoder"], "saved"):
        again = tf.saved_model.load("finetuned")
        probe = probes["video_0"]
        features["finetuned"] = scope["encoder"].saved(probe)
        features["saved_again"] = again(probe)
        frames = tf.constant(scope["data"]["frames"])
        serve = [a.signatures["serving_default"] for a in (encoder_0, again)]
        features["served"], features["served_finetuned"] = (
            s(frames=frames)["features"] for s in serve
        )

np.savez("features.npz", **features)
json.dump(report, open("report.json", "w"))
""".replace("encoder_0", 'tf.saved_model.load("exported/video_encoder")')


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """The tiny run's export, made over what a killed export left."""
    out = tmp_path_factory.mktemp("outside") / "exported"
    leftover = out.with_name("exported.tmp") / "video_encoder" / "leftover"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    export_run.export(str(tiny_run), str(out))
    return out


@pytest.fixture(scope="module")
def outside(exported):
    """What OUTSIDE reports, and the features that it computed."""
    rng = np.random.default_rng(0)
    probes = {
        f"video_{n}": rng.normal(size=(*shape, 3)).astype(np.float32)
        for n, shape in enumerate(CLIP_SHAPES)
    } | {
        f"audio_{n}": rng.normal(size=(*shape, 1)).astype(np.float32)
        for n, shape in enumerate(LOG_MEL_SHAPES)
    }
    # Bright clips are class 1, dark ones class 0.
    labels = np.arange(48) % 2
    noise = rng.integers(0, 128, (48, 4, 16, 16, 3))
    frames = (noise + 127 * labels[:, None, None, None, None]).astype(np.uint8)
    folder = exported.parent
    np.savez(folder / "probes.npz", **probes)
    np.savez(folder / "clips.npz", frames=frames, labels=labels)
    with open(RECIPES, encoding="utf-8") as file:
        parts = re.split(r"^## (.*)$", file.read(), flags=re.MULTILINE)[1:]
    recipes = {
        heading: re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    with open(README, encoding="utf-8") as file:
        (recipe,) = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    assert recipe.count("\n") <= 20
    assert sorted(recipes) == sorted(["Clips", HUB, KERAS_FILE, LOOP, TFSM_LAYER])
    recipes[IN_README] = recipe
    (folder / "recipes.json").write_text(json.dumps(recipes))
    run = [*FINETUNING, *([TFSM_LAYER] if compat.KERAS_3 else [])]
    subprocess.run(
        [sys.executable, "-c", OUTSIDE, *run],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        check=True,
    )
    report = json.loads((folder / "report.json").read_text())
    return report, dict(np.load(folder / "features.npz")), probes


@pytest.mark.slow
def test_the_export_is_tried_where_this_project_cannot_be_imported(outside):
    assert outside[0]["project_importable"] is False


@pytest.mark.parametrize("probe", ["video_0", "video_1", "audio_0", "audio_1"])
def test_any_size_gives_the_features_of_the_runs_encoder(tiny_run, outside, probe):
    _, features, probes = outside
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), probe[:5]))
    expected = encoder(probes[probe], training=False).numpy()
    assert expected.shape == (len(probes[probe]), 32)
    for found in (features[probe], features["keras_" + probe]):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heading", FINETUNING)
def test_a_recipe_lowers_the_loss(outside, heading):
    losses = outside[0][heading]["losses"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("heading", FINETUNING)
def test_a_recipe_changes_all_weights_and_all_batch_norm_statistics(outside, heading):
    changed = outside[0][heading]["changed"]
    assert len(changed) == 30 and all(changed)


@pytest.mark.parametrize("heading", [name for name in FINETUNING if name != LOOP])
def test_fit_sees_the_trainable_weights_and_penalties(tiny_run, outside, heading):
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), "video"))
    weights = sum(int(np.prod(v.shape)) for v in encoder.trainable_variables)
    assert outside[0][heading]["trained_by_fit"] == weights + 32 * 2 + 2
    assert outside[0][heading]["layer_losses"] == len(encoder.losses) == 6


def test_the_finetuned_encoder_can_be_saved_again(outside):
    _, features, _ = outside
    np.testing.assert_allclose(
        features["saved_again"], features["finetuned"], rtol=1e-5
    )
    difference = np.abs(features["served_finetuned"] - features["served"])
    assert difference.max() > 1e-3


@pytest.mark.skipif(not compat.KERAS_3, reason="Keras 2 has no TFSMLayer")
def test_keras_3_serves_frames_through_a_layer(outside):
    _, features, _ = outside
    np.testing.assert_allclose(
        features["recipe"], features["served"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_the_object_has_the_reusable_interface(tiny_run, exported, stream):
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), stream))
    loaded = tf.saved_model.load(str(exported / f"{stream}_encoder"))
    assert len(loaded.variables) == len(encoder.variables)
    shapes = [tuple(variable.shape) for variable in loaded.trainable_variables]
    assert shapes == [tuple(v.shape) for v in encoder.trainable_variables]
    assert all(variable.trainable for variable in loaded.trainable_variables)
    penalties = [float(penalty()) for penalty in loaded.regularization_losses]
    # weight_decay / 2 times the sum of squares of each convolution's kernel.
    expected = [
        0.5e-4 * np.sum(np.square(variable.numpy()))
        for variable in encoder.trainable_variables
        if len(variable.shape) > 1
    ]
    np.testing.assert_allclose(penalties, expected, rtol=1e-5)


def test_serving_frames_equals_the_evaluation_pipeline(
    tiny_run, tiny_records, exported, tmp_path
):
    rng = np.random.default_rng(0)
    # Grey: at a window's border, JPEG's coarser colour depends on what else is decoded.
    grey = rng.integers(0, 256, (12, 34, 50, 1), dtype=np.uint8)
    jpegs = [tf.io.encode_jpeg(np.repeat(one, 3, -1)).numpy() for one in grey]
    record = records.encode_example(
        records.Example(
            example_index=0,
            data_path="",
            video_id="",
            video_items=jpegs,
            audio_rows=rng.normal(size=(75, 40)).astype(np.float32),
            start_us=0,
            end_us=1_500_000,
            frame_rate=8.0,
            height=34,
            width=50,
        )
    )
    with shard_writing.ShardWriter(str(tmp_path / "record")) as writer:
        writer.write(record)
    clip = configuration.clip(
        trained_run.open_run(str(tiny_run)).config,
        dataset_info.read_dataset_info(str(tiny_records / "train")),
    )
    (batch,) = pipeline.evaluation_batches(
        ClipSource([str(tmp_path / "record")], clip), batch_size=1
    )
    # Of 12 frames at the clip's 8 per second, 4 to 7 are the centre clip.
    frames = tf.stack([tf.io.decode_jpeg(jpeg) for jpeg in jpegs[4:8]])[None]
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), "video"))
    served = tf.saved_model.load(str(exported / "video_encoder")).signatures[
        "serving_default"
    ](frames=frames)["features"]
    video = clips.encoder_input(batch, "video")
    np.testing.assert_allclose(
        modalities.prepare_frames(frames, clip), video, atol=1e-6
    )
    np.testing.assert_allclose(
        served, encoder(video, training=False), rtol=1e-4, atol=1e-4
    )


def test_serving_a_waveform_equals_numpy_log_mel(tiny_run, tiny_records, exported):
    waveform = np.random.default_rng(0).normal(0, 0.1, (2, 9600)).astype(np.float32)
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    spectrogram = log_mel(waveform, LogMelSettings())
    normalised = (spectrogram - info.log_mel_mean) / info.log_mel_std
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), "audio"))
    served = tf.saved_model.load(str(exported / "audio_encoder")).signatures[
        "serving_default"
    ](waveform=tf.constant(waveform))["features"]
    np.testing.assert_allclose(
        served, encoder(normalised[..., None], training=False), rtol=1e-4, atol=1e-4
    )


def test_the_card_says_what_goes_in(tiny_records, exported):
    card = json.loads((exported / "export.json").read_text())
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    video = card["encoders"]["video_encoder"]
    audio = card["encoders"]["audio_encoder"]
    assert (video["features"], audio["features"]) == (32, 32)
    assert video["input"]["mean"] == [0.43216, 0.394666, 0.37645]
    assert video["input"]["frames_per_clip"] == 4
    assert audio["input"]["mean"] == info.log_mel_mean
    assert audio["input"]["log_mel"]["hop_ms"] == 20.0


def test_nothing_but_the_export_lies_in_the_directory(exported):
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "audio_encoder",
        "audio_encoder.keras",
        "export.json",
        "video_encoder",
        "video_encoder.keras",
    ]
    assert not (exported / "video_encoder" / "leftover").exists()


def test_an_existing_directory_is_an_error(tiny_run, exported):
    with pytest.raises(FileExistsError, match=f"{exported} exists"):
        export_run.export(str(tiny_run), str(exported))


@pytest.mark.parametrize("name", ["a[b", "a*", "a?", "a]", "a\\b"])
def test_a_place_that_tensorflow_takes_for_a_pattern_is_refused(
    name, tiny_run, tmp_path
):
    with pytest.raises(ValueError, match="cannot open a SavedModel in a folder with"):
        export_run.export(str(tiny_run), str(tmp_path / name / "exported"))
    assert os.listdir(tmp_path) == []


def test_an_interrupted_export_has_no_final_name(tiny_run, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_run.export(str(tiny_run), str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()


def test_a_saved_model_that_reads_back_differently_is_an_error(tmp_path, monkeypatch):
    inputs = keras.Input((None, 3))
    encoder = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    raw = modalities.RawInput(tf.TensorSpec([None, None, 3], name="x"), lambda x: x)
    load = tf.saved_model.load
    monkeypatch.setattr(
        tf.saved_model, "load", lambda path: lambda x: load(path)(x) + 0.01
    )
    with pytest.raises(RuntimeError, match="differ by 0.01"):
        model_files.save_savedmodel(encoder, str(tmp_path / "saved"), raw=raw)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        export_run.export(str(tmp_path), str(tmp_path / "exported"))
    assert list(tmp_path.iterdir()) == []
