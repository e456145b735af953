"""What the programs of the GPU benchmark share: measurements, their file, their rows.

Imports neither TensorFlow nor PyTorch, which are measured in environments of their own.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

# A process sees no GPU with this in its environment.
NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}
_MAX_ERROR_CHARS = 1500
_CARD = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm,"
    "power.draw,power.limit,temperature.gpu"
)
_BLOCK_ROWS = 1 << 16
_NUM_CENTRES = 2048


class Measurement(NamedTuple):
    """Something to measure.

    Attributes:
      name: unique, such as "train video 8x112 bfloat16".
      program: module that measures it, "gpu_tensorflow" or "gpu_torch".
      function: name of the function in that module.
      arguments: of the function, by name.
      solo: it changes its process; the next measurement gets a new one.
    """

    name: str
    program: str
    function: str
    arguments: dict[str, Any]
    solo: bool = False


def append(path: str, record: Mapping[str, Any]) -> None:
    """Adds a line to the file, on the disk when this returns, and prints it."""
    line = json.dumps(record)
    print(line, flush=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: str) -> list[dict[str, Any]]:
    """The records so far; a line that was cut off is left out."""
    if not os.path.exists(path):
        return []
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records


def card() -> dict[str, str]:
    """Name, driver, clocks, memory and power of the first GPU; empty without one."""
    if not shutil.which("nvidia-smi"):
        return {}
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={_CARD}", "--format=csv,noheader"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = done.stdout.splitlines()
    values = lines[0].split(", ") if done.returncode == 0 and lines else []
    return dict(zip(_CARD.split(","), values, strict=False))


def run_all(functions: Mapping[str, Callable], versions: Mapping[str, str]) -> None:
    """Runs the measurements that the program's arguments name, one after the other.

    Its arguments are the file of records, the time at which it has to be done, in
    seconds since the epoch, and the measurements as JSON. A measurement that fails is
    recorded with its error, and the next one begins.
    """
    path, end, measurements = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
    append(path, {"process": sys.argv[0], "versions": versions, "card": card()})
    for measurement in (Measurement(*values) for values in measurements):
        started = time.time()
        if started >= end:
            return
        print(f"{measurement.name} ...", flush=True)
        try:
            figures = functions[measurement.function](**measurement.arguments)
            outcome = {"figures": figures}
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            outcome = {"error": text[:_MAX_ERROR_CHARS]}
        took = round(time.time() - started, 2)
        clock = card().get("clocks.sm", "")
        append(
            path,
            {"name": measurement.name, **outcome, "took_secs": took, "clock": clock},
        )


def median_secs(step: Callable[[], Any], wait: Callable[[Any], Any], *, steps: int):
    """Median over three runs of the seconds of a step, in runs of `steps` of them.

    Args:
      step: starts a step.
      wait: takes what the last one returned, and returns when the device is done.
      steps: of a run.
    """
    secs = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(steps):
            result = step()
        wait(result)
        secs.append((time.perf_counter() - start) / steps)
    return float(np.median(secs))


def make_rows(directory: str, *, num_rows: int, width: int, dtype: str) -> str:
    """The .npy file of rows of length one around random directions, made if missing.

    Blocks have seeds of their own and are drawn by all cores.
    """
    path = os.path.join(directory, f"rows_{num_rows}_{width}_{dtype}.npy")
    if os.path.exists(path):
        return path
    centres = np.random.default_rng(0).standard_normal(
        (_NUM_CENTRES, width), np.float32
    )
    rows = np.lib.format.open_memmap(
        path + ".new", "w+", np.dtype(dtype).newbyteorder("<"), (num_rows, width)
    )

    def draw(start):
        rng = np.random.default_rng([1, start])
        block = rows[start : start + _BLOCK_ROWS]
        drawn = rng.standard_normal(block.shape, np.float32)
        drawn += 0.6 * centres[rng.integers(0, _NUM_CENTRES, len(block))]
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        block[...] = drawn

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, range(0, num_rows, _BLOCK_ROWS)))
    rows.flush()
    os.replace(path + ".new", path)
    return path
