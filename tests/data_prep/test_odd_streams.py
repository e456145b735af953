"""Clocks that begin anew, jumps, orientations, late starts, covers, few frames."""

import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pattern_film
import pytest

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import packets
from data_prep.decoding.media import read_segments
from data_prep.decoding.recording import Segment
from data_prep.manifest import read_manifest
from data_prep.reasons import MediaError
from data_prep.segments import Segmentation, cut_rows
from data_prep.worker import Limits
from data_prep.worker_processes import PoolSettings

pytestmark = pytest.mark.once

SETTINGS = ConversionSettings(fps=25.0, short_side=120, min_secs=0.2, max_secs=60.0)
BOTH, VIDEO, AUDIO = ("video", "audio"), ("video",), ("audio",)
# Parts of 4 s of the film; the second begins here.
SECOND_SECS = 8.4


def read(path, *segments, modalities=BOTH, **changed):
    settings = SETTINGS._replace(modalities=modalities, **changed)
    segments = [Segment(*segment) for segment in segments or [(0.0, None)]]
    return list(read_segments(str(path), segments, settings))


def see(path, *segments, **changed):
    """What each segment shows; raises a refusal."""
    seen = []
    segments = segments or [(0.0, None)]
    for segment, media in zip(segments, read(path, *segments, **changed), strict=True):
        if isinstance(media, MediaError):
            raise media
        seen.append(
            pattern_film.see(media.video_items, media.waveform, start_secs=segment[0])
        )
    return seen


def moved(secs):
    def edit(encoded):
        return [
            packet._replace(
                secs=packet.secs + secs,
                decoding_secs=packet.decoding_secs + secs
                if packet.decoding_secs is not None
                else None,
            )
            for packet in encoded
        ]

    return edit


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A function that writes a film once."""
    folder = tmp_path_factory.mktemp("films")

    def film(name, **arguments):
        path = folder / name
        return str(path) if path.exists() else pattern_film.write(path, **arguments)

    return film


def joined(tmp_path, suffix, **arguments):
    contents = []
    for first_secs in (0.0, SECOND_SECS):
        part = tmp_path / f"part.{suffix}"
        pattern_film.write(part, secs=2.0, first_secs=first_secs, **arguments)
        contents.append(part.read_bytes())
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(contents))
    return path


@pytest.mark.parametrize(
    ("suffix", "codecs"),
    [
        ("ts", {"audio": "mp2"}),
        ("mpg", {"video": "mpeg2video", "audio": "mp2", "num_b_frames": 2}),
        ("mkv", {"num_b_frames": 2}),
    ],
)
def test_parts_with_clocks_of_their_own_follow_each_other(tmp_path, suffix, codecs):
    path = joined(tmp_path, suffix, **codecs)
    (seen,) = see(path)
    is_second = seen.numbers >= SECOND_SECS * 25
    assert len(seen.numbers) == pytest.approx(100, abs=3)
    assert (np.diff(seen.numbers) >= 0).all() and is_second.sum() >= 47
    assert np.abs(seen.errors_secs[~is_second]).max() < 0.085
    # The second part's ticks are where its picture has whole seconds.
    later = float(np.median(seen.errors_secs[is_second]))
    np.testing.assert_allclose(
        seen.ticks_secs, [0.0, 1.0, 9.0 - later, 10.0 - later], atol=0.085
    )


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_a_jump_into_a_part_with_another_clock_lands_in_that_part(tmp_path, suffix):
    path = joined(tmp_path, suffix)
    (whole,) = see(path)
    (seen,) = see(path, (2.6, 3.4))
    np.testing.assert_array_equal(seen.numbers, whole.numbers[65:85])
    np.testing.assert_allclose(
        2.6 + seen.ticks_secs[seen.ticks_secs > 0.06],
        whole.ticks_secs[(whole.ticks_secs > 2.66) & (whole.ticks_secs < 3.4)],
        atol=0.01,
    )


def test_both_parts_of_chained_ogg_are_heard(tmp_path):
    path = joined(tmp_path, "ogg", video=None, audio="libopus")
    (seen,) = see(path, modalities=AUDIO)
    np.testing.assert_allclose(seen.ticks_secs, [0, 1, 2.6, 3.6], atol=0.05)


def test_a_second_flv_file_that_would_not_be_read_is_named(tmp_path, films):
    first = films("alone.flv", secs=1.0)
    content = open(first, "rb").read()
    (tmp_path / "joined.flv").write_bytes(2 * content)
    (refusal,) = read(tmp_path / "joined.flv")
    assert refusal.reason == "decode_error"
    assert f"another FLV file begins at byte {len(content)}" in refusal.detail
    (media,) = read(first)
    assert media.duration_secs >= 0.96


@pytest.mark.parametrize(("suffix", "video"), [("asf", "mpeg4"), ("wtv", "mpeg2video")])
def test_flac_whose_time_stamps_are_not_to_be_had_is_refused(films, suffix, video):
    path = films(f"flac.{suffix}", video=video, audio="flac", secs=2.0)
    for segment in ((0.0, None), (1.2, 1.8)):
        (refusal,) = read(path, segment)
        assert refusal.reason == "decode_error"
        assert "sound" in refusal.detail


def test_a_clock_of_the_picture_alone_that_goes_back_is_refused(tmp_path, films):
    def edit(encoded):
        return [
            packet._replace(
                secs=packet.secs - 1.5, decoding_secs=packet.decoding_secs - 1.5
            )
            if packet.kind == "video" and packet.secs >= 2
            else packet
            for packet in encoded
        ]

    source = films("plain.mkv", num_b_frames=0)
    path = tmp_path / "a.ts"
    # Two files after each other, as no writer lets a clock go back.
    pattern_film.remux(source, tmp_path / "1.ts", edit=lambda p: p[: len(p) // 2])
    pattern_film.remux(
        source,
        tmp_path / "2.ts",
        edit=lambda p: [
            packet
            if packet.kind == "audio"
            else packet._replace(
                secs=packet.secs - 1.5, decoding_secs=packet.decoding_secs - 1.5
            )
            for packet in p[len(p) // 2 :]
        ],
    )
    path.write_bytes(
        (tmp_path / "1.ts").read_bytes() + (tmp_path / "2.ts").read_bytes()
    )
    (refused,) = read(path)
    assert refused.reason == "decode_error"
    assert "clock of the picture goes back" in refused.detail


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("mpeg4.mpg", {"video": "mpeg4", "audio": "mp2", "gop": 100}),
        ("dvd.mpg", {"video": "mpeg2video", "audio": "mp2", "gop": 12}),
        ("dvd.vob", {"video": "mpeg2video", "audio": "ac3", "gop": 12}),
        ("long_gop.ts", {"audio": "aac", "gop": 100}),
    ],
)
def test_after_a_jump_nothing_counts_before_a_key_frame(films, name, codecs):
    path = films(name, num_b_frames=2, **codecs)
    for segment in [(1.6, 2.4), (3.2, 3.8)]:
        (seen,) = see(path, segment)
        assert np.abs(seen.errors_secs).max() < 0.085
        assert seen.colour_error < 25
    (seen,) = see(path, (1.6, 2.4))
    np.testing.assert_allclose(1.6 + seen.ticks_secs, [2.0], atol=0.085)


@pytest.mark.parametrize(
    ("suffix", "codecs"),
    [
        ("avi", {"video": "mpeg4", "audio": "libmp3lame"}),
        ("mp4", {"video": "mpeg4", "audio": "aac"}),
        ("mkv", {"video": "libvpx-vp9", "audio": "libopus"}),
        ("webm", {"video": "libvpx", "audio": "libopus"}),
    ],
)
def test_flags_of_key_frames_are_not_believed(tmp_path, films, suffix, codecs):
    source = films(f"flags_{codecs['video']}.mkv", gop=50, **codecs)
    path = tmp_path / f"a.{suffix}"
    pattern_film.remux(
        source, path, edit=lambda p: [packet._replace(is_key=True) for packet in p]
    )
    (seen,) = see(path, (2.6, 3.4))
    assert np.abs(seen.errors_secs).max() < 0.085
    assert seen.colour_error < 25


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_a_recording_that_begins_between_key_frames_begins_at_the_next(
    tmp_path, films, suffix
):
    # No key frame but those of every 25 frames.
    source = films("mpeg2.mkv", video="mpeg2video", audio="mp2", gop=25)
    path = tmp_path / f"a.{suffix}"
    pattern_film.remux(
        source, path, edit=lambda p: [packet for packet in p if packet.secs >= 0.5]
    )
    (seen,) = see(path)
    assert seen.numbers[0] == 25 and (np.diff(seen.numbers)[:70] == 1).all()
    np.testing.assert_allclose(seen.ticks_secs[:3], [0.0, 1.0, 2.0], atol=0.06)


# The first row of the matrix and the second: where x and y go.
ORIENTATIONS = {
    "as it is": (1, 0, 0, 1),
    "quarter turn": (0, 1, -1, 0),
    "half turn": (-1, 0, 0, -1),
    "three quarters": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "other diagonal": (0, -1, -1, 0),
}


def with_display_matrix(source: str, path, orientation: Sequence[int]) -> str:
    """Writes an MP4 file with another matrix for its first track, the picture's."""
    a, b, c, d = (value << 16 for value in orientation)
    content = open(source, "rb").read()
    at = content.index(b"tkhd") + 44
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + matrix + content[at + len(matrix) :])
    return str(path)


def check_orientation(path, orientation: Sequence[int]) -> None:
    """Compares the corners of a converted film's first frame with where they belong."""
    a, b, c, d = orientation
    (media,) = read(path, modalities=VIDEO)
    image = av.CodecContext.create("mjpeg", "r").decode(av.Packet(media.video_items[0]))
    pixels = image[0].to_ndarray(format="rgb24").astype(float)
    for corner, (y, x) in pattern_film._PLACES.items():
        # From the middle of the stored picture to that of the one on show.
        from_x, from_y = 4 / 3 * (x - 0.5), y - 0.5
        to_x, to_y = a * from_x + c * from_y, b * from_x + d * from_y
        height, width = pixels.shape[:2]
        shown = pixels[
            int(height / 2 + to_y * min(height, width)),
            int(width / 2 + to_x * min(height, width)),
        ]
        np.testing.assert_allclose(shown, pattern_film.COLOURS[corner], atol=12)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_picture_is_shown_as_the_display_matrix_says(tmp_path, films, name, suffix):
    source = films("one_second.mp4", secs=1.0)
    turned = with_display_matrix(source, tmp_path / "a.mp4", ORIENTATIONS[name])
    if suffix != "mp4":
        turned = pattern_film.remux(turned, tmp_path / f"b.{suffix}")
    check_orientation(turned, ORIENTATIONS[name])


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("rotate=90", "three quarters"),  # counterclockwise
        ("rotate=180", "half turn"),
        ("flip=horizontal", "mirrored"),
        ("flip=vertical", "upside down"),
    ],
)
def test_the_picture_is_shown_as_the_video_stream_itself_says(
    tmp_path, films, setting, name
):
    # H.264's display orientation message, in a container that says nothing.
    path = tmp_path / "a.mkv"
    with (
        av.open(films("one_second.mp4", secs=1.0)) as source,
        av.open(str(path), "w") as file,
    ):
        pictures = source.streams.video[0]
        stream = file.add_stream_from_template(pictures)
        marked = av.bitstream.BitStreamFilterContext(
            f"h264_metadata=display_orientation=insert:{setting}", pictures, stream
        )
        for packet in source.demux(pictures):
            for message in marked.filter(packet if packet.size else None):
                message.stream = stream
                file.mux(message)
    check_orientation(path, ORIENTATIONS[name])


@pytest.mark.parametrize("late_secs", [8.0, 400.0])
@pytest.mark.parametrize("kind", ["mkv", "mp4", "fragmented mp4", "ts", "flv"])
def test_a_film_that_starts_late_is_as_long_as_it_is(tmp_path, films, kind, late_secs):
    suffix = kind.split()[-1]
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = tmp_path / f"a.{suffix}"
    pattern_film.remux(
        films("b_frames.mp4", num_b_frames=2),
        path,
        edit=moved(late_secs),
        options=fragmented if " " in kind else None,
    )
    for modalities in (BOTH, VIDEO, AUDIO):
        (media,) = read(path, modalities=modalities)
        assert media.duration_secs == pytest.approx(4.0, abs=0.1)
    (seen,) = see(path, (2.0, 3.0))
    assert np.abs(seen.errors_secs).max() < 0.085
    assert cuts(path, 2.0) == [(0.0, 2.0), (2.0, 4.0)]
    assert cuts(path, 1.0, 2) == [(1.0, 2.0), (3.0, 4.0)]


def cuts(path, secs, max_segments=None):
    """Segments of a file, to a tenth of a second."""
    manifest = path.parent / "manifest.csv"
    manifest.write_text(f"path\n{path.name}\n")
    (rows,) = cut_rows(
        read_manifest(str(manifest)).rows,
        Segmentation(secs, max_segments),
        min_secs=0.2,
        max_file_mib=10.0,
        pool=PoolSettings(1, Limits(timeout_secs=60)),
    )
    return [(round(row.start_secs, 1), round(row.end_secs, 1)) for row in rows]


def copy_with(source, path, other, *, first=False):
    """Copies a film with the stream of another file, before or behind its own."""
    with av.open(source) as film, av.open(str(other)) as more:
        files = [more, film] if first else [film, more]
        with av.open(str(path), "w") as out:
            streams = [
                (file, stream, out.add_stream_from_template(stream))
                for file in files
                for stream in file.streams
            ]
            timed = []
            for file in files:
                for packet in file.demux():
                    if packet.size:
                        copy = next(c for f, s, c in streams if s is packet.stream)
                        secs = float(packet.dts * packet.time_base)
                        packet.stream = copy
                        timed.append((secs, packet))
            for _, packet in sorted(timed, key=lambda item: item[0]):
                out.mux(packet)
    return path


def test_subtitles_that_outlast_a_film_do_not_lengthen_it(tmp_path, films):
    subtitles = tmp_path / "a.srt"
    subtitles.write_text(
        "1\n00:00:00,500 --> 00:00:02,000\nhello\n\n"
        "2\n00:00:09,000 --> 00:00:12,000\nend\n"
    )
    path = copy_with(films("plain.mp4"), tmp_path / "a.mkv", subtitles)
    for modalities in (BOTH, VIDEO, AUDIO):
        (media,) = read(path, modalities=modalities)
        assert media.duration_secs == pytest.approx(4.0, abs=0.1)
        (past,) = read(path, (5.0, 6.0), modalities=modalities)
        assert past.reason == "too_short"
    assert cuts(path, 1.0, 2) == [(1.0, 2.0), (3.0, 4.0)]


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_stored_as_a_stream_is_not_the_film(tmp_path, films, first):
    cover = tmp_path / "cover.mkv"
    with av.open(str(cover), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8))
        out.mux(stream.encode(frame.reformat(format="yuvj420p")))
        out.mux(stream.encode(None))
    path = copy_with(films("plain.mp4"), tmp_path / "a.mkv", cover, first=first)
    (seen,) = see(path)
    assert np.abs(seen.errors_secs).max() < 0.085


def transport_packets(path):
    content = open(path, "rb").read()
    return [content[at : at + 188] for at in range(0, len(content), 188)]


def crc32_mpeg(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            carry = register & 0x80000000
            register = (register << 1 ^ (0x04C11DB7 if carry else 0)) & 0xFFFFFFFF
    return register


def test_picture_and_sound_come_from_one_program(tmp_path):
    # Radio first, then television.
    radio = pattern_film.write(
        tmp_path / "1.ts",
        video=None,
        audio="mp2",
        options={"mpegts_start_pid": "256", "mpegts_pmt_start_pid": "4096"},
    )
    television = pattern_film.write(
        tmp_path / "2.ts",
        audio="mp2",
        first_secs=8.4,
        options={
            "mpegts_start_pid": "512",
            "mpegts_pmt_start_pid": "4112",
            "mpegts_service_id": "2",
        },
    )
    table = bytes([0, 0xB0, 17, 0, 1, 0xC1, 0, 0])
    table += bytes([0, 1, 0xF0, 0, 0, 2, 0xF0, 16])  # PIDs 4096 and 4112
    table += crc32_mpeg(table).to_bytes(4, "big")
    programs = (b"\x47\x40\0\x10\0" + table).ljust(188, b"\xff")
    mixed = []
    streams = [transport_packets(radio), transport_packets(television)]
    for number in range(max(map(len, streams))):
        for stream in streams:
            if number < len(stream):
                packet = stream[number]
                pid = (packet[1] & 0x1F) << 8 | packet[2]
                if pid != 17:  # names of services
                    mixed.append(programs if pid == 0 else packet)
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(mixed))
    (seen,) = see(path)
    assert seen.numbers[0] == 210
    np.testing.assert_allclose(seen.ticks_secs, [0.6, 1.6, 2.6, 3.6], atol=0.06)


@pytest.mark.parametrize(
    ("suffix", "video", "audio"),
    [
        ("mp4", "libx264", "aac"),
        ("mkv", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
    ],
)
def test_the_last_frame_stays_on_show(tmp_path, films, suffix, video, audio):
    source = films(
        f"few_{video}.mkv",
        video=video,
        audio=audio,
        secs=3.0,
        times_secs=[0, 0.2, 0.4, 0.8, 1.0],
    )

    def edit(encoded):
        return [
            packet._replace(duration_secs=2.0)
            if packet.kind == "video" and packet.secs > 0.99
            else packet
            for packet in encoded
        ]

    for kinds in (BOTH, VIDEO):
        path = tmp_path / f"{len(kinds)}.{suffix}"
        pattern_film.remux(source, path, edit=edit, kinds=kinds)
        (seen,) = see(path, modalities=kinds)
        assert len(seen.numbers) == pytest.approx(75, abs=1)
        assert (seen.numbers[26:] == 25).all()
        (seen,) = see(path, (2.0, 3.0), modalities=kinds)
        assert (seen.numbers == 25).all()


def test_the_packets_say_where_each_stream_ends(films):
    survey = packets.survey(films("plain.mp4"))
    assert survey.ends_secs["video"] == pytest.approx(4.0, abs=0.01)
    assert survey.ends_secs["audio"] == pytest.approx(4.0, abs=0.05)
    assert not survey.joints and not survey.clock_error
    assert Fraction(survey.last_secs) >= Fraction(survey.ends_secs["video"])


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mpeg2video"])
def test_avi_with_b_frames_is_evenly_as_late_as_its_decoding_times(films, codec):
    # AVI has no other times: frames are shown up to two late, by players too.
    path = films(
        f"b_{codec}.avi", video=codec, audio="libmp3lame", secs=3.0, num_b_frames=2
    )
    for first_secs in (0.0, 1.6):
        (seen,) = see(path, (first_secs, first_secs + 1.2))
        late = seen.errors_secs[3:]
        assert -0.11 < late[0] < 0.001
        assert np.ptp(late) < 0.001
        assert (np.diff(seen.numbers)[3:] == 1).all()


@pytest.mark.parametrize(
    ("suffix", "codec", "file_format"),
    [
        ("mp3", "libmp3lame", None),
        ("aac", "aac", "adts"),
        ("ac3", "ac3", None),
        ("mp2", "mp2", None),
    ],
)
def test_sound_that_was_cut_inside_a_frame_begins_at_the_next(
    tmp_path, suffix, codec, file_format
):
    whole = pattern_film.write(
        tmp_path / f"whole.{suffix}", video=None, audio=codec, file_format=file_format
    )
    content = open(whole, "rb").read()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[len(content) // 10 + 37 :])
    (media,) = read(path, modalities=AUDIO)
    (later,) = read(path, (1.3, 2.3), modalities=AUDIO)
    ticks = pattern_film.see([], media.waveform, start_secs=0.0).ticks_secs
    assert np.allclose(ticks, ticks[0] + np.arange(3), atol=0.01)
    assert 0.55 < ticks[0] < 0.65
    (tick,) = pattern_film.see([], later.waveform, start_secs=0.0).ticks_secs
    assert tick == pytest.approx(ticks[1] - 1.3, abs=0.03)
