"""Where the encoders to be evaluated come from: a run, an export, or nowhere.

All come down to a TrainedRun, which says what the encoders take, and to the encoders.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.models import encoder_table
from xdc_tf.runtime import files, workdir
from xdc_tf.training import configuration, exported_run, trained_run
from xdc_tf.training.configuration import Config
from xdc_tf.training.trained_run import TrainedRun

PRETRAINED, INITIAL, SCRATCH = "pretrained", "initial", "scratch"


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
    run = exported_run.open_directory(directory)
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
