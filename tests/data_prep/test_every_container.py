"""Every container with every codec that FFmpeg writes: what is stored is the film."""

import contextlib
import csv
import os
import shutil
from typing import NamedTuple

import av
import numpy as np
import pattern_film
import pytest
import tensorflow as tf

from data_prep.conversion import convert_manifest
from data_prep.conversion_settings import ConversionSettings
from data_prep.segments import Segmentation
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import dataset_info, example_tables, records

pytestmark = pytest.mark.once

SECS, FPS, RATE_HZ = 3.0, 12.5, 16000
JUMP = (1.6, 2.4)
SEGMENT_SECS = 1.5
# Containers may delay the whole by some frames.
SLACK_SECS = 0.125

# Container -> codecs of the picture, codecs of the sound. Each of the longer list is
# paired with the next of the other.
FILMS = {
    "mp4": (
        "libx264 libx265 libvpx-vp9 mpeg4 mpeg2video mpeg1video mjpeg ffv1 png",
        "aac ac3 alac flac libmp3lame mp2 libopus vorbis",
    ),
    "mov": (
        "libx264 libx265 mpeg4 mpeg2video mjpeg h263p prores png qtrle cinepak svq1",
        "aac eac3 alac libmp3lame pcm_s16le pcm_s16be pcm_f32le pcm_mulaw",
    ),
    "matroska": (
        "libx264 libx265 libvpx libvpx-vp9 libsvtav1 mpeg4 mpeg2video mpeg1video mjpeg "
        "ffv1 msmpeg4 prores snow",
        "aac ac3 eac3 alac flac libmp3lame mp2 libopus vorbis wavpack tta pcm_s16le",
    ),
    "webm": ("libvpx libvpx-vp9 libsvtav1", "libopus vorbis"),
    "avi": (
        "mpeg4 mjpeg ffv1 msmpeg4 msmpeg4v2 wmv1 wmv2 huffyuv cinepak h263p "
        "mpeg2video flv zlib",
        "libmp3lame mp2 ac3 pcm_s16le pcm_u8 pcm_mulaw aac",
    ),
    "mpegts": (
        "libx264 libx265 mpeg2video mpeg1video",
        "aac ac3 eac3 libmp3lame mp2 libopus",
    ),
    "mpeg": ("mpeg2video mpeg1video", "mp2 ac3 eac3 pcm_s16be"),
    "vob": ("mpeg2video", "ac3 mp2"),
    "flv": ("libx264 libx265 libvpx-vp9 flv flashsv", "aac libmp3lame"),
    "asf": ("wmv1 wmv2 msmpeg4 mpeg4 libx264", "libmp3lame ac3 pcm_s16le aac"),
    "nut": ("libx264 libvpx mpeg4 ffv1 snow", "flac libopus vorbis pcm_s16le"),
    "wtv": ("mpeg2video mpeg4", "mp2 ac3"),
    "3gp": ("libx264 mpeg4 h263p", "aac"),
    "3g2": ("libx264 mpeg4", "aac"),
    "ipod": ("libx264 mpeg4", "aac alac"),
    "ismv": ("libx264 libx265 mpeg4", "aac libmp3lame"),
    "f4v": ("libx264", "aac libmp3lame"),
}
PICTURES = {
    "mxf": "mpeg2video libx264",
    "h264": "libx264",
    "hevc": "libx265",
    "mpeg2video": "mpeg2video",
    "ivf": "libvpx libvpx-vp9",
    "ogg": "libvpx",
    "mjpeg": "mjpeg",
}
SOUNDS = {
    "wav": "pcm_s16le pcm_u8 pcm_s24le pcm_f32le pcm_alaw libmp3lame",
    "w64": "pcm_s16le",
    "aiff": "pcm_s16be",
    "au": "pcm_s16be pcm_mulaw",
    "voc": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "mp2": "mp2",
    "adts": "aac",
    "latm": "aac",
    "ac3": "ac3",
    "ogg": "flac libopus vorbis",
    "wv": "wavpack",
}
_OPTIONS = {
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "1000000"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    "libsvtav1": {"preset": "8", "crf": "10", "svtav1-params": "keyint=25:lp=1"},
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=25"},
}
_WITH_B_FRAMES = ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
_PIX_FMTS = {
    "mjpeg": "yuvj420p",
    "prores": "yuv422p10le",
    "png": "rgb24",
    "qtrle": "rgb24",
    "cinepak": "rgb24",
    "svq1": "yuv410p",
    "huffyuv": "yuv422p",
    "flashsv": "bgr24",
    "zlib": "bgr24",
}
_DIRECT = "libsvtav1"  # PyAV copies no stream that another library decodes
# Packets without times: a length that is not known leaves a row whole.
_UNTIMED = frozenset({"h264", "hevc"})
_COARSE = frozenset({"svq1", "cinepak", "snow"})  # of colour


class Cell(NamedTuple):
    container: str
    video: str | None
    audio: str | None

    @property
    def name(self) -> str:
        """Of the file, which does not tell its format."""
        return "-".join(part or "none" for part in self)

    @property
    def modalities(self) -> list[tuple[str, ...]]:
        if self.video and self.audio:
            return [("video", "audio"), ("video",), ("audio",)]
        return [("video",) if self.video else ("audio",)]


def _cells() -> list[Cell]:
    cells = []
    for container, codecs in FILMS.items():
        videos, audios = (names.split() for names in codecs)
        for number in range(max(len(videos), len(audios))):
            video, audio = videos[number % len(videos)], audios[number % len(audios)]
            cells.append(Cell(container, video, audio))
    for container, videos in PICTURES.items():
        cells += [Cell(container, video, None) for video in videos.split()]
    for container, audios in SOUNDS.items():
        cells += [Cell(container, None, audio) for audio in audios.split()]
    return cells


CELLS = _cells()


def _write_source(folder, codec: str, kind: str) -> str:
    """The film in one codec, in a container that leaves its packets as they are."""
    suffix = "mov" if codec in _WITH_B_FRAMES or codec in ("mjpeg", "qtrle") else "nut"
    if codec in ("alac", "tta", "prores"):
        suffix = "mkv"
    path = folder / f"{kind}_{codec}.{suffix}"
    if kind == "video":
        return pattern_film.write(
            path,
            video=codec,
            audio=None,
            secs=SECS,
            num_b_frames=2 * (codec in _WITH_B_FRAMES),
            pix_fmt=_PIX_FMTS.get(codec, "yuv420p"),
            video_options=_OPTIONS.get(codec),
        )
    return pattern_film.write(path, video=None, audio=codec, secs=SECS)


def _mux(path, container: str, sources) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(av.open(source)) for source in sources]
        out = stack.enter_context(av.open(str(path), "w", format=container))
        packets = []
        for file in files:
            stream = out.add_stream_from_template(file.streams[0])
            for packet in file.demux():
                if packet.size:
                    at = packet.pts if packet.dts is None else packet.dts
                    packets.append((float(at * packet.time_base), packet))
                    packet.stream = stream
        for _, packet in sorted(packets, key=lambda timed: timed[0]):
            out.mux(packet)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Parsed examples by modalities, file and start; and the refusals of the same."""
    folder = tmp_path_factory.mktemp("containers")
    sources = {
        (kind, codec): _write_source(folder, codec, kind)
        for kind in ("video", "audio")
        for codec in sorted({getattr(cell, kind) for cell in CELLS} - {None, _DIRECT})
    }
    for cell in CELLS:
        wanted = [("video", cell.video), ("audio", cell.audio)]
        files = [sources[key] for key in wanted if key in sources]
        if cell.video == _DIRECT:
            pattern_film.write(
                folder / cell.name,
                video=cell.video,
                audio=cell.audio,
                secs=SECS,
                video_options=_OPTIONS[cell.video],
                file_format=cell.container,
            )
        else:
            _mux(folder / cell.name, cell.container, files)
    examples, refusals = {}, {}
    for modalities in [("video", "audio"), ("video",), ("audio",)]:
        names = [cell.name for cell in CELLS if modalities in cell.modalities]
        rows = [(name, *bounds) for name in names for bounds in [("", ""), JUMP]]
        for segment_secs in (None, SEGMENT_SECS):
            out = str(folder / "records")
            manifest = str(folder / "manifest.csv")
            lines = rows if segment_secs is None else [(name, "", "") for name in names]
            example_tables.write_csv(
                manifest, ("path", "start_secs", "end_secs"), lines
            )
            info = convert_manifest(
                manifest,
                out,
                settings=ConversionSettings(
                    fps=FPS,
                    short_side=60,
                    min_secs=0.2,
                    modalities=modalities,
                    store_waveform="audio" in modalities,
                ),
                segmentation=Segmentation(segment_secs),
                pool=PoolSettings(2, Limits(timeout_secs=60)),
            )
            kind = modalities, segment_secs
            paths = dataset_info.shard_paths(out, info)
            for serialized in tf.data.TFRecordDataset(paths):
                example = records.parse_example(
                    serialized,
                    num_filters=40,
                    modalities=modalities,
                    with_waveform="audio" in modalities,
                )
                name = example["data_path"].numpy().decode()
                start_secs = int(example["start_us"].numpy()) / 1e6
                examples.setdefault((name, kind), {})[start_secs] = example
            with open(os.path.join(out, "quarantine.csv"), newline="") as file:
                for row in csv.DictReader(file):
                    refusals.setdefault((row["path"], kind), []).append(row)
            shutil.rmtree(out)
    return examples, refusals


def _check(example, modalities, start_secs, end_secs, cell) -> None:
    has_video, has_audio = "video" in modalities, "audio" in modalities
    seen = pattern_film.see(
        example["video_items"].numpy() if has_video else [],
        example["waveform"].numpy() if has_audio else None,
        start_secs=start_secs,
        fps=FPS,
        rate_hz=RATE_HZ,
    )
    if has_video:
        num_frames = (end_secs - start_secs) * FPS
        assert len(seen.numbers) == pytest.approx(num_frames, abs=2.1)
        assert np.abs(seen.errors_secs).max() < SLACK_SECS
        assert seen.colour_error < (60 if cell.video in _COARSE else 25)
    if has_audio:
        ticks_secs = start_secs + seen.ticks_secs
        # What begins just before the stretch may be heard at its start.
        ticks_secs = ticks_secs[seen.ticks_secs > 0.06]
        expected = [at for at in range(4) if start_secs + 0.12 < at < end_secs - 0.12]
        np.testing.assert_allclose(
            ticks_secs[ticks_secs < end_secs - 0.12], expected, atol=SLACK_SECS
        )


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_what_is_stored_is_the_film_at_its_times(stored, cell):
    examples, refusals = stored
    for modalities in cell.modalities:
        whole = cell.name, (modalities, None)
        cut = cell.name, (modalities, SEGMENT_SECS)
        assert not refusals.get(whole) and not refusals.get(cut), refusals.get(
            whole, []
        ) + refusals.get(cut, [])
        assert set(examples[whole]) == {0.0, JUMP[0]}
        _check(examples[whole][0.0], modalities, 0.0, SECS, cell)
        _check(examples[whole][JUMP[0]], modalities, *JUMP, cell)
        if cell.container in _UNTIMED:
            assert set(examples[cut]) == {0.0}
            continue
        assert {0.0, SEGMENT_SECS} <= set(examples[cut])
        for start_secs in (0.0, SEGMENT_SECS):
            _check(
                examples[cut][start_secs],
                modalities,
                start_secs,
                start_secs + SEGMENT_SECS,
                cell,
            )


def test_there_are_many_cells():
    num_stretches = sum(4 * len(cell.modalities) for cell in CELLS)
    assert len(CELLS) >= 120 and num_stretches >= 1000
