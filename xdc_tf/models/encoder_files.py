"""Encoders as .keras files, which open without this project; their heads as .npz.

A file is read as a container of arrays. The network is built here, from settings. The
file's own description of one, from which Keras would import and run whatever it names,
is read as JSON and must name the same layers and nothing else.
"""

import io
import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

from xdc_tf.data.clips import ClipSettings
from xdc_tf.models import encoder_table
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import arrays, files

_WEIGHTS_MEMBER, _CONFIG_MEMBER = "model.weights.h5", "config.json"
_MAX_MEMBERS = 64
# What HDF5 adds to the arrays: a fixed part, and one for each array with its groups.
_HDF5_BYTES, _HDF5_BYTES_PER_ARRAY = 1 << 20, 1 << 14
_CONFIG_BYTES = 1 << 24
# What Keras's description of an encoder names beside its layers.
_PARTS = {
    *("Functional", "HeNormal", "Ones", "Zeros", "L2", "DTypePolicy"),
    "__keras_tensor__",
}
# Layers of attention, in the order of its weights.
_ATTENTION_PARTS = ("query_dense", "key_dense", "value_dense", "output_dense")
# Where Keras 3 keeps the state of random numbers.
_RANDOM_STATE = "seed_generator"
_MODULE = re.compile(r"keras(\.[a-z_]+)*")
_SOURCE = re.compile("[a-z][a-z0-9_-]{0,63}")
_DAMAGED = "fetch or make the file again"


class Head(NamedTuple):
    """A linear classifier on an encoder's features.

    Attributes:
      kernel: [D, K] float32.
      bias: [K] float32.
    """

    kernel: np.ndarray
    bias: np.ndarray


def save_encoder(encoder: keras.Model, path: str) -> None:
    """Writes an encoder whole or not at all; makes the folder.

    Raises:
      OSError: if it cannot be written; names the path.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with files.placing(path) as temporary:
        encoder.save(temporary)


def load_encoder(
    path: str,
    settings: EncoderSettings,
    layers: LayerSettings,
    *,
    name: str,
    clip: ClipSettings,
) -> keras.Model:
    """Builds an encoder and gives it the weights of a file.

    Args:
      path: .keras file of Keras 2 or 3.
      settings: of the network; the file must have its weights and no others.
      layers: what its layers share.
      name: of the model.
      clip: that the encoder was built for.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is none of Keras's, is damaged, or has other weights.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: the run has not finished a round yet; go on with "
            "python -m xdc_tf.cli.pretrain."
        )
    # Before the network takes its memory, which the settings alone decide.
    least_bytes = 4 * encoder_table.least_parameters(settings)
    if os.path.getsize(path) < least_bytes:
        raise ValueError(
            f"{path} has {os.path.getsize(path)} bytes, and the weights of {settings} "
            f"take {least_bytes} at least; give the encoder and the configuration of "
            "one run."
        )
    encoder = encoder_table.build(settings, layers, name, clip)
    variables = dict(_places(encoder))
    weights = _read_weights(path, encoder, variables)
    for place, variable in variables.items():
        variable.assign(weights[place])
    return encoder


def _places(encoder: keras.Model) -> Iterator[tuple[str, Any]]:
    """Where Keras puts each of a model's variables in its HDF5 file.

    Layers go by their class and, from the second of a class on, a number, both in Keras
    2 and 3 (`saving_lib`): layers/conv3d_1/vars/0. Attention has layers inside:
    layers/multi_head_attention/query_dense/vars/0, which Keras 2 calls _query_dense.
    """
    counters: dict[str, Iterator[int]] = {}
    for layer in encoder.layers:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        number = next(counters.setdefault(kind, itertools.count()))
        place = f"layers/{kind}{f'_{number}' * (number > 0)}"
        is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
        for index, variable in enumerate(layer.weights):
            if is_attention:  # a kernel and a bias of each layer inside
                part = _ATTENTION_PARTS[index // 2]
                yield f"{place}/{part}/vars/{index % 2}", variable
            else:
                yield f"{place}/vars/{index}", variable


def _read_weights(
    path: str, encoder: keras.Model, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a .keras file by their places, all that are there and no others."""
    shapes = {place: tuple(variable.shape) for place, variable in variables.items()}
    num_bytes = sum(4 * math.prod(shape) for shape in shapes.values())
    most = num_bytes + _HDF5_BYTES + _HDF5_BYTES_PER_ARRAY * len(shapes)
    try:
        with files.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) > _MAX_MEMBERS:
                raise ValueError(f"more than {_MAX_MEMBERS} members")
            description = _read_member(archive, _CONFIG_MEMBER, 1, _CONFIG_BYTES)
            _check_description(json.loads(description), encoder)
            hdf5 = _read_member(archive, _WEIGHTS_MEMBER, num_bytes, most)
        with h5py.File(io.BytesIO(hdf5), "r") as root:
            _check_no_others(root, shapes)
            return {place: _read_array(root, place, shapes[place]) for place in shapes}
    except arrays.ZIP_ERRORS as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(
            f"{path} cannot be read as the weights of this encoder in a .keras file "
            f"({' '.join(str(error).split()) or type(error).__name__}); {_DAMAGED}, or "
            "give the one that belongs to the configuration."
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str, least: int, most: int) -> bytes:
    """A member of from `least` to `most` bytes, checked by its CRC-32."""
    members = [member for member in archive.infolist() if member.filename == name]
    if len(members) != 1:
        raise ValueError(f"{len(members)} members {name}, 1 is expected")
    size = members[0].file_size
    if not least <= size <= most:
        raise ValueError(f"{name} has {size} bytes, {least} to {most} are expected")
    with archive.open(members[0]) as member:
        data = member.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} has {len(data)} bytes in place of {size}")
    return data


def _check_description(description: Any, encoder: keras.Model) -> None:
    """Checks that a file describes the encoder, as far as it names anything."""
    layers = [
        (layer["class_name"], layer["config"]["name"])
        for layer in description["config"]["layers"]
    ]
    expected = [(type(layer).__name__, layer.name) for layer in encoder.layers]
    for layer, known in itertools.zip_longest(layers, expected):
        if layer != known:
            raise ValueError(f"describes the layer {layer!a} in place of {known}")
    known_parts = _PARTS | {kind for kind, _ in expected}
    known_parts |= {
        part["class_name"]
        for part in _parts(json.loads(encoder.to_json()))
        if "class_name" in part
    }
    for part in _parts(description):
        kind, module = part["class_name"], part.get("module")
        registered = part.get("registered_name")
        if (
            kind not in known_parts
            or not (module is None or _MODULE.fullmatch(module))
            or registered not in (None, kind)
        ):
            raise ValueError(
                f"describes {kind!a} of module {module!a}, registered as "
                f"{registered!a}, which is no part of an encoder"
            )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in a description that names a class."""
    if isinstance(value, dict):
        if "class_name" in value or "module" in value or "registered_name" in value:
            yield value
        for member in value.values():
            yield from _parts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _parts(member)


def _check_no_others(root: h5py.File, places: Container[str]) -> None:
    """Checks the layers' variables; layers without any have empty groups."""
    layers = _member(root, "layers", h5py.Group)
    for name in layers:
        layer = _member(layers, name, h5py.Group)
        for part in layer:
            group, place = _member(layer, part, h5py.Group), f"layers/{name}"
            if part != "vars":
                group = _member(group, "vars", h5py.Group)
                place = f"{place}/{part.removeprefix('_')}"
            for number in group:
                if (
                    f"{place}/vars/{number}" not in places
                    and part.removeprefix("_") != _RANDOM_STATE
                ):
                    raise ValueError(f"further weights, {f'{place}/vars/{number}'!a}")


def _read_array(root: h5py.File, place: str, shape: tuple[int, ...]) -> np.ndarray:
    *groups, name = place.split("/")
    group = root
    for part in groups:
        if part in _ATTENTION_PARTS and part not in group:
            part = f"_{part}"
        group = _member(group, part, h5py.Group)
    dataset = _member(group, name, h5py.Dataset)
    if (dataset.shape, dataset.dtype) != (shape, np.float32):
        raise ValueError(
            f"{place} is {dataset.dtype} {dataset.shape}, float32 {shape} expected"
        )
    plain = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
    if (
        dataset.is_virtual
        or dataset.external
        or dataset.id.get_create_plist().get_layout() not in plain
        or dataset.id.get_storage_size() != dataset.nbytes
    ):
        raise ValueError(f"{place} does not lie in the file as a plain array")
    array = dataset[()]
    if not np.isfinite(array).all():
        raise ValueError(f"{place} holds numbers that are not finite")
    return array


def _member(group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """A member of the kind in the group itself, not in another file or place."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(
            f"{group.name}/{name!a} is "
            + ("missing" if link is None else f"a {type(link).__name__} to elsewhere")
        )
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{group.name}/{name!a} is no {kind.__name__}")
    return member


def save_heads(heads: Mapping[str, Head], path: str) -> None:
    """Writes an encoder's heads, by the source of their labels, whole or not at all.

    Raises:
      OSError: if they cannot be written; names the path.
    """
    values: dict[str, Any] = {
        f"{source}/{name}": np.asarray(value, np.float32)
        for source, head in heads.items()
        for name, value in head._asdict().items()
    }
    with files.placing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **values)


def load_heads(path: str, *, num_features: int) -> dict[str, Head]:
    """An encoder's heads by the source of their labels; none if there is no file.

    Args:
      path: .npz file of save_heads.
      num_features: D of the encoder.

    Raises:
      ValueError: if the file is damaged or holds something else.
    """
    if not os.path.exists(path):
        return {}
    values = arrays.read_npz(path)
    heads = {}
    for name in values:
        source, _, part = name.rpartition("/")
        if not _SOURCE.fullmatch(source) or part not in Head._fields:
            raise ValueError(f"{path} holds {name!a}, which is no part of a head.")
        if part == "bias":
            continue
        kernel, bias = values[name], values.get(f"{source}/bias")
        if (
            bias is None
            or kernel.shape != (num_features, len(bias))
            or bias.ndim != 1
            or {kernel.dtype, bias.dtype} != {np.dtype(np.float32)}
        ):
            raise ValueError(
                f"{path}: kernel and bias of {source!r} are no head on the encoder's "
                f"{num_features} features; {_DAMAGED}."
            )
        heads[source] = Head(kernel, bias)
    if 2 * len(heads) != len(values):
        raise ValueError(f"{path} has a bias without its kernel; {_DAMAGED}.")
    return heads
