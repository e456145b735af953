"""Whether this project is right on a GPU, and how fast, next to PyTorch on it.

    python -m benchmarks.gpu --stage=check --minutes=2 --out=gpu.jsonl
    python -m benchmarks.gpu --stage=all --minutes=10 --out=gpu.jsonl \\
        --torch_python=PYTHON --flash_kmeans=DIR

measures one stage, or all of them, the most important figures first, and ends after
--minutes whatever is left. Every figure is printed and appended to --out as a line of
JSON when it is there. Measurements run one after the other in processes of their own; a
measurement that fails, or takes its process down, is recorded with its error and the
next one begins. Without a GPU everything runs on the CPU; --tiny makes the work small.
Tables of --out are printed at the end, and by --stage=table. See docs/gpu.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import gpu_plan, gpu_records, gpu_tables
from benchmarks.gpu_plan import STAGES, TORCH
from benchmarks.gpu_records import Measurement
from xdc_tf.runtime import tuning

_STAGE = flags.DEFINE_enum(
    "stage",
    "all",
    [*STAGES, "all", "table"],
    "Stage to measure; table: print the results in --out.",
)
_MINUTES = flags.DEFINE_float("minutes", 9.5, "Time limit, in minutes.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "File of JSON lines to append to.")
flags.mark_flag_as_required("out")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", "", "A Python with torch and torchvision; empty: without PyTorch."
)
_TORCH_UNSET = flags.DEFINE_list(
    "torch_unset",
    ["PYTHONPATH", "LD_LIBRARY_PATH", "XLA_FLAGS"],
    "Environment variables that PyTorch's processes do not get.",
)
_FLASH_KMEANS = flags.DEFINE_string(
    "flash_kmeans", "", "Directory that holds the package flash_kmeans; empty: without."
)
_RECORDS = flags.DEFINE_string(
    "records", "", "Records of the embedded benchmark for check; empty: made."
)
_TINY = flags.DEFINE_bool("tiny", False, "Use sizes that take seconds on a CPU.")
_ONLY = flags.DEFINE_list(
    "only", [], "Run the measurements whose names contain one of these texts."
)
_DIRECTORY = flags.DEFINE_string(
    "directory", "", "Directory of files to use again: rows, videos. Empty: temporary."
)


def run_stage(todo: list[Measurement], path: str, end: float, torch_python: str):
    """Measures until all is done or the time, in seconds since the epoch, is over."""
    while todo and time.time() < end:
        group = [todo[0]]
        for measurement in todo[1:]:
            if (
                measurement.solo
                or group[-1].solo
                or measurement.program != todo[0].program
            ):
                break
            group.append(measurement)
        known = len(gpu_records.read(path))
        code = _run_group(group, path, end, torch_python)
        done = {record.get("name") for record in gpu_records.read(path)[known:]}
        left = [measurement for measurement in group if measurement.name not in done]
        if left and time.time() < end:
            # The process went down with it.
            error = f"its process ended with exit code {code}"
            gpu_records.append(path, {"name": left[0].name, "error": error})
            left = left[1:]
        todo = left + todo[len(group) :]
    for measurement in todo:
        gpu_records.append(
            path, {"name": measurement.name, "error": "not measured: no time"}
        )


def _run_group(group, path, end, torch_python) -> int | None:
    """One process for measurements of one program; its exit code, None if stopped."""
    environment = dict(os.environ)
    python = sys.executable
    if group[0].program == TORCH:
        python = torch_python
        for name in _TORCH_UNSET.value:
            environment.pop(name, None)
        if _FLASH_KMEANS.value:
            environment["PYTHONPATH"] = os.path.abspath(_FLASH_KMEANS.value)
    else:
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    names = json.dumps([tuple(measurement) for measurement in group])
    command = [python, "-m", f"benchmarks.{group[0].program}", path, str(end), names]
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(max(1.0, end - time.time()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def main(_) -> None:
    """Runs what the flags ask for."""
    tuning.prepare_gpus()
    path = os.path.abspath(_OUT.value)
    start = time.time()
    chosen = list(STAGES) if _STAGE.value == "all" else [_STAGE.value]
    chosen = [] if _STAGE.value == "table" else chosen
    weights = sum(STAGES[stage] for stage in chosen)
    passed = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        directory = os.path.abspath(_DIRECTORY.value or temporary)
        for stage in chosen:
            # What a stage leaves goes to those after it.
            passed += STAGES[stage] / weights
            todo = gpu_plan.measurements(
                stage,
                gpu_plan.TINY if _TINY.value else gpu_plan.Sizes(),
                directory=directory,
                records=_RECORDS.value and os.path.abspath(_RECORDS.value),
            )
            for name in ("pretraining", "pipeline"):
                os.makedirs(os.path.join(directory, name), exist_ok=True)
            without = set() if _TORCH_PYTHON.value else {TORCH}
            skipped = set() if _FLASH_KMEANS.value else {"flash_kmeans"}
            todo = [
                measurement
                for measurement in todo
                if measurement.program not in without
                and measurement.function not in skipped
                and any(text in measurement.name for text in _ONLY.value or [""])
            ]
            end = start + 60 * _MINUTES.value * passed
            gpu_records.append(path, {"stage": stage, "secs": round(end - time.time())})
            run_stage(todo, path, end, _TORCH_PYTHON.value)
    print(gpu_tables.tables(gpu_records.read(path)))


if __name__ == "__main__":
    app.run(main)
