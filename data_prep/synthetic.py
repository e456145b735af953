"""Writes the embedded benchmark: mp4 files whose frames and audio share a class.

Every video shows one large object that moves, and sounds one repeating tone. Its
class is a pair (what, how): *what* picks the object's shape and the tone's timbre,
*how* picks the object's motion and the tone's rhythm. Nothing else is shared: colours,
size, position, angle, phase, speed and background of the picture, and pitch, loudness,
vibrato, microphone, background noise and reverberation of the sound are drawn
independently. Within one modality the class is one factor among many; only across
modalities does it stand out, which is what cross-modal clustering claims to exploit.
--shared is the share of videos in which it does: in the others the sound's class is
drawn by itself, and the manifest's label is the picture's.

    python -m data_prep.synthetic --out=DIR --num_videos=600 --seed=0

writes DIR/videos/*.mp4 (H.264 and AAC) and DIR/manifest.csv. Videos are a function of
(seed, number): another seed gives a disjoint set, for testing.
"""

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from data_prep import answers, worker, worker_processes
from data_prep.answers import Form, Outcome, Packed, Value
from xdc_tf.runtime import files, program

SHAPES = ("disc", "square", "triangle", "cross", "ring")
MOTIONS = ("sway", "pulse")
TIMBRES = ("sine", "saw", "hollow", "bell", "hiss")
RHYTHMS = ("held", "staccato")
# Class c is shape and timbre c // 2 with motion and rhythm c % 2.
LABELS = tuple(f"{shape}_{motion}" for shape in SHAPES for motion in MOTIONS)

# Deviation of the microphone's gain at six frequencies, so that a spectrum's shape is
# the timbre's only in part.
MICROPHONE_DB = 6.0
# Purpose of the draws that decide whether a sound has the picture's class.
_SOUND_CLASS = 2

FPS = 12
SAMPLE_RATE_HZ = 32000

_VIDEOS_PER_GROUP = 8
# Of a video: an hour, and what memory there is.
_LIMITS = worker.Limits(timeout_secs=3600.0, memory_mib=2.0**30)

# Without cpu-independent the same frames now and then give other bytes, and other
# pixels, within one process.
_X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "20",
    "x264-params": "cpu-independent=1",
}


class VideoSpec(NamedTuple):
    """What one file of the benchmark is made from."""

    path: str
    seed: int
    number: int
    duration_secs: float
    size: int
    shared: float = 1.0
    microphone_db: float = MICROPHONE_DB

    @property
    def class_index(self) -> int:
        """Classes take turns, so that every prefix of the set is balanced."""
        return self.number % len(LABELS)

    @property
    def sound_class_index(self) -> int:
        """The picture's, or by a share of 1 - shared any class."""
        rng = np.random.default_rng([self.seed, self.number, _SOUND_CLASS])
        is_shared = rng.random() < self.shared
        return self.class_index if is_shared else int(rng.integers(len(LABELS)))


def _disc(x, y):
    return np.hypot(x, y) - 0.9


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x, y):
    return np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - 0.5


def _cross(x, y):
    wide = np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.3)
    tall = np.maximum(np.abs(x) - 0.3, np.abs(y) - 1.0)
    return np.minimum(wide, tall)


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.75) - 0.22


_SIGNED_DISTANCE: dict[str, Callable] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}


def draw_frames(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_frames: int,
    size: int,
) -> np.ndarray:
    """Draws the moving scene of one video.

    Args:
      class_index: index into LABELS; sets the object's shape and its motion.
      rng: source of everything else.
      num_frames: number of frames at FPS frames per second.
      size: height and width in pixels.

    Returns:
      [num_frames, size, size, 3] uint8.
    """
    shape, motion = SHAPES[class_index // 2], MOTIONS[class_index % 2]
    time = np.arange(num_frames) / FPS
    rate_hz, phase = rng.uniform(0.8, 1.4), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * rate_hz * time + phase)
    radius = rng.uniform(0.45, 0.65) * np.ones(num_frames)
    center = rng.uniform(-0.2, 0.2, 2) * np.ones((num_frames, 2))
    heading = rng.uniform(0, 2 * np.pi)
    if motion == "sway":
        center = center + 0.4 * wave[:, None] * [np.cos(heading), np.sin(heading)]
    else:
        radius = radius * 1.5**wave
    angle = rng.uniform(0, 2 * np.pi)

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside, outside = rng.uniform(0.6, 1.0, 3), rng.uniform(0.0, 0.4, 3)
    slope = rng.uniform(-0.12, 0.12, (3, 2))
    background = outside + slope[:, 0] * x[..., None] + slope[:, 1] * y[..., None]

    background = background.astype(np.float32)
    inside = inside.astype(np.float32)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    cos, sin = np.cos(angle), np.sin(angle)
    for t in range(num_frames):
        dx, dy = (x - center[t, 0]) / radius[t], (y - center[t, 1]) / radius[t]
        distance = _SIGNED_DISTANCE[shape](cos * dx + sin * dy, cos * dy - sin * dx)
        # The edge is as wide as one pixel, so that slow motion stays smooth.
        edge = distance * radius[t] * size / 2
        cover = np.clip(0.5 - edge, 0.0, 1.0)[..., None]
        image = background + (inside - background) * cover
        image += 0.02 * rng.standard_normal(image.shape, np.float32)
        frames[t] = np.clip(image * 255, 0, 255)
    return frames


def _tone(timbre: str, pitch_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One sustained tone; pitch_hz is [samples], in Hz over time."""
    turns = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    if timbre == "sine":
        return np.sin(turns)
    if timbre == "saw":
        return sum(np.sin(n * turns) / n for n in range(1, 13))
    if timbre == "hollow":
        return sum(np.sin(n * turns) / n**0.5 for n in range(1, 14, 4))
    if timbre == "bell":
        return sum(np.sin(n * turns) for n in (1.0, 2.76, 5.4, 8.93)) / 2
    # A band of noise that follows the pitch: noise carried up by the tone.
    smooth = np.convolve(rng.normal(size=len(turns)), np.hanning(48), "same")
    return smooth * np.sin(3 * turns) / smooth.std()


def synthesize_sound(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the sound of one video.

    Args:
      class_index: index into LABELS; sets the tone's timbre and its rhythm.
      rng: source of everything else.
      num_samples: length at SAMPLE_RATE_HZ.
      microphone_db: deviation of the microphone's gain at six frequencies.

    Returns:
      [num_samples] float32 in [-1, 1].
    """
    timbre, rhythm = TIMBRES[class_index // 2], RHYTHMS[class_index % 2]
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    vibrato = 1 + rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(3, 6) * time)
    tone = _tone(timbre, rng.uniform(200, 500) * vibrato, rng)
    rate_hz, phase = rng.uniform(2.5, 5.0), rng.uniform(0, 1)
    cycle = (rate_hz * time + phase) % 1.0
    envelope = {
        "held": 0.8 + 0.2 * np.cos(2 * np.pi * cycle),
        "staccato": np.exp(-6 * cycle) * np.minimum(cycle / 0.02, 1),
    }[rhythm]
    dry = tone / np.abs(tone).max() * envelope

    decay_secs = rng.uniform(0.02, 0.12)
    echo_time = np.arange(int(0.3 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    echo = rng.normal(size=len(echo_time)) * np.exp(-echo_time / decay_secs)
    echo *= rng.uniform(0.05, 0.4) / np.linalg.norm(echo)
    echo[0] += 1.0  # the direct sound
    length = num_samples + len(echo)
    spectrum = np.fft.rfft(dry, length) * np.fft.rfft(echo, length)
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    gain_db = np.interp(
        np.log(np.maximum(hz, 1)),
        np.log([100, 250, 600, 1500, 4000, 10000]),
        rng.normal(0, microphone_db, 6),
    )
    sound = np.fft.irfft(spectrum * 10 ** (gain_db / 20), length)[:num_samples]
    noise = np.convolve(
        rng.normal(size=num_samples), np.hanning(rng.integers(3, 40)), "same"
    )
    sound = sound / np.abs(sound).max() + rng.uniform(0.003, 0.05) * noise / noise.std()
    loudness = rng.uniform(0.15, 0.9)
    return (loudness * sound / np.abs(sound).max()).astype(np.float32)


def write_mp4(path: str, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Writes H.264 video and AAC sound.

    Args:
      path: where; written under a temporary name first, then renamed.
      frames: [T, H, W, 3] uint8 at FPS frames per second, H and W even.
      waveform: [samples] float32 in [-1, 1] at SAMPLE_RATE_HZ.
    """
    import av  # after the flags are parsed: --help answers at once

    with (
        files.placing(path) as temporary,
        av.open(temporary, "w", format="mp4") as container,
    ):
        video = container.add_stream("libx264", rate=FPS, options=_X264_OPTIONS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        sound.sample_rate = SAMPLE_RATE_HZ
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def make_video(spec: VideoSpec) -> None:
    """Draws, synthesises and writes one file; one already there is kept."""
    if os.path.exists(spec.path):
        return
    for_video, for_audio = np.random.SeedSequence([spec.seed, spec.number]).spawn(2)
    frames = draw_frames(
        spec.class_index,
        np.random.default_rng(for_video),
        num_frames=round(spec.duration_secs * FPS),
        size=spec.size,
    )
    waveform = synthesize_sound(
        spec.sound_class_index,
        np.random.default_rng(for_audio),
        num_samples=round(spec.duration_secs * SAMPLE_RATE_HZ),
        microphone_db=spec.microphone_db,
    )
    write_mp4(spec.path, frames, waveform)


def _make_videos(specs: Sequence[VideoSpec]) -> Iterator[Outcome]:
    for spec in specs:
        make_video(spec)
        yield Outcome()


def _pack_nothing(result: None) -> Packed:
    return Packed({})


def _unpack_nothing(values: Mapping[str, Value], data: memoryview) -> None:
    answers.check_keys(values)


_NOTHING = Form(_pack_nothing, _unpack_nothing)


def make_benchmark(
    out_dir: str,
    *,
    num_videos: int,
    seed: int,
    duration_secs: float = 3.0,
    size: int = 72,
    shared: float = 1.0,
    microphone_db: float = MICROPHONE_DB,
    num_workers: int = 1,
) -> str:
    """Writes the videos and their manifest; returns the manifest's path.

    A directory holds videos of one setting.

    Raises:
      OSError: a file cannot be written; names it.
      ValueError: on a size that H.264 cannot hold, a number below one, or a share
        outside of [0, 1].
    """
    if num_videos < 1 or num_workers < 1:
        raise ValueError(
            f"num_videos={num_videos} and num_workers={num_workers} must be 1 or more."
        )
    if size % 2 or size < 32:
        raise ValueError(f"size={size}: H.264 wants an even size, of 32 or more here.")
    if duration_secs < 1:
        raise ValueError(f"duration_secs={duration_secs} must be 1 or more.")
    if not 0 <= shared <= 1 or microphone_db < 0:
        raise ValueError(
            f"shared={shared} must be from 0 to 1, and microphone_db={microphone_db} "
            "0 or more."
        )
    os.makedirs(os.path.join(out_dir, "videos"), exist_ok=True)
    specs = [
        VideoSpec(
            path=os.path.join(out_dir, "videos", f"seed{seed}_{number:06d}.mp4"),
            seed=seed,
            number=number,
            duration_secs=duration_secs,
            size=size,
            shared=shared,
            microphone_db=microphone_db,
        )
        for number in range(num_videos)
    ]
    from tqdm import tqdm

    groups = [
        specs[k : k + _VIDEOS_PER_GROUP]
        for k in range(0, num_videos, _VIDEOS_PER_GROUP)
    ]
    outcomes = worker_processes.map_groups(
        _make_videos,
        groups,
        form=_NOTHING,
        pool=worker_processes.PoolSettings(num_workers, _LIMITS),
    )
    progress = tqdm(
        outcomes,
        total=num_videos,
        desc="synthetic videos",
        unit="video",
        mininterval=2,
    )
    with contextlib.closing(outcomes):
        for spec, outcome in zip(specs, progress, strict=True):
            if outcome.reason:
                raise OSError(
                    f"{spec.path} cannot be made: {outcome.detail}; the same command "
                    "goes on."
                )
    manifest = os.path.join(out_dir, "manifest.csv")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label"])
    for spec in specs:
        relative = os.path.join("videos", os.path.basename(spec.path))
        writer.writerow([relative, LABELS[spec.class_index]])
    files.write_text(manifest, text.getvalue())
    return manifest


_OUT = flags.DEFINE_string(
    "out", None, "Directory for videos/ and manifest.csv.", required=True
)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 600, "Videos to make.")
_SEED = flags.DEFINE_integer("seed", 0, "Another seed gives other videos.", 0)
_DURATION_SECS = flags.DEFINE_float("duration_secs", 3.0, "Length of each video.")
_SIZE = flags.DEFINE_integer("size", 72, "Height and width in pixels.")
_SHARED = flags.DEFINE_float(
    "shared", 1.0, "Share of videos whose sound has the picture's class."
)
_MICROPHONE_DB = flags.DEFINE_float(
    "microphone_db", MICROPHONE_DB, "Deviation of the microphones' gain."
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", os.cpu_count() or 1, "Processes that draw and encode."
)


def main(argv):
    del argv
    manifest = make_benchmark(
        _OUT.value,
        num_videos=_NUM_VIDEOS.value,
        seed=_SEED.value,
        duration_secs=_DURATION_SECS.value,
        size=_SIZE.value,
        shared=_SHARED.value,
        microphone_db=_MICROPHONE_DB.value,
        num_workers=_NUM_WORKERS.value,
    )
    print(f"Wrote {manifest}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
