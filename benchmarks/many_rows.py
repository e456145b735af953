"""A manifest of very many rows: memory and time of the process that leads a conversion.

    python -m benchmarks.many_rows --out=DIR --rows=10000,100000,1000000

Rows are of one tiny sound file under many names (hard links, a thousand a folder), so
that decoding is next to nothing, and the command converts them as it does any. Printed
are for each size the time, that for a row, the peak memory of the main process and of
the largest of those that decode, and what is written.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import wave

import numpy as np

from benchmarks.process_memory import processes_of
from xdc_tf.data import dataset_info

_FILES_PER_FOLDER = 1000
_SAMPLE_RATE_HZ, _SECS = 16000, 0.6
_POLL_SECS = 0.2


def make_manifest(out_dir: str, num_rows: int) -> str:
    """The manifest, and the files that it names, made unless they are there."""
    manifest = os.path.join(out_dir, f"manifest_{num_rows}.csv")
    if os.path.exists(manifest):
        return manifest
    os.makedirs(out_dir, exist_ok=True)
    sound = os.path.join(out_dir, "sound.wav")
    if not os.path.exists(sound):
        waveform = np.random.default_rng(0).normal(
            0, 0.1, round(_SECS * _SAMPLE_RATE_HZ)
        )
        with wave.open(sound, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(_SAMPLE_RATE_HZ)
            file.writeframes(np.clip(32767 * waveform, -32768, 32767).astype("<i2"))
    folder = os.path.join(out_dir, f"files_{num_rows}")
    shutil.rmtree(folder, ignore_errors=True)
    lines = ["path,label\n"]
    first = sound
    for number in range(num_rows):
        place = f"{number // _FILES_PER_FOLDER:05d}"
        if number % _FILES_PER_FOLDER == 0:
            os.makedirs(os.path.join(folder, place))
            # A file has no more than some ten thousand names.
            first = os.path.join(folder, place, f"{number:08d}.wav")
            shutil.copy(sound, first)
        else:
            os.link(first, os.path.join(folder, place, f"{number:08d}.wav"))
        lines.append(
            f"files_{num_rows}/{place}/{number:08d}.wav,class {number % 400:03d}\n"
        )
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return manifest


def measure(out_dir: str, num_rows: int, num_workers: int) -> list[str]:
    """Cells of the table."""
    manifest = make_manifest(out_dir, num_rows)
    records = os.path.join(out_dir, f"records_{num_rows}")
    shutil.rmtree(records, ignore_errors=True)
    began = time.perf_counter()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "data_prep.convert"),
            *(f"--manifest={manifest}", f"--out={records}", "--modalities=audio"),
            *("--rows_per_shard=1000", f"--num_workers={num_workers}"),
        ]
    ) as process:
        main_mib = worker_mib = 0.0
        while process.poll() is None:
            for number, found in enumerate(processes_of(process.pid)):
                if number:
                    worker_mib = max(worker_mib, found.peak_mib)
                else:
                    main_mib = max(main_mib, found.peak_mib)
            time.sleep(_POLL_SECS)
    if process.returncode:
        raise SystemExit(process.returncode)
    secs = time.perf_counter() - began
    info = dataset_info.read_dataset_info(records)
    if info.num_examples != num_rows:
        raise SystemExit(f"{records}: {info.num_examples} examples of {num_rows} rows")
    return [
        f"{num_rows:,}",
        f"{secs:.0f}",
        f"{1000 * secs / num_rows:.2f}",
        f"{main_mib / 1024:.2f}",
        f"{worker_mib / 1024:.2f}",
        f"{len(info.shards):,}",
        f"{len(os.listdir(records)):,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="directory for files and records")
    parser.add_argument("--rows", default="10000,100000", help="sizes of manifests")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    print(
        "| rows | s | ms per row | main process, GiB | a worker, GiB | shards "
        "| files of the directory |\n|--:|--:|--:|--:|--:|--:|--:|"
    )
    for num_rows in map(int, arguments.rows.split(",")):
        cells = measure(arguments.out, num_rows, arguments.num_workers)
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
