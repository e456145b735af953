"""data_prep.convert next to the ffmpeg command line doing the same work.

    python -m benchmarks.prep --out=DIR

makes clips with ffmpeg (of Debian's or any other package), and times, in turns,

- `python -m data_prep.convert`, the whole command, with a process per core: records
  of 30 JPEG images per second of short side 256, and log-mel of sound at 16 kHz mono;
- `ffmpeg`, a process per core, each a clip at a time: the same frames as JPEG files of
  the same quality, and the sound as a 16 kHz mono wav file. Once with the threads that
  ffmpeg takes by itself and once with one each; the faster counts.

The quality is the same if the luma of the images is as near to the frames before
compression: ffmpeg's scale (-q:v) is the coarsest that comes as near as ours.

    python -m benchmarks.prep --out=DIR --memory

converts one hour of 1920 x 1080 video in segments of 10 s, and prints the largest peak
of a worker's memory and that of the main process.
"""

import argparse
import io
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from PIL import Image

from xdc_tf.data import dataset_info, records

_SECS = 10
_FPS = 30
_SHORT_SIDE = 256


def make_clip(
    path: str, number: int, size: str, secs: float, *, noise: int = 12
) -> None:
    """Draws a moving picture, with noise, and a tone: H.264 and AAC."""
    if os.path.exists(path):
        return
    picture = f"testsrc2=size={size}:rate={_FPS}:duration={secs}"
    sound = f"sine=frequency={300 + 10 * number}:duration={secs}:sample_rate=44100"
    ffmpeg(
        *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound),
        *("-vf", f"hue=h={17 * number},noise=alls={noise}:allf=t:all_seed={number}"),
        *("-c:v", "libx264", "-preset", "medium", "-crf", "26", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-f", "mp4", path + ".tmp"),
    )
    os.replace(path + ".tmp", path)


def ffmpeg(*arguments: str) -> None:
    """Runs ffmpeg, which shows its errors."""
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *arguments], check=True
    )


def convert_command(manifest: str, out: str, *flags: str) -> list[str]:
    """The command that is measured."""
    module = [sys.executable, "-m", "data_prep.convert"]
    return [*module, f"--manifest={manifest}", f"--out={out}", *flags]


def by_ffmpeg(paths: list[str], out: str, quality: int, threads: tuple) -> None:
    """All clips, a process per core."""

    def run(path: str) -> None:
        folder = os.path.join(out, os.path.basename(path))
        os.makedirs(folder)
        ffmpeg(
            *threads,
            *("-i", path, "-vf", _filter()),
            *("-q:v", str(quality), *threads, f"{folder}/%04d.jpg"),
            *("-ac", "1", "-ar", "16000", f"{folder}/sound.wav"),
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, paths))


def _filter() -> str:
    return f"fps={_FPS},scale=-1:{_SHORT_SIDE}:flags=bicubic"


def lumas(jpegs: list[bytes]) -> np.ndarray:
    """[T, height, width] luma of JPEG images."""
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in jpegs]
    for image in images:
        image.draft("YCbCr", None)
    return np.stack([np.asarray(image.convert("YCbCr"))[..., 0] for image in images])


def psnr_db(images: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of lumas."""
    error = np.mean(np.square(images.astype(float) - reference))
    return 10 * math.log10(255**2 / error)


def same_quality(path: str, jpegs: list[bytes], out: str) -> tuple[int, dict]:
    """ffmpeg's -q:v, and for both the quality and the bytes of an image."""
    first = lumas(jpegs)
    raw = os.path.join(out, "reference.y")
    ffmpeg(
        *("-i", path, "-vf", f"{_filter()},format=gray", "-frames:v", str(len(jpegs))),
        *("-f", "rawvideo", raw),
    )
    reference = np.fromfile(raw, np.uint8).reshape(first.shape)
    ours = psnr_db(first, reference)
    figures = {"convert": (ours, statistics.mean(map(len, jpegs)))}
    for quality in range(2, 12):
        folder = os.path.join(out, f"q{quality}")
        os.makedirs(folder, exist_ok=True)
        ffmpeg(
            *("-i", path, "-vf", _filter(), "-frames:v", str(len(jpegs))),
            *("-q:v", str(quality), f"{folder}/%04d.jpg"),
        )
        images = []
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                images.append(file.read())
        theirs = psnr_db(lumas(images), reference)
        if quality > 2 and theirs < ours:
            return quality - 1, figures
        figures["ffmpeg"] = theirs, statistics.mean(map(len, images))
    return quality, figures


def compare(out: str, *, size: str, num_clips: int, repeats: int) -> None:
    """Prints the rates of both, and their ratio."""
    folder = os.path.join(out, size)
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"{k:03d}.mp4") for k in range(num_clips)]
    for number, path in enumerate(paths):
        make_clip(path, number, size, _SECS)
    manifest = os.path.join(folder, "manifest.csv")
    with open(manifest, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in ("path", *paths))
    made = os.path.join(folder, "made")
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run(convert_command(manifest, made), check=True, capture_output=True)
    info = dataset_info.read_dataset_info(made)
    if info.num_examples != num_clips:
        raise RuntimeError(f"{info.num_examples} of {num_clips} clips were converted.")
    dataset = tf.data.TFRecordDataset(dataset_info.shard_paths(made, info)[0])
    parsed = records.parse_example(next(iter(dataset)), num_filters=40)
    jpegs = parsed["video_items"].numpy().tolist()
    quality, figures = same_quality(paths[0], jpegs[:60], folder)

    engines = {
        "convert": lambda: subprocess.run(
            convert_command(manifest, made), check=True, capture_output=True
        ),
        "ffmpeg": lambda: by_ffmpeg(paths, made, quality, ()),
        "ffmpeg, one thread": lambda: by_ffmpeg(
            paths, made, quality, ("-threads", "1")
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, run in engines.items():
            shutil.rmtree(made, ignore_errors=True)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    shutil.rmtree(made)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{num_clips} clips of {_SECS} s, {size}, medians of {repeats}")
    print("| | clips/s | PSNR of luma, dB | bytes an image |\n|---|---|---|---|")
    for name, value in medians.items():
        psnr, num_bytes = figures[name.split(",")[0]]
        print(f"| {name} | {num_clips / value:.2f} | {psnr:.1f} | {num_bytes:.0f} |")
    theirs = min(value for name, value in medians.items() if name != "convert")
    print(f"ratio convert / ffmpeg (-q:v {quality}): {theirs / medians['convert']:.2f}")


def measure_memory(out: str) -> None:
    """Prints the peak memory of the processes that convert an hour in HD."""
    os.makedirs(out, exist_ok=True)
    minute, hour = os.path.join(out, "minute.mp4"), os.path.join(out, "hour.mp4")
    # Without noise, so that an hour is decoded in minutes.
    make_clip(minute, 0, "1920x1080", 60, noise=0)
    if not os.path.exists(hour):
        ffmpeg(
            *("-stream_loop", "59", "-i", minute, "-c", "copy", "-f", "mp4"),
            hour + ".tmp",
        )
        os.replace(hour + ".tmp", hour)
    manifest, made = os.path.join(out, "hour.csv"), os.path.join(out, "made")
    with open(manifest, "w", encoding="utf-8") as file:
        file.write(f"path\n{hour}\n")
    shutil.rmtree(made, ignore_errors=True)
    start = time.perf_counter()
    command = convert_command(manifest, made, f"--segment_secs={_SECS}")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks: dict[int, int] = {}
    watcher = threading.Thread(target=_record_peaks, args=(process, peaks))
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}.")
    secs = time.perf_counter() - start
    main = peaks.pop(process.pid)
    print(output.strip())
    print(
        f"{secs:.0f} s; peak of a worker {max(peaks.values()) / 1024:.0f} MiB, of the "
        f"main process, with TensorFlow, {main / 1024:.0f} MiB"
    )
    shutil.rmtree(made)


def _record_peaks(process: subprocess.Popen, peaks: dict[int, int]) -> None:
    """Notes the peak resident size, in kB, of a process and its children."""
    while process.poll() is None:
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        try:
            with open(children, encoding="ascii") as file:
                pids = [process.pid, *map(int, file.read().split())]
        except OSError:
            return
        for pid in pids:
            try:
                with open(f"/proc/{pid}/status", encoding="ascii") as file:
                    lines = dict(line.split(":", 1) for line in file)
                peaks[pid] = int(lines["VmHWM"].split()[0])
            except (OSError, KeyError):
                continue  # it has just ended
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--num_clips", type=int, default=96)
    parser.add_argument("--sizes", default="640x360,1920x1080")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.out)
        return
    for size in arguments.sizes.split(","):
        compare(
            arguments.out,
            size=size,
            num_clips=arguments.num_clips,
            repeats=arguments.repeats,
        )


if __name__ == "__main__":
    main()
