"""Real audio files written with PyAV, decoded inside tf.data."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import audio_files

TONE_HZ = 440.0
SECS = 0.5
RATE_HZ = 16000
FILE_RATES_HZ = (16000, 44100)
# Extension, PyAV encoder, sample format, options; the last two formats are lossy and
# pad their ends.
LOSSLESS = {
    "u8.wav": ("pcm_u8", "u8", {}),
    "s16.wav": ("pcm_s16le", "s16", {}),
    "s24.wav": ("pcm_s24le", "s32", {}),
    "s32.wav": ("pcm_s32le", "s32", {}),
    "f32.wav": ("pcm_f32le", "flt", {}),
    "s16.flac": ("flac", "s16", {}),
    "s24.flac": ("flac", "s32", {}),
}
LOSSY = {
    "vorbis.ogg": ("vorbis", "fltp", {"strict": "experimental"}),
    "layer3.mp3": ("libmp3lame", "fltp", {}),
}


def _tone(rate_hz, secs=SECS):
    times = np.arange(round(rate_hz * secs)) / rate_hz
    return 0.5 * np.sin(2 * np.pi * TONE_HZ * times)


def _write(path, waveform, rate_hz, *, channel_gains=(1.0, 1.0)):
    """Writes [samples] times each gain as the channels of a file."""
    codec, sample_format, options = (LOSSLESS | LOSSY)[path.name]
    layout = "stereo" if len(channel_gains) == 2 else "mono"
    channels = np.stack([gain * waveform for gain in channel_gains]).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, options=options)
        stream.layout = layout
        stream.format = sample_format
        stream.codec_context.open(strict=False)
        block = stream.codec_context.frame_size or 1024
        converter = av.AudioResampler(format=sample_format, layout=layout)
        for start in range(0, channels.shape[1], block):
            samples = np.ascontiguousarray(channels[:, start : start + block])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            frame.pts = start
            for converted in converter.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return str(path)


def _decode(path, rate_hz):
    (item,) = audio_files.waveforms([path], sample_rate_hz=rate_hz)
    return item["waveform"].numpy()


def _loudest_hz(waveform, rate_hz):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return np.argmax(spectrum) * rate_hz / len(waveform)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """Every format at two rates, decoded to RATE_HZ by one data set."""
    paths = {}
    for file_rate_hz in FILE_RATES_HZ:
        folder = tmp_path_factory.mktemp(f"at_{file_rate_hz}")
        for name in LOSSLESS | LOSSY:
            path = _write(folder / name, _tone(file_rate_hz), file_rate_hz)
            paths[path] = name, file_rate_hz
    items = audio_files.waveforms(list(paths), sample_rate_hz=RATE_HZ)
    return {
        paths[item["path"].numpy().decode()]: item["waveform"].numpy() for item in items
    }


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("file_rate_hz", FILE_RATES_HZ)
def test_a_lossless_file_gives_the_tone_back(decoded, name, file_rate_hz):
    waveform = decoded[name, file_rate_hz]
    expected = _tone(RATE_HZ)
    assert waveform.dtype == np.float32
    assert len(waveform) == len(expected)
    # The resamplers ring at the file's ends; 8 bits resolve 1/128.
    inside = slice(200, -200)
    np.testing.assert_allclose(waveform[inside], expected[inside], atol=1 / 100)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("file_rate_hz", FILE_RATES_HZ)
def test_a_lossy_file_gives_length_and_tone_back(decoded, name, file_rate_hz):
    waveform = decoded[name, file_rate_hz]
    # An MPEG frame is 1152 samples at most; encoders pad by up to two.
    assert 0 <= len(waveform) - len(_tone(RATE_HZ)) <= 2 * 1152
    assert abs(_loudest_hz(waveform, RATE_HZ) - TONE_HZ) < 1 / SECS
    assert 0.45 < np.max(np.abs(waveform)) < 0.6


@pytest.mark.parametrize("file_rate_hz, rate_hz", [(48000, 48000), (16000, 44100)])
def test_up_and_equal_rates_keep_the_tone_in_place(tmp_path, file_rate_hz, rate_hz):
    path = _write(tmp_path / "s16.wav", _tone(file_rate_hz), file_rate_hz)
    decoded = _decode(path, rate_hz)
    expected = _tone(rate_hz)
    assert len(decoded) == len(expected)
    inside = slice(400, -400)
    np.testing.assert_allclose(decoded[inside], expected[inside], atol=1 / 100)


def test_what_the_new_rate_cannot_hold_is_filtered_out(tmp_path):
    times = np.arange(24000) / 48000
    path = _write(tmp_path / "s16.wav", 0.5 * np.sin(2 * np.pi * 10000 * times), 48000)
    decoded = _decode(path, 16000)
    assert np.max(np.abs(decoded[200:-200])) < 0.01


def test_channels_are_averaged(tmp_path):
    path = _write(tmp_path / "f32.wav", _tone(16000), 16000, channel_gains=(1.0, 0.5))
    np.testing.assert_allclose(_decode(path, 16000), 0.75 * _tone(16000), atol=1e-6)


def test_a_mono_file_is_its_channel(tmp_path):
    path = _write(tmp_path / "s16.flac", _tone(16000), 16000, channel_gains=(1.0,))
    np.testing.assert_allclose(_decode(path, 16000), _tone(16000), atol=1e-4)


def test_files_come_in_the_order_given_with_their_paths(tmp_path):
    long = _write(tmp_path / "s16.wav", _tone(16000, 2.0), 16000)
    short = _write(tmp_path / "u8.wav", _tone(16000, 0.1), 16000)
    items = list(audio_files.waveforms([long, short, long], sample_rate_hz=16000))
    assert [item["path"].numpy().decode() for item in items] == [long, short, long]
    assert [len(item["waveform"]) for item in items] == [32000, 1600, 32000]


def test_a_file_of_another_kind_stops_with_its_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not audio at all")
    with pytest.raises(tf.errors.OpError, match="notes.txt: not a wav, flac, ogg"):
        list(audio_files.waveforms([str(path)], sample_rate_hz=16000))


def test_no_files_are_refused():
    with pytest.raises(ValueError, match="at least one path"):
        audio_files.waveforms([], sample_rate_hz=16000)


@pytest.mark.parametrize(
    "contents, reason",
    [
        (b"", "begins with b''"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a wav"),
        (b"OggS" + bytes(22) + b"\1\x13OpusHead", "not a wav, flac, ogg or mp3"),
        (b"ID3\4\0\0\0\0\0\0plain", "not a wav, flac, ogg or mp3"),
        (b"\xff\xfeU\0T\0F\0", "not a wav, flac, ogg or mp3"),
        (b"#EXTM3U\nfile.wav\n", "it begins with b'#EXTM3U"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(contents, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        audio_files.decode_bytes(contents, 16000, name="a.file")
    assert str(caught.value).startswith("a.file: ")


def test_chunks_before_the_wav_format_are_skipped(tmp_path):
    contents = Path(_write(tmp_path / "s16.wav", _tone(16000), 16000)).read_bytes()
    junk = b"JUNK" + struct.pack("<I", 3) + b"abc\0"
    waveform = audio_files.decode_bytes(
        contents[:12] + junk + contents[12:], 16000, name="a"
    )
    np.testing.assert_allclose(waveform, _tone(16000), atol=1e-4)


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_is_read_to_its_end(tmp_path, length):
    contents = bytearray(
        Path(_write(tmp_path / "s16.wav", _tone(16000), 16000)).read_bytes()
    )
    expected = audio_files.decode_bytes(bytes(contents), 16000, name="a")
    for position in (4, contents.index(b"data") + 4):
        struct.pack_into("<I", contents, position, length)
    waveform = audio_files.decode_bytes(bytes(contents), 16000, name="a")
    np.testing.assert_array_equal(waveform, expected)


def test_a_flac_without_a_number_of_samples_is_read_to_its_end(tmp_path):
    contents = bytearray(
        Path(_write(tmp_path / "s16.flac", _tone(16000), 16000)).read_bytes()
    )
    expected = audio_files.decode_bytes(bytes(contents), 16000, name="a")
    # The low 36 bits of the 8 bytes at 18 are the number of samples.
    (packed,) = struct.unpack_from(">Q", contents, 18)
    assert packed & (2**36 - 1) == 8000
    struct.pack_into(">Q", contents, 18, packed >> 36 << 36)
    waveform = audio_files.decode_bytes(bytes(contents), 16000, name="a")
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize(
    "tail",
    [b"TAG" + bytes(125), b"APETAGEX" + bytes(200), b"\0" * 999, b"\xff\xfb\x90"],
)
def test_what_follows_the_last_frame_of_an_mp3_is_no_sound(tmp_path, tail):
    path = _write(tmp_path / "layer3.mp3", _tone(44100), 44100)
    contents = Path(path).read_bytes()
    expected = audio_files.decode_bytes(contents, 16000, name="a")
    waveform = audio_files.decode_bytes(contents + tail, 16000, name="a")
    whole = len(expected) - 2 * 1152
    np.testing.assert_allclose(waveform[:whole], expected[:whole], atol=1e-4)
    assert len(waveform) <= len(expected) + 2 * 1152


def test_damage_before_the_end_is_told_with_the_files_name(tmp_path):
    path = Path(_write(tmp_path / "s16.flac", _tone(16000, 3.0), 16000))
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2 : len(contents) // 2 + 600] = bytes(600)
    path.write_bytes(contents)
    with pytest.raises(tf.errors.OpError, match="s16.flac: .*damaged before its end"):
        list(audio_files.waveforms([str(path)], sample_rate_hz=16000))


def test_a_file_without_a_sample_is_refused(tmp_path):
    contents = Path(_write(tmp_path / "s16.wav", _tone(16000), 16000)).read_bytes()
    end = contents.index(b"data") + 8
    with pytest.raises(ValueError, match="a.wav: .*no samples"):
        audio_files.decode_bytes(contents[:end], 16000, name="a.wav")
