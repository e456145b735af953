"""Files in an encoder's place that were made to run, read, write or fill something.

Each is made from a good file, so that it is refused for its own fault alone.
"""

import io
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np

ARRAY = "layers/conv2d/vars/0"
_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"


def read_members(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: str, members, compression=zipfile.ZIP_STORED) -> None:
    """`members`: pairs of name and content; names may come twice."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore", UserWarning)
        for name, content in members:
            archive.writestr(name, content)


def make_all(good: str, folder: str, outside: str) -> dict[str, str]:
    """Writes every hostile file.

    Args:
      good: .keras file of an audio encoder.
      folder: where the files are written.
      outside: directory that must not be touched; targets are made in it.

    Returns:
      Paths by what each file does.
    """
    members = read_members(good)
    with h5py.File(os.path.join(outside, "outside.h5"), "w") as file:
        with h5py.File(io.BytesIO(members[_WEIGHTS])) as source:
            source.copy("layers", file)
    with open(os.path.join(outside, "raw"), "wb") as file:
        file.write(bytes(1 << 16))
    with open(os.path.join(outside, "evil.py"), "w") as file:
        file.write(f"open({os.path.join(outside, 'imported')!r}, 'w').close()\n")
    makers = {
        **{f"layer {name}": m for name, m in _descriptions(outside).items()},
        **{f"hdf5 {name}": _with_hdf5(m) for name, m in _hdf5_changes(outside).items()},
        **{f"file {name}": m for name, m in _containers(outside).items()},
    }
    paths = {}
    for number, (name, make) in enumerate(makers.items()):
        paths[name] = os.path.join(folder, f"{number}.keras")
        make(dict(members), paths[name])
    return paths


def _descriptions(outside: str) -> dict[str, Callable]:
    """Networks that Keras would build, and that run something in that or in a call."""

    def with_layer(layer, *, keep_name=True):
        def make(members, path):
            description = json.loads(members[_CONFIG])
            layers = description["config"]["layers"]
            if keep_name:
                layer["config"]["name"] = layers[2]["config"]["name"]
            layers[2] = layer | {"inbound_nodes": layers[2]["inbound_nodes"]}
            members[_CONFIG] = json.dumps(description).encode()
            write_members(path, members.items())

        return make

    def with_initializer(initializer):
        def make(members, path):
            description = json.loads(members[_CONFIG])
            for layer in description["config"]["layers"]:
                if "kernel_initializer" in layer["config"]:
                    layer["config"]["kernel_initializer"] = initializer
            members[_CONFIG] = json.dumps(description).encode()
            write_members(path, members.items())

        return make

    def operation(function, **arguments):
        return with_layer(
            {
                "module": "keras.layers",
                "class_name": "TFOpLambda",
                "config": {"function": function},
                "registered_name": "TFOpLambda",
                "build_config": None,
                "arguments": arguments,
            }
        )

    marker = os.path.join(outside, "ran")
    return {
        "Lambda": with_layer(
            {
                "module": "keras.layers",
                "class_name": "Lambda",
                "config": {
                    "function": {
                        "class_name": "__lambda__",
                        "config": {"code": "4wEAAAAAAAAA", "defaults": None},
                    }
                },
                "registered_name": None,
            }
        ),
        "Lambda of a named function": with_layer(
            {
                "module": "keras.layers",
                "class_name": "Lambda",
                "config": {"function": "system", "module": "os"},
                "registered_name": None,
            }
        ),
        "load_library": operation("load_library", name=f"{outside}/evil.so"),
        "write_file": operation("io.write_file", filename=marker, contents="x"),
        "gfile.copy": operation("io.gfile.copy", src="/etc/passwd", dst=marker),
        "get_file": operation("keras.utils.get_file", fname=marker, origin="file:///"),
        "of a Python file": with_layer(
            {
                "module": "evil",
                "class_name": "Conv2D",
                "config": {},
                "registered_name": None,
            }
        ),
        "registered by somebody": with_layer(
            {
                "module": "keras.layers",
                "class_name": "Conv2D",
                "config": {},
                "registered_name": "evil>Conv2D",
            }
        ),
        "of another name": with_layer(
            {
                "module": "keras.layers",
                "class_name": "Conv2D",
                "config": {"name": "../../evil"},
                "registered_name": None,
            },
            keep_name=False,
        ),
        "that is a whole model": with_layer(
            {
                "module": "keras",
                "class_name": "Functional",
                "config": {"layers": []},
                "registered_name": None,
            }
        ),
        "with an initialiser of a Python file": with_initializer(
            {
                "module": "evil",
                "class_name": "Ones",
                "config": {},
                "registered_name": None,
            }
        ),
        "with a function as initialiser": with_initializer(
            {
                "module": "builtins",
                "class_name": "function",
                "config": "eval",
                "registered_name": "function",
            }
        ),
        "with a __typespec__": with_initializer(
            {"class_name": "__typespec__", "spec_name": "x", "module": "keras"}
        ),
        "nested ten thousand deep": lambda members, path: write_members(
            path, (members | {_CONFIG: b"[" * 10_000 + b"]" * 10_000}).items()
        ),
    }


def _with_hdf5(change: Callable[[h5py.File], None]) -> Callable:
    def make(members, path):
        content = io.BytesIO(members[_WEIGHTS])
        with h5py.File(content, "r+") as file:
            change(file)
        members[_WEIGHTS] = content.getvalue()
        write_members(path, members.items())

    return make


def _hdf5_changes(outside: str) -> dict[str, Callable]:
    other_file = os.path.join(outside, "outside.h5")

    def replace(make):
        def change(file):
            group, _, name = ARRAY.rpartition("/")
            shape = file[ARRAY].shape
            del file[ARRAY]
            make(file[group], name, shape)

        return change

    def dataset(**arguments):
        return replace(
            lambda group, name, shape: group.create_dataset(name, **arguments)
        )

    def of_shape(**arguments):
        return replace(
            lambda group, name, shape: group.create_dataset(
                name, shape=shape, **({"dtype": "float32"} | arguments)
            )
        )

    def link(make):
        def change(group, name, shape):
            group[name] = make(shape)

        return replace(change)

    def virtual(group, name, shape):
        layout = h5py.VirtualLayout(shape=shape, dtype="float32")
        layout[...] = h5py.VirtualSource(other_file, ARRAY, shape=shape)
        group.create_virtual_dataset(name, layout)

    def layers_elsewhere(file):
        del file["layers"]
        file["layers"] = h5py.ExternalLink(other_file, "layers")

    def group_elsewhere(file):
        del file["layers/conv2d"]
        file["layers/conv2d"] = h5py.ExternalLink(other_file, "layers/conv2d")

    def further_layer(file):
        file.create_dataset("layers/conv2d_99/vars/0", data=np.zeros(4, np.float32))

    def further_link(file):
        file["layers/further"] = h5py.ExternalLink(other_file, "layers")

    def circle(file):
        file["layers/circle"] = file["layers"]

    def not_finite(file):
        file[ARRAY][...] = np.nan

    def without(file):
        del file["layers/conv2d"]

    def named_type(group, name, shape):
        group[name] = np.dtype("float32")

    reference, text = h5py.ref_dtype, h5py.string_dtype()
    return {
        "external link": link(lambda shape: h5py.ExternalLink(other_file, ARRAY)),
        "soft link": link(lambda shape: h5py.SoftLink("/layers/conv2d_1/vars/0")),
        "soft link to nothing": link(lambda shape: h5py.SoftLink("/nothing")),
        "external storage": replace(
            lambda group, name, shape: group.create_dataset(
                name,
                shape=shape,
                dtype="float32",
                external=[(os.path.join(outside, "raw"), 0, h5py.h5f.UNLIMITED)],
            )
        ),
        "virtual dataset": replace(virtual),
        "layers elsewhere": layers_elsewhere,
        "a layer elsewhere": group_elsewhere,
        "a further link": further_link,
        "texts": of_shape(dtype=text),
        "references": of_shape(dtype=reference),
        "compound": of_shape(dtype=np.dtype([("a", "f4"), ("b", "f4")])),
        "float64": of_shape(dtype="float64"),
        "big-endian": of_shape(dtype=">f4"),
        "integers": of_shape(dtype="int32"),
        "of another shape": dataset(data=np.zeros([2, 2], np.float32)),
        "a scalar": dataset(data=np.float32(1)),
        "a million squared": dataset(
            shape=(10**6, 10**6), dtype="float32", chunks=(1, 10**4)
        ),
        "empty": dataset(data=h5py.Empty("float32")),
        "compressed": of_shape(compression="gzip"),
        "chunked": of_shape(chunks=True),
        "never written": of_shape(),
        "a group for an array": replace(
            lambda group, name, shape: group.create_group(name)
        ),
        "a type for an array": replace(named_type),
        "a missing layer": without,
        "a further layer": further_layer,
        "a circle": circle,
        "not finite": not_finite,
    }


def _containers(outside: str) -> dict[str, Callable]:
    def write(make_content):
        def make(members, path):
            content = make_content(members)
            with open(path, "wb") as file:
                file.write(content)

        return make

    def packed(members) -> bytes:
        content = io.BytesIO()
        write_members(content, members.items())
        return content.getvalue()

    def of_members(change, **arguments):
        return lambda members, path: write_members(path, change(members), **arguments)

    def flip(position_of):
        def change(members):
            content = bytearray(packed(members))
            content[position_of(content)] ^= 0x10
            return bytes(content)

        return write(change)

    def bare_hdf5(members):
        """As Keras 2 wrote whole models: any HDF5 file with this attribute."""
        content = io.BytesIO(members[_WEIGHTS])
        with h5py.File(content, "r+") as file:
            file.attrs["model_config"] = members[_CONFIG]
            file.attrs["keras_version"] = "2.15.0"
        return content.getvalue()

    def encrypted(members):
        content = bytearray(packed(members))
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            position = content.find(signature)
            while position >= 0:
                content[position + at] |= 1
                position = content.find(signature, position + 4)
        return bytes(content)

    def longer(members):
        """Its directory promises more bytes of the weights than there are."""
        content = bytearray(packed(members))
        entry = content.rfind(b"PK\x01\x02")
        size = struct.unpack_from("<I", content, entry + 24)[0]
        struct.pack_into("<II", content, entry + 20, size + 4096, size + 4096)
        return bytes(content)

    def directory(members, path):
        os.mkdir(path)
        with open(os.path.join(path, "saved_model.pb"), "wb") as file:
            file.write(members[_CONFIG])

    return {
        "bare HDF5": write(bare_hdf5),
        "bare HDF5 behind a zip's first bytes": write(
            lambda members: b"PK\x03\x04".ljust(512, b"\0") + bare_hdf5(members)
        ),
        "nothing": write(lambda members: b""),
        "text": write(lambda members: b"not an archive, " * 10_000),
        "cut": write(lambda members: packed(members)[:-4096]),
        "a bit of the weights": flip(lambda content: len(content) // 2),
        "a bit of the directory": flip(
            lambda content: content.rfind(b"PK\x01\x02") + 46
        ),
        "encrypted": write(encrypted),
        "longer than it is": write(longer),
        "weights twice": of_members(
            lambda members: [*members.items(), (_WEIGHTS, members[_WEIGHTS])]
        ),
        "without weights": of_members(
            lambda members: [(_CONFIG, members[_CONFIG]), ("x", members[_WEIGHTS])]
        ),
        "without a description": of_members(
            lambda members: [(_WEIGHTS, members[_WEIGHTS])]
        ),
        "weights outside": of_members(
            lambda members: [
                (_CONFIG, members[_CONFIG]),
                (f"../{_WEIGHTS}", members[_WEIGHTS]),
            ]
        ),
        "a bomb of weights": of_members(
            lambda members: (members | {_WEIGHTS: bytes(1 << 28)}).items(),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "a bomb of a description": of_members(
            lambda members: (members | {_CONFIG: b" " * (1 << 28)}).items(),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "many members": of_members(
            lambda members: [*members.items(), *((str(k), b"") for k in range(1000))]
        ),
        "a SavedModel": directory,
        "a pipe": lambda members, path: os.mkfifo(path),
        "a device": lambda members, path: os.symlink("/dev/zero", path),
    }


def write_lambda(path, marker):
    """A Keras model in HDF5 that makes a file when it is built or called."""
    code = compile(
        f"lambda x: __import__('os').system('touch {marker}') and x", "", "eval"
    )
    inputs = keras.Input((None, None, 1))
    layer = keras.layers.Lambda(eval(code), output_shape=(None, None, 1))
    h5_path = str(path.with_suffix(".h5"))
    keras.Model(inputs, layer(inputs)).save(h5_path)
    with open(h5_path, "ab") as file:
        file.write(bytes(1 << 20))  # as large as an encoder would be
    os.replace(h5_path, path)
    if marker.exists():
        marker.unlink()
