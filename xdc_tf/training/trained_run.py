"""What a work directory offers to those who use its encoders."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from xdc_tf.data import dataset_info
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.payloads import Stored
from xdc_tf.labels import label_tables
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.models import encoder_files, encoder_table
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import configuration, supervision
from xdc_tf.training.configuration import Config

# Of released networks' clips, 32 frames of 224 pixels, so many take a few GB.
_IMPORTED_BATCH_SIZE = 16


class TrainedRun(NamedTuple):
    """A run, or imported weights, in a work directory.

    Attributes:
      directory: the work directory.
      config: its configuration; where keys were missing, their defaults.
      stored_config: as its file has it; imported weights have part of the keys.
      streams: name of each encoder -> the modality it sees.
      architectures: of the encoders, by modality.
      clip: what the encoders were trained on.
      audio: what the encoders of audio take.
      info: of the records that they were trained on; None for imported weights.
    """

    directory: str
    config: Config
    stored_config: Mapping[str, Any]
    streams: dict[str, str]
    architectures: dict[str, EncoderSettings]
    clip: ClipSettings
    audio: Stored
    info: DatasetInfo | None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the encoders see, each once."""
        return tuple(dict.fromkeys(self.streams.values()))

    @property
    def batch_size(self) -> int:
        """Clips per batch when features are extracted; as in the run, if it was one."""
        if not supervision.method(self.config.method).supervision:
            return _IMPORTED_BATCH_SIZE
        return self.config.features.batch_size


class FinalClusters(NamedTuple):
    """Clusters of the features of a run's finished encoders.

    Attributes:
      round_index: the round whose label table holds them.
      clusterings: by label source.
    """

    round_index: int
    clusterings: dict[str, Clustering]


def open_run(directory: str) -> TrainedRun:
    """Reads what a work directory says about its encoders.

    Raises:
      FileNotFoundError: if the directory holds no run.
      ValueError: on a configuration that cannot be read.
    """
    stored = run_directory.read_config(directory)
    config = configuration.of_encoders_file(
        stored, os.path.join(directory, run_directory.CONFIG_FILE)
    )
    records = os.path.join(directory, run_directory.RECORDS_DIR)
    method = supervision.method(config.method)
    info = None
    if method.supervision:
        info = dataset_info.read_dataset_info(records)
    return TrainedRun(
        directory=directory,
        config=config,
        stored_config=stored,
        streams=dict(method.streams),
        architectures=configuration.architectures(config),
        clip=configuration.clip(config, info),
        audio=configuration.audio_payload(config, info),
        info=info,
    )


def load_encoders(run: TrainedRun, *, initial: bool = False) -> dict[str, keras.Model]:
    """The encoders by stream: as trained, or as the run started from.

    Raises:
      FileNotFoundError, ValueError: see load_encoder.
    """
    return {
        stream: load_encoder(run, stream, initial=initial) for stream in run.streams
    }


def load_encoder(run: TrainedRun, stream: str, *, initial: bool = False) -> keras.Model:
    """A stream's encoder, float32 and with local batch norm.

    Raises:
      FileNotFoundError: if the run has not finished a round.
      ValueError: if the file does not hold the encoder of the run's configuration.
    """
    modality = run.streams[stream]
    return encoder_files.load_encoder(
        run_directory.encoder_file(run.directory, stream, initial=initial),
        run.architectures[modality],
        configuration.portable_layers(run.config),
        name=f"{stream}_encoder",
        clip=run.clip,
    )


def load_heads(run: TrainedRun, stream: str) -> dict[str, Head]:
    """The heads on a stream's encoder, by the source of their labels."""
    encoder = run.architectures[run.streams[stream]]
    return encoder_files.load_heads(
        run_directory.heads_file(run.directory, stream),
        num_features=encoder_table.num_features(encoder),
    )


def final_clusters(run: TrainedRun) -> FinalClusters:
    """The clusters that were made of the features of the encoders as they are now.

    Raises:
      FileNotFoundError: if there are none: the method does not cluster, or the run was
        cut between a round's training and the next clustering.
    """
    present = {
        stream: files.sha256(run_directory.encoder_file(run.directory, stream))
        for stream in run.streams
    }
    for round_index, round_dir in reversed(run_directory.round_dirs(run.directory)):
        made_of = label_tables.read_settings(round_dir).get("encoders_sha256")
        if made_of == present:
            table = label_tables.read(round_dir)
            return FinalClusters(round_index, table.clusterings)
    raise FileNotFoundError(
        f"{run.directory} has no clusters of its present encoders "
        f"(method {run.config.method}); finish the run with "
        "python -m xdc_tf.cli.pretrain, or use one of a method that clusters."
    )
