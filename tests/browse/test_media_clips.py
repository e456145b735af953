"""Clips decoded back by PyAV: frames that move, sound that is heard, and refusals."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from data_prep import synthetic, worker_processes
from data_prep.worker_processes import PoolSettings
from xdc_tf.browse import media_clips
from xdc_tf.browse.clip_files import CLIP_FORM, SAMPLE_RATE_HZ
from xdc_tf.browse.media_clips import ClipRequest

RNG = np.random.default_rng(0)
BOTH = ("video", "audio")


def moving_frames(number, height, width):
    """A bright bar that moves from left to right."""
    frames = np.full((number, height, width, 3), 30, np.uint8)
    for place, frame in enumerate(frames):
        frame[:, place * width // number :][:, : width // 4] = 220
    return frames


def tone(secs, rate_hz=SAMPLE_RATE_HZ):
    times = np.arange(round(secs * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def decode(clip):
    """Frames [T, H, W, 3] and waveform [samples] of an mp4 file's bytes."""
    with av.open(io.BytesIO(clip)) as container:
        videos = container.streams.video
        frames = [
            frame.to_ndarray(format="rgb24")
            for frame in (container.decode(video=0) if videos else ())
        ]
    waveform = np.zeros(0)
    with av.open(io.BytesIO(clip)) as container:
        if container.streams.audio:
            blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
            waveform = np.concatenate(blocks)
    return np.array(frames), waveform


def make(request):
    (outcome,) = media_clips.make_clips([request])
    assert not outcome.reason, outcome
    return outcome.result


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Six seconds of a moving bar and a tone, 48 x 64 pixels."""
    path = tmp_path_factory.mktemp("original") / "bar.mp4"
    rate_hz = synthetic.SAMPLE_RATE_HZ
    frames = moving_frames(6 * synthetic.FPS, 48, 64)
    synthetic.write_mp4(str(path), frames, tone(6, rate_hz))
    return path


def of_file(path, **values):
    request = ClipRequest(file=str(path), end_secs=6.0, modalities=BOTH)
    return request._replace(**values)


def test_an_original_becomes_four_seconds_of_moving_frames_with_sound(original):
    clip = make(of_file(original))
    assert (clip.secs, clip.has_sound) == (pytest.approx(4.0, abs=0.1), True)
    frames, waveform = decode(clip.clip)
    assert frames.shape[1:] == (48, 64, 3)
    assert len(frames) == pytest.approx(4 * synthetic.FPS, abs=1)
    changes = np.abs(np.diff(frames.astype(int), axis=0)).max(axis=(1, 2, 3))
    # 72 frames over 64 pixels: now and then the bar stands still.
    assert np.mean(changes > 50) > 0.8
    assert len(waveform) == pytest.approx(4 * SAMPLE_RATE_HZ, rel=0.02)
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.3 / 2**0.5, rel=0.1)


def test_the_clip_is_the_middle_of_the_example(original):
    frames, _ = decode(make(of_file(original)).clip)
    # The bar begins at 64 * 1 / 6 and, of six seconds, ends at 64 * 5 / 6.
    first, last = (np.argmax(frame[24, :, 0] > 125) for frame in frames[[0, -1]])
    assert first == pytest.approx(64 / 6, abs=2)
    assert last == pytest.approx(64 * 5 / 6, abs=2)


def test_a_segment_is_cut_out_of_its_file(original):
    request = of_file(original, start_secs=1.0, end_secs=2.5, is_whole=False)
    frames, _ = decode(make(request).clip)
    assert len(frames) == pytest.approx(1.5 * synthetic.FPS, abs=1)
    first = np.argmax(frames[0][24, :, 0] > 125)
    assert first == pytest.approx(64 / 6, abs=2)


@pytest.mark.parametrize(
    "values",
    [{"end_secs": 3.0}, {"end_secs": 9.0}, {"end_secs": 9.0, "is_whole": False}],
)
def test_an_original_of_another_length_is_refused_with_both_lengths(original, values):
    (outcome,) = media_clips.make_clips([of_file(original, **values)])
    assert outcome.reason == "length_mismatch"
    assert "6.00 s now" in outcome.detail
    assert f"{values['end_secs']:.2f} s were converted" in outcome.detail


def test_poster_and_spectrogram_are_pictures_of_the_clip(original):
    clip = make(of_file(original))
    poster = np.asarray(Image.open(io.BytesIO(clip.poster)))
    assert poster.shape == (48, 64, 3) and np.ptp(poster) > 100
    spectrogram = Image.open(io.BytesIO(clip.spectrogram)).convert("RGB")
    levels = np.asarray(spectrogram).sum(axis=2)
    brightest = np.argmax(levels.mean(axis=1)) / len(levels)
    assert brightest > 0.7  # a low tone is near the bottom
    assert spectrogram.width == pytest.approx(160, abs=3)


def test_large_frames_are_scaled_to_a_short_side_of_320():
    frames = moving_frames(4, 360, 481)
    decoded, _ = decode(make(ClipRequest(frames=frames, fps=4.0)).clip)
    assert decoded.shape == (4, 320, 428, 3)


def test_frames_of_records_without_a_waveform_make_a_silent_clip_that_says_so():
    rows = RNG.normal(size=(50, 40)).astype(np.float32)
    frames = moving_frames(8, 33, 47)
    clip = make(ClipRequest(frames=frames, fps=8.0, log_mel=rows))
    decoded, waveform = decode(clip.clip)
    assert (len(decoded), len(waveform)) == (8, 0)
    assert np.abs(decoded[0].astype(int) - frames[0, :32, :46]).mean() < 8
    assert (clip.has_sound, clip.note) == (False, "no sound stored")
    assert Image.open(io.BytesIO(clip.spectrogram)).size == (50, 40)


def test_a_stored_waveform_is_heard_at_its_own_speed():
    request = ClipRequest(waveform=tone(1.0, 16000), sample_rate_hz=16000)
    clip = make(request)
    _, waveform = decode(clip.clip)
    spectrum = np.abs(np.fft.rfft(waveform[:SAMPLE_RATE_HZ]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
    assert (clip.poster, clip.note, clip.has_sound) == (b"", "", True)


def test_clips_of_the_same_content_are_the_same_bytes(original):
    assert make(of_file(original)) == make(of_file(original))


def test_black_frames_and_silence_are_measured():
    black = ClipRequest(frames=np.zeros((4, 32, 32, 3), np.uint8), fps=4.0)
    assert make(black).brightness < 0.02
    quiet = make(ClipRequest(waveform=tone(1) * 1e-4))
    loud = make(ClipRequest(waveform=tone(1)))
    assert quiet.quiet_db == pytest.approx(loud.quiet_db + 80, abs=0.1)


def test_a_hostile_file_costs_its_own_clip_alone(original, tmp_path):
    data = original.read_bytes()
    hostile = {
        "garbage.mp4": RNG.bytes(5000),
        "cut.mp4": data[: len(data) // 3],
        "empty.mp4": b"",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
    paths = [*(tmp_path / name for name in hostile), original]
    outcomes = worker_processes.map_groups(
        media_clips.make_clips,
        [(of_file(path),) for path in paths],
        form=CLIP_FORM,
        pool=PoolSettings(1),
    )
    *refused, last = outcomes
    assert all(outcome.reason for outcome in refused)
    assert len(decode(last.result.clip)[0]) > 40


@pytest.mark.parametrize(
    "change",
    [
        {"clip": b"<html>"},
        {"poster": b"<svg onload=alert(1)>"},
        {"spectrogram": b"GIF89a"},
        {"fingerprint": "no"},
        {"secs": -1.0},
    ],
)
def test_an_answer_that_is_no_clip_is_refused_where_it_is_read(original, change):
    packed = CLIP_FORM.pack(make(of_file(original))._replace(**change))
    with pytest.raises(ValueError):
        CLIP_FORM.unpack(packed.values, memoryview(b"".join(packed.buffers)))
