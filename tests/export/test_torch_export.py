"""Encoders as PyTorch state dicts; in PyTorch itself, where that is installed."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from clip_settings import clip_of
from forked_commands import run_command

from configs import transformers
from xdc_tf.export import torch_export
from xdc_tf.models import audio_resnet, encoder_files, encoder_table, video_resnet
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as work
from xdc_tf.training import trained_run
from xdc_tf.weights import ast_state_dict, layouts, torch_files, transformer_layouts
from xdc_tf.weights.import_weights import import_weights

ROOT = pathlib.Path(__file__).parent.parent.parent
CLIPS = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3)).astype(np.float32)
LOG_MEL = np.random.default_rng(0).normal(size=(2, 50, 40, 1)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "encoder.pth")


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_an_export_holds_the_encoder_and_its_head(tiny_run, path, stream):
    torch_export.export(str(tiny_run), path, stream=stream)
    tensors = torch_files.read(path)
    encoder = keras.models.load_model(work.encoder_file(str(tiny_run), stream))
    expected = layouts.state_dict(encoder)
    (head,) = trained_run.load_heads(
        trained_run.open_run(str(tiny_run)), stream
    ).values()
    expected |= {"fc.weight": head.kernel.T, "fc.bias": head.bias}
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def test_the_description_says_how_to_build_and_feed_the_network(tiny_run, path):
    told = torch_export.export(str(tiny_run), path)
    with open(path.replace(".pth", ".json")) as file:
        assert json.load(file) == json.loads(json.dumps(told))
    assert told.pop("sha256") == files.sha256(path)
    assert told == {
        "stream": "video",
        "method": "xdc",
        "architecture": "r2plus1d",
        "depth": 4,
        "width": 0.5,
        "batch_norm_epsilon": 1e-3,
        "torchvision": None,
        "num_features": 32,
        "num_classes": 4,
        "classes": "audio",
        "input": {
            "call": "[B, 3, T, H, W] float32, RGB in [0, 1] minus mean, by std",
            "mean": [0.43216, 0.394666, 0.37645],
            "std": [0.22803, 0.22145, 0.216989],
            "frames_per_clip": 4,
            "frames_per_sec": 8.0,
            "crop_size": 16,
        },
    }


def test_the_description_of_an_audio_encoder_has_its_log_mel(tiny_run, path):
    told = torch_export.export(str(tiny_run), path, stream="audio")
    assert told["architecture"] == "resnet"
    info = trained_run.open_run(str(tiny_run)).info
    assert told["input"]["mean"] == info.log_mel_mean
    assert told["input"]["window_secs"] == 0.5
    assert told["input"]["log_mel"]["num_filters"] == 40


@pytest.mark.parametrize("num_heads", [0, 2])
def test_no_head_and_several_heads_make_no_classifier(
    num_heads, tiny_run, tmp_path, path
):
    shutil.copytree(tiny_run, tmp_path / "run")
    heads_path = work.heads_file(str(tmp_path / "run"), "video")
    os.remove(heads_path)
    if num_heads:
        head = Head(np.zeros((32, 4), np.float32), np.zeros(4, np.float32))
        encoder_files.save_heads({"video": head, "audio": head}, heads_path)
    told = torch_export.export(str(tmp_path / "run"), path)
    assert told["num_classes"] is told["classes"] is None
    assert not any(name.startswith("fc.") for name in torch_files.read(path))


def test_importing_an_export_gives_the_run_back(tiny_run, path, tmp_path):
    torch_export.export(str(tiny_run), path)
    found = import_weights(path, str(tmp_path / "imported"))
    assert found.network == ("torchvision_split", "", "r2plus1d", 4, 0.5)
    assert found.num_classes == 4
    before, after = (
        layouts.state_dict(
            keras.models.load_model(work.encoder_file(str(folder), "video"))
        )
        for folder in (tiny_run, tmp_path / "imported")
    )
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)


def test_exporting_twice_gives_equal_bytes(tiny_run, tmp_path):
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for path in paths:
        torch_export.export(str(tiny_run), str(path))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.json"])
def test_an_existing_file_is_an_error(name, tiny_run, path, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} exists"):
        torch_export.export(str(tiny_run), path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["encoder.pt", "encoder", "s3://bucket/encoder.pth"])
def test_only_local_pth_files_are_written(name, tiny_run):
    with pytest.raises(ValueError, match="must be a local file that ends in .pth"):
        torch_export.export(str(tiny_run), name)


def test_an_unknown_stream_is_an_error(tiny_run, path):
    with pytest.raises(ValueError, match="video2 is not .*; choose one of video, aud"):
        torch_export.export(str(tiny_run), path, stream="video2")


def test_a_directory_without_a_run_is_an_error(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        torch_export.export(str(tmp_path), path)


def test_an_interrupted_export_leaves_nothing(tiny_run, path, tmp_path, monkeypatch):
    def interrupt(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_export.files, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        torch_export.export(str(tiny_run), path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_description(tiny_run, path):
    done = run_command(
        "xdc_tf.cli.export_torch", f"--workdir={tiny_run}", f"--out={path}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    told, end = done.stdout.rsplit("}\n", 1)
    with open(path.replace(".pth", ".json")) as file:
        assert json.loads(told + "}") == json.load(file)
    assert end == f"Exported {path}; docs/pytorch.md says how to open it.\n"


def recipe(heading):
    """The code under a heading of docs/pytorch.md."""
    text = (ROOT / "docs" / "pytorch.md").read_text()
    (part,) = re.findall(rf"^## {heading}$(.*?)(?=^##|\Z)", text, re.M | re.S)
    (code,) = re.findall(r"```python\n(.*?)```", part, re.S)
    return code


# Follows a recipe.
COMPUTE = """
import numpy

inputs = numpy.ascontiguousarray(numpy.load("inputs.npy"))
with torch.no_grad():
    numpy.save("found.npy", model(torch.from_numpy(inputs)).numpy())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="needs PyTorch"
)
@pytest.mark.parametrize(
    "architecture, heading",
    [
        ("r2plus1d", r"XDC's R\(2\+1\)D"),
        ("r2plus1d_torchvision", "torchvision's networks"),
        ("r3d", "torchvision's networks"),
        ("mc3", "torchvision's networks"),
        ("resnet", "Audio"),
        ("resnet_torchvision", "Audio"),
    ],
)
def test_a_recipe_computes_the_same_in_pytorch(
    architecture, heading, tiny_run, tmp_path
):
    stream, build, inputs = "video", video_resnet.build, CLIPS
    if architecture in audio_resnet.ARCHITECTURES:
        stream, build, inputs = "audio", audio_resnet.build, LOG_MEL
    encoder = build(architecture)
    rng = np.random.default_rng(0)
    head = Head(*(rng.normal(size=s).astype(np.float32) for s in ((512, 3), 3)))
    run = str(tmp_path / "run")
    shutil.copytree(tiny_run, run)
    config = work.read_config(run)
    config[f"{stream}_encoder"] = ResNetSettings(architecture, 18, 1.0)._asdict()
    work.claim(run, config, allow_change=True)
    encoder_files.save_encoder(encoder, work.encoder_file(run, stream))
    classifier = {} if architecture == "resnet" else {"video": head}
    encoder_files.save_heads(classifier, work.heads_file(run, stream))
    torch_export.export(run, str(tmp_path / "encoder.pth"), stream=stream)
    np.save(tmp_path / "inputs.npy", np.moveaxis(inputs, -1, 1))
    # Of its own, since TensorFlow and PyTorch do not always stand each other.
    subprocess.run(
        [sys.executable, "-c", recipe(heading) + COMPUTE], cwd=tmp_path, check=True
    )
    found = np.load(tmp_path / "found.npy")
    expected = np.asarray(encoder(inputs, training=False))
    if classifier:
        expected = expected @ head.kernel + head.bias
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-4)


def ast_run(tiny_run, tmp_path, **changes):
    """tiny_run with an audio transformer in place of its audio encoder."""
    form = {"size": "Ti", "depth": 2, "patch": 16, "pool": "class", "class_tokens": 2}
    values = transformers.audio_encoder(**form | changes).to_dict()
    settings = encoder_table.settings_of("audio", values)
    run = str(tmp_path / "run")
    shutil.copytree(tiny_run, run)
    config = work.read_config(run)
    clip = trained_run.open_run(run).clip
    config["audio_encoder"] = settings._asdict()
    work.claim(run, config, allow_change=True)
    encoder = encoder_table.build(settings, LayerSettings(), "audio_encoder", clip)
    rng = np.random.default_rng(1)
    encoder.set_weights(
        [w + rng.normal(0, 0.05, w.shape) for w in encoder.get_weights()]
    )
    encoder_files.save_encoder(encoder, work.encoder_file(run, "audio"))
    encoder_files.save_heads({}, work.heads_file(run, "audio"))
    return run, encoder


def log_mel_of(encoder):
    shape = (3, *encoder.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_an_exported_ast_is_read_back_as_what_it_was(tiny_run, tmp_path):
    # 128 filters, by which the file of an AST is read.
    settings = encoder_table.settings_of(
        "audio",
        transformers.audio_encoder(
            size="Ti", depth=2, pool="class", class_tokens=2, drop_path=0.0
        ).to_dict(),
    )
    clip = clip_of((106, 128, 1))
    encoder = encoder_table.build(settings, LayerSettings(), "audio_encoder", clip)
    rng = np.random.default_rng(1)
    encoder.set_weights(
        [w + rng.normal(0, 0.05, w.shape) for w in encoder.get_weights()]
    )
    tensors = ast_state_dict.state_dict(settings, encoder)
    network = transformer_layouts.find(tensors, "file")
    assert network.settings == settings and network.grid == (10, 12)
    other = encoder_table.build(settings, LayerSettings(), "audio_encoder", clip)
    taken = set()
    for entry in transformer_layouts.entries(other, network, tensors):
        assert {n: tensors[n].shape for n in entry.shapes} == entry.shapes
        entry.assign(*(tensors[name] for name in entry.shapes))
        taken |= set(entry.shapes)
    assert taken == set(tensors)
    log_mel = log_mel_of(encoder)
    np.testing.assert_allclose(
        np.asarray(other(log_mel)), np.asarray(encoder(log_mel)), atol=1e-5
    )


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers"
)
def test_the_recipe_of_ast_computes_the_same_in_pytorch(tiny_run, tmp_path):
    run, encoder = ast_run(tiny_run, tmp_path)
    torch_export.export(run, str(tmp_path / "encoder.pth"), stream="audio")
    log_mel = log_mel_of(encoder)
    np.save(tmp_path / "inputs.npy", np.moveaxis(log_mel, -1, 1))
    subprocess.run(
        [sys.executable, "-c", recipe("AST") + COMPUTE], cwd=tmp_path, check=True
    )
    expected = np.asarray(encoder(log_mel, training=False))
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_an_ast_is_described_by_the_arguments_of_its_config(tiny_run, tmp_path, path):
    run, encoder = ast_run(tiny_run, tmp_path)
    told = torch_export.export(run, path, stream="audio")
    frames, filters = encoder.input_shape[1:3]
    assert told["transformers"]["class"] == "ASTModel"
    config = told["transformers"]["config"]
    assert (config["max_length"], config["num_mel_bins"]) == (frames, filters)
    assert (config["hidden_size"], config["num_attention_heads"]) == (192, 3)
    assert told["input"]["call"].startswith("[B, rows, filters]")
    assert told["num_classes"] is None


@pytest.mark.parametrize(
    "changes", [{"pool": "mean"}, {"class_tokens": 1}, {"register_tokens": 2}]
)
def test_other_audio_transformers_have_no_class(tiny_run, tmp_path, path, changes):
    run, _ = ast_run(tiny_run, tmp_path, **changes)
    with pytest.raises(ValueError, match="ASTModel has pool=class, class_tokens=2 and"):
        torch_export.export(run, path, stream="audio")
