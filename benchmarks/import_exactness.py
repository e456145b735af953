"""How exact imported weights are: features and logits next to PyTorch's.

    python -m benchmarks.import_exactness --references=references --exports=exports

reads what benchmarks.torch_references --weight_files wrote: NAME.FORMAT.pth and
NAME.npz. Imports every video network, computes features and logits of the same clips,
exports each back to PyTorch's form and compares that with the file tensor by tensor.
Prints a table in Markdown. The exported files are left in --exports, where
benchmarks.torch_references --exports opens them in PyTorch.
"""

import argparse
import os
import tempfile
import time
from typing import NamedTuple

import numpy as np

from benchmarks import reference_rule
from xdc_tf.data.payloads import VIDEO
from xdc_tf.export import torch_export
from xdc_tf.runtime import compat
from xdc_tf.training import trained_run
from xdc_tf.weights import torch_files, weight_files
from xdc_tf.weights.import_weights import import_weights


class Exactness(NamedTuple):
    """A row of the table; errors are relative to the reference's largest value."""

    architecture: str
    num_loaded: int
    num_counters: int
    import_secs: float
    features_error: float
    logits_error: float
    num_equal: int  # tensors that come out of the export bit for bit as in the file
    num_tensors: int


def measure(weights: str, reference: str, *, exported: str) -> Exactness:
    """Imports a file, compares what it computes, and exports it again.

    Args:
      weights: file of weights drawn by reference_rule.weights.
      reference: .npz of the features and logits of reference_rule.clips.
      exported: .pth to make.
    """
    with tempfile.TemporaryDirectory() as folder:
        imported = os.path.join(folder, "imported")
        start = time.perf_counter()
        imported_run = import_weights(weights, imported)
        secs = time.perf_counter() - start
        run = trained_run.open_run(imported)
        encoder = trained_run.load_encoder(run, VIDEO)
        (head,) = trained_run.load_heads(run, VIDEO).values()
        torch_export.export(imported, exported)
    clips = np.moveaxis(reference_rule.clips(), 1, -1)
    features = np.asarray(encoder(clips, training=False))
    logits = features @ head.kernel + head.bias
    with np.load(reference) as expected:
        errors = [
            float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max())
            for name, value in (("features", features), ("logits", logits))
        ]
    before = weight_files.flatten_tensors(torch_files.read(weights))
    after = torch_files.read(exported)
    if before.keys() != after.keys():
        raise RuntimeError(f"{exported} has other tensors than {weights}.")
    return Exactness(
        imported_run.network.architecture,
        len(imported_run.account.loaded),
        len(imported_run.account.counters),
        secs,
        *errors,
        sum(_equal(before[name], after[name]) for name in before),
        len(before),
    )


def _equal(array: np.ndarray, other: np.ndarray) -> bool:
    same_kind = array.dtype == other.dtype and array.shape == other.shape
    return same_kind and array.tobytes() == other.tobytes()


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", required=True, help="directory of the files")
    parser.add_argument("--exports", required=True, help="directory to write to")
    arguments = parser.parse_args()
    os.makedirs(arguments.exports, exist_ok=True)
    print(", ".join(f"{name} {value}" for name, value in compat.versions().items()))
    print(
        "| file | MB | architecture | tensors + counters | import, s | features | "
        "logits | exported bit for bit |\n|---|--:|---|--:|--:|--:|--:|--:|"
    )
    for file in sorted(os.listdir(arguments.references)):
        name = file.split(".")[0]
        if not file.endswith(".pth") or name.endswith("_resnet_18"):  # audio
            continue
        path = os.path.join(arguments.references, file)
        row = measure(
            path,
            os.path.join(arguments.references, f"{name}.npz"),
            exported=os.path.join(arguments.exports, file),
        )
        print(
            f"| {file} | {os.path.getsize(path) / 1e6:.1f} | {row.architecture} | "
            f"{row.num_loaded} + {row.num_counters} | {row.import_secs:.1f} | "
            f"{row.features_error:.1e} | {row.logits_error:.1e} | "
            f"{row.num_equal} of {row.num_tensors} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
