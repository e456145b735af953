"""Everything that decides what is stored for a row, and what is refused."""

import math
from typing import NamedTuple

from xdc_tf.data import log_mel
from xdc_tf.data.dataset_info import order_modalities
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import AUDIO, MODALITIES, Stored


class ConversionSettings(NamedTuple):
    """What to store of a row, and its limits.

    Attributes:
      fps: frames per second to store.
      short_side: pixels of a frame's shorter side.
      jpeg_quality: 1 to 95, as libjpeg counts it.
      min_secs: shorter rows are refused.
      max_secs: longer rows are refused.
      store_waveform: keep the waveform beside its log-mel.
      log_mel: of the audio, if it is among `modalities`.
      modalities: video, audio, or both.
      keep_truncated: keep what decodes before the first error.
      max_length_ratio: how many times longer than the audio the video may be, and
        the other way; differences up to a second never count.
      max_file_mib: larger files are refused, in MiB.
      max_megapixels: files with larger frames are refused, in millions of pixels.
      max_frames: rows with more frames to decode are refused, whatever is stored.
      payloads: what is stored in place of JPEG images or log-mel, see data.payloads.
    """

    fps: float = 30.0
    short_side: int = 256
    jpeg_quality: int = 90
    min_secs: float = 0.5
    max_secs: float = 300.0
    store_waveform: bool = False
    log_mel: LogMelSettings = LogMelSettings()
    modalities: tuple[str, ...] = MODALITIES
    keep_truncated: bool = False
    max_length_ratio: float = 2.0
    max_file_mib: float = 16384.0
    max_megapixels: float = 40.0
    max_frames: int = 100_000
    payloads: tuple[Stored, ...] = ()


def validate(settings: ConversionSettings) -> None:
    """Checks settings.

    Raises:
      ValueError: names the setting, its value and the remedy.
    """
    modalities = order_modalities(settings.modalities)
    if settings.store_waveform and AUDIO not in modalities:
        raise ValueError(
            f"store_waveform needs sound, and modalities={','.join(modalities)} leaves "
            "it out; add audio to modalities or drop store_waveform."
        )
    for payload in settings.payloads:
        if payload.row.modality not in modalities:
            raise ValueError(
                f"payload={payload.name} holds {payload.row.modality}, which "
                f"modalities={','.join(modalities)} leaves out; add it to modalities "
                "or drop the payload."
            )
    log_mel.validate(settings.log_mel)
    for name in (
        *("fps", "short_side", "max_secs", "max_file_mib", "max_megapixels"),
        "max_frames",
    ):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}.")
    if not 1 <= settings.jpeg_quality <= 95:
        raise ValueError(
            f"jpeg_quality must be from 1 to 95, got {settings.jpeg_quality}."
        )
    if not settings.max_length_ratio >= 1:
        raise ValueError(
            f"max_length_ratio must be 1 or more, got {settings.max_length_ratio}."
        )
    if not 0 <= settings.min_secs <= settings.max_secs:
        raise ValueError(
            f"need 0 <= min_secs <= max_secs, got min_secs={settings.min_secs}, "
            f"max_secs={settings.max_secs}."
        )
