"""The input pipeline next to the least it could do: decoding the clips' JPEG images.

    python -m benchmarks.pipeline --out=DIR

draws videos, converts them to records of 10 s at 30 frames per second and 455 x 256
pixels, and takes clips per second

- of the floor: the frames of one random clip per video, already cut and in memory,
  decoded whole by `tf.io.decode_jpeg` on all cores, and thrown away;
- of `data.pipeline.training_batches` from the records' files: shuffled, cut, decoded,
  mirrored at random, in batches, for crops of 224 and of 112 pixels;
- of `data.pipeline.evaluation_batches`, which features are extracted from.

Each has a process of its own, since memory is measured too; they take turns, and the
table has medians. Memory is what a process's peak is above its size with TensorFlow
and this project imported. The records of --out are used again if they are there.
"""

import argparse
import contextlib
import csv
import functools
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep import conversion, conversion_settings, synthetic
from data_prep.scenes import shapes
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, pipeline, records
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings
from xdc_tf.runtime import compat, tuning

_SECS = 10.0
_SIZE = 480, 270  # pixels of the videos; 455 x 256 in the records
_NUM_FRAMES = 8
_BATCH_SIZE = 32
_SHUFFLE_BUFFER = 2048
_FLOOR, _TRAINING, _EVALUATION = "floor", "training", "evaluation"


class Engine(NamedTuple):
    """What is measured: the name, and the crop's side of a pipeline."""

    name: str
    crop_size: int = 0


ENGINES = (
    Engine(_FLOOR),
    Engine(_TRAINING, 224),
    Engine(_TRAINING, 112),
    Engine(_EVALUATION, 224),
    Engine(_EVALUATION, 112),
)


class Measured(NamedTuple):
    """Clips per second, and the process's peak above its size at the start, in MiB."""

    rate: float
    memory_mib: float


def make_video(out_dir: str, number: int) -> str:
    """Draws a video of the embedded benchmark, in 16:9, unless it is there."""
    path = os.path.join(out_dir, f"{number:04d}.mp4")
    if os.path.exists(path):
        return path
    for_video, for_audio = np.random.SeedSequence([0, number]).spawn(2)
    width, height = _SIZE
    class_index = number % len(shapes.LABELS)
    top = (width - height) // 2
    frames = shapes.draw_frames(
        class_index,
        np.random.default_rng(for_video),
        num_frames=round(_SECS * shapes.FPS),
        size=width,
    )[:, top : top + height]
    waveform = shapes.synthesize_waveform(
        class_index,
        np.random.default_rng(for_audio),
        num_samples=round(_SECS * shapes.SAMPLE_RATE_HZ),
    )
    synthetic.write_mp4(path, frames, waveform)
    return path


def make_records(out_dir: str, num_videos: int) -> str:
    """The records in a directory, made unless they are there."""
    directory = os.path.join(out_dir, "records")
    if os.path.exists(os.path.join(directory, dataset_info.INFO_FILE)):
        return directory
    os.makedirs(out_dir, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        paths = pool.map(
            functools.partial(make_video, out_dir), range(num_videos), chunksize=1
        )
    manifest = os.path.join(out_dir, "manifest.csv")
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        rows = [[os.path.basename(path)] for path in paths]
        csv.writer(file).writerows([["path"], *rows])
    conversion.convert_manifest(
        manifest,
        directory,
        settings=conversion_settings.ConversionSettings(),
        pool=PoolSettings(os.cpu_count()),
        rows_per_shard=16,
    )
    return directory


def clip_settings(info: dataset_info.DatasetInfo, crop_size: int) -> ClipSettings:
    """8 frames of crop_size pixels with 2 s of sound."""
    return ClipSettings(
        num_frames=_NUM_FRAMES,
        fps=info.fps,
        crop_size=crop_size,
        crop_share=0.875,
        audio_secs=2.0,
        mel_hop_secs=info.log_mel.hop_ms / 1000,
        num_mels=info.log_mel.num_filters,
        log_mel_mean=info.log_mel_mean,
        log_mel_std=info.log_mel_std,
    )


def floor_clips(paths: list[str], *, num_mels: int) -> np.ndarray:
    """[videos, frames] bytes: the JPEG images of a random clip of each video."""
    rng = np.random.default_rng(0)
    cut = []
    for serialized in tf.data.TFRecordDataset(paths):
        frames = records.parse_example(
            serialized, num_filters=num_mels, modalities=["video"]
        )["video_items"].numpy()
        first = rng.integers(0, len(frames) - _NUM_FRAMES + 1)
        cut.append(frames[first : first + _NUM_FRAMES])
    return np.array(cut)


def floor_batches(jpegs: np.ndarray) -> tf.data.Dataset:
    """Decodes clip after clip, whole frames; a level of each is all that is kept."""

    def decode(clip):
        frames = [tf.io.decode_jpeg(jpeg) for jpeg in tf.unstack(clip, _NUM_FRAMES)]
        return tf.stack([frame[0, 0, 0] for frame in frames])

    return (
        tf.data.Dataset.from_tensor_slices(jpegs)
        .repeat()
        .map(decode, num_parallel_calls=4 * os.cpu_count(), deterministic=False)
        .batch(_BATCH_SIZE)
    )


def make_batches(engine: Engine, directory: str, num_clips: int) -> Iterator:
    """Batches of _BATCH_SIZE clips: num_clips of them at least."""
    info = dataset_info.read_dataset_info(directory)
    paths = dataset_info.shard_paths(directory, info)
    if engine.name == _FLOOR:
        return iter(
            floor_batches(floor_clips(paths, num_mels=info.log_mel.num_filters))
        )
    # As if there were more of them: an epoch is longer than the measurement.
    paths *= 2 + (num_clips + _SHUFFLE_BUFFER) // info.num_examples
    source = ClipSource(paths, clip_settings(info, engine.crop_size))
    if engine.name == _EVALUATION:
        batches = pipeline.evaluation_batches(source, batch_size=_BATCH_SIZE)
    else:
        batches = pipeline.training_batches(
            source,
            augmentation=Augmentation(),
            batch_size=_BATCH_SIZE,
            keep=np.ones(info.num_rows, bool),
            seed=0,
            shuffle_buffer=_SHUFFLE_BUFFER,
        )
    return iter(batches)


_measure: Callable[[], Measured]  # of a process that `start` was called in


def start(engine: Engine, directory: str, num_clips: int, repeats: int) -> None:
    """Makes a process ready to measure, past the filling of its buffers."""
    global _measure
    tuning.keep_freed_memory()  # as cli.pretrain does
    before = peak_mib()
    num_batches = num_clips // _BATCH_SIZE
    batches = make_batches(engine, directory, num_clips * (repeats + 1))

    def measure() -> Measured:
        began = time.perf_counter()
        for _ in itertools.islice(batches, num_batches):
            pass
        secs = time.perf_counter() - began
        return Measured(num_batches * _BATCH_SIZE / secs, peak_mib() - before)

    _measure = measure
    measure()


def measure_once() -> Measured:
    """One measurement in a process that is ready."""
    return _measure()


def peak_mib() -> float:
    """The most memory that this process has held so far, all its libraries included."""
    # getrusage would begin with the size of the process that started this one.
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**10


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory of videos and records")
    parser.add_argument("--num_videos", type=int, default=48)
    parser.add_argument("--num_clips", type=int, default=1600, help="per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    directory = make_records(arguments.out, arguments.num_videos)
    info = dataset_info.read_dataset_info(directory)
    paths = dataset_info.shard_paths(directory, info)
    jpegs = floor_clips(paths, num_mels=info.log_mel.num_filters)
    print(", ".join(f"{name} {value}" for name, value in compat.versions().items()))
    print(
        f"{os.cpu_count()} cores; {info.num_examples} records of "
        f"{sum(map(os.path.getsize, paths)) / info.num_examples / 1e6:.2f} MB, "
        f"{np.mean([len(jpeg) for jpeg in jpegs.flat]) / 1e3:.1f} kB per frame"
    )
    spawn = multiprocessing.get_context("spawn")
    settings = (directory, arguments.num_clips, arguments.repeats)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                ProcessPoolExecutor(
                    1, spawn, initializer=start, initargs=(engine, *settings)
                )
            )
            for engine in ENGINES
        ]
        rounds = [
            [process.submit(measure_once).result() for process in processes]
            for _ in range(arguments.repeats)
        ]
    floor = np.median([measured[0].rate for measured in rounds])
    print(
        "| | crop | clips/s, median | lowest to highest | by the floor | memory, MiB |"
        "\n|---|--:|--:|--:|--:|--:|"
    )
    for engine, measured in zip(ENGINES, zip(*rounds, strict=True), strict=True):
        rates = [measurement.rate for measurement in measured]
        print(
            f"| {engine.name} | {engine.crop_size or ''} | {np.median(rates):.0f} | "
            f"{min(rates):.0f} to {max(rates):.0f} | {np.median(rates) / floor:.2f} | "
            f"{measured[-1].memory_mib:.0f} |"
        )


if __name__ == "__main__":
    main()
