"""Weight files, as several projects write them, become work directories."""

import functools
import json
import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked_commands import run_command

from xdc_tf.data import clips
from xdc_tf.evaluation import encoder_sources, labelled_records, linear
from xdc_tf.export import export_run
from xdc_tf.models import encoder_files, video_resnet
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as work
from xdc_tf.training import trained_run
from xdc_tf.training.pretrain import pretrain
from xdc_tf.weights import layouts, torch_files, weight_files
from xdc_tf.weights.import_weights import import_weights

WIDTH = 0.0625  # 4 to 32 channels
CLIPS = np.random.default_rng(0).normal(size=(2, 3, 32, 24, 3)).astype(np.float32)
# Of R(2+1)D-10: a tensor, and how many norms there are in the stem, in four blocks and
# on three shortcuts, with as many kernels.
KERNEL = "layer2.0.conv2.0.3.weight"
NUM_NORMS = 2 + 4 * 4 + 3


@functools.cache
def drawn(architecture="r2plus1d", depth=10):
    """An encoder whose variables are all drawn, so that none is as initialised."""
    encoder = video_resnet.build(architecture, depth=depth, width=WIDTH)
    rng = np.random.default_rng(depth)
    for weight in layouts.weights(encoder, layouts.torch_layout(encoder)).values():
        value = rng.uniform(0.5, 1.5, weight.shape)
        if len(weight.shape) > 1:
            value = rng.normal(0, np.sqrt(2 / value[0].size), weight.shape)
        weight.assign(value.astype(np.float32))
    return encoder


def tensors_of(architecture="r2plus1d", depth=10, *, prefix=""):
    tensors = layouts.state_dict(drawn(architecture, depth))
    return {prefix + name: tensor for name, tensor in tensors.items()}


def features(encoder):
    return np.asarray(encoder(CLIPS, training=False))


def features_of(directory):
    path = work.encoder_file(str(directory), "video")
    return features(keras.models.load_model(path))


@pytest.fixture
def write(tmp_path):
    """Writes tensors to the only file of the test's folder; returns its path."""

    def written(tensors):
        path = str(tmp_path / "weights.pth")
        torch_files.write(path, tensors)
        return path

    return written


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "imported")


@pytest.mark.parametrize("architecture", video_resnet.ARCHITECTURES)
def test_an_imported_encoder_computes_the_same_features(architecture, write, out):
    found = import_weights(write(tensors_of(architecture)), out)
    assert found.network[2:] == (architecture, 10, WIDTH)
    expected = features(drawn(architecture))
    np.testing.assert_allclose(features_of(out), expected, rtol=1e-5, atol=1e-6)


def test_a_network_is_imported_from_inside_of_a_checkpoint(write, out):
    prefix = "model.module.video_network.base."
    others = {
        "model.module.audio_network.base.conv1.weight": (64, 1, 7, 7),
        "model.module.mlp_v0.block_forward.2.weight": (16, 32),
    }
    tensors = tensors_of(prefix=prefix)
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in others.items()}
    found = import_weights(write(tensors), out)
    assert (found.network.prefix, found.account.beside) == (prefix, others)
    expected = features(drawn())
    np.testing.assert_allclose(features_of(out), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "prefix", "mean", "std"),
    [
        ("r2plus1d", "", 0.43216, 0.22803),
        ("r2plus1d_torchvision", "", 0.43216, 0.22803),
        ("r2plus1d_torchvision", "model.video_network.base.", 0.45, 0.225),
        ("r2plus1d_avid", "model.module.video_model.", 0.485, 0.229),
    ],
)
def test_colours_are_normalised_as_the_weights_were_trained(
    architecture, prefix, mean, std, write, out
):
    import_weights(write(tensors_of(architecture, prefix=prefix)), out)
    clip = trained_run.open_run(out).clip
    levels = tf.fill([1, 1, 1, 1, 3], 255 * (mean + 2 * std))
    normalization = clips.video_normalization(clip)
    red = clips.normalize_video(levels, normalization)[0, 0, 0, 0, 0]
    assert float(red) == pytest.approx(2.0, rel=1e-5)


def test_an_optimizers_state_is_beside_or_in_lists(write, out, monkeypatch):
    path = write({"a": np.zeros(1)})
    momentum = np.zeros((4, 4), np.float32)
    content = {
        "epoch": 3,
        "state_dict": {"module": tensors_of()},
        "optimizer": {
            "state": {0: {"momentum_buffer": momentum}},
            "param_groups": [{"lr": 0.1, "params": [0, momentum]}],
        },
    }
    monkeypatch.setattr(weight_files, "read", lambda path, *, with_torch: content)
    found = import_weights(path, out)
    assert found.network.prefix == "state_dict.module."
    assert found.account.beside == {"optimizer.state.0.momentum_buffer": (4, 4)}


def blobs_18(num_classes=7):
    """Caffe2's blobs of XDC's network of depth 18, named by VMZ's rule."""
    tensors = tensors_of("r2plus1d", 18)
    modules = {
        "stem.0": "conv1_middle",
        "stem.1": "conv1_middle_spatbn_relu",
        "stem.3": "conv1",
        "stem.4": "conv1_spatbn_relu",
    }
    for count, block in enumerate("1.0 1.1 2.0 2.1 3.0 3.1 4.0 4.1".split()):
        for j in "12":
            before = f"layer{block}.conv{j}"
            modules |= {
                f"{before}.0.0": f"comp_{count}_conv_{j}_middle",
                f"{before}.0.1": f"comp_{count}_spatbn_{j}_middle",
                f"{before}.0.3": f"comp_{count}_conv_{j}",
                f"{before}.1": f"comp_{count}_spatbn_{j}",
            }
        shortcut = f"shortcut_projection_{count}"
        modules[f"layer{block}.downsample.0"] = shortcut
        modules[f"layer{block}.downsample.1"] = f"{shortcut}_spatbn"
    blobs = {
        f"last_out_L{num_classes}_w": np.ones((num_classes, 32), np.float32),
        f"last_out_L{num_classes}_b": np.zeros(num_classes, np.float32),
    }
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        suffixes = {
            "weight": "_w" if tensor.ndim == 5 else "_s",
            "bias": "_b",
            "running_mean": "_rm",
            "running_var": "_riv",
        }
        if last in suffixes:
            blobs[modules[module] + suffixes[last]] = tensor
    return blobs


def test_caffe2_blobs_give_the_same_features(tmp_path, out):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs_18()}, protocol=2))
    found = import_weights(str(path), out)
    assert found.network == ("caffe2", "", "r2plus1d", 18, WIDTH)
    assert found.num_classes == 7
    assert not found.account.unused and not found.account.counters
    expected = features(drawn("r2plus1d", 18))
    np.testing.assert_allclose(features_of(out), expected, rtol=1e-5, atol=1e-6)


def with_classifier(tensors, prefix="", *, features=32):
    rng = np.random.default_rng(0)
    return tensors | {
        f"{prefix}fc.weight": rng.normal(size=(3, features)).astype(np.float32),
        f"{prefix}fc.bias": np.array([0, 1, 2], np.float32),
    }


def test_the_classifier_becomes_a_head_for_true_labels(write, out):
    tensors = with_classifier(tensors_of(prefix="module."), "module.")
    found = import_weights(write(tensors), out)
    assert found.num_classes == 3
    heads = trained_run.load_heads(trained_run.open_run(out), "video")
    assert list(heads) == ["true_labels"]
    kernel, bias = heads["true_labels"]
    np.testing.assert_array_equal(kernel, tensors["module.fc.weight"].T)
    np.testing.assert_array_equal(bias, [0, 1, 2])


def test_without_a_classifier_there_is_no_head(write, out):
    assert import_weights(write(tensors_of()), out).num_classes is None
    assert trained_run.load_heads(trained_run.open_run(out), "video") == {}


def changed(name, change):
    """Tensors of a file with one of them changed, or gone."""
    tensors = tensors_of()
    value = change(tensors.pop(name))
    return tensors if value is None else tensors | {name: value}


DOES_NOT_FIT = {
    "missing": (
        lambda: changed(KERNEL, lambda tensor: None),
        rf"1 missing from the file \('{re.escape(KERNEL)}' \(8, 18, 3, 1, 1\)\)",
    ),
    "misshaped": (
        lambda: changed(KERNEL, lambda tensor: tensor[:, :9]),
        r"1 of another shape \(\S+ \(8, 9, 3, 1, 1\) for \(8, 18, 3, 1, 1\)\)",
    ),
    "extra": (
        lambda: tensors_of() | {"layer4.0.attention.weight": np.ones(2, np.float32)},
        r"1 without a place \('layer4.0.attention.weight' \(2,\)\)",
    ),
    "classifier of other features": (
        lambda: with_classifier(tensors_of(), features=64),
        r"2 without a place \('fc.weight' \(3, 64\), 'fc.bias' \(3,\)\)",
    ),
}


@pytest.mark.parametrize("case", DOES_NOT_FIT)
def test_what_does_not_fit_is_an_error_that_names_it(case, write, out, tmp_path):
    make, told = DOES_NOT_FIT[case]
    with pytest.raises(ValueError, match=told + r"\. --arch chooses .* --partial"):
        import_weights(write(make()), out)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_what_does_not_fit_is_left_as_initialised_on_request(write, out):
    tensors = tensors_of() | {"layer4.0.attention.weight": np.ones(2, np.float32)}
    norm = "layer3.0.conv1.1.weight"
    misshapen, lacking = tensors.pop(KERNEL)[:, :9], tensors.pop(norm)
    found = import_weights(write(tensors | {KERNEL: misshapen}), out, partial=True)
    assert found.account.missing == {norm: lacking.shape}
    assert found.account.mismatched == {KERNEL: ((8, 9, 3, 1, 1), (8, 18, 3, 1, 1))}
    encoder = keras.models.load_model(work.encoder_file(out, "video"))
    for name, value in layouts.state_dict(encoder).items():
        if name == norm:
            np.testing.assert_array_equal(value, np.ones_like(lacking))
        elif name != KERNEL:
            np.testing.assert_array_equal(value, tensors[name], err_msg=name)


def test_a_name_cannot_write_to_the_terminal(write, out):
    tensors = tensors_of() | {"\x1b[2Jgone": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match=r"\('\\x1b\[2Jgone' \(2,\)\)"):
        import_weights(write(tensors), out)


def test_many_that_do_not_fit_are_counted_and_three_named(write, out):
    lacking = {n: t for n, t in tensors_of().items() if "layer4" not in n}
    lacking["layer4.0.conv1.0.0.weight"] = tensors_of()["layer4.0.conv1.0.0.weight"]
    # Five kernels and five norms of four variables each; one kernel is there.
    with pytest.raises(ValueError, match=r"24 missing from the file .* and 21 more\)"):
        import_weights(write(lacking), out)


def test_every_tensor_of_the_file_is_accounted_for_once(write, out):
    tensors = with_classifier(changed(KERNEL, lambda t: t[:1]), features=32)
    tensors |= {"head.0.weight": np.zeros((2, 2), np.float32)}
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    tensors["ema.decay"] = np.zeros([], np.float32)
    account = import_weights(write(tensors), out, partial=True).account
    kinds = [list(getattr(account, kind)) for kind in account._fields]
    in_file = [name for kind in kinds for name in kind if name not in account.missing]
    assert sorted(in_file) == sorted(tensors)
    assert list(account.mismatched) == [f"model.{KERNEL}"]
    assert list(account.unused) == ["model.head.0.weight"]
    assert list(account.beside) == ["ema.decay"]
    assert len(account.counters) == NUM_NORMS


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda t: t * np.float32("nan"), "not finite"),
        (lambda t: t + np.float32("inf"), "not finite"),
        (lambda t: t.astype(np.float64) + 1e300, "not finite in float32"),
        (lambda t: t.astype(np.int32), "of dtype int32"),
    ],
)
def test_other_things_than_finite_floats_are_refused(change, told, write, out):
    path = write(changed(KERNEL, change))
    with pytest.raises(
        ValueError, match=f"weights.pth: '{re.escape(KERNEL)}' .*{told}"
    ):
        import_weights(path, out, partial=True)


def test_weights_of_half_and_double_precision_become_float32(write, out):
    halves = {
        name: tensor.astype(np.float64 if tensor.ndim == 1 else np.float16)
        for name, tensor in tensors_of("r3d").items()
        if tensor.dtype == np.float32
    }
    import_weights(write(halves), out)
    loaded = keras.models.load_model(work.encoder_file(out, "video"))
    stored = np.asarray(loaded.get_layer("stem").kernel)
    expected = tensors_of("r3d")["stem.0.weight"].astype(np.float16)
    np.testing.assert_array_equal(stored, np.transpose(expected, (2, 3, 4, 1, 0)))


def test_another_network_of_the_file_is_beside(write, out):
    student = tensors_of("r3d", prefix="student.")
    path = write(student | tensors_of(prefix="teacher."))
    found = import_weights(path, out, prefix="teacher.")
    assert found.network[1:3] == ("teacher.", "r2plus1d")
    assert found.account.beside.keys() == student.keys()


@pytest.mark.parametrize(
    "architecture, told",
    [
        ("r3d", "--arch=r3d has other layers .* names are those of torchvision_split"),
        ("r2plus1d_avid", "--arch=r2plus1d_avid has other layers"),
        ("r2plus1d_torchvision", r"of another shape \('layer2.0.conv2.0.0.weight"),
        ("r2plus2d", "--arch=r2plus2d is not one of auto, r2plus1d, "),
    ],
)
def test_another_architecture_than_the_files_is_an_error(
    architecture, told, write, out, tmp_path
):
    with pytest.raises(ValueError, match=told):
        import_weights(write(tensors_of()), out, architecture=architecture)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_an_existing_directory_is_an_error(write, out, tmp_path):
    (tmp_path / "imported").mkdir()
    with pytest.raises(FileExistsError, match="imported exists"):
        import_weights(write(tensors_of()), out)
    assert list((tmp_path / "imported").iterdir()) == []


def test_an_interrupted_import_leaves_nothing(write, out, tmp_path, monkeypatch):
    path = write(with_classifier(tensors_of()))

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder_files, "save_heads", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_weights(path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_clip_that_cannot_be_is_an_error(write, out):
    with pytest.raises(ValueError, match="config.clip.num_frames=0 must be"):
        import_weights(write(tensors_of()), out, clip={"num_frames": 0})


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A work directory of imported weights with a classifier, for clips of 4 x 16.

    Of R(2+1)D-4, whose last stage is the first.
    """
    folder = tmp_path_factory.mktemp("imported")
    path = str(folder / "weights.pth")
    torch_files.write(path, with_classifier(tensors_of(depth=4), features=4))
    clip = {"num_frames": 4, "fps": 8.0, "crop_size": 16}
    import_weights(path, str(folder / "run"), clip=clip)
    return folder / "run"


def test_the_report_tells_what_was_imported(imported):
    report = json.loads((imported / work.IMPORT_FILE).read_text())
    assert report["file"] == "weights.pth"
    assert (report["architecture"], report["depth"], report["width"]) == (
        "r2plus1d",
        4,
        WIDTH,
    )
    assert report["sha256"] == files.sha256(str(imported.parent / "weights.pth"))
    assert report["loaded"]["fc.weight"] == [3, 4]
    assert report["missing"] == report["unused"] == report["beside"] == {}


def test_imported_weights_are_evaluated(imported, tiny_records):
    source = encoder_sources.open_source(str(imported))
    splits = labelled_records.open_splits(
        [str(tiny_records / "train")],
        [str(tiny_records / "test")],
        run=source.run,
        modalities=["video"],
    )
    settings = linear.LinearSettings(num_clips=1)
    ((result,),) = linear.run(source, splits, settings, streams=["video"]).splits
    assert result.stream == "video"
    assert list(result.metrics) == ["top1", "top5", "mean_class"]


def test_imported_weights_are_exported_with_their_classifier(imported, tmp_path):
    (path,) = export_run.export(str(imported), str(tmp_path / "exported"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 20, 20, 3), np.uint8)
    signatures = tf.saved_model.load(path).signatures
    served = signatures["serving_default"](frames=tf.constant(frames))["features"]
    assert served.shape == (2, 4)
    classes = signatures["probabilities"](frames=tf.constant(frames))["true_labels"]
    np.testing.assert_allclose(np.sum(classes, axis=1), [1, 1], rtol=1e-5)


def starting_from(imported, config):
    config["init_from"] = str(imported)
    config["num_rounds"] = 1
    config["video_encoder"] = {
        "architecture": "r2plus1d",
        "depth": 4,
        "width": WIDTH,
    }
    return config


def test_a_run_starts_from_imported_weights(
    imported, tiny_config, tiny_records, tmp_path
):
    pretrain(
        starting_from(imported, tiny_config),
        workdir=str(tmp_path / "run"),
        records_dir=str(tiny_records / "train"),
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
    initial = features_of(tmp_path / "run" / "initial")
    np.testing.assert_array_equal(initial, features_of(imported))


def test_a_run_of_another_architecture_cannot_start_from_them(
    imported, tiny_config, tiny_records, tmp_path
):
    config = starting_from(imported, tiny_config)
    config["video_encoder"]["depth"] = 18
    with pytest.raises(ValueError, match="video encoder .*depth=4.* is .*depth=18"):
        pretrain(
            config,
            workdir=str(tmp_path / "run"),
            records_dir=str(tiny_records / "train"),
            strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
        )


def test_the_command_tells_where_every_tensor_went(write, out):
    tensors = changed(KERNEL, lambda tensor: None)
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    tensors["optimizer.step"] = np.zeros([], np.float32)
    path = write(tensors)
    done = run_command(
        "xdc_tf.cli.import_weights", "--partial", f"--weights={path}", f"--out={out}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{path}: r2plus1d of depth 10 and width 0.0625 under 'model.'",
        f"  {5 * NUM_NORMS - 1} tensors loaded",
        f"  missing, left as initialised: 'model.{KERNEL}' (8, 18, 3, 1, 1)",
        f"  {NUM_NORMS} counters of batches, not needed",
        "  1 tensors beside the encoder, not used",
        f"Imported to {out}; its import.json lists every tensor.",
    ]
