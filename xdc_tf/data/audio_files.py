"""Audio files on disk -> waveforms, for features of a folder of wav, flac, ogg or mp3.

An exported audio encoder takes these through its waveform signature.
"""

import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from xdc_tf.runtime import compat
from xdc_tf.runtime.tuning import without_autotuning


def waveforms(paths: Sequence[str], *, sample_rate_hz: int) -> tf.data.Dataset:
    """Decodes audio files in parallel, in the order given.

    Args:
        paths: wav, flac, ogg (Vorbis, Opus) or mp3 files; local or remote.
        sample_rate_hz: rate of the waveforms, whatever the files' own.

    Returns:
        Data set of {"path": string, "waveform": [samples] float32 in [-1, 1]}; files
        differ in length, so batch after cutting or padding. A file that is none of the
        four formats, is damaged before its end or holds no sample stops the iteration
        with an error that names it.

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
    return without_autotuning(decoded.prefetch(num_cores))


def decode_audio(
    contents: tf.Tensor, sample_rate_hz: int, *, name: str | tf.Tensor = "audio"
) -> tf.Tensor:
    """Decodes the contents of a wav, flac, ogg or mp3 file, also in tf.data.

    Args:
        contents: scalar string, the file's bytes.
        sample_rate_hz: rate of the waveform.
        name: what errors call the file.

    Returns:
        [samples] float32 in [-1, 1], the mean of the channels; n samples of the file
        become ceil(n * sample_rate_hz / its rate).
    """

    def decode(contents: bytes, name: bytes) -> np.ndarray:
        return decode_bytes(contents, sample_rate_hz, name=name.decode())

    waveform = tf.numpy_function(decode, [contents, name], tf.float32, stateful=False)
    return tf.ensure_shape(waveform, [None])


def decode_bytes(contents: bytes, sample_rate_hz: int, *, name: str) -> np.ndarray:
    """See decode_audio.

    Lengths that headers state are not believed: a streamed file states none, or any.

    Raises:
        ValueError: not one of the four formats, damaged before its end, or without a
            sample; names the file.
    """
    import av  # slow to import, and needed by this function alone

    try:
        with av.open(io.BytesIO(contents), format=find_format(contents)) as container:
            frames = list(_frames(container))
        rates = {frame.sample_rate for frame in frames}
        if len(rates) != 1:
            raise ValueError(
                f"it has the sample rates {sorted(rates)}"
                if rates
                else "it holds no samples"
            )
        resampler = av.AudioResampler(format="fltp", rate=sample_rate_hz)
        blocks = [block for frame in frames for block in resampler.resample(frame)]
        blocks += resampler.resample(None)
    except (ValueError, av.FFmpegError) as error:
        raise ValueError(
            f"{name}: not a wav, flac, ogg or mp3 file that can be read: {error}; "
            "convert it to 16-bit wav."
        ) from error
    # FFmpeg's own down-mix to mono would add the channels at 0.71 each and clip.
    waveform = np.concatenate([block.to_ndarray().mean(0) for block in blocks])
    num_samples = sum(frame.samples for frame in frames)
    length = -(-num_samples * sample_rate_hz // rates.pop())
    waveform = np.pad(waveform, (0, max(0, length - len(waveform))))[:length]
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: samples that are not finite; write the file again.")
    return np.clip(waveform, -1.0, 1.0).astype(np.float32, copy=False)


def _frames(container) -> Iterator:
    """The decoded frames of the sound; only at its end may be what does not decode."""
    import av

    if not container.streams.audio:
        raise ValueError("no sound in it")
    damage = end = None
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            damage = damage or error
            continue
        if frames and damage:
            raise ValueError(f"damaged before its end ({damage})")
        for frame in frames:
            start = end or 0.0
            if frame.pts is not None:
                start = float(frame.pts * frame.time_base)
            # Encoders' clocks are off by less than a frame; a joined file's start anew.
            if end is not None and start - end > 2 * frame.samples / frame.sample_rate:
                raise ValueError(f"damaged before its end (no sound at {end:.3f} s)")
            end = start + frame.samples / frame.sample_rate
            yield frame


def find_format(contents: bytes) -> str:
    """FFmpeg's name of the format, by the magic bytes, so that no other is tried.

    Raises:
        ValueError: not one of the four formats.
    """
    if contents[:4] in (b"RIFF", b"RF64") and contents[8:12] == b"WAVE":
        return "wav"
    if contents[:4] == b"fLaC":
        return "flac"
    if contents[:4] == b"OggS":
        return "ogg"
    is_frame = contents[:1] == b"\xff" and contents[1:2] >= b"\xe0"
    if contents[:3] == b"ID3" or is_frame:
        return "mp3"
    raise ValueError(f"it begins with {contents[:12]!r}")
