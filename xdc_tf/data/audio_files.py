"""Audio files on disk -> waveforms, for features of a folder of wav, flac, ogg or mp3.

An exported audio encoder takes these through its waveform signature.
"""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf import compat
from xdc_tf.data.untuned import untuned

_WAV_ENCODINGS = {
    (1, 8): "wav_u8",
    (1, 16): "wav_s16",
    (1, 24): "wav_s24",
    (1, 32): "wav_s32",
    (3, 32): "wav_f32",
}
_WAV_EXTENSIBLE = 0xFFFE
_FLAC_ENCODINGS = {16: "flac_s16", 24: "flac_s24"}
# By the two version bits of an MPEG frame header: MPEG 2.5, 2 and 1.
_MP3_RATES_HZ = {
    0: (11025, 12000, 8000),
    2: (22050, 24000, 16000),
    3: (44100, 48000, 32000),
}


class AudioHeader(NamedTuple):
    """What the first bytes of an audio file say.

    Attributes:
        encoding: one of `compat.AUDIO_ENCODINGS`.
        sample_rate_hz: the file's own rate.
    """

    encoding: str
    sample_rate_hz: int


def waveforms(paths: Sequence[str], *, sample_rate_hz: int) -> tf.data.Dataset:
    """Decodes audio files in parallel, in the order given.

    Args:
        paths: wav, flac, ogg (Vorbis) or mp3 files; local or remote.
        sample_rate_hz: rate of the waveforms, whatever the files' own.

    Returns:
        Data set of {"path": string, "waveform": [samples] float32 in [-1, 1]}; files
        differ in length, so batch after cutting or padding. A file that is none of the
        four formats stops the iteration with an error that names it.

    Raises:
        ValueError: `paths` is empty, or on a file system that cannot be read here.
    """
    if not paths:
        raise ValueError("No audio files given; pass at least one path.")
    for path in paths:
        compat.enable_remote_paths(path)

    def read(path: tf.Tensor) -> dict[str, tf.Tensor]:
        contents = tf.io.read_file(path)
        waveform = decode_audio(contents, sample_rate_hz, name=path)
        return {"path": path, "waveform": waveform}

    files = tf.data.Dataset.from_tensor_slices(list(paths))
    num_cores = os.cpu_count() or 1
    decoded = files.map(read, num_parallel_calls=num_cores, deterministic=True)
    return untuned(decoded.prefetch(num_cores))


def decode_audio(
    contents: tf.Tensor, sample_rate_hz: int, *, name: str | tf.Tensor = "audio"
) -> tf.Tensor:
    """Decodes the contents of a wav, flac, ogg (Vorbis) or mp3 file, also in tf.data.

    Args:
        contents: scalar string, the file's bytes.
        sample_rate_hz: rate of the waveform wanted.
        name: what errors call the file.

    Returns:
        [samples] float32 in [-1, 1], the mean of the channels.
    """

    def inspect(contents: bytes, name: bytes) -> tuple[np.int64, np.int64]:
        header = read_header(contents, name=name.decode())
        index = compat.AUDIO_ENCODINGS.index(header.encoding)
        return np.int64(index), np.int64(header.sample_rate_hz)

    encoding_index, source_rate_hz = tf.numpy_function(
        inspect, [contents, name], [tf.int64, tf.int64], stateful=False
    )
    encoding_index.set_shape([])
    source_rate_hz.set_shape([])
    return compat.decode_audio(
        contents,
        encoding_index,
        source_rate_hz=source_rate_hz,
        sample_rate_hz=sample_rate_hz,
    )


def read_header(contents: bytes, *, name: str = "audio") -> AudioHeader:
    """Recognises the format from its magic bytes and reads encoding and sample rate.

    Args:
        contents: a whole file, or enough of its beginning.
        name: what errors call the file.

    Raises:
        ValueError: not one of the four formats, an encoding of theirs that is not
            supported (a-law, Opus, ...), or a header cut short.
    """
    try:
        if contents[:4] == b"RIFF" and contents[8:12] == b"WAVE":
            return _read_wav_header(contents)
        if contents[:4] == b"fLaC":
            return _read_flac_header(contents)
        if contents[:4] == b"OggS":
            return _read_ogg_header(contents)
        if contents[:3] == b"ID3" or contents[:1] == b"\xff":
            return _read_mp3_header(contents)
        raise ValueError(f"it begins with {contents[:12]!r}")
    except (ValueError, struct.error, IndexError) as error:
        raise ValueError(
            f"{name}: not a wav, flac, ogg (Vorbis) or mp3 file that can be read: "
            f"{error}; convert it to 16-bit wav."
        ) from error


def _read_wav_header(contents: bytes) -> AudioHeader:
    start = 12
    while contents[start : start + 4] != b"fmt ":
        # Chunks are padded to an even length.
        (size,) = struct.unpack_from("<I", contents, start + 4)
        start += 8 + size + size % 2
    audio_format, _, rate_hz, _, _, bits = struct.unpack_from(
        "<HHIIHH", contents, start + 8
    )
    if audio_format == _WAV_EXTENSIBLE:
        (audio_format,) = struct.unpack_from("<H", contents, start + 8 + 24)
    if (audio_format, bits) not in _WAV_ENCODINGS:
        raise ValueError(f"wav format {audio_format} with {bits} bits")
    return AudioHeader(_WAV_ENCODINGS[audio_format, bits], rate_hz)


def _read_flac_header(contents: bytes) -> AudioHeader:
    # STREAMINFO, always the first block: 20 bits of rate, 3 of channels, 5 of depth.
    (packed,) = struct.unpack_from(">I", contents, 18)
    bits = (packed >> 4 & 0b11111) + 1
    if bits not in _FLAC_ENCODINGS:
        raise ValueError(f"flac with {bits} bits")
    return AudioHeader(_FLAC_ENCODINGS[bits], packed >> 12)


def _read_ogg_header(contents: bytes) -> AudioHeader:
    packet = 27 + contents[26]
    if contents[packet : packet + 7] != b"\x01vorbis":
        raise ValueError(f"ogg with {contents[packet : packet + 8]!r} inside")
    (rate_hz,) = struct.unpack_from("<I", contents, packet + 12)
    return AudioHeader("ogg_vorbis", rate_hz)


def _read_mp3_header(contents: bytes) -> AudioHeader:
    frame = 0
    if contents[:3] == b"ID3":
        # The tag's size has 7 bits a byte and leaves out its own 10-byte header.
        a, b, c, d = contents[6:10]
        frame = 10 + (a << 21 | b << 14 | c << 7 | d)
    sync, flags, rates = contents[frame : frame + 3]
    version, layer, rate = flags >> 3 & 3, flags >> 1 & 3, rates >> 2 & 3
    if sync != 0xFF or flags < 0xE0 or layer != 1 or version == 1 or rate == 3:
        raise ValueError(f"no MPEG layer III frame at byte {frame}")
    return AudioHeader("mp3", _MP3_RATES_HZ[version][rate])
