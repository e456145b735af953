"""Files made to run something: each is refused by its name, and nothing runs.

Where Python's own unpickler can, it leaves the marker file behind when it reads them.
"""

import io
import pickle
import zipfile

import pytest

from xdc_tf.weights import torch_files, weight_files

pytestmark = pytest.mark.once


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def call(module, name, *arguments):
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def payloads(marker):
    """Name -> instructions that would make the marker, or that go around a table."""
    command = text(f"touch {marker}")
    code = text(f"__import__('os').system('touch {marker}')")
    system = call("os", "system", command)
    ordered_dict = b"ccollections\nOrderedDict\n"
    namespace = b"cargparse\nNamespace\n)\x81"
    importer = call("builtins", "__import__", text("os"))
    getattr_chain = call("builtins", "getattr", importer, text("system"))
    memoised = text("posix") + b"q\x01" + text("system") + b"q\x0200h\x01h\x02\x93("
    dotted = text("collections") + text("OrderedDict.fromkeys") + b"\x93"
    return {
        "os.system": system,
        "posix.system": call("posix", "system", command),
        "subprocess": call("subprocess", "getoutput", command),
        "eval": call("builtins", "eval", code),
        "exec": call("builtins", "exec", code),
        "eval of Python 2": call("__builtin__", "eval", code),
        "in a dictionary": b"}" + text("a") + system + b"s",
        "as a key": b"}" + system + b"K\x01s",
        "as an argument": call("collections", "OrderedDict", system),
        "as an array's class": call(
            "numpy.core.multiarray", "_reconstruct", system, b")", text("b")
        ),
        "as a factory": call("collections", "defaultdict", b"cos\nsystem\n"),
        "as a state": ordered_dict + b")R" + system + b"b",
        "under a persistent id": system + b"Q",
        "INST": b"(" + command + b"ios\nsystem\n",
        "INST of a known name": b"(icollections\nOrderedDict\n",
        "OBJ": b"(cos\nsystem\n" + command + b"o",
        "OBJ of a known name": b"(" + ordered_dict + b"o",
        "NEWOBJ": b"cos\nsystem\n(" + command + b"t\x81",
        "NEWOBJ_EX": ordered_dict + b")}\x92",
        "a state that sets states": namespace
        + b"}"
        + text("__setstate__")
        + b"cos\nsystem\nsb"
        + command
        + b"b",
        "a state on a namespace": namespace
        + b"}"
        + text("__setstate__")
        + ordered_dict
        + b"sb"
        + command
        + b"b",
        "a state on a dictionary": b"}}b",
        "a state on a name": ordered_dict + b"}b",
        "getattr": getattr_chain + b"(" + command + b"tR",
        "a dotted name on the stack": dotted + b"(" + command + b"tR",
        "a dotted name": call("collections", "OrderedDict.fromkeys", command),
        "a dotted way to a known name": b"ctorch\n_utils._rebuild_tensor_v2\n",
        "a dotted module": call("collections.OrderedDict", "fromkeys", command),
        "names from the memo": memoised + command + b"tR",
        "a name with a space": b"cos system\n\n",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"Pmodule\n",
        "a persistent id of text": command + b"Q",
        "a persistent id of nothing": b")Q",
        "a persistent id of a module": b"("
        + text("module")
        + ordered_dict
        + command
        + command
        + b"tQ",
        "a persistent id without sizes": b"(" + text("storage") + command + b"tQ",
        "a persistent id of a known function": b"("
        + text("storage")
        + ordered_dict
        + text("0")
        + text("cpu")
        + b"K\x01tQ",
        "a call of text": command + b")R",
        "a call of a dictionary": b"})R",
        "a call without a tuple": ordered_dict + b"]R",
        "an out-of-band buffer": b"\x97",
    }


def as_zip(pickled):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return content.getvalue()


def as_old_file(pickled):
    header = [torch_files.LEGACY_MAGIC, 1001, {"little_endian": True}]
    first = b"".join(pickle.dumps(value, 2) for value in header)
    return first + pickled + pickle.dumps([], 2)


def as_first_pickle(pickled):
    """In place of an old file's header, which is a pickle too."""
    magic = pickle.dumps(torch_files.LEGACY_MAGIC, 2)
    return magic + pickle.dumps(1001, 2) + pickled


def as_list_of_storages(pickled):
    return as_old_file(b"\x80\x02}.").removesuffix(pickle.dumps([], 2)) + pickled


def as_caffe2(pickled):
    return pickled


FORMS = [as_zip, as_old_file, as_first_pickle, as_list_of_storages, as_caffe2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", payloads("marker"))
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, name, form):
    marker = tmp_path / "marker"
    path = tmp_path / "a.pth"
    pickled = b"\x80\x02" + payloads(marker)[name] + b"."
    path.write_bytes(form(pickled))
    with pytest.raises(ValueError, match="a.pth"):
        weight_files.read(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("posix.system", r"posix\.system"),
        ("eval of Python 2", r"__builtin__\.eval"),
        ("names from the memo", r"posix\.system"),
        ("a dotted name on the stack", r"collections\.OrderedDict\.fromkeys"),
        ("in a dictionary", r"os\.system"),
        ("getattr", r"builtins\.getattr"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_the_error_names_what_the_file_would_have_run(tmp_path, name, refused, form):
    path = tmp_path / "a.pth"
    path.write_bytes(form(b"\x80\x02" + payloads("marker")[name] + b"."))
    with pytest.raises(ValueError, match=rf"byte [0-9]+: refuses to run {refused};"):
        weight_files.read(str(path))
