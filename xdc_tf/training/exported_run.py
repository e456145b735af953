"""What a work directory or an export offers to those who use its encoders."""

import os
from collections.abc import Mapping
from typing import Any

from xdc_tf.data import payloads
from xdc_tf.data.payloads import AUDIO, Stored
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import json_files, workdir
from xdc_tf.training import configuration, supervision, trained_run
from xdc_tf.training.trained_run import TrainedRun

EXPORT_CARD = "export.json"


def open_directory(directory: str) -> TrainedRun:
    """Opens a work directory, of a run or of imported weights, or an export.

    Raises:
      FileNotFoundError: if the directory is neither.
      ValueError: on a card or configuration that cannot be read.
    """
    card = os.path.join(directory, EXPORT_CARD)
    if os.path.exists(os.path.join(directory, workdir.CONFIG_FILE)):
        return trained_run.open_run(directory)
    if os.path.exists(card):
        return _open_export(directory, card)
    raise FileNotFoundError(
        f"{directory} holds neither a run nor an export, no {workdir.CONFIG_FILE} "
        f"and no {EXPORT_CARD}; make a run with python -m xdc_tf.cli.pretrain."
    )


def _open_export(directory: str, card: str) -> TrainedRun:
    values = _read_card(card)
    config = configuration.of_encoders_file(values["config"], card)
    streams = dict(supervision.method(config.method).streams)
    encoders = values["encoders"]
    if set(encoders) != {f"{stream}_encoder" for stream in streams}:
        raise ValueError(
            f"{card} lists the encoders {sorted(encoders)!a}, and those of "
            f"config.method={config.method} are {sorted(streams)}; export again."
        )
    audio = payloads.log_mel_of(config.log_mel)
    for stream, modality in streams.items():
        audio = _payload(encoders, stream, modality, card) or audio
    clip = configuration.clip(config, None, audio)
    for stream, modality in streams.items():
        clip = clip._replace(**_statistics(encoders, stream, modality, card))
    return TrainedRun(
        directory=directory,
        config=config,
        stored_config=values["config"],
        streams=streams,
        architectures=configuration.architectures(config),
        clip=clip,
        audio=audio,
        info=None,
    )


def _read_card(card: str) -> dict[str, Any]:
    """The card with its encoders and configuration, each a mapping."""
    try:
        return json_files.check(
            json_files.read_object(card),
            {"encoders": json_files.is_object, "config": json_files.is_object},
            EXPORT_CARD,
        )
    except ValueError as error:
        raise ValueError(
            f"{card} cannot be read as the card of an export ({error}); export again."
        ) from error


def _payload(
    encoders: Mapping[str, Any], stream: str, modality: str, card: str
) -> Stored | None:
    """What an encoder of audio takes, if the card says that it is not the log-mel."""
    described = encoders[f"{stream}_encoder"]
    contract = described.get("input") if isinstance(described, dict) else None
    if modality != AUDIO or not isinstance(contract, dict) or "payload" not in contract:
        return None
    try:
        return payloads.from_mappings(contract["payload"])[0]
    except (IndexError, ValueError) as error:
        raise ValueError(f"{card}: {error} Export again.") from error


def _statistics(
    encoders: Mapping[str, Any], stream: str, modality: str, card: str
) -> dict[str, Any]:
    """By field of ClipSettings what the card says of the data of an encoder."""
    statistics = MODALITIES[modality].statistics
    values = {}
    try:
        for name, (field, range_) in statistics.items():
            value = values[field] = encoders[f"{stream}_encoder"]["input"][name]
            if not range_.fits(value):
                raise ValueError(f"{name}={value!r} must be {range_}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{card} has no {' and '.join(statistics)} of the {modality} for "
            f"{stream}_encoder ({error}); export again."
        ) from error
    return values
