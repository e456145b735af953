"""Writes the embedded benchmark: mp4 files whose frames and audio share a class.

Nothing but the class is shared: colours, size, position, angle, phase, speed and
background of the frames, and pitch or voice, loudness, microphone, noise and
reverberation of the audio are drawn independently. Within one modality the class is
one factor among many; only across modalities does it stand out, which is what
cross-modal clustering claims to exploit. There are several kinds (--kind):

    shapes     one large object that moves, and a repeating tone
    clutter    fine textures and contours among distractors, tones among other sounds
    digits     handwritten digits, and a voice that says a word, another voice behind
    long_tail  a few classes are most videos; some are seen only, some heard only
    several    one to three classes of shapes at once, and so as many labels

--shared is the fraction of videos in which audio and frames have the same class: in the
others the audio's is drawn by itself, and the manifest's label is the frames'.

    python -m data_prep.synthetic --out=DIR --num_videos=600 --seed=0

writes DIR/videos/*.mp4 (H.264 and AAC) and DIR/manifest.csv. Videos are a function of
(seed, number): another seed gives a disjoint set, for testing.
"""

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from data_prep import answers, worker, worker_processes
from data_prep.answers import Form, Outcome, Packed, Value
from data_prep.manifest import SEVERAL
from data_prep.scenes.kinds import KINDS
from data_prep.scenes.shapes import FPS, MICROPHONE_DB, SAMPLE_RATE_HZ
from xdc_tf.runtime import files, program

# Purposes of draws: whether the audio has the frames' class, and the frames' class.
_AUDIO_CLASS, _CLASS = 2, 3

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
    kind: str = "shapes"
    shared: float = 1.0
    microphone_db: float = MICROPHONE_DB

    @property
    def class_index(self) -> int:
        """Of the frames, and of the label: by turns, or drawn by their frequencies."""
        kind = KINDS[self.kind]
        if kind.frequencies is None:
            return self.number % len(kind.labels)
        rng = np.random.default_rng([self.seed, self.number, _CLASS])
        return int(rng.choice(len(kind.labels), p=kind.frequencies))

    @property
    def audio_class_index(self) -> int:
        """The frames' class, or for a fraction of 1 - shared any class."""
        rng = np.random.default_rng([self.seed, self.number, _AUDIO_CLASS])
        is_shared = rng.random() < self.shared
        num_classes = len(KINDS[self.kind].labels)
        return self.class_index if is_shared else int(rng.integers(num_classes))


def write_mp4(path: str, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Writes H.264 video and AAC audio.

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
        audio_frame = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        audio_frame.sample_rate = SAMPLE_RATE_HZ
        container.mux(audio.encode(audio_frame))
        container.mux(audio.encode(None))


def make_video(spec: VideoSpec) -> None:
    """Draws, synthesises and writes one file; one already there is kept."""
    if os.path.exists(spec.path):
        return
    kind = KINDS[spec.kind]
    part = {"part": spec.seed % kind.num_parts} if kind.num_parts > 1 else {}
    for_video, for_audio = np.random.SeedSequence([spec.seed, spec.number]).spawn(2)
    frames = kind.draw_frames(
        spec.class_index,
        np.random.default_rng(for_video),
        num_frames=round(spec.duration_secs * FPS),
        size=spec.size,
        **part,
    )
    waveform = kind.synthesize_waveform(
        spec.audio_class_index,
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
    kind: str = "shapes",
    shared: float | None = None,
    microphone_db: float = MICROPHONE_DB,
    num_workers: int = 1,
) -> str:
    """Writes the videos and their manifest.

    A directory holds videos of one setting.

    Args:
      out_dir: directory for videos/ and manifest.csv; made if there is none.
      num_videos: how many.
      seed: another one gives other videos.
      duration_secs: of each video.
      size: height and width in pixels.
      kind: a key of KINDS.
      shared: fraction of videos whose audio has the frames' class; None for the kind's.
      microphone_db: deviation of the microphones' gain.
      num_workers: processes that draw and encode.

    Returns:
      The manifest's path.

    Raises:
      OSError: a file cannot be written; names it.
      ValueError: on an unknown kind, a size that H.264 cannot hold, a number below one,
        or a fraction outside of [0, 1].
    """
    if num_videos < 1 or num_workers < 1:
        raise ValueError(
            f"num_videos={num_videos} and num_workers={num_workers} must be 1 or more."
        )
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {list(KINDS)}.")
    specs = [
        VideoSpec(
            path=os.path.join(out_dir, "videos", f"seed{seed}_{number:06d}.mp4"),
            seed=seed,
            number=number,
            duration_secs=duration_secs,
            size=size,
            kind=kind,
            shared=KINDS[kind].shared if shared is None else shared,
            microphone_db=microphone_db,
        )
        for number in range(num_videos)
    ]
    _check(specs[0])
    os.makedirs(os.path.join(out_dir, "videos"), exist_ok=True)
    _write_videos(specs, num_workers)
    manifest = os.path.join(out_dir, "manifest.csv")
    _write_manifest(manifest, specs)
    return manifest


def _check(spec: VideoSpec) -> None:
    if spec.size % 2 or spec.size < 32:
        raise ValueError(
            f"size={spec.size}: H.264 needs an even size, of 32 or more here."
        )
    if spec.duration_secs < 1:
        raise ValueError(f"duration_secs={spec.duration_secs} must be 1 or more.")
    if not 0 <= spec.shared <= 1 or spec.microphone_db < 0:
        raise ValueError(
            f"shared={spec.shared} must be from 0 to 1, and "
            f"microphone_db={spec.microphone_db} 0 or more."
        )


def _write_videos(specs: Sequence[VideoSpec], num_workers: int) -> None:
    from tqdm import tqdm

    groups = [
        specs[k : k + _VIDEOS_PER_GROUP]
        for k in range(0, len(specs), _VIDEOS_PER_GROUP)
    ]
    outcomes = worker_processes.map_groups(
        _make_videos,
        groups,
        form=_NOTHING,
        pool=worker_processes.PoolSettings(num_workers, _LIMITS),
    )
    progress = tqdm(
        outcomes,
        total=len(specs),
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


def _write_manifest(path: str, specs: Sequence[VideoSpec]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    several = KINDS[specs[0].kind].several_labels
    writer.writerow(["path", SEVERAL if several else "label"])
    for spec in specs:
        relative = os.path.join("videos", os.path.basename(spec.path))
        writer.writerow([relative, KINDS[spec.kind].labels[spec.class_index]])
    files.write_text(path, text.getvalue())


_OUT = flags.DEFINE_string(
    "out", None, "Directory for videos/ and manifest.csv.", required=True
)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 600, "Number of videos to make.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the videos; another seed gives other videos.", 0
)
_DURATION_SECS = flags.DEFINE_float("duration_secs", 3.0, "Seconds of each video.")
_SIZE = flags.DEFINE_integer("size", 72, "Height and width in pixels.")
_KIND = flags.DEFINE_enum("kind", "shapes", list(KINDS), "What is seen and heard.")
_SHARED = flags.DEFINE_float(
    "shared",
    None,
    "Fraction of videos whose audio has the frames' class; by default 1, of digits "
    "0.95.",
)
_MICROPHONE_DB = flags.DEFINE_float(
    "microphone_db", MICROPHONE_DB, "Deviation of the microphones' gain in dB."
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
        kind=_KIND.value,
        shared=_SHARED.value,
        microphone_db=_MICROPHONE_DB.value,
        num_workers=_NUM_WORKERS.value,
    )
    print(f"Wrote {manifest}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
