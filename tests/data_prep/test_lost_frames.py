import av
import pattern_film
import pytest

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding import mpeg2
from data_prep.decoding.h264 import LossDetector
from data_prep.decoding.media import read_segments
from data_prep.decoding.recording import Segment

pytestmark = pytest.mark.once
SETTINGS = ConversionSettings(
    fps=25.0, short_side=120, min_secs=0.2, max_secs=60.0, modalities=("video",)
)
H264 = {"preset": "ultrafast", "x264-params": "scenecut=0"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Paths by codec: 3 s with a key frame each second, in Matroska."""
    root = tmp_path_factory.mktemp("lost_frames")
    return {
        "h264": pattern_film.write(
            root / "h264.mkv", audio=None, secs=3.0, video_options=H264
        ),
        "h264 with B-frames": pattern_film.write(
            root / "b.mkv",
            audio=None,
            secs=3.0,
            num_b_frames=1,
            video_options={"x264-params": "scenecut=0:b-adapt=0:b-pyramid=0"},
        ),
        "mpeg2video": pattern_film.write(
            root / "mpeg2.mkv",
            video="mpeg2video",
            audio=None,
            secs=3.0,
            num_b_frames=2,
            gop=24,
        ),
        "hevc": pattern_film.write(
            root / "hevc.mkv",
            video="libx265",
            audio=None,
            secs=3.0,
            video_options={"x265-params": "log-level=none:scenecut=0"},
        ),
    }


def without(source, path, lost):
    """The file's packets but for those whose numbers are lost, in another file."""

    def edit(packets):
        return [packet for number, packet in enumerate(packets) if number not in lost]

    return pattern_film.remux(source, path, kinds=("video",), edit=edit)


def read(path, *segments):
    return list(read_segments(path, segments or [Segment()], SETTINGS))


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv", "nut"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_picture_whose_reference_is_missing_is_damage_that_is_named(
    codec, suffix, film, tmp_path
):
    if codec == "hevc" and suffix == "flv":
        pytest.skip("does not hold HEVC")
    whole = without(film[codec], tmp_path / f"whole.{suffix}", ())
    assert len(read(whole)[0].video_items) >= 74  # FLV: without the last one's time
    lossy = without(film[codec], tmp_path / f"lossy.{suffix}", range(30, 34))
    (refusal,) = read(lossy)
    assert refusal.reason == "decode_error"
    what = "frames are missing after" if codec == "h264" else "damaged frame"
    assert what in refusal.detail
    place = int(refusal.detail.split("picture after ")[1].split()[0])
    assert 25 <= place <= 30


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mpg", "avi"])
def test_an_anchor_of_mpeg_2_that_is_missing_is_damage(suffix, film, tmp_path):
    whole = without(film["mpeg2video"], tmp_path / f"whole.{suffix}", ())
    assert len(read(whole)[0].video_items) >= 74
    # In decoding order I P B B P B B ...: a P, without its B pictures and with them.
    for lost in ([31], [31, 32, 33]):
        lossy = without(film["mpeg2video"], tmp_path / f"lossy.{suffix}", lost)
        (refusal,) = read(lossy)
        assert refusal.reason == "decode_error"
        assert "frames are missing after" in refusal.detail


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_segments_before_and_after_the_loss_are_right(codec, film, tmp_path):
    lossy = without(film[codec], tmp_path / "lossy.mkv", [30])
    segments = [Segment(0.0, 0.8), Segment(0.8, 1.8), Segment(2.0, 2.8)]
    before, within, after = read(lossy, *segments)
    assert within.reason == "decode_error"
    for media, first in ((before, 0), (after, 50)):
        seen = pattern_film.see(media.video_items, None, start_secs=0.0)
        assert seen.numbers.tolist() == list(range(first, first + 20))


def test_a_segment_after_a_loss_that_reading_on_would_meet_is_right(film, tmp_path):
    lossy = without(film["h264"], tmp_path / "lossy.mkv", [10])
    (media,) = read(lossy, Segment(2.0, 2.8))
    seen = pattern_film.see(media.video_items, None, start_secs=0.0)
    assert seen.numbers.tolist() == list(range(50, 70))


def test_a_picture_that_is_no_reference_may_be_missing(film, tmp_path):
    path = film["h264 with B-frames"]
    with av.open(path) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        # nal_ref_idc, in the first byte of the slice behind its length.
        (lost,) = [
            number
            for number, packet in enumerate(packets)
            if bytes(packet)[4] >> 5 & 3 == 0 and 30 < number < 33
        ]
    lossy = without(path, tmp_path / "lossy.mkv", [lost])
    (media,) = read(lossy)
    numbers = pattern_film.see(media.video_items, None, start_secs=0.0).numbers
    assert len(numbers) == 75
    # The frame before is on show in place of the missing one.
    assert sum(numbers != range(75)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "high444", "x264-params": "bframes=0:cqm=jvt"},
        {"profile": "high", "x264-params": "bframes=0:cqm=jvt:interlaced=1"},
        {"profile": "baseline", "x264-params": "slices=4"},
        {"x264-params": "bframes=0:intra-refresh=1"},
    ],
)
def test_frame_numbers_are_read_whatever_the_parameters_say(options, tmp_path):
    pix_fmt = "yuv444p" if options.get("profile") == "high444" else "yuv420p"
    path = pattern_film.write(
        tmp_path / "film.mkv",
        audio=None,
        secs=2.0,
        pix_fmt=pix_fmt,
        video_options={"preset": "veryfast", **options},
    )
    with av.open(path) as file:
        extradata = file.streams.video[0].codec_context.extradata
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    detector = LossDetector(extradata)
    assert not any(detector.misses_reference(packet) for packet in packets)
    detector = LossDetector(extradata)
    missing = [detector.misses_reference(packet) for packet in packets[:30]]
    missing += [detector.misses_reference(packet) for packet in packets[31:]]
    assert missing.index(True) == 30 and sum(missing) == 1


def exponential(value):
    """Bits of an Exp-Golomb number."""
    digits = bin(value + 1)[2:]
    return "0" * (len(digits) - 1) + digits


def unit(head, bits):
    bits += "1"  # the stop bit
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\0\0\1" + bytes(head) + body.replace(b"\0\0\0", b"\0\0\3\0")


def numbered(number, *, gaps_allowed=False, is_reference=True, kind=1, field=None):
    """A packet: parameters whose frame numbers have 4 bits, and a slice."""
    sequence = unit(
        [0x67, 66, 0, 30],
        exponential(0)
        + exponential(0)
        + exponential(2)
        + exponential(1)
        # gaps_in_frame_num_value_allowed_flag, and the size.
        + str(int(gaps_allowed))
        + exponential(9)
        + exponential(7)
        + ("1" if field is None else "0"),  # frame_mbs_only_flag
    )
    picture = unit([0x68], exponential(0) + exponential(0))
    head = (is_reference << 5) | kind
    slice_bits = exponential(0) + exponential(5) + exponential(0) + f"{number:04b}"
    if field is not None:
        slice_bits += f"1{field}"
    return sequence + picture + unit([head], slice_bits)


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        ([0, 1, 2, 3], []),
        ([0, 1, 3], [2]),
        ([13, 14, 15, 0, 1], []),
        ([15, 1], [1]),
        ([0, 1, 1, 2], [2]),
        ([5, 6, 4], [2]),
    ],
)
def test_numbers_of_reference_frames_rise_by_one_and_begin_anew_at_sixteen(
    numbers, missing
):
    detector = LossDetector(None)
    assert missing == [
        place
        for place, number in enumerate(numbers)
        if detector.misses_reference(numbered(number))
    ]


def test_a_stream_that_may_leave_numbers_out_has_lost_nothing():
    detector = LossDetector(None)
    packets = [numbered(number, gaps_allowed=True) for number in (0, 1, 5)]
    assert not any(detector.misses_reference(packet) for packet in packets)


def test_frames_that_are_no_references_share_the_number_of_the_one_after_them():
    detector = LossDetector(None)
    packets = [
        numbered(0),
        numbered(1, is_reference=False),
        numbered(1, is_reference=False),
        numbered(1),
    ]
    assert not any(detector.misses_reference(packet) for packet in packets)


def test_two_fields_in_packets_of_their_own_share_a_number():
    fields = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    detector = LossDetector(None)
    packets = [numbered(number, field=field) for number, field in fields]
    missing = [detector.misses_reference(packet) for packet in packets]
    assert missing == [False, False, False, False, True]


def test_numbers_begin_anew_at_a_key_frame():
    detector = LossDetector(None)
    assert not detector.misses_reference(numbered(7))
    assert not detector.saw_key
    key = numbered(0, kind=5)
    assert not detector.misses_reference(key)
    assert detector.saw_key


@pytest.mark.parametrize("packet", [b"", b"\0\0\1", b"\0\0\1\x01", b"\x01" * 50])
def test_what_is_no_slice_counts_as_complete(packet):
    assert LossDetector(None).misses_reference(packet) is False
    assert LossDetector(b"\x01\x64").misses_reference(packet) is False
    assert LossDetector(b"\x01" + b"\xff" * 40).misses_reference(packet) is False


def pictures(*described):
    """A packet of MPEG-2: "G" for a group's head, or kind and temporal reference."""
    packet = b""
    for each in described:
        if each == "G":
            packet += b"\0\0\1\xb8" + bytes(4)
        else:
            number = int(each[1:])
            head = number << 6 | "IPB".index(each[0]) + 1 << 3
            packet += b"\0\0\1\0" + head.to_bytes(2, "big") + bytes(4)
    return packet


@pytest.mark.parametrize(
    ("described", "missing"),
    [
        ("G I0 P3 B1 B2 P6 B4 B5 G I2 B0 B1 P5 B3 B4", []),
        # The first B pictures of a group, and the last, may be cut off.
        ("G I2 P5 B3 B4 P8 G I2 B0 B1 P5 B3 B4", []),
        # Two fields each.
        ("G I0 P0 P3 P3 B1 B1 B2 B2 P6 P6 B4 B4", []),
        # One group's head for all, and a numbering that begins anew without one.
        ("G I1022 P1 B1023 B0 P4 B2 B3", []),
        ("G I0 P3 B1 B2 I0 P3 B1 B2", []),
        ("I7 P3 G I0 P1 P2", []),
        # P3 is missing: alone, and with its B pictures, which the next anchor shows.
        ("G I0 B1 B2 P6 B4 B5", [2, 3]),
        ("G I0 P6 B4 B5 P9 B7 B8", [5]),
        ("G I0 P3 B1 P6 B4 B5", [4]),
    ],
)
def test_temporal_references_tell_which_pictures_are_missing(described, missing):
    detector = mpeg2.LossDetector()
    assert missing == [
        place
        for place, each in enumerate(described.split())
        if detector.misses_reference(pictures(each))
    ]
    assert detector.saw_key
    # The same in one packet.
    together = mpeg2.LossDetector().misses_reference(pictures(*described.split()))
    assert together is bool(missing)
