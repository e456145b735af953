"""Where the encoders to be evaluated come from: a run, an export, or nowhere.

All come down to a TrainedRun, which says what the encoders take, and to the encoders.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from xdc_tf.data import payloads
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.payloads import AUDIO, Stored
from xdc_tf.models import encoder_table
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import files, json_files, workdir
from xdc_tf.training import configuration, supervision, trained_run
from xdc_tf.training.configuration import Config
from xdc_tf.training.trained_run import TrainedRun

PRETRAINED, INITIAL, SCRATCH = "pretrained", "initial", "scratch"
EXPORT_CARD = "export.json"


class Source(NamedTuple):
    """Encoders to be evaluated.

    Attributes:
      run: what the encoders take; of scratch ones its directory is "".
      kind: PRETRAINED, INITIAL (as a run started) or SCRATCH (random).
      seed: of the run, or of the random weights.
    """

    run: TrainedRun
    kind: str
    seed: int

    @property
    def method(self) -> str:
        """The pretraining method, or the kind where nothing was pretrained."""
        return self.run.config.method if self.kind == PRETRAINED else self.kind


def open_source(directory: str, *, initial: bool = False) -> Source:
    """Opens a work directory (of a run, or of imported weights) or an export.

    Raises:
      FileNotFoundError: if the directory is neither.
      ValueError: on a card or configuration that cannot be read; or if initial
        encoders are asked for where there are none.
    """
    card = os.path.join(directory, EXPORT_CARD)
    if os.path.exists(os.path.join(directory, workdir.CONFIG_FILE)):
        run = trained_run.open_run(directory)
    elif os.path.exists(card):
        run = _open_export(directory, card)
    else:
        raise FileNotFoundError(
            f"{directory} holds neither a run nor an export, no {workdir.CONFIG_FILE} "
            f"and no {EXPORT_CARD}; make a run with python -m xdc_tf.cli.pretrain."
        )
    if initial and run.info is None:
        raise ValueError(
            f"{directory} has no encoders from before its training; take a run's work "
            "directory, or scratch ones."
        )
    kind = INITIAL if initial else PRETRAINED
    return Source(run, kind, run.config.seed)


def check_streams(source: Source, streams: Sequence[str]) -> tuple[str, ...]:
    """The streams that are asked for, in the run's order; all of them for none.

    Raises:
      ValueError: the run has no such stream.
    """
    unknown = [stream for stream in streams if stream not in source.run.streams]
    if unknown:
        raise ValueError(
            f"--streams={unknown} are none of {list(source.run.streams)}, the encoders "
            f"of {source.run.directory or 'the configuration'}."
        )
    return tuple(s for s in source.run.streams if not streams or s in streams)


def scratch_source(config: Config | Mapping[str, Any], info: DatasetInfo) -> Source:
    """Random encoders of a configuration, one for each modality that records hold.

    Args:
      config: of a run; see configuration.from_mapping.
      info: of the records to train on, whose log-mel statistics count.
    """
    config = configuration.from_mapping(config)
    return Source(
        TrainedRun(
            directory="",
            config=config,
            stored_config=configuration.to_mapping(config),
            streams={modality: modality for modality in info.modalities},
            architectures=configuration.architectures(config),
            clip=configuration.clip(config, info),
            audio=configuration.audio_payload(config, info),
            info=info,
        ),
        SCRATCH,
        config.seed,
    )


def load_encoder(
    source: Source, stream: str, clip: ClipSettings | None = None
) -> keras.Model:
    """A stream's encoder, as files hold it: float32, with local batch norm.

    Args:
      source: of the encoder.
      stream: its name.
      clip: that the encoder will see; None for that of the run.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if this Keras cannot open it, or it cannot see such a clip.
    """
    run = source.run
    architecture = run.architectures[run.streams[stream]]
    layers = configuration.portable_layers(run.config)
    number = list(run.streams).index(stream)
    layers = layers._replace(seed=source.seed + 7919 * number)
    name = f"{stream}_encoder"
    clip = clip or run.clip
    if source.kind == SCRATCH:
        return encoder_table.build(architecture, layers, name, clip)
    encoder = trained_run.load_encoder(run, stream, initial=source.kind == INITIAL)
    if clip == run.clip:
        return encoder
    other = encoder_table.build(architecture, layers, name, clip)
    encoder_table.copy_weights(architecture, encoder, other)
    return other


def encoder_path(source: Source, stream: str) -> str:
    """The file of a stream's encoder; "" for a scratch one."""
    if source.kind == SCRATCH:
        return ""
    return workdir.encoder_file(
        source.run.directory, stream, initial=source.kind == INITIAL
    )


def describe(source: Source, stream: str) -> dict[str, Any]:
    """What a report says of an encoder: its origin and its hash."""
    path = encoder_path(source, stream)
    return {
        "kind": source.kind,
        "method": source.method,
        "seed": source.seed,
        "directory": source.run.directory,
        "encoder_sha256": files.sha256(path) if path else None,
    }


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
