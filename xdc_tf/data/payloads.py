"""What records can hold of a recording's frames and of its audio, a row for each kind.

A payload of video is a list of items, each of one frame or of several; of audio, a list
of rows of float32 at a fixed rate. A further one is a module and a row here; of a
modality, data_prep.convert stores the first unless --payload names another.

Nothing here imports TensorFlow: the processes that decode media use it. What is named
in the comments of a row is called with tensors, and imports TensorFlow itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from xdc_tf.data import h264_frames, jpeg_frames, log_mel
from xdc_tf.runtime import typed_settings

VIDEO, AUDIO = "video", "audio"
# All that a record can hold, in the order in which they are listed.
MODALITIES: tuple[str, ...] = (VIDEO, AUDIO)


class VideoPayload(NamedTuple):
    """How records hold frames.

    Attributes:
      settings: its settings class, see runtime.typed_settings.
      key: of the record's list of items, bytes each.
      frames_per_item: of the settings, how many frames an item holds; a recording's
        last item may hold fewer.
      encode: (frames, settings) -> an item. A frame is its planes Y [H, W] and U, V
        [ceil(H / 2), ceil(W / 2)], uint8, BT.601 of full range. It is called by name in
        processes without TensorFlow.
      check: (items, short_side) -> None, before they are decoded; short_side, of all
        frames, is None if it is not known. Raises ValueError, which names the frame.
      faults: (items, height, width, number of frames) -> what is wrong with the items
        of a record, all of which it decodes.
      decode_item: bytes -> [N, H, W, 3] uint8. Raises ValueError on what is no item.
      frame_shape: item, a scalar string tensor -> [2] int32, height and width.
      bytes_per_pixel: of the settings, what is usual of a video of people; plans reckon
        with it where there are no records.
      decode_clip: (items, places, window, clip, origin) -> [T, crop_size, crop_size, 3]
        uint8 tensor: of the window (crops.Window) of frame k, which is number
        places[k, 1] of items[places[k, 0]]; items are a list if frames_per_item is 1,
        and then item k is frame k and places None, or a [K] string tensor. clip: a
        ClipSettings. origin: for messages, the shard's path and the example_index,
        scalar tensors.
    """

    settings: type
    key: str
    frames_per_item: Callable[[Any], int]
    encode: Callable[[Sequence[Sequence[np.ndarray]], Any], bytes]
    check: Callable[[Sequence[bytes], int | None], None]
    faults: Callable[[Sequence[bytes], int, int, int], Iterator[str]]
    decode_item: Callable[[bytes], np.ndarray]
    frame_shape: Callable[[Any], Any]
    bytes_per_pixel: Callable[[Any], float]
    decode_clip: Callable[[Any, Any, Any, Any, Any], Any]
    modality: str = VIDEO


class AudioPayload(NamedTuple):
    """How records hold audio.

    Attributes:
      settings: its settings class, see runtime.typed_settings.
      key: of the record's list of rows, float32 values each.
      row_length: of the settings, D, values of a row.
      hop_samples: of the settings, samples from row to row; a waveform has L = samples
        // hop_samples rows.
      encode: (waveform, settings) -> [..., L, D] float32 of [..., samples] in [-1, 1],
        NumPy arrays, without TensorFlow, or tensors.
      value_range: of the settings, the lowest and the highest value of audio that is
        not damaged.
      augment: (rows, seeds, augmentation, clip) -> rows [L, D] of a training clip,
        normalised and changed at random by three seeds, tensors.
    """

    settings: type
    key: str
    row_length: Callable[[Any], int]
    hop_samples: Callable[[Any], int]
    encode: Callable[[Any, Any], Any]
    value_range: Callable[[Any], tuple[float, float]]
    augment: Callable[[Any, Sequence[Any], Any, Any], Any]
    modality: str = AUDIO


PAYLOADS: dict[str, VideoPayload | AudioPayload] = {
    "jpeg": VideoPayload(
        settings=jpeg_frames.JpegSettings,
        key="image/encoded",
        frames_per_item=lambda settings: 1,
        encode=jpeg_frames.encode,
        check=jpeg_frames.check_sizes,
        faults=jpeg_frames.faults,
        decode_item=jpeg_frames.decode,
        frame_shape=jpeg_frames.frame_shape,
        bytes_per_pixel=jpeg_frames.bytes_per_pixel,
        decode_clip=jpeg_frames.decode_clip,
    ),
    "h264": VideoPayload(
        settings=h264_frames.H264Settings,
        key="image/h264",
        frames_per_item=h264_frames.frames_per_item,
        encode=h264_frames.encode,
        check=h264_frames.check,
        faults=h264_frames.faults,
        decode_item=h264_frames.decode,
        frame_shape=h264_frames.frame_shape,
        bytes_per_pixel=h264_frames.bytes_per_pixel,
        decode_clip=h264_frames.decode_clip,
    ),
    "log_mel": AudioPayload(
        settings=log_mel.LogMelSettings,
        key="melspec/feature/floats",
        row_length=lambda settings: settings.num_filters,
        hop_samples=lambda settings: settings.hop_samples,
        encode=log_mel.log_mel,
        value_range=log_mel.value_range,
        augment=log_mel.augment,
    ),
}

# What is stored of a modality unless something else is asked for.
FIRST = ("jpeg", "log_mel")


class Stored(NamedTuple):
    """The payload of a modality of some records: its name, row and settings."""

    name: str
    row: Any  # a VideoPayload or AudioPayload
    settings: Any

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return self.name.replace("_", "-")

    def describe(self) -> dict[str, Any]:
        """Key and value by which files state it, see from_mappings."""
        if self.name in FIRST:
            return {self.name: typed_settings.to_mapping(self.settings)}
        return {"payload": to_mappings([self])}


class Describes(Protocol):
    """What says how records are made: a DatasetInfo or ConversionSettings."""

    @property
    def jpeg_quality(self) -> int: ...

    @property
    def log_mel(self) -> log_mel.LogMelSettings: ...

    @property
    def payloads(self) -> tuple[Stored, ...]: ...


def stored(records: Describes, modality: str) -> Stored:
    """The payload that holds a modality.

    Args:
      records: what describes them; its `payloads` are those that are not the first of
        their modality.
      modality: VIDEO or AUDIO.
    """
    for payload in records.payloads:
        if payload.row.modality == modality:
            return payload
    if modality == VIDEO:
        return Stored(
            "jpeg",
            PAYLOADS["jpeg"],
            jpeg_frames.JpegSettings(records.jpeg_quality),
        )
    return log_mel_of(records.log_mel)


def log_mel_of(settings: log_mel.LogMelSettings) -> Stored:
    """The log-mel of these settings."""
    return Stored("log_mel", PAYLOADS["log_mel"], settings)


def num_items(records: Describes, num_frames: int) -> int:
    """Items that hold so many frames."""
    video = stored(records, VIDEO)
    return math.ceil(num_frames / video.row.frames_per_item(video.settings))


def keys(records: Describes) -> dict[str, str]:
    """By modality the key of the list that holds it."""
    return {name: stored(records, name).row.key for name in MODALITIES}


def parse(texts: Iterable[str]) -> tuple[Stored, ...]:
    """Payloads of a flag's values, NAME or NAME:KEY=VALUE,KEY=VALUE of its settings.

    Raises:
      ValueError: names the payload, key or value that is none, or the modality that has
        two.
    """
    payloads = []
    for text in texts:
        if text in FIRST:
            continue  # stored unless another is named
        name, _, pairs = text.partition(":")
        values = dict(pair.partition("=")[::2] for pair in pairs.split(",") if pair)
        payloads.append((name, {key: _number(value) for key, value in values.items()}))
    return from_mappings(dict(payloads), key="--payload")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def from_mappings(values: Any, *, key: str = "payloads") -> tuple[Stored, ...]:
    """Payloads of the settings' values by name, which may be a stranger's.

    Args:
      values: a mapping from names to settings; a key that is missing has its default.
      key: what they are called in messages.

    Raises:
      ValueError: as parse.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{key}={repr(values)[:200]} must name payloads.")
    payloads: list[Stored] = []
    for name, settings in values.items():
        if name not in PAYLOADS or name in FIRST:
            others = ", ".join(sorted(set(PAYLOADS) - set(FIRST))) or "none"
            raise ValueError(
                f"{key}={str(name)[:200]!r} must be one of those beside the defaults "
                f"({', '.join(FIRST)}, whose settings have flags of their own): "
                f"{others}."
            )
        row, path = PAYLOADS[name], f"{key}.{name}"
        chosen: Any = typed_settings.from_mapping(
            row.settings, settings, key=path, is_partial=True
        )
        unknown = set(settings) - set(typed_settings.fields(row.settings))
        if unknown:
            raise ValueError(f"{path} has no setting {sorted(unknown)[0][:200]!r}.")
        typed_settings.check(chosen, key=path)
        payloads.append(Stored(name, row, chosen))
    modalities = [payload.row.modality for payload in payloads]
    if len(set(modalities)) < len(modalities):
        raise ValueError(f"{key}={', '.join(values)} has two payloads of a modality.")
    return tuple(payloads)


def to_mappings(payloads: Iterable[Stored]) -> dict[str, dict[str, Any]]:
    """The settings' values by name; from_mappings makes the payloads of it again."""
    return {p.name: typed_settings.to_mapping(p.settings) for p in payloads}
