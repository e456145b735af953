"""An encoder is a module and a row: one that is added here alone works everywhere.

The test runs this file as a program, which adds the row and starts a command, and is
the configuration of its run too.
"""

import json
import runpy
import sys
from typing import Annotated, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from clip_settings import clip_of
from forked_commands import run_command

from xdc_tf.evaluation import encoder_sources
from xdc_tf.models import encoder_table, layers
from xdc_tf.models.encoder_table import Encoder
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime.typed_settings import TEXT, Whole


class ToySettings(NamedTuple):
    """A convolution, batch norm, and a projection of its mean over the clip."""

    architecture: Annotated[str, TEXT]
    num_channels: Annotated[int, Whole(1, 512)]


def build_toy(settings, layers, name, clip_shape):
    """Takes a video's clips [B, T, H, W, 3] to [B, num_channels] features."""
    del clip_shape  # any will do
    policy = layers.dtype

    def kernels(number):
        return keras.initializers.GlorotUniform(seed=layers.seed + number)

    clips = keras.Input((None, None, None, 3), name="video")
    x = keras.layers.Conv3D(
        settings.num_channels,
        (1, 3, 3),
        strides=(1, 2, 2),
        use_bias=False,
        kernel_initializer=kernels(1),
        dtype=policy,
        name="stem",
    )(clips)
    x = keras.layers.BatchNormalization(
        momentum=layers.batch_norm_momentum, dtype=policy, name="stem_norm"
    )(x)
    x = keras.layers.ReLU(dtype=policy, name="stem_relu")(x)
    x = keras.layers.GlobalAveragePooling3D(dtype="float32", name="mean")(x)
    x = keras.layers.Dense(
        settings.num_channels,
        kernel_initializer=kernels(2),
        dtype="float32",
        name="projection",
    )(x)
    return keras.Model(clips, x, name=name)


TOY = Encoder(
    modality="video",
    settings=ToySettings,
    build=build_toy,
    num_features=lambda settings: settings.num_channels,
    least_parameters=lambda settings: 27 * settings.num_channels,
    stage=lambda layer: {"stem": 0, "stem_norm": 0, "projection": 1}[layer],
)


def get_config():
    """A short run of two toys, each with the clusters of the other."""
    import ml_collections

    from configs import synthetic

    config = synthetic.get_config()
    config.video_encoder = ml_collections.ConfigDict(
        {"architecture": "toy", "num_channels": 12}
    )
    config.method = "same_video"
    config.num_rounds = 1
    config.clip.num_frames, config.clip.crop_size = 4, 16
    config.kmeans.num_clusters, config.kmeans.num_restarts = 4, 1
    config.features.batch_size, config.features.batch_norm_batches = 8, 1
    config.training.batch_size, config.training.epochs_per_round = 4, 1
    config.training.max_steps_per_epoch = 2
    return config


def run_toy(command, *flags):
    done = run_command(__file__, f"xdc_tf.cli.{command}", *flags)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def toy_run(tiny_records, tmp_path_factory):
    """Work directory of a run, made by the command."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    records = tiny_records / "train"
    run_toy(
        "pretrain",
        f"--config={__file__}",
        f"--workdir={workdir}",
        f"--records={records}",
    )
    return workdir


@pytest.fixture
def toy(monkeypatch):
    """The row, in this process."""
    monkeypatch.setitem(encoder_table.ENCODERS, "toy", TOY)
    return ToySettings("toy", 12)


def test_a_run_has_its_settings_and_weights(toy_run, toy):
    source = encoder_sources.open_source(str(toy_run))
    assert source.run.architectures["video"] == toy
    encoder = encoder_sources.load_encoder(source, "video")
    initial = encoder_sources.load_encoder(
        encoder_sources.open_source(str(toy_run), initial=True), "video"
    )
    moved = [
        np.abs(a - b).max()
        for a, b in zip(encoder.get_weights(), initial.get_weights(), strict=True)
    ]
    assert all(step > 0 for step in moved)


def test_it_is_finetuned_with_a_learning_rate_for_each_stage(
    toy_run, toy, tiny_records, tmp_path
):
    report = tmp_path / "report.json"
    run_toy(
        "evaluate",
        "--protocol=finetune",
        "--config=finetune/synthetic",
        "--config.optimizer.layer_decay=0.5",
        "--config.training.num_epochs=1",
        "--config.training.clips_per_epoch=8",
        "--config.training.batch_size=4",
        "--streams=video",
        f"--workdir={toy_run}",
        f"--records={tiny_records / 'train'}",
        f"--test_records={tiny_records / 'test'}",
        f"--json={report}",
        f"--out={tmp_path}",
    )
    (result,) = json.loads(report.read_text())["results"]
    assert result["stream"] == "video" and 0 <= result["mean"]["top1"] <= 1


def test_its_batch_norm_is_folded_and_its_operations_counted(toy):
    encoder = encoder_table.build(toy, LayerSettings(seed=1), "encoder", clip_of())
    encoder.get_layer("stem_norm").set_weights(
        [np.linspace(0.5, 2, 12) + shift for shift in range(4)]
    )
    folded = layers.fold(encoder)
    assert [layer.name for layer in folded.layers if layer.weights] == [
        "stem",
        "projection",
    ]
    clips = tf.random.stateless_normal((2, 3, 9, 9, 3), (0, 1))
    np.testing.assert_allclose(folded(clips), encoder(clips), atol=1e-5)


def test_its_run_is_planned(toy_run):
    shown = run_toy(
        "plan", f"--config={__file__}", "--num_videos=1000", "--gpus=1", "--gpu=h100"
    )
    assert "video encoder has 12 features" in " ".join(shown.split())


def test_it_is_exported_as_a_saved_model_that_gives_its_features(
    toy_run, toy, tmp_path
):
    run_toy("export", f"--workdir={toy_run}", f"--out={tmp_path / 'exported'}")
    exported = tmp_path / "exported" / "video_encoder"
    serve = tf.saved_model.load(str(exported)).signatures
    source = encoder_sources.open_source(str(tmp_path / "exported"))
    encoder = encoder_sources.load_encoder(source, "video")
    clips = tf.random.stateless_normal((1, 4, 16, 16, 3), (0, 1))
    again = keras.models.load_model(tmp_path / "exported" / "video_encoder.keras")
    np.testing.assert_allclose(again(clips), encoder(clips), atol=1e-5)
    assert "serving_default" in serve


def test_pytorchs_names_of_it_are_not_known(toy_run, tmp_path):
    done = run_command(
        __file__,
        "xdc_tf.cli.export_torch",
        f"--workdir={toy_run}",
        f"--out={tmp_path / 'a.pth'}",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --stream=video: PyTorch's names are known of")


def test_its_settings_are_checked_by_their_ranges(tiny_records, tmp_path):
    done = run_command(
        __file__,
        "xdc_tf.cli.pretrain",
        f"--config={__file__}",
        "--config.video_encoder.num_channels=513",
        f"--workdir={tmp_path / 'run'}",
        f"--records={tiny_records / 'train'}",
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: config.video_encoder.num_channels=513 must be a whole number from 1 to "
        "512.\n"
    )


if __name__ == "__main__":
    encoder_table.ENCODERS["toy"] = TOY
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
