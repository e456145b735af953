"""A corpus of odd and broken files, converted by the pool of workers in one go."""

import csv
import io
import os
import sys
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import odd_media
import pytest
import tensorflow as tf
from odd_media import FLASHES_SECS, SECS, write
from PIL import Image

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.reasons import REASONS
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, records

pytestmark = pytest.mark.once

FPS = 50.0
RATE_HZ = 16000
SETTINGS = ConversionSettings(
    fps=FPS,
    short_side=48,
    min_secs=0.2,
    max_secs=20.0,
    store_waveform=True,
    max_file_mib=4.0,
    max_megapixels=1.0,
    max_frames=600,
)

QUIET_X265 = {"x265-params": "log-level=none"}

# Name -> how it is written. All have flashes and clicks at the same moments.
GOOD: dict[str, dict[str, Any]] = {
    "h264_aac.mp4": {},
    "h264_flac.mkv": {"audio": "flac"},
    "h264_pcm.mov": {"audio": "pcm_s16le"},
    "h264_aac.flv": {"rate_hz": 44100},
    "h264_ac3.ts": {"audio": "ac3"},
    "h264_10bit_high.mkv": {"pix_fmt": "yuv420p10le"},
    "h264_444_float.mkv": {"pix_fmt": "yuv444p", "audio": "pcm_f32le"},
    "h265_aac.mp4": {"video": "libx265", "video_options": QUIET_X265},
    "h265_10bit.mkv": {
        "video": "libx265",
        "pix_fmt": "yuv420p10le",
        "video_options": QUIET_X265,
    },
    "vp8_vorbis.webm": {"video": "libvpx", "audio": "vorbis"},
    "vp9_opus.webm": {"video": "libvpx-vp9", "audio": "libopus"},
    "av1_opus.webm": {"video": "libsvtav1", "audio": "libopus"},
    "av1_aac.mp4": {"video": "libsvtav1"},
    "mpeg4_mp3.avi": {"video": "mpeg4", "audio": "libmp3lame"},
    "mpeg4_aac.mp4": {"video": "mpeg4"},
    "mjpeg_pcm.avi": {"video": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_s16le"},
    "mjpeg_pcm.mov": {"video": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_s16le"},
    "mpeg2_mp2.mpg": {"video": "mpeg2video", "audio": "mp2"},
    "flv1_mp3.flv": {"video": "flv", "audio": "libmp3lame", "rate_hz": 44100},
    "prores_pcm.mov": {
        "video": "prores",
        "pix_fmt": "yuv422p10le",
        "audio": "pcm_s16le",
    },
    "ffv1_rgb.mkv": {"video": "ffv1", "pix_fmt": "bgr0", "audio": "pcm_s16le"},
    "8_khz_mono.mkv": {"audio": "pcm_s16le", "rate_hz": 8000, "layout": "mono"},
    "96_khz.mkv": {"audio": "flac", "rate_hz": 96000},
    "mono.mp4": {"layout": "mono"},
    "5.1.mkv": {"audio": "ac3", "layout": "5.1"},
    "5.1_aac.mp4": {"layout": "5.1"},
    "odd_size.mkv": {"video": "ffv1", "size": (95, 63), "audio": "pcm_s16le"},
    "wide_pixels.mp4": {"pixel_aspect": Fraction(2, 1)},
    "turned.mp4": {"turned": 90, "blue": True},
    "variable_rate.mkv": {
        "fps": 1000,
        "frame_times_secs": (0, 0.05, 0.06, 0.4, 0.52, 0.53, 0.9, 1.2, 1.32, 1.59),
        "audio": "flac",
    },
    "late_sound.mp4": {"audio_late_secs": 0.25},
    "late_sound.mkv": {"audio_late_secs": 0.25, "audio": "flac"},
    "late_sound.ts": {"audio_late_secs": 0.25},
    "late_sound.flv": {"audio_late_secs": 0.25, "rate_hz": 44100},
    "slow_clock.mkv": {"secs": 8.0, "audio_clock": 1.02, "audio": "pcm_s16le"},
    "fast_clock.mkv": {"secs": 8.0, "audio_clock": 0.98, "audio": "flac"},
    "two_sounds.mkv": {
        "audio": "flac",
        "waveform": np.zeros((2, 76800), np.float32),
        "more_audio": [odd_media.clicks(SECS, 48000, num_channels=2)],
        "default_audio": 1,
    },
    "wrong_suffix.txt": {"file_format": "mp4"},
    "no_suffix": {"file_format": "matroska", "audio": "flac"},
    "-leading dash.mp4": {},
    'it\'s "quoted" $(touch x); `y`.mp4': {},
    "line\nbreak.mp4": {},
    "%03d:http.mp4": {},
    "grüße.mp4": {},
    "up/../up/there.mp4": {},
}


class Broken(NamedTuple):
    """A file that is refused, by what it is written with and then changed."""

    reason: str
    detail: str = ""
    written: dict[str, Any] = {}
    change: Any = lambda content: content


def _cut(share):
    return lambda content: content[: int(share * len(content))]


def _scramble(first, last):
    def change(content):
        noise = np.random.default_rng(0).bytes(last - first)
        return content[:first] + noise + content[last:]

    return change


def _replace(new):
    return lambda content: new


def _flip_in_the_middle(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


INDEX_FIRST = {"options": {"movflags": "faststart"}}
DC = np.full((2, 76800), 0.25, np.float32)
# 1 kHz at 48 kHz, the other way round in the second channel.
OUT_OF_PHASE = 0.5 * np.sin(2 * np.pi * np.arange(76800) / 48) * np.array([[1], [-1]])
OUT_OF_PHASE = OUT_OF_PHASE.astype(np.float32)
BROKEN: dict[str, Broken] = {
    "truncated.mp4": Broken("decode_error", written=INDEX_FIRST, change=_cut(0.6)),
    "truncated.mkv": Broken(
        "decode_error", "truncated", {"secs": 4.0, "audio": "flac"}, _cut(0.4)
    ),
    "no_moov.mp4": Broken("cannot_open", change=_cut(0.8)),
    "empty.mp4": Broken("cannot_open", change=_replace(b"")),
    "zeros.mp4": Broken("cannot_open", change=_replace(bytes(20_000))),
    "noise.mp4": Broken("cannot_open", change=_scramble(0, 20_000)),
    "noise_in_header.mp4": Broken(
        "cannot_open", written=INDEX_FIRST, change=_scramble(40, 1200)
    ),
    "noise_in_data.mp4": Broken(
        "decode_error", " after ", INDEX_FIRST, _scramble(6000, 9000)
    ),
    "text.mp4": Broken("cannot_open", change=_replace(b"It is not a film.\n" * 99)),
    "page.mp4": Broken("cannot_open", change=_replace(b"<html>404</html>" * 99)),
    "playlist.mp4": Broken(
        "cannot_open",
        change=_replace(
            b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nh264_ac3.ts\n"
            b"#EXT-X-ENDLIST\n"
        ),
    ),
    "parts.mp4": Broken(
        "cannot_open", change=_replace(b"ffconcat version 1.0\nfile h264_aac.mp4\n")
    ),
    "no_sound.mp4": Broken("no_audio", written={"audio": None}),
    "no_picture.mkv": Broken("no_video", written={"video": None, "audio": "flac"}),
    "sound_alone.mp3": Broken(
        "no_video", written={"video": None, "audio": "libmp3lame"}
    ),
    "silent.mp4": Broken("silent_audio", written={"waveform": np.zeros_like(DC)}),
    "constant.mkv": Broken("silent_audio", written={"waveform": DC, "audio": "flac"}),
    "out_of_phase.mkv": Broken(
        "silent_audio",
        "channels cancel: peak-to-peak amplitude 1.0e+00 in one, ",
        {"waveform": OUT_OF_PHASE, "audio": "flac"},
    ),
    "not_numbers.mkv": Broken(
        "decode_error",
        "not finite",
        {"waveform": np.full_like(DC, np.nan), "audio": "pcm_f32le"},
    ),
    "checksum.mkv": Broken(
        "decode_error",
        "sound",
        {"video": "mpeg4", "size": (16, 16), "audio": "flac", "rate_hz": 96000},
        _flip_in_the_middle,
    ),
    "short.mp4": Broken("too_short", written={"secs": 0.08}),
    "one_frame.mkv": Broken(
        "too_short", written={"frame_times_secs": [0.0], "audio": "flac"}
    ),
    "long.mkv": Broken(
        "too_long", written={"secs": 22.0, "fps": 5, "video": "mpeg4", "audio": "mp2"}
    ),
    "much.mkv": Broken(
        "too_large",
        "MiB",
        {"audio": "pcm_s32le", "rate_hz": 192000, "layout": "5.1", "fps": 5},
    ),
    "large_picture.mkv": Broken(
        "too_large", "1280x800", {"size": (1280, 800), "fps": 5, "audio": "mp2"}
    ),
    "many_frames.mkv": Broken(
        "too_large", "600 frames", {"fps": 500, "video": "mpeg4", "audio": "mp2"}
    ),
    "long_sound.mkv": Broken(
        "length_mismatch",
        "of picture",
        {"waveform": odd_media.clicks(5.0, 48000, num_channels=2), "audio": "flac"},
    ),
    "short_sound.mkv": Broken(
        "length_mismatch",
        "of sound",
        {
            "secs": 4.0,
            "waveform": odd_media.clicks(1.0, 48000, num_channels=2),
            "audio": "flac",
        },
    ),
    "sliver.mkv": Broken(
        "too_large", "aspect", {"pixel_aspect": Fraction(1, 60), "audio": "flac"}
    ),
}
UNWRITTEN = {
    "missing.mp4": ("cannot_open", "No such file"),
    "folder.mp4": ("cannot_open", "not a file"),
    "/dev/zero": ("cannot_open", "not a file"),
    "http://127.0.0.1:9/a.mp4": ("cannot_open", "unknown file system"),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Parsed examples by path, and rows of the quarantine report by path."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "up").mkdir()
    (folder / "folder.mp4").mkdir()
    for name, arguments in GOOD.items():
        write(folder / name, **arguments)
    for name, broken in BROKEN.items():
        path = folder / name
        write(path, **broken.written)
        path.write_bytes(broken.change(path.read_bytes()))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path"])
        writer.writerows([name] for name in (*GOOD, *BROKEN, *UNWRITTEN))
    before = sorted(os.listdir(folder))
    info = convert_manifest(
        str(folder / "manifest.csv"),
        str(folder / "records"),
        settings=SETTINGS,
        pool=PoolSettings(2, Limits(timeout_secs=60)),
    )
    assert sorted(os.listdir(folder)) == sorted([*before, "records"])
    assert info.num_examples + info.num_quarantined == info.num_rows
    examples = {}
    paths = dataset_info.shard_paths(str(folder / "records"), info)
    for serialized in tf.data.TFRecordDataset(paths):
        example = records.parse_example(serialized, num_filters=40, with_waveform=True)
        examples[example["data_path"].numpy().decode()] = example
    with open(folder / "records" / "quarantine.csv", newline="") as file:
        refused = {row["path"]: row for row in csv.DictReader(file)}
    return examples, refused


def _onsets(on: np.ndarray) -> np.ndarray:
    return np.flatnonzero(on[1:] & ~on[:-1]) + 1


def flashes_secs(example) -> np.ndarray:
    images = [
        np.asarray(Image.open(io.BytesIO(jpeg)), float)
        for jpeg in example["video_items"].numpy()
    ]
    levels = np.array(
        [np.mean(image[len(image) // 2, image.shape[1] // 2]) for image in images]
    )
    return _onsets(levels > 130) / FPS


def clicks_secs(example) -> np.ndarray:
    loudness = np.abs(example["waveform"].numpy())
    near = np.ones(320)
    on = np.convolve(loudness > 0.1 * loudness.max(), near, "same") > 0
    return (_onsets(on) + len(near) / 2) / RATE_HZ


def test_the_corpus_is_large():
    assert len(GOOD) + len(BROKEN) + len(UNWRITTEN) >= 70


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_is_converted_with_picture_and_sound_together(converted, name):
    examples, refused = converted
    assert name not in refused, refused[name]
    example = examples[name]
    secs = GOOD[name].get("secs", SECS)
    num_frames = len(example["video_items"])
    # Some containers round the end, or delay the whole by a frame.
    assert num_frames == pytest.approx(secs * FPS, abs=2.1)
    assert len(example["waveform"]) == round(num_frames / FPS * RATE_HZ)
    expected = [at for at in FLASHES_SECS if at < secs]
    np.testing.assert_allclose(flashes_secs(example), expected, atol=0.041)
    np.testing.assert_allclose(
        clicks_secs(example), flashes_secs(example), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_reason(converted, name):
    examples, refused = converted
    assert name not in examples
    assert refused[name]["reason"] == BROKEN[name].reason, refused[name]
    assert BROKEN[name].detail in refused[name]["detail"]


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_is_no_file_is_refused_with_its_reason(converted, name):
    reason, detail = UNWRITTEN[name]
    assert converted[1][name]["reason"] == reason
    assert detail in converted[1][name]["detail"]


def test_every_reason_is_of_the_list(converted):
    assert {row["reason"] for row in converted[1].values()} <= set(REASONS)


def test_pixels_that_are_wide_make_a_wide_picture(converted):
    example = converted[0]["wide_pixels.mp4"]
    assert (int(example["height"]), int(example["width"])) == (48, 144)


def test_an_odd_size_keeps_its_shape(converted):
    example = converted[0]["odd_size.mkv"]
    assert (int(example["height"]), int(example["width"])) == (48, 72)


def test_a_turned_picture_stands_upright(converted):
    example = converted[0]["turned.mp4"]
    assert (int(example["height"]), int(example["width"])) == (72, 48)
    image = np.asarray(Image.open(io.BytesIO(example["video_items"][0].numpy())))
    # A quarter turn counterclockwise: the stripe on top is on the left, what was on
    # the left is at the bottom.
    assert image[5, 3, 2] > 120 and image[-5, -3, 0] > 90
    assert image[5, -3].max() < 60


@pytest.mark.parametrize(
    "name", ["h264_aac.mp4", "ffv1_rgb.mkv", "mjpeg_pcm.mov", "h265_10bit.mkv"]
)
def test_colours_are_those_that_were_encoded(converted, name):
    example = converted[0][name]
    image = np.asarray(Image.open(io.BytesIO(example["video_items"][0].numpy())))
    np.testing.assert_allclose(image[20, 5], (120, 0, 0), atol=4)
    np.testing.assert_allclose(image[20, -5], (30, 30, 30), atol=4)


@pytest.mark.skipif(sys.platform != "linux", reason="schedulers of Linux")
def test_making_films_leaves_the_tests_their_priority(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("libsvtav1", rate=25)
        stream.width = stream.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
