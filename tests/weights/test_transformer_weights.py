"""Transformers in safetensors files, against what the library transformers computes.

tests/parity/transformers_*.npz and .keys.json are of benchmarks.transformer_references;
weights and inputs follow from a rule, and so are not stored.
"""

import json
import pathlib
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import reference_rule
from xdc_tf.evaluation import encoder_sources
from xdc_tf.training import trained_run
from xdc_tf.weights import safetensors_files, transformer_layouts, weight_files
from xdc_tf.weights.import_weights import import_weights

PARITY = pathlib.Path(__file__).parent.parent / "parity"
# Name -> clip, and sizes that the import must state.
NAMES = (
    "transformers_dinov2",
    "transformers_dinov2_registers",
    "transformers_videomae",
    "transformers_videomae_pretrained",
    "transformers_ast",
)


def drawn(name):
    shapes = json.loads((PARITY / f"{name}.keys.json").read_text())
    return reference_rule.transformer_weights(shapes)


def reference(name):
    with np.load(PARITY / f"{name}.npz") as arrays:
        return dict(arrays)


def write(path, tensors):
    save_file(tensors, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Safetensors files of all references, by name."""
    folder = tmp_path_factory.mktemp("safetensors")
    return {name: write(folder / f"{name}.safetensors", drawn(name)) for name in NAMES}


def assert_close(features, expected):
    error = np.abs(np.asarray(features) - expected).max()
    assert error < 1e-4 * np.abs(expected).max()


def features_of(out, inputs):
    run = trained_run.open_run(str(out))
    ((stream, encoder),) = trained_run.load_encoders(run).items()
    assert stream == ("audio" if inputs.ndim == 4 else "video")
    return encoder(inputs, training=False)


@pytest.mark.parametrize("size", [70, 112])
def test_dinov2_on_a_clip_has_the_mean_of_its_frames_features(files, tmp_path, size):
    name = "transformers_dinov2"
    clip = {"num_frames": 4, "crop_size": size}
    imported = import_weights(files[name], str(tmp_path / "out"), clip=clip)
    assert imported.network.layout == "dinov2"
    assert list(imported.account.beside) == ["embeddings.mask_token"]
    assert not imported.account.missing and not imported.account.unused
    images = np.moveaxis(reference_rule.noise(2, 3, size, size), 1, -1)
    first, second = reference(name)[f"features_{size}"]
    still, mixed = np.stack([images[0]] * 4), images[[0, 1, 1, 0]]
    found = features_of(tmp_path / "out", np.stack([still, mixed]))
    assert_close(found, np.stack([first, (first + second) / 2]))


def test_dinov2_with_registers_leaves_out_a_classifier_of_other_features(
    files, tmp_path
):
    name = "transformers_dinov2_registers"
    clip = {"num_frames": 2, "crop_size": 70}
    imported = import_weights(files[name], str(tmp_path / "out"), clip=clip)
    assert imported.network.settings.register_tokens == 4
    assert imported.num_classes is None
    assert {"classifier.weight", "classifier.bias"} <= imported.account.beside.keys()
    images = reference_rule.noise(2, 3, 70, 70)
    clips = np.repeat(np.moveaxis(images, 1, -1)[:, np.newaxis], 2, axis=1)
    assert_close(features_of(tmp_path / "out", clips), reference(name)["features_70"])


@pytest.mark.parametrize("name", ["videomae", "videomae_pretrained"])
def test_videomae_has_the_features_and_classes_of_its_clips(files, tmp_path, name):
    name = f"transformers_{name}"
    imported = import_weights(files[name], str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [config["clip"][key] for key in ("num_frames", "crop_size")] == [16, 224]
    clips = np.moveaxis(reference_rule.noise(1, 16, 3, 224, 224), 2, -1)
    features = features_of(tmp_path / "out", clips)
    expected = reference(name)
    assert_close(features, expected["features"])
    assert not imported.account.missing and not imported.account.unused
    if "logits" in expected:
        run = trained_run.open_run(str(tmp_path / "out"))
        (head,) = trained_run.load_heads(run, "video").values()
        assert_close(features @ head.kernel + head.bias, expected["logits"])
    else:
        assert imported.num_classes is None
        assert any(name.startswith("decoder.") for name in imported.account.beside)


def test_ast_has_the_features_of_its_spectrograms(files, tmp_path):
    name = "transformers_ast"
    import_weights(files[name], str(tmp_path / "out"))
    rows = reference_rule.noise(1, 1024, 128)[..., np.newaxis]
    # The last frames lie beyond the last patch, here as there.
    assert_close(
        features_of(tmp_path / "out", rows[:, :1016]), reference(name)["features"]
    )
    source = encoder_sources.open_source(str(tmp_path / "out"))
    assert source.run.streams == {"audio": "audio"}
    clip = source.run.clip
    assert (clip.num_mels, clip.mel_hop_secs) == (128, 0.01)
    assert (clip.log_mel_mean, clip.log_mel_std) == (-4.2677393, 2 * 4.5689974)


def test_names_of_todays_classes_are_known_too(files, tmp_path):
    """Of a state dict that torch.save wrote; save_pretrained writes the older ones."""
    tensors, out = load_file(files["transformers_ast"]), tmp_path / "out"
    newer = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }

    def rename(name):
        for old, new in newer.items():
            name = name.replace(old, new)
        return name

    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    import_weights(write(tmp_path / "new", renamed), str(out))
    rows = reference_rule.noise(1, 1024, 128)[:, :1016, :, np.newaxis]
    assert_close(features_of(out, rows), reference("transformers_ast")["features"])


def test_shorter_audio_takes_resized_positions(files, tmp_path):
    import_weights(
        files["transformers_ast"], str(tmp_path / "out"), clip={"audio_secs": 2.0}
    )
    rows = reference_rule.noise(1, 200, 128)[..., np.newaxis]
    assert np.isfinite(features_of(tmp_path / "out", rows)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layernorm.weight": None}, r"1 missing from the file \('layernorm.weight'"),
        (
            {"encoder.layer.1.mlp.fc1.bias": np.zeros(3, np.float32)},
            r"1 of another shape \('encoder.layer.1.mlp.fc1.bias' \(3,\) for \(768,\)",
        ),
        (
            {"head.weight": np.zeros(3, np.float32)},
            r"1 without a place \('head.weight'",
        ),
        (
            {"layernorm.weight": np.full(192, np.nan, np.float32)},
            "'layernorm.weight' holds numbers that are not finite",
        ),
        ({"layernorm.bias": np.zeros(192, np.int64)}, "'layernorm.bias' is of dtype"),
        (
            {"embeddings.position_embeddings": np.zeros((1, 8, 192), np.float32)},
            r"no positions that are known: .* is \(1, 8, 192\)",
        ),
        (
            {"encoder.layer.3.norm1.weight": np.zeros(192, np.float32)},
            "a transformer of 3 blocks whose patches are",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(
    files, tmp_path, change, message
):
    tensors = load_file(files["transformers_dinov2"])
    for name, value in change.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    path = write(tmp_path / "changed", tensors)
    clip = {"num_frames": 2, "crop_size": 70}
    with pytest.raises(ValueError, match=message):
        import_weights(path, str(tmp_path / "out"), clip=clip)
    assert not (tmp_path / "out").exists()


def test_a_clip_without_whole_patches_and_an_architecture_are_refused(files, tmp_path):
    path, out = files["transformers_dinov2"], str(tmp_path / "out")
    with pytest.raises(ValueError, match="patch=14 does not divide .*crop_size=100"):
        import_weights(path, out, clip={"num_frames": 2, "crop_size": 100})
    with pytest.raises(ValueError, match="holds a transformer, dinov2: size Ti"):
        import_weights(path, out, architecture="r3d")


def raw(header, data=b"", length=None):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            raw({"a": TENSOR | {"data_offsets": [0, 4]}}, bytes(8)),
            "no valid safetensors",
        ),
        (
            raw({"a": TENSOR | {"data_offsets": [8, 0]}}, bytes(8)),
            "no valid safetensors",
        ),
        (raw({"a": TENSOR}, bytes(4)), "no valid safetensors"),
        (raw({"a": TENSOR}, bytes(12)), "no valid safetensors"),
        (raw({"a": TENSOR, "b": TENSOR}, bytes(8)), "no valid safetensors"),
        (
            raw({"a": TENSOR, "b": TENSOR | {"data_offsets": [4, 12]}}, bytes(12)),
            "no valid safetensors",
        ),
        (
            raw({"a": TENSOR | {"shape": [2**40, 2**40]}}, bytes(8)),
            "no valid safetenso",
        ),
        (raw(b"{not json", b""), "no valid safetensors"),
        (raw({"a": TENSOR}, bytes(8), length=2**62), "was cut within its header"),
        (
            raw(
                {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab"
            ),
            "'a' is of type F8_E4M3, and read are BF16",
        ),
    ],
)
def test_damaged_and_hostile_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        weight_files.read(str(path))
    assert str(path) in str(error.value)


def test_bfloat16_and_other_types_are_read_as_their_numbers(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 1e30], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw(header, upper))
    found = safetensors_files.read(str(path))["a"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values.reshape(2, 2), rtol=2**-7)
    others = {
        "half": np.array([[0.5, 2.0]], np.float16),
        "count": np.array(7, np.int64),
        "flags": np.array([True, False]),
    }
    found = weight_files.read(write(tmp_path / "b", others))
    for name, value in others.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_sinusoids_are_those_of_the_formula():
    table = transformer_layouts.sinusoids(50, 8)
    for position in (0, 3, 49):
        for j in range(8):
            angle = position / 10000 ** (2 * (j // 2) / 8)
            expected = np.cos(angle) if j % 2 else np.sin(angle)
            assert table[position, j] == pytest.approx(expected)
