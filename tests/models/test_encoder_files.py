import ctypes
import json
import multiprocessing
import os
import resource
import struct
import sys

import hostile_models
import keras
import numpy as np
import pytest
from clip_settings import clip_of
from forked_commands import CONTEXT

from xdc_tf.models import encoder_files, encoder_table
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import compat

AUDIO = ResNetSettings("resnet", 4, 0.25)
_ORDERS = os.path.join(os.path.dirname(__file__), "layer_orders.json")


def load(path, settings=AUDIO, modality="audio"):
    return encoder_files.load_encoder(
        str(path),
        settings,
        LayerSettings(),
        name=f"{modality}_encoder",
        clip=clip_of(),
    )


def build(settings=AUDIO, modality="audio", seed=3):
    """An encoder in which no array is like another."""
    layers = LayerSettings(seed=seed)
    encoder = encoder_table.build(settings, layers, f"{modality}_encoder", clip_of())
    random = np.random.default_rng(seed)
    encoder.set_weights(
        [random.normal(size=w.shape).astype(np.float32) for w in encoder.get_weights()]
    )
    return encoder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "audio_encoder.keras"
    encoder_files.save_encoder(build(), str(path))
    return path


def assert_same(left, right):
    for a, b in zip(left.get_weights(), right.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("modality", "architecture"),
    [("video", "r2plus1d_avid"), ("video", "mc3"), ("audio", "resnet_vmz")],
)
def test_an_encoder_is_read_as_keras_reads_it(tmp_path, modality, architecture):
    settings = ResNetSettings(architecture, 10, 0.0625)
    path = tmp_path / "e.keras"
    encoder_files.save_encoder(build(settings, modality), str(path))
    loaded = load(path, settings, modality)
    assert_same(loaded, keras.models.load_model(path, compile=False))
    assert_same(loaded, build(settings, modality))


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_file_of_either_generation_of_keras_is_read(generation, modality):
    settings = ResNetSettings({"video": "r3d", "audio": "resnet"}[modality], 4, 0.0625)
    path = os.path.join(
        os.path.dirname(__file__), "files", f"{modality}_keras{generation}.keras"
    )
    assert_same(load(path, settings, modality), build(settings, modality, seed=5))


def test_networks_are_as_settings_promise_in_both_generations_of_keras():
    """Order of layers, width of features, and the least number of parameters."""
    orders = {}
    for architecture, row in encoder_table.ENCODERS.items():
        if row.settings is not ResNetSettings:
            continue
        settings = ResNetSettings(architecture, 10, 0.0625)
        encoder = encoder_table.build(settings, LayerSettings(), "encoder", clip_of())
        orders[f"{row.modality} {architecture}"] = [
            layer.name for layer in encoder.layers if layer.weights
        ]
        assert encoder.output_shape[-1] == encoder_table.num_features(settings)
        least = encoder_table.least_parameters(settings)
        assert least < encoder.count_params() < 8 * least
    with open(_ORDERS, encoding="utf-8") as file:
        assert orders == json.load(file)


class _Watch:
    """Which files of a directory are opened or changed, in Python or below it."""

    def __init__(self, directory):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        # IN_OPEN, IN_MODIFY, IN_CREATE, IN_DELETE, IN_MOVED_TO
        events = 0x20 | 0x2 | 0x100 | 0x200 | 0x80
        assert self._descriptor >= 0
        added = self._libc.inotify_add_watch(
            self._descriptor, os.fsencode(directory), events
        )
        assert added >= 0

    def names(self) -> set[str]:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return set()
        names, position = set(), 0
        while position < len(data):
            (length,) = struct.unpack_from("12xI", data, position)
            position += 16
            names.add(data[position : position + length].rstrip(b"\0").decode())
            position += length
        return names


# What Python reports of a program that starts, loads or opens something.
_EVENTS = (
    *("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn"),
    *("ctypes.dlopen", "socket.connect", "marshal.loads", "pickle.find_class"),
    *("os.rename", "os.remove", "os.mkdir", "os.symlink", "shutil.copyfile"),
)


def _load_all(paths, outside, results):
    """Loads every file and tells of each the error and what it did besides."""
    load(paths.pop("a good one"))  # what is imported late is imported now
    encoder = build()  # whose building is most of the time
    encoder_table.build = lambda *arguments: encoder
    watch, seen, watching = _Watch(outside), [], ""

    def hook(event, arguments):
        if not watching:
            return
        if event in _EVENTS:
            seen.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str):
            mode = arguments[2] or 0
            writes = mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes or arguments[0] != watching:
                seen.append(f"open {arguments}")

    sys.addaudithook(hook)
    for name, path in paths.items():
        watching = path
        try:
            load(path)
            message = ""
        except (ValueError, OSError) as error:
            message = str(error)
        watching = ""
        results[name] = message, [*seen, *watch.names()]
        seen.clear()
    results["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_hostile_files_are_refused_by_name_and_nothing_else_is_touched(good, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "files"
    outside.mkdir()
    folder.mkdir()
    paths = hostile_models.make_all(str(good), str(folder), str(outside))
    assert len(paths) >= 60
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        process = CONTEXT.Process(
            target=_load_all,
            args=({"a good one": str(good)} | paths, str(outside), results),
        )
        process.start()
        process.join(120)
        assert process.exitcode == 0
        results = dict(results)
    assert results.pop("memory") < 2 * 2**20  # kB: the bombs are of 268 MB each
    assert set(results) == set(paths)
    for name, (message, touched) in results.items():
        assert paths[name] in message, name
        assert "\n" not in message and len(message) < 1000, name
        assert touched == [], name
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


def test_a_description_of_the_same_layers_is_all_that_is_asked(good, tmp_path):
    members = hostile_models.read_members(str(good))
    hostile_models.write_members(tmp_path / "same.keras", members.items())
    assert_same(load(tmp_path / "same.keras"), build())


@pytest.mark.skipif(compat.KERAS_3, reason="refused by Keras 3's own loader")
def test_the_hostile_layer_in_hdf5_does_run_where_keras_opens_it(tmp_path):
    """That what the commands are tested with below is an attack."""
    marker = tmp_path / "ran"
    hostile_models.write_lambda(tmp_path / "audio_encoder.keras", marker)
    model = keras.models.load_model(tmp_path / "audio_encoder.keras")
    model(np.zeros([1, 8, 8, 1]))
    assert marker.exists()


def test_an_encoder_of_another_width_is_refused(good):
    with pytest.raises(ValueError, match="audio_encoder.keras cannot be read as the"):
        load(good, AUDIO._replace(width=0.125))


def test_settings_of_a_network_too_large_for_the_file_are_refused_before_it_is_built(
    good,
):
    with pytest.raises(ValueError, match="take .* at least; give the encoder and the"):
        load(good, ResNetSettings("resnet", 34, 64.0))


def test_a_missing_encoder_is_named(tmp_path):
    path = tmp_path / "video_encoder.keras"
    with pytest.raises(FileNotFoundError, match=f"{path} does not exist"):
        load(path)


def test_saving_makes_the_folder_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "initial" / "audio_encoder.keras"
    encoder_files.save_encoder(build(), str(path))
    encoder_files.save_encoder(build(seed=1), str(path))
    assert os.listdir(path.parent) == ["audio_encoder.keras"]
    assert_same(load(path), build(seed=1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a/kernel": np.zeros([3, 2]), "a/bias": np.zeros(2)}, "no head on the"),
        (
            {"a/kernel": np.zeros([4, 2], "f4"), "a/bias": np.zeros(3, "f4")},
            "no head on the encoder's 4 features",
        ),
        ({"a/kernel": np.zeros([4, 2], "f4")}, "no head on the"),
        ({"a/bias": np.zeros(2, "f4")}, "a bias without its kernel"),
        ({"../a/kernel": np.zeros([4, 2], "f4")}, "no part of a head"),
        ({"a/other": np.zeros(2, "f4")}, "no part of a head"),
        ({"a/kernel": np.array([None])}, "no archive of arrays"),
        (
            {"a/kernel": np.full([4, 2], np.nan, "f4"), "a/bias": np.zeros(2, "f4")},
            "not finite",
        ),
    ],
)
def test_heads_of_another_form_are_refused(tmp_path, arrays, message):
    path = str(tmp_path / "audio_heads.npz")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"audio_heads.npz.*{message}"):
        encoder_files.load_heads(path, num_features=4)


def test_heads_are_read_as_written(tmp_path):
    path = str(tmp_path / "audio_heads.npz")
    head = Head(np.ones([4, 2], np.float32), np.arange(2, dtype=np.float32))
    encoder_files.save_heads({"video": head, "joint_1": head}, path)
    heads = encoder_files.load_heads(path, num_features=4)
    assert list(heads) == ["video", "joint_1"]
    np.testing.assert_array_equal(heads["video"].kernel, head.kernel)
    np.testing.assert_array_equal(heads["joint_1"].bias, head.bias)
