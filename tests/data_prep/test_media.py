import io

import av
import numpy as np
import odd_media
import pytest
from media_files import SAMPLE_RATE_HZ, grey_of_time, tone, write_media
from PIL import Image

from data_prep.conversion_settings import ConversionSettings
from data_prep.decoding.media import read_segments
from data_prep.decoding.recording import Segment
from data_prep.reasons import MediaError
from xdc_tf.data.log_mel import LogMelSettings

pytestmark = pytest.mark.once

SETTINGS = ConversionSettings(
    fps=10.0, short_side=48, jpeg_quality=95, min_secs=0.1, max_secs=10.0
)


def read(path, *, start_secs=0.0, end_secs=None, sample_rate_hz=None, **changed):
    """One segment; raises its refusal."""
    settings = SETTINGS._replace(**changed)
    if sample_rate_hz:
        log_mel = LogMelSettings(sample_rate_hz=sample_rate_hz)
        settings = settings._replace(log_mel=log_mel)
    segments = [Segment(start_secs, end_secs)]
    (media,) = read_segments(str(path), segments, settings)
    if isinstance(media, MediaError):
        raise media
    return media


def greys(media):
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in media.video_items]
    return [float(np.asarray(image).mean()) for image in images]


def onset_secs(media):
    return np.flatnonzero(np.abs(media.waveform) > 0.1)[0] / SAMPLE_RATE_HZ


def refusal(path, **changed):
    with pytest.raises(MediaError) as caught:
        read(path, **changed)
    return caught.value.reason


@pytest.fixture(scope="module")
def two_secs(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "two_secs.mp4"
    return write_media(path, secs=2.0, waveform=tone(2.0, start_secs=1.0))


def test_output_frames_are_those_on_show_at_their_times(two_secs):
    expected = [grey_of_time(i / 10) for i in range(20)]
    np.testing.assert_allclose(greys(read(two_secs)), expected, atol=3)


def test_a_segment_begins_and_ends_at_its_times(two_secs):
    expected = [grey_of_time(secs) for secs in (1.25, 1.35, 1.45, 1.55)]
    media = read(two_secs, start_secs=1.25, end_secs=1.65)
    np.testing.assert_allclose(greys(media), expected, atol=3)


def test_a_faster_rate_repeats_frames(tmp_path):
    path = write_media(tmp_path / "a.mp4", fps=10, waveform=tone(1.0))
    expected = np.repeat([grey_of_time(i / 10) for i in range(10)], 3)
    np.testing.assert_allclose(greys(read(path, fps=30.0)), expected, atol=3)


def test_a_variable_frame_rate_is_followed_by_timestamps(tmp_path):
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")
        for tenth, grey in [(0, 50), (1, 100), (7, 150), (8, 200), (9, 250)]:
            image = np.full((48, 64, 3), grey, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = tenth
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = (tone(1.0) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        container.mux(audio.encode(frame))
    expected = [50, 100, 100, 100, 100, 100, 100, 150, 200, 250]
    np.testing.assert_allclose(greys(read(path)), expected, atol=3)


@pytest.mark.parametrize(
    ("name", "video_codec", "audio_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mkv", "libx264", "pcm_s16le"),
        ("a.avi", "mpeg4", "pcm_s16le"),
        ("a.ts", "libx264", "aac"),
    ],
)
@pytest.mark.parametrize("start_secs", [0.0, 1.3])
def test_sound_and_picture_stay_together(
    tmp_path, name, video_codec, audio_codec, start_secs
):
    # Some containers delay both streams alike; the distance must stay.
    path = write_media(
        tmp_path / name,
        secs=2.5,
        grey=lambda secs: 200 if secs >= 1.5 else 50,
        waveform=tone(2.5, start_secs=1.5),
        video_codec=video_codec,
        audio_codec=audio_codec,
    )
    media = read(path, start_secs=start_secs, fps=100.0)
    turns_bright_secs = np.flatnonzero(np.array(greys(media)) > 125)[0] / 100
    assert onset_secs(media) == pytest.approx(turns_bright_secs, abs=0.011)
    assert onset_secs(media) == pytest.approx(1.5 - start_secs, abs=0.1)


def test_the_tone_begins_at_its_time(two_secs):
    assert onset_secs(read(two_secs)) == pytest.approx(1.0, abs=0.005)
    media = read(two_secs, start_secs=0.5)
    assert onset_secs(media) == pytest.approx(0.5, abs=0.005)


def test_the_waveform_lasts_as_long_as_the_frames(two_secs):
    media = read(two_secs, start_secs=0.5, end_secs=1.2)
    assert len(media.video_items) == 7
    assert media.waveform.shape == (11200,)
    assert media.waveform.dtype == np.float32


def test_channels_are_averaged(tmp_path):
    left = tone(1.0)
    path = write_media(
        tmp_path / "a.mkv",
        waveform=np.stack([left, left * 0.5]),
        audio_codec="pcm_f32le",
    )
    np.testing.assert_allclose(read(path).waveform, left * 0.75, atol=1e-4)


def test_another_sample_rate_keeps_the_frequency(two_secs):
    media = read(two_secs, start_secs=1.0, sample_rate_hz=8000)
    spectrum = np.abs(np.fft.rfft(media.waveform))
    assert np.argmax(spectrum) == 1000  # one second: bins of 1 Hz


def test_the_shorter_side_is_resized_and_the_shape_kept(tmp_path):
    path = write_media(tmp_path / "a.mp4", size=(96, 64), waveform=tone(1.0))
    media = read(path, short_side=40)
    assert (media.height, media.width) == (40, 60)
    assert Image.open(io.BytesIO(media.video_items[0])).size == (60, 40)


def test_a_film_turned_by_its_header_stands_upright(tmp_path):
    path = tmp_path / "a.mp4"
    write_media(path, size=(96, 64), waveform=tone(1.0))
    content = bytearray(path.read_bytes())
    # The matrix of the first track header, the video's: a clockwise quarter turn.
    matrix = content.index(b"tkhd") + 44
    one, zero, minus_one = b"\0\1\0\0", b"\0\0\0\0", b"\xff\xff\0\0"
    content[matrix : matrix + 20] = zero + one + zero + minus_one + zero
    path.write_bytes(content)
    media = read(path, short_side=32)
    assert (media.height, media.width) == (48, 32)


def test_the_segment_ends_where_the_sound_ends(tmp_path):
    path = write_media(tmp_path / "a.mp4", secs=2.0, waveform=tone(1.024))
    media = read(path)
    assert (len(media.video_items), len(media.waveform)) == (10, 16000)


def test_sound_that_ends_a_moment_early_is_padded(tmp_path):
    path = write_media(tmp_path / "a.mkv", waveform=tone(0.95), audio_codec="pcm_s16le")
    media = read(path)
    assert len(media.video_items) == 10
    assert not media.waveform[15200:].any()


def test_a_file_without_sound_is_refused(tmp_path):
    assert refusal(write_media(tmp_path / "a.mp4")) == "no_audio"


def read_video(path, **changed):
    return read(path, modalities=["video"], **changed)


def test_without_sound_wanted_none_is_needed_or_given(tmp_path, two_secs):
    silent = read_video(write_media(tmp_path / "a.mp4"))
    assert (len(silent.video_items), silent.waveform) == (10, None)
    assert read_video(two_secs).waveform is None


def test_without_sound_wanted_the_segment_ends_with_the_picture(tmp_path):
    path = write_media(tmp_path / "a.mp4", secs=2.0, waveform=tone(1.024))
    assert len(read_video(path).video_items) == 20


@pytest.mark.parametrize(
    ("name", "audio_codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le")]
)
def test_without_sound_wanted_a_longer_sound_does_not_look_like_a_missing_picture(
    tmp_path, name, audio_codec
):
    path = write_media(tmp_path / name, waveform=tone(4.0), audio_codec=audio_codec)
    assert len(read_video(path).video_items) == 10


def test_a_file_without_picture_is_refused(tmp_path):
    path = write_media(
        tmp_path / "a.wav", grey=None, waveform=tone(1.0), audio_codec="pcm_s16le"
    )
    assert refusal(path) == "no_video"
    assert refusal(path, modalities=["video"]) == "no_video"


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_sound_that_does_not_move_is_refused(tmp_path, level):
    path = write_media(
        tmp_path / "a.mkv",
        waveform=np.full(SAMPLE_RATE_HZ, level, np.float32),
        audio_codec="pcm_s16le",
    )
    assert refusal(path) == "silent_audio"


def test_text_with_a_video_name_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("not a video\n" * 50)
    assert refusal(path) == "cannot_open"


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.mp4") == "cannot_open"


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("index_at_end.mp4", {}, "cannot_open"),
        ("index_first.mp4", {"movflags": "faststart"}, "decode_error"),
        ("no_index.mkv", {}, "decode_error"),
    ],
)
@pytest.mark.parametrize("modalities", [["video"], ["video", "audio"]])
def test_a_truncated_file_is_refused(tmp_path, name, options, reason, modalities):
    path = tmp_path / name
    write_media(path, secs=4.0, waveform=tone(4.0), options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refusal(path, modalities=modalities) == reason


def test_a_segment_past_the_end_is_refused(two_secs):
    assert refusal(two_secs, start_secs=5.0, end_secs=6.0) == "too_short"


def test_a_short_segment_is_refused(two_secs):
    assert refusal(two_secs, start_secs=1.5, min_secs=1.0) == "too_short"


@pytest.mark.parametrize("end_secs", [None, 2.0])
def test_a_long_segment_is_refused(two_secs, end_secs):
    assert refusal(two_secs, end_secs=end_secs, max_secs=1.5) == "too_long"


def read_all(path, segments, **changed):
    segments = [Segment(*segment) for segment in segments]
    return list(read_segments(str(path), segments, SETTINGS._replace(**changed)))


@pytest.fixture(scope="module")
def six_secs(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "six_secs.mkv"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * SAMPLE_RATE_HZ)
    return write_media(
        path, secs=6.0, waveform=noise.astype(np.float32), audio_codec="pcm_s16le"
    )


def test_segments_side_by_side_make_the_whole(six_secs):
    (whole,) = read_all(six_secs, [(0.0, 6.0)])
    parts = read_all(six_secs, [(0.0, 1.5), (1.5, 3.0), (3.0, 4.3), (4.3, None)])
    assert whole.video_items == [jpeg for part in parts for jpeg in part.video_items]
    joined = np.concatenate([part.waveform for part in parts])
    np.testing.assert_array_equal(whole.waveform, joined)


@pytest.mark.parametrize(
    "segments",
    [[(4.0, 5.0), (0.5, 1.0)], [(0.0, 3.0), (1.0, 2.0)], [(0.2, 0.4), (5.5, 5.9)]],
)
def test_segments_in_any_order_are_those_read_alone(six_secs, segments):
    for media, segment in zip(read_all(six_secs, segments), segments, strict=True):
        (alone,) = read_all(six_secs, [segment])
        assert media.video_items == alone.video_items
        np.testing.assert_array_equal(media.waveform, alone.waveform)


def test_a_refused_segment_leaves_the_others(six_secs):
    outcomes = read_all(six_secs, [(0.0, 1.0), (9.0, 10.0), (2.0, 3.0)])
    assert [getattr(outcome, "reason", "") for outcome in outcomes] == [
        "",
        "too_short",
        "",
    ]
    expected = [grey_of_time(2 + i / 10) for i in range(10)]
    np.testing.assert_allclose(greys(outcomes[2]), expected, atol=3)


def test_a_segment_refused_midway_leaves_the_others_their_frames(six_secs):
    segments = [(0.0, 5.0), (1.0, 2.0)]
    refused, media = read_all(six_secs, segments, max_frames=100)
    (alone,) = read_all(six_secs, segments[1:])
    assert refused.reason == "too_large"
    assert media.video_items == alone.video_items
    np.testing.assert_array_equal(media.waveform, alone.waveform)


def test_memory_of_a_sound_is_that_of_the_sound_and_not_of_its_limit(six_secs):
    sound = {"modalities": ("audio",)}
    (media,) = read_all(six_secs, [(1.0, None)], **sound, max_secs=1e9)
    (expected,) = read_all(six_secs, [(1.0, None)], **sound)
    np.testing.assert_array_equal(media.waveform, expected.waveform)


@pytest.mark.parametrize(("source_fps", "fps"), [(30, 12.5), (24, 30.0), (25, 7.0)])
def test_a_frame_comes_within_half_a_frame_of_its_time(tmp_path, source_fps, fps):
    grey = lambda secs: 16 + 8 * round(secs * source_fps)  # noqa: E731
    path = write_media(
        tmp_path / "a.mkv",
        secs=25 / source_fps,
        fps=source_fps,
        grey=grey,
        waveform=tone(1.2),
        audio_codec="pcm_s16le",
    )
    media = read(path, fps=fps)
    times_secs = (np.array(greys(media)) - 16) / 8 / source_fps
    error_secs = np.abs(times_secs - np.arange(len(times_secs)) / fps)
    assert error_secs.max() <= 0.5 / source_fps + 0.002 + 1 / 255


def test_interlaced_frames_are_made_whole(tmp_path):
    def roughness(path):
        media = read(path, fps=25.0, short_side=64, modalities=("video",))
        images = [Image.open(io.BytesIO(jpeg)).convert("L") for jpeg in media[0]]
        return np.mean([np.abs(np.diff(np.float32(i), axis=0)).mean() for i in images])

    path = tmp_path / "a.mkv"
    tags = {"x264-params": "tff=1"}
    odd_media.write(
        path, size=(96, 64), interlaced=True, audio=None, video_options=tags
    )
    combed = tmp_path / "combed.mkv"
    odd_media.write(combed, size=(96, 64), interlaced=True, audio=None)
    assert roughness(path) < 0.4 * roughness(combed)


def test_a_truncated_file_can_be_kept_up_to_there(tmp_path):
    path = tmp_path / "a.mkv"
    write_media(path, secs=4.0, waveform=tone(4.0), audio_codec="pcm_s16le")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    media = read(path, keep_truncated=True)
    assert media.truncated.startswith("truncated: ends at")
    assert 10 <= len(media.video_items) < 40
    expected = [grey_of_time(i / 10) for i in range(len(media.video_items))]
    np.testing.assert_allclose(greys(media), expected, atol=3)
    assert len(media.waveform) == 1600 * len(media.video_items)


def test_a_damaged_file_tells_after_how_many_frames_and_can_be_kept(tmp_path):
    path = tmp_path / "a.mp4"
    write_media(path, secs=4.0, waveform=tone(4.0), options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])
    with pytest.raises(MediaError, match="after [0-9]+ frames"):
        read(path)
    media = read(path, keep_truncated=True)
    assert " after " in media.truncated and media.video_items


def test_bytes_that_are_not_utf8_in_a_name_do_no_harm(tmp_path):
    path = write_media(tmp_path / "a.mp4", waveform=tone(1.0))
    odd = str(tmp_path).encode() + b"/\xff\xfe.mp4"
    (tmp_path / "a.mp4").rename(odd.decode("utf-8", "surrogateescape"))
    del path
    assert len(read(odd.decode("utf-8", "surrogateescape")).video_items) == 10


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.flac", "flac"),
        ("a.ogg", "libopus"),
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
    ],
)
def test_a_sound_file_alone_is_read_as_sound(tmp_path, name, codec):
    path = odd_media.write(
        tmp_path / name, video=None, audio=codec, layout="mono", rate_hz=48000
    )
    media = read(path, modalities=("audio",))
    assert (media.video_items, media.height, media.width) == ([], 0, 0)
    assert media.duration_secs == pytest.approx(odd_media.SECS, abs=0.03)
    assert len(media.waveform) == round(media.duration_secs * SAMPLE_RATE_HZ)
    onset = np.flatnonzero(np.abs(media.waveform) > 0.1)[0] / SAMPLE_RATE_HZ
    assert onset == pytest.approx(odd_media.FLASHES_SECS[0], abs=0.03)


def test_sound_alone_needs_no_picture_and_knows_its_limits(tmp_path, two_secs):
    assert read(two_secs, modalities=("audio",)).duration_secs == pytest.approx(
        2.0, 0.1
    )
    assert refusal(two_secs, modalities=("audio",), max_secs=1.0) == "too_long"
    assert refusal(two_secs, modalities=("audio",), start_secs=2.5) == "too_short"
    segment = read(two_secs, modalities=("audio",), start_secs=0.5, end_secs=1.0)
    assert len(segment.waveform) == 8000
