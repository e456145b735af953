"""Files with packets cut, joined, shifted, reordered, dropped and repeated.

    python -m benchmarks.fuzz_packets --out=DIR

A film that tells its own time (tests/data_prep/pattern_film.py) is written in several
formats; a random walk edits its packets, as recorders, splitters and players that copy
streams do, and writes them anew. Each file is decoded whole, by a jump and in segments,
with picture and sound, and is

- right: the picture's numbers and the sound's ticks are of the same moments of the
  film, and both go on as the film does but where the walk has cut it;
- refused, with a reason; or
- wrong: what is stored is none of this, and nothing said so.

What the format cannot hold with its times is left out. Files follow from --seed. Exits
with 1 if any is wrong.
"""

import argparse
import collections
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import av
import numpy as np

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding.media import read_segments
from data_prep.decoding.recording import Media, Segment
from data_prep.reasons import MediaError
from tests.data_prep import pattern_film
from tests.data_prep.pattern_film import Encoded

_SECS = 4.0
_FPS = 25.0
_RATE_HZ = 16000
SETTINGS = ConversionSettings(
    fps=_FPS, short_side=120, min_secs=0.2, max_secs=60.0, store_waveform=True
)
# Whole, by a jump, and in segments.
READINGS = (
    (Segment(0.0, None),),
    (Segment(2.6, 3.4),),
    (Segment(0.0, 1.5), Segment(1.5, 3.0)),
)
# How far picture and sound may be apart: two frames and a block of sound.
_MOST_APART_SECS = 0.13
# Formats store packets' times to within a frame.
_ROUNDING_SECS = 0.05


class Format(NamedTuple):
    """A way to write the film."""

    suffix: str
    video: str
    audio: str
    num_b_frames: int = 0


FORMATS = (
    Format("mkv", "libx264", "aac", 2),
    Format("mkv", "mpeg4", "libmp3lame"),
    Format("mp4", "libx264", "aac", 2),
    Format("mov", "mpeg4", "aac"),
    Format("ts", "libx264", "mp2"),
    Format("ts", "mpeg2video", "ac3", 2),
    Format("mpg", "mpeg2video", "mp2", 2),
    Format("flv", "libx264", "aac"),
    Format("webm", "libvpx", "libopus"),
    Format("avi", "mpeg4", "libmp3lame"),
    Format("nut", "libx264", "libopus"),
)


def write_sources(folder: str) -> dict[Format, str]:
    """The film in each format's codecs, in a container that copies well."""
    sources = {}
    for form in FORMATS:
        path = os.path.join(folder, f"source_{form.video}_{form.audio}.mkv")
        if not os.path.exists(path):
            pattern_film.write(
                path,
                video=form.video,
                audio=form.audio,
                secs=_SECS,
                num_b_frames=form.num_b_frames,
            )
        sources[form] = path
    return sources


def _moved(packet: Encoded, secs: float) -> Encoded:
    decoding_secs = packet.decoding_secs
    return packet._replace(
        secs=packet.secs + secs,
        decoding_secs=None if decoding_secs is None else decoding_secs + secs,
    )


def cut(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Takes away the beginning, or the end."""
    at = int(rng.integers(1, max(2, len(packets) // 2)))
    return packets[at:] if rng.random() < 0.5 else packets[:-at]


def join(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Appends a part of the same film, with its own clock or one that is later."""
    first = int(rng.integers(0, max(1, len(packets) // 2)))
    begin_secs = packets[first].secs if packets else 0.0
    secs = float(rng.choice([0.0, -begin_secs, rng.uniform(-_SECS, _SECS)]))
    return [*packets, *(_moved(packet, secs) for packet in packets[first:])]


def shift(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Begins later, by up to 400 s."""
    secs = float(rng.choice([0.5, 8.0, 100.0, 400.0]))
    return [_moved(packet, secs) for packet in packets]


def reorder(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Lets one stream's packets come much earlier or later in the file."""
    late = int(rng.integers(1, 60))
    kind = str(rng.choice(["video", "audio"]))
    places = [
        (number + late * (packet.kind == kind), number)
        for number, packet in enumerate(packets)
    ]
    return [packets[number] for _, number in sorted(places)]


def drop(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Loses up to ten packets in a row, of one stream or of both."""
    first = int(rng.integers(0, max(1, len(packets))))
    last = first + int(rng.integers(1, 11))
    kinds = [("video",), ("audio",), ("video", "audio")][int(rng.integers(3))]
    return [
        packet
        for number, packet in enumerate(packets)
        if not (first <= number < last and packet.kind in kinds)
    ]


def duplicate(packets: list[Encoded], rng: np.random.Generator) -> list[Encoded]:
    """Repeats up to ten packets in a row, with their times."""
    first = int(rng.integers(0, max(1, len(packets))))
    last = first + int(rng.integers(1, 11))
    return [*packets[:last], *packets[first:]]


STEPS = (cut, join, shift, reorder, drop, duplicate)


def walk(
    form: Format, source: str, path: str, rng: np.random.Generator
) -> list[str] | None:
    """Writes an edited file; names of the steps, or None if no file can have them."""
    steps = [STEPS[int(k)] for k in rng.integers(len(STEPS), size=rng.integers(1, 4))]

    edited: list[Encoded] = []

    def edit(packets: list[Encoded]) -> list[Encoded]:
        for step in steps:
            packets = step(packets, rng)
        edited.extend(packets)
        return packets

    options = {}
    if form.suffix == "mp4" and rng.random() < 0.5:
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    try:
        pattern_film.remux(source, path, edit=edit, options=options)
    except (av.FFmpegError, ValueError):
        return None
    if not _holds(path, edited):
        return None
    return [step.__name__ for step in steps]


def _holds(path: str, packets: Sequence[Encoded]) -> bool:
    """Whether a file has picture and sound as far apart as its packets were.

    AVI has no time stamps: a stream that begins late or has a gap is stored as another.
    """
    intended = _spans((packet.kind, packet.secs) for packet in packets)
    with av.open(path) as file:
        stored = _spans(
            (packet.stream.type, float(timestamp * packet.time_base))
            for packet in file.demux()
            for timestamp in [packet.dts if packet.pts is None else packet.pts]
            if packet.size and timestamp is not None
        )
    return set(intended) == set(stored) and all(
        abs(stored[kind][end] - intended[kind][end]) < _ROUNDING_SECS
        for kind in intended
        for end in (0, 1)
    )


def _spans(times: Iterable[tuple[str, float | None]]) -> dict[str, tuple[float, float]]:
    """First and last time of each kind, from the first of all on."""
    times_of = collections.defaultdict(list)
    for kind, secs in times:
        if secs is not None:
            times_of[kind].append(secs)
    origin = min(map(min, times_of.values()), default=0.0)
    return {
        kind: (min(secs) - origin, max(secs) - origin)
        for kind, secs in times_of.items()
    }


def fault(media: Media, segment: Segment) -> str:
    """What is wrong with a stored stretch; "" if its picture and sound belong together.

    Each tick begins at a whole second of the film, and so the picture of that moment
    must have a number that is a multiple of the frames per second; and a picture with
    such a number must have a tick.
    """
    seen = pattern_film.see(
        media.video_items, media.waveform, start_secs=segment.start_secs
    )
    if seen.colour_error > 40:
        return f"colours are wrong by {seen.colour_error:.0f}"
    film_secs = seen.numbers / _FPS
    for tick_secs in seen.ticks_secs:
        if tick_secs < 0.06:
            continue  # what began before may be heard at the start
        # The film's moments that are on show around the tick.
        near = np.abs(np.arange(len(film_secs)) / _FPS - tick_secs) <= _MOST_APART_SECS
        if near.any():
            apart_secs = np.abs(film_secs[near] - np.round(film_secs[near])).min()
            if apart_secs > 2.01 / _FPS:
                return f"a tick at {tick_secs:.2f} s, with the picture of " + " ".join(
                    f"{secs:.2f}" for secs in film_secs[near]
                )
    for number in np.flatnonzero(seen.numbers % round(_FPS) == 0):
        first = max(0, round((number / _FPS - 0.02) * _RATE_HZ))
        if np.median(np.abs(media.waveform[first : first + _RATE_HZ // 10])) < 1e-4:
            continue  # a gap of the sound, which is not wrong
        shown_secs = number / _FPS
        if (
            0.15 < shown_secs < media.duration_secs - 0.15
            and not (np.abs(seen.ticks_secs - shown_secs) <= _MOST_APART_SECS).any()
        ):
            return (
                f"no tick at {shown_secs:.2f} s, where frame {seen.numbers[number]} is"
            )
    return ""


def judge(path: str) -> tuple[str, str]:
    """("right" or "refused" or "wrong", why) of a file's readings together."""
    refusals = []
    for segments in READINGS:
        outcomes = read_segments(path, segments, SETTINGS)
        for segment, media in zip(segments, outcomes, strict=True):
            if isinstance(media, MediaError):
                refusals.append(str(media))
                continue
            wrong = fault(media, segment)
            if wrong:
                return "wrong", f"{tuple(segment)}: {wrong}"
    num_readings = sum(map(len, READINGS))
    if len(refusals) == num_readings:
        return "refused", refusals[0]
    return "right", ""


def run(folder: str, *, num: int, seed: int) -> tuple[collections.Counter, list[str]]:
    """Counts of files by what became of them, and what went wrong."""
    sources = write_sources(folder)
    counts: collections.Counter = collections.Counter()
    wrong = []
    for number in range(num):
        form = FORMATS[number % len(FORMATS)]
        rng = np.random.default_rng([seed, number])
        path = os.path.join(folder, f"{number:05d}.{form.suffix}")
        steps = walk(form, sources[form], path, rng)
        if steps is None:
            counts["not written"] += 1
            continue
        verdict, why = judge(path)
        counts[verdict] += 1
        if verdict == "wrong":
            wrong.append(f"{os.path.basename(path)} {'+'.join(steps)} {form}: {why}")
        else:
            os.remove(path)
    return counts, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="Scratch directory, removed.")
    parser.add_argument("--num", type=int, default=2000, help="Number of files.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="Keep the wrong files.")
    parsed = parser.parse_args(arguments)
    os.makedirs(parsed.out)
    av.logging.set_level(None)
    start = time.perf_counter()
    try:
        counts, wrong = run(parsed.out, num=parsed.num, seed=parsed.seed)
    finally:
        if not parsed.keep:
            shutil.rmtree(parsed.out)
    for line in wrong[:50]:
        print(f"wrong: {line}")
    print(f"{dict(counts)} of {parsed.num}, {time.perf_counter() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
