"""Damaged videos and damaged records: nothing crashes, hangs or passes unnoticed.

    python -m benchmarks.fuzz --out=DIR

- Videos: byte mutations of small valid files of several formats are converted, by the
  same pool of workers that `data_prep.convert` runs. Each must be converted or refused
  with a reason, none by `unexpected_error`; and what was converted although a checksum
  covers the damaged bytes (FLAC frames, Ogg pages) must have the sound of the file
  before the damage.
- Records: byte mutations of a shard, or of its index, are read by the checks behind
  `data_prep.inspect --verify`, of which each must find a fault.

Mutations follow from --seed. Exits with 1 if any of this does not hold.
"""

import argparse
import collections
import csv
import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
import tensorflow as tf

from data_prep import conversion
from data_prep.conversion_settings import ConversionSettings
from data_prep.inspection import record_tables, record_verification
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables, record_index, records
from xdc_tf.runtime import files

_SECS, _FPS, _RATE_HZ = 1.0, 10, 16000
_TIMEOUT_SECS = 20.0
_MAX_MUTATIONS = 8


class Format(NamedTuple):
    """A valid file to damage; `checked` if checksums cover its sound."""

    name: str
    video: str | None
    audio: str
    checked: bool = False


FORMATS = (
    Format("h264_aac.mp4", "libx264", "aac"),
    Format("h265_aac.mp4", "libx265", "aac"),
    Format("vp9_opus.webm", "libvpx-vp9", "libopus"),
    Format("vp8_vorbis.webm", "libvpx", "vorbis"),
    Format("av1_opus.mkv", "libsvtav1", "libopus"),
    Format("mpeg4_mp3.avi", "mpeg4", "libmp3lame"),
    Format("mjpeg_pcm.mov", "mjpeg", "pcm_s16le"),
    Format("h264_ac3.ts", "libx264", "ac3"),
    Format("h264_aac.flv", "libx264", "aac"),
    Format("mpeg2_mp2.mpg", "mpeg2video", "mp2"),
    Format("sound.flac", None, "flac", checked=True),
    Format("opus.ogg", None, "libopus", checked=True),
    Format("sound.mp3", None, "libmp3lame"),
    Format("sound.wav", None, "pcm_s16le"),
)


def write_valid(path: str, form: Format) -> None:
    """Moving noise and a chirp."""
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        video = None
        if form.video:
            options = {"x265-params": "log-level=none"}
            options = options if form.video == "libx265" else {}
            rate = 25 if form.video == "mpeg2video" else _FPS
            video = container.add_stream(form.video, rate=rate, options=options)
            video.width, video.height = 96, 64
            video.pix_fmt = "yuvj420p" if form.video == "mjpeg" else "yuv420p"
        rate_hz = 48000 if "opus" in form.audio else 44100
        audio = container.add_stream(form.audio, rate=rate_hz, layout="stereo")
        if form.audio == "vorbis":
            audio.codec_context.options = {"strict": "experimental"}
        if video:
            for number in range(round(_SECS * rate)):
                image = np.full((64, 96, 3), 60, np.uint8)
                image[16:48, 4 * number : 4 * number + 32] = rng.integers(
                    0, 255, (32, min(32, 96 - 4 * number) if number < 24 else 0, 3)
                )
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        times = np.arange(round(_SECS * rate_hz)) / rate_hz
        sound = 0.4 * np.sin(2 * np.pi * (300 + 900 * times) * times)
        sound += 0.02 * rng.standard_normal(len(times))
        formats = [kind.name for kind in audio.codec_context.codec.audio_formats]
        kind = "fltp" if "fltp" in formats else formats[0]
        resampler = av.AudioResampler(kind, "stereo", rate_hz)
        whole = np.tile(sound.astype(np.float32), (2, 1))
        block = audio.codec_context.frame_size or 1024
        for first in range(0, len(sound), block):
            samples = np.ascontiguousarray(whole[:, first : first + block])
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.pts = rate_hz, first
            for converted in resampler.resample(frame):
                container.mux(audio.encode(converted))
        container.mux(audio.encode(None))


def mutate(content: bytes, rng: np.random.Generator, first: int = 0) -> bytes:
    """Other bytes at one to _MAX_MUTATIONS places, all from `first` on."""
    damaged = bytearray(content)
    places = rng.integers(first, len(content), rng.integers(1, _MAX_MUTATIONS + 1))
    for place in np.unique(places):
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def first_checked_byte(content: bytes) -> int:
    """Where checksums begin: behind FLAC's metadata; at an Ogg file's beginning."""
    if content[:4] != b"fLaC":
        return 0
    place, last = 4, False
    while not last:
        last = bool(content[place] & 0x80)
        place += 4 + int.from_bytes(content[place + 1 : place + 4], "big")
    return place


def convert(folder: str, names: list[str], modalities: tuple[str, ...]) -> str:
    """Converts files of a folder; the directory of records."""
    manifest = os.path.join(folder, f"{'_'.join(modalities)}.csv")
    example_tables.write_csv(manifest, ("path",), ((name,) for name in names))
    out = manifest.removesuffix(".csv")
    info = conversion.convert_manifest(
        manifest,
        out,
        settings=ConversionSettings(
            fps=_FPS,
            short_side=32,
            min_secs=0.1,
            modalities=modalities,
            store_waveform=modalities == ("audio",),
        ),
        pool=PoolSettings(os.cpu_count() or 1, Limits(_TIMEOUT_SECS, 1024)),
    )
    if info.num_examples + info.num_quarantined != len(names):
        raise RuntimeError(f"{info.num_examples} + {info.num_quarantined} rows.")
    return out


def waveforms(records_dir: str) -> dict[str, np.ndarray]:
    """The stored waveform of each file."""
    info = dataset_info.read_dataset_info(records_dir)
    paths = dataset_info.shard_paths(records_dir, info)
    waveforms = {}
    for serialized in tf.data.TFRecordDataset(paths):
        parsed = records.parse_example(
            serialized,
            num_filters=info.log_mel.num_filters,
            modalities=info.modalities,
            with_waveform=True,
        )
        waveforms[parsed["data_path"].numpy().decode()] = parsed["waveform"].numpy()
    return waveforms


def fuzz_videos(out: str, *, num: int, seed: int) -> list[str]:
    """Converts damaged files; what went wrong."""
    folder = os.path.join(out, "videos")
    os.makedirs(folder)
    rng = np.random.default_rng([seed, 0])
    contents = {}
    for form in FORMATS:
        path = os.path.join(folder, form.name)
        write_valid(path, form)
        with open(path, "rb") as file:
            contents[form] = file.read()
    names: dict[tuple[str, ...], list[str]] = {("video", "audio"): [], ("audio",): []}
    form_of = {}
    for form in FORMATS:
        names[("video", "audio") if form.video else ("audio",)].append(form.name)
    for number in range(num):
        form = FORMATS[number % len(FORMATS)]
        name = f"{number:05d}_{form.name}"
        content = contents[form]
        first = first_checked_byte(content) if form.checked else 0
        with open(os.path.join(folder, name), "wb") as file:
            file.write(mutate(content, rng, first))
        names[("video", "audio") if form.video else ("audio",)].append(name)
        form_of[name] = form
    wrong = []
    reasons: collections.Counter = collections.Counter()
    for modalities, paths in names.items():
        made = convert(folder, paths, modalities)
        text = files.read_text(os.path.join(made, conversion.QUARANTINE_FILE))
        for row in csv.DictReader(io.StringIO(text, newline="")):
            reasons[row["reason"]] += 1
            valid = row["path"] not in form_of
            if valid or row["reason"] == "unexpected_error":
                wrong.append(" ".join(row.values()))
        if modalities == ("audio",):
            heard = waveforms(made)
            wrong += _unnoticed(heard, form_of)
            print(f"{len(heard)} of {len(paths)} sounds converted")
    print(f"{num} damaged videos and sounds: {dict(reasons.most_common())} refused")
    return wrong


def _unnoticed(heard: dict[str, np.ndarray], form_of: dict[str, Format]) -> list[str]:
    """Sounds that are not those before the damage, in spite of checksums."""
    return [
        f"{name}: another sound was accepted in spite of the format's checksums"
        for name, waveform in heard.items()
        if name in form_of
        and form_of[name].checked
        and not np.array_equal(waveform, heard[form_of[name].name])
    ]


def fuzz_records(out: str, *, num: int, seed: int) -> list[str]:
    """Reads damaged shards; which of them had no fault."""
    folder = os.path.join(out, "for_records")
    os.makedirs(folder)
    names = ["h264_aac.mp4", "vp9_opus.webm", "mpeg4_mp3.avi"]
    for form in FORMATS:
        if form.name in names:
            write_valid(os.path.join(folder, form.name), form)
    made = convert(folder, names, ("video", "audio"))
    info = record_tables.read_info(made)
    (shard,) = dataset_info.shard_paths(made, info)
    faults = list(record_verification.find_faults(made, info))
    if faults:
        return [f"before any damage: {faults[0]}"]
    rng = np.random.default_rng([seed, 1])
    wrong = []
    for number in range(num):
        path = shard + record_index.SUFFIX if number % 8 == 7 else shard
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(mutate(content, rng))
        if not any(True for _ in record_verification.find_faults(made, info)):
            wrong.append(f"damaged records {number} ({os.path.basename(path)}) passed")
        with open(path, "wb") as file:
            file.write(content)
    print(f"{num} damaged shards and indices: a fault was found in {num - len(wrong)}")
    return wrong


def _timed(run: Callable[..., list[str]], out: str, num: int, seed: int) -> list[str]:
    start = time.perf_counter()
    wrong = run(out, num=num, seed=seed)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="Scratch directory, removed.")
    parser.add_argument("--num_videos", type=int, default=2000)
    parser.add_argument("--num_records", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.makedirs(arguments.out)
    try:
        wrong = _timed(fuzz_videos, arguments.out, arguments.num_videos, arguments.seed)
        wrong += _timed(
            fuzz_records, arguments.out, arguments.num_records, arguments.seed
        )
    finally:
        shutil.rmtree(arguments.out)
    for line in wrong[:50]:
        print(f"wrong: {line}")
    print(f"{len(wrong)} of {arguments.num_videos + arguments.num_records} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
